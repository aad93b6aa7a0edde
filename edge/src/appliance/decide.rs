//! What is done next about an order, from what is known; no I/O.

use super::fetch::Fetched;
use release::report::{InstallReport, InstallState, SystemReport};
use serde::{Deserialize, Serialize};
use wire::release::{Manifest, Order, ReleaseId};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Do {
    /// Nothing: it runs.
    Idle,
    /// Nothing yet.
    Wait,
    /// Say that it cannot be.
    Fail(Failure),
    /// Bring it here.
    Fetch {
        /// Whether the running release is used as a base.
        base: bool,
    },
    /// All of it is here: whoever has root may install it.
    HandOver {
        /// Which.
        release: ReleaseId,
        /// Whether its parts are coded against the running release.
        against_running: bool,
    },
    /// That goes on.
    Installing(ReleaseId),
}

/// Why the release of an order cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// The release.
    pub(crate) release: ReleaseId,
    /// The roll-out that ordered it: another one may try again.
    pub(crate) rollout: u64,
    /// Why.
    pub(crate) why: String,
}

/// What was handed over to whoever has root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Handed {
    /// The release.
    pub(crate) release: ReleaseId,
    /// The roll-out that ordered it.
    pub(crate) rollout: u64,
    /// Whether its parts are coded against what ran then.
    pub(crate) against_running: bool,
}

/// What is here of a release, and what became of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Here {
    pub(crate) fetched: Option<Fetched>,
    pub(crate) handed: Option<Handed>,
    /// It was not taken up yet, or is not done with.
    pub(crate) is_waiting: bool,
    pub(crate) installing: Option<InstallReport>,
    pub(crate) failure: Option<Failure>,
    /// Exports that are served: starting the machine anew would cut them.
    pub(crate) exports: usize,
}

