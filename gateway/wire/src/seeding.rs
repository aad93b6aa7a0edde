//! Seeds by courier: where one is on its way from the edge's disk to the gateway's store.
//!
//! ```text
//! exporting ─► exported ─► shipped ─► arrived ─► importing ─► imported
//!     │            └──────────┴─ lost ◄──┘           │
//!     └────────────► abandoned ◄────────────────────┘
//! ```
//!
//! The two ends hear of each other late and out of order: a state may be left out, and word of an earlier one changes nothing.

use serde::{Deserialize, Serialize};

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
        use SeedState::{Abandoned, Arrived, Exported, Exporting, Importing, Lost, Shipped};
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
