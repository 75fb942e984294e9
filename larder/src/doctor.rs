use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use node::{Finding, Severity};

use crate::cli::{DoctorArgs, Output};
use crate::config::Config;
use crate::failure::Failure;
use crate::logging;

/// Longer than a mirror on the same machine needs.
const PATIENCE: Duration = Duration::from_secs(3);

/// Runs `larder doctor`.
pub fn run(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let config = Config::load_node(&args.node())?;
    logging::start_plainly();
    let settings = config.node.setup(config.listen);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let runtimes = runtime.block_on(node::detect(&settings.host_root));
    let runtimes = runtimes.context("cannot look at the runtimes of this machine")?;
    let mut findings = node::examine(&settings, &runtimes);
    findings.extend(mirror(config.listen));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&findings).context("cannot write the result")?),
        Output::Table if findings.is_empty() => println!("every pull of this machine goes through larder"),
        Output::Table => findings.iter().for_each(|finding| println!("{finding}")),
    }
    let worst = findings.iter().map(|finding| finding.severity).max();
    Ok(if worst >= Some(Severity::Warning) { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// Whether somebody is at the mirror's address, and it is larder.
fn mirror(address: SocketAddr) -> Option<Finding> {
    let remedy = "Start `larder node`, or look at its log; until then runtimes pull from the origins themselves.";
    let down = |what: String| Some(Finding::new(Severity::Error, "agent-down", what, remedy));
    match ping(address) {
        Ok(head) if head.starts_with("HTTP/1.1 200 ") => None,
        Ok(head) => {
            let status = head.lines().next().unwrap_or_default();
            down(format!("Whoever listens on {address} answers {status:?}, as larder does not."))
        }
        Err(error) => down(format!("larder does not answer on {address}: {error}.")),
    }
}

fn ping(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /v2/ HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut head = [0; 512];
    let read = stream.read(&mut head)?;
    Ok(String::from_utf8_lossy(&head[..read]).into_owned())
}
