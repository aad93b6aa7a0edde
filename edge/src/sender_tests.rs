#![allow(clippy::disallowed_methods, reason = "tests ask for the time themselves")]

use super::*;
use dedupe::RootScheme;
use wire::seeding::{Promise, Promised};

fn root(byte: u8) -> Root {
    Root { scheme: RootScheme::Blake3, hash: [byte; 32] }
}

fn target(byte: u8) -> Target {
    Target { generation: GenerationId([byte; 16]), root: root(byte) }
}

fn held(byte: u8) -> (GenerationId, Root) {
    (target(byte).generation, root(byte))
}

/// A machine with the clock that it is given; every action is written down.
struct Bench {
    sender: Sender,
    now: Instant,
}

impl Bench {
    fn new(known: &[u8], acknowledged: Option<u8>, job: Option<Job>) -> Bench {
        let known = known.iter().map(|byte| target(*byte)).collect();
        Bench { sender: Sender::new(known, acknowledged.map(|byte| target(byte).generation), job), now: Instant::now() }
    }

    fn tell(&mut self, event: Event) -> Vec<Action> {
        self.sender.handle(event, self.now)
    }

    fn connect(&mut self, held_there: &[u8]) -> Vec<Action> {
        self.tell(Event::Connected {
            held: held_there.iter().map(|byte| held(*byte)).collect(),
            draft: None,
            asks: true,
            promised: vec![],
        })
    }

    fn coder(&mut self, event: CoderEvent) -> Vec<Action> {
        self.tell(Event::Coder(self.sender.attempt, event))
    }

    /// Codes one parcel without questions; the last answer's actions are returned.
    fn code(&mut self) -> Vec<Action> {
        self.coder(CoderEvent::Planned { samples: false });
        self.coder(CoderEvent::Encoded);
        self.coder(CoderEvent::Stored)
    }

    fn coding(&self) -> &Coder {
        &self.sender.job().unwrap().coder
    }

    /// Generation `to` on its way on base 1, accepted at parcel 0.
    fn moving(to: u8) -> Bench {
        let mut bench = Bench::new(&[1, to], Some(1), None);
        bench.connect(&[1]);
        bench.tell(Event::Accepted(target(to).generation, 0));
        bench
    }
}

fn resumed(to: u8, acknowledged: u32, next: u32) -> Job {
    let mut job = Job::new(target(to), Some(held(1)), Mode::Coded);
    (job.next, job.acknowledged, job.touched) = (next, acknowledged, next > 0);
    job
}

#[test]
fn a_generation_goes_the_whole_way() {
    let mut bench = Bench::new(&[1], Some(1), None);
    assert_eq!(bench.connect(&[1]), []);
    assert_eq!(*bench.sender.state(), State::Idle);
    let begun = bench.tell(Event::Captured(target(2)));
    assert_eq!(begun, [Action::Begin(target(2), Some(held(1)), Mode::Coded), Action::Offer]);
    assert_eq!(bench.tell(Event::Accepted(target(2).generation, 0)), [Action::Plan(1)]);
    assert_eq!(bench.coder(CoderEvent::Planned { samples: true }), [Action::Ask { attempt: 1, rest: false }]);
    assert_eq!(bench.coder(CoderEvent::Answered { wants_rest: true }), [Action::Ask { attempt: 1, rest: true }]);
    assert_eq!(bench.coder(CoderEvent::Answered { wants_rest: false }), [Action::Encode(1)]);
    assert_eq!(bench.coder(CoderEvent::Encoded), [Action::Store(1)]);
    assert_eq!(bench.coder(CoderEvent::Stored), [Action::Plan(1), Action::Send(0)], "the next is coded meanwhile");
    assert_eq!(bench.coder(CoderEvent::NothingLeft), []);
    assert_eq!(bench.tell(Event::Written(0)), []);
    assert_eq!(bench.tell(Event::Acknowledged(0)), [Action::Acknowledge(1), Action::Seal]);
    assert_eq!(bench.tell(Event::Sealed(target(2).generation)), [Action::Finish(target(2))]);
    assert_eq!(*bench.sender.state(), State::Idle);
    assert!(!bench.sender.has_work());
}

