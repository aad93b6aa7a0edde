//! Keeps the local store in order: the content cache within its budget, what nobody names swept, damage found.

use crate::daemon::{Daemon, DaemonError};
use crate::pipeline::blocking;
use dedupe::{Damage, GcPlan, Pace, Progress};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Between two looks at the size of the content cache.
const EVICT_EVERY: Duration = Duration::from_secs(600);
/// Between two sweeps: a sweep reads the index whole, and nothing needs its room sooner.
const SWEEP_EVERY: Duration = Duration::from_secs(6 * 3600);
/// Share of the time that sweeping by itself may take: the host and the captures come first.
const TRANQUIL: Pace = Pace(0.25);

/// Runs until `stop`.
pub(crate) async fn run(daemon: Daemon, stop: CancellationToken) {
    let mut evict = tokio::time::interval_at(tokio::time::Instant::now() + EVICT_EVERY, EVICT_EVERY);
    let mut sweep_clock = tokio::time::interval_at(tokio::time::Instant::now() + SWEEP_EVERY, SWEEP_EVERY);
    loop {
        let result = tokio::select! {
            _ = evict.tick() => evict_once(&daemon).await.map(|freed| ("evicted", freed)),
            _ = sweep_clock.tick() => {
                let progress = Arc::new(Progress::default());
                sweep(&daemon, TRANQUIL, progress).await.map(|(_, freed)| ("swept", freed))
            }
            () = stop.cancelled() => return,
        };
        match result {
            Ok((_, 0)) => {}
            Ok((what, freed)) => tracing::info!(freed = %crate::text::bytes(freed), "{what} the local store"),
            Err(error) => tracing::warn!(%error, "cannot keep the local store in order"),
        }
    }
}

/// Brings the content cache within its budget; returns the bytes given back.
pub(crate) async fn evict_once(daemon: &Daemon) -> Result<u64, DaemonError> {
    let (disk, budget, unsent) = (daemon.disk().clone(), daemon.config().cache.0, daemon.unsent());
    Ok(blocking(move || disk.store.evict(budget, &unsent)).await?)
}

/// Plans a sweep.
pub(crate) async fn plan(daemon: &Daemon, progress: Arc<Progress>) -> Result<GcPlan, DaemonError> {
    let disk = daemon.disk().clone();
    Ok(blocking(move || disk.store.gc_plan(&progress)).await?)
}

/// Sweeps what nobody names; returns the plan and the bytes given back.
pub(crate) async fn sweep(daemon: &Daemon, pace: Pace, progress: Arc<Progress>) -> Result<(GcPlan, u64), DaemonError> {
    let plan = plan(daemon, progress.clone()).await?;
    let disk = daemon.disk().clone();
    let (plan, freed) = blocking(move || {
        let freed = disk.store.gc(&plan, pace, &progress);
        (plan, freed)
    })
    .await;
    Ok((plan, freed?))
}

/// Reads everything again; what is damaged and has a second copy is mended.
pub(crate) async fn scrub(daemon: &Daemon, pace: Pace, progress: Arc<Progress>) -> Result<Vec<Damage>, DaemonError> {
    let disk = daemon.disk().clone();
    Ok(blocking(move || disk.store.scrub(pace, &progress)).await?)
}
