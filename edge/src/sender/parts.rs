//! What the machine of a volume is made of: its states, what happens to it, and what it wants done.

use crate::journal::Mode;
use dedupe::{GenerationId, Root};
use std::time::Instant;
use wire::message::Refusal;
use wire::seeding::Promised;

/// A sealed generation that is to be at the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The generation.
    pub generation: GenerationId,
    /// Its root.
    pub root: Root,
}

/// The generation on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The generation.
    pub target: Target,
    /// What it builds on at the gateway.
    pub base: Option<(GenerationId, Root)>,
    /// How it is coded.
    pub mode: Mode,
    /// Number of the next parcel to be coded.
    pub next: u32,
    /// Parcels below this number are acknowledged.
    pub acknowledged: u32,
    /// A parcel has begun to be sent: no folding any more.
    pub touched: bool,
    /// What the coder does.
    pub coder: Coder,
    /// Refusals in a row.
    pub(super) refusals: u32,
    /// Times that a parcel was refused as damaged, in a row.
    pub(super) damaged: u32,
}

/// What the coder of a generation does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coder {
    /// Nothing: enough is coded ahead, or the gateway has not accepted the generation yet.
    Resting,
    /// Finding what the next parcel holds.
    Planning,
    /// Waiting for what the gateway holds already: of a sample, or of all blocks of the parcel.
    Asking {
        /// All blocks, after the sample had hits.
        rest: bool,
    },
    /// Coding a parcel.
    Encoding,
    /// Making it durable.
    Storing,
    /// It is coded and there is no room for it.
    NoRoom {
        /// When to look again.
        until: Instant,
        /// What is full.
        why: String,
    },
    /// Coding failed.
    Failed {
        /// When to try again.
        until: Instant,
        /// Why.
        why: String,
    },
    /// All of the generation is coded.
    Finished,
}

/// Parcels between the spool and the gateway's acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Parcels below this number have left; those from [`Job::acknowledged`] on are awaited.
    pub next: u32,
    /// Parcel `next` is being handed to the connection.
    pub writing: bool,
}

/// Where a volume's newest generation is on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The gateway holds the newest generation, or there is none.
    Idle,
    /// There is work and no connection.
    Offline(Job),
    /// The gateway was asked whether it takes the generation.
    Offering(Job),
    /// Parcels are coded and sent.
    Moving(Job, Line),
    /// The gateway was asked to verify and show the generation.
    Sealing(Job),
    /// The gateway cannot take it now.
    Waiting {
        /// The work.
        job: Job,
        /// When to ask again.
        until: Instant,
        /// What holds it back.
        why: String,
    },
    /// Only a person can help.
    Stopped {
        /// The work.
        job: Job,
        /// When to try again all the same.
        until: Instant,
        /// What is wrong.
        why: String,
    },
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A generation was captured and sealed here.
    Captured(Target),
    /// A session began, and the gateway said what it holds of this volume.
    Connected {
        /// Sealed there, newest first.
        held: Vec<(GenerationId, Root)>,
        /// A draft there.
        draft: Option<GenerationId>,
        /// Whether the session's version knows questions.
        asks: bool,
        /// Not there yet, and usable as bases all the same: newest first.
        promised: Vec<Promised>,
    },
    /// What is known here of the volume's seed by courier changed; none: it has none, or it is imported.
    Seed(Option<SeedSide>),
    /// The session ended.
    Disconnected,
    /// The gateway takes the generation, from this parcel on.
    Accepted(GenerationId, u32),
    /// The gateway refuses the generation, its parcel, or its sealing.
    Refused(GenerationId, Refusal),
    /// The generation is verified and visible.
    Sealed(GenerationId),
    /// The generation is complete at the gateway and waits there for its seed.
    Waits(GenerationId),
    /// The bytes of a parcel are all handed to the connection.
    Written(u32),
    /// A parcel is decoded, verified and durable at the gateway.
    Acknowledged(u32),
    /// A parcel is not taken.
    ParcelRefused(u32, Refusal),
    /// A spool file is not what was written.
    SpoolDamaged(u32),
    /// News of the coder; ignored when it is of an earlier attempt.
    Coder(u64, CoderEvent),
    /// Time has passed.
    Tick,
}