#[test]
fn an_unchanged_volume_is_sealed_without_a_parcel() {
    let mut bench = Bench::moving(2);
    assert_eq!(bench.coder(CoderEvent::NothingLeft), [Action::Seal]);
}

#[test]
fn without_hits_or_in_a_session_of_version_1_nothing_more_is_asked() {
    let mut bench = Bench::moving(2);
    bench.coder(CoderEvent::Planned { samples: true });
    assert_eq!(bench.coder(CoderEvent::Answered { wants_rest: false }), [Action::Encode(1)]);

    let mut old = Bench::new(&[2], None, None);
    old.tell(Event::Connected { held: vec![], draft: None, asks: false, promised: vec![] });
    old.tell(Event::Accepted(target(2).generation, 0));
    assert_eq!(old.coder(CoderEvent::Planned { samples: true }), [Action::Encode(1)]);
}

#[test]
fn the_line_is_kept_busy_and_the_spool_short() {
    let mut bench = Bench::moving(2);
    assert_eq!(bench.code(), [Action::Plan(1), Action::Send(0)]);
    assert_eq!(bench.code(), [Action::Plan(1)], "one at a time is handed to the line");
    assert_eq!(bench.tell(Event::Written(0)), [Action::Send(1)], "before the first is acknowledged");
    assert_eq!(bench.code(), [], "three are ahead");
    assert_eq!(*bench.coding(), Coder::Resting);
    assert_eq!(bench.tell(Event::Acknowledged(0)), [Action::Acknowledge(1), Action::Plan(1)]);
    assert_eq!(bench.tell(Event::Acknowledged(1)), [Action::Acknowledge(2), Action::Send(2)], "before it said Written");
    assert_eq!(bench.tell(Event::Written(1)), [], "late news changes nothing");
    assert_eq!(bench.tell(Event::Acknowledged(0)), [], "nor does a repeated answer");
    assert_eq!(bench.tell(Event::Acknowledged(7)), [], "nor an answer to what was never sent");
}

#[test]
fn a_gateway_that_wants_one_after_the_other_gets_that() {
    let mut bench = Bench::moving(2);
    bench.code();
    bench.code();
    bench.tell(Event::Written(0));
    let refused = bench.tell(Event::ParcelRefused(1, Refusal::OutOfOrder { want: 0, got: 1 }));
    assert_eq!(refused, [Action::StopSending, Action::Offer]);
    assert_eq!(bench.tell(Event::Accepted(target(2).generation, 0)), [Action::Send(0)]);
    assert_eq!(bench.tell(Event::Written(0)), []);
    assert_eq!(bench.tell(Event::Acknowledged(0)), [Action::Acknowledge(1), Action::Send(1)]);
}

#[test]
fn a_cut_line_costs_nothing_that_was_acknowledged() {
    let mut bench = Bench::moving(2);
    bench.code();
    bench.tell(Event::Written(0));
    bench.coder(CoderEvent::Planned { samples: false });
    assert_eq!(bench.tell(Event::Disconnected), [Action::StopSending]);
    assert!(matches!(bench.sender.state(), State::Offline(_)));
    assert_eq!(bench.coder(CoderEvent::Encoded), [Action::Store(1)], "coding goes on without a line");
    assert_eq!(bench.coder(CoderEvent::Stored), []);
    assert_eq!(bench.connect(&[1]), [Action::Offer]);
    // The acknowledgement was lost, the parcel was not.
    let accepted = bench.tell(Event::Accepted(target(2).generation, 1));
    assert_eq!(accepted, [Action::Acknowledge(1), Action::Plan(1), Action::Send(1)]);
}

