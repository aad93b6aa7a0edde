//! Seeds by courier: where one is on its way from the edge's disk to the gateway's store.
//!
//! ```text
//! exporting ─► exported ─► shipped ─► arrived ─► importing ─► imported
//!     │            └──────────┴─ lost ◄──┘           │
//!     └────────────► abandoned ◄────────────────────┘
//! ```
//!
//! The two ends hear of each other late and out of order: a state may be left out, and word of an earlier one changes nothing.

use crate::message::MAX_NAME;
use dedupe::{ByteCount, GenerationId, LineageId, Root, SeedId, UnixMillis};
use serde::{Deserialize, Serialize};

/// Characters of a note (courier and number, a reason) at most.
pub const MAX_NOTE: usize = 300;

/// What an edge says of one of its seeds: at each session's begin, and when something happened to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seeding {
    /// The seed.
    pub seed: SeedId,
    /// Its volume's lineage.
    pub lineage: LineageId,
    /// The volume's name at the site, at most [`MAX_NAME`] characters.
    pub volume: String,
    /// The generation that it carries.
    pub generation: GenerationId,
    /// What that hashes to.
    pub root: Root,
    /// Size of the volume in it.
    pub size: ByteCount,
    /// When it was captured.
    pub captured_at: UnixMillis,
    /// Where the seed is.
    pub state: SeedState,
    /// Since when, by the edge's clock.
    pub at: UnixMillis,
    /// For [`SeedState::Abandoned`]: how the volume goes on, if somebody said so.
    pub way: Option<Way>,
    /// Courier and number, or why; at most [`MAX_NOTE`] characters.
    pub note: String,
}

impl Seeding {
    /// Why it is over a limit, if it is.
    pub(crate) fn excess(&self) -> Option<&'static str> {
        if self.volume.is_empty() || self.volume.chars().count() > MAX_NAME {
            return Some("a seed of a volume without a name, or with one over 100 characters");
        }
        (self.note.chars().count() > MAX_NOTE).then_some("a note over 300 characters")
    }
}

/// How a volume goes on whose seed was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Everything goes over the line.
    Line,
    /// It waits for another seed, which is to be exported.
    NewSeed,
}

impl Way {
    /// Its word in commands and messages.
    pub fn word(self) -> &'static str {
        match self {
            Way::Line => "line",
            Way::NewSeed => "new-seed",
        }
    }
}

/// What the gateway says of seeds: which of this site it knows, and to whom media are encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seeds {
    /// Media are encrypted to this.
    pub key: SeedKey,
    /// Of this site, those that are under way first; at most [`crate::frame::MAX_LIST`].
    pub seeds: Vec<KnownSeed>,
}

/// The public key that media are encrypted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedKey {
    /// Which key: the first bytes of the BLAKE3 of `public`.
    pub id: [u8; 8],
    /// X25519.
    pub public: [u8; 32],
}

impl SeedKey {
    /// The key under its id.
    pub fn new(public: [u8; 32]) -> SeedKey {
        let hash = blake3::hash(&public);
        SeedKey { id: *hash.as_bytes().first_chunk().expect("a hash has 32 bytes"), public }
    }
}

/// A seed as the gateway knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownSeed {
    /// The seed.
    pub seed: SeedId,
    /// Its volume's lineage.
    pub lineage: LineageId,
    /// The generation that it carries.
    pub generation: GenerationId,
    /// Where it is.
    pub state: SeedState,
    /// How the volume goes on if it was given up.
    pub way: Option<Way>,
}

/// A generation that the gateway does not hold yet and that deltas may build on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promised {
    /// The generation.
    pub generation: GenerationId,
    /// What it will hash to.
    pub root: Root,
    /// What keeps it.
    pub promise: Promise,
}

/// Why the gateway does not hold a generation yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Promise {
    /// It is on its way on media.
    Expected,
    /// All its parcels are durable at the gateway; it is sealed when its seed is in.
    Waiting,
}

