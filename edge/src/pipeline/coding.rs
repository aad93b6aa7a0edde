//! Makes the next parcel of a volume: plan, ask, encode, store. Whatever takes long runs off the runtime and reports to the pipeline.

use super::{Input, Pipeline, Planned, Trouble, blocking};
use crate::capture::thread_cpu;
use crate::journal::Mode;
use crate::keeper;
use crate::sender::{CoderEvent, Event};
use dedupe::{BLOCK, Effort, Encoded, FoundMarks, GenerationId, Mark, Plan};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// The parcel that is being made.
#[derive(Default)]
pub(super) struct Coding {
    pub(super) permit: Option<OwnedSemaphorePermit>,
    pub(super) plan: Option<Box<Plan>>,
    pub(super) marks: Vec<Mark>,
    /// Generations that answers named: held by the gateway, of whatever volume.
    pub(super) named: HashSet<GenerationId>,
    pub(super) coded: Option<Arc<Encoded>>,
    pub(super) cpu: Duration,
    pub(super) raw: u64,
}

impl Pipeline {
    pub(super) fn plan(&mut self, attempt: u64) {
        let Some(sending) = &self.sending else { return };
        let job = dedupe::Job {
            base: sending.base.map(|(id, _)| id),
            target: sending.target,
            cursor: sending.cursor,
            number: sending.next,
            plain: sending.mode != Mode::Coded,
        };
        let held = self.usable();
        let (shared, me) = (self.shared.clone(), self.me.clone());
        self.shared.tracker.spawn(async move {
            let Ok(permit) = shared.coder.clone().acquire_owned().await else { return };
            let encoder = shared.encoder.clone();
            let planning = shared.coding.run(move || {
                let before = thread_cpu();
                let planned = encoder.plan(&job, &|id| held.contains(&id)).map(|plan| {
                    plan.map(|mut plan| {
                        let samples = plan.samples();
                        (Box::new(plan), samples)
                    })
                });
                (planned.map_err(Trouble::from), thread_cpu().saturating_sub(before))
            });
            let (planned, cpu) = planning.await;
            let _ = me.send(Input::Planned(attempt, permit, planned, cpu)).await;
        });
    }

    /// Generations that may serve as bases.
    pub(super) fn usable(&self) -> HashSet<GenerationId> {
        let mut held: HashSet<GenerationId> = match self.sender.promised_bases() {
            // What waits may be built on nothing that could be forgotten before it joins.
            Some(promised) => promised.into_iter().collect(),
            None => self.shared.held(),
        };
        held.extend(&self.coding.named);
        if let Some(sending) = &self.sending {
            sending.without.iter().for_each(|gone| {
                held.remove(gone);
            });
        }
        held
    }

    pub(super) async fn planned(
        &mut self,
        attempt: u64,
        permit: OwnedSemaphorePermit,
        planned: Planned,
        cpu: Duration,
    ) {
        let event = match planned {
            Ok(None) => CoderEvent::NothingLeft,
            Ok(Some((plan, marks))) => {
                let samples = !marks.is_empty();
                if self.sender.attempt() == attempt {
                    let raw = plan.blocks() * BLOCK as u64;
                    self.coding =
                        Coding { permit: Some(permit), plan: Some(plan), marks, cpu, raw, ..Coding::default() };
                }
                CoderEvent::Planned { samples }
            }
            Err(trouble) => return self.in_trouble("plan", attempt, trouble),
        };
        self.handle(Event::Coder(attempt, event)).await;
    }

    /// No parcel was made. Where damage was in the way it is mended with blocks from the gateway before the next attempt: nobody has to run a scrub first.
    fn in_trouble(&self, what: &'static str, attempt: u64, trouble: Trouble) {
        let Trouble { mut why, damaged } = trouble;
        let (session, disk, me) = (self.session.clone(), self.shared.disk.clone(), self.me.clone());
        let volume = self.volume.entry.name.clone();
        self.shared.tracker.spawn(async move {
            if let (Some(pack), Some(session)) = (damaged, session) {
                match keeper::mend_pack(&session, &disk, pack).await {
                    Ok(()) => why += "; it was mended with blocks from the gateway",
                    Err(error) => why += &format!("; the gateway could not mend it: {error}"),
                }
            }
            tracing::warn!(volume, why, "cannot {what} a parcel");
            let _ = me.send(Input::NotCoded(attempt, why)).await;
        });
    }

