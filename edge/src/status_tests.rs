#![allow(clippy::disallowed_methods, reason = "tests ask for the time themselves")]

use super::*;
use crate::journal::{Acknowledged, Cost, Sending};
use crate::link::DownCause;
use crate::sender::{Job, Line};
use dedupe::{
    BlockNumber, ByteCount, GenerationId, GenerationStats, LineageId, Progress, Root, RootScheme, Sealed, SlabNumber,
};
use shaping::BitsPerSec;
use shaping::policy::{Bar, VolumeClass, VolumeStanding};
use shaping::scheduler::Terms;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

const NOW: UnixMillis = UnixMillis(1_800_000_200_000);

fn root() -> Root {
    Root { scheme: RootScheme::Blake3, hash: [1; 32] }
}

fn newest() -> Generation {
    Generation {
        id: GenerationId([7; 16]),
        lineage: LineageId([1; 16]),
        number: 7,
        parent: None,
        size: ByteCount(20_000_000_000),
        captured_at: NOW,
        sealed: Some(Sealed { root: root(), at: NOW }),
        stats: GenerationStats::default(),
        source: vec![],
        scanned: SlabNumber(0),
    }
}

fn captured() -> CaptureSide {
    CaptureSide { newest: Some(newest()), ..CaptureSide::default() }
}

fn side(state: State) -> SenderSide {
    SenderSide {
        state,
        size: ByteCount(20_000_000_000),
        cost: Cost::default(),
        planned: 0,
        parcel: None,
        acknowledged: None,
        sealed_captured: None,
        trouble: None,
        hold: None,
        awaited: Vec::new(),
    }
}

fn job(acknowledged: u32, next: u32, coder: Coder) -> Job {
    let mut job = Job::resumed(&Sending {
        base: None,
        target: GenerationId([7; 16]),
        root: root(),
        cursor: BlockNumber(0),
        next,
        acknowledged,
        mode: crate::journal::Mode::Coded,
        without: vec![],
        cost: Cost::default(),
    });
    job.coder = coder;
    job
}

fn connected() -> LinkState {
    LinkState::Connected { address: "gw:4433".into(), version: "V2".into(), gateway: "0.1.0".into() }
}

fn say(capture: &CaptureSide, sender: &SenderSide) -> String {
    say_at(capture, sender, &connected(), "1.6 Mbit/s".parse().unwrap())
}

fn say_at(capture: &CaptureSide, sender: &SenderSide, link: &LinkState, rate: Rate) -> String {
    say_sharing(capture, sender, link, rate, &share(None))
}

fn say_sharing(capture: &CaptureSide, sender: &SenderSide, link: &LinkState, rate: Rate, share: &Share) -> String {
    sentence(capture, sender, &Surroundings { link, rate, now: NOW, instant: Instant::now(), share })
}

fn share(waits: Option<Waits>) -> Share {
    let standing = VolumeStanding { terms: Terms::default(), lag: None, bar: None, until: None };
    Share { standing, waits }
}

#[test]
fn each_state_has_its_sentence() {
    let never = CaptureSide::default();
    assert_eq!(say(&never, &side(State::Idle)), "Not captured yet.");
    assert_eq!(say(&captured(), &side(State::Idle)), "Generation 7 is about to be offered.");
    assert_eq!(
        say_at(&captured(), &side(State::Idle), &LinkState::Unenrolled, Rate::Unlimited),
        "Generation 7 waits for a session with a gateway."
    );
    let mut done = side(State::Idle);
    let at = UnixMillis(NOW.0 - 200_000);
    let sealed = Acknowledged { generation: GenerationId([7; 16]), root: root(), at, cost: Cost::default() };
    done.acknowledged = Some((sealed, 7));
    assert_eq!(say(&captured(), &done), "Up to date: generation 7 was verified at the gateway 3 min 20 s ago.");
    assert_eq!(
        say(&captured(), &side(State::Offline(job(3, 4, Coder::Resting)))),
        "On its way (3 parcels acknowledged), waiting for a session with a gateway."
    );
    assert_eq!(say(&captured(), &side(State::Offering(job(0, 0, Coder::Resting)))), "Offering to the gateway.");
    assert_eq!(
        say(&captured(), &side(State::Sealing(job(1, 1, Coder::Finished)))),
        "The gateway verifies what was sent."
    );
    let waiting = State::Waiting {
        job: job(0, 1, Coder::Resting),
        until: Instant::now(),
        why: "the gateway has no room: disk full".into(),
    };
    assert_eq!(say(&captured(), &side(waiting)), "Waiting: the gateway has no room: disk full.");
    let stopped = State::Stopped { job: job(0, 1, Coder::Resting), until: Instant::now(), why: "it is foreign".into() };
    assert_eq!(say(&captured(), &side(stopped)), "Stopped until a person helps: it is foreign.");
}

