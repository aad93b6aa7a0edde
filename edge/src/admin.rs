//! The command line's way to the running daemon: a Unix socket in the state directory that only its owner may open.
//!
//! One request per connection, as a line of JSON; the answer is any number of [`Reply::Progress`] lines and then [`Reply::Done`] or [`Reply::Failed`].
//! The same [`handle`] serves the socket and, where no daemon runs, the command line itself.

use crate::capture::OnReadError;
use crate::daemon::{CaptureReport, Daemon, DaemonError};
use crate::diagnostics;
use crate::export;
use crate::keeper;
use crate::line::{Advice, Line, LocalError, Standing};
use crate::page::{self, PageInfo};
use crate::restore::{self, Order, RestoreStatus};
use crate::shipments::{self, ShipmentStatus};
use crate::source::SourceSpec;
use crate::status::{Status, VolumeStatus};
use crate::text;
use crate::volumes::VolumeEntry;
use dedupe::{LineageId, Pace, Progress, SeedId};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use wire::seeding::{SeedState, Way};

/// Bytes of one request at most; a path may have 4096.
const MAX_REQUEST: u64 = 64 << 10;
/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// What the command line may ask for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub enum Request {
    /// What is it doing?
    Status,
    /// Add a volume.
    VolumeAdd {
        /// Its name.
        name: String,
        /// Where its bytes come from.
        source: SourceSpec,
        /// What is done when sectors cannot be read.
        on_read_error: OnReadError,
        /// The script that freezes and thaws what uses it.
        freeze: Option<PathBuf>,
    },
    /// Remove a volume.
    VolumeRemove {
        /// Its name.
        name: String,
    },
    /// Believe a volume's change tracker again.
    VolumeTrust {
        /// Its name.
        name: String,
        /// The dirty bitmap that follows its changes from now on; as before when absent.
        bitmap: Option<String>,
    },
    /// Capture one volume, or all.
    Capture {
        /// Its name; all when absent.
        volume: Option<String>,
        /// Until the gateway has verified it.
        wait: bool,
    },
    /// Sweep the local store.
    Gc {
        /// Only say what would be done.
        dry_run: bool,
    },
    /// Read the local store again and name what is damaged.
    Scrub,
    /// Send nothing for a while.
    Pause {
        /// Seconds.
        seconds: u64,
        /// Who.
        actor: String,
        /// Why.
        reason: String,
    },
    /// Send faster for a while, where the policy lets the site do so.
    Boost {
        /// The rate.
        rate: shaping::Rate,
        /// Seconds.
        seconds: u64,
        /// Who.
        actor: String,
        /// Why.
        reason: String,
    },
    /// End what was paused or boosted here.
    Resume,
    /// The policy in force.
    Policy,
    /// Whether what is on its way arrives in time, and what would help.
    Remedy {
        /// Of one volume; all when absent.
        volume: Option<String>,
        /// By when, in the site's civil time; the policy's `lag` when absent.
        by: Option<String>,
    },
    /// Measure what the line carries, within what is allowed.
    LineTest,
    /// How people get to the page; makes a PIN where there is none.
    Page {
        /// Also where there is one.
        new_pin: bool,
    },
    /// Everything that can be known of this edge without its secrets.
    Diagnostics,
    /// Which generations of a volume there are.
    Generations {
        /// The volume's name, or the id of a lineage.
        volume: String,
        /// Also those at the gateway; without a session with one that is an error.
        remote: bool,
    },
    /// What a restore would do.
    RestorePlan(Order),
    /// Begin a restore and wait for its end; it goes on without whoever asked.
    Restore(Order),
    /// Serve a generation as a read-only block device until whoever asked goes away.
    Export(export::Wish),
    /// The restores that run, and the last ones that are over.
    Restores,
    /// End a restore.
    RestoreCancel {
        /// Its number.
        id: u64,
    },
    /// Write volumes to media, or go on with that.
    SeedExport(shipments::Wish),
    /// Seeds by courier.
    Seeds,
    /// A courier has it.
    SeedShipped {
        /// Which.
        id: SeedId,
        /// Who takes it.
        courier: String,
        /// The courier's number.
        number: String,
        /// Who says so.
        actor: String,
    },
    /// Nobody waits for it any more.
    SeedAbandon {
        /// Which.
        id: SeedId,
        /// How its volumes go on.
        by: Way,
        /// Who says so.
        actor: String,
    },
}

