//! The gateway's half of a control session as a pure state machine: what the edge says and what the gateway's work has led to go in,
//! actions come out. No socket, no store, no clock.
//!
//! ```text
//!            Hello                    Admitted
//!  Fresh ─────────────► Admitting ───────────────► Open ──┐ messages, answers
//!    │ other message,      │ Denied                 │  ▲──┘
//!    │ deadline            ▼                        ▼ broken rule, revoked, replaced
//!    └───────────────► Closed ◄─────────────────────┘
//! ```
//!
//! The rules that it holds: hello first and once; a generation is offered only for a volume that this session announced; sealed,
//! abandoned or sent only after its offer was accepted here; one seal at a time per generation; only messages of the session's version.
//! Once closed it asks for nothing more.

use crate::message::{
    Ask, EdgeStatus, FromEdge, FromGateway, GenerationOffer, Hello, Minute, Refusal, VolumeOffer, Welcome,
};
use crate::release::Appliance;
use crate::seeding::Seeding;
use crate::telemetry::{Hearer, SiteFigures, VolumeFigures};
use crate::version::Version;
use dedupe::{BlockRun, GenerationId, LineageId, Root, UnixMillis};
use std::collections::{BTreeMap, BTreeSet};

/// How long a connection may stay silent before its hello: far more than a handshake on a bad line needs.
pub const HELLO_WITHIN_MS: u64 = 30_000;
/// Volumes of one site at most; a branch has some tens.
pub const MAX_VOLUMES: usize = 1024;

/// Something happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The edge said something.
    Said(FromEdge),
    /// [`Action::Admit`] was done: the edge may stay.
    Admitted(Welcome),
    /// An answer is ready: [`FromGateway::Held`], [`FromGateway::Accept`], [`FromGateway::Refuse`], …
    Ready(FromGateway),
    /// The session has to end: revoked, cloned, the daemon stops.
    End(Refusal),
    /// Time has passed.
    Tick,
}

/// Something is to be done. Each but the first and the last is answered with an [`Event::Ready`] when there is something to say.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send this.
    Send(FromGateway),
    /// Decide whether this edge may have a session; then [`Event::Admitted`] or [`Event::End`].
    Admit(Hello),
    /// Make the volume known.
    Announce(VolumeOffer),
    /// Check the offer and begin or go on with its draft.
    Prepare(GenerationOffer),
    /// Verify and make visible.
    Seal {
        /// The generation.
        generation: GenerationId,
        /// How many parcels it has.
        parcels: u32,
        /// What its bytes must hash to.
        root: Root,
    },
    /// Forget the draft.
    Abandon(GenerationId),
    /// Look marks up.
    Look(Ask),
    /// Sign a new certificate.
    Renew(Vec<u8>),
    /// Blocks for a repair came.
    Repair {
        /// The question's number.
        id: u64,
        /// The generation.
        generation: GenerationId,
        /// An encoded parcel; empty when the edge has them no more.
        parcel: Vec<u8>,
    },
    /// The edge needs blocks.
    Fetch {
        /// The question's number.
        id: u64,
        /// The generation.
        generation: GenerationId,
        /// The blocks.
        blocks: Vec<BlockRun>,
    },
    /// Note how the edge is; answered with the time.
    Note(EdgeStatus),
    /// Note which policy the edge has, and why it refused one; answered with a policy if there is a newer one.
    NotePolicy {
        /// Its version; 0: none.
        version: u64,
        /// Why the one that came was refused.
        refused: Option<String>,
    },
    /// Keep evidence of the line; answered when it is durable.
    Keep(Vec<Minute>),
    /// Keep what the edge tells of itself: all that it has told in this session, of volumes that it announced.
    Hear {
        /// Of the site.
        site: SiteFigures,
        /// Of its volumes.
        volumes: Vec<VolumeFigures>,
    },
    /// Say which generations of a volume are here.
    List {
        /// The question's number.
        id: u64,
        /// The lineage, which need not be announced in this session, but has to be the site's.
        lineage: LineageId,
        /// Only those with a smaller number; 0: from the newest on.
        before: u64,
    },
    /// Say how much differs between two generations.
    Measure {
        /// The question's number.
        id: u64,
        /// The generation that is wanted.
        generation: GenerationId,
        /// The one that the edge has.
        base: Option<GenerationId>,
    },
    /// Note which system the edge runs; answered with the release that it is to run.
    NoteAppliance(Appliance),
    /// Note where a seed is; answered with what is known of all of the site.
    NoteSeed(Seeding),
    /// Close the connection once everything is sent.
    Close(Refusal),
}

