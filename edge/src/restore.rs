//! Back to the branch: a generation of a volume to a file or device here, with as little of the line as what the branch still has allows.
//!
//! ```text
//!   restores/N.json ──► job ──► what is here? ──── local store ──┐
//!   (durable)            │         │ not all                     ├──► place ──► target ──► read back
//!                        │         └──► pull ═══ gateway ────────┘
//!                        └── cursor: everything before it is in its place
//! ```
//!
//! * `record`: what is durable. `job`: one restore at work. `pull`: brings a part here. `place`: puts it into its place. [`target`]: what is written to.
//! * `plan`: what a restore would cost, before anything is changed.

mod job;
mod place;
mod plan;
pub(crate) mod pull;
mod record;
pub mod target;

pub(crate) use plan::{Both, Chosen};
pub use plan::{Known, Plan, PlanError};
pub use record::Phase;

use crate::daemon::Daemon;
use crate::pipeline::blocking;
use crate::text;
use dedupe::{Generation, GenerationId, LineageId, Store};
use job::{Job, JobError};
use pull::{Pull, PullError};
use record::{Asked, REMEMBERED, Record};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use target::TargetError;
use wire::message::Held;

/// Why a restore was not begun, or not cancelled.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The target cannot be used.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Another restore writes there.
    #[error("restore {0} writes to {1} already; cancel it first: sluice-edge restore cancel {0}")]
    Taken(u64, PathBuf),
    /// No such restore.
    #[error("there is no restore {0}; `sluice-edge restore list` shows those that there are")]
    Unknown(u64),
    /// The record.
    #[error("cannot keep the state of a restore in {path}: {source}")]
    Record {
        /// Where.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It ended otherwise than well.
    #[error("restore {id} {how}")]
    Ended {
        /// Which.
        id: u64,
        /// How.
        how: String,
    },
}

/// How a restore stands, for `restore list`, the page and programs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestoreStatus {
    /// Its number at this edge.
    pub id: u64,
    /// The volume.
    pub volume: String,
    /// The generation.
    pub generation: String,
    /// Its number for people.
    pub number: u64,
    /// Where to.
    pub to: PathBuf,
    /// Whether that is a block device: it holds neither the old bytes nor the new ones until it is done.
    pub is_device: bool,
    /// How it stands.
    pub phase: Phase,
    /// What it waits for.
    pub waits: Option<String>,
    /// Bytes of the volume.
    pub size: u64,
    /// Of these in their places.
    pub placed_bytes: u64,
    /// Bytes read back so far.
    pub proved_bytes: u64,
    /// Bytes that came over the line.
    pub fetched_bytes: u64,
    /// Bytes that were expected to come over the line.
    pub expected_bytes: u64,
    /// Bytes placed a second since it began in this run of the daemon.
    pub rate: u64,
    /// When it will be there inside of the policy as things are, Unix seconds; absent: nobody can tell.
    pub arrives_at: Option<i64>,
    /// Who asked.
    pub actor: String,
    /// When, Unix milliseconds.
    pub asked_at: u64,
    /// What its bytes hash to: what `b3sum` prints for the image.
    pub root: String,
}

impl fmt::Display for RestoreStatus {
    /// One line: what it does, how far it is, when it will be there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "restore {}: generation {} of {} to {}, ", self.id, self.number, self.volume, self.to.display())?;
        match &self.phase {
            Phase::Writing => {
                let came = text::bytes(self.fetched_bytes);
                let placed = text::bytes(self.placed_bytes);
                write!(f, "{placed} of {} in place, {came}", text::bytes(self.size))?;
                if self.expected_bytes > 0 {
                    write!(f, " of about {}", text::bytes(self.expected_bytes.max(self.fetched_bytes)))?;
                }
                write!(f, " over the line")?;
                if let Some(left) = self.left() {
                    write!(f, ", {} left", text::duration(left))?;
                }
            }
            Phase::Proving => {
                write!(f, "reading back: {} of {}", text::bytes(self.proved_bytes), text::bytes(self.size))?;
            }
            Phase::Done { .. } => write!(f, "done and proved, root {}", self.root)?,
            Phase::Failed { why } => write!(f, "failed: {why}")?,
            Phase::Cancelled => write!(f, "cancelled")?,
        }
        match &self.waits {
            Some(why) if !self.phase.is_over() => write!(f, "; waits: {why}")?,
            _ => {}
        }
        match self.is_device && !matches!(self.phase, Phase::Done { .. }) {
            true => write!(f, "; {} is incomplete", self.to.display()),
            false => Ok(()),
        }
    }
}

