use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use peers::{Ca, Leaf, MintError, Minted, Request, Role};
use serde::Serialize;

use crate::cli::CertsArgs;
use crate::failure::Failure;
use crate::process;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Runs `larder certs`.
pub fn run(args: &CertsArgs) -> Result<ExitCode, Failure> {
    process::keep_files_private();
    let of = |role| move |name: &String| Leaf { name: name.clone(), role };
    let registries = args.registry.iter().map(of(Role::Registry));
    let controllers = args.controller.iter().map(of(Role::Controller));
    let leaves: Vec<Leaf> = args.nodes.iter().map(of(Role::Node)).chain(registries).chain(controllers).collect();
    if leaves.is_empty() {
        return Err(Failure::Usage("whose certificates? Name the nodes, or a registry with --registry".into()));
    }
    let request = Request {
        dir: args.dir.clone(),
        leaves,
        validity: DAY * args.days,
        ca_validity: DAY * args.ca_days,
        force: args.force,
    };
    let minted = peers::mint(&request, SystemTime::now()).map_err(|error| match error {
        MintError::Name(_) | MintError::Twice(_) | MintError::Validity => Failure::Usage(error.to_string()),
        MintError::Exists(path) => Failure::Runtime(anyhow::anyhow!(
            "{} is there: nothing was made; --force replaces certificates, never the authority",
            path.display()
        )),
        other => Failure::Runtime(other.into()),
    })?;
    args.output.print(&report(&minted), || table(&minted))?;
    Ok(ExitCode::SUCCESS)
}

/// For people.
fn table(minted: &Minted) -> String {
    let new = if minted.ca == Ca::New { "new" } else { "as before" };
    let (cert, key) = (minted.ca_cert.display(), minted.ca_key.display());
    let mut lines = vec![format!("authority    {cert} ({new}); keep {key} in a safe place")];
    for (leaf, files, until) in &minted.leaves {
        let folder = files.cert.parent().unwrap_or(Path::new("."));
        let good = days(*until);
        lines.push(format!("{:<12} {}, {}, good for {good} days", leaf.name, folder.display(), leaf.role));
    }
    let of = |role| minted.leaves.iter().any(|(leaf, ..)| leaf.role == role);
    if of(Role::Node) {
        lines.push("copy the folder of each node to /etc/larder/peers of its machine".to_owned());
    }
    if of(Role::Registry) {
        lines.push("copy the folder of each registry to /etc/larder/registry of its machine".to_owned());
    }
    if of(Role::Controller) {
        lines.push("copy the folder of each controller to where controller.registry_certificates says".to_owned());
    }
    lines.push("whoever runs there takes new files within ten seconds".to_owned());
    lines.into_iter().map(|line| line + "\n").collect()
}

fn days(until: SystemTime) -> u64 {
    let left = until.duration_since(SystemTime::now()).unwrap_or_default();
    (left.as_secs() + 3600) / DAY.as_secs()
}

#[derive(Serialize)]
struct Report<'a> {
    authority: &'a Path,
    authority_key: &'a Path,
    authority_is_new: bool,
    certificates: Vec<Certificate<'a>>,
}

#[derive(Serialize)]
struct Certificate<'a> {
    name: &'a str,
    role: &'static str,
    cert: &'a Path,
    key: &'a Path,
    ca: &'a Path,
    /// Seconds since 1970.
    not_after: u64,
}

fn report(minted: &Minted) -> Report<'_> {
    let certificates = minted.leaves.iter().map(|(leaf, files, until)| Certificate {
        name: &leaf.name,
        role: leaf.role.dns_name(),
        cert: &files.cert,
        key: &files.key,
        ca: &files.ca,
        not_after: until.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
    });
    Report {
        authority: &minted.ca_cert,
        authority_key: &minted.ca_key,
        authority_is_new: minted.ca == Ca::New,
        certificates: certificates.collect(),
    }
}
