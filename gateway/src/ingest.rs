//! Taking generations in: offers are checked, parcels decoded on a sized pool, seals verified.
//!
//! Memory: a parcel waits on disk until a worker is free, so the daemon holds at most `decode_workers` ×
//! [`WORKER_MEMORY`] for decoding, however many edges send.

use crate::catalogue::check_name;
use crate::incoming::{Incoming, Part, PartError};
use crate::metrics::Metrics;
use crate::seeds::arrive::{self, wait_refusal};
use crate::seeds::waiting::{self, Kept};
use crate::state::{State, StateError, TenantStore};
use dedupe::parcel::{MAX_FRESH, MAX_PARCEL, MAX_PREFIX};
use dedupe::recent::MAX_RECENT;
use dedupe::{
    BlockRun, ByteCount, Draft, Generation, GenerationId, IngestError, IngestReport, Lineage, LineageId, NewGeneration,
    Root, SealError, SiteId, StoreError, Workspace,
};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use wire::message::{FromGateway, GenerationOffer, MAX_FRAME, Refusal, VolumeOffer};

/// Bytes that one decode worker takes at most: the parcel as it came, its prefix, what it and those before it decode to, a data pack and records.
pub const WORKER_MEMORY: usize = MAX_PARCEL + MAX_PREFIX + MAX_FRESH + MAX_RECENT + (64 << 20);
/// Parcels of one generation that may arrive ahead of the one that is due. Bounds the disk that one volume can claim beforehand.
pub const AHEAD: u32 = 8;
/// Largest volume: above the 50 TB that a site may have, and a bound on the work that a single offer can cause.
pub const MAX_VOLUME: ByteCount = ByteCount(64 << 40);
/// How long a parcel that arrived early waits for the one before it. Then its sender asks again.
const WAIT_FOR_TURN: Duration = Duration::from_secs(120);
/// Generations that are told to an edge when it announces a volume.
const HELD: usize = 64;

/// The sized pool that decodes parcels.
#[derive(Clone, Debug)]
pub struct Pool {
    permits: Arc<Semaphore>,
    incoming: Incoming,
    metrics: Arc<Metrics>,
    /// Of the workers that rest; no more than there are workers.
    workspaces: Arc<Mutex<Vec<Workspace>>>,
}

/// A generation that is arriving.
pub struct Receiving {
    into: Into,
    lineage: LineageId,
    /// Number of the parcel that is due.
    next: watch::Sender<u32>,
    /// Parcels are taken in one after the other.
    turn: tokio::sync::Mutex<()>,
    /// One stream at a time writes a part.
    parts: std::sync::Mutex<HashMap<u32, Arc<tokio::sync::Mutex<()>>>>,
}

/// What an offer came to: what its parcels go to, unless all are in, and the number of the first that is not.
pub type Prepared = (Option<Arc<Receiving>>, u32);

/// What becomes of its parcels.
enum Into {
    /// They are decoded at once, into this draft.
    Draft(Arc<Draft>),
    /// They wait for a seed.
    Waiting(Kept, GenerationId),
}

impl std::fmt::Debug for Receiving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let id = match &self.into {
            Into::Draft(draft) => draft.generation().id,
            Into::Waiting(_, id) => *id,
        };
        write!(f, "Receiving(parcel {} of {id})", self.due())
    }
}

impl Receiving {
    /// What arrives in a draft, from the parcel on that is due.
    pub(crate) fn of(draft: Arc<Draft>, lineage: LineageId) -> Receiving {
        let next = draft.next_parcel();
        Receiving::new(lineage, Into::Draft(draft), next)
    }

    fn new(lineage: LineageId, into: Into, next: u32) -> Receiving {
        let next = watch::Sender::new(next);
        Receiving { into, lineage, next, turn: tokio::sync::Mutex::default(), parts: std::sync::Mutex::default() }
    }

