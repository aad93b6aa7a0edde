//! Readiness: each component that must work keeps a [`Check`]; `/health` reports all of them.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The checks of one daemon. A clone is the same set.
#[derive(Clone, Debug, Default)]
pub struct Health {
    inner: Arc<Mutex<Checks>>,
}

#[derive(Debug, Default)]
struct Checks {
    by_name: BTreeMap<String, State>,
    begun: u64,
}

#[derive(Clone, Debug)]
struct State {
    /// Tells a check from an earlier one of the same name, whose late drop must not mark this one failed.
    number: u64,
    needed: bool,
    /// `None` when all is well.
    trouble: Option<String>,
}

/// What `/health` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReport {
    /// Whether the daemon can do its work: there is a needed check, and all needed checks are ok.
    pub ready: bool,
    /// All checks by name.
    pub checks: Vec<CheckReport>,
}

/// One line of [`HealthReport`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// What was checked.
    pub name: String,
    /// Whether it works.
    pub ok: bool,
    /// Whether readiness depends on it.
    pub needed: bool,
    /// Why it does not work; absent when it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl Health {
    /// No checks yet, so not ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// A check that the daemon's readiness depends on. It begins as failed with the reason "starting". A name that exists is taken over.
    pub fn check(&self, name: &str) -> Check {
        self.begin(name, true)
    }

    /// A check that is shown but does not count: what someone else must repair and the daemon bears, as a cut line.
    pub fn note(&self, name: &str) -> Check {
        self.begin(name, false)
    }

    /// The state of all checks now.
    pub fn report(&self) -> HealthReport {
        let checks = self.lock();
        let mut needed = checks.by_name.values().filter(|state| state.needed).peekable();
        let ready = needed.peek().is_some() && needed.all(|state| state.trouble.is_none());
        let line = |(name, state): (&String, &State)| CheckReport {
            name: name.clone(),
            ok: state.trouble.is_none(),
            needed: state.needed,
            why: state.trouble.clone(),
        };
        HealthReport { ready, checks: checks.by_name.iter().map(line).collect() }
    }

    fn begin(&self, name: &str, needed: bool) -> Check {
        let mut checks = self.lock();
        checks.begun += 1;
        let number = checks.begun;
        checks.by_name.insert(name.to_owned(), State { number, needed, trouble: Some("starting".to_owned()) });
        Check { health: self.clone(), name: name.to_owned(), number }
    }

    fn lock(&self) -> MutexGuard<'_, Checks> {
        // No code that can panic runs under the lock, and every state in it is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One component's say in [`Health`]. The component owns it: when the check is dropped, as by a panic, it stays behind as failed.
#[derive(Debug)]
#[must_use = "a dropped check counts as failed"]
pub struct Check {
    health: Health,
    name: String,
    number: u64,
}

impl Check {
    /// All is well.
    pub fn ok(&self) {
        self.set(None);
    }

    /// It does not work. `why` is for the operator: what, the cause, the next step. It is visible to whoever may ask for `/health`: no secrets.
    pub fn fail(&self, why: impl Into<String>) {
        self.set(Some(why.into()));
    }

    /// Takes the check away, because what it watched is gone on purpose, as a removed volume.
    pub fn retire(self) {
        let mut checks = self.health.lock();
        if checks.by_name.get(&self.name).is_some_and(|state| state.number == self.number) {
            checks.by_name.remove(&self.name);
        }
    }

    fn set(&self, trouble: Option<String>) {
        if let Some(state) = self.health.lock().by_name.get_mut(&self.name)
            && state.number == self.number
        {
            state.trouble = trouble;
        }
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        // After `retire` there is nothing left to mark.
        self.fail("the component has ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, needed: bool, why: Option<&str>) -> CheckReport {
        CheckReport { name: name.to_owned(), ok: why.is_none(), needed, why: why.map(str::to_owned) }
    }

    #[test]
    fn ready_means_that_all_needed_checks_are_ok() {
        let health = Health::new();
        assert!(!health.report().ready, "nothing has been checked yet");
        let line_note = health.note("line");
        line_note.ok();
        assert!(!health.report().ready, "a note alone proves nothing");
        let store = health.check("store");
        assert_eq!(health.report().checks, [line("line", false, None), line("store", true, Some("starting"))]);
        store.ok();
        line_note.fail("no gateway answers");
        assert!(health.report().ready, "a note does not count");
        store.fail("disk full");
        assert!(!health.report().ready);
        assert_eq!(health.report().checks[1], line("store", true, Some("disk full")));
    }

    #[test]
    fn a_name_that_is_taken_over_listens_to_the_new_check_alone() {
        let health = Health::new();
        let first = health.check("store");
        let second = health.check("store");
        second.ok();
        first.fail("late");
        drop(first);
        assert!(health.report().ready, "{:?}", health.report());
        let third = health.check("store");
        second.retire();
        assert_eq!(health.report().checks, [line("store", true, Some("starting"))]);
        third.retire();
    }

    #[test]
    fn a_component_that_ended_is_not_ready_unless_it_retired() {
        let health = Health::new();
        let (store, volume) = (health.check("store"), health.check("volume"));
        store.ok();
        volume.ok();
        volume.retire();
        assert_eq!(health.report(), HealthReport { ready: true, checks: vec![line("store", true, None)] });
        drop(store);
        assert_eq!(health.report().checks, [line("store", true, Some("the component has ended"))]);
    }
}
