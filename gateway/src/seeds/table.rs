//! A seed by courier as the catalogue keeps it: what it is, where it is, and who said so.

use dedupe::{ByteCount, GenerationId, LineageId, Root, SeedId, SiteId, TenantId, UnixMillis};
use serde::{Deserialize, Serialize};
use wire::message::MAX_NAME;
use wire::seeding::MAX_NOTE;
use wire::seeding::{KnownSeed, SeedState, Way};

/// Entries of one seed's custody at most; beyond it those in the middle go. An edge that repeats itself makes none.
pub const MAX_CUSTODY: usize = 64;

/// A seed of one volume. A medium may carry several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// Its id, as its media carry it.
    pub id: SeedId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The site that it comes from.
    pub site: SiteId,
    /// The volume's lineage.
    pub lineage: LineageId,
    /// The volume's name at the site, for people.
    pub volume: String,
    /// The generation that it carries.
    pub generation: GenerationId,
    /// What the generation's bytes must hash to.
    pub root: Root,
    /// Size of the volume in it.
    pub size: ByteCount,
    /// When it was captured.
    pub captured_at: UnixMillis,
    /// Where it is. Changed by [`Seed::becomes`] alone.
    pub state: SeedState,
    /// If it was abandoned: how the volume goes on. `None` then: nobody said so yet.
    #[serde(default)]
    pub way: Option<Way>,
    /// What happened to it, oldest first; never empty.
    pub custody: Vec<Custody>,
}

/// One entry of the chain of custody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Custody {
    /// What it became.
    pub state: SeedState,
    /// When, by whoever said so; what comes from an edge is its clock.
    pub at: UnixMillis,
    /// When it was noted here.
    pub noted: UnixMillis,
    /// Who said so: an actor of the gateway, or `edge: NAME`.
    pub by: String,
    /// Courier, number, reason: at most [`MAX_NOTE`] characters.
    pub note: String,
}

impl Seed {
    /// Notes what became of it, if that can follow; says whether anything changed. Texts are cut to what they may have.
    pub fn becomes(&mut self, entry: Custody) -> bool {
        if !self.state.may_become(entry.state) {
            return false;
        }
        self.state = entry.state;
        self.custody.push(entry.cut());
        if self.custody.len() > MAX_CUSTODY {
            self.custody.remove(1); // the first says where it came from
        }
        true
    }

    /// Whether it is the same seed of the same bytes, whatever became of it.
    pub fn is_same(&self, other: &Seed) -> bool {
        let what = |seed: &Seed| (seed.id, seed.tenant, seed.site, seed.lineage, seed.generation, seed.root, seed.size);
        what(self) == what(other)
    }

    /// What its edge is told of it.
    pub fn known(&self) -> KnownSeed {
        let Seed { id, lineage, generation, state, way, .. } = *self;
        KnownSeed { seed: id, lineage, generation, state, way }
    }

    /// When it was first heard of, by the gateway's clock; `None`: it is over.
    pub fn out_since(&self) -> Option<UnixMillis> {
        (!self.state.is_over()).then(|| self.custody.first().map_or(self.captured_at, |entry| entry.noted))
    }

    /// When it entered its present state, by the gateway's clock.
    pub fn since(&self) -> UnixMillis {
        self.custody.last().map_or(self.captured_at, |entry| entry.noted)
    }
}

impl Custody {
    /// With texts that fit.
    pub fn cut(mut self) -> Custody {
        self.by = self.by.chars().take(MAX_NAME).collect();
        self.note = self.note.chars().take(MAX_NOTE).collect();
        self
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn seed(number: u8, state: SeedState) -> Seed {
        let entry = custody(state, 1);
        Seed {
            id: SeedId([number; 16]),
            tenant: TenantId([1; 16]),
            site: SiteId([2; 16]),
            lineage: LineageId([number; 16]),
            volume: "db".into(),
            generation: GenerationId([number; 16]),
            root: Root { scheme: dedupe::RootScheme::Blake3, hash: [number; 32] },
            size: ByteCount(1 << 30),
            captured_at: UnixMillis(1),
            state,
            way: None,
            custody: vec![entry],
        }
    }

    pub(crate) fn custody(state: SeedState, at: u64) -> Custody {
        Custody { state, at: UnixMillis(at), noted: UnixMillis(at), by: "edge: b1".into(), note: String::new() }
    }

    #[test]
    fn custody_grows_with_what_can_follow_and_with_nothing_else() {
        let mut seed = seed(1, SeedState::Exported);
        assert!(seed.becomes(custody(SeedState::Shipped, 2)));
        assert!(!seed.becomes(custody(SeedState::Shipped, 3)), "said twice");
        assert!(!seed.becomes(custody(SeedState::Exported, 4)), "said late");
        assert_eq!((seed.state, seed.custody.len(), seed.since()), (SeedState::Shipped, 2, UnixMillis(2)));
    }

    #[test]
    fn custody_is_bounded_and_keeps_where_it_came_from() {
        let mut seed = seed(1, SeedState::Exported);
        for at in 2..200 {
            let next = if at % 2 == 0 { SeedState::Lost } else { SeedState::Arrived };
            let long = Custody { note: "x".repeat(1000), ..custody(next, at) };
            assert!(seed.becomes(long));
        }
        assert_eq!(seed.custody.len(), MAX_CUSTODY);
        assert_eq!((seed.custody[0].state, seed.since()), (SeedState::Exported, UnixMillis(199)));
        assert!(seed.custody[1..].iter().all(|entry| entry.note.len() == MAX_NOTE));
    }
}
