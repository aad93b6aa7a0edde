//! Work in the background: each worker has a name, a line that says what it does, and a share of the time that it may take.

use crate::admin::Admin;
use crate::grants::{DEAL_EVERY, Dealer};
use crate::jobs::Jobs;
use crate::policies;
use crate::rehydrate::orders;
use crate::releases::rollouts;
use crate::repairs;
use crate::retention::{Kept, held, locks_of};
use crate::server::{Gateway, server_config};
use crate::state::{State, StateError, TenantStore};
use crate::web::Web;
use dedupe::{Generation, GenerationId, Pace, Progress, StoreError, UnixMillis};
use look::Language;
use monitoring::Check;
use quinn::Endpoint;
use shaping::BitsPerSec;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use wire::message::Refusal;

/// How often the figures of stores are read.
const FIGURES_EVERY: Duration = Duration::from_secs(30);
/// How often what edges told is kept for a restart: as often as they tell.
const WORDS_EVERY: Duration = Duration::from_secs(60);
/// How often retention looks, beside each sealed generation.
const RETENTION_EVERY: Duration = Duration::from_secs(3600);
/// How often room is given back.
const GC_EVERY: Duration = Duration::from_secs(24 * 3600);
/// How often everything is read again: damage is found while the edge still has a copy to mend it with.
const SCRUB_EVERY: Duration = Duration::from_secs(30 * 24 * 3600);
/// How often the gateway makes itself a new certificate, and expired rows are dropped.
const DAILY: Duration = Duration::from_secs(24 * 3600);
/// Workers whose share of the disk's time can be set, and what it is unless somebody sets it, per cent. Giving room back makes way for edges; reading
/// everything again has a month.
const PACED: [(&str, u8); 2] = [(COLLECTION, 50), (SCRUB, 10)];
/// How often the roll-out looks at the clock: rings soak for hours.
const ROLLOUTS_EVERY: Duration = Duration::from_secs(60);
/// How often deltas are looked for; an edge that asks for one wakes their worker.
const DELTAS_EVERY: Duration = Duration::from_secs(600);
/// Opens rings and tells edges.
pub(crate) const ROLLOUTS: &str = "rollouts";
const DELTAS: &str = "deltas";
const COLLECTION: &str = "collection";
const SCRUB: &str = "scrub";
/// Keeps targets at the latest.
pub(crate) const TARGETS: &str = "targets";
/// Expired tokens and certificates are kept so long, for whoever asks what happened.
const KEEP_EXPIRED: Duration = Duration::from_secs(30 * 24 * 3600);

/// What the workers are doing, for whoever asks.
#[derive(Debug, Default)]
pub struct Board {
    lines: Mutex<BTreeMap<&'static str, Line>>,
    runs: Mutex<BTreeMap<&'static str, Runs>>,
    wakers: Mutex<BTreeMap<&'static str, Arc<Notify>>>,
    shares: Mutex<BTreeMap<&'static str, u8>>,
}

#[derive(Debug)]
struct Line {
    said: Said,
    working: bool,
    last: Option<UnixMillis>,
}

/// A sentence in both languages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    english: String,
    chinese: String,
}

/// A worker as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkerView {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it does, or did last.
    pub(crate) said: Said,
    /// Whether it is at work.
    pub(crate) working: bool,
    /// When it was done last; `None`: not since the start.
    pub(crate) last: Option<UnixMillis>,
    /// The share of a disk's time that it may take, per cent, where that can be set.
    pub(crate) share: Option<u8>,
}

impl Said {
    pub(crate) fn new(english: impl Into<String>, chinese: impl Into<String>) -> Said {
        Said { english: english.into(), chinese: chinese.into() }
    }

    /// In one of them.
    pub(crate) fn of(&self, language: Language) -> &str {
        language.of(&self.english, &self.chinese)
    }
}

/// The worker of this name, if its share of the disk's time can be set.
pub(crate) fn paced(name: &str) -> Option<&'static str> {
    PACED.iter().map(|(known, _)| *known).find(|known| *known == name)
}