/// One line of an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// How far it is, for people.
    Progress(String),
    /// It is done.
    Done(Outcome),
    /// It is not, and why.
    Failed(String),
}

/// What came of a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Of [`Request::Status`].
    Status(Box<Status>),
    /// Of a request that changes the list.
    Volumes(Vec<String>),
    /// Of [`Request::Capture`].
    Captured(Vec<CaptureReport>),
    /// Of [`Request::Gc`].
    Swept {
        /// What was found.
        plan: String,
        /// Bytes given back; absent when nothing was to be done.
        freed_bytes: Option<u64>,
    },
    /// Of [`Request::Scrub`]: what was damaged.
    Scrubbed(Vec<Damaged>),
    /// Of what bends the schedule: what holds now.
    Line(Box<Standing>),
    /// Of [`Request::Remedy`].
    Advice(Box<Advice>),
    /// Of [`Request::Policy`].
    Policy {
        /// The document; none: there is no policy.
        document: Option<String>,
        /// What holds now.
        standing: Box<Standing>,
    },
    /// Of [`Request::LineTest`].
    LineTested(Box<crate::line_test::LineTested>),
    /// Of [`Request::Page`].
    Page(PageInfo),
    /// Of [`Request::Diagnostics`].
    Diagnostics(serde_json::Value),
    /// Of [`Request::Generations`], newest first.
    Generations(Vec<restore::Known>),
    /// Of [`Request::RestorePlan`].
    RestorePlanned(Box<restore::Plan>),
    /// Of [`Request::Restore`]: it is done and proved.
    Restored(Box<RestoreStatus>),
    /// Of [`Request::Export`].
    Exported(export::Served),
    /// Of [`Request::Restores`] and [`Request::RestoreCancel`].
    Restores(Vec<RestoreStatus>),
    /// Of requests about seeds by courier.
    Seeds(Vec<ShipmentStatus>),
}

/// Something in the local store that was not as it was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Damaged {
    /// What, and what became of it.
    pub what: String,
    /// Whether it is whole again.
    pub mended: bool,
}

/// Why the socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen for the command line on {path}: {source}; the state directory must be on a local file system, and its path below 90 characters"
)]
pub struct ListenError {
    path: PathBuf,
    source: io::Error,
}

/// Where the socket is.
pub fn socket_path(state: &Path) -> PathBuf {
    state.join("admin.sock")
}

/// Listens in the state directory. What an earlier daemon left is removed: the directory's lock says that none runs.
pub(crate) fn listen(state: &Path) -> Result<UnixListener, ListenError> {
    let path = socket_path(state);
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path);
    let private = listener.and_then(|listener| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    });
    private.map_err(|source| ListenError { path, source })
}

/// Serves the socket until the daemon stops.
pub(crate) async fn serve(listener: UnixListener, daemon: Daemon) {
    let stop = daemon.stopping().clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let served = serve_one(stream, daemon.clone());
                    let stop = stop.clone();
                    daemon.tracker().spawn(async move {
                        tokio::select! {
                            () = served => {}
                            () = stop.cancelled() => {}
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the command line's socket");
                    // Out of descriptors, most likely: the next one may be better.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            },
            () = stop.cancelled() => break,
        }
    }
    let _ = std::fs::remove_file(socket_path(&daemon.config().state));
}

async fn serve_one(stream: UnixStream, daemon: Daemon) {
    // The socket's mode says the same; a state directory that was copied with loose rights does not.
    let us = nix::unistd::geteuid().as_raw();
    if !stream.peer_cred().is_ok_and(|peer| peer.uid() == us || peer.uid() == 0) {
        return;
    }
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    if BufReader::new(read.take(MAX_REQUEST)).read_line(&mut line).await.is_err() {
        return;
    }
    let request = match serde_json::from_str(&line) {
        Ok(request) => request,
        Err(error) => {
            let why = format!("the daemon does not understand the request ({error}); it may be of another version");
            let _ = say(&mut write, &Reply::Failed(why)).await;
            return;
        }
    };
    let (replies, mut said) = mpsc::channel(16);
    // Whoever went away stops being told; a capture that was begun goes on.
    let tracker = daemon.tracker().clone();
    let work = tracker.spawn(async move { handle(&daemon, request, &replies).await });
    while let Some(reply) = said.recv().await {
        if say(&mut write, &reply).await.is_err() {
            return;
        }
    }
    let last = match work.await {
        Ok(Ok(outcome)) => Reply::Done(outcome),
        Ok(Err(error)) => Reply::Failed(error.to_string()),
        Err(_) => Reply::Failed("the daemon failed at it; its log says more".into()),
    };
    let _ = say(&mut write, &last).await;
}

async fn say(write: &mut (impl AsyncWriteExt + Unpin), reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply).expect("plain data serialises");
    line.push(b'\n');
    write.write_all(&line).await
}