#[test]
fn a_moving_generation_says_what_it_waits_for() {
    let moving = |acknowledged, next, coder, line_next, writing| {
        side(State::Moving(job(acknowledged, next, coder), Line { next: line_next, writing }))
    };
    let coder = |coder| say(&captured(), &moving(0, 0, coder, 0, false));
    assert_eq!(coder(Coder::Planning), "Finding what is to be sent.");
    assert_eq!(coder(Coder::Asking { rest: false }), "Asking the gateway what it holds already.");
    assert_eq!(coder(Coder::Encoding), "Coding a parcel.");
    let mut sending = moving(1, 3, Coder::Encoding, 1, true);
    sending.parcel = Some((3_400_000, Arc::new(AtomicU64::new(1_200_000))));
    assert_eq!(say(&captured(), &sending), "Sending parcel 2: 1.20 MB of 3.40 MB (1 parcel acknowledged).");
    assert_eq!(
        say_at(&captured(), &sending, &connected(), Rate::Closed),
        "Waiting: the line is closed for data (rate 0) (1 parcel acknowledged)."
    );
    assert_eq!(
        say(&captured(), &moving(0, 1, Coder::Finished, 1, false)),
        "Waiting for the gateway to take in what was sent."
    );
    let full = Coder::NoRoom { until: Instant::now(), why: "the disk is full".into() };
    assert_eq!(coder(full), "Not sending; coding is held back: the disk is full.");
}

#[test]
fn captures_and_their_troubles_are_said_too() {
    let progress = Arc::new(Progress::default());
    progress.total.store(20_000_000_000, Ordering::Relaxed);
    progress.done.store(5_000_000_000, Ordering::Relaxed);
    let mut capture = captured();
    capture.running = Some((progress, Instant::now()));
    assert_eq!(say(&capture, &side(State::Idle)), "Being captured: 5.00 GB of 20.0 GB (25 %).");
    capture.running = None;
    capture.failed = Some("/srv/disk.img vanished".into());
    capture.unreadable = 2;
    assert_eq!(
        say(&capture, &side(State::Idle)),
        "Generation 7 is about to be offered; the last capture failed: /srv/disk.img vanished; \
         2 ranges of sectors were unreadable and are zero in the newest generation."
    );
}

#[test]
fn the_line_has_its_sentence() {
    let at = |link: &LinkState| line(link, "1.6 Mbit/s".parse().unwrap(), NOW);
    assert!(at(&LinkState::Unenrolled).contains("sluice-edge enrol"));
    assert_eq!(at(&connected()), "Connected with gw:4433 at up to 1.6 Mbit/s.");
    assert_eq!(line(&connected(), Rate::Closed, NOW), "Connected with gw:4433; closed for data (rate 0).");
    let down = LinkState::Down {
        why: "nothing was heard".into(),
        retry_at: NOW.0 + 8_000,
        needs_person: false,
        cause: DownCause::Silent,
    };
    assert_eq!(at(&down), "No gateway: nothing was heard. Next attempt in 8 s.");
    let revoked = LinkState::Down {
        why: "the site is revoked".into(),
        retry_at: NOW.0 + 600_000,
        needs_person: true,
        cause: DownCause::Revoked,
    };
    assert_eq!(at(&revoked), "No gateway: the site is revoked. This needs a person. Next attempt in 10 min 0 s.");
}

#[test]
fn a_volume_says_why_it_does_not_send() {
    let mut sending = side(State::Moving(job(0, 2, Coder::Resting), Line { next: 1, writing: true }));
    sending.parcel = Some((3_400_000, Arc::new(AtomicU64::new(1_200_000))));
    let rate = "1.6 Mbit/s".parse().unwrap();
    let says = |share: &Share| say_sharing(&captured(), &sending, &connected(), rate, share);
    let behind = share(Some(Waits::Behind(VolumeClass::Critical)));
    assert_eq!(says(&behind), "Waits behind critical, with 1.20 MB of 3.40 MB of parcel 2 sent.");
    let mut capped = share(Some(Waits::Cap(BitsPerSec::kbit(245))));
    capped.standing.terms.cap = Some(BitsPerSec::kbit(256));
    assert_eq!(says(&capped), "Sending parcel 2: 1.20 MB of 3.40 MB, at its cap of 256 kbit/s.");
    let mut held = share(Some(Waits::Barred));
    held.standing.bar = Some(Bar {
        until: None,
        actor: "li".into(),
        reason: "audit".into(),
        sentence: "held until Mon 2026-11-23 09:00 by li (audit)".into(),
    });
    assert_eq!(says(&held), "Held until Mon 2026-11-23 09:00 by li (audit), with 1.20 MB of 3.40 MB of parcel 2 sent.");
    let coding = side(State::Moving(job(0, 0, Coder::Encoding), Line { next: 0, writing: false }));
    let said = say_sharing(&captured(), &coding, &connected(), rate, &held);
    assert_eq!(said, "Held until Mon 2026-11-23 09:00 by li (audit).");
}

