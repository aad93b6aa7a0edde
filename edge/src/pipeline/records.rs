//! The sending record of a volume and what follows from its changes: each is durable before anything goes on.

use super::{Pipeline, SpoolOrStore, blocking};
use crate::journal::{Acknowledged, Cost, Mode, Sending};
use crate::sender::Target;
use crate::spool::SpoolError;
use crate::state::State as Disk;
use dedupe::{BlockNumber, Generation, GenerationId};
use std::sync::PoisonError;
use std::time::Duration;

/// After a record could not be written, most likely for want of room.
const RECORD_AGAIN: Duration = Duration::from_secs(5);

impl Pipeline {
    pub(super) async fn begin(&mut self, target: Target, base: Option<(GenerationId, dedupe::Root)>, mode: Mode) {
        self.pace.begin();
        self.spooled.clear();
        self.sending = Some(Sending {
            base,
            target: target.generation,
            root: target.root,
            cursor: BlockNumber(0),
            next: 0,
            acknowledged: 0,
            mode,
            without: Vec::new(),
            cost: Cost::default(),
        });
        let lineage = self.volume.entry.lineage;
        self.record(move |disk, sending| disk.spool.begin(lineage, sending)).await;
    }

    pub(super) async fn truncate(&mut self, from: u32, without: Option<GenerationId>) {
        self.spooled.retain(|number, _| *number < from);
        self.shared.metrics.recoded();
        let lineage = self.volume.entry.lineage;
        self.record(move |disk, sending| {
            sending.without.extend(without.filter(|gone| !sending.without.contains(gone)));
            disk.spool.truncate(lineage, sending, from)
        })
        .await;
    }

    /// Changes the sending record, durably. A disk without room is waited for: the machine has decided, and going on without the record would break
    /// its promise.
    pub(super) async fn record(
        &mut self,
        change: impl Fn(&Disk, &mut Sending) -> Result<(), SpoolError> + Clone + Send + 'static,
    ) {
        let Some(sending) = self.sending.clone() else { return };
        let disk = self.shared.disk.clone();
        let changed = self.insist(move || {
            let mut sending = sending.clone();
            change(&disk, &mut sending).map(|()| sending)
        });
        let changed = changed.await;
        self.sending = changed.or(self.sending.take());
    }

    /// Does something until it succeeds; `None`: the daemon stops.
    pub(super) async fn insist<T: Send + 'static>(
        &self,
        act: impl Fn() -> Result<T, SpoolError> + Clone + Send + 'static,
    ) -> Option<T> {
        loop {
            match blocking(act.clone()).await {
                Ok(done) => {
                    self.volume.sender.send_if_modified(|side| side.trouble.take().is_some());
                    return Some(done);
                }
                Err(error) => {
                    tracing::warn!(volume = self.volume.entry.name, %error, "cannot write a record; trying again");
                    self.volume.sender.send_modify(|side| side.trouble = Some(error.to_string()));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(RECORD_AGAIN) => {}
                () = self.shared.stop.cancelled() => return None,
            }
        }
    }

    pub(super) async fn finish(&mut self, target: Target) {
        let lineage = self.volume.entry.lineage;
        let sending = self.sending.take().filter(|sending| sending.target == target.generation);
        let done = Acknowledged {
            generation: target.generation,
            root: target.root,
            at: self.shared.link.now(),
            cost: sending.map(|sending| sending.cost).unwrap_or_default(),
        };
        let disk = self.shared.disk.clone();
        let sealed = self.insist(move || {
            disk.spool.finish(lineage, done)?;
            // These are for people: what cannot be read is no reason to stop.
            Ok(disk.store.generation(target.generation).ok().flatten())
        });
        let sealed = sealed.await.flatten();
        let number = sealed.as_ref().map_or(0, |sealed| sealed.number);
        self.spooled.clear();
        {
            let mut held = self.shared.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.entry(lineage).or_default().insert(0, target.generation);
        }
        self.shared.metrics.sealed(&self.volume.entry.name, done.at);
        tracing::info!(volume = self.volume.entry.name, generation = %target.generation, number, "sealed at the gateway");
        self.volume.sender.send_modify(|side| {
            side.acknowledged = Some((done, number));
            side.sealed_captured = sealed.map(|sealed| sealed.captured_at);
        });
        self.forget_old().await;
    }

    /// Takes generations that nobody needs any more out of the store.
    pub(super) async fn forget_old(&mut self) {
        let (disk, lineage) = (self.shared.disk.clone(), self.volume.entry.lineage);
        let listed = blocking(move || {
            let kept = disk.journal.acknowledged(lineage).map_err(SpoolError::from)?;
            Ok::<_, SpoolOrStore>((disk.store.generations(lineage)?, kept, disk.shipments.pinned()))
        });
        let Ok((generations, kept, pinned)) = listed.await else { return };
        let newest = generations.iter().rev().find(|generation| generation.is_sealed()).map(|newest| newest.id);
        for generation in generations.into_iter().filter(Generation::is_sealed) {
            let id = generation.id;
            let is_kept = kept.iter().any(|kept| kept.generation == id)
                || newest == Some(id)
                || self.sender.needs(id)
                || pinned.contains(&id);
            if is_kept {
                continue;
            }
            let disk = self.shared.disk.clone();
            match blocking(move || disk.store.forget(id)).await {
                Ok(()) => self.sender.forgotten(id),
                Err(error) => tracing::warn!(generation = %id, %error, "cannot forget a generation"),
            }
        }
    }
}
