use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cache::Request;

/// Most addresses that are remembered. At 64 bytes each, the table stays below 1 MiB.
const ADDRESSES: usize = 8192;

/// Most credentials that are remembered as accepted.
const ACCEPTED: usize = 8192;

/// Slows down who tries credentials: each address has a bucket of refusals that fills by one a second. Many clients may share an
/// address, so who was accepted before does not wait for those who guess.
pub(crate) struct Throttle {
    burst: u32,
    /// Fingerprints of credentials with the repositories that they were accepted for: where anybody is accepted, a guess is
    /// no less a guess elsewhere.
    accepted: Mutex<HashSet<u64>>,
    keys: RandomState,
    known: AtomicUsize,
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    spent: f64,
    at: Instant,
}

impl Bucket {
    fn spent(&self, now: Instant) -> f64 {
        (self.spent - now.saturating_duration_since(self.at).as_secs_f64()).max(0.0)
    }
}

impl Throttle {
    pub(crate) fn new(burst: u32) -> Throttle {
        Throttle {
            burst,
            accepted: Mutex::default(),
            keys: RandomState::new(),
            known: AtomicUsize::new(0),
            buckets: Mutex::default(),
        }
    }

    /// How long an address has to wait before its next credential is looked at.
    pub(crate) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        if self.known.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let over = buckets.get(&whose(address))?.spent(now) + 1.0 - f64::from(self.burst);
        (over > 0.0).then(|| Duration::from_secs_f64(over))
    }

    /// As [`Throttle::wait`], for a request that can be read.
    pub(crate) fn wait_for(&self, address: IpAddr, request: &Request, now: Instant) -> Option<Duration> {
        let claim = request.claim.as_ref()?;
        let wait = self.wait(address, now)?;
        let fingerprint = self.keys.hash_one((claim, &request.name));
        let accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner).contains(&fingerprint);
        (!accepted).then_some(wait)
    }

    /// The credential of a request was good for it.
    pub(crate) fn accepted(&self, request: &Request) {
        let Some(claim) = &request.claim else { return };
        let fingerprint = self.keys.hash_one((claim, &request.name));
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        if accepted.len() >= ACCEPTED && !accepted.contains(&fingerprint) {
            accepted.clear();
        }
        accepted.insert(fingerprint);
    }

    /// An address sent a credential that was refused.
    pub(crate) fn refused(&self, address: IpAddr, now: Instant) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let address = whose(address);
        if buckets.len() >= ADDRESSES && !buckets.contains_key(&address) {
            buckets.retain(|_, bucket| bucket.spent(now) > 0.0);
            // All of them are at it: the least busy half is let off.
            if buckets.len() >= ADDRESSES {
                let mut spent: Vec<f64> = buckets.values().map(|bucket| bucket.spent(now)).collect();
                let (_, &mut median, _) = spent.select_nth_unstable_by(ADDRESSES / 2, f64::total_cmp);
                buckets.retain(|_, bucket| bucket.spent(now) > median);
            }
        }
        let bucket = buckets.entry(address).or_insert(Bucket { spent: 0.0, at: now });
        *bucket = Bucket { spent: (bucket.spent(now) + 1.0).min(f64::from(self.burst)), at: now };
        self.known.store(buckets.len(), Ordering::Relaxed);
    }
}

/// A host has one IPv4 address, but 2^64 IPv6 addresses.
fn whose(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_after_the_burst_and_lets_one_through_a_second() {
        let (throttle, start) = (Throttle::new(3), Instant::now());
        let guesser: IpAddr = "192.0.2.1".parse().unwrap();
        for _ in 0..3 {
            assert_eq!(throttle.wait(guesser, start), None);
            throttle.refused(guesser, start);
        }
        assert_eq!(throttle.wait(guesser, start), Some(Duration::from_secs(1)));
        assert_eq!(throttle.wait("192.0.2.2".parse().unwrap(), start), None);
        assert_eq!(throttle.wait(guesser, start + Duration::from_secs(1)), None);
        throttle.refused(guesser, start + Duration::from_secs(1));
        assert!(throttle.wait(guesser, start + Duration::from_secs(1)).is_some());
    }

    #[test]
    fn who_was_accepted_does_not_wait_for_those_who_guess() {
        let (throttle, now) = (Throttle::new(1), Instant::now());
        let address: IpAddr = "127.0.0.1".parse().unwrap();
        let request = |name: &str, password: &str| Request {
            name: oci::Name::parse(name).unwrap(),
            claim: Some(cache::Claim::Credential(cache::Credential::new("me", password))),
        };
        let (good, guess) = (request("a.test/private", "right"), request("a.test/private", "guess"));
        throttle.accepted(&good);
        // Anybody may have the public one.
        throttle.accepted(&request("a.test/public", "guess"));
        throttle.refused(address, now);
        assert_eq!(throttle.wait_for(address, &good, now), None);
        assert!(throttle.wait_for(address, &guess, now).is_some());
        assert_eq!(throttle.wait_for(address, &Request { claim: None, ..guess }, now), None);
    }

    #[test]
    fn one_network_is_one_client() {
        let (throttle, now) = (Throttle::new(1), Instant::now());
        throttle.refused("2001:db8::1".parse().unwrap(), now);
        assert!(throttle.wait("2001:db8::ffff".parse().unwrap(), now).is_some());
        assert!(throttle.wait("2001:db8:0:1::1".parse().unwrap(), now).is_none());
        throttle.refused("::ffff:192.0.2.1".parse().unwrap(), now);
        assert!(throttle.wait("192.0.2.1".parse().unwrap(), now).is_some());
    }

    #[test]
    fn remembers_a_bounded_number() {
        let (throttle, now) = (Throttle::new(5), Instant::now());
        let busy: IpAddr = "10.255.0.1".parse().unwrap();
        for _ in 0..5 {
            throttle.refused(busy, now);
        }
        for n in 0..3 * ADDRESSES as u32 {
            throttle.refused(IpAddr::V4((0x0a00_0000 + n).into()), now);
        }
        assert!(throttle.buckets.lock().unwrap().len() <= ADDRESSES);
        assert!(throttle.wait(busy, now).is_some(), "who has spent most is remembered");
    }
}