#[test]
fn a_deadline_is_that_of_what_the_gateway_holds() {
    let (mut sender, mut share) = (side(State::Idle), share(None));
    assert_eq!(deadline(&sender, &share), None);
    share.standing.lag = Some(Duration::from_secs(3600));
    assert_eq!(deadline(&sender, &share), None, "nothing there can be too old");
    sender.sealed_captured = Some(NOW);
    assert_eq!(deadline(&sender, &share), Some((NOW.0 / 1000 + 3600) as i64));
}

#[test]
fn each_state_has_its_word_for_telemetry() {
    use wire::telemetry::VolumeState;
    let word = |capture: &CaptureSide, sender: &SenderSide, link: &LinkState, rate: Rate, waits| {
        let share = &share(waits);
        crate::figures::state(capture, sender, &Surroundings { link, rate, now: NOW, instant: Instant::now(), share })
    };
    let (open, up) = ("1.6 Mbit/s".parse().unwrap(), connected());
    let says = |capture: &CaptureSide, sender: &SenderSide| word(capture, sender, &up, open, None);
    let line = Line { next: 1, writing: true };
    let moving = |coder| side(State::Moving(job(0, 1, coder), line));
    let capturing = CaptureSide { running: Some((Arc::default(), Instant::now())), ..captured() };
    let failed = CaptureSide { failed: Some("a sector".into()), ..captured() };
    assert_eq!(says(&CaptureSide::default(), &side(State::Idle)), VolumeState::NeverCaptured);
    assert_eq!(says(&capturing, &side(State::Idle)), VolumeState::Capturing);
    assert_eq!(says(&captured(), &side(State::Idle)), VolumeState::Waiting, "not offered yet");
    assert_eq!(says(&failed, &side(State::Idle)), VolumeState::Troubled);
    assert_eq!(says(&captured(), &side(State::Offline(job(0, 1, Coder::Resting)))), VolumeState::Waiting);
    assert_eq!(says(&capturing, &moving(Coder::Resting)), VolumeState::Sending, "what is on its way goes first");
    let full = Coder::NoRoom { until: Instant::now(), why: "full".into() };
    assert_eq!(says(&captured(), &moving(full)), VolumeState::Troubled);
    assert_eq!(says(&captured(), &side(State::Sealing(job(1, 1, Coder::Finished)))), VolumeState::Verifying);
    let of = |waits| word(&captured(), &moving(Coder::Resting), &up, open, waits);
    assert_eq!(of(Some(Waits::Behind(VolumeClass::Critical))), VolumeState::Behind);
    assert_eq!(of(Some(Waits::Turn)), VolumeState::Sending);
    assert_eq!(word(&captured(), &moving(Coder::Resting), &up, Rate::Closed, None), VolumeState::Waiting);
    let (until, why) = (Instant::now(), String::new());
    let (stopped, waiting) = (job(0, 0, Coder::Resting), job(0, 0, Coder::Resting));
    assert_eq!(says(&failed, &side(State::Stopped { job: stopped, until, why: why.clone() })), VolumeState::Stopped);
    assert_eq!(says(&captured(), &side(State::Waiting { job: waiting, until, why })), VolumeState::Troubled);
}

#[test]
fn what_nothing_is_coded_of_counts_at_the_ratio_of_the_last_one() {
    let mut capture = captured();
    capture.newest.as_mut().unwrap().stats =
        GenerationStats { new_blocks: 90, zeroed_blocks: 10, ..Default::default() };
    let left = |sender: &SenderSide, is_sending, last| crate::figures::not_begun(&capture, sender, is_sending, last);
    let last = Cost { parcels: 1, coded_bytes: 1_000, raw_bytes: 10_000, cpu_micros: 1 };
    assert_eq!(left(&side(State::Idle), false, Cost::default()), 409_600, "nothing was sent yet: as it is");
    assert_eq!(left(&side(State::Idle), false, last), 40_960);
    assert_eq!(left(&side(State::Offline(job(0, 0, Coder::Resting))), false, last), 40_960);
    assert_eq!(left(&side(State::Offline(job(0, 1, Coder::Resting))), true, last), 0, "what is coded of it counts");
    let mut done = side(State::Idle);
    let sealed = Acknowledged { generation: GenerationId([7; 16]), root: root(), at: NOW, cost: last };
    done.acknowledged = Some((sealed, 7));
    assert_eq!(left(&done, false, last), 0);
}