/// How a worker fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// It works when it is due; `false`: it ended unexpectedly.
    pub is_alive: bool,
    /// When it last ended its work.
    pub last: Option<UnixMillis>,
}

impl Board {
    /// How each worker fares, by its name.
    pub fn runs(&self) -> Vec<(&'static str, Runs)> {
        self.runs.lock().expect("runs are only set").iter().map(|(name, runs)| (*name, *runs)).collect()
    }

    fn note(&self, name: &'static str, note: impl FnOnce(&mut Runs)) {
        note(self.runs.lock().expect("runs are only set").entry(name).or_default());
    }

    /// Name and what each worker does.
    pub fn lines(&self) -> Vec<(String, String)> {
        let line = |view: WorkerView| match view.last.filter(|_| !view.working) {
            Some(last) => {
                (view.name.to_owned(), format!("{}; last at {}", view.said.english, crate::text::moment(last)))
            }
            None => (view.name.to_owned(), view.said.english),
        };
        self.views().into_iter().map(line).collect()
    }

    /// What each worker does, by name.
    pub(crate) fn views(&self) -> Vec<WorkerView> {
        let lines = self.lines.lock().expect("lines are only set");
        let view = |(name, line): (&&'static str, &Line)| WorkerView {
            name,
            said: line.said.clone(),
            working: line.working,
            last: line.last,
            share: paced(name).map(|_| self.share(name)),
        };
        lines.iter().map(view).collect()
    }

    /// The share of the disk's time that a worker may take, per cent.
    fn share(&self, name: &str) -> u8 {
        let set = self.shares.lock().expect("shares are only set").get(name).copied();
        let usual = PACED.iter().find(|(known, _)| *known == name).map_or(100, |(_, share)| *share);
        set.unwrap_or(usual)
    }

    /// Sets it: from the next store on.
    pub(crate) fn set_share(&self, name: &'static str, share: u8) {
        self.shares.lock().expect("shares are only set").insert(name, share.clamp(1, 100));
    }

    fn pace(&self, name: &str) -> Pace {
        Pace(f64::from(self.share(name)) / 100.0)
    }

    fn say(&self, name: &'static str, said: Said, working: bool, last: Option<UnixMillis>) {
        let mut lines = self.lines.lock().expect("lines are only set");
        let last = last.or(lines.get(name).and_then(|line| line.last));
        lines.insert(name, Line { said, working, last });
    }

    /// Lets a worker work now.
    pub(crate) fn wake(&self, name: &'static str) {
        self.waker(name).notify_one();
    }

    fn waker(&self, name: &'static str) -> Arc<Notify> {
        self.wakers.lock().expect("wakers are only added").entry(name).or_default().clone()
    }
}

/// What a worker does each time; what it returns stands on the board. It ends early when its progress is cancelled.
type Work = Box<dyn FnMut(&Arc<Gateway>, &Progress) -> Said + Send>;