/// Does what is asked. Progress goes to `replies`.
pub async fn handle(daemon: &Daemon, request: Request, replies: &mpsc::Sender<Reply>) -> Result<Outcome, DaemonError> {
    match request {
        Request::Status => Ok(Outcome::Status(Box::new(daemon.status()))),
        Request::VolumeAdd { name, source, on_read_error, freeze } => {
            let lineage = LineageId::random();
            daemon.add_volume(VolumeEntry { name, lineage, source, on_read_error, freeze }).await?;
            Ok(names(daemon))
        }
        Request::VolumeRemove { name } => {
            daemon.remove_volume(&name).await?;
            Ok(names(daemon))
        }
        Request::VolumeTrust { name, bitmap } => {
            daemon.trust_volume(&name, bitmap).await?;
            Ok(names(daemon))
        }
        Request::Capture { volume, wait } => capture(daemon, volume, wait, replies).await,
        Request::Gc { dry_run } => {
            let progress = Arc::new(Progress::default());
            if dry_run {
                let plan = keeper::plan(daemon, progress).await?;
                return Ok(Outcome::Swept { plan: plan.to_string(), freed_bytes: None });
            }
            let work = keeper::sweep(daemon, Pace(1.0), progress.clone());
            let (plan, freed) = shown(work, &progress, "sweeping", replies).await?;
            let evicted = keeper::evict_once(daemon).await?;
            Ok(Outcome::Swept { plan: plan.to_string(), freed_bytes: Some(freed + evicted) })
        }
        Request::Scrub => {
            let progress = Arc::new(Progress::default());
            let work = keeper::scrub(daemon, Pace(1.0), progress.clone());
            let damages = shown(work, &progress, "reading", replies).await?;
            let line = |damage: dedupe::Damage| {
                let what = format!("pack {}: {}", damage.pack, damage.what);
                Damaged { what, mended: damage.mended }
            };
            Ok(Outcome::Scrubbed(damages.into_iter().map(line).collect()))
        }
        Request::Pause { seconds, actor, reason } => {
            bent(daemon, move |line| line.pause(Duration::from_secs(seconds), actor, reason).map(drop)).await
        }
        Request::Boost { rate, seconds, actor, reason } => {
            bent(daemon, move |line| line.boost(rate, Duration::from_secs(seconds), actor, reason).map(drop)).await
        }
        Request::Remedy { volume, by } => Ok(Outcome::Advice(Box::new(daemon.advise(volume.as_deref(), by)?))),
        Request::Resume => bent(daemon, |line| line.resume()).await,
        Request::LineTest => {
            let show = |text: String| drop(replies.try_send(Reply::Progress(text)));
            // Whoever asked and went away wants no more padding on the line.
            let tested = tokio::select! {
                tested = crate::line_test::run(daemon.link(), show) => tested,
                () = replies.closed() => Err(crate::line_test::LineTestError::Cancelled),
            };
            let (tested, line) = (tested?, daemon.link().line().clone());
            let bits = tested.bits;
            crate::pipeline::blocking(move || line.set_tested(bits)).await;
            Ok(Outcome::LineTested(Box::new(tested)))
        }
        Request::Page { new_pin } => {
            let (state, mut page) = (daemon.config().state.clone(), daemon.config().page.clone());
            if let (Some(page), Some(at)) = (&mut page, daemon.page_address()) {
                page.listen = at;
            }
            let info = crate::pipeline::blocking(move || page::info(&state, page.as_ref(), new_pin)).await?;
            Ok(Outcome::Page(info))
        }
        Request::Diagnostics => Ok(Outcome::Diagnostics(diagnostics::bundle(daemon).await)),
        Request::Generations { volume, remote } => {
            Ok(Outcome::Generations(restore::list(daemon, &volume, remote).await?))
        }
        Request::RestorePlan(order) => Ok(Outcome::RestorePlanned(Box::new(restore::planned(daemon, &order).await?))),
        Request::Restore(order) => {
            let (id, plan) = daemon.restores().begin(daemon, &order).await?;
            let _ = replies.try_send(Reply::Progress(plan.sentence));
            let show = |status: &RestoreStatus| drop(replies.try_send(Reply::Progress(status.to_string())));
            Ok(Outcome::Restored(Box::new(daemon.restores().wait(daemon, id, show).await?)))
        }
        Request::Export(wish) => {
            let show = |text: String| drop(replies.try_send(Reply::Progress(text)));
            Ok(Outcome::Exported(export::serve(daemon, &wish, replies.closed(), show).await?))
        }
        Request::Restores => Ok(Outcome::Restores(daemon.restores().statuses(daemon))),
        Request::RestoreCancel { id } => {
            daemon.restores().cancel(id).await?;
            Ok(Outcome::Restores(daemon.restores().statuses(daemon)))
        }
        Request::SeedExport(wish) => {
            let show = |text: String| drop(replies.try_send(Reply::Progress(text)));
            Ok(Outcome::Seeds(vec![shipments::export(daemon, wish, show).await?]))
        }
        Request::Seeds => Ok(Outcome::Seeds(daemon.disk().shipments.statuses())),
        Request::SeedShipped { id, courier, number, actor } => {
            let note = format!("{courier} {number}");
            seed_becomes(daemon, id, SeedState::Shipped, actor, note).await
        }
        Request::SeedAbandon { id, by, actor } => {
            let disk = daemon.disk().clone();
            let status = crate::pipeline::blocking(move || disk.shipments.abandon(id, by, &actor)).await?;
            Ok(Outcome::Seeds(vec![status]))
        }
        Request::Policy => {
            let line = daemon.link().line();
            Ok(Outcome::Policy { document: line.document(), standing: Box::new(line.standing()) })
        }
    }
}

