//! Seeds by courier. Rows are JSON, as those of runs: a person may have to read them. Those of seeds are never removed: they are the chain of custody.

use super::{Catalogue, CatalogueError, Table};
use crate::seeds::{Seed, Waiting};
use dedupe::{GenerationId, SeedId};
use redb::TableDefinition;

/// [`SeedId`] to [`Seed`].
const SEEDS: Table = TableDefinition::new("seeds_v1");

/// Generation (16 bytes) to [`Waiting`].
const WAITING: Table = TableDefinition::new("waiting_v1");

pub(super) const TABLES: [Table; 2] = [SEEDS, WAITING];

impl Catalogue {
    /// All seeds, in no order that matters.
    pub fn seeds(&self) -> Result<Vec<Seed>, CatalogueError> {
        self.all_json(SEEDS, "seeds")
    }

    /// One seed.
    pub fn seed(&self, id: SeedId) -> Result<Option<Seed>, CatalogueError> {
        self.one_json(SEEDS, &id.0, "seeds")
    }

    /// The seed that carries a generation: one that is not over before one that is.
    pub fn seed_of(&self, generation: GenerationId) -> Result<Option<Seed>, CatalogueError> {
        let of = self.seeds()?.into_iter().filter(|seed| seed.generation == generation);
        Ok(of.max_by_key(|seed| (!seed.state.is_over(), seed.since())))
    }

    /// Adds a seed or changes it.
    pub fn put_seed(&self, seed: &Seed) -> Result<(), CatalogueError> {
        self.put_json(SEEDS, &seed.id.0, seed)
    }

    /// All generations that wait for a seed or are arriving to do so, in no order that matters.
    pub fn waiting(&self) -> Result<Vec<Waiting>, CatalogueError> {
        self.all_json(WAITING, "waiting")
    }

    /// One of them.
    pub fn waiting_row(&self, generation: GenerationId) -> Result<Option<Waiting>, CatalogueError> {
        self.one_json(WAITING, &generation.0, "waiting")
    }

    /// Keeps what is known of a generation that waits.
    pub fn put_waiting(&self, row: &Waiting) -> Result<(), CatalogueError> {
        self.put_json(WAITING, &row.generation.0, row)
    }

    /// A generation waits no more.
    pub fn end_waiting(&self, generation: GenerationId) -> Result<(), CatalogueError> {
        let commit = self.database.begin_write()?;
        commit.open_table(WAITING)?.remove(generation.0.as_slice())?;
        Ok(commit.commit()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeds::table::tests::seed;
    use wire::seeding::SeedState;

    #[test]
    fn seeds_are_found_by_id_and_by_what_they_carry() {
        let dir = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::create(&dir.path().join("catalogue.redb")).unwrap();
        let (given_up, again) = (seed(1, SeedState::Abandoned), seed(2, SeedState::Shipped));
        let again = Seed { generation: given_up.generation, ..again };
        for row in [&given_up, &again, &seed(3, SeedState::Arrived)] {
            catalogue.put_seed(row).unwrap();
        }
        assert_eq!(catalogue.seed(given_up.id).unwrap(), Some(given_up.clone()));
        assert_eq!(catalogue.seed_of(given_up.generation).unwrap(), Some(again));
        assert_eq!(catalogue.seed_of(GenerationId([9; 16])).unwrap(), None);
        assert_eq!(catalogue.seeds().unwrap().len(), 3);
        let copy = dir.path().join("copy.redb");
        catalogue.copy_to(&copy).unwrap();
        drop(catalogue);
        assert_eq!(Catalogue::open(&copy).unwrap().seeds().unwrap().len(), 3, "backups carry them");
    }
}