#[test]
fn a_question_that_the_cut_swallowed_is_planned_again() {
    let mut bench = Bench::moving(2);
    bench.coder(CoderEvent::Planned { samples: true });
    assert_eq!(bench.tell(Event::Disconnected), [Action::StopSending, Action::StopCoding]);
    assert_eq!(*bench.coding(), Coder::Resting);
    assert_eq!(bench.tell(Event::Coder(1, CoderEvent::Answered { wants_rest: true })), [], "of an earlier attempt");
    bench.connect(&[1]);
    assert_eq!(bench.tell(Event::Accepted(target(2).generation, 0)), [Action::Plan(2)]);
}

#[test]
fn a_lost_sealed_is_found_again() {
    let mut bench = Bench::moving(2);
    bench.coder(CoderEvent::NothingLeft);
    bench.tell(Event::Disconnected);
    assert_eq!(bench.connect(&[2, 1]), [Action::Finish(target(2))]);
    let mut restarted = Bench::new(&[1, 2], Some(1), None);
    assert_eq!(restarted.connect(&[2, 1]), [Action::Finish(target(2))], "also without a journal record");
}

#[test]
fn a_restart_goes_on_where_it_was() {
    let mut bench = Bench::new(&[1, 2], Some(1), Some(resumed(2, 3, 4)));
    assert_eq!(bench.connect(&[1]), [Action::Offer]);
    assert_eq!(bench.tell(Event::Accepted(target(2).generation, 3)), [Action::Plan(0), Action::Send(3)]);
}

#[test]
fn an_end_that_was_set_back_begins_again() {
    // The gateway came back from a backup and knows no draft.
    let mut bench = Bench::new(&[1, 2], Some(1), Some(resumed(2, 3, 4)));
    bench.connect(&[1]);
    let accepted = bench.tell(Event::Accepted(target(2).generation, 0));
    assert_eq!(accepted, [Action::Begin(target(2), Some(held(1)), Mode::Coded), Action::Plan(1)]);
    // The edge lost its journal and the gateway is ahead.
    let mut bench = Bench::new(&[1, 2], Some(1), None);
    bench.connect(&[1]);
    let accepted = bench.tell(Event::Accepted(target(2).generation, 5));
    let again =
        [Action::Abandon(target(2).generation), Action::Begin(target(2), Some(held(1)), Mode::Coded), Action::Offer];
    assert_eq!(accepted, again);
    // It insists: no endless loop.
    bench.tell(Event::Accepted(target(2).generation, 5));
    assert!(matches!(bench.sender.state(), State::Waiting { .. }), "{:?}", bench.sender.state());
}

#[test]
fn a_newer_generation_takes_the_place_of_an_untouched_one() {
    let mut bench = Bench::moving(2);
    bench.coder(CoderEvent::Planned { samples: false });
    let folded = bench.tell(Event::Captured(target(3)));
    assert_eq!(
        folded,
        [
            Action::Abandon(target(2).generation),
            Action::StopCoding,
            Action::Begin(target(3), Some(held(1)), Mode::Coded),
            Action::Offer
        ]
    );
    assert!(!bench.sender.needs(target(2).generation));
    assert!(bench.sender.needs(target(1).generation) && bench.sender.needs(target(3).generation));
}

#[test]
fn a_touched_generation_is_finished_first_and_what_lies_between_is_skipped() {
    let mut bench = Bench::moving(2);
    bench.code();
    assert_eq!(bench.tell(Event::Captured(target(3))), []);
    assert_eq!(bench.tell(Event::Captured(target(4))), []);
    assert!(bench.sender.needs(target(2).generation) && !bench.sender.needs(target(3).generation));
    bench.coder(CoderEvent::NothingLeft);
    bench.tell(Event::Acknowledged(0));
    let sealed = bench.tell(Event::Sealed(target(2).generation));
    let next = [Action::Finish(target(2)), Action::Begin(target(4), Some(held(2)), Mode::Coded), Action::Offer];
    assert_eq!(sealed, next);
}