/// The gateway's half of one control session.
#[derive(Debug)]
pub struct Session {
    version: Version,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Nothing was said yet.
    Fresh { deadline: UnixMillis },
    /// The hello is being judged.
    Admitting,
    /// At work.
    Open(Box<Open>),
    /// Over.
    Closed,
}

#[derive(Debug, Default)]
struct Open {
    volumes: BTreeSet<LineageId>,
    generations: BTreeMap<GenerationId, Stage>,
    telemetry: Hearer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Offered,
    Accepted,
    Sealing,
}

impl Session {
    /// Begins when the control stream is open.
    pub fn new(version: Version, now: UnixMillis) -> Session {
        Session { version, phase: Phase::Fresh { deadline: UnixMillis(now.0 + HELLO_WITHIN_MS) } }
    }

    /// Whether the session is over.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Whether parcels of this generation may come: its offer was accepted in this session.
    pub fn receives(&self, generation: GenerationId) -> bool {
        matches!(&self.phase, Phase::Open(open) if open.generations.get(&generation) == Some(&Stage::Accepted))
    }

    /// The one transition function.
    pub fn step(&mut self, event: Event, now: UnixMillis) -> Vec<Action> {
        match (&mut self.phase, event) {
            (Phase::Closed, _) => Vec::new(),
            (_, Event::End(why)) => self.end(why),
            (Phase::Fresh { deadline }, Event::Tick) if now >= *deadline => self.break_off("no hello within 30 s"),
            (_, Event::Tick) => Vec::new(),
            (Phase::Fresh { .. }, Event::Said(FromEdge::Hello(hello))) => {
                self.phase = Phase::Admitting;
                vec![Action::Admit(hello)]
            }
            (Phase::Fresh { .. }, Event::Said(_)) => self.break_off("the first message has to be a hello"),
            (Phase::Admitting, Event::Admitted(welcome)) => {
                self.phase = Phase::Open(Box::default());
                vec![Action::Send(FromGateway::Welcome(welcome))]
            }
            (Phase::Admitting, Event::Said(_)) => self.break_off("a message came before the welcome"),
            (Phase::Open(open), Event::Said(message)) => match said(open, self.version, message) {
                Ok(action) => vec![action],
                Err(why) => self.break_off(&why),
            },
            (Phase::Open(open), Event::Ready(reply)) => {
                note_reply(open, &reply);
                vec![Action::Send(reply)]
            }
            (_, Event::Admitted(_) | Event::Ready(_)) => Vec::new(),
        }
    }

    fn break_off(&mut self, why: &str) -> Vec<Action> {
        self.end(Refusal::Protocol(why.into()))
    }

    fn end(&mut self, why: Refusal) -> Vec<Action> {
        self.phase = Phase::Closed;
        vec![Action::Send(FromGateway::Bye { why: why.clone() }), Action::Close(why)]
    }
}

