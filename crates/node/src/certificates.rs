use std::io;
use std::path::Path;
use std::time::SystemTime;

use peers::{Files, Identity, IdentityError, Role};

use crate::clock::about;
use crate::{Finding, Severity};

const MAKE: &str = "Make one with `larder certs` and copy its folder here.";

/// All that is to be said of the certificate by which a node called `name` is known to others, from `tls.crt`, `tls.key` and
/// `ca.crt` in a folder; and the certificate, if it is of any use. `now` is the time of this machine.
///
/// Reads files: not for a thread that serves.
pub fn examine_certificates(folder: &Path, name: &str, now: SystemTime) -> (Option<Identity>, Vec<Finding>) {
    let identity = match Identity::load(Files::in_folder(folder)) {
        Ok(identity) => identity,
        Err(error) => return (None, vec![useless(&error)]),
    };
    let shown = folder.join("tls.crt");
    let shown = shown.display();
    if !identity.roles().contains(&Role::Node) {
        let what = format!("the certificate in {shown} is not one of a node, so no other node believes it");
        return (None, vec![Finding::new(Severity::Error, "certificate-role", what, MAKE)]);
    }
    let mut findings = Vec::new();
    let expiry = identity.expiry();
    if let Ok(until) = expiry.begins.duration_since(now)
        && !until.is_zero()
    {
        findings.push(Finding::new(
            Severity::Warning,
            "certificate-not-yet-valid",
            format!("the certificate in {shown} becomes good only in {}", about(until.as_secs() as i64)),
            "The clock of this machine is probably behind, or was ahead on the one where the certificate was made: let both \
             keep time by NTP (chrony, systemd-timesyncd). Until then nothing is shared with other nodes.",
        ));
    }
    match expiry.certificate.duration_since(now) {
        Err(past) => findings.push(Finding::new(
            Severity::Warning,
            "certificate-expired",
            format!("the certificate in {shown} expired {} ago", about(past.duration().as_secs() as i64)),
            "Make a new one with `larder certs --force` and copy its folder here; a running agent takes it within ten \
             seconds. Until then nothing is shared with other nodes.",
        )),
        // Certificates that others renew are replaced long before the last tenth of their time.
        Ok(left) if left < expiry.certificate.duration_since(expiry.begins).unwrap_or_default() / 10 => {
            findings.push(Finding::new(
                Severity::Warning,
                "certificate-ends-soon",
                format!("the certificate in {shown} expires in {}", about(left.as_secs() as i64)),
                "Make a new one with `larder certs --force` and copy its folder here; a running agent takes it within ten \
                 seconds.",
            ));
        }
        Ok(_) => {}
    }
    if let Some(called) = identity.name()
        && called != name
        && Role::ALL.iter().all(|role| role.dns_name() != called)
        // A name that is too long for a certificate is cut there.
        && !(called.len() == 64 && name.starts_with(&called))
    {
        findings.push(Finding::new(
            Severity::Info,
            "certificate-name",
            format!("the certificate in {shown} was made for {called:?}, and this node is called {name:?}"),
            "Nodes believe each other whatever their certificates are called; but see that no two share one, so that \
             it can be told who has which, or set `name` in [node.peers].",
        ));
    }
    (Some(identity), findings)
}

fn useless(error: &IdentityError) -> Finding {
    let (code, remedy) = match error {
        IdentityError::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            ("certificate-missing", MAKE)
        }
        IdentityError::Unreadable { .. } => ("certificate-unreadable", "Let larder read it: it runs as root usually."),
        IdentityError::Unusable { .. } => (
            "certificate-unusable",
            "All three files belong together: copy the whole folder that `larder certs` made for this node.",
        ),
        IdentityError::Unbelievable { .. } => (
            "certificate-not-believed",
            "The authority in ca.crt must have signed it for a node: copy the whole folder that `larder certs` made for \
             this node with the authority of all others.",
        ),
    };
    Finding::new(Severity::Error, code, error.to_string(), remedy)
}
