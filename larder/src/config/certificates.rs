use std::path::Path;
use std::time::{Duration, SystemTime};

use peers::{Files, Identity, Role};

use super::section::Section;
use super::units::Span;

/// Sees that a folder has what is needed to be `role` to others. Certificates that have expired are no mistake in the
/// configuration, and new ones are taken while larder runs: they are put on a list of their own.
pub fn check(section: &Section<'_>, key: &str, folder: &Path, role: Role, expired: &mut Vec<String>) {
    let files = Files::in_folder(folder);
    match Identity::load(files.clone()) {
        Ok(identity) if !identity.roles().contains(&role) => {
            let is = identity.roles().iter().map(Role::to_string).collect::<Vec<_>>().join(", ");
            let cert = files.cert.display();
            section.problem(key, format_args!("{cert} is one of {is}, not of {role}; larder certs makes such"));
        }
        Ok(identity) => {
            let ends = identity.expiry();
            for (end, path) in [(ends.certificate, &files.cert), (ends.authority, &files.ca)] {
                if let Ok(since) = SystemTime::now().duration_since(end) {
                    let what = format!("{} expired {} ago: nobody believes it any more", path.display(), about(since));
                    expired.push(format!("{}: {what}; larder certs makes certificates", section.full(key)));
                }
            }
        }
        Err(error) => section.problem(key, format_args!("{error}; larder certs makes certificates")),
    }
}

/// A length of time in its largest unit.
fn about(time: Duration) -> Span {
    let seconds = time.as_secs();
    let unit = [24 * 3600, 3600, 60].into_iter().find(|unit| seconds >= *unit).unwrap_or(1);
    Span(Duration::from_secs(seconds - seconds % unit))
}
