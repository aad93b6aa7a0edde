//! Every message that crosses the line, as one enum per direction, with the limits that hold before anything is parsed.
//!
//! Encoding: a frame is a `u32` length (little endian) and that many bytes of postcard. Unknown variants are a typed error.
//! Variants are only ever added at the end, and only used in a session whose version has them (see [`crate::version`]).

use crate::policy::SignedPolicy;
use crate::release::{Appliance, Order, PartFollows, PartWanted};
use crate::seeding::{Promised, Seeding, Seeds};
use crate::telemetry::Report;
use dedupe::{
    BlockNumber, BlockRun, ByteCount, GenerationId, Kind, LineageId, Mark, Measured, Root, UnixMillis, Wanted,
};
use serde::{Deserialize, Serialize};

/// Bytes of one control frame at most. The largest is [`Ask::marks`]: 16,384 marks of 6 bytes are 96 KiB.
pub const MAX_FRAME: usize = 256 << 10;
/// Marks in one question at most: the blocks of one 64 MiB parcel.
pub const MAX_MARKS: usize = 16_384;
/// Characters of a name (site, volume) at most.
pub const MAX_NAME: usize = 100;

/// What the edge says on its control connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromEdge {
    /// First message of a control connection.
    Hello(Hello),
    /// A volume that this edge replicates. Repeating it is harmless; it may carry a new size or name.
    Volume(VolumeOffer),
    /// A generation is about to be sent. Answered by [`FromGateway::Accept`] or [`FromGateway::Refuse`].
    Offer(GenerationOffer),
    /// All parcels of the generation are acknowledged: make it visible if its root comes out right.
    Seal {
        /// The generation.
        generation: GenerationId,
        /// How many parcels it has.
        parcels: u32,
        /// What its bytes must hash to.
        root: Root,
    },
    /// The edge gives a draft up (superseded, or its sending state was lost). The gateway forgets it.
    Abandon {
        /// The generation.
        generation: GenerationId,
    },
    /// Which of these blocks does the gateway hold already, of any volume of the tenant? Since version 2.
    Ask(Ask),
    /// A certificate signing request (DER) to renew the edge's certificate.
    Renew {
        /// PKCS #10, DER.
        request: Vec<u8>,
    },
    /// Blocks for a repair that the gateway asked for, as a parcel without bases; empty when the edge has them no more.
    Repair {
        /// The question's number.
        id: u64,
        /// The generation that the blocks belong to.
        generation: GenerationId,
        /// An encoded parcel, at most [`MAX_FRAME`] with the rest of the message.
        parcel: Vec<u8>,
    },
    /// The edge wants blocks of a sealed generation back, because its own copy is damaged. Answered by [`FromGateway::Blocks`].
    Fetch {
        /// The question's number.
        id: u64,
        /// The generation.
        generation: GenerationId,
        /// The blocks, few enough for one frame.
        blocks: Vec<BlockRun>,
    },
    /// A sign of life with what the NOC wants to know; small, and counted like everything else.
    Status(EdgeStatus),
    /// Which policy is in force here: said after the welcome and after each [`FromGateway::Policy`]. Since version 2.
    PolicyHeld {
        /// Its version; 0: none.
        version: u64,
        /// Why the one that came was refused; at most 300 characters.
        refused: Option<String>,
    },
    /// What the line was used for, minute by minute, oldest first; at most [`MAX_MINUTES`]. Since version 2.
    Evidence(Vec<Minute>),
    /// What changed of the edge's figures; said together with [`FromEdge::Status`]. Since version 3.
    Telemetry(Report),
    /// Which generations of its own volume are there? Answered by [`FromGateway::Listed`]. Since version 4.
    List {
        /// The question's number.
        id: u64,
        /// The volume's lineage.
        lineage: LineageId,
        /// Only those with a smaller number at the gateway; 0: from the newest on.
        before: u64,
    },
    /// How much differs between two generations of its own? Answered by [`FromGateway::Measured`]. Since version 4.
    Measure {
        /// The question's number.
        id: u64,
        /// The generation that is wanted.
        generation: GenerationId,
        /// The one that the edge has.
        base: Option<GenerationId>,
    },
    /// Which system this appliance runs. Answered by [`FromGateway::Release`]. An edge that is no appliance does not say it. Since version 5.
    Appliance(Appliance),
    /// Where a seed by courier is: before its volume is announced, and when that changes. Answered by [`FromGateway::Seeds`]. Since version 6.
    Seeding(Seeding),
}

