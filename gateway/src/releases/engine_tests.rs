use super::*;
use wire::release::Trial;

const OLD: ReleaseId = ReleaseId([1; 32]);
const NEW: ReleaseId = ReleaseId([2; 32]);
const DAY: u64 = 24 * 3600 * 1000;

fn site(number: u8) -> SiteId {
    SiteId([number; 16])
}

/// Sites that run the old release, seen at the time 0.
struct Fleet {
    now: u64,
    sites: Vec<Known>,
    rollout: Rollout,
}

impl Fleet {
    /// Ring 1: site 1; ring 2: sites 2 and 3; the rest up to `count`.
    fn new(count: u8) -> Fleet {
        let report = Appliance {
            release: OLD,
            version: "1.0".into(),
            sequence: 1,
            confirmed: true,
            previous: None,
            stage: Stage::Idle,
            last: None,
        };
        let known = |number| Known { site: site(number), report: Some(report.clone()), seen: Some(UnixMillis(DAY)) };
        let rollout = Rollout {
            number: 3,
            release: NEW,
            version: "2.0".into(),
            sequence: 2,
            rings: vec![vec![site(1)], vec![site(2), site(3)]],
            soak: SOAK,
            by: "li".into(),
            reason: String::new(),
            started: UnixMillis(DAY),
            state: State::Running,
            since: UnixMillis(DAY),
            opened: Vec::new(),
            proved: None,
            attempt: 0,
            marks: BTreeMap::new(),
        };
        let sites = (1..=count).map(known).collect();
        let mut fleet = Fleet { now: DAY, sites, rollout };
        fleet.rollout.begin(&fleet.sites);
        fleet
    }

    fn take(&mut self) -> Vec<Event> {
        self.rollout.take(UnixMillis(self.now), &self.sites)
    }

    /// Lets days pass; every site is seen all the while.
    fn pass(&mut self, days: u64) -> Vec<Event> {
        self.now += days * DAY;
        self.sites.iter_mut().for_each(|known| known.seen = Some(UnixMillis(self.now)));
        self.take()
    }

    fn report(&mut self, number: u8) -> &mut Appliance {
        self.sites[usize::from(number) - 1].report.as_mut().unwrap()
    }

    fn confirm(&mut self, number: u8) {
        let report = self.report(number);
        (report.release, report.sequence, report.confirmed) = (NEW, 2, true);
    }

    fn fall_back(&mut self, number: u8, at: u64) {
        let trial = Trial { release: NEW, confirmed: false, why: "no link".into(), at: UnixMillis(at) };
        let report = self.report(number);
        (report.release, report.sequence, report.confirmed) = (OLD, 1, true);
        report.last = Some(trial);
    }

    fn ordered(&self) -> Vec<u8> {
        let orders = self.sites.iter().filter(|known| self.rollout.orders(known));
        orders.map(|known| known.site.0[0]).collect()
    }

    fn step(&self, number: u8) -> Step {
        self.rollout.step_of(&self.sites[usize::from(number) - 1])
    }
}

#[test]
fn rings_open_one_after_the_other_each_proved_and_soaked() {
    let mut fleet = Fleet::new(5);
    assert_eq!(fleet.take(), [Event::Opened(1)]);
    assert_eq!(fleet.ordered(), [1]);
    assert_eq!(fleet.pass(3), [], "nothing opens unproved, however long it takes");
    fleet.confirm(1);
    assert_eq!(fleet.take(), [Event::Confirmed(site(1)), Event::Proved(1)]);
    assert_eq!(fleet.ordered(), [0u8; 0], "what runs it is not to take it again");
    fleet.now += DAY - 1;
    assert_eq!(fleet.take(), []);
    fleet.now += 1;
    assert_eq!(fleet.take(), [Event::Opened(2)]);
    assert_eq!(fleet.ordered(), [2, 3]);
    fleet.confirm(2);
    assert_eq!(fleet.pass(2), [Event::Confirmed(site(2))], "one of two is not the ring");
    fleet.confirm(3);
    assert_eq!(fleet.take(), [Event::Confirmed(site(3)), Event::Proved(2)]);
    assert_eq!(fleet.pass(1), [Event::Opened(3)]);
    assert_eq!(fleet.ordered(), [4, 5]);
    fleet.confirm(4);
    fleet.confirm(5);
    let ended = fleet.take();
    assert_eq!(ended[2..], [Event::Proved(3), Event::Done]);
    assert_eq!(fleet.rollout.state, State::Done);
}

