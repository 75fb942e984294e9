use std::fmt;
use std::time::SystemTime;

use peers::{Authority, AuthorityError, Certificate, Leaf};

use crate::standing::{CERT, Data, HOLDERS, Held, Holder, KEY, NEXT, SIGNER, Standing, TRUSTED, is_good};
use crate::terms::Terms;

/// What the Secrets shall hold. The authority's comes first: a key that is lost cannot sign again.
pub struct Plan {
    /// The authority's.
    pub authority: Data,
    /// Those of [`HOLDERS`], each with the moment since when it has told its holder whom to believe.
    pub holders: [(Data, SystemTime); HOLDERS.len()],
    /// What is new about it.
    pub steps: Vec<Step>,
}

/// A change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is an authority that will sign, once all believe it.
    Announced,
    /// An authority signs from now on.
    TookOver,
    /// A holder, by its name, has a new certificate.
    Renewed(&'static str),
    /// An authority is believed no longer.
    Dropped,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Announced => {
                f.write_str("a new authority is there; it signs when all have believed it for long enough")
            }
            Step::TookOver => f.write_str("the new authority signs from now on"),
            Step::Renewed(name) => write!(f, "a new certificate for {name}"),
            Step::Dropped => f.write_str("an authority that signs nothing any more is believed no longer"),
        }
    }
}

/// What the Secrets shall hold at `now`.
///
/// An authority that takes over is first believed by all for [`Terms::overlap`], then signs; the one before it is believed for as long after
/// that. So whichever version of the Secrets a pod has, it believes what others show and others believe what it shows. Only
/// where a certificate is of no use any more, it is replaced at once.
///
/// # Errors
/// The cryptography fails.
pub fn plan(standing: Standing, terms: &Terms, now: SystemTime) -> Result<Plan, AuthorityError> {
    let Standing { signer, next, holders } = standing;
    let mut steps = Vec::new();
    let good = |authority: &Authority| is_good(authority.certificate(), now);
    let (mut signer, mut next) = (signer.filter(good), next.filter(good));

    if next.is_none() && signer.as_ref().is_none_or(|signer| Terms::aged(signer.certificate(), now)) {
        next = Some(Authority::make(terms.authority, now)?);
        steps.push(Step::Announced);
    }
    let ready = |next: &mut Authority| {
        let next = next.certificate();
        holders.iter().all(|holder| !holder.is_believed(now) || holder.has_trusted(next, terms.overlap, now))
    };
    if let Some(taking_over) = next.take_if(ready) {
        signer = Some(taking_over);
        steps.push(Step::TookOver);
    }

    let mut held = Vec::with_capacity(HOLDERS.len());
    for (holder, (role, name)) in holders.iter().zip(HOLDERS) {
        held.push(match (holder.staying(signer.as_ref(), now), signer.as_ref().or(next.as_ref())) {
            (Some(stays), _) => stays.clone(),
            (None, Some(by)) => {
                steps.push(Step::Renewed(name));
                // Of all of that role: it is called as they are.
                sign(by, &Leaf { name: role.dns_name().to_owned(), role }, terms, now)?
            }
            (None, None) => unreachable!("there is one that signs, or one that will"),
        });
    }

    let trusted = trusted(signer.as_ref(), next.as_ref(), &holders, &held, terms, now);
    if holders.iter().any(|holder| holder.trusted.iter().any(|before| !trusted.contains(before))) {
        steps.push(Step::Dropped);
    }
    let bundle: String = trusted.iter().map(Certificate::pem).collect();
    let data = |at: usize| {
        let holder: &Holder = &holders[at];
        let since = holder.trusted_since.filter(|_| holder.trusted == trusted).unwrap_or(now);
        let entries = [(CERT, &held[at].pem), (KEY, &held[at].key), (TRUSTED, &bundle)];
        (entries.into_iter().map(|(key, text)| (key.to_owned(), text.clone().into_bytes())).collect(), since)
    };
    Ok(Plan { authority: authority(signer.as_ref(), next.as_ref()), holders: std::array::from_fn(data), steps })
}

impl Holder {
    /// Its certificate, if that stays.
    fn staying(&self, signer: Option<&Authority>, now: SystemTime) -> Option<&Held> {
        let held = self.held.as_ref().filter(|_| self.is_believed(now))?;
        match signer {
            Some(signer) => {
                let due = Terms::aged(&held.certificate, now) || !held.certificate.signed_by(signer.certificate());
                (!due).then_some(held)
            }
            // Nobody signs that all believe.
            None => Some(held),
        }
    }
}

fn sign(by: &Authority, leaf: &Leaf, terms: &Terms, now: SystemTime) -> Result<Held, AuthorityError> {
    let until = (now + terms.certificate).min(by.certificate().until());
    let signed = by.sign(leaf, now, until)?;
    let certificate = Certificate::all(&signed.certificate).map_err(AuthorityError::Certificate)?.swap_remove(0);
    Ok(Held { certificate, pem: signed.certificate, key: signed.key })
}

/// Whom all believe: who signs and who will, and whose certificates somebody may still show.
fn trusted(
    signer: Option<&Authority>,
    next: Option<&Authority>,
    holders: &[Holder],
    held: &[Held],
    terms: &Terms,
    now: SystemTime,
) -> Vec<Certificate> {
    let mut trusted: Vec<Certificate> =
        [signer, next].into_iter().flatten().map(|authority| authority.certificate().clone()).collect();
    let still_shown = |authority: &Certificate| {
        held.iter().any(|held| {
            // A pod may have its old one for a while.
            let new = now.duration_since(held.certificate.issued()).is_ok_and(|age| age < terms.overlap);
            new || held.certificate.signed_by(authority)
        })
    };
    let mut before: Vec<&Certificate> = holders.iter().flat_map(|holder| &holder.trusted).collect();
    before.sort_by_key(|certificate| std::cmp::Reverse(certificate.issued()));
    for certificate in before {
        if is_good(certificate, now) && still_shown(certificate) && !trusted.contains(certificate) {
            trusted.push(certificate.clone());
        }
    }
    trusted
}

fn authority(signer: Option<&Authority>, next: Option<&Authority>) -> Data {
    let mut data = Data::new();
    for (authority, [certificate, key]) in [(signer, SIGNER), (next, NEXT)] {
        if let Some(authority) = authority {
            data.insert(certificate.to_owned(), authority.pem().as_bytes().to_vec());
            data.insert(key.to_owned(), authority.key_pem().into_bytes());
        }
    }
    data
}