impl RestoreStatus {
    /// How long it takes still at the speed so far; `None` before that says anything.
    fn left(&self) -> Option<Duration> {
        let left = self.size.saturating_sub(self.placed_bytes);
        (self.rate > 0 && left > 0 && self.waits.is_none())
            .then(|| Duration::from_secs((left / self.rate).min(1_000_000_000)))
    }
}

/// Which generations of a volume there are: here, and with `remote` at the gateway too, newest first.
pub(crate) async fn list(daemon: &Daemon, volume: &str, remote: bool) -> Result<Vec<Known>, RestoreError> {
    let mut both = plan::Both::look(daemon, volume).await?;
    match (remote, both.remote) {
        (true, Err(error)) => return Err(error.into()),
        (true, Ok(held)) => both.remote = Ok(held),
        (false, _) => both.remote = Ok(Vec::new()),
    }
    Ok(both.all())
}

/// What a restore would do.
pub(crate) async fn planned(daemon: &Daemon, order: &Order) -> Result<Plan, RestoreError> {
    Ok(plan::plan(daemon, order).await?)
}

/// All restores of an edge. Clones are handles on the same ones.
#[derive(Clone)]
pub(crate) struct Restores(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    jobs: Mutex<BTreeMap<u64, Arc<Job>>>,
}

/// What somebody wants restored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// The volume's name, or the id of a lineage.
    pub volume: String,
    /// `latest`, a number as the gateway counts, or an id.
    pub generation: String,
    /// Where to.
    pub to: PathBuf,
    /// Whether that may be what the volume is captured from.
    pub onto_source: bool,
    /// Whether it shares the way down with the answers to replication.
    pub priority: bool,
    /// Who asks.
    pub actor: String,
}

impl Restores {
    /// Takes up what is remembered in the state directory. Nothing runs before [`Restores::resume`]. Blocks.
    pub(crate) fn open(state: &Path, store: &Arc<Store>) -> io::Result<Restores> {
        let folder = state.join("restores");
        tidy(&folder)?;
        let records = Record::load_all(&folder)?;
        let job = |record: Record| (record.id, Arc::new(Job::new(record, store.clone(), folder.clone())));
        let jobs = Mutex::new(records.into_iter().map(job).collect());
        Ok(Restores(Arc::new(Inner { folder: folder.clone(), jobs })))
    }

