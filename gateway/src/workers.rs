//! Work in the background: each worker has a name, a line that says what it does, and a share of the time that it may take.

use crate::grants::{DEAL_EVERY, Dealer};
use crate::policies;
use crate::repairs;
use crate::server::{Gateway, server_config};
use crate::state::TenantStore;
use crate::web::Web;
use dedupe::{Generation, Pace, Progress, StoreError, UnixMillis};
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
/// Share of one disk's time that giving room back may take: edges come first.
const GC_TRANQUILLITY: Pace = Pace(0.5);
/// Share for reading everything again, which has a month.
const SCRUB_TRANQUILLITY: Pace = Pace(0.1);
/// Expired tokens and certificates are kept so long, for whoever asks what happened.
const KEEP_EXPIRED: Duration = Duration::from_secs(30 * 24 * 3600);
/// What the workers are doing, for whoever asks.
#[derive(Debug, Default)]
pub struct Board {
    lines: Mutex<BTreeMap<&'static str, String>>,
    runs: Mutex<BTreeMap<&'static str, Runs>>,
    wakers: Mutex<BTreeMap<&'static str, Arc<Notify>>>,
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
        let lines = self.lines.lock().expect("lines are only set");
        lines.iter().map(|(name, line)| ((*name).to_owned(), line.clone())).collect()
    }

    fn say(&self, name: &'static str, line: impl Into<String>) {
        self.lines.lock().expect("lines are only set").insert(name, line.into());
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
type Work = Box<dyn FnMut(&Arc<Gateway>, &Progress) -> String + Send>;

/// Starts all workers.
pub(crate) fn start(
    gateway: &Arc<Gateway>,
    board: &Arc<Board>,
    endpoints: &[Endpoint],
    (keep, ingress): (usize, Option<BitsPerSec>),
    stores: Check,
    pages: Option<(Arc<Web>, watch::Sender<Arc<rustls::ServerConfig>>)>,
) {
    let worker = |name, every, work: Work| {
        let (gateway, board) = (gateway.clone(), board.clone());
        gateway.tasks.clone().spawn(run(gateway, board, name, every, work));
    };
    worker("figures", FIGURES_EVERY, Box::new(move |gateway, _| figures(gateway, &stores)));
    worker("sites", FIGURES_EVERY, Box::new(|gateway, _| gateway.figures.look(gateway)));
    worker("retention", RETENTION_EVERY, Box::new(move |gateway, _| retention(gateway, keep)));
    worker("collection", GC_EVERY, Box::new(collection));
    worker("scrub", SCRUB_EVERY, Box::new(scrub));
    if let Some(ingress) = ingress {
        let (mut dealer, runtime) = (Dealer::default(), tokio::runtime::Handle::current());
        let work: Work = Box::new(move |gateway, _| {
            let _runtime = runtime.enter();
            dealer.deal(&gateway.state, &gateway.live, &gateway.metrics, ingress)
        });
        worker("grants", DEAL_EVERY, work);
    }
    worker("words", WORDS_EVERY, Box::new(|gateway, _| words(gateway)));
    let endpoints = endpoints.to_vec();
    let renew = move |gateway: &Arc<Gateway>, _: &Progress| {
        let listens = certificate(gateway, &endpoints);
        match pages.as_ref().map(|(web, pages)| (web.tls(), pages)) {
            Some((Ok(Some(config)), pages)) => drop(pages.send(config)),
            Some((Err(error), _)) => {
                tracing::error!(%error, "the pages keep the certificate that they have");
                return format!("{listens}; pages keep theirs: {error}");
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
                () = relay.work.notified() => {
                    board.wake("retention");
                    board.wake("grants");
                }
            }
        }
    });
}

/// Runs one worker: at once when it is woken, else every so often. What it does blocks, and its last words stand on the board.
async fn run(gateway: Arc<Gateway>, board: Arc<Board>, name: &'static str, every: Duration, mut work: Work) {
    let waker = board.waker(name);
    board.note(name, |runs| runs.is_alive = true);
    let mut due = tokio::time::interval(every);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The long ones would all begin with the daemon, when edges come back all at once.
    let at_once = every <= RETENTION_EVERY;
    board.say(name, format!("waits; works every {}", crate::text::duration(every)));
    if !at_once {
        due.reset();
    }
    loop {
        tokio::select! {
            () = gateway.stop.cancelled() => return,
            () = waker.notified() => {}
            _ = due.tick() => {}
        }
        board.say(name, "is working");
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
                board.say(name, format!("{line}; last at {}", crate::text::moment(gateway.state.now())));
                work = again;
            }
            Err(error) => {
                tracing::error!(worker = name, %error, "a worker ended unexpectedly and will not work again before a restart");
                board.note(name, |runs| runs.is_alive = false);
                return board.say(name, "ended unexpectedly; restart the daemon and report the log");
            }
        }
    }
}