/// What happened to the coder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoderEvent {
    /// Nothing is left to send.
    NothingLeft,
    /// A parcel is planned; whether there are marks worth asking for.
    Planned {
        /// Whether the plan has samples to ask for.
        samples: bool,
    },
    /// The answer came and is part of the plan; whether the rest is worth asking for.
    Answered {
        /// Whether enough samples hit.
        wants_rest: bool,
    },
    /// The parcel is coded, in memory.
    Encoded,
    /// It is in the spool, durable.
    Stored,
    /// It is not, for want of room.
    NoRoom(String),
    /// Something else failed.
    Failed(String),
}

/// What is to be done, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Record that this generation is sent from its beginning, and drop what was spooled.
    Begin(Target, Option<(GenerationId, Root)>, Mode),
    /// Offer the generation to the gateway.
    Offer,
    /// Tell the gateway to forget a draft.
    Abandon(GenerationId),
    /// Plan the next parcel. The number is given back in [`Event::Coder`].
    Plan(u64),
    /// Ask the gateway about the plan's samples, or about the rest.
    Ask {
        /// The coder's attempt.
        attempt: u64,
        /// All marks, not the samples.
        rest: bool,
    },
    /// Code the planned parcel.
    Encode(u64),
    /// Put the coded parcel into the spool.
    Store(u64),
    /// Drop the plan and the coded parcel that is not stored.
    StopCoding,
    /// Send a parcel.
    Send(u32),
    /// Stop what is being sent.
    StopSending,
    /// Record that the gateway holds all parcels below this number.
    Acknowledge(u32),
    /// Give up the spooled parcels from this number on.
    Truncate(u32),
    /// The gateway lacks this generation: do not use it as a base. Give up the spooled parcels from this number on.
    Without(GenerationId, u32),
    /// Ask the gateway to verify and show the generation.
    Seal,
    /// Record that the gateway holds this generation.
    Finish(Target),
    /// The generation is complete at the gateway and waits there: nothing of it is left to do here.
    Park(Target),
    /// The generation on its way goes no further.
    Drop,
    /// Ask the gateway anew what it holds.
    Announce,
}

/// A volume's seed by courier, as its sender sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeedSide {
    /// The generation that it carries.
    pub generation: GenerationId,
    /// What that means for what is sent.
    pub stage: SeedStage,
}

/// How far a seed is, for the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeedStage {
    /// Its media are being written.
    Exporting,
    /// Its content is being indexed, so that deltas find what they repeat.
    Indexing,
    /// It is on its way: deltas build on it.
    Out,
    /// It was given up, and nobody said how the volume goes on.
    Ask,
    /// It was given up, and another one is to be exported.
    NewSeed,
}

/// Why a volume sends nothing, for its seed's sake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Hold {
    /// See [`SeedStage::Exporting`].
    #[error("its seed is being written to media")]
    Exporting,
    /// See [`SeedStage::Indexing`].
    #[error("the content of its seed is being indexed")]
    Indexing,
    /// The newest generation is on its way on media, or complete at the gateway.
    #[error("all of it waits at the gateway for its seed, which is on its way on media")]
    Waits,
    /// The gateway has not heard of the seed, or is too old to.
    #[error("its seed is on its way on media, and the gateway of this session does not expect it")]
    NotExpected,
    /// The gateway keeps a generation that is not here.
    #[error(
        "the gateway keeps generations for its seed that are not here any more; give the seed up: `sluice-edge seed abandon`"
    )]
    Unknown,
    /// See [`SeedStage::Ask`].
    #[error(
        "its seed was given up; say how it goes on: `sluice-edge seed abandon ID --by line` sends everything over the line, `--by new-seed` waits for another one"
    )]
    Ask,
    /// See [`SeedStage::NewSeed`].
    #[error("its seed was given up, and it waits for another one: `sluice-edge seed export`")]
    NewSeed,
}

impl State {
    pub(super) fn moving(job: Job) -> State {
        let next = job.acknowledged;
        State::Moving(job, Line { next, writing: false })
    }
}

impl Job {
    pub(super) fn new(target: Target, base: Option<(GenerationId, Root)>, mode: Mode) -> Job {
        Job {
            target,
            base,
            mode,
            next: 0,
            acknowledged: 0,
            touched: false,
            coder: Coder::Resting,
            refusals: 0,
            damaged: 0,
        }
    }

    /// A generation that was on its way when the daemon last ended. What was spooled may have been sent in part.
    pub fn resumed(sending: &crate::journal::Sending) -> Job {
        let target = Target { generation: sending.target, root: sending.root };
        let mut job = Job::new(target, sending.base, sending.mode);
        job.next = sending.next;
        job.acknowledged = sending.acknowledged;
        job.touched = sending.next > 0;
        job
    }
}