/// Starts all workers.
pub(crate) fn start(
    gateway: &Arc<Gateway>,
    board: &Arc<Board>,
    endpoints: &[Endpoint],
    (keep, ingress): (usize, Option<BitsPerSec>),
    stores: Check,
    pages: Option<(Arc<Web>, watch::Sender<Arc<rustls::ServerConfig>>)>,
) {
    match gateway.state.catalogue.tranquillity() {
        Ok(shares) => {
            shares
                .iter()
                .filter_map(|(name, share)| Some((paced(name)?, *share)))
                .for_each(|(name, share)| board.set_share(name, share));
        }
        Err(error) => tracing::warn!(%error, "workers take their usual shares of the disk's time"),
    }
    let worker = |name, every, work: Work| {
        let (gateway, board) = (gateway.clone(), board.clone());
        gateway.tasks.clone().spawn(run(gateway, board, name, every, work));
    };
    worker("figures", FIGURES_EVERY, Box::new(move |gateway, _| figures(gateway, &stores)));
    worker("sites", FIGURES_EVERY, Box::new(|gateway, _| gateway.figures.look(gateway)));
    let paces = board.clone();
    worker("retention", RETENTION_EVERY, Box::new(move |gateway, progress| retention(gateway, keep, &paces, progress)));
    let paces = board.clone();
    worker(COLLECTION, GC_EVERY, Box::new(move |gateway, progress| collection(gateway, &paces, progress)));
    let paces = board.clone();
    worker(SCRUB, SCRUB_EVERY, Box::new(move |gateway, progress| scrub(gateway, &paces, progress)));
    if let Some(ingress) = ingress {
        let (mut dealer, runtime) = (Dealer::default(), tokio::runtime::Handle::current());
        let work: Work = Box::new(move |gateway, _| {
            let _runtime = runtime.enter();
            dealer.deal(&gateway.state, &gateway.live, &gateway.metrics, ingress)
        });
        worker("grants", DEAL_EVERY, work);
    }
    worker("words", WORDS_EVERY, Box::new(|gateway, _| words(gateway)));
    let runtime = tokio::runtime::Handle::current();
    let work: Work = Box::new(move |gateway, _| {
        let _runtime = runtime.enter();
        roll_out(gateway)
    });
    worker(ROLLOUTS, ROLLOUTS_EVERY, work);
    worker(DELTAS, DELTAS_EVERY, Box::new(deltas));
    let endpoints = endpoints.to_vec();
    let renew = move |gateway: &Arc<Gateway>, _: &Progress| {
        let listens = certificate(gateway, &endpoints);
        match pages.as_ref().map(|(web, pages)| (web.tls(), pages)) {
            Some((Ok(Some(config)), pages)) => drop(pages.send(config)),
            Some((Err(error), _)) => {
                tracing::error!(%error, "the pages keep the certificate that they have");
                return Said::new(
                    format!("{}; pages keep theirs: {error}", listens.english),
                    format!("{}；页面沿用原证书：{error}", listens.chinese),
                );
            }
            _ => {}
        }
        listens
    };
    worker("certificate", DAILY, Box::new(renew));
    let (relay, board) = (gateway.clone(), board.clone());
    gateway.tasks.spawn(async move {
        // Sessions know that something was sealed, not who cares.
        loop {
            tokio::select! {
                () = relay.stop.cancelled() => return,
                () = relay.state.releases.work.notified() => board.wake(DELTAS),
                () = relay.work.notified() => {
                    board.wake("retention");
                    board.wake("grants");
                    board.wake(TARGETS);
                }
            }
        }
    });
}

/// Starts the worker that keeps targets at the latest.
pub(crate) fn start_orders(gateway: &Arc<Gateway>, board: &Arc<Board>, admin: Admin, jobs: Arc<Jobs>) {
    let runtime = tokio::runtime::Handle::current();
    let work: Work = Box::new(move |gateway, _| {
        let _runtime = runtime.enter();
        orders::look(&gateway.state, &admin, &jobs)
    });
    gateway.tasks.spawn(run(gateway.clone(), board.clone(), TARGETS, orders::LOOK_EVERY, work));
}

