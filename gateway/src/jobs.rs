//! Long work that somebody asked for from afar: it goes on when they look away, says how far it is, and can be stopped.

use crate::access::{Caller, Scope};
use crate::admin::{Admin, Answer, Fault, Report, Request, TargetAnswer};
use crate::rehydrate::{Proof, Where};
use dedupe::{TenantId, UnixMillis};
use look::Language;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use utoipa::ToSchema;

/// Jobs at once: each may read a whole volume, and disks gain nothing from more.
pub const MOST_RUNNING: usize = 4;
/// Jobs that are over and still shown.
const MOST_OVER: usize = 200;
/// The rate of a job is that of so much of its past at most.
const RATE_OVER: Duration = Duration::from_secs(30);

/// All jobs since the daemon's start.
#[derive(Debug, Default)]
pub struct Jobs {
    all: Mutex<BTreeMap<u64, Arc<Job>>>,
    last: AtomicU64,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// One job.
#[derive(Debug)]
pub struct Job {
    number: u64,
    by: String,
    what: &'static str,
    object: String,
    /// Where it writes to, if it rehydrates.
    to: Option<String>,
    tenant: Option<TenantId>,
    begun: UnixMillis,
    state: watch::Sender<JobState>,
    cancel: CancellationToken,
}

/// How far a job is.
#[derive(Clone, Debug)]
struct JobState {
    report: Option<Report>,
    /// Bytes of the present phase at two moments of late: the rate is counted since the first.
    marks: Option<[(Instant, u64); 2]>,
    rate: Option<f64>,
    ended: Option<(UnixMillis, Result<Answer, String>)>,
}

/// A job, for people and programs.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct JobView {
    /// Its number.
    pub number: u64,
    /// What it does, in a word: `volume.rehydrate`.
    pub what: String,
    /// On what.
    pub object: String,
    /// The target or path that a generation is rehydrated to.
    pub to: Option<String>,
    /// Who asked for it.
    pub by: String,
    /// When it began, milliseconds since 1970.
    pub begun: u64,
    /// `running`, `done`, `failed`, `cancelled`.
    pub state: String,
    /// What it does now, in words.
    pub phase: String,
    /// Bytes of this phase that are done.
    pub done: u64,
    /// Bytes of this phase in all; 0: not known.
    pub total: u64,
    /// Bytes written so far.
    pub written: u64,
    /// Bytes per second of late; absent: nothing moved yet.
    pub rate: Option<u64>,
    /// Seconds until this phase is over at that rate.
    pub seconds_left: Option<u64>,
    /// When it ended, milliseconds since 1970.
    pub ended: Option<u64>,
    /// What came of it, or why it failed.
    pub result: Option<String>,
}

/// A job is not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MOST_RUNNING} jobs are running: wait until one is over, or stop one")]
pub struct Busy;

impl Jobs {
    /// Jobs of a daemon: they end with it.
    pub fn new(tasks: TaskTracker, stop: CancellationToken) -> Jobs {
        Jobs { tasks, stop, ..Jobs::default() }
    }

