//! Seeds by courier as their edge knows them: one durable row each, from the export's begin to the word that the gateway has it.
//!
//! A shipment's record is what rows follow (`shipments/word.rs`); the volume's pipeline tells the gateway, holds or lets go what is sent, and takes back
//! what the gateway says.

use crate::journal::{Journal, JournalError, put};
use crate::sender::{SeedSide, SeedStage};
use dedupe::{ByteCount, GenerationId, LineageId, Root, SeedId, UnixMillis};
use redb::{ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use wire::seeding::{KnownSeed, MAX_NOTE, SeedState, Seeding, Way};

/// By lineage and seed: [`LocalSeed`].
pub(crate) const SEEDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("seeds_1");

/// A seed of one volume of this site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalSeed {
    /// Its id.
    pub id: SeedId,
    /// The volume's lineage.
    pub lineage: LineageId,
    /// The generation that it carries: sealed here.
    pub generation: GenerationId,
    /// Its root.
    pub root: Root,
    /// Size of the volume in it.
    pub size: ByteCount,
    /// When it was captured.
    pub captured_at: UnixMillis,
    /// When the export began.
    pub begun: UnixMillis,
    /// Where it is.
    pub state: SeedState,
    /// Since when.
    pub at: UnixMillis,
    /// How the volume goes on if it was given up, and somebody said so.
    pub way: Option<Way>,
    /// Courier and number, or why.
    pub note: String,
    /// Its content is indexed, so that deltas find what they repeat.
    pub indexed: bool,
}

impl LocalSeed {
    /// What that means for the volume's sender; `None`: nothing.
    pub fn side(&self) -> Option<SeedSide> {
        let stage = match (self.state, self.way) {
            (SeedState::Imported, _) | (SeedState::Abandoned, Some(Way::Line)) => return None,
            (SeedState::Abandoned, None) => SeedStage::Ask,
            (SeedState::Abandoned, Some(Way::NewSeed)) => SeedStage::NewSeed,
            (SeedState::Exporting, _) => SeedStage::Exporting,
            _ if !self.indexed => SeedStage::Indexing,
            _ => SeedStage::Out,
        };
        Some(SeedSide { generation: self.generation, stage })
    }

    /// What the gateway is told of it.
    pub fn told(&self, volume: &str) -> Seeding {
        Seeding {
            seed: self.id,
            lineage: self.lineage,
            volume: volume.to_owned(),
            generation: self.generation,
            root: self.root,
            size: self.size,
            captured_at: self.captured_at,
            state: self.state,
            at: self.at,
            way: self.way,
            note: self.note.chars().take(MAX_NOTE).collect(),
        }
    }

    /// Takes what the gateway knows; says whether anything changed. What is over here stays over, but for a way that nobody named here.
    pub fn learns(&mut self, known: &KnownSeed, now: UnixMillis) -> bool {
        let may = match (self.state, known.state) {
            // The gateway opened it: media need no word of what was before.
            (state, SeedState::Imported) => !state.is_over(),
            (state, next) => state.may_become(next),
        };
        if may {
            (self.state, self.at, self.way) = (known.state, now, known.way.or(self.way));
            return true;
        }
        let says_way = self.state == SeedState::Abandoned && self.way.is_none() && known.way.is_some();
        if says_way {
            self.way = known.way;
        }
        says_way
    }
}

/// The one of a lineage's seeds that counts: the last one.
pub(crate) fn current(seeds: &[LocalSeed]) -> Option<&LocalSeed> {
    seeds.iter().max_by_key(|seed| (seed.begun, seed.at))
}

impl Journal {
    /// The seeds of a lineage, in no order that matters.
    pub fn seeds(&self, lineage: LineageId) -> Result<Vec<LocalSeed>, JournalError> {
        self.read_all(SEEDS, &lineage.0)
    }