/// Runs one worker: at once when it is woken, else every so often. What it does blocks, and its last words stand on the board.
async fn run(gateway: Arc<Gateway>, board: Arc<Board>, name: &'static str, every: Duration, mut work: Work) {
    let waker = board.waker(name);
    board.note(name, |runs| runs.is_alive = true);
    let mut due = tokio::time::interval(every);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The long ones would all begin with the daemon, when edges come back all at once.
    let at_once = every <= RETENTION_EVERY;
    let often = look::format::duration(every.as_secs(), Language::Chinese);
    let waits = Said::new(
        format!("waits; works every {}", crate::text::duration(every)),
        format!("等待中；每 {often}运行一次"),
    );
    board.say(name, waits, false, None);
    if !at_once {
        due.reset();
    }
    loop {
        tokio::select! {
            () = gateway.stop.cancelled() => return,
            () = waker.notified() => {}
            _ = due.tick() => {}
        }
        board.say(name, Said::new("is working", "正在运行"), true, None);
        let (shared, progress) = (gateway.clone(), Arc::new(Progress::default()));
        let watched = progress.clone();
        let mut working = tokio::task::spawn_blocking(move || {
            let line = work(&shared, &watched);
            (line, work)
        });
        let done = tokio::select! {
            done = &mut working => done,
            () = gateway.stop.cancelled() => {
                progress.cancel();
                working.await
            }
        };
        match done {
            Ok((line, again)) => {
                board.note(name, |runs| runs.last = Some(gateway.state.now()));
                board.say(name, line, false, Some(gateway.state.now()));
                work = again;
            }
            Err(error) => {
                tracing::error!(worker = name, %error, "a worker ended unexpectedly and will not work again before a restart");
                board.note(name, |runs| runs.is_alive = false);
                let said = Said::new(
                    "ended unexpectedly; restart the daemon and report the log",
                    "意外终止；请重启网关服务并反馈日志",
                );
                return board.say(name, said, false, None);
            }
        }
    }
}

fn figures(gateway: &Gateway, stores: &Check) -> Said {
    gateway.tidy_limiters();
    gateway.pool.rest();
    gateway.metrics.read_stores(&gateway.state);
    let failed: Vec<_> = gateway.state.open_tenants().into_iter().filter(|tenant| tenant.has_failed()).collect();
    for tenant in &failed {
        gateway.live.end_tenant(tenant.id, &Refusal::Internal("the tenant's store is being opened anew".into()));
    }
    let free = crate::files::free_bytes(gateway.state.folder()).unwrap_or(u64::MAX);
    if free < gateway.reserve {
        stores.fail(format!(
            "{} are free on the disk of {}: make room, edges wait until then",
            crate::text::bytes(free),
            gateway.state.folder().display()
        ));
    } else if failed.is_empty() {
        stores.ok();
    } else {
        stores.fail("the index of a tenant failed and is being opened anew; if this stays, look at the log");
    }
    let open = gateway.state.open_tenants().len();
    Said::new(format!("{open} stores are open"), format!("已打开 {open} 个存储"))
}

/// Lets the roll-out take in that time has passed, and tells edges what changed with that.
fn roll_out(gateway: &Arc<Gateway>) -> Said {
    let connected = gateway.live.connected_sites();
    match rollouts::look(&gateway.state, &connected) {
        Ok(orders) => {
            let told = orders.len();
            rollouts::tell(&gateway.state, &gateway.live, orders);
            Said::new(format!("told {told} sites what they are to run"), format!("已向 {told} 个站点下达版本指令"))
        }
        Err(error) => {
            tracing::warn!(%error, "the roll-out could not be looked at");
            Said::new(format!("could not look at the roll-out: {error}"), format!("无法检查升级推送：{error}"))
        }
    }
}

/// Codes releases against what sites run.
fn deltas(gateway: &Arc<Gateway>, progress: &Progress) -> Said {
    match gateway.state.make_deltas(progress) {
        (_, Some(error)) => {
            Said::new(format!("could not make a delta between releases: {error}"), format!("无法生成版本差分：{error}"))
        }
        (made, None) => Said::new(format!("made {made} deltas between releases"), format!("已生成 {made} 个版本差分")),
    }
}

/// Keeps what edges told last.
fn words(gateway: &Gateway) -> Said {
    match gateway.state.telemetry.keep(&gateway.state.catalogue) {
        Ok(kept) => {
            Said::new(format!("kept the latest word of {kept} sites"), format!("已保存 {kept} 个站点的最新上报"))
        }
        Err(error) => {
            tracing::warn!(%error, "what edges told last cannot be kept for a restart");
            Said::new(format!("could not keep what edges told: {error}"), format!("无法保存边缘设备的上报：{error}"))
        }
    }
}

