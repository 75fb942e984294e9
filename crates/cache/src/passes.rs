use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci::Name;
use rand::RngCore;

use crate::credential::{Claim, Credential};

/// The user name of all passes.
const USERNAME: &str = "larder-prefetch";
/// What the password of a pass begins with.
const PREFIX: &str = "once-";

/// One-time passwords by which a container runtime that larder has told to pull something shows that it does so for ImageCaches.
#[derive(Clone, Debug, Default)]
pub(crate) struct Passes(Arc<Mutex<HashMap<String, Issued>>>);

#[derive(Debug)]
struct Issued {
    name: Name,
    used: Arc<AtomicBool>,
}

/// A user name and a password that are good for one repository, here and nowhere else, until this is dropped.
#[derive(Debug)]
pub struct Pass {
    passes: Passes,
    password: String,
    used: Arc<AtomicBool>,
}

/// A credential looks like a pass and is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent;

impl Passes {
    pub(crate) fn issue(&self, name: Name) -> Pass {
        let mut secret = [0; 32];
        rand::rng().fill_bytes(&mut secret);
        let password = secret.iter().fold(PREFIX.to_owned(), |text, byte| format!("{text}{byte:02x}"));
        let used = Arc::new(AtomicBool::new(false));
        self.lock().insert(password.clone(), Issued { name, used: used.clone() });
        Pass { passes: self.clone(), password, used }
    }

    /// What a credential claims. One that looks like a pass is never more than that, so that none goes to an origin.
    pub(crate) fn claim(&self, credential: Credential, name: &Name) -> Result<Claim, Spent> {
        if credential.username() != USERNAME || !credential.password().starts_with(PREFIX) {
            return Ok(Claim::Credential(credential));
        }
        match self.lock().get(credential.password()) {
            Some(issued) if issued.name == *name => {
                issued.used.store(true, Ordering::Relaxed);
                Ok(Claim::Prefetch)
            }
            _ => Err(Spent),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Issued>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// Its user name.
    pub fn username(&self) -> &'static str {
        USERNAME
    }

    /// Its password, for the runtime on this machine only.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Whether it was shown: runtimes do so only when they are asked for a credential.
    pub fn was_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.passes.lock().remove(&self.password);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_good_for_its_repository_and_time() {
        let passes = Passes::default();
        let (app, db) = (Name::parse("up.test/app").unwrap(), Name::parse("up.test/db").unwrap());
        let pass = passes.issue(app.clone());
        let shown = Credential::new(pass.username(), pass.password());
        assert!(!pass.was_used());
        assert_eq!(passes.claim(shown.clone(), &db), Err(Spent));
        assert!(!pass.was_used(), "nobody asked for what it is for");
        assert_eq!(passes.claim(shown.clone(), &app), Ok(Claim::Prefetch));
        assert!(pass.was_used());
        drop(pass);
        assert_eq!(passes.claim(shown, &app), Err(Spent));
        let guess = Credential::new(USERNAME, "once-0123");
        assert_eq!(passes.claim(guess, &app), Err(Spent));
        for own in [Credential::new(USERNAME, "s3cret"), Credential::new("me", "once-more")] {
            assert_eq!(passes.claim(own.clone(), &app), Ok(Claim::Credential(own)), "somebody's own");
        }
    }
}