#[test]
fn captured_without_a_line_the_newest_is_offered_when_there_is_one() {
    let mut bench = Bench::new(&[1], Some(1), None);
    assert_eq!(bench.tell(Event::Captured(target(2))), []);
    assert_eq!(bench.tell(Event::Captured(target(3))), []);
    assert!(bench.sender.has_work());
    let begun = bench.connect(&[1]);
    assert_eq!(begun, [Action::Begin(target(3), Some(held(1)), Mode::Coded), Action::Offer]);
}

#[test]
fn a_draft_of_another_generation_is_abandoned() {
    let mut bench = Bench::new(&[1, 3], Some(1), None);
    let draft = Some(target(2).generation);
    let actions = bench.tell(Event::Connected { held: vec![held(1)], draft, asks: true, promised: vec![] });
    assert_eq!(actions[0], Action::Abandon(target(2).generation));
    assert_eq!(actions[2], Action::Offer);
}

#[test]
fn a_wrong_base_is_planned_anew_on_what_the_gateway_holds() {
    let mut bench = Bench::new(&[1, 2, 3], Some(2), None);
    bench.connect(&[2, 1]);
    let refused = bench.tell(Event::Refused(target(3).generation, Refusal::WrongBase { have: Some(held(1)) }));
    let again =
        [Action::Abandon(target(3).generation), Action::Begin(target(3), Some(held(1)), Mode::Coded), Action::Offer];
    assert_eq!(refused, again);
    bench.tell(Event::Refused(target(3).generation, Refusal::WrongBase { have: None }));
    assert_eq!(bench.sender.job().unwrap().base, None);
    bench.tell(Event::Refused(target(3).generation, Refusal::WrongBase { have: None }));
    assert!(matches!(bench.sender.state(), State::Stopped { .. }), "it does not go round for ever");
}

#[test]
fn a_base_with_another_root_is_not_used() {
    let mut bench = Bench::new(&[1, 2], Some(1), None);
    let forged = (target(1).generation, root(99));
    let begun = bench.tell(Event::Connected { held: vec![forged], draft: None, asks: true, promised: vec![] });
    assert_eq!(begun[0], Action::Begin(target(2), None, Mode::Coded));
}

#[test]
fn a_wrong_root_is_sent_plainly_then_whole_then_left_to_people() {
    let mut bench = Bench::moving(2);
    let wrong = || Event::Refused(target(2).generation, Refusal::WrongRoot(root(9)));
    bench.coder(CoderEvent::NothingLeft);
    let plain = bench.tell(wrong());
    assert_eq!(plain[0], Action::Abandon(target(2).generation));
    assert!(plain.contains(&Action::Begin(target(2), Some(held(1)), Mode::Plain)), "{plain:?}");
    assert!(bench.tell(wrong()).contains(&Action::Begin(target(2), None, Mode::Whole)));
    bench.tell(wrong());
    assert!(matches!(bench.sender.state(), State::Stopped { why, .. } if why.contains("scrub")));
}

#[test]
fn a_missing_base_is_left_out_of_the_parcel_and_its_followers() {
    let mut bench = Bench::moving(2);
    bench.code();
    bench.code();
    let refused = bench.tell(Event::ParcelRefused(0, Refusal::MissingBase(target(1).generation)));
    let again = [Action::StopCoding, Action::Without(target(1).generation, 0), Action::StopSending, Action::Offer];
    assert_eq!(refused, again);
    assert_eq!(bench.tell(Event::Accepted(target(2).generation, 0)), [Action::Plan(2)]);
}

#[test]
fn a_damaged_spool_file_is_coded_again() {
    let mut bench = Bench::moving(2);
    bench.code();
    bench.code();
    bench.tell(Event::Written(0));
    let damaged = bench.tell(Event::SpoolDamaged(1));
    assert_eq!(damaged, [Action::StopCoding, Action::Truncate(1), Action::StopSending, Action::Offer]);
    assert_eq!(bench.sender.job().unwrap().next, 1);
    let accepted = bench.tell(Event::Accepted(target(2).generation, 0));
    assert_eq!(accepted, [Action::Plan(2), Action::Send(0)]);
}