async fn seed_becomes(
    daemon: &Daemon,
    id: SeedId,
    state: SeedState,
    actor: String,
    note: String,
) -> Result<Outcome, DaemonError> {
    let disk = daemon.disk().clone();
    let noted = crate::pipeline::blocking(move || disk.shipments.note(id, state, &actor, &note)).await?;
    Ok(Outcome::Seeds(vec![noted]))
}

/// Bends the schedule and says what holds then.
async fn bent(
    daemon: &Daemon,
    act: impl FnOnce(&Line) -> Result<(), LocalError> + Send + 'static,
) -> Result<Outcome, DaemonError> {
    let line = daemon.link().line().clone();
    let standing = crate::pipeline::blocking(move || {
        act(&line)?;
        line.look();
        Ok::<_, LocalError>(line.standing())
    });
    Ok(Outcome::Line(Box::new(standing.await?)))
}

fn names(daemon: &Daemon) -> Outcome {
    Outcome::Volumes(daemon.all_volumes().iter().map(|volume| volume.entry.name.clone()).collect())
}

/// Shows the progress of something that counts bytes.
async fn shown<T>(work: impl Future<Output = T>, progress: &Progress, doing: &str, replies: &mpsc::Sender<Reply>) -> T {
    let began = tokio::time::Instant::now();
    tokio::pin!(work);
    let mut clock = tokio::time::interval(PROGRESS_EVERY);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = clock.tick() => {
                let (done, total) = (progress.done.load(Ordering::Relaxed), progress.total.load(Ordering::Relaxed));
                if total > 0 {
                    let text = format!("{doing}: {}", text::progress(done, total, began.elapsed()));
                    let _ = replies.try_send(Reply::Progress(text));
                }
            }
        }
    }
}