    pub(super) fn ask(&mut self, attempt: u64) {
        let Some(session) = self.session.clone() else { return };
        let (marks, me) = (std::mem::take(&mut self.coding.marks), self.me.clone());
        self.shared.metrics.asked(marks.len());
        self.shared.tracker.spawn(async move {
            // Without an answer the session is over, and the machine hears that.
            if let Ok(found) = session.ask(&marks).await {
                let _ = me.send(Input::Answered(attempt, found)).await;
            }
        });
    }

    pub(super) async fn answered(&mut self, attempt: u64, found: Vec<FoundMarks>) {
        let asking = self.sender.job().map(|job| job.coder.clone());
        let (Some(plan), true) = (self.coding.plan.as_mut(), self.sender.attempt() == attempt) else { return };
        self.coding.named.extend(found.iter().map(|run| run.generation));
        let wants_rest = if asking == Some(crate::sender::Coder::Asking { rest: false }) {
            self.coding.marks = plan.narrow(&found);
            !self.coding.marks.is_empty()
        } else {
            plan.take_answer(&found);
            false
        };
        self.handle(Event::Coder(attempt, CoderEvent::Answered { wants_rest })).await;
    }

    pub(super) fn encode(&mut self, attempt: u64) {
        let (Some(plan), Some(permit)) = (self.coding.plan.take(), self.coding.permit.take()) else { return };
        let effort = self.pace.choose(self.coding.raw, self.busy());
        let held = self.usable();
        let (encoder, coding, me) = (self.shared.encoder.clone(), self.shared.coding.clone(), self.me.clone());
        self.shared.tracker.spawn(async move {
            let encoded = coding.run(move || encoder.encode(*plan, effort, &|id| held.contains(&id))).await;
            let encoded = encoded.map(Box::new).map_err(Trouble::from);
            let _ = me.send(Input::Encoded(attempt, permit, effort, encoded)).await;
        });
    }

    /// Seconds for which the line has work already.
    pub(super) fn busy(&self) -> f64 {
        8.0 * self.spooled.values().sum::<u64>() as f64 / self.shared.rate as f64
    }

    pub(super) async fn encoded(
        &mut self,
        attempt: u64,
        permit: OwnedSemaphorePermit,
        effort: Effort,
        encoded: Result<Box<Encoded>, Trouble>,
    ) {
        let event = match encoded {
            Ok(encoded) => {
                let seconds = encoded.stats.code_seconds + encoded.stats.choose_seconds;
                self.pace.learn(effort, self.coding.raw, seconds, self.busy());
                if self.sender.attempt() == attempt {
                    self.coding.cpu += Duration::try_from_secs_f64(seconds).unwrap_or_default();
                    self.coding.permit = Some(permit);
                    self.coding.coded = Some(Arc::from(encoded));
                }
                CoderEvent::Encoded
            }
            Err(trouble) => return self.in_trouble("encode", attempt, trouble),
        };
        self.handle(Event::Coder(attempt, event)).await;
    }

    pub(super) async fn store(&mut self, attempt: u64) -> Option<Event> {
        let (coded, mut sending) = (self.coding.coded.clone()?, self.sending.clone()?);
        let mut cost = sending.cost;
        cost.parcels += 1;
        cost.coded_bytes += coded.bytes.len() as u64;
        cost.raw_bytes += coded.stats.fresh_bytes + coded.stats.copied_bytes + coded.stats.zeroed_bytes;
        cost.cpu_micros += self.coding.cpu.as_micros() as u64;
        let (disk, lineage, bytes) = (self.shared.disk.clone(), self.volume.entry.lineage, coded.clone());
        let pushed = blocking(move || {
            let pushed = disk.spool.push(lineage, &mut sending, &bytes.bytes, bytes.cursor, cost);
            pushed.map(|parcel| (parcel, sending))
        });
        let event = match pushed.await {
            Ok((parcel, sending)) => {
                self.spooled.insert(parcel.number, parcel.len);
                self.shared.metrics.coded(&coded.stats, parcel.len, self.coding.cpu);
                self.sending = Some(sending);
                self.coding = Coding::default();
                CoderEvent::Stored
            }
            Err(error) if error.is_no_room() => CoderEvent::NoRoom(error.to_string()),
            Err(error) => {
                self.coding = Coding::default();
                let why = error.to_string();
                tracing::warn!(volume = self.volume.entry.name, why, "cannot spool a parcel");
                CoderEvent::Failed(why)
            }
        };
        Some(Event::Coder(attempt, event))
    }
}
