//! What is said of shipments: a row of the journal for each seed, by which its volume's pipeline holds or sends and tells the gateway; and what the gateway
//! says of them.
//!
//! The shipment's record is written first. What a crash keeps from the journal is made up for at the next start.

use super::record::Shipment;
use super::{ShipmentError, Shipments};
use crate::journal::JournalError;
use crate::seeding::LocalSeed;
use dedupe::{ByteCount, UnixMillis};
use wire::clock::machine_time;
use wire::seeding::{SeedState, Way};

impl Shipments {
    /// Brings the rows of a shipment's seeds to what its record says; rows that are further, by the gateway's word, stay.
    pub(super) fn tell(&self, shipment: &Shipment) -> Result<(), JournalError> {
        let (Some(first), Some(last)) = (shipment.custody.first(), shipment.custody.last()) else { return Ok(()) };
        for volume in &shipment.volumes {
            let Some(root) = volume.root() else { continue };
            let seed = LocalSeed {
                id: volume.seed,
                lineage: volume.lineage,
                generation: volume.generation,
                root,
                size: ByteCount(volume.size),
                captured_at: UnixMillis(volume.captured_at),
                begun: UnixMillis(first.at),
                state: shipment.state,
                at: UnixMillis(last.at),
                way: shipment.way,
                note: last.note.clone(),
                indexed: false,
            };
            self.journal.change_seed(&seed, |row| {
                if row.state.may_become(seed.state) {
                    (row.state, row.at, row.note) = (seed.state, seed.at, seed.note.clone());
                }
                if row.state == SeedState::Abandoned {
                    row.way = row.way.or(seed.way);
                }
            })?;
        }
        self.changed.notify_one();
        Ok(())
    }

    /// Ends shipments of which the gateway has all, or of which all was given up there. Blocks.
    pub(crate) fn heard(&self) -> Result<(), ShipmentError> {
        let open: Vec<Shipment> = self.lock().values().filter(|shipment| !shipment.state.is_over()).cloned().collect();
        for mut shipment in open {
            let mut states = Vec::new();
            for volume in &shipment.volumes {
                let rows = self.journal.seeds(volume.lineage)?;
                states.push(rows.iter().find(|row| row.id == volume.seed).map(|row| (row.state, row.way)));
            }
            let are = |state: SeedState| states.iter().all(|known| known.is_some_and(|(known, _)| known == state));
            let over = |known: &Option<(SeedState, Option<Way>)>| known.is_some_and(|(state, _)| state.is_over());
            let state = match () {
                () if are(SeedState::Imported) => SeedState::Imported,
                () if states.iter().all(over) => SeedState::Abandoned,
                () => continue,
            };
            shipment.way = states.iter().flatten().find_map(|(_, way)| *way);
            shipment.becomes(state, machine_time(), "gateway", "");
            self.put(&shipment)?;
        }
        Ok(())
    }

    /// Gives a shipment up, or says how its volumes go on if nobody said so when it was given up.
    pub fn abandon(&self, id: dedupe::SeedId, by: Way, actor: &str) -> Result<super::ShipmentStatus, ShipmentError> {
        let mut shipment = self.get(id)?;
        let is_open = shipment.state == SeedState::Abandoned && shipment.way.is_none();
        if !is_open && !shipment.state.may_become(SeedState::Abandoned) {
            let why = match shipment.state {
                SeedState::Abandoned => "how its volumes go on was said",
                _ => "the gateway has it",
            };
            return Err(ShipmentError::State { id, state: shipment.state.word(), why });
        }
        shipment.way = Some(by);
        if !is_open {
            shipment.becomes(SeedState::Abandoned, machine_time(), actor, by.word());
        }
        if let Some(running) = self.running().as_ref().filter(|running| running.id == Some(id)) {
            running.progress.cancel();
        }
        self.put(&shipment)?;
        Ok(self.status(&shipment))
    }

    /// Whether something changed that volumes' pipelines have to look at.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}