    /// Of a generation that is to wait for a seed.
    pub(crate) fn waiting(lineage: LineageId, kept: Kept, id: GenerationId) -> Receiving {
        let next = kept.count(id);
        Receiving::new(lineage, Into::Waiting(kept, id), next)
    }

    /// What it goes into, unless it waits for a seed.
    pub(crate) fn draft(&self) -> Option<&Arc<Draft>> {
        match &self.into {
            Into::Draft(draft) => Some(draft),
            Into::Waiting(..) => None,
        }
    }

    /// Number of the parcel that is due: all before it are durable and verified.
    pub fn due(&self) -> u32 {
        *self.next.borrow()
    }

    /// The volume's lineage.
    pub fn lineage(&self) -> LineageId {
        self.lineage
    }

    /// The lock of the part of parcel `number`. Locks of parcels that are in are let go.
    pub(crate) fn part(&self, number: u32) -> Arc<tokio::sync::Mutex<()>> {
        let due = self.due();
        let mut parts = self.parts.lock().expect("no thread panics while it looks for a part");
        parts.retain(|number, _| *number >= due);
        parts.entry(number).or_default().clone()
    }

    /// Waits until parcel `number` is due or was taken in; refuses when the one before does not come.
    async fn wait_for_turn(&self, number: u32) -> Result<(), Refusal> {
        let mut next = self.next.subscribe();
        let due = tokio::time::timeout(WAIT_FOR_TURN, next.wait_for(|due| *due >= number)).await;
        match due {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Refusal::OutOfOrder { want: self.due(), got: number }),
        }
    }
}

impl Pool {
    /// A pool of `workers` that reads parts from `incoming`.
    pub fn new(workers: usize, incoming: Incoming, metrics: Arc<Metrics>) -> Pool {
        Pool { permits: Arc::new(Semaphore::new(workers)), incoming, metrics, workspaces: Arc::default() }
    }

    /// Gives the memory of workers that rest back.
    pub(crate) fn rest(&self) {
        lock(&self.workspaces).clear();
    }

    /// A worker's turn, for what is no parcel. Dropping it gives the worker back.
    pub(crate) async fn turn(&self) -> OwnedSemaphorePermit {
        self.permits.clone().acquire_owned().await.expect("the pool is never closed")
    }

    /// Where parts lie.
    pub fn incoming(&self) -> &Incoming {
        &self.incoming
    }

    /// Decodes, verifies and stores a parcel that arrived whole. When it returns `Ok` the parcel is durable, and its part is gone.
    pub async fn take_in(
        &self,
        tenant: &Arc<TenantStore>,
        receiving: &Arc<Receiving>,
        number: u32,
        part: Part,
    ) -> Result<(), Refusal> {
        receiving.wait_for_turn(number).await?;
        let _turn = receiving.turn.lock().await;
        if receiving.due() > number {
            return part.remove().map_err(file_refusal); // taken in meanwhile, over another connection
        }
        let permit = self.permits.clone().acquire_owned().await.expect("the pool is never closed");
        let (tenant, receiving, metrics) = (tenant.clone(), receiving.clone(), self.metrics.clone());
        let workspaces = self.workspaces.clone();
        let work = move || {
            let _permit = permit;
            let timer = metrics.ingest_seconds.start_timer();
            let taken = match &receiving.into {
                Into::Draft(draft) => {
                    let mut workspace = take_workspace(&mut lock(&workspaces), draft);
                    let taken = take_in(&tenant, (&receiving, draft), number, &part, &mut workspace);
                    lock(&workspaces).push(workspace);
                    taken
                }
                Into::Waiting(kept, id) => {
                    return keep(&receiving, kept, *id, number, &part).inspect(|()| {
                        metrics.parcels.inc();
                        metrics.parcel_bytes.inc_by(part.announced().len);
                    });
                }
            };
            drop(timer);
            if let Ok((report, len)) = &taken {
                metrics.parcels.inc();
                metrics.parcel_bytes.inc_by(*len);
                metrics.raw_bytes.inc_by(report.fresh_blocks * dedupe::BLOCK as u64);
            }
            taken.map(drop)
        };
        finish(tokio::task::spawn_blocking(work).await)
    }
}