/// Does what was agreed on and is due, and forgets what is older than the last `keep` sealed generations of each volume and held by no lock.
fn retention(gateway: &Arc<Gateway>, keep: usize, board: &Board, progress: &Progress) -> Said {
    let (mut forgotten, mut held, mut failed) = (0, Holding::default(), 0);
    match crate::retention::due::execute(&gateway.state, board.pace(COLLECTION), progress) {
        Ok(executed) => failed += executed.again,
        Err(error) => {
            failed += 1;
            tracing::warn!(%error, "what was agreed on and is due failed");
        }
    }
    for tenant in gateway.state.open_tenants() {
        match forget_old(&gateway.state, &tenant, keep, &mut held) {
            Ok(count) => forgotten += count,
            Err(error) => {
                failed += 1;
                if let StateError::Store { source, .. } = &error {
                    tenant.note_failure(source);
                }
                tracing::warn!(tenant = %tenant.id, %error, "retention failed");
            }
        }
    }
    gateway.metrics.locked.set(i64::try_from(held.all).unwrap_or(i64::MAX));
    let (english, chinese) = match held.old {
        0 => (String::new(), String::new()),
        old => (format!("; {old} more are kept by locks"), format!("；另有 {old} 个因锁定而保留")),
    };
    match failed {
        0 => Said::new(
            format!("forgot {forgotten} generations, keeping {keep} of each volume{english}"),
            format!("清理了 {forgotten} 个版本，每个卷保留 {keep} 个{chinese}"),
        ),
        _ => Said::new(
            format!("forgot {forgotten} generations{english}; {failed} stores or deeds failed, look at the log"),
            format!("清理了 {forgotten} 个版本{chinese}；{failed} 个存储或操作出错，请查看日志"),
        ),
    }
}

/// Generations that locks hold.
#[derive(Default)]
struct Holding {
    /// In all.
    all: usize,
    /// Of those that would be old enough to go.
    old: usize,
}

