//! Keeps the local store in order: the content cache within its budget, what nobody names swept, damage found.

use crate::daemon::{Daemon, DaemonError};
use crate::link::Session;
use crate::pipeline::blocking;
use crate::state::State as Disk;
use dedupe::{BLOCK, BlockNumber, BlockRun, Damage, GcPlan, GenerationId, LEAF, Pace, PackId, Progress};
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

/// Reads everything again; what is damaged is mended from its second copy, or with blocks from the gateway while there is a session.
pub(crate) async fn scrub(daemon: &Daemon, pace: Pace, progress: Arc<Progress>) -> Result<Vec<Damage>, DaemonError> {
    let disk = daemon.disk().clone();
    let mut damages = blocking(move || disk.store.scrub(pace, &progress)).await?;
    for damage in damages.iter_mut().filter(|damage| !damage.mended) {
        if damage.lost.is_empty() {
            damage.what += "; no block was found that needs it";
            continue;
        }
        let session = daemon.link().sessions().borrow().clone();
        let mended = match session {
            Some(session) => mend(&session, daemon.disk(), damage).await,
            None => Err("there is no session with it".into()),
        };
        match mended {
            Ok(()) => {
                damage.mended = true;
                damage.what += ", brought back from the gateway";
            }
            Err(why) => damage.what += &format!(", not brought back from the gateway: {why}"),
        }
    }
    Ok(damages)
}

/// Mends one pack of data, in which a reader met damage, with blocks from the gateway.
///
/// Errors: why it is not mended, for people.
pub(crate) async fn mend_pack(session: &Session, disk: &Arc<Disk>, pack: PackId) -> Result<(), String> {
    let reading = disk.clone();
    let damage = blocking(move || reading.store.scrub_pack(pack)).await.map_err(|error| error.to_string())?;
    match damage {
        None => Ok(()), // somebody else mended it
        Some(damage) if damage.lost.is_empty() => {
            Err("no generation that the gateway could hold needs what was there".into())
        }
        Some(damage) => mend(session, disk, &damage).await,
    }
}

/// Asks the gateway for all blocks that were lost, and retires the pack that lost them. What it has not, of one generation, keeps it from mending no other.
///
/// Errors: what was in the way first.
async fn mend(session: &Session, disk: &Arc<Disk>, damage: &Damage) -> Result<(), String> {
    let mut mended = Ok(());
    for (generation, runs) in &damage.lost {
        let all = mend_generation(session, disk, *generation, runs).await;
        mended = mended.and(all);
    }
    mended?;
    let (disk, pack) = (disk.clone(), damage.pack);
    let retired = blocking(move || disk.store.retire(pack, TRANQUIL, &Progress::default())).await;
    retired.map(drop).map_err(|error| error.to_string())
}

async fn mend_generation(
    session: &Session,
    disk: &Arc<Disk>,
    generation: GenerationId,
    runs: &[BlockRun],
) -> Result<(), String> {
    for blocks in in_frames(runs) {
        let parcel = session.fetch(generation, blocks).await.map_err(|error| error.to_string())?;
        if parcel.is_empty() {
            return Err(format!("it has not all blocks of generation {generation}"));
        }
        let disk = disk.clone();
        blocking(move || disk.store.repair(generation, &parcel)).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Cuts runs into questions whose answers fit a frame even where the blocks cannot be compressed: 48 blocks are 192 of 256 KiB. The blocks of one leaf stay
/// together: they are proved by it.
fn in_frames(runs: &[BlockRun]) -> Vec<Vec<BlockRun>> {
    const BLOCKS: u64 = 48;
    const PER_LEAF: u64 = (LEAF / BLOCK) as u64;
    let mut questions: Vec<Vec<BlockRun>> = Vec::new();
    let (mut asked, mut leaf) = (0, None);
    for run in runs {
        let end = run.first.0 + run.count;
        let mut first = run.first.0;
        while first < end {
            let next = (first / PER_LEAF + 1) * PER_LEAF;
            let count = next.min(end) - first;
            let is_new_leaf = leaf.replace(first / PER_LEAF) != Some(first / PER_LEAF);
            if questions.is_empty() || (is_new_leaf && asked + PER_LEAF > BLOCKS) {
                questions.push(Vec::new());
                asked = 0;
            }
            let question = questions.last_mut().expect("one was pushed when there was none");
            match question.last_mut() {
                Some(last) if last.first.0 + last.count == first => last.count += count,
                _ => question.push(BlockRun { first: BlockNumber(first), count }),
            }
            (first, asked) = (first + count, asked + count);
        }
    }
    questions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_cut_between_leaves_without_losing_a_block() {
        let run = |first, count| BlockRun { first: BlockNumber(first), count };
        let questions = in_frames(&[run(3, 2), run(6, 100), run(108, 1), run(500, 1)]);
        assert_eq!(
            questions,
            [vec![run(3, 2), run(6, 42)], vec![run(48, 48)], vec![run(96, 10), run(108, 1), run(500, 1)]]
        );
        assert!(in_frames(&[]).is_empty());
        // Scattered halves of leaves: no leaf is in two questions.
        let scattered: Vec<_> = (0..100).flat_map(|leaf| [run(leaf * 8, 3), run(leaf * 8 + 5, 2)]).collect();
        let questions = in_frames(&scattered);
        let leaves: Vec<Vec<u64>> = questions.iter().map(|q| q.iter().map(|run| run.first.0 / 8).collect()).collect();
        assert!(leaves.windows(2).all(|pair| pair[0].last() < pair[1].first()), "{leaves:?}");
        assert!(questions.iter().all(|q| q.iter().map(|run| run.count).sum::<u64>() <= 48));
    }
}