#[test]
fn one_failed_trial_stops_it_and_withdraws_what_has_not_begun() {
    for (state, failing) in [("opened", 2), ("not even opened", 5)] {
        let mut fleet = Fleet::new(5);
        fleet.take();
        fleet.confirm(1);
        fleet.take();
        fleet.pass(1);
        assert_eq!(fleet.ordered(), [2, 3]);
        fleet.report(3).stage = Stage::Installing { release: NEW };
        let now = fleet.now;
        fleet.fall_back(failing, now);
        let events = fleet.take();
        assert!(
            matches!(&events[..], [Event::Failed(at, failure), Event::Stopped(_)] if *at == site(failing) && failure.fell_back),
            "{state}: {events:?}"
        );
        assert!(matches!(&fleet.rollout.state, State::Stopped { why, .. } if why == "no link"));
        assert_eq!(fleet.ordered(), [3], "what is being installed is called back by nobody");
        assert!(matches!(fleet.step(failing), Step::Failed(_)));
        assert_eq!(fleet.pass(30), [], "nothing goes on by itself");
    }
}

#[test]
fn a_release_that_cannot_be_taken_stops_it_too_and_fetching_is_withdrawn() {
    let mut fleet = Fleet::new(3);
    fleet.rollout.rings = vec![vec![site(1), site(2)]];
    fleet.take();
    fleet.report(2).stage = Stage::Fetching { release: NEW, done: 5, total: 9 };
    assert_eq!(fleet.step(2), Step::Fetching { done: 5, total: 9 });
    assert_eq!(fleet.ordered(), [1, 2]);
    fleet.report(1).stage = Stage::Failed { release: NEW, why: "no room".into() };
    assert!(matches!(&fleet.take()[..], [Event::Failed(_, failure), Event::Stopped(_)] if !failure.fell_back));
    assert_eq!(fleet.ordered(), [0u8; 0]);
    assert_eq!(fleet.step(2), Step::Held);
}

#[test]
fn after_a_look_it_goes_on_without_the_failed_or_with_another_try() {
    for retry in [false, true] {
        let mut fleet = Fleet::new(3);
        fleet.rollout.rings = vec![vec![site(1), site(2)]];
        fleet.take();
        fleet.fall_back(1, 7 * DAY);
        fleet.take();
        let number = fleet.rollout.order_number();
        let sites = fleet.sites.clone();
        fleet.rollout.go_on_after_stop(UnixMillis(fleet.now), retry, &sites);
        assert_eq!(fleet.take(), [], "the failure that somebody looked at stops nothing again");
        assert_eq!(fleet.ordered(), if retry { vec![1, 2] } else { vec![2] });
        assert_eq!(fleet.rollout.order_number() != number, retry, "an appliance tries again for another number alone");
        fleet.confirm(2);
        let events = fleet.take();
        assert_eq!(events.contains(&Event::Proved(1)), !retry, "who was left out is not waited for: {events:?}");
        if retry {
            fleet.fall_back(1, 9 * DAY);
            assert!(fleet.take().contains(&Event::Stopped(site(1))), "a second trial that fails stops it again");
        }
    }
}

#[test]
fn what_could_not_be_taken_before_is_news_once_it_was_tried_again() {
    let mut fleet = Fleet::new(2);
    fleet.rollout.rings = vec![vec![site(1)]];
    let failed = Stage::Failed { release: NEW, why: "no room".into() };
    fleet.report(1).stage = failed.clone();
    fleet.rollout.marks.clear();
    let sites = fleet.sites.clone();
    fleet.rollout.begin(&sites);
    assert_eq!(fleet.take(), [Event::Opened(1)], "it is from before the start");
    fleet.report(1).stage = Stage::Fetching { release: NEW, done: 0, total: 0 };
    fleet.take();
    fleet.report(1).stage = failed;
    assert!(fleet.take().contains(&Event::Stopped(site(1))));
}

