use std::path::Path;
use std::time::{Duration, SystemTime};

use peers::{Files, Identity};

use super::Role;
use super::section::Section;
use super::units::Span;

/// Whether a configuration is good only with the certificates that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificates {
    /// It is.
    Needed,
    /// They are not used, or looked at later by whoever is to say what is wrong with them.
    Examined,
}

/// Looks at the certificates that a configuration names.
pub struct Checks {
    role: Role,
    certificates: Certificates,
    expired: Vec<String>,
}

impl Checks {
    /// For a configuration of this role: those of others are not looked at.
    pub fn new(role: Role, certificates: Certificates) -> Checks {
        Checks { role, certificates, expired: Vec::new() }
    }

    /// Sees that a folder has what `user` needs to be that to others, which this program may be. Certificates that have
    /// expired are no mistake in the configuration, and new ones are taken while larder runs: they are put on a list of their
    /// own.
    pub fn check(&mut self, section: &Section<'_>, key: &str, folder: &Path, user: Role) {
        if user != self.role || self.certificates == Certificates::Examined {
            return;
        }
        let role = match user {
            Role::Node => peers::Role::Node,
            Role::Registry => peers::Role::Registry,
            // It shows none.
            Role::Controller => return,
        };
        let files = Files::in_folder(folder);
        match Identity::load(files.clone()) {
            Ok(identity) if !identity.roles().contains(&role) => {
                let is = identity.roles().iter().map(peers::Role::to_string).collect::<Vec<_>>().join(", ");
                let cert = files.cert.display();
                section.problem(key, format_args!("{cert} is one of {is}, not of {role}; larder certs makes such"));
            }
            Ok(identity) => {
                let ends = identity.expiry();
                for (end, path) in [(ends.certificate, &files.cert), (ends.authority, &files.ca)] {
                    if let Ok(since) = SystemTime::now().duration_since(end) {
                        let what =
                            format!("{} expired {} ago: nobody believes it any more", path.display(), about(since));
                        self.expired.push(format!("{}: {what}; larder certs makes certificates", section.full(key)));
                    }
                }
            }
            Err(error) => section.problem(key, format_args!("{error}; larder certs makes certificates")),
        }
    }

    /// What has expired, in words.
    pub fn into_expired(self) -> Vec<String> {
        self.expired
    }
}

/// A length of time in its largest unit.
fn about(time: Duration) -> Span {
    let seconds = time.as_secs();
    let unit = [24 * 3600, 3600, 60].into_iter().find(|unit| seconds >= *unit).unwrap_or(1);
    Span(Duration::from_secs(seconds - seconds % unit))
}