#[test]
fn a_parcel_that_arrives_damaged_is_sent_again_then_coded_again_then_waited_with() {
    let mut bench = Bench::moving(2);
    bench.code();
    let damaged = || Event::ParcelRefused(0, Refusal::Damaged("x".into()));
    for _ in 0..RESENDS {
        assert_eq!(bench.tell(damaged()), [Action::StopSending, Action::Offer]);
        assert!(bench.tell(Event::Accepted(target(2).generation, 0)).contains(&Action::Send(0)));
    }
    assert!(bench.tell(damaged()).contains(&Action::Truncate(0)));
    bench.tell(Event::Accepted(target(2).generation, 0));
    bench.code();
    bench.tell(damaged());
    assert!(matches!(bench.sender.state(), State::Waiting { .. }));
}

#[test]
fn no_room_at_the_gateway_is_waited_for_ever_longer() {
    let mut bench = Bench::moving(2);
    bench.code();
    let mut waits = Vec::new();
    for _ in 0..8 {
        bench.tell(Event::ParcelRefused(0, Refusal::NoRoom("disk full".into())));
        let State::Waiting { until, why, .. } = bench.sender.state() else { panic!("{:?}", bench.sender.state()) };
        assert_eq!(why, "the gateway has no room: disk full");
        waits.push((*until - bench.now).as_secs());
        assert_eq!(bench.sender.deadline(), Some(*until));
        assert_eq!(bench.tell(Event::Tick), [], "too early");
        bench.now = *until_of(&bench.sender);
        assert_eq!(bench.tell(Event::Tick), [Action::Offer]);
        assert!(bench.tell(Event::Accepted(target(2).generation, 0)).contains(&Action::Send(0)));
    }
    assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
}

