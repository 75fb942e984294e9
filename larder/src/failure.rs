use std::fmt;
use std::process::ExitCode;

/// Why a command did not do what it was asked for, as far as scripts need to tell.
pub enum Failure {
    /// The command line or the configuration is wrong. Exit code 2, as clap's own.
    Usage(String),
    /// Something went wrong on the way. Exit code 1.
    Runtime(anyhow::Error),
}

impl Failure {
    pub fn code(&self) -> ExitCode {
        match self {
            Failure::Usage(_) => ExitCode::from(2),
            Failure::Runtime(_) => ExitCode::from(1),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(text) => f.write_str(text),
            Failure::Runtime(error) => write!(f, "larder: {error:#}"),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Runtime(error)
    }
}