/// The workspace that took in the parcel before, when it rests.
fn take_workspace(resting: &mut Vec<Workspace>, draft: &Arc<Draft>) -> Workspace {
    match resting.iter().position(|workspace| workspace.knows(draft)) {
        Some(at) => resting.swap_remove(at),
        None => resting.pop().unwrap_or_default(),
    }
}

fn lock(workspaces: &Mutex<Vec<Workspace>>) -> MutexGuard<'_, Vec<Workspace>> {
    workspaces.lock().expect("no thread panics while it takes or returns one")
}

/// Makes a parcel durable that is decoded later.
fn keep(receiving: &Receiving, kept: &Kept, id: GenerationId, number: u32, part: &Part) -> Result<(), Refusal> {
    match kept.take(id, number, part) {
        Ok(()) => {
            receiving.next.send_replace(number + 1);
            Ok(())
        }
        Err(PartError::Damaged) => Err(Refusal::Damaged(PartError::Damaged.to_string())),
        Err(PartError::File(error)) => Err(file_refusal(error)),
    }
}

fn take_in(
    tenant: &TenantStore,
    (receiving, draft): (&Receiving, &Arc<Draft>),
    number: u32,
    part: &Part,
    workspace: &mut Workspace,
) -> Result<(IngestReport, u64), Refusal> {
    dedupe::crash_point("gateway.ingest.before");
    let bytes = match part.read_whole() {
        Ok(bytes) => bytes,
        Err(PartError::Damaged) => return Err(Refusal::Damaged(PartError::Damaged.to_string())),
        Err(PartError::File(error)) => return Err(file_refusal(error)),
    };
    let taken = draft.ingest(number, &bytes, workspace);
    dedupe::crash_point("gateway.ingest.after");
    let due = draft.next_parcel();
    receiving.next.send_replace(due);
    match taken {
        Ok(report) => {
            // The parcel is durable in the store: a part that cannot be removed now is removed at the next start.
            if let Err(error) = part.remove() {
                tracing::warn!(%error, "a part that is not needed any more stays");
            }
            Ok((report, bytes.len() as u64))
        }
        Err(error) => Err(refuse_parcel(tenant, error, part)),
    }
}

fn refuse_parcel(tenant: &TenantStore, error: IngestError, part: &Part) -> Refusal {
    let refusal = match error {
        IngestError::WrongNumber { want, got } => Refusal::OutOfOrder { want, got },
        IngestError::Damaged(what) => Refusal::Damaged(what.into()),
        IngestError::MissingBase(generation) => Refusal::MissingBase(generation),
        IngestError::Store(error) => return store_refusal(tenant, error), // the part is good: kept for the next try
    };
    if let Err(error) = part.remove() {
        tracing::warn!(%error, "a part that was refused stays");
    }
    refusal
}

/// Makes a volume known, and says what is held of it. Blocks.
///
/// Of another site's volume nothing is said and nothing noted; its offers are refused as foreign, and the session's other volumes go on.
pub fn announce(
    state: &State,
    tenant: &TenantStore,
    site: SiteId,
    offer: &VolumeOffer,
) -> Result<FromGateway, Refusal> {
    check_name(&offer.name).map_err(|error| Refusal::Protocol(error.to_string()))?;
    let failed = |error| store_refusal(tenant, error);
    let known = tenant.store.lineage(offer.lineage).map_err(failed)?;
    if known.as_ref().is_some_and(|known| known.site != Some(site)) {
        tracing::warn!(%site, lineage = %offer.lineage, "a site announced a volume of another site");
        let (sealed, promised) = (Vec::new(), Vec::new());
        return Ok(FromGateway::Holding { lineage: offer.lineage, sealed, draft: None, promised });
    }
    let fork_of = known.as_ref().and_then(|known| known.fork_of);
    let lineage = Lineage { id: offer.lineage, kind: offer.kind, name: offer.name.clone(), site: Some(site), fork_of };
    if known.as_ref() != Some(&lineage) {
        tenant.store.put_lineage(&lineage).map_err(failed)?;
    }
    holding(state, tenant, offer.lineage)
}

