//! The running edge: every part built once, every task under one token and one tracker.
//!
//! Several daemons may live in one process: nothing here is global.

use crate::capture::{Capture, CaptureError, Captured, How};
use crate::config::Config;
use crate::figures::{self, Figures};
use crate::freeze::Frozen;
use crate::gate::{Gate, Share};
use crate::journal::Cost;
use crate::keeper;
use crate::line::outlook::By;
use crate::line::{Advice, Line, NoAdvice};
use crate::link::Link;
use crate::metrics::{self, Metrics};
use crate::pipeline::{Notify, Pipeline, Shared, SpoolOrStore, blocking, target_of};
use crate::restore::{self, Restores};
use crate::sender::State as Sending;
use crate::state::{AddError, State, StateError};
use crate::status::{SendingStatus, Status, Surroundings, VolumeStatus, line};
use crate::tracks::Demoted;
use crate::volume::Volume;
use crate::volumes::{VolumeEntry, VolumesError};
use crate::worker::Worker;
use crate::{admin, appliance, page, text};
use dedupe::{Encoder, GenerationId, Progress};
use monitoring::{Check, Health, MetricError, Recent, Registry, ServeError};
use seed::key::SealingKey;
use serde::{Deserialize, Serialize};
use shaping::forecast::Work;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::clock::machine_time;

/// How long a stopping daemon waits for its tasks: a parcel that is being coded takes about so long, and all else is shorter.
const DRAIN: Duration = Duration::from_secs(20);
/// A full disk is looked at again after this.
const ROOM_WAIT: Duration = Duration::from_secs(10);