fn until_of(sender: &Sender) -> &Instant {
    match sender.state() {
        State::Waiting { until, .. } | State::Stopped { until, .. } => until,
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_room_here_ends_by_itself_without_coding_again() {
    let mut bench = Bench::moving(2);
    bench.coder(CoderEvent::Planned { samples: false });
    bench.coder(CoderEvent::Encoded);
    assert_eq!(bench.coder(CoderEvent::NoRoom("spool full".into())), []);
    assert!(matches!(bench.coding(), Coder::NoRoom { why, .. } if why == "spool full"));
    bench.now = bench.sender.deadline().unwrap();
    assert_eq!(bench.tell(Event::Tick), [Action::Store(1)]);
    assert_eq!(bench.coder(CoderEvent::Stored), [Action::Plan(1), Action::Send(0)]);
}

#[test]
fn a_failed_coder_tries_again_later() {
    let mut bench = Bench::moving(2);
    bench.coder(CoderEvent::Failed("cannot read pack".into()));
    assert!(matches!(bench.coding(), Coder::Failed { .. }));
    bench.now = bench.sender.deadline().unwrap();
    assert_eq!(bench.tell(Event::Tick), [Action::StopCoding, Action::Plan(2)]);
}

#[test]
fn what_only_people_can_help_is_tried_again_much_later() {
    let mut bench = Bench::moving(2);
    bench.tell(Event::Refused(target(2).generation, Refusal::Foreign));
    assert!(matches!(bench.sender.state(), State::Stopped { why, .. } if why.contains("another site")));
    bench.tell(Event::Disconnected);
    assert!(matches!(bench.sender.state(), State::Stopped { .. }), "the reason stays to be seen");
    assert_eq!(bench.sender.deadline(), None);
    assert_eq!(bench.connect(&[1]), [Action::Offer], "a new session may be another gateway");
}

/// Every event in every state that a short walk reaches: no panic, and the invariants hold.
#[test]
fn no_order_of_events_breaks_the_invariants() {
    let ids = [1, 2, 3].map(|byte| target(byte).generation);
    let refusals = [
        Refusal::WrongBase { have: Some(held(1)) },
        Refusal::WrongRoot(root(9)),
        Refusal::MissingBase(ids[0]),
        Refusal::Damaged(String::new()),
        Refusal::OutOfOrder { want: 0, got: 1 },
        Refusal::NoRoom(String::new()),
        Refusal::Foreign,
    ];
    let mut events = vec![
        Event::Captured(target(3)),
        Event::Connected { held: vec![held(1)], draft: Some(ids[1]), asks: true, promised: vec![] },
        Event::Connected { held: vec![held(2), held(1)], draft: None, asks: false, promised: vec![] },
        Event::Disconnected,
        Event::Accepted(ids[1], 0),
        Event::Accepted(ids[1], 1),
        Event::Accepted(ids[2], 0),
        Event::Accepted(ids[1], 9),
        Event::Sealed(ids[1]),
        Event::Sealed(ids[2]),
        Event::Written(0),
        Event::Written(1),
        Event::Acknowledged(0),
        Event::Acknowledged(1),
        Event::SpoolDamaged(0),
        Event::Tick,
    ];
    events.extend(refusals.iter().map(|why| Event::Refused(ids[1], why.clone())));
    events.extend(refusals.iter().map(|why| Event::ParcelRefused(0, why.clone())));
    let coder = [
        CoderEvent::NothingLeft,
        CoderEvent::Planned { samples: true },
        CoderEvent::Planned { samples: false },
        CoderEvent::Answered { wants_rest: true },
        CoderEvent::Encoded,
        CoderEvent::Stored,
        CoderEvent::NoRoom(String::new()),
        CoderEvent::Failed(String::new()),
    ];
    // Half of the walk goes the usual way, so that it gets far enough to have something to break.
    let usual = [
        Event::Accepted(ids[1], 0),
        Event::Coder(0, CoderEvent::Planned { samples: false }),
        Event::Coder(0, CoderEvent::Encoded),
        Event::Coder(0, CoderEvent::Stored),
        Event::Written(0),
        Event::Written(1),
        Event::Acknowledged(0),
        Event::Acknowledged(1),
    ];
    let kinds = events.len() + coder.len();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    for _walk in 0..20_000 {
        let mut bench = Bench::new(&[1, 2], Some(1), None);
        bench.connect(&[1]);
        let mut acknowledged = (target(2).generation, 0);
        for _step in 0..60 {
            let event = match (random(2), random(kinds)) {
                (0, at) => match usual[at % usual.len()].clone() {
                    Event::Coder(_, event) => Event::Coder(bench.sender.attempt, event),
                    event => event,
                },
                (_, at) if at < events.len() => events[at].clone(),
                (_, at) => Event::Coder(bench.sender.attempt, coder[at - events.len()].clone()),
            };
            bench.now += Duration::from_secs(random(700) as u64);
            let actions = bench.tell(event.clone());
            check(&bench, &event, &actions, &mut acknowledged);
        }
    }
}

/// What must hold after every event.
fn check(bench: &Bench, event: &Event, actions: &[Action], acknowledged: &mut (GenerationId, u32)) {
    let state = bench.sender.state();
    if let Some(job) = bench.sender.job() {
        assert!(job.acknowledged <= job.next, "{event:?}: {state:?}");
        assert!(job.next - job.acknowledged <= AHEAD, "{event:?}: {state:?}");
        let begun = actions.iter().any(|action| matches!(action, Action::Begin(..)));
        if begun || job.target.generation != acknowledged.0 {
            *acknowledged = (job.target.generation, 0);
        }
        assert!(job.acknowledged >= acknowledged.1, "{event:?} took an acknowledgement back: {state:?}");
        acknowledged.1 = job.acknowledged;
        for action in actions {
            let Action::Send(number) = action else { continue };
            assert!((job.acknowledged..job.next).contains(number), "{event:?} sends what is not there: {state:?}");
        }
    }
    if let State::Moving(job, line) = state {
        assert!(line.next >= job.acknowledged, "{event:?}: {state:?}");
        assert!(line.next + u32::from(line.writing) <= job.next, "{event:?}: {state:?}");
        // Something is always under way, so that nothing can hang.
        let busy = line.writing || line.next > job.acknowledged || !matches!(job.coder, Coder::Resting);
        assert!(busy, "{event:?} leaves it idle: {state:?}");
    }
    if matches!(state, State::Waiting { .. }) && bench.sender.session.is_some() {
        assert!(bench.sender.deadline().is_some(), "{state:?}");
    }
    let folds = actions.iter().filter(|action| matches!(action, Action::Finish(_))).count();
    assert!(folds <= 1, "{actions:?}");
}

// ---- seeds by courier

fn promised(byte: u8, promise: Promise) -> Promised {
    Promised { generation: target(byte).generation, root: root(byte), promise }
}

fn seed(byte: u8, stage: SeedStage) -> Event {
    Event::Seed(Some(SeedSide { generation: target(byte).generation, stage }))
}

impl Bench {
    fn connect_to(&mut self, held_there: &[u8], promised: Vec<Promised>) -> Vec<Action> {
        let held = held_there.iter().map(|byte| held(*byte)).collect();
        self.tell(Event::Connected { held, draft: None, asks: true, promised })
    }

    /// Generation 1 is a seed on its way, generation 2 is on its way on it and accepted.
    fn on_a_promise() -> Bench {
        let mut bench = Bench::new(&[1, 2], None, None);
        bench.tell(seed(1, SeedStage::Out));
        let begun = bench.connect_to(&[], vec![promised(1, Promise::Expected)]);
        assert_eq!(begun, [Action::Begin(target(2), Some(held(1)), Mode::Coded), Action::Offer]);
        bench.tell(Event::Accepted(target(2).generation, 0));
        bench
    }
}

#[test]
fn what_changes_while_the_seed_travels_goes_out_at_once_and_builds_on_it() {
    let mut bench = Bench::on_a_promise();
    let asked = bench.coder(CoderEvent::Planned { samples: true });
    assert_eq!(asked, [Action::Encode(1)], "what an answer names could be forgotten before the seed is in");
    assert_eq!(bench.sender.promised_bases(), Some(vec![target(1).generation]));
    bench.coder(CoderEvent::Encoded);
    bench.coder(CoderEvent::Stored);
    bench.coder(CoderEvent::NothingLeft);
    bench.tell(Event::Written(0));
    assert_eq!(bench.tell(Event::Acknowledged(0)), [Action::Acknowledge(1), Action::Seal]);
    assert_eq!(bench.tell(Event::Waits(target(2).generation)), [Action::Park(target(2))]);
    assert_eq!((bench.sender.state(), bench.sender.hold()), (&State::Idle, Some(Hold::Waits)));
    // The next one builds on what waits.
    let begun = bench.tell(Event::Captured(target(3)));
    assert_eq!(begun, [Action::Begin(target(3), Some(held(2)), Mode::Coded), Action::Offer]);
    for byte in 1..=3 {
        assert!(bench.sender.needs(target(byte).generation), "{byte} may have to go again");
    }
}

#[test]
fn when_the_seed_is_in_all_that_joined_is_acknowledged() {
    let mut bench = Bench::on_a_promise();
    bench.coder(CoderEvent::NothingLeft);
    bench.tell(Event::Waits(target(2).generation));
    assert_eq!(bench.tell(Event::Seed(None)), []);
    assert_eq!(bench.connect_to(&[2, 1], vec![]), [Action::Finish(target(2))]);
    assert!(!bench.sender.needs(target(1).generation) && !bench.sender.has_work());
}

#[test]
fn what_did_not_join_is_sent_again_on_what_did() {
    let mut bench = Bench::on_a_promise();
    bench.coder(CoderEvent::NothingLeft);
    bench.tell(Event::Waits(target(2).generation));
    bench.tell(Event::Seed(None));
    let begun = bench.connect_to(&[1], vec![]);
    assert_eq!(begun, [Action::Begin(target(2), Some(held(1)), Mode::Coded), Action::Offer]);
    assert_eq!(bench.sender.promised_bases(), None);
}

#[test]
fn a_volume_whose_seed_is_not_expected_sends_nothing_by_itself() {
    for (stage, hold) in [
        (SeedStage::Exporting, Hold::Exporting),
        (SeedStage::Indexing, Hold::Indexing),
        (SeedStage::Out, Hold::NotExpected),
        (SeedStage::Ask, Hold::Ask),
        (SeedStage::NewSeed, Hold::NewSeed),
    ] {
        let mut bench = Bench::new(&[1, 2], None, None);
        bench.tell(seed(1, stage));
        assert_eq!(bench.connect_to(&[], vec![]), [], "{stage:?}");
        assert_eq!(bench.tell(Event::Captured(target(3))), [], "{stage:?}");
        assert_eq!(bench.sender.hold(), Some(hold));
        assert!(bench.sender.needs(target(1).generation));
        // Somebody says that it goes over the line.
        let begun = bench.tell(Event::Seed(None));
        assert_eq!(begun, [Action::Begin(target(3), None, Mode::Coded), Action::Offer], "{stage:?}");
    }
}

#[test]
fn an_export_stops_what_is_on_the_line() {
    let mut bench = Bench::new(&[2], None, None);
    bench.connect(&[]);
    bench.tell(Event::Accepted(target(2).generation, 0));
    bench.code();
    let stopped = bench.tell(seed(2, SeedStage::Exporting));
    let dropped = [Action::Abandon(target(2).generation), Action::StopCoding, Action::StopSending, Action::Drop];
    assert_eq!(stopped, dropped);
    // The seed's own generation never goes over the line while it is out.
    bench.tell(seed(2, SeedStage::Out));
    assert_eq!(bench.connect_to(&[], vec![promised(2, Promise::Expected)]), []);
    assert_eq!(bench.sender.hold(), Some(Hold::Waits));
}

#[test]
fn a_seed_that_is_given_up_stops_what_builds_on_it() {
    let mut bench = Bench::on_a_promise();
    bench.code();
    let stopped = bench.tell(seed(1, SeedStage::Ask));
    assert_eq!(stopped[0], Action::Abandon(target(2).generation));
    assert_eq!((bench.sender.state(), bench.sender.hold()), (&State::Idle, Some(Hold::Ask)));
    assert_eq!(bench.connect_to(&[], vec![]), []);
}

#[test]
fn what_waits_at_the_gateway_is_known_after_a_restart() {
    let mut bench = Bench::new(&[1, 2], None, Some(resumed(2, 3, 3)));
    bench.tell(seed(1, SeedStage::Out));
    let waiting = vec![promised(2, Promise::Waiting), promised(1, Promise::Expected)];
    assert_eq!(bench.connect_to(&[], waiting), [Action::StopSending, Action::Drop]);
    assert_eq!((bench.sender.state(), bench.sender.hold()), (&State::Idle, Some(Hold::Waits)));
    // In the middle of it, it goes on.
    let mut bench = Bench::new(&[1, 2], None, Some(resumed(2, 1, 3)));
    bench.tell(seed(1, SeedStage::Out));
    assert_eq!(bench.connect_to(&[], vec![promised(1, Promise::Expected)]), [Action::Offer]);
}

#[test]
fn a_promise_that_is_not_known_here_is_no_base() {
    let mut bench = Bench::new(&[1, 2], None, None);
    let stranger = Promised { root: root(9), ..promised(1, Promise::Expected) };
    assert_eq!(bench.connect_to(&[], vec![stranger]), []);
    assert_eq!(bench.sender.hold(), Some(Hold::Unknown));
}

#[test]
fn a_base_that_is_promised_no_more_is_asked_for_and_not_sent_around() {
    let mut bench = Bench::on_a_promise();
    bench.code();
    let asked = bench.tell(Event::ParcelRefused(0, Refusal::WrongBase { have: None }));
    assert_eq!(asked, [Action::Announce, Action::StopSending]);
    assert!(matches!(bench.sender.state(), State::Waiting { .. }));
    let again = bench.connect_to(&[1], vec![]);
    assert_eq!(again, [Action::Offer], "the seed came in meanwhile: the same base is held now");
}
