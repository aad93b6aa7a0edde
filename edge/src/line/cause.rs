//! What decided about the line, as data: whoever shows it finds the words, in whichever language.

use super::state::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shaping::Rate;
use shaping::policy::{Allowance, Control, Override, Policy, Reason};

/// What the line may be used for and why; what [`super::Standing::sentence`] says in English.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// Bits per second towards the gateway; 0: closed, absent: no limit.
    pub bits: Option<u64>,
    /// Nothing at all leaves, control neither.
    pub silent: bool,
    /// Until when that holds as far as time alone decides, Unix seconds.
    pub until: Option<i64>,
    /// What decided so.
    pub cause: Cause,
}

/// The deciding term, with the names that people gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
pub enum Cause {
    /// There is no policy and no rate in the configuration.
    #[default]
    NoPolicy,
    /// The policy that there was cannot be used.
    Fault {
        /// What is wrong, in English.
        why: String,
    },
    /// Somebody holds the site.
    Hold {
        /// Who.
        by: String,
        /// Why.
        why: String,
    },
    /// The clock cannot be trusted.
    Clock,
    /// Paused.
    Pause {
        /// Who.
        by: String,
        /// Why.
        why: String,
        /// At this site, so that it can be ended here.
        here: bool,
    },
    /// Boosted.
    Boost {
        /// Who.
        by: String,
        /// Why.
        why: String,
        /// At this site, so that it can be ended here.
        here: bool,
    },
    /// A blackout.
    Blackout {
        /// Its name.
        name: String,
    },
    /// A dated exception.
    Exception {
        /// Its name.
        name: String,
        /// Its profile.
        profile: String,
    },
    /// The week's schedule.
    Schedule {
        /// The profile that holds.
        profile: String,
    },
    /// The line's cap.
    Cap,
    /// The configuration of this edge.
    Config,
    /// A quota that is used up, or nearly.
    Quota {
        /// `day`, `week`, `month` or `prepaid`.
        period: String,
    },
    /// A quota that is spread evenly.
    Pace {
        /// `day`, `week`, `month` or `prepaid`.
        period: String,
    },
    /// What the gateway grants of its own line.
    Grant,
    /// The branch's own traffic.
    Courtesy,
}

impl Decided {
    /// What an allowance says, by a policy with what the site has paused or boosted.
    pub(super) fn of(allowed: &Allowance, policy: &Policy, local: &[Override]) -> Decided {
        Decided { cause: Cause::of(allowed.reason, policy, local), ..Decided::bare(allowed) }
    }

    /// The same where there is no policy.
    pub(super) fn without_policy(allowed: &Allowance, state: &State, local: &[Override]) -> Decided {
        let cause = match (allowed.reason, &state.fault) {
            (Reason::Pause(id), _) => {
                bent(id, &[], local).map_or(Cause::NoPolicy, |(by, why, here)| Cause::Pause { by, why, here })
            }
            (Reason::Config, _) => Cause::Config,
            (_, Some(why)) => Cause::Fault { why: why.clone() },
            _ => Cause::NoPolicy,
        };
        Decided { cause, ..Decided::bare(allowed) }
    }

    fn bare(allowed: &Allowance) -> Decided {
        let bits = match allowed.up {
            Rate::Closed => Some(0),
            Rate::Limited(rate) => Some(rate.bits()),
            Rate::Unlimited => None,
        };
        let silent = allowed.control == Control::Silent;
        Decided { bits, silent, until: allowed.until.map(Timestamp::as_second), cause: Cause::default() }
    }

    /// Whether data may leave.
    pub fn is_open(&self) -> bool {
        self.bits != Some(0)
    }
}

impl Cause {
    fn of(reason: Reason, policy: &Policy, local: &[Override]) -> Cause {
        let profile = |number| policy.profile(number).name.clone();
        let period = |number: usize| Policy::period_name(policy.quotas[number].period).to_owned();
        let override_of = |id| bent(id, &policy.overrides, local).unwrap_or_default();
        match reason {
            Reason::NoPolicy => Cause::NoPolicy,
            Reason::Hold => {
                let (by, why) =
                    policy.hold.as_ref().map(|hold| (hold.actor.clone(), hold.reason.clone())).unwrap_or_default();
                Cause::Hold { by, why }
            }
            Reason::Clock => Cause::Clock,
            Reason::Pause(id) => {
                let (by, why, here) = override_of(id);
                Cause::Pause { by, why, here }
            }
            Reason::Boost(id) => {
                let (by, why, here) = override_of(id);
                Cause::Boost { by, why, here }
            }
            Reason::Blackout(number) => Cause::Blackout { name: policy.blackouts[number].name.clone() },
            Reason::Exception(number) => {
                let exception = &policy.exceptions[number];
                Cause::Exception { name: exception.name.clone(), profile: profile(exception.profile) }
            }
            Reason::Window(number) => Cause::Schedule { profile: profile(number) },
            Reason::Cap => Cause::Cap,
            Reason::Config => Cause::Config,
            Reason::Quota(number) => Cause::Quota { period: period(number) },
            Reason::Pace(number) => Cause::Pace { period: period(number) },
            Reason::Grant => Cause::Grant,
            Reason::Courtesy => Cause::Courtesy,
        }
    }
}

/// Who bent the schedule, why, and whether that was here.
fn bent(id: u64, policy: &[Override], local: &[Override]) -> Option<(String, String, bool)> {
    let find = |list: &[Override], here| {
        list.iter().find(|bend| bend.id == id).map(|bend| (bend.actor.clone(), bend.reason.clone(), here))
    };
    find(local, true).or_else(|| find(policy, false))
}