/// What to do about a message in an open session, or which rule it breaks.
fn said(open: &mut Open, version: Version, message: FromEdge) -> Result<Action, String> {
    version.allows(&message).map_err(|error| error.to_string())?;
    Ok(match message {
        FromEdge::Hello(_) => return Err("a second hello".into()),
        FromEdge::Volume(volume) => {
            open.volumes.insert(volume.lineage);
            if open.volumes.len() > MAX_VOLUMES {
                return Err(format!("more than {MAX_VOLUMES} volumes"));
            }
            Action::Announce(volume)
        }
        FromEdge::Offer(offer) => {
            if !open.volumes.contains(&offer.lineage) {
                return Err(format!("generation {} is of a volume that was not announced", offer.generation));
            }
            open.generations.insert(offer.generation, Stage::Offered);
            if open.generations.len() > MAX_VOLUMES {
                return Err(format!("more than {MAX_VOLUMES} generations under way"));
            }
            Action::Prepare(offer)
        }
        FromEdge::Seal { generation, parcels, root } => match open.generations.get_mut(&generation) {
            Some(stage @ Stage::Accepted) => {
                *stage = Stage::Sealing;
                Action::Seal { generation, parcels, root }
            }
            _ => return Err(format!("generation {generation} cannot be sealed: it is not being received")),
        },
        FromEdge::Abandon { generation } => {
            open.generations.remove(&generation);
            Action::Abandon(generation)
        }
        FromEdge::Ask(ask) => Action::Look(ask),
        FromEdge::Renew { request } => Action::Renew(request),
        FromEdge::Repair { id, generation, parcel } => Action::Repair { id, generation, parcel },
        FromEdge::Fetch { id, generation, blocks } => Action::Fetch { id, generation, blocks },
        FromEdge::Status(status) => Action::Note(status),
        FromEdge::PolicyHeld { version, refused } => Action::NotePolicy { version, refused },
        FromEdge::Evidence(minutes) => Action::Keep(minutes),
        FromEdge::List { id, lineage, before } => Action::List { id, lineage, before },
        FromEdge::Measure { id, generation, base } => Action::Measure { id, generation, base },
        FromEdge::Appliance(appliance) => Action::NoteAppliance(appliance),
        FromEdge::Seeding(seeding) => Action::NoteSeed(seeding),
        FromEdge::Telemetry(report) => {
            open.telemetry.hear(&report).map_err(|error| error.to_string())?;
            // A volume that is told of before it is announced is known with the next report.
            let volumes = open.telemetry.volumes().filter(|volume| open.volumes.contains(&volume.lineage));
            Action::Hear { site: open.telemetry.site(), volumes: volumes.collect() }
        }
    })
}