/// Where a seed is. Postcard numbers the variants: new ones only at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SeedState {
    /// Its media are being written at the site.
    Exporting,
    /// Its media are written and were read back: safe to ship.
    Exported,
    /// A courier has it.
    Shipped,
    /// It is where the gateway is.
    Arrived,
    /// The gateway takes it in.
    Importing,
    /// Its generation is sealed at the gateway. The end.
    Imported,
    /// Somebody gave it up. The end.
    Abandoned,
    /// It was not found where it should be. It may turn up yet.
    Lost,
}

impl SeedState {
    /// All of them, in the order of a seed's way.
    pub const ALL: [SeedState; 8] = [
        SeedState::Exporting,
        SeedState::Exported,
        SeedState::Shipped,
        SeedState::Arrived,
        SeedState::Importing,
        SeedState::Imported,
        SeedState::Abandoned,
        SeedState::Lost,
    ];

    /// Its word in messages, metrics and commands.
    pub fn word(self) -> &'static str {
        match self {
            SeedState::Exporting => "exporting",
            SeedState::Exported => "exported",
            SeedState::Shipped => "shipped",
            SeedState::Arrived => "arrived",
            SeedState::Importing => "importing",
            SeedState::Imported => "imported",
            SeedState::Abandoned => "abandoned",
            SeedState::Lost => "lost",
        }
    }

    /// Whether nothing follows.
    pub fn is_over(self) -> bool {
        matches!(self, SeedState::Imported | SeedState::Abandoned)
    }

    /// Whether its generation is on its way on media that are whole, so that deltas may build on it.
    pub fn is_expected(self) -> bool {
        !self.is_over() && self != SeedState::Exporting
    }

    /// Whether a seed that is here may be there next. An import needs no word of what was before: media prove themselves.
    pub fn may_become(self, next: SeedState) -> bool {
        use SeedState::{Abandoned, Arrived, Exporting, Importing, Lost};
        match (self, next) {
            (from, _) if from.is_over() => false,
            (_, Abandoned) => true,
            (_, Exporting) => false,
            (Importing, next) => next == SeedState::Imported || next == Lost,
            (Lost, next) => matches!(next, Arrived | Importing),
            (_, SeedState::Imported) | (Exporting, Lost) => false,
            (from, next) => next != from && place(next) > place(from),
        }
    }
}

/// How far along the way a state is.
fn place(state: SeedState) -> usize {
    match state {
        // From anywhere on the road.
        SeedState::Lost => usize::MAX,
        other => SeedState::ALL.iter().position(|known| *known == other).unwrap_or(usize::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::SeedState::{self, *};

    #[test]
    fn a_seed_goes_forward_and_ends_once() {
        let way = [Exporting, Exported, Shipped, Arrived, Importing, Imported];
        for pair in way.windows(2) {
            assert!(pair[0].may_become(pair[1]), "{pair:?}");
            assert!(!pair[1].may_become(pair[0]), "{pair:?}");
        }
        for state in SeedState::ALL {
            assert!(!state.may_become(state), "{state:?}");
            assert_eq!(state.may_become(Abandoned), !state.is_over(), "{state:?}");
            assert!(!Imported.may_become(state) && !Abandoned.may_become(state), "{state:?}");
        }
    }

    #[test]
    fn word_may_be_missed_and_what_was_lost_may_turn_up() {
        assert!(Exporting.may_become(Importing), "the media came before the word of their export");
        assert!(Exported.may_become(Arrived) && Exported.may_become(Lost) && Shipped.may_become(Lost));
        assert!(Lost.may_become(Arrived) && Lost.may_become(Importing) && !Lost.may_become(Shipped));
        assert!(!Shipped.may_become(Imported), "nothing is imported that was not taken in");
        assert!(!Exporting.may_become(Lost), "it never left");
    }

    #[test]
    fn deltas_build_on_media_that_are_whole() {
        let expected: Vec<_> = SeedState::ALL.into_iter().filter(|state| state.is_expected()).collect();
        assert_eq!(expected, [Exported, Shipped, Arrived, Importing, Lost]);
    }
}