/// What the gateway says on a control connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromGateway {
    /// Answer to [`FromEdge::Hello`].
    Welcome(Welcome),
    /// Answer to [`FromEdge::Volume`]: the generations of it that the gateway holds, newest first, at most 64.
    Held {
        /// The volume's lineage.
        lineage: LineageId,
        /// Sealed generations: usable as bases.
        sealed: Vec<(GenerationId, Root)>,
        /// A draft that this edge may go on with, and the number of its next parcel.
        draft: Option<(GenerationId, u32)>,
    },
    /// The generation may be sent, from this parcel on.
    Accept {
        /// The generation.
        generation: GenerationId,
        /// Number of the first parcel that is not yet durable and verified here.
        next_parcel: u32,
    },
    /// The generation may not be sent.
    Refuse {
        /// The generation.
        generation: GenerationId,
        /// Why.
        why: Refusal,
    },
    /// The generation is verified and visible.
    Sealed {
        /// The generation.
        generation: GenerationId,
        /// Its number for people.
        number: u64,
    },
    /// Answer to [`FromEdge::Ask`].
    Answer(Answer),
    /// A renewed certificate (DER) and the CA certificates to trust from now on (DER).
    Certificate {
        /// The edge's certificate.
        certificate: Vec<u8>,
        /// Every CA certificate to trust, the old one included while a rotation lasts.
        authorities: Vec<Vec<u8>>,
    },
    /// Where the gateway may be reached from now on, in order of preference.
    Addresses(Vec<String>),
    /// Please send these blocks: the gateway's copy is damaged.
    RepairWanted {
        /// Number to answer with.
        id: u64,
        /// The generation.
        generation: GenerationId,
        /// The blocks.
        blocks: Vec<BlockRun>,
    },
    /// Answer to [`FromEdge::Fetch`]: an encoded parcel without bases; empty when the gateway has them no more.
    Blocks {
        /// The question's number.
        id: u64,
        /// The parcel.
        parcel: Vec<u8>,
    },
    /// The session ends, and why. The connection is closed after it.
    Bye {
        /// Why.
        why: Refusal,
    },
    /// The policy of the edge's site. Since version 2.
    Policy(SignedPolicy),
    /// The gateway's clock, after each [`FromEdge::Status`]. Since version 2.
    Time {
        /// Now.
        now: UnixMillis,
    },
    /// What the edge may use of the gateway's own line. Since version 2.
    Grant {
        /// Bits per second towards the gateway; 0: nothing.
        bits: u64,
        /// Milliseconds for which it holds.
        millis: u32,
    },
    /// Evidence up to this minute is durable here: it need not be sent again. Since version 2.
    EvidenceHeld {
        /// Minutes since 1970.
        minute: u32,
    },
    /// Answer to [`FromEdge::List`]: sealed generations, newest first, at most 64; none of a volume that is not the site's. Since version 4.
    Listed {
        /// The question's number.
        id: u64,
        /// The generations.
        generations: Vec<Held>,
    },
    /// Answer to [`FromEdge::Measure`]; `None` when there are no such generations of this site. Since version 4.
    Measured {
        /// The question's number.
        id: u64,
        /// What differs.
        measured: Option<Measured>,
    },
    /// Which release the edge is to run, if a roll-out has reached its site: after each [`FromEdge::Appliance`], and when it changes. Since version 5.
    Release(Option<Order>),
    /// Takes the place of [`FromGateway::Held`]; also said when what is held changed by an import. Since version 6.
    Holding {
        /// The volume's lineage.
        lineage: LineageId,
        /// Sealed generations, newest first, at most 64.
        sealed: Vec<(GenerationId, Root)>,
        /// A draft that this edge may go on with, and the number of its next parcel.
        draft: Option<(GenerationId, u32)>,
        /// Generations that are promised, newest first, at most 64: usable as bases too, for what then waits with them.
        promised: Vec<Promised>,
    },
    /// Takes the place of [`FromGateway::Sealed`] where the generation builds on a promised one: it is complete and durable, and waits. Since version 6.
    Waits {
        /// The generation.
        generation: GenerationId,
    },
    /// What the gateway knows of this site's seeds: after the welcome, after each [`FromEdge::Seeding`], and when it changes. Since version 6.
    Seeds(Seeds),
}