/// What an answer means for the generation that it is about.
fn note_reply(open: &mut Open, reply: &FromGateway) {
    match reply {
        FromGateway::Accept { generation, .. } => {
            // An abandon may have overtaken the answer: then nothing is being received.
            if let Some(stage) = open.generations.get_mut(generation) {
                *stage = Stage::Accepted;
            }
        }
        // A seal that found no room may be tried again.
        FromGateway::Refuse { generation, why } if why.is_passing() => {
            if let Some(stage @ Stage::Sealing) = open.generations.get_mut(generation) {
                *stage = Stage::Accepted;
            }
        }
        FromGateway::Refuse { generation, .. }
        | FromGateway::Sealed { generation, .. }
        | FromGateway::Waits { generation } => {
            open.generations.remove(generation);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Report, Teller, VolumeWord};
    use dedupe::{ByteCount, Kind, RootScheme};

    const NOW: UnixMillis = UnixMillis(1_000_000);
    const LINEAGE: LineageId = LineageId([1; 16]);
    const GENERATION: GenerationId = GenerationId([2; 16]);
    const ROOT: Root = Root { scheme: RootScheme::Blake3, hash: [3; 32] };

    fn hello() -> FromEdge {
        FromEdge::Hello(Hello { software: "t".into(), instance: 1, now: NOW })
    }

    fn welcome() -> Welcome {
        Welcome { software: "t".into(), now: NOW, session: 9, addresses: vec![] }
    }

    fn volume(lineage: LineageId) -> FromEdge {
        FromEdge::Volume(VolumeOffer { lineage, kind: Kind::Volume, name: "v".into() })
    }

    fn offer() -> FromEdge {
        FromEdge::Offer(GenerationOffer {
            lineage: LINEAGE,
            generation: GENERATION,
            parent: None,
            size: ByteCount(4096),
            captured_at: NOW,
        })
    }

    fn seal() -> FromEdge {
        FromEdge::Seal { generation: GENERATION, parcels: 1, root: ROOT }
    }

    fn open(version: Version) -> Session {
        let mut session = Session::new(version, NOW);
        assert!(matches!(session.step(Event::Said(hello()), NOW)[..], [Action::Admit(_)]));
        let sent = session.step(Event::Admitted(welcome()), NOW);
        assert_eq!(sent, [Action::Send(FromGateway::Welcome(welcome()))]);
        session
    }

    fn receiving() -> Session {
        let mut session = open(Version::V2);
        assert!(matches!(session.step(Event::Said(volume(LINEAGE)), NOW)[..], [Action::Announce(_)]));
        assert!(matches!(session.step(Event::Said(offer()), NOW)[..], [Action::Prepare(_)]));
        assert!(!session.receives(GENERATION), "not before it is accepted");
        session.step(Event::Ready(FromGateway::Accept { generation: GENERATION, next_parcel: 0 }), NOW);
        assert!(session.receives(GENERATION));
        session
    }

    #[track_caller]
    fn assert_broken(mut session: Session, message: FromEdge, why: &str) {
        let actions = session.step(Event::Said(message), NOW);
        let refusal = Refusal::Protocol(why.into());
        assert_eq!(actions, [Action::Send(FromGateway::Bye { why: refusal.clone() }), Action::Close(refusal)]);
        assert!(session.is_closed());
        assert_eq!(session.step(Event::Said(hello()), NOW), [], "nothing after the end");
    }

    #[test]
    fn hello_comes_first_and_once() {
        assert_broken(Session::new(Version::V2, NOW), seal(), "the first message has to be a hello");
        assert_broken(open(Version::V2), hello(), "a second hello");
        let mut admitting = Session::new(Version::V2, NOW);
        admitting.step(Event::Said(hello()), NOW);
        assert_broken(admitting, volume(LINEAGE), "a message came before the welcome");
    }

    #[test]
    fn a_silent_connection_is_closed_at_its_deadline() {
        let mut session = Session::new(Version::V2, NOW);
        assert_eq!(session.step(Event::Tick, UnixMillis(NOW.0 + HELLO_WITHIN_MS - 1)), []);
        assert_eq!(session.step(Event::Tick, UnixMillis(NOW.0 + HELLO_WITHIN_MS)).len(), 2);
        assert!(session.is_closed());
        assert_eq!(open(Version::V2).step(Event::Tick, UnixMillis(u64::MAX)), [], "an open session may be silent");
    }

    #[test]
    fn generations_belong_to_announced_volumes_and_are_sealed_after_their_offer() {
        let stranger = format!("generation {GENERATION} is of a volume that was not announced");
        assert_broken(open(Version::V2), offer(), &stranger);
        let early = format!("generation {GENERATION} cannot be sealed: it is not being received");
        assert_broken(open(Version::V2), seal(), &early);
        let mut twice = receiving();
        assert!(matches!(twice.step(Event::Said(seal()), NOW)[..], [Action::Seal { .. }]));
        assert!(!twice.receives(GENERATION), "no parcels while it is sealed");
        assert_broken(twice, seal(), &early);
    }

    #[test]
    fn a_seal_without_room_may_be_tried_again_and_one_with_a_wrong_root_may_not() {
        for (why, again) in [(Refusal::NoRoom("disk".into()), true), (Refusal::WrongRoot(ROOT), false)] {
            let mut session = receiving();
            session.step(Event::Said(seal()), NOW);
            session.step(Event::Ready(FromGateway::Refuse { generation: GENERATION, why }), NOW);
            assert_eq!(session.receives(GENERATION), again);
        }
    }

    #[test]
    fn an_abandoned_generation_is_not_received_even_if_its_answer_comes_late() {
        let mut session = open(Version::V2);
        session.step(Event::Said(volume(LINEAGE)), NOW);
        session.step(Event::Said(offer()), NOW);
        session.step(Event::Said(FromEdge::Abandon { generation: GENERATION }), NOW);
        session.step(Event::Ready(FromGateway::Accept { generation: GENERATION, next_parcel: 0 }), NOW);
        assert!(!session.receives(GENERATION));
    }

    #[test]
    fn questions_need_version_2() {
        let ask = || FromEdge::Ask(Ask { id: 1, marks: vec![] });
        assert!(matches!(open(Version::V2).step(Event::Said(ask()), NOW)[..], [Action::Look(_)]));
        let why = "a question about marks exists since version V2, and this session speaks V1";
        assert_broken(open(Version::V1), ask(), why);
    }

    #[test]
    fn telemetry_is_handed_on_for_announced_volumes_and_needs_version_3() {
        let mut teller = Teller::default();
        let figures = |lineage| VolumeFigures {
            lineage,
            state: crate::telemetry::VolumeState::UpToDate,
            captured: 5,
            size: 6,
            changed: 7,
            raw: 8,
            coded: 9,
            left: 0,
            arrives: 0,
            deadline: 0,
            class: 1,
            weight: 10,
        };
        let volumes = [figures(LINEAGE), figures(LineageId([9; 16]))];
        let mut told = |uptime| {
            let site = SiteFigures { uptime, policy: 3, ..SiteFigures::default() };
            (FromEdge::Telemetry(teller.tell(&site, &volumes)), site)
        };
        let mut session = open(Version::V3);
        session.step(Event::Said(volume(LINEAGE)), NOW);
        for uptime in [60, 120] {
            let (message, site) = told(uptime);
            let expected = Action::Hear { site, volumes: vec![figures(LINEAGE)] };
            assert_eq!(session.step(Event::Said(message), NOW), [expected]);
        }
        // The third report without the first two means nothing.
        let mut odd = Report::default();
        odd.volumes.push(VolumeWord::Gone { number: 3 });
        let why = "telemetry names volume 3, which it did not introduce, or introduces it twice";
        assert_broken(session, FromEdge::Telemetry(odd), why);
        let why = "telemetry exists since version V3, and this session speaks V2";
        assert_broken(open(Version::V2), told(180).0, why);
    }

    #[test]
    fn what_is_there_is_told_in_version_4_also_of_a_volume_that_was_not_announced() {
        let list = FromEdge::List { id: 3, lineage: LINEAGE, before: 7 };
        let mut session = open(Version::V4);
        let asked = session.step(Event::Said(list.clone()), NOW);
        assert_eq!(asked, [Action::List { id: 3, lineage: LINEAGE, before: 7 }]);
        let measure = FromEdge::Measure { id: 4, generation: GENERATION, base: None };
        let asked = session.step(Event::Said(measure), NOW);
        assert_eq!(asked, [Action::Measure { id: 4, generation: GENERATION, base: None }]);
        let answer = FromGateway::Measured { id: 4, measured: None };
        assert_eq!(session.step(Event::Ready(answer.clone()), NOW), [Action::Send(answer)]);
        let why = "a question about restoring exists since version V4, and this session speaks V3";
        assert_broken(open(Version::V3), list, why);
    }

    #[test]
    fn a_session_ends_when_it_is_told_to() {
        let mut session = receiving();
        let actions = session.step(Event::End(Refusal::Revoked), NOW);
        assert_eq!(actions.len(), 2);
        assert!(!session.receives(GENERATION));
    }

    #[test]
    fn volumes_are_bounded() {
        let mut session = open(Version::V2);
        for number in 0..MAX_VOLUMES as u128 {
            session.step(Event::Said(volume(LineageId(number.to_le_bytes()))), NOW);
        }
        assert!(!session.is_closed());
        assert_broken(session, volume(LineageId([0xff; 16])), "more than 1024 volumes");
    }

    #[test]
    fn a_generation_that_waits_is_received_no_more() {
        let mut session = open(Version::V6);
        session.step(Event::Said(volume(LINEAGE)), NOW);
        session.step(Event::Said(offer()), NOW);
        session.step(Event::Ready(FromGateway::Accept { generation: GENERATION, next_parcel: 0 }), NOW);
        session.step(Event::Said(FromEdge::Seal { generation: GENERATION, parcels: 0, root: ROOT }), NOW);
        let waits = FromGateway::Waits { generation: GENERATION };
        assert_eq!(session.step(Event::Ready(waits.clone()), NOW), [Action::Send(waits)]);
        assert!(!session.receives(GENERATION));
        let again = FromEdge::Seal { generation: GENERATION, parcels: 0, root: ROOT };
        assert!(matches!(session.step(Event::Said(again), NOW)[..], [_, Action::Close(Refusal::Protocol(_))]));
    }
}