async fn capture(
    daemon: &Daemon,
    volume: Option<String>,
    wait: bool,
    replies: &mpsc::Sender<Reply>,
) -> Result<Outcome, DaemonError> {
    let names = match volume {
        Some(name) => vec![daemon.volume(&name)?.entry.name.clone()],
        None => daemon.all_volumes().iter().map(|volume| volume.entry.name.clone()).collect(),
    };
    let mut reports = Vec::new();
    for name in &names {
        reports.push(watched(daemon, name, daemon.capture(name), replies).await?);
    }
    if wait {
        for (name, report) in names.iter().zip(&mut reports) {
            report.add(watched(daemon, name, daemon.wait_sealed(name), replies).await?);
        }
    }
    Ok(Outcome::Captured(reports))
}

/// Shows what a volume is doing while something is done with it.
async fn watched<T>(
    daemon: &Daemon,
    name: &str,
    work: impl Future<Output = Result<T, DaemonError>>,
    replies: &mpsc::Sender<Reply>,
) -> Result<T, DaemonError> {
    tokio::pin!(work);
    let mut clock = tokio::time::interval(PROGRESS_EVERY);
    clock.tick().await;
    let began = tokio::time::Instant::now();
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = clock.tick() => {
                let status = daemon.status();
                let Some(volume) = status.volumes.iter().find(|volume| volume.name == name) else { continue };
                let _ = replies.try_send(Reply::Progress(progress_line(volume, &status.line, began.elapsed())));
            }
        }
    }
}

/// One line of progress: what it does, and for a generation on its way bytes, ratio and time left.
fn progress_line(volume: &VolumeStatus, line: &str, elapsed: Duration) -> String {
    let mut text = format!("{}: {}", volume.name, volume.doing);
    if volume.doing.contains("waiting for a session") {
        text = format!("{text} {line}");
    }
    let Some(sending) = volume.sending.as_ref().filter(|sending| sending.coded_bytes > 0) else { return text };
    let ratio = sending.raw_bytes as f64 / sending.coded_bytes as f64;
    text += &format!(
        " {} coded from {} ({ratio:.1} : 1)",
        text::bytes(sending.coded_bytes),
        text::bytes(sending.raw_bytes)
    );
    // Planning walks through the volume, so its place is the best guess at the share that is done.
    let share = sending.planned_bytes as f64 / sending.size.max(1) as f64;
    if (0.02..1.0).contains(&share) && elapsed > Duration::from_secs(2) {
        let left = Duration::from_secs_f64(elapsed.as_secs_f64() * (1.0 - share) / share);
        text += &format!(", about {} left", text::duration(left));
    }
    text
}

/// Why a running daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// None runs.
    #[error("no sluice-edge runs with the state directory {0}; start it with `sluice-edge run`")]
    NotRunning(PathBuf),
    /// The socket failed.
    #[error("cannot talk to the running sluice-edge through {path}: {source}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It said no.
    #[error("{0}")]
    Failed(String),
    /// The answer makes no sense.
    #[error(
        "the running sluice-edge gave an answer that this program does not understand; they may be of different versions"
    )]
    NotUnderstood,
}

/// Asks the running daemon; progress goes to `show`.
pub async fn ask(state: &Path, request: &Request, mut show: impl FnMut(&str)) -> Result<Outcome, AskError> {
    let path = socket_path(state);
    let stream = UnixStream::connect(&path).await.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AskError::NotRunning(state.to_owned()),
        _ => AskError::Socket { path: path.clone(), source },
    })?;
    let failed = |source| AskError::Socket { path: path.clone(), source };
    let (read, mut write) = stream.into_split();
    let mut line = serde_json::to_vec(request).expect("plain data serialises");
    line.push(b'\n');
    write.write_all(&line).await.map_err(failed)?;
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await.map_err(failed)? {
        match serde_json::from_str(&line).map_err(|_| AskError::NotUnderstood)? {
            Reply::Progress(text) => show(&text),
            Reply::Done(outcome) => return Ok(outcome),
            Reply::Failed(why) => return Err(AskError::Failed(why)),
        }
    }
    Err(AskError::Failed("the daemon stopped before it answered".into()))
}
