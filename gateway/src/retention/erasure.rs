//! The end of a site: everything of it is forgotten for good, purged from the packs, looked for, and what was found is signed.
//!
//! ```text
//!   Waiting ──due, no lock──► Working("") ──what there is was written down──► Working({…}) ──► Done(proof)
//!      └──a lock holds──► Refused                          forget, purge, look; or, for the last site, the tenant's key
//! ```
//!
//! Each step can be done again: a gateway that dies goes on from what stands in the catalogue.

use super::due::{Outcome, exported};
use super::{Kept, RetentionError, held, locks_of};
use crate::catalogue::{Deed, Pending, PendingState, Site};
use crate::incoming::Incoming;
use crate::proofs::{About, moment};
use crate::rehydrate::Run;
use crate::state::{State, StateError};
use dedupe::{Footprint, Leftovers, LineageId, Pace, Progress, Purged, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What there was before anything was forgotten.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Found {
    /// When this was written down, milliseconds since 1970.
    begun: u64,
    volumes: Vec<Volume>,
    footprint: Footprint,
    /// Packs of the tenant.
    packs: u64,
    /// Bytes of these.
    bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Volume {
    name: String,
    #[serde(with = "crate::admin::as_text")]
    lineage: LineageId,
    generations: Vec<Erased>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Erased {
    number: u64,
    id: String,
    captured_at: String,
    sealed_at: String,
    root: String,
    size_bytes: u64,
}

/// How the bytes went.
enum Method {
    /// Out of packs that others go on using, and what every pack was found to hold then.
    Purged(Purged, Leftovers),
    /// With the key of the tenant.
    KeyDestroyed,
}

/// Goes on with a decommissioning whose time has come. Blocks, for long.
pub(crate) fn go_on(
    state: &Arc<State>,
    pending: &Pending,
    pace: Pace,
    progress: &Progress,
) -> Result<Outcome, StateError> {
    let Deed::Decommission(id) = pending.deed else { return Ok(Outcome::Refused("it is about no site".into())) };
    let Some(site) = state.catalogue.site(id)? else { return Ok(Outcome::Refused("the site is not known".into())) };
    let set = |now: PendingState| state.catalogue.set_pending(pending.number, now, false, state.now());
    let found = match &pending.state {
        PendingState::Working(found) if !found.is_empty() => found.clone(),
        waiting => {
            if *waiting == PendingState::Waiting {
                let _alone = state.keeping();
                if let Some(error) = held_of(state, &site, &pending.object)? {
                    return Ok(Outcome::Refused(error.to_string()));
                }
                // Somebody may have cancelled it just now.
                if !state.catalogue.set_pending(
                    pending.number,
                    PendingState::Working(String::new()),
                    true,
                    state.now(),
                )? {
                    return Ok(Outcome::Again("it was cancelled".into()));
                }
            }
            let found = serde_json::to_string(&look(state, &site, progress)?).expect("what was found is plain JSON");
            set(PendingState::Working(found.clone()))?;
            found
        }
    };
    let Ok(found) = serde_json::from_str::<Found>(&found) else {
        return Ok(Outcome::Again("what was found of it cannot be read".into()));
    };
    dedupe::crash_point("gateway.erasure.found");
    let method = match erase(state, &site, &found, pace, progress)? {
        Ok(method) => method,
        Err(why) => return Ok(Outcome::Again(why)),
    };
    dedupe::crash_point("gateway.erasure.erased");
    let about = About { tenant: pending.tenant, subject: pending.object.clone() };
    let proof = match state.state_and_sign("erasure", &about, body(state, pending, &site, &found, &method)?) {
        Ok(proof) => proof,
        Err(error) => return Ok(Outcome::Again(error.to_string())),
    };
    let proof = state.catalogue.finish_erasure(pending.number, proof, state.now())?;
    tracing::warn!(site = %site.name, proof = proof.number, "the site is erased, and its proof is signed");
    dedupe::crash_point("gateway.erasure.proved");
    Ok(Outcome::Done)
}

/// The lock that holds something of a site, if any does, as the error that says so.
pub(crate) fn held_of(state: &State, site: &Site, object: &str) -> Result<Option<RetentionError>, StateError> {
    let locks = locks_of(&state.catalogue, site.tenant)?;
    let (tenant, now) = (state.tenant(site.tenant)?, state.now());
    let failed = |source| StateError::Store { tenant: site.tenant, source };
    for lineage in tenant.store.lineages().map_err(failed)?.iter().filter(|lineage| lineage.site == Some(site.id)) {
        for generation in tenant.store.generations(lineage.id).map_err(failed)? {
            let kept = Kept::of(site.tenant, lineage, &generation);
            if let Some(held) = kept.and_then(|kept| held(&kept, &locks, now)) {
                let name = crate::text::printable(&lineage.name);
                let what = format!("generation {} of {object}/{name}", generation.number);
                return Ok(Some(RetentionError::Held { what, lock: held.lock, until: held.words() }));
            }
        }
    }
    Ok(None)
}

/// Writes down what there is.
fn look(state: &State, site: &Site, progress: &Progress) -> Result<Found, StateError> {
    let tenant = state.tenant(site.tenant)?;
    let failed = |source: StoreError| {
        tenant.note_failure(&source);
        StateError::Store { tenant: site.tenant, source }
    };
    let mut volumes = Vec::new();
    for lineage in tenant.store.lineages().map_err(failed)?.iter().filter(|lineage| lineage.site == Some(site.id)) {
        let generations = tenant.store.generations(lineage.id).map_err(failed)?;
        let sealed = generations.iter().filter_map(|generation| {
            let sealed = generation.sealed?;
            Some(Erased {
                number: generation.number,
                id: generation.id.to_string(),
                captured_at: moment(generation.captured_at),
                sealed_at: moment(sealed.at),
                root: sealed.root.to_string(),
                size_bytes: generation.size.0,
            })
        });
        volumes.push(Volume { name: lineage.name.clone(), lineage: lineage.id, generations: sealed.collect() });
    }
    let lineages: Vec<LineageId> = volumes.iter().map(|volume| volume.lineage).collect();
    let footprint = tenant.store.footprint(&lineages, progress).map_err(failed)?;
    let stats = tenant.store.stats().map_err(failed)?;
    Ok(Found {
        begun: state.now().0,
        volumes,
        footprint,
        packs: stats.packs,
        bytes: stats.data_bytes + stats.meta_bytes,
    })
}

/// Erases it; `Err` says why that is to be tried again.
fn erase(
    state: &Arc<State>,
    site: &Site,
    found: &Found,
    pace: Pace,
    progress: &Progress,
) -> Result<Result<Method, String>, StateError> {
    let tenant = state.tenant(site.tenant)?;
    let failed = |source: StoreError| StateError::Store { tenant: site.tenant, source };
    let lineages: Vec<LineageId> = found.volumes.iter().map(|volume| volume.lineage).collect();
    if let Some(name) = exported(state, |export| lineages.contains(&export.lineage))? {
        return Ok(Err(format!("export `{name}` shows a generation of the site: stop that first")));
    }
    let orders = state.catalogue.standing()?.into_iter();
    for order in orders.filter(|order| lineages.contains(&order.image.lineage)) {
        state.catalogue.end_standing(order.tenant, order.image.lineage, &order.target)?;
    }
    let incoming = Incoming::new(state.folder().join("incoming"));
    for lineage in &lineages {
        for draft in tenant.store.generations(*lineage).map_err(failed)?.iter().filter(|draft| !draft.is_sealed()) {
            tenant.stop_receiving(draft.id);
            if let Err(error) = incoming.discard(draft.id) {
                return Ok(Err(format!("parts of parcels of the site cannot be removed: {error}")));
            }
        }
    }
    if let Err(error) = crate::seeds::forget(state, &lineages) {
        return Ok(Err(format!("what waits for seeds of the site cannot be removed: {error}")));
    }
    tenant.store.forget_lineages(&lineages).map_err(failed)?;
    dedupe::crash_point("gateway.erasure.forgotten");
    if is_last(state, site)? && tenant.store.lineages().map_err(failed)?.is_empty() {
        drop(tenant);
        return Ok(match state.destroy_tenant(site.tenant)? {
            true => Ok(Method::KeyDestroyed),
            false => Err("the tenant's store is in use".into()),
        });
    }
    let purged = tenant.store.purge(pace, progress).map_err(failed)?;
    dedupe::crash_point("gateway.erasure.purged");
    let left = tenant.store.leftovers(progress).map_err(failed)?;
    Ok(match left.is_nothing() {
        true => Ok(Method::Purged(purged, left)),
        false => Err(format!(
            "{} chunks and {} records that nothing refers to are left and {} packs cannot be read: drafts of other sites hold them, or a scrub has to mend them",
            left.chunks, left.records, left.unreadable
        )),
    })
}

/// Whether every other site of the tenant is erased.
fn is_last(state: &State, site: &Site) -> Result<bool, StateError> {
    let pendings = state.catalogue.pendings()?;
    let is_erased = |other: &Site| {
        let latest = pendings.iter().rev().find(|pending| pending.deed == Deed::Decommission(other.id));
        latest.is_some_and(|latest| matches!(latest.state, PendingState::Done(_))) && other.revoked.is_some()
    };
    let sites = state.catalogue.sites()?;
    Ok(sites.iter().filter(|other| other.tenant == site.tenant && other.id != site.id).all(is_erased))
}

/// What is stated.
fn body(
    state: &State,
    pending: &Pending,
    site: &Site,
    found: &Found,
    method: &Method,
) -> Result<Map<String, Value>, StateError> {
    let tenant = state.catalogue.tenants()?.into_iter().find(|tenant| tenant.id == site.tenant);
    let volumes = serde_json::to_value(&found.volumes).expect("volumes are plain JSON");
    let generations: usize = found.volumes.iter().map(|volume| volume.generations.len()).sum();
    let shared = &found.footprint;
    let (how, key_destroyed, erased) = match method {
        Method::KeyDestroyed => (
            "This was the last site of its tenant. The key under which all packs of the tenant are sealed (AES-256-GCM, one key per pack derived from it) was overwritten, synced and removed; then all packs and the index were removed. Copies of the key in backups of this gateway, and what a disk keeps of overwritten blocks, have to be destroyed by whoever holds them.",
            true,
            json!({ "packs_removed": found.packs, "bytes_removed": found.bytes }),
        ),
        Method::Purged(purged, left) => (
            "All generations of the site were taken out of the index. Every pack of the tenant that held a chunk or record that no remaining generation refers to was rewritten without it and removed. Then the footer of every pack was read: none names a chunk that no remaining generation refers to, nor a record of a lineage that there is no more.",
            false,
            json!({
                "packs_removed": purged.packs, "bytes_removed": purged.bytes, "packs_examined": left.packs,
                "entries_in_use": left.live, "chunks_left_over": left.chunks, "records_left_over": left.records,
                "packs_unreadable": left.unreadable,
            }),
        ),
    };
    let lineages: Vec<LineageId> = found.volumes.iter().map(|volume| volume.lineage).collect();
    let runs = state.catalogue.runs()?.into_iter().filter(|run| lineages.contains(&run.work.image.lineage));
    let copy = |run: Run| {
        let point = run.point()?;
        Some(
            json!({ "target": run.to.to_string(), "point": point.id, "volume": run.work.image.volume, "root": point.root.to_string() }),
        )
    };
    let copies: Vec<Value> = runs.filter_map(copy).collect();
    let body = json!({
        "site": { "tenant": tenant.map(|tenant| tenant.name), "name": site.name, "id": site.id.to_string() },
        "asked": { "by": pending.by, "at": moment(pending.asked), "reason": pending.reason },
        "approved": { "by": pending.approved_by, "at": moment(pending.approved), "reason": pending.approved_reason },
        "due_at": moment(pending.due),
        "begun_at": moment(dedupe::UnixMillis(found.begun)),
        "generations": generations,
        "volumes": volumes,
        "before": {
            "packs_of_tenant": found.packs, "bytes_of_tenant": found.bytes,
            "chunks_of_site": shared.chunks, "bytes_of_site": shared.bytes,
        },
        "shared": if key_destroyed { json!({ "chunks": 0, "bytes": 0 }) } else { json!({ "chunks": shared.shared_chunks, "bytes": shared.shared_bytes }) },
        "erased": erased,
        "tenant_key_destroyed": key_destroyed,
        "method": how,
        "kept": ["the audit log", "the policies of the line and who changed them", "the evidence of what the line was used for", "this statement"],
        "copies_on_targets": copies,
        "not_covered": [
            "the edge and its disk at the branch",
            "what was rehydrated to targets; `copies_on_targets` lists each point that this gateway made and still knows of",
            "copies of packs and of keys that were made by other means than this gateway",
        ],
    });
    match body {
        Value::Object(body) => Ok(body),
        _ => Ok(Map::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Tenant;
    use crate::config::Config;
    use crate::retention::due::execute;
    use dedupe::{ByteCount, GenerationId, Kind, Lineage, NewGeneration, SLAB, SlabNumber, UnixMillis};
    use std::path::Path;
    use wire::statement::Statement;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn opened(folder: &Path) -> Arc<State> {
        State::open(&Config::new(folder)).unwrap()
    }

    fn site(state: &State, tenant: &Tenant, name: &str) -> Site {
        state.catalogue.add_site(tenant, name, NOW).unwrap().0
    }

    /// A sealed generation of a volume of a site, of bytes that hold `seed`.
    fn grow(state: &State, site: &Site, seed: u8) {
        let store = state.tenant(site.tenant).unwrap();
        let line = Lineage {
            id: LineageId::random(),
            kind: Kind::Volume,
            name: "db".into(),
            site: Some(site.id),
            fork_of: None,
        };
        store.store.put_lineage(&line).unwrap();
        let (id, size) = (GenerationId::random(), ByteCount(SLAB as u64 / 8));
        let new = NewGeneration { id, lineage: line.id, parent: None, size, captured_at: NOW, source: Vec::new() };
        let draft = store.store.draft(new).unwrap();
        let mut scan = draft.scan(SlabNumber(0)).unwrap();
        let bytes: Vec<u8> = (0..size.0)
            .map(|at| (blake3::hash(&(at / 64).to_le_bytes()).as_bytes()[at as usize % 32]) ^ seed)
            .collect();
        scan.data(&bytes).unwrap();
        scan.finish().unwrap();
        draft.seal(NOW).unwrap();
    }

    fn agreed(state: &State, site: &Site) -> Pending {
        state.catalogue.revoke(site.id, NOW).unwrap();
        let text = String::from;
        let pending = Pending {
            number: 0,
            tenant: site.tenant,
            deed: Deed::Decommission(site.id),
            object: format!("bank/{}", site.name),
            reason: text("closed"),
            by: text("li"),
            asked: NOW,
            approval: 1,
            approved_by: text("owner"),
            approved: NOW,
            approved_reason: text("agreed"),
            due: NOW,
            state: PendingState::Waiting,
            since: NOW,
        };
        state.catalogue.add_pending(pending).unwrap()
    }

    /// What stands on the disk when a gateway is killed after a step, and then it starts again.
    #[test]
    fn a_gateway_that_died_after_any_step_goes_on_and_proves_all_that_there_was() {
        let progress = Progress::default();
        for (last, died_after) in [false, true].into_iter().flat_map(|last| (0..5).map(move |step| (last, step))) {
            let dir = tempfile::tempdir().unwrap();
            let folder = dir.path().join("state");
            State::create(&folder, NOW).unwrap();
            let state = opened(&folder);
            let tenant = state.catalogue.tenant("bank", NOW).unwrap();
            let goes = site(&state, &tenant, "goes");
            grow(&state, &goes, 1);
            if !last {
                grow(&state, &site(&state, &tenant, "stays"), 2);
            }
            let pending = agreed(&state, &goes);
            let set = |now| assert!(state.catalogue.set_pending(pending.number, now, false, NOW).unwrap());
            if died_after >= 1 {
                set(PendingState::Working(String::new()));
            }
            let found = look(&state, &goes, &progress).unwrap();
            if died_after >= 2 {
                set(PendingState::Working(serde_json::to_string(&found).unwrap()));
            }
            if died_after >= 3 {
                let store = state.tenant(tenant.id).unwrap();
                store.store.forget_lineages(&[found.volumes[0].lineage]).unwrap();
            }
            if died_after >= 4 {
                assert!(erase(&state, &goes, &found, Pace(1.0), &progress).unwrap().is_ok());
            }
            drop(state);
            let state = opened(&folder);
            let executed = execute(&state, Pace(1.0), &progress).unwrap();
            assert_eq!((executed.done, executed.again), (1, 0), "last: {last}, died after step {died_after}");
            let proof = state.catalogue.proof(1).unwrap().unwrap();
            let read = Statement::read(&proof.statement).unwrap();
            read.verify(state.statement_key.public()).unwrap();
            assert_eq!(read.body["volumes"][0]["generations"][0]["root"], found.volumes[0].generations[0].root);
            assert_eq!(read.body["tenant_key_destroyed"], last);
            assert_eq!(state.catalogue.pending(1).unwrap().unwrap().state, PendingState::Done(Some(1)));
            assert_eq!(execute(&state, Pace(1.0), &progress).unwrap().done, 0, "once");
            let store = state.tenant(tenant.id).unwrap();
            assert_eq!(store.store.lineages().unwrap().len(), usize::from(!last));
            assert!(store.store.leftovers(&progress).unwrap().is_nothing());
        }
    }
}