    /// Changes the row of a seed in one commit, whoever else changes something of it; a row that is not there yet begins as `seed`. The row as it is then.
    pub(crate) fn change_seed(
        &self,
        seed: &LocalSeed,
        change: impl Fn(&mut LocalSeed),
    ) -> Result<LocalSeed, JournalError> {
        let key = [seed.lineage.0, seed.id.0].concat();
        self.read::<LocalSeed>(SEEDS, &key)?; // refuses a damaged record, which the commit has no words for
        self.commit(|write| {
            let table = write.open_table(SEEDS)?;
            let known: Option<Vec<u8>> = table.get(key.as_slice())?.map(|value| value.value().to_vec());
            drop(table);
            let mut row = known.and_then(|known| postcard::from_bytes(&known).ok()).unwrap_or_else(|| seed.clone());
            change(&mut row);
            put(write, SEEDS, &key, &row)
        })?;
        Ok(self.read(SEEDS, &key)?.unwrap_or_else(|| seed.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dedupe::RootScheme;

    fn seed(state: SeedState) -> LocalSeed {
        LocalSeed {
            id: SeedId([1; 16]),
            lineage: LineageId([2; 16]),
            generation: GenerationId([3; 16]),
            root: Root { scheme: RootScheme::Blake3, hash: [4; 32] },
            size: ByteCount(1 << 20),
            captured_at: UnixMillis(1),
            begun: UnixMillis(2),
            state,
            at: UnixMillis(3),
            way: None,
            note: "courier 7".into(),
            indexed: true,
        }
    }

    fn known(state: SeedState, way: Option<Way>) -> KnownSeed {
        let LocalSeed { id, lineage, generation, .. } = seed(state);
        KnownSeed { seed: id, lineage, generation, state, way }
    }

    #[test]
    fn each_state_says_what_may_be_sent() {
        let stage = |seed: LocalSeed| seed.side().map(|side| side.stage);
        assert_eq!(stage(seed(SeedState::Exporting)), Some(SeedStage::Exporting));
        assert_eq!(stage(LocalSeed { indexed: false, ..seed(SeedState::Exported) }), Some(SeedStage::Indexing));
        for state in
            [SeedState::Exported, SeedState::Shipped, SeedState::Arrived, SeedState::Importing, SeedState::Lost]
        {
            assert_eq!(stage(seed(state)), Some(SeedStage::Out), "{state:?}");
        }
        assert_eq!(stage(seed(SeedState::Imported)), None);
        let given_up = |way| LocalSeed { way, ..seed(SeedState::Abandoned) };
        assert_eq!(stage(given_up(None)), Some(SeedStage::Ask));
        assert_eq!(stage(given_up(Some(Way::Line))), None);
        assert_eq!(stage(given_up(Some(Way::NewSeed))), Some(SeedStage::NewSeed));
    }

    #[test]
    fn what_the_gateway_says_is_taken_once_and_never_backwards() {
        let mut shipped = seed(SeedState::Shipped);
        assert!(shipped.learns(&known(SeedState::Importing, None), UnixMillis(9)));
        assert!(!shipped.learns(&known(SeedState::Shipped, None), UnixMillis(10)));
        assert!(shipped.learns(&known(SeedState::Imported, None), UnixMillis(11)));
        assert!(!shipped.learns(&known(SeedState::Abandoned, Some(Way::Line)), UnixMillis(12)));
        let mut missed = seed(SeedState::Exporting);
        assert!(missed.learns(&known(SeedState::Imported, None), UnixMillis(9)), "the word of its way was missed");
        let mut given_up = seed(SeedState::Abandoned);
        assert!(given_up.learns(&known(SeedState::Abandoned, Some(Way::Line)), UnixMillis(9)));
        assert!(!given_up.learns(&known(SeedState::Abandoned, Some(Way::NewSeed)), UnixMillis(9)), "said once");
    }

    #[test]
    fn rows_are_there_after_a_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool.redb");
        let (first, second) = (seed(SeedState::Abandoned), seed(SeedState::Exported));
        let second = LocalSeed { id: SeedId([9; 16]), begun: UnixMillis(5), ..second };
        let journal = Journal::open(&path).unwrap();
        journal.change_seed(&first, |_| {}).unwrap();
        journal.change_seed(&second, |_| {}).unwrap();
        drop(journal);
        let journal = Journal::open(&path).unwrap();
        let seeds = journal.seeds(first.lineage).unwrap();
        assert_eq!((seeds.len(), current(&seeds)), (2, Some(&second)));
        assert_eq!(journal.seeds(LineageId([8; 16])).unwrap(), []);
        journal
            .change_seed(&LocalSeed { indexed: false, ..second.clone() }, |row| row.state = SeedState::Shipped)
            .unwrap();
        let seeds = journal.seeds(first.lineage).unwrap();
        assert_eq!(current(&seeds), Some(&LocalSeed { state: SeedState::Shipped, ..second }), "it stays indexed");
    }
}