    /// Begins a job. What it asks for must be allowed already, or fails at once when it is not. Must be called within a runtime.
    pub fn begin(
        &self,
        admin: &Admin,
        caller: &Caller,
        (what, object, tenant): (&'static str, String, Option<TenantId>),
        request: Request,
    ) -> Result<Arc<Job>, Busy> {
        let job = {
            let mut all = self.lock();
            if all.values().filter(|job| job.is_running()).count() >= MOST_RUNNING {
                return Err(Busy);
            }
            let over: Vec<u64> = all.iter().filter(|(_, job)| !job.is_running()).map(|(number, _)| *number).collect();
            over.iter().take(over.len().saturating_sub(MOST_OVER)).for_each(|number| drop(all.remove(number)));
            let job = Arc::new(Job {
                number: self.last.fetch_add(1, Ordering::Relaxed) + 1,
                by: caller.name.clone(),
                what,
                object,
                to: match &request {
                    Request::Rehydrate { to: Where::Target(name), .. } => {
                        Some(name.rsplit_once('/').map_or(name.as_str(), |(_, name)| name).to_owned())
                    }
                    Request::Rehydrate { to, .. } => Some(to.to_string()),
                    _ => None,
                },
                tenant,
                begun: admin.now(),
                state: watch::Sender::new(JobState { report: None, marks: None, rate: None, ended: None }),
                cancel: self.stop.child_token(),
            });
            all.insert(job.number, job.clone());
            job
        };
        let (admin, caller, running) = (admin.clone(), caller.clone(), job.clone());
        self.tasks.spawn_blocking(move || {
            let done = admin.handle_as(&caller, request, &mut |report| running.report(report));
            let cancelled = running.cancel.is_cancelled();
            let said = done.map_err(|error| match error.fault() {
                _ if cancelled => "cancelled".to_owned(),
                Fault::Failed => {
                    tracing::warn!(job = running.number, what = running.what, %error, "a job failed");
                    error.to_string()
                }
                _ => error.to_string(),
            });
            running.state.send_modify(|state| state.ended = Some((admin.now(), said)));
        });
        Ok(job)
    }

    /// The jobs that somebody may see, newest first.
    pub fn seen_by(&self, caller: &Caller) -> Vec<Arc<Job>> {
        self.lock().values().rev().filter(|job| job.is_seen_by(caller)).cloned().collect()
    }

    /// One of them.
    pub fn of(&self, number: u64, caller: &Caller) -> Option<Arc<Job>> {
        self.lock().get(&number).filter(|job| job.is_seen_by(caller)).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Job>>> {
        self.all.lock().expect("no thread panics while it holds the jobs")
    }
}

impl Job {
    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whose it is; `None`: of the whole gateway.
    pub fn tenant(&self) -> Option<TenantId> {
        self.tenant
    }

    /// Stops it at its next step.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Whether it is not over yet.
    pub fn is_running(&self) -> bool {
        self.state.borrow().ended.is_none()
    }

    /// Follows it.
    pub fn follow(self: &Arc<Self>) -> Following {
        Following { job: self.clone(), state: self.state.subscribe(), over: false }
    }

    fn is_seen_by(&self, caller: &Caller) -> bool {
        caller.scope == Scope::Whole || self.tenant.is_some_and(|tenant| caller.scope.covers(tenant))
    }

    fn report(&self, report: Report) -> bool {
        let now = Instant::now();
        self.state.send_modify(|state| {
            let fresh = state.report.as_ref().is_none_or(|old| old.phase != report.phase || old.done > report.done);
            let mut marks = state.marks.filter(|_| !fresh).unwrap_or([(now, report.done); 2]);
            if now - marks[1].0 > RATE_OVER / 2 {
                marks = [marks[1], (now, report.done)];
            }
            let (seconds, moved) = ((now - marks[0].0).as_secs_f64(), report.done.saturating_sub(marks[0].1));
            // The first half second says nothing.
            state.rate = if seconds > 0.5 { Some(moved as f64 / seconds) } else { state.rate.filter(|_| !fresh) };
            state.marks = Some(marks);
            state.report = Some(report);
        });
        !self.cancel.is_cancelled()
    }

    /// What came of it, in one of the languages; `None`: it is not over, or failed. What failed says why in [`JobView::result`].
    pub(crate) fn outcome(&self, language: Language) -> Option<String> {
        let state = self.state.borrow();
        let answer = state.ended.as_ref().and_then(|(_, said)| said.as_ref().ok())?;
        Some(match language {
            Language::English => crate::admin::render::answer(answer).trim_end().to_owned(),
            Language::Chinese => in_chinese(answer),
        })
    }

    /// When it ended, and what came of it; `None`: it is not over, or failed.
    pub(crate) fn answer(&self) -> Option<(UnixMillis, Answer)> {
        let state = self.state.borrow();
        let (at, said) = state.ended.as_ref()?;
        Some((*at, said.as_ref().ok()?.clone()))
    }

    /// Whether it did what it was asked for, and what it found is that something is wrong.
    pub(crate) fn found_wrong(&self) -> bool {
        matches!(self.answer(), Some((_, Answer::Target(TargetAnswer::Tested { description, .. }))) if description.checks.iter().any(|check| check.wrong.is_some()))
    }

    /// It, for people and programs.
    pub fn view(&self) -> JobView {
        let state = self.state.borrow();
        let report = state.report.clone().unwrap_or(Report { phase: String::new(), done: 0, total: 0, written: 0 });
        let word = match &state.ended {
            None => "running",
            Some((_, Ok(_))) => "done",
            Some((_, Err(_))) if self.cancel.is_cancelled() => "cancelled",
            Some((_, Err(_))) => "failed",
        };
        let left = state.rate.filter(|rate| *rate > 0.0 && state.ended.is_none() && report.total > 0);
        JobView {
            number: self.number,
            what: self.what.into(),
            object: self.object.clone(),
            to: self.to.clone(),
            by: self.by.clone(),
            begun: self.begun.0,
            state: word.into(),
            phase: report.phase,
            done: report.done,
            total: report.total,
            written: report.written,
            rate: state.rate.map(|rate| rate as u64),
            seconds_left: left.map(|rate| (report.total.saturating_sub(report.done) as f64 / rate) as u64),
            ended: state.ended.as_ref().map(|(at, _)| at.0),
            result: state.ended.as_ref().map(|(_, said)| match said {
                Ok(answer) => crate::admin::render::answer(answer).trim_end().to_owned(),
                Err(why) => why.clone(),
            }),
        }
    }
}

/// What came of a job. What jobs do not do is said as commands say it.
fn in_chinese(answer: &Answer) -> String {
    let bytes = look::format::bytes;
    match answer {
        Answer::Verified { number, root, bytes: read } => {
            format!("版本 {number} 与捕获时一致：已读取 {}，根哈希为 {root}。", bytes(*read))
        }
        Answer::Rehydrated { done } => {
            let proof = match done.proof {
                Proof::All => "已完整回读，根哈希正确".to_owned(),
                Proof::Changed => "已回读写入的部分，内容正确".to_owned(),
                Proof::Sample(share) => format!("已回读写入的部分及其余部分的 {share}%，内容正确"),
            };
            let repaired = if done.repaired { "目标曾被改动，已重新写入。" } else { "" };
            format!(
                "{} 现为版本 {}：写入 {}。{repaired}{proof}：{}",
                done.plan.target,
                done.plan.number,
                bytes(done.written_bytes),
                done.root
            )
        }
        Answer::Target(TargetAnswer::Tested { target, description }) => {
            let wrong = description.checks.iter().filter(|check| check.wrong.is_some()).count();
            let said = if wrong == 0 { "可以使用".to_owned() } else { format!("{wrong} 项检查未通过") };
            format!("目标 {target}：{said}（{}）。", crate::text::printable(&description.place))
        }
        Answer::Target(TargetAnswer::Points { points }) => format!("目标上有 {} 个恢复点。", points.len()),
        Answer::Gc { freed_bytes, .. } => format!("释放了 {}。", bytes(freed_bytes.unwrap_or(0))),
        Answer::Scrubbed { damages, .. } if damages.is_empty() => "全部数据与写入时一致。".into(),
        Answer::Scrubbed { damages, mended, asked, waiting } => format!(
            "发现 {} 处损坏，其中 {mended} 处已由副本修复；已为 {asked} 个版本向边缘设备请求数据块，另有 {waiting} 个待其上线后请求。\n{}",
            damages.len(),
            damages.iter().map(|damage| crate::text::printable(damage)).collect::<Vec<_>>().join("\n")
        ),
        other => crate::admin::render::answer(other).trim_end().to_owned(),
    }
}

/// What becomes of a job, as it happens.
pub struct Following {
    job: Arc<Job>,
    state: watch::Receiver<JobState>,
    over: bool,
}

impl Following {
    /// The next thing to be said of it: at once how far it is, then each change; `None` once it is over. Cancel-safe.
    pub async fn next(&mut self) -> Option<JobView> {
        if self.over {
            return None;
        }
        if self.state.has_changed().is_ok_and(|changed| !changed) {
            // The sender lives as long as the job, which this holds.
            self.state.changed().await.ok()?;
        }
        self.over = self.state.borrow_and_update().ended.is_some();
        Some(self.job.view())
    }

    /// The first thing to be said of it.
    pub fn first(&mut self) -> JobView {
        self.over = self.state.borrow_and_update().ended.is_some();
        self.job.view()
    }
}