/// A sealed generation that the gateway holds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// The generation.
    pub generation: GenerationId,
    /// Its number at the gateway, for people.
    pub number: u64,
    /// What its bytes hash to.
    pub root: Root,
    /// Size of the volume.
    pub size: ByteCount,
    /// When it was captured.
    pub captured_at: UnixMillis,
}

/// Who speaks, and what it understands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// The edge's software version, for people.
    pub software: String,
    /// Random number of this run of the edge's daemon. A second live session of the same site with another number is a clone.
    pub instance: u64,
    /// The edge's clock.
    pub now: UnixMillis,
}

/// The gateway's first answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// The gateway's software version, for people.
    pub software: String,
    /// The gateway's clock.
    pub now: UnixMillis,
    /// Names the control connection to the data connection.
    pub session: u64,
    /// Where the gateway may be reached, in order of preference.
    pub addresses: Vec<String>,
}

/// A volume and its lineage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeOffer {
    /// The lineage, made by the edge when the volume was added.
    pub lineage: LineageId,
    /// What the lineage holds.
    pub kind: Kind,
    /// The volume's name at the site, at most [`MAX_NAME`] characters.
    pub name: String,
}

/// What is going to be sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerationOffer {
    /// The lineage.
    pub lineage: LineageId,
    /// The new generation.
    pub generation: GenerationId,
    /// The generation that it builds on, with its root; `None` for a seed.
    pub parent: Option<(GenerationId, Root)>,
    /// Size of the volume in this generation.
    pub size: ByteCount,
    /// When it was captured.
    pub captured_at: UnixMillis,
}

/// A question for exact references. The answer to a sample decides whether the rest is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// Number of the question, given back in the answer.
    pub id: u64,
    /// The blocks' marks, at most [`MAX_MARKS`].
    pub marks: Vec<Mark>,
}

/// What the gateway holds of a question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Number of the question.
    pub id: u64,
    /// Runs of marks that are held, in the order of the question.
    pub found: Vec<Found>,
}

/// `count` marks from number `at` on are the blocks from `first` on of `generation`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Index into the question's marks.
    pub at: u32,
    /// Length of the run.
    pub count: u32,
    /// A sealed generation of the tenant.
    pub generation: GenerationId,
    /// Its block that equals mark `at`.
    pub first: BlockNumber,
}

/// One minute of the line, for the report to whoever owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Minute {
    /// Minutes since 1970, by the trusted clock.
    pub minute: u32,
    /// IP-level bytes sent in it.
    pub sent: u32,
    /// IP-level bytes received in it.
    pub received: u32,
    /// Bytes that the decisions of this minute allowed to be sent.
    pub allowed: u32,
    /// The most bytes sent in one of its seconds.
    pub peak: u32,
    /// What the deciding term was at its end; see `shaping::policy::Reason::word`.
    pub reason: u8,
}

/// Minutes of one [`FromEdge::Evidence`] at most: a day.
pub const MAX_MINUTES: usize = 1440;