/// What is held of a volume: sealed, arriving, promised. Blocks.
pub(crate) fn holding(state: &State, tenant: &TenantStore, lineage: LineageId) -> Result<FromGateway, Refusal> {
    let generations = tenant.store.generations(lineage).map_err(|error| store_refusal(tenant, error))?;
    let sealed = generations.iter().rev().filter_map(|generation| Some((generation.id, generation.sealed?.root)));
    // A draft that an import or a joining makes is not its edge's to go on with.
    let mut draft = None;
    for generation in generations.iter().filter(|generation| !generation.is_sealed()) {
        let ours = waiting::is_ours(state, generation.id).map_err(|error| state_refusal(error.into()))?;
        draft = draft.or((!ours).then_some((generation.id, generation.stats.parcels)));
    }
    let mut promised = waiting::promised(state, tenant, lineage).map_err(|error| wait_refusal(tenant, error))?;
    promised.truncate(HELD);
    Ok(FromGateway::Holding { lineage, sealed: sealed.take(HELD).collect(), draft, promised })
}

/// The same for an edge of before version 6, which knows nothing of seeds.
pub(crate) fn without_promises(message: FromGateway) -> FromGateway {
    match message {
        FromGateway::Holding { lineage, sealed, draft, .. } => FromGateway::Held { lineage, sealed, draft },
        other => other,
    }
}

/// Checks an offer and begins its draft, or goes on with it; a draft of another generation of the same volume is dropped. Blocks.
///
/// A generation that is sealed already is accepted with all its parcels in: the edge did not hear that, and seals again.
pub fn prepare(
    state: &State,
    tenant: &Arc<TenantStore>,
    site: SiteId,
    offer: &GenerationOffer,
    incoming: &Incoming,
) -> Result<Prepared, Refusal> {
    let failed = |error| store_refusal(tenant, error);
    let lineage = tenant.store.lineage(offer.lineage).map_err(failed)?;
    if lineage.is_none_or(|lineage| lineage.site != Some(site)) {
        return Err(Refusal::Foreign);
    }
    if offer.size > MAX_VOLUME || !offer.size.0.is_multiple_of(512) {
        return Err(Refusal::Protocol(format!(
            "a volume of {} bytes: at most 64 TiB, in whole sectors of 512",
            offer.size
        )));
    }
    let generations = tenant.store.generations(offer.lineage).map_err(failed)?;
    if let Some(known) = tenant.store.generation(offer.generation).map_err(failed)? {
        if known.lineage != offer.lineage {
            return Err(Refusal::Foreign);
        }
        if known.is_sealed() {
            return Ok((None, known.stats.parcels));
        }
    }
    if let Some(prepared) = arrive::prepare(state, tenant, site, offer)? {
        return Ok(prepared);
    }
    if waiting::is_ours(state, offer.generation).map_err(|error| state_refusal(error.into()))? {
        return Err(Refusal::Internal("the generation is on its way on media, or is being joined".into()));
    }
    check_base(&generations, offer)?;
    for other in generations.iter().filter(|known| !known.is_sealed() && known.id != offer.generation) {
        abandon(state, tenant, site, other.id, incoming)?;
    }
    let begin = || -> Result<Receiving, StoreError> {
        let draft = tenant.store.draft(NewGeneration {
            id: offer.generation,
            lineage: offer.lineage,
            parent: offer.parent.map(|(id, _)| id),
            size: offer.size,
            captured_at: offer.captured_at,
            source: Vec::new(),
        })?;
        let next = draft.next_parcel();
        Ok(Receiving::new(offer.lineage, Into::Draft(draft), next))
    };
    let receiving = tenant.receive(offer.generation, begin).map_err(failed)?;
    let due = receiving.due();
    Ok((Some(receiving), due))
}

