//! Who may see the page: tries at the PIN, and the sessions of those who knew it. Pure: it is told the time and random bytes.

use super::say::Notice;
use data_encoding::HEXLOWER;
use std::collections::HashMap;
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::time::Instant;

/// A session ends when nothing was asked in it for so long: a box in a back room, a telephone in a pocket.
pub(crate) const IDLE: Duration = Duration::from_secs(30 * 60);
/// Sessions at a time; the one that was idle longest gives way. A branch has fewer people.
const MOST_SESSIONS: usize = 32;
/// Wrong PINs in a row that cost no wait: people mistype.
const FREE: u32 = 5;
/// The longest wait. With it nobody tries more than 105,000 of 100,000,000 PINs in a year.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Counts tries at the PIN, from wherever they come: a branch's LAN, or a proxy, may share one address.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    failures: u32,
    not_before: Option<Instant>,
}

impl Throttle {
    /// Whether a PIN may be tried now; then it counts as wrong until [`Throttle::worked`]. Else: how long to wait.
    pub(crate) fn begin(&mut self, now: Instant) -> Result<(), Duration> {
        if let Some(wait) = self.not_before.map(|at| at.saturating_duration_since(now)).filter(|wait| !wait.is_zero()) {
            return Err(wait);
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FREE {
            // 2 s, 4 s, … from the fifth wrong one on.
            let wait = Duration::from_secs(2u64.saturating_pow((self.failures - FREE + 1).min(16))).min(LONGEST_WAIT);
            self.not_before = Some(now + wait);
        }
        Ok(())
    }

    /// The PIN was right.
    pub(crate) fn worked(&mut self) {
        *self = Throttle::default();
    }
}

/// What somebody sees of a session: it is not to be told from one that never was.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The value that every form of the session carries.
    pub(crate) csrf: String,
    /// What came of the last thing that was asked for; it is shown once.
    pub(crate) notice: Option<Notice>,
}

struct Session {
    csrf: String,
    pin: [u8; 16],
    used: Instant,
    notice: Option<Notice>,
}

/// All sessions, by the hash of what their cookie holds: looking one up tells nothing about the others by the time that it takes.
#[derive(Default)]
pub(crate) struct Sessions(HashMap<[u8; 32], Session>);

impl Sessions {
    /// Begins a session of those who know this PIN; returns what its cookie holds. `random` is fresh.
    pub(crate) fn begin(&mut self, pin: [u8; 16], random: [u8; 64], now: Instant) -> String {
        self.0.retain(|_, session| now.duration_since(session.used) < IDLE);
        if self.0.len() >= MOST_SESSIONS
            && let Some(oldest) = self.0.iter().min_by_key(|(_, session)| session.used).map(|(key, _)| *key)
        {
            self.0.remove(&oldest);
        }
        let (token, csrf) = random.split_at(32);
        let (token, csrf) = (HEXLOWER.encode(token), HEXLOWER.encode(csrf));
        self.0.insert(key(&token), Session { csrf, pin, used: now, notice: None });
        token
    }

    /// The session of a cookie, if there is one of the PIN of now. `is_active`: somebody asked, not a page by itself.
    pub(crate) fn find(&mut self, token: &str, pin: [u8; 16], now: Instant, is_active: bool) -> Option<Seen> {
        let key = key(token);
        let session = self.0.get_mut(&key)?;
        if now.duration_since(session.used) >= IDLE || session.pin != pin {
            self.0.remove(&key);
            return None;
        }
        if !is_active {
            return Some(Seen { csrf: session.csrf.clone(), notice: session.notice.clone() });
        }
        session.used = now;
        Some(Seen { csrf: session.csrf.clone(), notice: session.notice.take() })
    }

    /// Keeps what is to be said with the next page.
    pub(crate) fn tell(&mut self, token: &str, notice: Notice) {
        if let Some(session) = self.0.get_mut(&key(token)) {
            session.notice = Some(notice);
        }
    }

    /// Ends a session.
    pub(crate) fn end(&mut self, token: &str) {
        self.0.remove(&key(token));
    }
}

/// Whether a form belongs to the session.
pub(crate) fn is_same(one: &str, other: &str) -> bool {
    one.len() == other.len() && bool::from(one.as_bytes().ct_eq(other.as_bytes()))
}

fn key(token: &str) -> [u8; 32] {
    *blake3::hash(token.as_bytes()).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIN: [u8; 16] = [1; 16];

    fn random(seed: u8) -> [u8; 64] {
        std::array::from_fn(|at| seed.wrapping_add(at as u8))
    }

    #[tokio::test]
    async fn tries_become_ever_slower_and_a_right_pin_forgives() {
        let (mut throttle, began) = (Throttle::default(), Instant::now());
        let mut now = began;
        let mut waits = Vec::new();
        for _ in 0..16 {
            if let Err(wait) = throttle.begin(now) {
                waits.push(wait.as_secs());
                assert!(throttle.begin(now + wait - Duration::from_millis(1)).is_err());
                now += wait;
                throttle.begin(now).unwrap();
            }
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        throttle.worked();
        assert!((0..FREE).all(|_| throttle.begin(now).is_ok()) && throttle.begin(now).is_err());
        // Whoever tries without a pause for a year.
        let (mut throttle, mut now, mut tries) = (Throttle::default(), began, 0);
        while now < began + Duration::from_secs(365 * 86_400) {
            match throttle.begin(now) {
                Ok(()) => tries += 1,
                Err(wait) => now += wait,
            }
        }
        assert!(tries < 106_000, "{tries}");
    }

    #[tokio::test]
    async fn a_session_ends_by_itself_with_its_pin_and_when_asked() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let token = sessions.begin(PIN, random(0), now);
        assert_eq!(token.len(), 64);
        let half = IDLE / 2;
        assert!(sessions.find(&token, PIN, now + half, true).is_some());
        assert!(sessions.find(&token, PIN, now + 2 * half, false).is_some());
        assert!(
            sessions.find(&token, PIN, now + 3 * half, false).is_none(),
            "a page that looks by itself keeps nobody in"
        );
        let token = sessions.begin(PIN, random(1), now);
        assert!(sessions.find(&token, [2; 16], now, true).is_none(), "another PIN");
        let token = sessions.begin(PIN, random(2), now);
        sessions.end(&token);
        assert!(sessions.find(&token, PIN, now, true).is_none());
        assert!(sessions.find("", PIN, now, true).is_none());
    }

    #[tokio::test]
    async fn there_are_never_more_than_so_many() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let tokens: Vec<String> = (0..MOST_SESSIONS as u8 + 1)
            .map(|seed| sessions.begin(PIN, random(seed), now + Duration::from_secs(seed.into())))
            .collect();
        let later = now + Duration::from_secs(60);
        assert!(sessions.find(&tokens[0], PIN, later, true).is_none(), "the one idle longest gave way");
        assert!(tokens[1..].iter().all(|token| sessions.find(token, PIN, later, true).is_some()));
        assert!(is_same("ab", "ab") && !is_same("ab", "ac") && !is_same("ab", ""));
    }
}
