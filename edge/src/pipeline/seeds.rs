//! A volume's seed by courier: told to the gateway, indexed, and what the gateway says of it taken over.

use super::{Input, Pipeline, blocking};
use crate::seeding::{self, LocalSeed};
use crate::sender::{Event, Target};
use crate::spool::SpoolError;
use dedupe::SeedId;
use std::time::Duration;
use wire::message::FromEdge;
use wire::seeding::{KnownSeed, SeedState};

/// After the content of a seed could not be indexed, most likely for want of room.
const INDEX_AGAIN: Duration = Duration::from_secs(60);

impl Pipeline {
    /// Says where the volume's seed is, in a session that knows seeds. An imported one is the gateway's own news.
    pub(super) async fn tell_seed(&self) {
        let knows = self.session.as_ref().is_some_and(|session| session.knows_seeds());
        if let Some(seed) = self.seed.as_ref().filter(|seed| knows && seed.state != SeedState::Imported) {
            self.say(FromEdge::Seeding(seed.told(&self.volume.entry.name))).await;
        }
    }

    /// The journal has news of the volume's seed.
    pub(super) async fn seed_changed(&mut self) {
        let (disk, lineage) = (self.shared.disk.clone(), self.volume.entry.lineage);
        let read = self.insist(move || disk.journal.seeds(lineage).map_err(SpoolError::from)).await;
        let Some(seeds) = read else { return };
        self.seed = seeding::current(&seeds).cloned();
        self.seed_is().await;
        self.tell_seed().await;
        if self.session.is_some() {
            self.announce().await; // what is promised depends on it
        }
    }

    /// The gateway said what it knows of this site's seeds.
    pub(super) async fn learn_of_seed(&mut self, known: &[KnownSeed]) {
        let Some(seed) = self.seed.clone() else { return };
        let Some(known) = known.iter().find(|known| known.seed == seed.id).copied() else { return };
        let now = self.shared.link.now();
        if !seed.clone().learns(&known, now) {
            return;
        }
        tracing::info!(volume = self.volume.entry.name, seed = %seed.id, state = known.state.word(), "news of the seed");
        self.keep_seed(seed, move |row| {
            row.learns(&known, now);
        })
        .await;
        let disk = self.shared.disk.clone();
        if let Err(error) = blocking(move || disk.shipments.heard()).await {
            tracing::warn!(%error, "what the gateway said of a seed is not kept with its shipment; it is at the next start");
        }
        if self.session.is_some() {
            self.announce().await;
        }
    }

    /// Its content is indexed.
    pub(super) async fn indexed(&mut self, id: SeedId, done: Result<(), String>) {
        self.indexing = None;
        let Some(seed) = self.seed.clone().filter(|seed| seed.id == id) else { return self.index() };
        match done {
            Ok(()) => self.keep_seed(seed, |row| row.indexed = true).await,
            Err(why) => {
                tracing::warn!(
                    volume = self.volume.entry.name,
                    why,
                    "the content of a seed cannot be indexed now; trying again"
                );
                let (me, stop) = (self.me.clone(), self.shared.stop.clone());
                self.shared.tracker.spawn(async move {
                    tokio::select! {
                        () = tokio::time::sleep(INDEX_AGAIN) => drop(me.send(Input::Seed).await),
                        () = stop.cancelled() => {}
                    }
                });
            }
        }
    }

    /// Changes what is known of the seed, durable, beside whoever else does.
    async fn keep_seed(&mut self, seed: LocalSeed, change: impl Fn(&mut LocalSeed) + Clone + Send + 'static) {
        let disk = self.shared.disk.clone();
        let kept = move || disk.journal.change_seed(&seed, change.clone()).map_err(SpoolError::from);
        if let Some(seed) = self.insist(kept).await {
            self.seed = Some(seed);
            self.seed_is().await;
        }
    }

    async fn seed_is(&mut self) {
        let side = self.seed.as_ref().and_then(LocalSeed::side);
        self.handle(Event::Seed(side)).await;
        self.index();
    }

    /// Indexes the content of a seed that is on its way: what went over the line was indexed when it was coded, and this did not. Without it deltas on it
    /// would be larger than on a seed by wire.
    pub(super) fn index(&mut self) {
        let Some(seed) = self.seed.clone().filter(|seed| seed.state.is_expected() && !seed.indexed) else { return };
        if self.indexing.is_some() {
            return;
        }
        self.indexing = Some(seed.id);
        let (encoder, me) = (self.shared.encoder.clone(), self.me.clone());
        self.shared.tracker.spawn(async move {
            let done = blocking(move || match encoder.anchor(seed.generation) {
                // What was evicted cannot be a base either.
                Ok(()) | Err(dedupe::StoreError::Gone(_)) => Ok(()),
                Err(error) => Err(error.to_string()),
            });
            let done = done.await;
            let _ = me.send(Input::Indexed(seed.id, done)).await; // a pipeline that is gone belongs to a volume that was removed
        });
    }

    /// The generation on its way is complete at the gateway, where it waits.
    pub(super) async fn park(&mut self, target: Target) {
        tracing::info!(volume = self.volume.entry.name, generation = %target.generation, "complete at the gateway, where it waits for its seed");
        self.give_up().await;
    }

    /// Nothing of the generation on its way is sent any more, also after a restart.
    pub(super) async fn give_up(&mut self) {
        let (disk, lineage) = (self.shared.disk.clone(), self.volume.entry.lineage);
        if self.insist(move || disk.spool.give_up(lineage)).await.is_some() {
            self.sending = None;
            self.spooled.clear();
        }
    }
}