    /// Goes on with all that are not over.
    pub(crate) fn resume(&self, daemon: &Daemon) {
        let jobs: Vec<Arc<Job>> = self.lock().values().cloned().collect();
        jobs.into_iter().filter(|job| !job.record().phase.is_over()).for_each(|job| self.run(daemon, job));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Job>>> {
        // Entries are put in and taken out in one step each.
        self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn job(&self, id: u64) -> Result<Arc<Job>, RestoreError> {
        self.lock().get(&id).cloned().ok_or(RestoreError::Unknown(id))
    }

    /// What is known of each, oldest first.
    pub(crate) fn statuses(&self, daemon: &Daemon) -> Vec<RestoreStatus> {
        let jobs: Vec<Arc<Job>> = self.lock().values().cloned().collect();
        jobs.iter().map(|job| status_of(job, daemon)).collect()
    }

    /// Plans a restore and begins it; it goes on without whoever asked.
    pub(crate) async fn begin(&self, daemon: &Daemon, order: &Order) -> Result<(u64, Plan), RestoreError> {
        let plan = plan::plan(daemon, order).await?;
        let asked = Asked {
            volume: order.volume.clone(),
            lineage: plan.lineage,
            generation: plan.id,
            number: plan.number,
            root: plan.proof,
            size: plan.size,
            to: order.to.clone(),
            onto_source: order.onto_source,
            priority: order.priority,
            actor: order.actor.clone(),
            expected: plan.line_bytes,
        };
        let job = {
            let mut jobs = self.lock();
            let other = jobs.values().map(|job| job.record()).find(|record| {
                !record.phase.is_over() && (record.to == order.to || target::overlaps(&record.to, &order.to))
            });
            if let Some(other) = other {
                return Err(RestoreError::Taken(other.id, other.to));
            }
            let id = jobs.keys().next_back().map_or(1, |last| last + 1);
            let record = Record::new(id, asked, wire::clock::machine_time());
            let job = Arc::new(Job::new(record, daemon.disk().store.clone(), self.0.folder.clone()));
            jobs.insert(id, job.clone());
            job
        };
        let id = job.record().id;
        if let Err(error) = job.note(|_| ()).await {
            self.lock().remove(&id);
            return Err(self.failed(error));
        }
        self.forget_old().await;
        tracing::info!(restore = id, volume = order.volume, generation = %plan.id, to = %order.to.display(), by = order.actor, "a restore begins");
        self.run(daemon, job);
        Ok((id, plan))
    }

    fn failed(&self, error: JobError) -> RestoreError {
        match error {
            JobError::Record { path, source } => RestoreError::Record { path, source },
            other => RestoreError::Record { path: self.0.folder.clone(), source: io::Error::other(other.to_string()) },
        }
    }

    /// Ends a restore. A file that is not whole is removed; a device stays incomplete.
    pub(crate) async fn cancel(&self, id: u64) -> Result<(), RestoreError> {
        let job = self.job(id)?;
        job.cancelled.cancel();
        let mut over = job.over.subscribe();
        let _dropped_only_with_the_job = over.wait_for(|over| *over).await;
        Ok(())
    }

    /// Waits until a restore is over; `show` is told every half second how it stands.
    pub(crate) async fn wait(
        &self,
        daemon: &Daemon,
        id: u64,
        mut show: impl FnMut(&RestoreStatus),
    ) -> Result<RestoreStatus, RestoreError> {
        let job = self.job(id)?;
        let mut over = job.over.subscribe();
        let mut clock = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                ended = over.wait_for(|over| *over) => {
                    let _dropped_only_with_the_job = ended;
                    break;
                }
                _ = clock.tick() => show(&status_of(&job, daemon)),
            }
        }
        let status = status_of(&job, daemon);
        let how = match &status.phase {
            Phase::Done { .. } => return Ok(status),
            Phase::Failed { why } => format!("failed: {why}"),
            Phase::Cancelled => "was cancelled".into(),
            Phase::Writing | Phase::Proving => "goes on when the daemon runs again".into(),
        };
        let device = if status.is_device { format!("; {} is incomplete", status.to.display()) } else { String::new() };
        Err(RestoreError::Ended { id, how: how + &device })
    }

    fn run(&self, daemon: &Daemon, job: Arc<Job>) {
        let (restores, on) = (self.clone(), daemon.clone());
        daemon.tracker().spawn(async move { restores.run_to_its_end(on, &job).await });
    }

    async fn run_to_its_end(&self, daemon: Daemon, job: &Job) {
        let record = job.record();
        let pull = Pull {
            link: daemon.link().clone(),
            store: job.store.clone(),
            part: self.0.folder.join(format!("{}.part", record.id)),
            actor: record.actor.clone(),
            priority: record.priority,
            fetched: job.fetched.clone(),
            waits: job.waits.clone(),
        };
        // What is captured while its source is being overwritten would be neither the old volume nor the new one.
        let volume = daemon.volume(&record.volume).ok().filter(|_| record.onto_source);
        let _nobody_captures = match &volume {
            Some(volume) => Some(volume.capturing.lock().await),
            None => None,
        };
        let worked = {
            let work = job.work(&pull);
            tokio::pin!(work);
            tokio::select! {
                worked = &mut work => worked,
                () = job.cancelled.cancelled() => { job.progress.cancel(); work.await }
                () = daemon.stopping().cancelled() => { job.progress.cancel(); work.await }
            }
        };
        let noted = match worked {
            Ok(()) => {
                tracing::info!(restore = record.id, to = %record.to.display(), "restored and proved");
                Ok(())
            }
            Err(JobError::Stopped) if job.cancelled.is_cancelled() => {
                job.note(|record| record.phase = Phase::Cancelled).await
            }
            Err(JobError::Stopped) => Ok(()), // it goes on with the next start
            Err(error) => {
                let why = error.to_string();
                tracing::error!(restore = record.id, why, "a restore failed");
                job.note(|record| record.phase = Phase::Failed { why }).await
            }
        };
        if let Err(error) = noted {
            tracing::error!(restore = record.id, %error, "how a restore ended cannot be noted");
        }
        let record = job.record();
        if record.phase.is_over() {
            let _logged_there = pull.discard().await;
            if matches!(record.phase, Phase::Cancelled) {
                blocking(move || target::remove_unfinished(&record.to, record.stamp)).await;
            }
        }
        job.over.send_replace(true);
    }