/// A delta must name the newest sealed generation and its root; a seed builds on nothing.
fn check_base(generations: &[Generation], offer: &GenerationOffer) -> Result<(), Refusal> {
    let newest = generations.iter().rev().find_map(|known| Some((known.id, known.sealed?.root)));
    match offer.parent {
        None => Ok(()),
        Some(parent) if newest == Some(parent) => Ok(()),
        Some(_) => Err(Refusal::WrongBase { have: newest }),
    }
}

/// What became of a generation whose parcels are all in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is verified and visible, under this number.
    Sealed(u64),
    /// It is durable, and waits for its seed.
    Waits,
}

/// Verifies a generation whose parcels are all in, and makes it visible; or lets it wait for its seed. Blocks.
pub fn seal(
    state: &State,
    tenant: &Arc<TenantStore>,
    site: SiteId,
    id: GenerationId,
    (parcels, root): (u32, Root),
    incoming: &Incoming,
) -> Result<Outcome, Refusal> {
    let failed = |error| store_refusal(tenant, error);
    if arrive::seal(state, tenant, site, id, (parcels, root))? {
        return Ok(Outcome::Waits);
    }
    let known = owned(tenant, site, id)?.ok_or(Refusal::Protocol(format!("there is no generation {id} to seal")))?;
    if let Some(sealed) = known.sealed {
        return if sealed.root == root {
            Ok(Outcome::Sealed(known.number))
        } else {
            Err(Refusal::WrongRoot(sealed.root))
        };
    }
    let receiving = tenant.receiving(id).ok_or(Refusal::Protocol(format!("generation {id} is not being received")))?;
    let Into::Draft(draft) = &receiving.into else {
        return Err(Refusal::Internal("the generation waits no more".into())); // dropped this very moment
    };
    if receiving.due() != parcels {
        return Err(Refusal::OutOfOrder { want: receiving.due(), got: parcels });
    }
    dedupe::crash_point("gateway.seal.before");
    let sealed = draft.seal_as(root, state.now());
    dedupe::crash_point("gateway.seal.after");
    match sealed {
        Ok(generation) => {
            tenant.stop_receiving(id);
            Ok(Outcome::Sealed(generation.number))
        }
        Err(SealError::WrongRoot(found)) => {
            abandon(state, tenant, site, id, incoming)?;
            Err(Refusal::WrongRoot(found))
        }
        Err(SealError::Store(error)) => Err(failed(error)),
    }
}

/// Forgets a draft and what came of it. That there is none is no error. Blocks.
pub fn abandon(
    state: &State,
    tenant: &Arc<TenantStore>,
    site: SiteId,
    id: GenerationId,
    incoming: &Incoming,
) -> Result<(), Refusal> {
    if arrive::abandon(state, tenant, site, id)? {
        return incoming.discard(id).map_err(|error| Refusal::Internal(error.to_string()));
    }
    if waiting::is_ours(state, id).map_err(|error| state_refusal(error.into()))? {
        return Ok(()); // an import makes it
    }
    let Some(known) = owned(tenant, site, id)? else { return Ok(()) };
    if known.is_sealed() {
        return Ok(()); // nothing acknowledged as sealed is ever taken back
    }
    discard(tenant, &known, incoming)
}

/// Drops a draft, whoever made it, and what came of it. Blocks.
pub(crate) fn discard(tenant: &Arc<TenantStore>, known: &Generation, incoming: &Incoming) -> Result<(), Refusal> {
    let failed = |error| store_refusal(tenant, error);
    let draft = match tenant.receiving(known.id).as_deref() {
        Some(Receiving { into: Into::Draft(draft), .. }) => draft.clone(),
        _ => tenant.store.draft(again(known)).map_err(failed)?,
    };
    tenant.stop_receiving(known.id);
    draft.discard().map_err(failed)?;
    incoming.discard(known.id).map_err(|error| Refusal::Internal(error.to_string()))
}

