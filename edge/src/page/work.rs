//! What was begun on the page and takes longer than an answer may: enrolling, and the line-test. One of each at a time; it goes on when the browser is closed.

use super::say::{self, Both};
use crate::Daemon;
use crate::enrol::{self, Step};
use crate::line_test::{self, LineTested};
use crate::pipeline::blocking;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;
use wire::token::Token;

/// What an enrolment is at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Enrolling {
    /// None was begun.
    #[default]
    Idle,
    /// It runs.
    Running {
        /// The step that it is at.
        step: Step,
    },
    /// The gateway has taken this edge in.
    Done {
        /// As this site.
        site: String,
    },
    /// It failed.
    Failed {
        /// Why, with the next step.
        why: Both,
        /// What the program itself says.
        detail: String,
    },
}

/// What a line-test is at.
#[derive(Clone, Debug, Default)]
pub(crate) enum Testing {
    /// None was made since the daemon started.
    #[default]
    Never,
    /// It runs.
    Running,
    /// It found this.
    Done {
        /// What.
        found: LineTested,
        /// When.
        at: Instant,
    },
    /// It failed.
    Failed {
        /// Why.
        why: Both,
        /// What the program itself says.
        detail: String,
    },
}

/// What goes on. Clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Work(Arc<Inner>);

#[derive(Default)]
struct Inner {
    enrolling: Mutex<Enrolling>,
    testing: Mutex<Testing>,
}

impl Work {
    /// What an enrolment is at.
    pub(crate) fn enrolling(&self) -> Enrolling {
        lock(&self.0.enrolling).clone()
    }

    /// What the line-test is at.
    pub(crate) fn testing(&self) -> Testing {
        lock(&self.0.testing).clone()
    }

    /// Begins to enrol, unless that runs already.
    pub(crate) fn enrol(&self, daemon: &Daemon, token: Token) {
        {
            let mut enrolling = lock(&self.0.enrolling);
            if matches!(*enrolling, Enrolling::Running { .. }) {
                return;
            }
            *enrolling = Enrolling::Running { step: Step::Key };
        }
        let (work, stop, config) = (self.clone(), daemon.stopping().clone(), daemon.config().clone());
        let this = daemon.clone();
        daemon.tracker().spawn(async move {
            let show = |step| *lock(&work.0.enrolling) = Enrolling::Running { step };
            let enrolled = tokio::select! {
                enrolled = enrol::enrol_showing(&config, &token, show) => enrolled,
                () = stop.cancelled() => return,
            };
            match &enrolled {
                Ok(_) => this.link().was_enrolled(),
                Err(error) => tracing::warn!(%error, "enrolling by the page"),
            }
            *lock(&work.0.enrolling) = match enrolled {
                Ok(site) => Enrolling::Done { site },
                Err(error) => Enrolling::Failed { why: say::not_enrolled(&error), detail: error.to_string() },
            };
        });
    }

    /// Begins a line-test, unless one runs.
    pub(crate) fn test_line(&self, daemon: &Daemon) {
        {
            let mut testing = lock(&self.0.testing);
            if matches!(*testing, Testing::Running) {
                return;
            }
            *testing = Testing::Running;
        }
        let (work, stop, tested) = (self.clone(), daemon.stopping().clone(), daemon.clone());
        daemon.tracker().spawn(async move {
            let found = tokio::select! {
                found = line_test::run(tested.link(), |_| ()) => found,
                () = stop.cancelled() => return,
            };
            if let Ok(found) = &found {
                let (line, bits) = (tested.link().line().clone(), found.bits);
                blocking(move || line.set_tested(bits)).await;
            }
            *lock(&work.0.testing) = match found {
                Ok(found) => Testing::Done { found, at: Instant::now() },
                Err(error) => Testing::Failed { why: say::not_tested(&error), detail: error.to_string() },
            };
        });
    }
}

/// Whole values are put in their place; a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