fn figures(gateway: &Gateway, stores: &Check) -> String {
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
    format!("{} stores are open", gateway.state.open_tenants().len())
}

/// Keeps what edges told last.
fn words(gateway: &Gateway) -> String {
    match gateway.state.telemetry.keep(&gateway.state.catalogue) {
        Ok(kept) => format!("kept the latest word of {kept} sites"),
        Err(error) => {
            tracing::warn!(%error, "what edges told last cannot be kept for a restart");
            format!("could not keep what edges told: {error}")
        }
    }
}

/// Forgets what is older than the last `keep` sealed generations of each volume.
fn retention(gateway: &Arc<Gateway>, keep: usize) -> String {
    let (mut forgotten, mut failed) = (0, 0);
    for tenant in gateway.state.open_tenants() {
        match forget_old(&tenant, keep) {
            Ok(count) => forgotten += count,
            Err(error) => {
                failed += 1;
                tenant.note_failure(&error);
                tracing::warn!(tenant = %tenant.id, %error, "retention failed");
            }
        }
    }
    match failed {
        0 => format!("forgot {forgotten} generations, keeping {keep} of each volume"),
        _ => format!("forgot {forgotten} generations; {failed} stores failed, look at the log"),
    }
}

fn forget_old(tenant: &TenantStore, keep: usize) -> Result<usize, StoreError> {
    let mut forgotten = 0;
    for lineage in tenant.store.lineages()? {
        let generations = tenant.store.generations(lineage.id)?;
        let built_on: Vec<_> = generations.iter().filter(|g| !g.is_sealed()).filter_map(|g| g.parent).collect();
        let sealed: Vec<&Generation> = generations.iter().filter(|generation| generation.is_sealed()).collect();
        let old = sealed.iter().take(sealed.len().saturating_sub(keep)).filter(|old| !built_on.contains(&old.id));
        for old in old {
            match tenant.store.forget(old.id) {
                Ok(()) => forgotten += 1,
                // A draft began on it just now: next time.
                Err(StoreError::State { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(forgotten)
}

fn collection(gateway: &Arc<Gateway>, progress: &Progress) -> String {
    let mut freed = 0;
    for tenant in gateway.state.open_tenants() {
        let done = tenant.store.gc_plan(progress).and_then(|plan| tenant.store.gc(&plan, GC_TRANQUILLITY, progress));
        match done {
            Ok(bytes) => freed += bytes,
            Err(StoreError::Cancelled) => return "was stopped with the daemon".into(),
            Err(error) => {
                tenant.note_failure(&error);
                tracing::warn!(tenant = %tenant.id, %error, "giving room back failed");
            }
        }
    }
    format!("gave {} back", crate::text::bytes(freed))
}

fn scrub(gateway: &Arc<Gateway>, progress: &Progress) -> String {
    let (mut damages, mut asked, mut later) = (0, 0, 0);
    for tenant in gateway.state.open_tenants() {
        match tenant.store.scrub(SCRUB_TRANQUILLITY, progress) {
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
            Err(StoreError::Cancelled) => return "was stopped with the daemon".into(),
            Err(error) => {
                tenant.note_failure(&error);
                tracing::warn!(tenant = %tenant.id, %error, "the scrub failed");
            }
        }
    }
    format!("found {damages} damages and asked for blocks of {asked} generations; those of {later} wait for their edge")
}

/// Listens with a new certificate, and drops what expired long ago.
fn certificate(gateway: &Arc<Gateway>, endpoints: &[Endpoint]) -> String {
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
            "listens with a new certificate".into()
        }
        Err(why) => {
            tracing::error!(why, "no new certificate could be made");
            format!("could not make a new certificate: {why}")
        }
    }
}