fn forget_old(state: &State, tenant: &TenantStore, keep: usize, holding: &mut Holding) -> Result<usize, StateError> {
    let failed = |source| StateError::Store { tenant: tenant.id, source };
    let exported: Vec<GenerationId> = state.catalogue.exports()?.into_iter().map(|row| row.generation).collect();
    // What waits for a seed is built on it when it joins.
    let awaited: Vec<GenerationId> = state.catalogue.waiting()?.into_iter().map(|row| row.base.0).collect();
    let mut forgotten = 0;
    for lineage in tenant.store.lineages().map_err(failed)? {
        let _alone = state.keeping();
        let locks = locks_of(&state.catalogue, tenant.id)?;
        let generations = tenant.store.generations(lineage.id).map_err(failed)?;
        let built_on: Vec<_> = generations.iter().filter(|g| !g.is_sealed()).filter_map(|g| g.parent).collect();
        let sealed: Vec<&Generation> = generations.iter().filter(|generation| generation.is_sealed()).collect();
        let old = sealed.len().saturating_sub(keep);
        for (at, generation) in sealed.iter().enumerate() {
            let kept = Kept::of(tenant.id, &lineage, generation);
            if kept.is_some_and(|kept| held(&kept, &locks, state.now()).is_some()) {
                holding.all += 1;
                holding.old += usize::from(at < old);
                continue;
            }
            let used = [&built_on, &exported, &awaited].iter().any(|used| used.contains(&generation.id));
            if at >= old || used {
                continue;
            }
            match tenant.store.forget(generation.id) {
                Ok(()) => forgotten += 1,
                // A draft began on it just now: next time.
                Err(StoreError::State { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
    Ok(forgotten)
}

fn collection(gateway: &Arc<Gateway>, board: &Board, progress: &Progress) -> Said {
    let mut freed = 0;
    for tenant in gateway.state.open_tenants() {
        let done =
            tenant.store.gc_plan(progress).and_then(|plan| tenant.store.gc(&plan, board.pace(COLLECTION), progress));
        match done {
            Ok(bytes) => freed += bytes,
            Err(StoreError::Cancelled) => return stopped(),
            Err(error) => {
                tenant.note_failure(&error);
                tracing::warn!(tenant = %tenant.id, %error, "giving room back failed");
            }
        }
    }
    let freed = crate::text::bytes(freed);
    Said::new(format!("gave {freed} back"), format!("释放了 {freed}"))
}

fn scrub(gateway: &Arc<Gateway>, board: &Board, progress: &Progress) -> Said {
    let (mut damages, mut asked, mut later) = (0, 0, 0);
    for tenant in gateway.state.open_tenants() {
        match tenant.store.scrub(board.pace(SCRUB), progress) {
            Ok(found) => {
                gateway.metrics.scrubbed(&found);
                for damage in &found {
                    tracing::error!(tenant = %tenant.id, pack = %damage.pack, what = damage.what, mended = damage.mended, "damage found");
                }
                let repairs = repairs::ask(&tenant, &gateway.live, &found);
                asked += repairs.now;
                later += repairs.later;
                damages += found.len();
            }
            Err(StoreError::Cancelled) => return stopped(),
            Err(error) => {
                tenant.note_failure(&error);
                tracing::warn!(tenant = %tenant.id, %error, "the scrub failed");
            }
        }
    }
    Said::new(
        format!(
            "found {damages} damages and asked for blocks of {asked} generations; those of {later} wait for their edge"
        ),
        format!("发现 {damages} 处损坏；已为 {asked} 个版本请求数据块，另有 {later} 个等待其边缘设备上线"),
    )
}

fn stopped() -> Said {
    Said::new("was stopped with the daemon", "随服务停止")
}

/// Listens with a new certificate, and drops what expired long ago.
fn certificate(gateway: &Arc<Gateway>, endpoints: &[Endpoint]) -> Said {
    let (state, now) = (&gateway.state, gateway.state.now());
    let long_ago = UnixMillis(now.0.saturating_sub(KEEP_EXPIRED.as_millis() as u64));
    if let Err(error) = state.catalogue.tidy(long_ago) {
        tracing::warn!(%error, "expired tokens and certificates could not be dropped");
    }
    if let Err(error) = state.catalogue.drop_minutes(policies::evidence::oldest(now)) {
        tracing::warn!(%error, "old evidence of lines could not be dropped");
    }
    let made = state.authorities().server_certificate(now);
    let config = match made {
        Ok(made) => server_config(state, &made).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match config {
        Ok(config) => {
            endpoints.iter().for_each(|endpoint| endpoint.set_server_config(Some(config.clone())));
            *gateway.listening.write().expect("it is only replaced") = Arc::new(config);
            Said::new("listens with a new certificate", "已启用新证书")
        }
        Err(why) => {
            tracing::error!(why, "no new certificate could be made");
            Said::new(format!("could not make a new certificate: {why}"), format!("无法生成新证书：{why}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_the_usual_one_until_somebody_sets_it() {
        let board = Board::default();
        assert_eq!((board.share(COLLECTION), board.share(SCRUB)), (50, 10));
        board.set_share(SCRUB, 25);
        assert_eq!((board.share(SCRUB), board.pace(SCRUB).0), (25, 0.25));
        assert_eq!(paced("words"), None, "what takes no time of the disk has no share");
        board.say(SCRUB, Said::new("waits", "等待中"), false, None);
        board.say("words", Said::new("waits", "等待中"), false, None);
        let shares: Vec<_> = board.views().iter().map(|view| (view.name, view.share)).collect();
        assert_eq!(shares, [("scrub", Some(25)), ("words", None)]);
    }

    #[test]
    fn a_line_says_when_its_worker_was_done_last_and_nothing_of_that_while_it_works() {
        let board = Board::default();
        board.say(SCRUB, Said::new("found nothing", "未发现损坏"), false, Some(UnixMillis(1_800_000_000_000)));
        assert!(board.lines()[0].1.starts_with("found nothing; last at 2027-01-15"), "{:?}", board.lines());
        board.say(SCRUB, Said::new("is working", "正在运行"), true, None);
        assert_eq!(board.lines()[0].1, "is working");
        assert_eq!(board.views()[0].last, Some(UnixMillis(1_800_000_000_000)), "it stays known");
    }
}