/// A sign of life, once a minute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EdgeStatus {
    /// Bytes that wait in the spool.
    pub spooled: u64,
    /// IP-level bytes sent since the daemon started.
    pub sent: u64,
    /// IP-level bytes received since the daemon started.
    pub received: u64,
    /// One sentence for people: what it is doing and what holds it back.
    pub doing: String,
}

/// Why something was refused; each says what the edge does about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The edge re-plans from what the gateway holds.
    #[error("the gateway holds another generation than the one this delta builds on")]
    WrongBase {
        /// The newest sealed generation of the lineage, if there is one.
        have: Option<(GenerationId, Root)>,
    },
    /// The edge abandons the draft and sends the changed leaves plainly.
    #[error("the rebuilt volume hashes to {0}, which is not the root of the generation")]
    WrongRoot(Root),
    /// The edge encodes the parcel again without these bases.
    #[error("a base is missing at the gateway: {0}")]
    MissingBase(GenerationId),
    /// The edge sends the parcel again.
    #[error("the parcel arrived damaged: {0}")]
    Damaged(String),
    /// The edge asks the gateway again for its state.
    #[error("parcel {got} came where parcel {want} was due")]
    OutOfOrder {
        /// Number of the parcel that was due.
        want: u32,
        /// Number of the parcel that came.
        got: u32,
    },
    /// The edge waits and tries again.
    #[error("the gateway has no room: {0}")]
    NoRoom(String),
    /// The edge stops and says so; only a person can help.
    #[error("the site is revoked; enrol it again with a new token if that was a mistake")]
    Revoked,
    /// The edge stops and says so; only a person can help.
    #[error("another edge with the same identity is connected; one of them is a copy")]
    Cloned,
    /// The lineage belongs to another site.
    #[error("the volume belongs to another site of the tenant")]
    Foreign,
    /// A message that does not belong there.
    #[error("unexpected message: {0}")]
    Protocol(String),
    /// The edge waits and tries again.
    #[error("the gateway could not do it now: {0}")]
    Internal(String),
}

impl Refusal {
    /// Whether trying the same again, later, can help.
    pub fn is_passing(&self) -> bool {
        matches!(self, Refusal::NoRoom(_) | Refusal::Internal(_) | Refusal::Damaged(_) | Refusal::OutOfOrder { .. })
    }
}

/// First frame of each parcel's stream on the data connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum DataRequest {
    /// First frame of the data connection's first stream: which control connection it belongs to.
    Join {
        /// [`Welcome::session`].
        session: u64,
    },
    /// A parcel. The gateway answers with [`DataReply::From`], the edge then sends the rest of the bytes and finishes its side.
    Parcel {
        /// The generation.
        generation: GenerationId,
        /// The parcel's number in the generation, from 0.
        number: u32,
        /// Its length in bytes.
        len: u64,
        /// BLAKE3 of the encoded bytes: the name under which a part of it may be resumed.
        hash: [u8; 32],
    },
    /// Padding follows, to find out what the line carries; the stream's end, or its reset, ends it. Answered by [`DataReply::Tested`]. A gateway that does
    /// not know it gives the stream up. Since version 2.
    Test {
        /// Bytes that follow at most, up to [`MAX_TEST`]; 0: the answer's time is all that is wanted.
        len: u64,
    },
    /// The edge wants a part of a generation back. Answered by [`DataReply::Fetched`] and the bytes of a parcel, or by [`DataReply::Later`]. A gateway that
    /// does not know it gives the stream up. Since version 4.
    Fetch(Fetch),
    /// The edge wants a part of a release. Answered by [`DataReply::Part`] and its bytes, or by [`DataReply::Later`]. Since version 5.
    Part(PartWanted),
}