    /// Forgets all but the last that are over.
    async fn forget_old(&self) {
        let old: Vec<Record> = {
            let jobs = self.lock();
            let over: Vec<Record> =
                jobs.values().map(|job| job.record()).filter(|record| record.phase.is_over()).collect();
            over.iter().take(over.len().saturating_sub(REMEMBERED)).cloned().collect()
        };
        for record in old {
            self.lock().remove(&record.id);
            let folder = self.0.folder.clone();
            if let Err(error) = blocking(move || record.remove(&folder)).await {
                tracing::warn!(%error, "a restore that is long over is not forgotten");
            }
        }
    }
}

/// Removes what exports of an earlier run of the daemon left. Blocks.
fn tidy(folder: &Path) -> io::Result<()> {
    crate::files::private_directory(folder)?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("export-") {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn status_of(job: &Job, daemon: &Daemon) -> RestoreStatus {
    let record = job.record();
    let placed = (record.cursor.0 * dedupe::BLOCK as u64).min(record.size);
    let (since, blocks, _) = job.began;
    let fetched = job.fetched.load(Ordering::Relaxed);
    let moved = record.cursor.0.saturating_sub(blocks) * dedupe::BLOCK as u64;
    let left = record.expected.saturating_sub(fetched);
    let arrives_at = match record.phase {
        Phase::Writing if left > 0 => daemon.link().line().comes_down(left).map(|(at, _)| at.as_second()),
        _ => None,
    };
    RestoreStatus {
        id: record.id,
        volume: record.volume,
        generation: record.generation.to_string(),
        number: record.number,
        is_device: target::is_device(&record.to),
        to: record.to,
        waits: job.waits().filter(|_| !record.phase.is_over()),
        size: record.size,
        placed_bytes: placed,
        proved_bytes: if record.phase == Phase::Writing { 0 } else { job.progress.done.load(Ordering::Relaxed) },
        fetched_bytes: fetched,
        expected_bytes: record.expected,
        rate: (moved as f64 / since.elapsed().as_secs_f64().max(0.1)) as u64,
        arrives_at,
        actor: record.actor,
        asked_at: record.asked_at.0,
        root: record.root.to_string(),
        phase: record.phase,
    }
}

/// Of the generations that both ends hold, the one nearest to the wanted one; none where there is none.
async fn nearest(
    store: &Arc<Store>,
    pull: &Pull,
    lineage: LineageId,
    wanted: GenerationId,
) -> Result<Option<GenerationId>, JobError> {
    let (store, here) = (store.clone(), move |store: Arc<Store>| store.generations(lineage));
    loop {
        let session = pull.session().await?;
        let Ok(held) = session.list(lineage).await else {
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        };
        let (store, here) = (store.clone(), here);
        let local = blocking(move || here(store)).await?;
        return match held.iter().find(|known| known.generation == wanted) {
            Some(target) => Ok(nearest_of(&local, &held, target.number)),
            None => Err(PullError::Unknown(wanted).into()),
        };
    }
}

pub(crate) fn nearest_of(local: &[Generation], held: &[Held], number: u64) -> Option<GenerationId> {
    let is_here = |id| local.iter().any(|known| known.id == id && known.is_sealed());
    let both = held.iter().filter(|known| is_here(known.generation));
    both.min_by_key(|known| known.number.abs_diff(number)).map(|known| known.generation)
}