/// Gives a site blocks of its own sealed generation back, because its copy is damaged; nothing when they are not all here. Blocks.
pub fn fetch(
    tenant: &TenantStore,
    site: SiteId,
    id: u64,
    generation: GenerationId,
    blocks: &[BlockRun],
) -> Result<FromGateway, Refusal> {
    let failed = |error| store_refusal(tenant, error);
    let parcel = match owned(tenant, site, generation)? {
        Some(known) if known.is_sealed() => tenant.store.blocks_parcel(generation, blocks).map_err(failed)?,
        _ => None,
    };
    let fits = |parcel: &Vec<u8>| parcel.len() <= MAX_FRAME - 64;
    Ok(FromGateway::Blocks { id, parcel: parcel.filter(fits).unwrap_or_default() })
}

/// Mends blocks of a sealed generation with what its edge sent. What does not fit is dropped: the next scrub asks again. Blocks.
pub fn repair(tenant: &TenantStore, site: SiteId, generation: GenerationId, parcel: &[u8]) -> Result<bool, Refusal> {
    if owned(tenant, site, generation)?.is_none() {
        return Ok(false);
    }
    match tenant.store.repair(generation, parcel) {
        Ok(()) => {
            tracing::info!(%generation, "damaged blocks were mended with the edge's copy");
            Ok(true)
        }
        Err(IngestError::Store(error)) => Err(store_refusal(tenant, error)),
        Err(error) => {
            tracing::warn!(%generation, %error, "what the edge sent for a repair does not fit");
            Ok(false)
        }
    }
}

/// A generation, if there is one and it is of a volume of this site.
pub(crate) fn owned(tenant: &TenantStore, site: SiteId, id: GenerationId) -> Result<Option<Generation>, Refusal> {
    let failed = |error| store_refusal(tenant, error);
    let Some(known) = tenant.store.generation(id).map_err(failed)? else { return Ok(None) };
    let lineage = tenant.store.lineage(known.lineage).map_err(failed)?;
    if lineage.is_none_or(|lineage| lineage.site != Some(site)) { Err(Refusal::Foreign) } else { Ok(Some(known)) }
}

fn again(draft: &Generation) -> NewGeneration {
    NewGeneration {
        id: draft.id,
        lineage: draft.lineage,
        parent: draft.parent,
        size: draft.size,
        captured_at: draft.captured_at,
        source: draft.source.clone(),
    }
}

/// What an edge is told about a store that failed.
pub(crate) fn store_refusal(tenant: &TenantStore, error: StoreError) -> Refusal {
    tenant.note_failure(&error);
    if error.is_no_room() {
        return Refusal::NoRoom("the disk of its store is full".into());
    }
    tracing::error!(tenant = %tenant.id, %error, "a store failed");
    Refusal::Internal(error.to_string())
}

/// What an edge is told about a state that cannot be opened.
pub(crate) fn state_refusal(error: StateError) -> Refusal {
    tracing::error!(%error, "a tenant's store cannot be opened");
    Refusal::Internal("the tenant's store cannot be opened".into())
}

pub(crate) fn file_refusal(error: crate::files::FileError) -> Refusal {
    if error.is_no_room() {
        return Refusal::NoRoom("the disk of its incoming parcels is full".into());
    }
    tracing::error!(%error, "an incoming parcel failed");
    Refusal::Internal("a file of the gateway failed".into())
}

/// A result of work on the blocking pool; a panic there is a bug, which must not take the daemon along.
pub(crate) fn finish<T>(done: Result<Result<T, Refusal>, tokio::task::JoinError>) -> Result<T, Refusal> {
    done.unwrap_or_else(|error| {
        tracing::error!(%error, "a worker ended unexpectedly");
        Err(Refusal::Internal("a worker of the gateway ended unexpectedly".into()))
    })
}