/// What an edge wants back, and what came of it before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fetch {
    /// Which part of which generation, and what the edge has.
    pub wanted: Wanted,
    /// BLAKE3 of a parcel of which a part came before, and how many of its bytes are durable at the edge: an answer that is the very same goes on there.
    pub have: Option<([u8; 32], u64)>,
    /// Whether its bytes share the way down with the answers to parcels, instead of giving way to them.
    pub priority: bool,
    /// Who asked at the site, at most [`MAX_NAME`] characters: for the gateway's audit log.
    pub actor: String,
}

/// Blocks that one [`Fetch`] may make new: 8 MiB bound what both ends hold in memory for it.
pub const MAX_FETCH: u32 = 2048;
/// Runs of blocks that one [`Fetch`] may name as absent: some 30 KiB of a frame.
pub const MAX_ABSENT: usize = 4096;
/// Blocks that one [`Fetch`] may span: 16 GiB, a thousand records at either end.
pub const MAX_SPAN: u64 = 4 << 20;
/// Bytes of the answer to a [`Fetch`] at most: blocks that do not compress, and a header.
pub const MAX_FETCHED: u64 = MAX_FETCH as u64 * 4096 + (1 << 20);

/// Bytes of padding of one test of a line at most.
pub const MAX_TEST: u64 = 16 << 20;
/// Slots of one [`DataReply::Tested`] at most: 20 s.
pub const MAX_SLOTS: usize = 400;
/// Milliseconds of one slot: twelve full packets at 3 Mbit/s.
pub const SLOT_MILLIS: u64 = 50;

/// What the gateway answers on a parcel's stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum DataReply {
    /// The data connection belongs to its control connection now.
    Joined,
    /// Send the bytes from this offset on; everything before is durable here. Equal to the length: nothing is to be sent.
    From {
        /// The offset.
        offset: u64,
    },
    /// The parcel is decoded, verified and durable: the edge may forget it.
    Done,
    /// It is not.
    Refused(Refusal),
    /// What arrived of [`DataRequest::Test`]: bytes in each slot of [`SLOT_MILLIS`] since the first byte, at most [`MAX_SLOTS`]. Since version 2.
    Tested {
        /// Bytes by slot.
        arrived: Vec<u32>,
    },
    /// Answer to [`DataRequest::Fetch`]; the parcel's bytes from `offset` on follow, to the end of the stream. Fewer than announced: it goes on later. Since
    /// version 4.
    Fetched {
        /// Bytes of the parcel, at most [`MAX_FETCHED`].
        len: u64,
        /// BLAKE3 of them.
        hash: [u8; 32],
        /// Where it goes on: what was had before, or 0 when the parcel is another one.
        offset: u64,
        /// The first block that it says nothing about.
        until: BlockNumber,
    },
    /// Not now: ask again. Since version 4.
    Later {
        /// After so many seconds.
        seconds: u32,
        /// Why.
        why: Wait,
    },
    /// Answer to [`DataRequest::Part`]; the part's bytes from `offset` on follow, to the end of the stream. Fewer than announced: it goes on later. Since
    /// version 5.
    Part(PartFollows),
}

/// Why something has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wait {
    /// The policy lets nothing go down to the site now.
    Closed,
    /// The gateway answers others first.
    Busy,
}

/// What an edge without a certificate says on an enrolment connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// The token's id.
    pub token: [u8; 16],
    /// The token's secret.
    pub secret: [u8; 32],
    /// A certificate signing request, PKCS #10, DER.
    pub request: Vec<u8>,
}

/// The answer to [`EnrolRequest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum EnrolReply {
    /// The edge is enrolled.
    Enrolled {
        /// The site's name.
        site: String,
        /// The edge's certificate, DER.
        certificate: Vec<u8>,
        /// Every CA certificate to trust, DER.
        authorities: Vec<Vec<u8>>,
        /// Where the gateway may be reached.
        addresses: Vec<String>,
    },
    /// It is not, and why: unknown, used or expired tokens are not told apart.
    Refused {
        /// For people.
        why: String,
    },
}
