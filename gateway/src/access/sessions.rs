//! Who is signed in by a browser. In memory: whoever restarts the gateway signs everybody out.

use super::Caller;
use data_encoding::BASE64URL_NOPAD;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::time::Instant;

/// A session that was not used for so long is over (ASVS 3.3.2 asks for at most 12 h of use and 30 min without).
pub const IDLE: Duration = Duration::from_secs(30 * 60);
/// A session is over after so long, used or not.
pub const LONGEST: Duration = Duration::from_secs(12 * 3600);
/// Sessions in all; the one that was not used for the longest time makes way. Some thousand bytes each.
const MOST: usize = 4096;

/// What names a session to its browser: 256 random bits. Only its hash is kept.
pub struct Secret(String);

impl Secret {
    fn random() -> Secret {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the operating system has a random source");
        Secret(BASE64URL_NOPAD.encode(&bytes))
    }

    /// For the cookie, and for nothing else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

struct Session {
    caller: Caller,
    must_change: bool,
    begun: Instant,
    used: Instant,
}

/// A session as a request sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Who.
    pub caller: Caller,
    /// What each request that changes something must carry, so that no other page can make it.
    pub csrf: String,
    /// The password has to be changed before anything else.
    pub must_change: bool,
}

/// Everybody who is signed in.
#[derive(Default)]
pub struct Sessions {
    all: Mutex<HashMap<[u8; 32], Session>>,
}

impl Sessions {
    /// Begins a session. Nothing of one that the browser had before is taken over.
    pub fn begin(&self, caller: Caller, must_change: bool, now: Instant) -> Secret {
        let secret = Secret::random();
        let mut all = self.lock();
        all.retain(|_, session| session.is_good(now));
        if all.len() >= MOST
            && let Some(oldest) = all.iter().min_by_key(|(_, session)| session.used).map(|(key, _)| *key)
        {
            all.remove(&oldest);
        }
        all.insert(key(&secret.0), Session { caller, must_change, begun: now, used: now });
        secret
    }

    /// The session of a cookie. Counts as use.
    pub fn of(&self, secret: &str, now: Instant) -> Option<Signed> {
        let mut all = self.lock();
        let session = all.get_mut(&key(secret)).filter(|session| session.is_good(now))?;
        session.used = now;
        let (caller, must_change) = (session.caller.clone(), session.must_change);
        Some(Signed { caller, csrf: csrf(secret), must_change })
    }

    /// Ends a session.
    pub fn end(&self, secret: &str) {
        self.lock().remove(&key(secret));
    }

    /// Ends all sessions of an account: it was changed, disabled or removed.
    pub fn end_of(&self, account: &str) {
        self.lock().retain(|_, session| session.caller.name != account);
    }
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Session>> {
        self.all.lock().expect("no thread panics while it holds the sessions")
    }
}

impl Session {
    fn is_good(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used) < IDLE && now.saturating_duration_since(self.begun) < LONGEST
    }
}

/// Whether a request carries the word of its session. Takes the same time whatever it carries.
pub fn is_from_us(signed: &Signed, carried: &str) -> bool {
    signed.csrf.as_bytes().ct_eq(carried.as_bytes()).into()
}

/// A look-up by hash takes no time that depends on how much of a secret is right.
fn key(secret: &str) -> [u8; 32] {
    *blake3::Hasher::new_derive_key("sluice 2026-11 session key").update(secret.as_bytes()).finalize().as_bytes()
}

fn csrf(secret: &str) -> String {
    let hash = blake3::Hasher::new_derive_key("sluice 2026-11 session csrf").update(secret.as_bytes()).finalize();
    BASE64URL_NOPAD.encode(&hash.as_bytes()[..24])
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sessions({})", self.lock().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_end_when_they_rest_when_they_are_old_and_when_told() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let (one, other) = (sessions.begin(Caller::command_line("li"), false, start), Secret::random());
        assert_eq!(sessions.of(other.reveal(), start), None);
        let signed = sessions.of(one.reveal(), start).unwrap();
        assert!(is_from_us(&signed, &signed.csrf) && !is_from_us(&signed, "") && !is_from_us(&signed, one.reveal()));
        let mut at = start;
        while at < start + LONGEST - IDLE {
            at += IDLE - Duration::from_secs(1);
            assert!(sessions.of(one.reveal(), at).is_some(), "it is in use");
        }
        assert_eq!(sessions.of(one.reveal(), start + LONGEST), None, "old");
        let rests = sessions.begin(Caller::command_line("li"), false, start);
        assert_eq!(sessions.of(rests.reveal(), start + IDLE), None, "not used");
        let told = sessions.begin(Caller::command_line("li"), false, start);
        sessions.end_of("wang");
        assert!(sessions.of(told.reveal(), start).is_some());
        sessions.end_of("li");
        assert_eq!(sessions.of(told.reveal(), start), None);
    }

    #[test]
    fn there_is_a_bound_and_the_one_that_rests_longest_makes_way() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let first = sessions.begin(Caller::command_line("li"), false, start);
        let second = sessions.begin(Caller::command_line("li"), false, start);
        assert!(sessions.of(first.reveal(), start + Duration::from_secs(1)).is_some());
        for _ in 0..MOST - 1 {
            sessions.begin(Caller::command_line("li"), false, start + Duration::from_secs(2));
        }
        assert!(sessions.of(first.reveal(), start + Duration::from_secs(3)).is_some());
        assert_eq!(sessions.of(second.reveal(), start + Duration::from_secs(3)), None);
    }
}