/// Why a daemon could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system has no room for a thread.
    #[error("cannot start the thread that codes parcels: {0}; look for a limit on threads or memory")]
    Thread(#[source] std::io::Error),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The records of restores.
    #[error("cannot read the records of restores in the state directory: {0}")]
    Restores(#[source] std::io::Error),
    /// The state of a volume.
    #[error("cannot read the state of volume {volume}: {source}")]
    Volume {
        /// The volume.
        volume: String,
        /// The cause.
        source: SpoolOrStore,
    },
    /// The page of metrics.
    #[error(transparent)]
    Http(#[from] ServeError),
    /// The socket of the command line.
    #[error(transparent)]
    Admin(#[from] admin::ListenError),
    /// A metric: a fault of the program.
    #[error(transparent)]
    Metrics(#[from] MetricError),
}

/// Why something that was asked of the daemon was not done.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// No such volume, or it cannot be changed so.
    #[error(transparent)]
    Volumes(#[from] VolumesError),
    /// A volume cannot be added.
    #[error(transparent)]
    Add(#[from] AddError),
    /// The state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The state of a volume.
    #[error(transparent)]
    Volume(#[from] SpoolOrStore),
    /// A capture failed.
    #[error("cannot capture {volume}: {source}")]
    Capture {
        /// The volume.
        volume: String,
        /// The cause.
        source: CaptureError,
    },
    /// There is nothing to wait for.
    #[error("{0} was never captured; run `sluice-edge capture {0}` first")]
    NeverCaptured(String),
    /// Only a person can help.
    #[error("{volume} is stopped: {why}")]
    Stopped {
        /// The volume.
        volume: String,
        /// Why.
        why: String,
    },
    /// The volume was removed, or the daemon stops.
    #[error("{0} is not replicated any more")]
    Gone(String),
    /// The schedule is not bent.
    #[error(transparent)]
    Line(#[from] crate::line::LocalError),
    /// There is no advice.
    #[error(transparent)]
    Advice(#[from] NoAdvice),
    /// The line could not be tested.
    #[error(transparent)]
    LineTest(#[from] crate::line_test::LineTestError),
    /// The store failed.
    #[error("the local store: {0}")]
    Store(#[from] dedupe::StoreError),
    /// The page.
    #[error(transparent)]
    Page(#[from] page::PageError),
    /// An export.
    #[error(transparent)]
    Export(#[from] crate::export::ExportError),
    /// A restore.
    #[error(transparent)]
    Restore(#[from] restore::RestoreError),
    /// A seed by courier.
    #[error(transparent)]
    Shipment(#[from] crate::shipments::ShipmentError),
}

/// What a capture and the sending of its generation took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CaptureReport {
    /// The volume.
    pub volume: String,
    /// The generation's id.
    pub generation: String,
    /// Its number at this site.
    pub number: u64,
    /// Its root, hexadecimal.
    pub root: String,
    /// Bytes of the volume.
    pub size: u64,
    /// Bytes of blocks that differ from the generation before.
    pub dirty_bytes: u64,
    /// Bytes of these that are not zeroes.
    pub new_bytes: u64,
    /// Ranges that could not be read and are zero.
    pub unreadable_ranges: usize,
    /// The source was written to while it was read.
    pub moved: bool,
    /// How its bytes were come by.
    #[serde(default)]
    pub how: How,
    /// Bytes that were read from the source.
    #[serde(default)]
    pub read_bytes: u64,
    /// Why the source's change tracker is not believed any more, if that was found in this capture.
    #[serde(default)]
    pub demoted: Option<String>,
    /// Parcels that it was sent in; 0 before it is sealed at the gateway.
    pub parcels: u64,
    /// Bytes of these.
    pub coded_bytes: u64,
    /// Seconds of the capture.
    pub capture_s: f64,
    /// CPU seconds of the capture.
    pub capture_cpu_s: f64,
    /// CPU seconds of planning and coding.
    pub code_cpu_s: f64,
}

/// How much of a daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Full,
    /// Only what the command line needs when no daemon runs: no line, no pages, no socket, no capture by the clock.
    Local,
}

/// A running edge. Clones are handles on the same one; [`Daemon::shutdown`] ends it.
#[derive(Clone)]
pub struct Daemon(Arc<Inner>);

struct Inner {
    config: Config,
    extent: Extent,
    shared: Arc<Shared>,
    volumes: Mutex<Vec<(Arc<Volume>, Notify)>>,
    restores: Restores,
    appliance: appliance::Standing,
    /// One clone for each export that is served.
    exports: Arc<()>,
    /// One capture at a time: the memory ceiling has room for one set of workers.
    captures: Semaphore,
    registry: Registry,
    health: Health,
    http: Option<SocketAddr>,
    /// Where the page is served, once it is.
    page: Mutex<Option<SocketAddr>>,
    /// The last lines of the log, where whoever embeds the daemon keeps them.
    recent: OnceLock<Recent>,
    began: tokio::time::Instant,
    /// Readiness: all parts were built.
    _ready: Check,
}

impl Daemon {
    /// Starts all of an edge with this configuration.
    pub async fn start(config: Config) -> Result<Daemon, StartError> {
        Daemon::start_with(config, Extent::Full).await
    }

    /// Starts an edge, or only its local part.
    pub async fn start_with(config: Config, extent: Extent) -> Result<Daemon, StartError> {
        let (registry, health) = (Registry::new(), Health::new());
        let ready = health.check("state");
        let opened = config.clone();
        let disk = Arc::new(blocking(move || State::open(&opened)).await?);
        let options = config.budget().encoder_options(config.cache);
        let (directory, journal, rate) = (config.state.clone(), disk.journal.clone(), config.rate);
        let line = blocking(move || Line::open(&directory, journal, rate)).await.map_err(StateError::from)?;
        let link = Link::new(&config, line);
        let shared = Arc::new(Shared {
            encoder: Arc::new(Encoder::new(disk.store.clone(), options)),
            disk,
            coder: Arc::new(Semaphore::new(1)),
            coding: Worker::start("coder").map_err(StartError::Thread)?,
            gate: Gate::new(link.shaper().clone()),
            link,
            held: Mutex::new(HashMap::new()),
            rate: config.encoder_rate(),
            metrics: Metrics::new(&registry)?,
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        metrics::register(&registry, &shared.link, &config)?;
        monitoring::register_process(&registry, "sluice-edge", env!("CARGO_PKG_VERSION"))?;
        let (directory, store) = (config.state.clone(), shared.disk.store.clone());
        let restores = blocking(move || Restores::open(&directory, &store)).await.map_err(StartError::Restores)?;
        let listener = match config.http.filter(|_| extent == Extent::Full) {
            Some(address) => Some(monitoring::bind(address).await?),
            None => None,
        };
        let daemon = Daemon(Arc::new(Inner {
            http: listener.as_ref().and_then(|listener| listener.local_addr().ok()),
            page: Mutex::default(),
            recent: OnceLock::new(),
            extent,
            shared,
            volumes: Mutex::default(),
            restores,
            appliance: appliance::Standing::default(),
            exports: Arc::default(),
            captures: Semaphore::new(1),
            registry,
            health,
            began: tokio::time::Instant::now(),
            _ready: ready,
            config,
        }));
        let inner = Arc::downgrade(&daemon.0);
        daemon.0.registry.read_page(move |page| {
            if let Some(inner) = inner.upgrade() {
                Daemon(inner).figures().put(page);
            }
        });
        let entries = daemon.0.shared.disk.volumes().entries().to_vec();
        for entry in entries {
            let volume = entry.name.clone();
            daemon.take_up(entry).await.map_err(|source| StartError::Volume { volume, source })?;
        }
        if extent == Extent::Full {
            // Before anything is dialled: a session that begins while the line is closed has no data connection.
            let line = daemon.link().line().clone();
            blocking(move || line.go_live()).await;
            daemon.run_all(listener)?;
            daemon.open_page().await;
        }
        daemon.0._ready.ok();
        Ok(daemon)
    }

    /// Starts the line, the pages, the socket and the keeper.
    fn run_all(&self, listener: Option<tokio::net::TcpListener>) -> Result<(), StartError> {
        let (shared, stop) = (&self.0.shared, self.0.shared.stop.clone());
        let socket = admin::listen(&self.0.config.state)?;
        for volume in self.all_volumes() {
            let daemon = self.clone();
            shared.tracker.spawn(async move {
                let _nobody_captures = volume.capturing.lock().await;
                daemon.leave(&volume, false).await;
            });
        }
        shared.tracker.spawn(self.clone().follow_seeds());
        shared.tracker.spawn(admin::serve(socket, self.clone()));
        if let Some(listener) = listener {
            let (registry, health, stop) = (self.0.registry.clone(), self.0.health.clone(), stop.clone());
            shared.tracker.spawn(async move {
                let served = monitoring::serve(listener, registry, health, stop.cancelled_owned()).await;
                if let Err(error) = served {
                    tracing::error!(%error, "metrics and health are not served any more");
                }
            });
        }
        let weak = Arc::downgrade(&self.0);
        shared.link.set_status(Arc::new(move || match weak.upgrade().map(Daemon) {
            Some(daemon) => (daemon.sign_of_life(), daemon.figures()),
            None => Default::default(),
        }));
        let store = Arc::downgrade(&shared.disk.store);
        shared.link.set_repairs(Arc::new(move |generation, blocks| {
            let made = store.upgrade().map(|store| store.blocks_parcel(generation, blocks));
            // Not here, or damaged here too: the empty answer says so.
            made.and_then(Result::ok).flatten().unwrap_or_default()
        }));
        shared.tracker.spawn(shared.link.line().clone().run(stop.clone()));
        shared.tracker.spawn(shared.link.clone().run(stop.clone()));
        shared.tracker.spawn(shared.gate.clone().follow(shared.link.line().volumes(), stop.clone()));
        shared.tracker.spawn(self.clone().watch_line());
        shared.tracker.spawn(appliance::run(self.clone()));
        shared.tracker.spawn(keeper::run(self.clone(), stop));
        self.0.restores.resume(self);
        Ok(())
    }

    /// Begins to serve the page for people at the site. That it cannot be served stops nothing else.
    async fn open_page(&self) {
        let Some(page) = self.0.config.page.clone() else { return };
        let first = page::bind(self, page.listen).await.ok();
        self.tracker().spawn(page::run(self.clone(), page, first));
    }

    /// The configuration that it runs with.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Where metrics and health are served.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.0.http
    }

    /// Where the page is served; none: it is not, or not yet.
    pub fn page_address(&self) -> Option<SocketAddr> {
        *self.0.page.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn page_is_at(&self, address: SocketAddr) {
        *self.0.page.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }

    /// From now on diagnostics show these lines of the log.
    pub fn keep_log(&self, recent: Recent) {
        let _only_the_first_counts = self.0.recent.set(recent);
    }

    pub(crate) fn recent(&self) -> Recent {
        self.0.recent.get().cloned().unwrap_or_default()
    }

    pub(crate) fn health(&self) -> &Health {
        &self.0.health
    }

    /// The registry, for figures of whoever embeds the daemon.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// The line.
    pub fn link(&self) -> &Link {
        &self.0.shared.link
    }

    pub(crate) fn disk(&self) -> &Arc<State> {
        &self.0.shared.disk
    }

    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.0.shared.stop
    }

    pub(crate) fn tracker(&self) -> &TaskTracker {
        &self.0.shared.tracker
    }

    pub(crate) fn restores(&self) -> &Restores {
        &self.0.restores
    }

    pub(crate) fn appliance(&self) -> &appliance::Standing {
        &self.0.appliance
    }

    /// How many exports are served.
    pub(crate) fn exports(&self) -> usize {
        Arc::strong_count(&self.0.exports) - 1
    }

    /// An export is served until this is dropped.
    pub(crate) fn note_export(&self) -> Arc<()> {
        self.0.exports.clone()
    }

    pub(crate) fn is_local(&self) -> bool {
        self.0.extent == Extent::Local
    }

    /// The volume of this name.
    pub fn volume(&self, name: &str) -> Result<Arc<Volume>, DaemonError> {
        let found =
            self.volumes().iter().find(|(volume, _)| volume.entry.name == name).map(|(volume, _)| volume.clone());
        match found {
            Some(volume) => Ok(volume),
            // The list knows how to say what there is instead.
            None => Err(self
                .0
                .shared
                .disk
                .volumes()
                .find(name)
                .err()
                .map_or_else(|| DaemonError::Gone(name.into()), DaemonError::from)),
        }
    }

    /// All volumes, in the order in which they were added.
    pub fn all_volumes(&self) -> Vec<Arc<Volume>> {
        self.volumes().iter().map(|(volume, _)| volume.clone()).collect()
    }

    fn volumes(&self) -> MutexGuard<'_, Vec<(Arc<Volume>, Notify)>> {
        // Pushed to and removed from in one step each.
        self.0.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a volume, durably, and takes it up.
    pub async fn add_volume(&self, entry: VolumeEntry) -> Result<(), DaemonError> {
        let (disk, added) = (self.0.shared.disk.clone(), entry.clone());
        blocking(move || disk.add_volume(added)).await?;
        Ok(self.take_up(entry).await?)
    }

    /// Removes a volume, durably, with what is spooled of it. What the gateway holds of it stays there.
    pub async fn remove_volume(&self, name: &str) -> Result<(), DaemonError> {
        let volume = self.volume(name)?;
        volume.removed.cancel();
        if let Some((progress, _)) = &volume.capture().running {
            progress.cancel();
        }
        // Until its capture has let go of the draft.
        let _nobody_captures = volume.capturing.lock().await;
        let (disk, removed) = (self.0.shared.disk.clone(), name.to_owned());
        blocking(move || disk.remove_volume(&removed)).await?;
        self.leave(&volume, true).await;
        self.volumes().retain(|(volume, _)| volume.entry.name != name);
        self.0.shared.metrics.forget(name);
        Ok(())
    }

    /// Removes what captures left at a volume's source. What cannot be removed harms nobody and is said.
    async fn leave(&self, volume: &Volume, is_over: bool) {
        let source = volume.source();
        if let Err(error) = blocking(move || source.leave(is_over)).await {
            tracing::warn!(volume = volume.entry.name, %error, "what captures left at its source is still there");
        }
    }

    /// Believes the change tracker of a volume again, from the next capture on, and another dirty bitmap from now on if one is named.
    pub async fn trust_volume(&self, name: &str, bitmap: Option<String>) -> Result<(), DaemonError> {
        let volume = self.volume(name)?;
        let (disk, named, lineage) = (self.0.shared.disk.clone(), name.to_owned(), volume.entry.lineage);
        let source = blocking(move || {
            let source = match bitmap {
                Some(bitmap) => Some(disk.volumes().follow(&named, bitmap)?),
                None => None,
            };
            disk.journal.change_tracks(lineage, |tracks| tracks.demoted = None).map_err(StateError::from)?;
            Ok::<_, DaemonError>(source)
        });
        if let Some(source) = source.await? {
            volume.set_source(source);
        }
        volume.capture().demoted = None;
        self.0.shared.metrics.demoted(name, false);
        tracing::info!(volume = name, source = %volume.source(), "its change tracker is believed again");
        Ok(())
    }

    async fn take_up(&self, entry: VolumeEntry) -> Result<(), SpoolOrStore> {
        let volume = Arc::new(Volume::new(entry));
        let (shared, opened) = (self.0.shared.clone(), volume.clone());
        let (pipeline, notify) = blocking(move || {
            let newest = shared.disk.store.latest(opened.entry.lineage)?;
            let unreadable = match &newest {
                Some(newest) => {
                    shared.disk.journal.unreadable(newest.id).map_err(crate::spool::SpoolError::from)?.len()
                }
                None => 0,
            };
            let tracks = shared.disk.journal.tracks(opened.entry.lineage).map_err(crate::spool::SpoolError::from)?;
            {
                let mut capture = opened.capture();
                (capture.newest, capture.unreadable, capture.demoted) = (newest, unreadable, tracks.demoted);
            }
            Pipeline::open(shared, opened)
        })
        .await?;
        metrics::remember(&self.0.shared.metrics, &Arc::downgrade(&volume));
        self.volumes().push((volume.clone(), notify));
        if self.0.extent == Extent::Full {
            self.tracker().spawn(pipeline.run());
            if let Some(interval) = self.0.config.capture.interval {
                self.tracker().spawn(self.clone().capture_by_clock(volume, interval));
            }
        }
        Ok(())
    }

    /// Captures a volume again and again, `interval` after the last begin.
    async fn capture_by_clock(self, volume: Arc<Volume>, interval: Duration) {
        let mut clock = tokio::time::interval(interval);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = clock.tick() => {}
                () = self.stopping().cancelled() => return,
                () = volume.removed.cancelled() => return,
            }
            // Said by status and metrics already.
            let _ = self.capture(&volume.entry.name).await;
        }
    }

    /// Captures a volume and seals the generation here. A disk without room is waited for.
    pub async fn capture(&self, name: &str) -> Result<CaptureReport, DaemonError> {
        let volume = self.volume(name)?;
        let _alone = volume.capturing.lock().await;
        let captured = loop {
            let _turn = self.0.captures.acquire().await.map_err(|_| DaemonError::Gone(name.into()))?;
            match self.capture_once(&volume).await {
                Err(error) if error.is_no_room() => tracing::warn!(volume = name, %error, "no room; trying again"),
                ended => break ended,
            }
            tokio::select! {
                () = tokio::time::sleep(ROOM_WAIT) => {}
                () = self.stopping().cancelled() => break Err(CaptureError::Stopped),
                () = volume.removed.cancelled() => break Err(CaptureError::Stopped),
            }
        };
        let captured = captured.map_err(|source| {
            self.0.shared.metrics.capture_failed();
            tracing::warn!(volume = name, error = %source, "capture failed");
            DaemonError::Capture { volume: name.into(), source }
        })?;
        self.0.shared.metrics.captured(&captured);
        tracing::info!(
            volume = name,
            generation = %captured.generation.id,
            dirty = %text::bytes(captured.dirty_bytes),
            read = %text::bytes(captured.read_bytes),
            seconds = captured.elapsed.as_secs_f64(),
            "captured"
        );
        let notify =
            self.volumes().iter().find(|(known, _)| Arc::ptr_eq(known, &volume)).map(|(_, notify)| notify.clone());
        if let (Some(notify), Some(target), Extent::Full) = (notify, target_of(&captured.generation), self.0.extent) {
            notify.captured(target).await;
        }
        Ok(report(&volume, &captured))
    }

    async fn capture_once(&self, volume: &Arc<Volume>) -> Result<Captured, CaptureError> {
        let progress = Arc::new(Progress::default());
        let began = tokio::time::Instant::now().into_std();
        volume.capture().running = Some((progress.clone(), began));
        let (disk, entry, link) = (self.0.shared.disk.clone(), volume.entry.clone(), self.0.shared.link.clone());
        let (workers, reads) = (self.0.config.budget().capture_workers, progress.clone());
        let (spec, sampling) = (volume.source(), self.0.config.capture.sampling);
        let within = self.0.config.capture.freeze_within;
        let work = blocking(move || {
            let frozen = match &entry.freeze {
                Some(script) => Some(Frozen::begin(script, &entry.name, within)?),
                None => None,
            };
            let source = spec.open(&disk.sources)?;
            if let Some(frozen) = frozen {
                frozen.thaw()?;
            }
            Capture {
                store: &disk.store,
                journal: &disk.journal,
                lineage: entry.lineage,
                source: &*source,
                place: spec.to_string(),
                workers,
                on_read_error: entry.on_read_error,
                sampling,
                progress: &reads,
            }
            .run(|| link.now())
        });
        tokio::pin!(work);
        let result = tokio::select! {
            result = &mut work => result,
            () = self.stopping().cancelled() => {
                // Asked to stop, it ends behind the slab that it is at, and keeps what it has.
                progress.cancel();
                work.await
            }
        };
        let (journal, lineage) = (self.0.shared.disk.journal.clone(), volume.entry.lineage);
        let tracks = blocking(move || journal.tracks(lineage)).await;
        let mut side = volume.capture();
        side.running = None;
        if let Ok(tracks) = tracks {
            self.0.shared.metrics.demoted(&volume.entry.name, tracks.demoted.is_some());
            side.demoted = tracks.demoted;
        }
        match &result {
            Ok(captured) => {
                side.newest = Some(captured.generation.clone());
                side.unreadable = captured.unreadable.len();
                side.how = Some((captured.how.clone(), captured.read_bytes));
                side.failed = None;
                side.took = Some((captured.elapsed.as_secs_f64(), captured.cpu.as_secs_f64()));
            }
            Err(CaptureError::Stopped) => {}
            Err(error) => side.failed = Some(error.to_string()),
        }
        result
    }

    /// Waits until the newest generation that was captured here, or a younger one, is verified at the gateway.
    pub async fn wait_sealed(&self, name: &str) -> Result<Cost, DaemonError> {
        let volume = self.volume(name)?;
        let newest = volume.capture().newest.as_ref().map(|newest| (newest.id, newest.number));
        let (target, number) = newest.ok_or_else(|| DaemonError::NeverCaptured(name.into()))?;
        let mut sides = volume.sender.subscribe();
        loop {
            let stopped = {
                let side = sides.borrow_and_update();
                if let Some((sealed, at)) = &side.acknowledged
                    && (sealed.generation == target || *at >= number)
                {
                    return Ok(sealed.cost);
                }
                match &side.state {
                    Sending::Stopped { why, .. } => Some(why.clone()),
                    _ => None,
                }
            };
            if let Some(why) = stopped {
                return Err(DaemonError::Stopped { volume: name.into(), why });
            }
            let gone = tokio::select! {
                changed = sides.changed() => changed.is_err(),
                () = volume.removed.cancelled() => true,
                () = self.stopping().cancelled() => true,
            };
            if gone {
                return Err(DaemonError::Gone(name.into()));
            }
        }
    }

    /// Captures a volume and waits until the generation is verified at the gateway.
    pub async fn replicate(&self, name: &str) -> Result<CaptureReport, DaemonError> {
        let mut report = self.capture(name).await?;
        let cost = self.wait_sealed(name).await?;
        report.add(cost);
        Ok(report)
    }

    /// What the edge is doing and what holds it back.
    pub fn status(&self) -> Status {
        let (link, rate) = (self.link().state(), self.link().shaper().effective_rate());
        let (now, instant) = (machine_time(), tokio::time::Instant::now().into_std());
        let status_of = |volume: &Arc<Volume>| {
            let share = &self.0.shared.gate.share(volume.entry.lineage);
            VolumeStatus::of(volume, &Surroundings { link: &link, rate, now, instant, share })
        };
        let mut volumes: Vec<VolumeStatus> = self.all_volumes().iter().map(status_of).collect();
        self.forecast(&mut volumes);
        let meter = self.link().shaper().meter();
        Status {
            site: self.link().identity().map(|identity| identity.credentials().site),
            line: if self.is_local() { "The daemon does not run.".into() } else { line(&link, rate, now) },
            allowance: self.link().line().standing(),
            rate: rate.to_string(),
            spool_bytes: self.0.shared.disk.spool.used().0,
            sent_bytes: meter.sent_bytes,
            received_bytes: meter.received_bytes,
            volumes,
            restores: self.0.restores.statuses(self),
            appliance: self.0.appliance.now(),
            link,
        }
    }

    /// What the edge tells of itself. Blocks for a look at the disk.
    pub fn figures(&self) -> Figures {
        figures::of(self)
    }

    /// Since the daemon started.
    pub(crate) fn uptime(&self) -> Duration {
        self.0.began.elapsed()
    }

    /// How a volume shares the line.
    pub(crate) fn share(&self, volume: &Volume) -> Share {
        self.0.shared.gate.share(volume.entry.lineage)
    }

    /// When each of these will have crossed, Unix seconds.
    pub(crate) fn arrivals(&self, works: &[Work]) -> Vec<Option<i64>> {
        self.link().line().arrivals(works, self.0.shared.gate.goodput())
    }

    /// Says of each volume on its way when it will have arrived, and of a deadline that will be missed what would help.
    fn forecast(&self, volumes: &mut [VolumeStatus]) {
        let (line, share) = (self.link().line(), self.0.shared.gate.goodput());
        let (at, works) = works(volumes);
        for (place, arrival) in line.arrivals(&works, share).into_iter().enumerate() {
            let volume = &mut volumes[at[place]];
            volume.arrives_at = arrival;
            volume.arrives = arrival.map(|second| line.moment(second));
            let deadline = volume.deadline.filter(|deadline| arrival.is_none_or(|arrival| arrival > *deadline));
            let advice = deadline.map(|deadline| line.advise(&works, &[place], &By::Second(deadline), share));
            volume.late = advice.and_then(Result::ok).map(|advice| advice.sentence);
        }
    }

    /// Whether a volume, or everything on its way, is over by a time, and what would help. Without a time that of the policy's `lag` counts.
    pub fn advise(&self, volume: Option<&str>, by: Option<String>) -> Result<Advice, DaemonError> {
        if let Some(name) = volume {
            self.volume(name)?;
        }
        let status = self.status();
        let (at, works) = works(&status.volumes);
        let wanted: Vec<usize> =
            (0..works.len()).filter(|place| volume.is_none_or(|name| works[*place].name == name)).collect();
        let of = volume.map(|name| format!(" of `{name}`")).unwrap_or_default();
        if wanted.is_empty() {
            return Err(NoAdvice::NoWork(of).into());
        }
        let own = wanted.iter().filter_map(|place| status.volumes[at[*place]].deadline).min();
        let named = || volume.map_or("these volumes".into(), |name| format!("`{name}`"));
        let by = by.map(By::Text).or(own.map(By::Second)).ok_or_else(|| NoAdvice::NoDeadline(named()))?;
        Ok(self.link().line().advise(&works, &wanted, &by, self.0.shared.gate.goodput())?)
    }

    /// What the NOC is told once a minute.
    fn sign_of_life(&self) -> wire::message::EdgeStatus {
        // With 225 of them, three volumes, an edge at rest spends 800 bytes a minute; 1000 are promised.
        const MOST: usize = 300;
        let status = self.status();
        let doing: Vec<_> = status.volumes.iter().map(|volume| format!("{}: {}", volume.name, volume.doing)).collect();
        wire::message::EdgeStatus {
            spooled: status.spool_bytes,
            sent: status.sent_bytes,
            received: status.received_bytes,
            // Bounded: it costs bytes of the line, and the wire limits texts.
            doing: doing.join(" ").chars().take(MOST).collect(),
        }
    }

    /// Keeps the health page's note of the line.
    async fn watch_line(self) {
        let note = self.0.health.note("line");
        let (mut states, stop) = (self.link().states(), self.stopping().clone());
        loop {
            let state = states.borrow_and_update().clone();
            match &state {
                crate::link::LinkState::Connected { .. } => note.ok(),
                other => note.fail(line(other, self.link().shaper().effective_rate(), machine_time())),
            }
            tokio::select! {
                changed = states.changed() => if changed.is_err() { break },
                () = stop.cancelled() => break,
            }
        }
        note.retire();
    }

    /// Pairs of what the gateway holds and what it is still to get: needed from the content cache.
    pub(crate) fn unsent(&self) -> Vec<(Option<GenerationId>, GenerationId)> {
        let mut pairs = Vec::new();
        for volume in self.all_volumes() {
            let newest = volume.capture().newest.as_ref().map(|newest| newest.id);
            let side = volume.sender.borrow().clone();
            let sealed = side.acknowledged.map(|(sealed, _)| sealed.generation);
            let job = match &side.state {
                Sending::Idle => None,
                Sending::Offline(job) | Sending::Offering(job) | Sending::Moving(job, _) | Sending::Sealing(job) => {
                    Some(job)
                }
                Sending::Waiting { job, .. } | Sending::Stopped { job, .. } => Some(job),
            };
            let mut base = sealed;
            // Should its seed be lost, all of this has to go again.
            for kept in side.awaited {
                pairs.push((base, kept));
                base = Some(kept);
            }
            if let Some(job) = job {
                pairs.push((job.base.map(|(id, _)| id), job.target.generation));
                base = Some(job.target.generation);
            }
            pairs.extend(newest.filter(|newest| Some(*newest) != base).map(|newest| (base, newest)));
        }
        // All of what travels on media, in case they are lost.
        pairs.extend(self.disk().shipments.pinned().into_iter().map(|generation| (None, generation)));
        pairs
    }

    /// Tells volumes of news of their seeds, and keeps the gateway's key for media, as long as the daemon runs.
    async fn follow_seeds(self) {
        let (disk, stop, mut seeds) = (self.disk().clone(), self.stopping().clone(), self.link().seeds());
        seeds.mark_changed(); // a session may have begun already
        loop {
            let key = tokio::select! {
                () = stop.cancelled() => return,
                () = disk.shipments.changed() => None,
                Ok(()) = seeds.changed() => seeds.borrow_and_update().as_ref().map(|seeds| SealingKey(seeds.key.public)),
                else => return,
            };
            match key {
                Some(key) => {
                    let disk = disk.clone();
                    if let Err(error) = blocking(move || disk.shipments.set_key(key)).await {
                        tracing::warn!(%error, "the gateway's key for media is not kept");
                    }
                }
                None => {
                    let volumes: Vec<_> = self.volumes().iter().map(|(_, notify)| notify.clone()).collect();
                    for notify in volumes {
                        notify.seed().await;
                    }
                }
            }
        }
    }

    /// Ends everything: what can be finished within [`DRAIN`] is; the rest goes on with the next start.
    pub async fn shutdown(self) {
        self.0.shared.stop.cancel();
        for volume in self.all_volumes() {
            if let Some((progress, _)) = &volume.capture().running {
                progress.cancel();
            }
        }
        self.tracker().close();
        if tokio::time::timeout(DRAIN, self.tracker().wait()).await.is_err() {
            tracing::warn!("not all work ended within {} s; it goes on with the next start", DRAIN.as_secs());
        }
    }
}

/// What is on its way and how much of it is left, with the place of each among the volumes.
fn works(volumes: &[VolumeStatus]) -> (Vec<usize>, Vec<Work>) {
    let under_way = |volume: &VolumeStatus| {
        volume.sending.as_ref().filter(|sending| sending.coded_bytes > 0).map(SendingStatus::left)
    };
    let work = |(at, volume): (usize, &VolumeStatus)| {
        Some((at, Work { name: volume.name.clone(), bytes: under_way(volume)? }))
    };
    volumes.iter().enumerate().filter_map(work).unzip()
}

impl CaptureReport {
    /// Adds what sending cost.
    pub fn add(&mut self, cost: Cost) {
        self.parcels = cost.parcels;
        self.coded_bytes = cost.coded_bytes;
        self.code_cpu_s = cost.cpu_micros as f64 / 1e6;
    }
}

fn report(volume: &Volume, captured: &Captured) -> CaptureReport {
    let root = captured.generation.sealed.map(|sealed| sealed.root.to_string()).unwrap_or_default();
    CaptureReport {
        volume: volume.entry.name.clone(),
        generation: captured.generation.id.to_string(),
        number: captured.generation.number,
        root,
        size: captured.generation.size.0,
        dirty_bytes: captured.dirty_bytes,
        new_bytes: captured.new_bytes,
        unreadable_ranges: captured.unreadable.len(),
        moved: captured.moved,
        how: captured.how.clone(),
        read_bytes: captured.read_bytes,
        demoted: captured.demoted.as_ref().map(Demoted::to_string),
        parcels: 0,
        coded_bytes: 0,
        capture_s: captured.elapsed.as_secs_f64(),
        capture_cpu_s: captured.cpu.as_secs_f64(),
        code_cpu_s: 0.0,
    }
}
