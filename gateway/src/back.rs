//! The way back: a site asks for parts of generations of its own volumes, and gets them as parcels coded against what it still has.
//!
//! Nothing is kept here that a crash could lose: a question names all that its answer depends on ([`dedupe::back`]), so the same question gives the same
//! bytes, and an answer that broke off goes on where the edge says that it is durable.
//!
//! ```text
//!   edge: Fetch ──► whose is it? ──► may anything go down? ──► memory, a worker's turn ──► audit ──► code ──► Fetched, bytes
//!                       │ refused         │ Later                │ Later
//! ```

use crate::catalogue::NewAudit;
use crate::ingest::{finish, owned, state_refusal, store_refusal};
use crate::live::LiveSession;
use crate::server::Gateway;
use crate::state::TenantStore;
use dedupe::{AnswerError, Answered, Effort, Generation, GenerationId, LineageId, SiteId, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wire::message::{DataReply, Fetch, FromGateway, Held, MAX_FETCHED, Refusal, Wait};
use wire::stream::{FrameReader, FrameWriter};
use wire::version::Version;

/// Bytes of answers that are in memory at once, of all sites together.
const MEMORY: u64 = 256 << 20;
/// Questions of one data connection that are answered at once: one restore, and whoever reads a single file meanwhile.
pub(crate) const AT_ONCE: usize = 2;
/// How long an answer may wait for a worker; taking parcels in has the same workers.
const TURN: Duration = Duration::from_secs(20);
/// Bytes that are handed to the connection at once: between two of them it is looked whether anything may go down still.
const PIECE: usize = 16 << 10;
/// An edge that takes nothing for so long is cut off, or its line is closed: its memory is given back. 16 KiB take 8 s at 16 kbit/s.
const STALLED: Duration = Duration::from_secs(120);
/// After so many seconds a question is worth asking again when nothing may go down, and when others come first.
const ASK_AGAIN: (u32, u32) = (30, 5);
/// How an answer is coded: the level of the codec's measurements, whose prefix is small here.
const EFFORT: Effort = Effort::Normal;

/// What bounds the answers of all sites.
#[derive(Debug)]
pub(crate) struct Back(Arc<Semaphore>);

impl Default for Back {
    fn default() -> Self {
        Back(Arc::new(Semaphore::new((MEMORY / MAX_FETCHED) as usize)))
    }
}

/// Why there are no bytes.
enum No {
    Refuse(Refusal),
    Later(Wait),
}

/// Answers one question on its stream.
pub(crate) async fn serve(
    gateway: &Gateway,
    session: &LiveSession,
    (fetch, turn): (Fetch, Result<OwnedSemaphorePermit, tokio::sync::TryAcquireError>),
    mut writer: FrameWriter,
    mut reader: FrameReader,
) {
    if session.version() < Version::V4 {
        return reader.stop();
    }
    // Answers to parcels are small and wait for nobody's image, unless this one is wanted as much.
    let _closed = writer.stream().set_priority(if fetch.priority { 0 } else { -1 });
    let answered = match turn {
        Ok(_turn) => answer(gateway, session, &fetch).await.map(|held| (held, _turn)),
        Err(_) => Err(No::Later(Wait::Busy)),
    };
    let reply = match answered {
        Ok(((answered, _memory), _turn)) => return give(gateway, session, &fetch, &answered, writer).await,
        Err(No::Later(why)) => {
            DataReply::Later { seconds: if why == Wait::Closed { ASK_AGAIN.0 } else { ASK_AGAIN.1 }, why }
        }
        Err(No::Refuse(why)) => {
            tracing::info!(site = %session.site, generation = %fetch.wanted.generation, %why, "a fetch was refused");
            gateway.metrics.refused(&why);
            DataReply::Refused(why)
        }
    };
    if writer.send(&reply).await.is_ok() {
        writer.finish();
    }
}

/// Codes what is asked for, with the memory that it has to be held in.
async fn answer(
    gateway: &Gateway,
    session: &LiveSession,
    fetch: &Fetch,
) -> Result<(Answered, OwnedSemaphorePermit), No> {
    if session.tenant.has_failed() {
        return Err(No::Refuse(Refusal::Internal("the tenant's store is being opened anew".into())));
    }
    if !gateway.live.down().is_open(session.site) {
        return Err(No::Later(Wait::Closed));
    }
    let memory = gateway.back.0.clone().try_acquire_owned().map_err(|_| No::Later(Wait::Busy))?;
    let worker = match tokio::time::timeout(TURN, gateway.pool.turn()).await {
        Ok(worker) => worker,
        Err(_) => return Err(No::Later(Wait::Busy)),
    };
    let (tenant, site, wanted) = (session.tenant.clone(), session.site, fetch.wanted.clone());
    let first = session.is_first_fetch(wanted.generation);
    let (state, name, actor) = (gateway.state.clone(), session.name.clone(), fetch.actor.clone());
    let code = move || {
        let _worker = worker;
        let generation = own(&tenant, site, wanted.generation)?;
        if first {
            note(&state.catalogue, state.now(), &name, &actor, &tenant, &generation)?;
        }
        dedupe::crash_point("gateway.fetch.before");
        tenant.store.answer(&wanted, EFFORT).map_err(|error| refuse(&tenant, wanted.generation, error))
    };
    let answered = finish(tokio::task::spawn_blocking(code).await);
    if answered.is_err() && first {
        session.forget_fetch(fetch.wanted.generation); // nobody got anything: the next one is noted
    }
    Ok((answered.map_err(No::Refuse)?, memory))
}

/// Sends what is coded from where the edge goes on, while anything may go down.
async fn give(gateway: &Gateway, session: &LiveSession, fetch: &Fetch, answered: &Answered, mut writer: FrameWriter) {
    let (bytes, hash) = (&answered.bytes, *blake3::hash(&answered.bytes).as_bytes());
    let len = bytes.len() as u64;
    let offset = fetch.have.filter(|(had, durable)| *had == hash && *durable <= len).map_or(0, |(_, durable)| durable);
    let fetched = DataReply::Fetched { len, hash, offset, until: answered.until };
    if writer.send(&fetched).await.is_err() {
        return;
    }
    for piece in bytes[offset as usize..].chunks(PIECE) {
        // Ended early: the edge keeps what came, and asks for the rest when the window opens.
        if !gateway.live.down().is_open(session.site) || gateway.stop.is_cancelled() {
            break;
        }
        match tokio::time::timeout(STALLED, writer.raw(piece)).await {
            Ok(Ok(())) => gateway.metrics.fetched_bytes.inc_by(piece.len() as u64),
            Ok(Err(_)) => return,
            Err(_) => {
                let _gone = writer.stream().reset(0u32.into());
                return;
            }
        }
        dedupe::crash_point("gateway.fetch.piece");
    }
    writer.finish();
}

/// A sealed generation of this site. Of another site's it is said that there is none.
fn own(tenant: &TenantStore, site: SiteId, id: GenerationId) -> Result<Generation, Refusal> {
    match owned(tenant, site, id) {
        Ok(Some(known)) if known.is_sealed() => Ok(known),
        Ok(_) | Err(Refusal::Foreign) => Err(Refusal::MissingBase(id)),
        Err(why) => Err(why),
    }
}

fn refuse(tenant: &TenantStore, wanted: GenerationId, error: AnswerError) -> Refusal {
    match error {
        AnswerError::Unfit(why) => Refusal::Protocol(why.into()),
        AnswerError::NoBase(id) => Refusal::MissingBase(id),
        AnswerError::Store(StoreError::NoGeneration(id)) => Refusal::MissingBase(id),
        AnswerError::Store(StoreError::Gone(_)) => Refusal::MissingBase(wanted),
        AnswerError::Store(error) => store_refusal(tenant, error),
        AnswerError::Codec(error) => Refusal::Internal(error.to_string()),
    }
}

/// Notes in the audit log that a site fetches a generation, and who asked for it there.
fn note(
    catalogue: &crate::catalogue::Catalogue,
    time: dedupe::UnixMillis,
    name: &str,
    actor: &str,
    tenant: &TenantStore,
    generation: &Generation,
) -> Result<(), Refusal> {
    let (of, site) = name.split_once('/').unwrap_or(("", name));
    let volume = tenant.store.lineage(generation.lineage).map_err(|error| store_refusal(tenant, error))?;
    let volume = volume.map_or_else(|| generation.lineage.to_string(), |volume| volume.name);
    let entry = NewAudit {
        time,
        actor: crate::text::printable(if actor.is_empty() { site } else { actor }),
        via: "edge",
        tenant: of.to_owned(),
        what: "volume.fetch",
        object: format!("{site}/{volume}"),
        detail: format!("generation {} ({}) goes back to the site", generation.number, generation.id),
        outcome: "done",
    };
    catalogue.audit(entry).map(drop).map_err(|error| state_refusal(error.into()))
}

/// The sealed generations of a volume, newest first; none of another site's volume. Blocks.
pub(crate) fn list(
    tenant: &TenantStore,
    site: SiteId,
    id: u64,
    lineage: LineageId,
    before: u64,
) -> Result<FromGateway, Refusal> {
    let failed = |error| store_refusal(tenant, error);
    let known = tenant.store.lineage(lineage).map_err(failed)?;
    let all = match known {
        Some(known) if known.site == Some(site) => tenant.store.generations(lineage).map_err(failed)?,
        _ => Vec::new(),
    };
    let held = |known: &Generation| {
        Some(Held {
            generation: known.id,
            number: known.number,
            root: known.sealed?.root,
            size: known.size,
            captured_at: known.captured_at,
        })
    };
    let all = all.iter().rev().filter(|known| before == 0 || known.number < before).filter_map(held);
    Ok(FromGateway::Listed { id, generations: all.take(wire::frame::MAX_LIST).collect() })
}

/// How much differs between two generations of a site. Blocks.
pub(crate) fn measure(
    tenant: &TenantStore,
    site: SiteId,
    id: u64,
    generation: GenerationId,
    base: Option<GenerationId>,
) -> Result<FromGateway, Refusal> {
    let known = |id| match own(tenant, site, id) {
        Ok(known) => Ok(Some(known)),
        Err(Refusal::MissingBase(_)) => Ok(None),
        Err(why) => Err(why),
    };
    let Some(target) = known(generation)? else { return Ok(FromGateway::Measured { id, measured: None }) };
    let base = match base {
        Some(base) => known(base)?.filter(|base| base.lineage == target.lineage),
        None => None,
    };
    let measured = tenant.store.measure(base.as_ref(), &target).map_err(|error| store_refusal(tenant, error))?;
    Ok(FromGateway::Measured { id, measured: Some(measured) })
}