#[test]
fn an_older_trial_says_nothing_also_of_a_site_that_comes_later() {
    let mut fleet = Fleet::new(2);
    fleet.take();
    fleet.fall_back(2, DAY - 1);
    assert_eq!(fleet.take(), []);
    fleet.fall_back(2, DAY + 1);
    assert!(fleet.take().contains(&Event::Stopped(site(2))));
}

#[test]
fn a_site_that_is_away_is_not_waited_for_and_gets_its_order_late() {
    let mut fleet = Fleet::new(3);
    fleet.rollout.rings = vec![vec![site(1), site(2)]];
    fleet.take();
    fleet.confirm(1);
    fleet.take();
    fleet.now += 8 * DAY;
    fleet.sites[0].seen = Some(UnixMillis(fleet.now));
    assert_eq!(fleet.take(), [Event::Proved(1)], "site 2 was not seen for a week");
    fleet.now += DAY;
    fleet.sites[2].seen = Some(UnixMillis(fleet.now));
    fleet.take();
    fleet.confirm(3);
    assert!(fleet.take().contains(&Event::Done));
    assert_eq!(fleet.ordered(), [2], "it is still to run it");
    fleet.fall_back(2, fleet.now);
    assert!(fleet.take().contains(&Event::Stopped(site(2))), "and what fails late is said");
    assert_eq!(fleet.ordered(), [0u8; 0]);
}

#[test]
fn a_ring_of_which_nobody_is_heard_proves_nothing() {
    let mut fleet = Fleet::new(3);
    fleet.take();
    fleet.now += 30 * DAY;
    assert_eq!(fleet.take(), []);
    fleet.sites.remove(0);
    assert_eq!(fleet.pass(30), [], "a pilot that is gone for good proves nothing either");
    assert_eq!(fleet.rollout.opened.len(), 1);
}

#[test]
fn no_site_is_told_to_run_what_is_not_newer() {
    let mut fleet = Fleet::new(4);
    fleet.rollout.rings = vec![vec![site(1), site(2), site(3)]];
    fleet.report(1).sequence = 2;
    fleet.report(2).sequence = 3;
    fleet.take();
    assert_eq!(fleet.ordered(), [3]);
    assert_eq!((fleet.step(1), fleet.step(2)), (Step::Newer, Step::Newer));
}

#[test]
fn who_went_back_by_hand_is_left_in_peace() {
    let mut fleet = Fleet::new(2);
    fleet.take();
    fleet.confirm(1);
    fleet.take();
    let report = fleet.report(1);
    (report.release, report.sequence) = (OLD, 1);
    assert_eq!(fleet.take(), []);
    assert_eq!((fleet.step(1), fleet.ordered()), (Step::WentBack, vec![]));
    assert_eq!(fleet.pass(9), [], "and its ring is not proved any more");
}

#[test]
fn a_pause_holds_and_a_cancellation_ends_it() {
    let mut fleet = Fleet::new(3);
    fleet.rollout.rings = vec![vec![site(1), site(2), site(3)]];
    fleet.take();
    fleet.report(2).stage = Stage::Installing { release: NEW };
    fleet.rollout.state = State::Paused { by: "li".into(), reason: "quarter end".into() };
    assert_eq!(fleet.ordered(), [2]);
    fleet.confirm(1);
    assert_eq!(fleet.pass(9), [Event::Confirmed(site(1))], "what happens is still heard");
    fleet.rollout.go_on(UnixMillis(fleet.now));
    assert_eq!(fleet.ordered(), [2, 3]);
    fleet.rollout.state = State::Cancelled { by: "li".into(), reason: "wrong release".into() };
    assert_eq!(fleet.ordered(), [0u8; 0]);
}

#[test]
fn a_site_that_never_said_what_it_runs_is_in_no_ring() {
    let mut fleet = Fleet::new(2);
    fleet.sites[1].report = None;
    fleet.rollout.rings = vec![vec![site(1)]];
    fleet.take();
    fleet.confirm(1);
    fleet.take();
    let ended = fleet.pass(1);
    assert_eq!(ended, [Event::Opened(2), Event::Done], "an empty ring needs no proof");
    assert_eq!(fleet.step(2), Step::Unknown);
}