pub(crate) fn decide(
    system: &SystemReport,
    running: ReleaseId,
    order: &Order,
    manifest: &Result<Manifest, (ReleaseId, String)>,
    here: &Here,
) -> Do {
    let fail = |release, why: String| Do::Fail(Failure { release, rollout: order.rollout, why });
    let manifest = match manifest {
        Ok(manifest) => manifest,
        Err((said, why)) => return fail(*said, why.clone()),
    };
    let release = manifest.id;
    if release == running {
        return Do::Idle;
    }
    if manifest.role.word() != system.role {
        return fail(release, format!("the release is for the role `{}`", manifest.role.word()));
    }
    if manifest.sequence <= system.sequence {
        let version = &manifest.version;
        return fail(release, format!("version {version} is not newer than version {}, which runs", system.version));
    }
    let handed = here.handed.as_ref().filter(|handed| (handed.release, handed.rollout) == (release, order.rollout));
    if let Some(failure) = &here.failure
        && (failure.release, failure.rollout) == (release, order.rollout)
    {
        return Do::Fail(failure.clone());
    }
    // Before all is said, a release that was left would look as if it had never been tried: it would be tried again and again.
    if !system.confirmed || !system.settled {
        return Do::Wait;
    }
    let mut whole = false;
    if let Some(handed) = handed {
        let report = here.installing.as_ref().filter(|report| report.release == release.hex());
        let left = system.last.as_ref().filter(|last| !last.confirmed && last.release == release.hex());
        match (report.map(|report| &report.state), left) {
            _ if here.is_waiting => return Do::Installing(release),
            (Some(InstallState::Running { .. } | InstallState::OnTrial), _) => return Do::Installing(release),
            (Some(InstallState::Failed { bring_whole: true, .. }), _) if handed.against_running => whole = true,
            (Some(InstallState::Failed { why, .. }), _) => return fail(release, why.clone()),
            // Only somebody who begins another roll-out may think that it comes out better a second time.
            (None, Some(last)) => return fail(release, format!("it was tried and left: {}", last.why)),
            (None, None) if system.left.as_ref() == Some(&release.hex()) => {
                return fail(release, "it was tried and left; why was not written down".into());
            }
            (None, None) => {}
        }
    }
    match &here.fetched {
        Some(fetched) if fetched.release == release && fetched.is_whole => {
            let against_running = match fetched.base {
                Some(base) if base == running && !whole => true,
                Some(_) => return Do::Fetch { base: !whole },
                None => false,
            };
            match here.exports {
                0 => Do::HandOver { release, against_running },
                _ => Do::Wait,
            }
        }
        // What was begun without a base goes on without one.
        Some(fetched) if fetched.release == release && fetched.base.is_none() => Do::Fetch { base: false },
        _ => Do::Fetch { base: !whole },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dedupe::UnixMillis;
    use release::report::LastTrial;
    use release::slots::Slot;
    use wire::release::Role;

    const OLD: ReleaseId = ReleaseId([1; 32]);
    const NEW: ReleaseId = ReleaseId([2; 32]);

    fn system() -> SystemReport {
        SystemReport {
            role: "edge".into(),
            version: "0.5".into(),
            sequence: 5,
            release: OLD.hex(),
            slot: Slot::A,
            confirmed: true,
            previous: None,
            left: None,
            settled: true,
            last: None,
        }
    }

    fn manifest() -> Manifest {
        Manifest {
            role: Role::Edge,
            version: "0.6".into(),
            sequence: 6,
            bytes: 4096,
            id: NEW,
            salt: [0; 32],
            made: UnixMillis(0),
            next_key: None,
        }
    }

    fn order() -> Order {
        Order { manifest: String::new(), rollout: 7 }
    }

    fn what(system: &SystemReport, manifest: Manifest, here: Here) -> Do {
        decide(system, OLD, &order(), &Ok(manifest), &here)
    }

    fn fetched(base: Option<ReleaseId>, is_whole: bool) -> Here {
        Here { fetched: Some(Fetched { release: NEW, base, is_whole }), ..Here::default() }
    }

    fn installing(here: Here, state: InstallState, against_running: bool) -> Here {
        let handed = Handed { release: NEW, rollout: 7, against_running };
        Here { installing: Some(InstallReport { release: NEW.hex(), state }), handed: Some(handed), ..here }
    }

    #[test]
    fn a_release_is_fetched_handed_over_installed() {
        assert_eq!(what(&system(), manifest(), Here::default()), Do::Fetch { base: true });
        assert_eq!(what(&system(), manifest(), fetched(Some(OLD), false)), Do::Fetch { base: true });
        let hand_over = |against_running| Do::HandOver { release: NEW, against_running };
        assert_eq!(what(&system(), manifest(), fetched(Some(OLD), true)), hand_over(true));
        assert_eq!(what(&system(), manifest(), fetched(None, true)), hand_over(false));
        let exported = Here { exports: 1, ..fetched(Some(OLD), true) };
        assert_eq!(what(&system(), manifest(), exported), Do::Wait);
        let handed = |rollout| Some(Handed { release: NEW, rollout, against_running: true });
        let waits = |rollout| Here { handed: handed(rollout), is_waiting: true, ..fetched(Some(OLD), true) };
        assert_eq!(what(&system(), manifest(), waits(7)), Do::Installing(NEW));
        let forgotten = Here { handed: handed(7), ..fetched(Some(OLD), true) };
        assert_eq!(what(&system(), manifest(), forgotten), hand_over(true), "the machine was switched off meanwhile");
        let running = installing(fetched(Some(OLD), true), InstallState::Running { done: 1, total: 2 }, true);
        assert_eq!(what(&system(), manifest(), running), Do::Installing(NEW));
        let arrived = Manifest { id: OLD, ..manifest() };
        assert_eq!(what(&system(), arrived, Here::default()), Do::Idle);
    }

    #[test]
    fn what_was_coded_against_another_release_is_fetched_again() {
        assert_eq!(what(&system(), manifest(), fetched(Some(ReleaseId([9; 32])), true)), Do::Fetch { base: true });
    }

    #[test]
    fn parts_that_did_not_come_out_are_fetched_once_without_a_base() {
        let failed = |bring_whole| InstallState::Failed { why: "part 3 is damaged".into(), bring_whole };
        let first = installing(fetched(Some(OLD), true), failed(true), true);
        assert_eq!(what(&system(), manifest(), first), Do::Fetch { base: false });
        let coming = installing(fetched(None, false), failed(true), true);
        assert_eq!(what(&system(), manifest(), coming), Do::Fetch { base: false });
        let whole = installing(fetched(None, true), failed(true), true);
        assert_eq!(what(&system(), manifest(), whole), Do::HandOver { release: NEW, against_running: false });
        let second = installing(fetched(None, true), failed(true), false);
        assert!(matches!(what(&system(), manifest(), second), Do::Fail(_)));
        let other = installing(fetched(Some(OLD), true), failed(false), true);
        assert!(matches!(what(&system(), manifest(), other), Do::Fail(_)));
    }

    #[test]
    fn what_must_not_run_here_is_refused_with_the_reason() {
        let refused = |system: &SystemReport, manifest, here| match what(system, manifest, here) {
            Do::Fail(failure) => failure.why,
            other => panic!("{other:?}"),
        };
        let older = Manifest { sequence: 5, ..manifest() };
        assert!(refused(&system(), older, Here::default()).contains("not newer"));
        let gateways = Manifest { role: Role::Gateway, ..manifest() };
        assert!(refused(&system(), gateways, Here::default()).contains("gateway"));
        let last = LastTrial {
            release: NEW.hex(),
            version: "0.6".into(),
            confirmed: false,
            why: "not ready in 600 s".into(),
            at: 0,
        };
        let left = SystemReport { last: Some(last), ..system() };
        let handed = |rollout| Some(Handed { release: NEW, rollout, against_running: true });
        let tried = |rollout| Here { handed: handed(rollout), ..fetched(Some(OLD), true) };
        assert!(refused(&left, manifest(), tried(7)).contains("not ready in 600 s"));
        assert!(matches!(what(&left, manifest(), tried(6)), Do::HandOver { .. }), "another roll-out tries again");
        let again = Here { is_waiting: true, ..tried(7) };
        assert_eq!(what(&left, manifest(), again), Do::Installing(NEW), "what is said of the last trial is old");
        let unread =
            decide(&system(), OLD, &order(), &Err((NEW, "the signature does not fit".into())), &Here::default());
        assert!(matches!(unread, Do::Fail(Failure { release: NEW, why, .. }) if why.contains("signature")));
        let failure = |rollout| Failure { release: NEW, rollout, why: "no room".into() };
        let failed = |rollout| Here { failure: Some(failure(rollout)), ..Here::default() };
        assert_eq!(what(&system(), manifest(), failed(7)), Do::Fail(failure(7)));
        assert_eq!(what(&system(), manifest(), failed(6)), Do::Fetch { base: true }, "another roll-out tries again");
    }

    #[test]
    fn nothing_is_taken_while_what_runs_is_on_trial() {
        let on_trial = SystemReport { confirmed: false, ..system() };
        assert_eq!(what(&on_trial, manifest(), Here::default()), Do::Wait);
    }

    #[test]
    fn what_was_left_is_not_tried_again_before_or_without_word_of_it() {
        let handed = Handed { release: NEW, rollout: 7, against_running: true };
        let here = || Here { handed: Some(handed.clone()), ..fetched(Some(OLD), true) };
        let unsettled = SystemReport { settled: false, ..system() };
        assert_eq!(what(&unsettled, manifest(), here()), Do::Wait);
        let left = SystemReport { left: Some(NEW.hex()), ..system() };
        assert!(matches!(what(&left, manifest(), here()), Do::Fail(_)));
    }
}
