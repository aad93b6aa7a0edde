//! What was agreed on and whose time has come. It is judged once more at that moment: a lock that was set meanwhile wins.

use super::{Kept, RetentionError, erasure, held, locks_of};
use crate::catalogue::{Deed, NewAudit, Pending, PendingState};
use crate::export::ExportRow;
use crate::state::{State, StateError, TenantStore};
use dedupe::{Generation, GenerationId, Pace, Progress, StoreError};
use std::sync::Arc;

/// What came of all that was due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Executed {
    /// Done.
    pub(crate) done: usize,
    /// Not allowed any more.
    pub(crate) refused: usize,
    /// To be tried again.
    pub(crate) again: usize,
}

/// What came of one.
pub(crate) enum Outcome {
    /// It is done and written down.
    Done,
    /// It must not be done any more.
    Refused(String),
    /// Not now: next time.
    Again(String),
}

/// Does what is due. Blocks, and long for a site.
pub(crate) fn execute(state: &Arc<State>, pace: Pace, progress: &Progress) -> Result<Executed, StateError> {
    let mut executed = Executed::default();
    for pending in state.catalogue.pendings()?.into_iter().filter(Pending::is_open) {
        if progress.is_cancelled() {
            break;
        }
        if pending.state == PendingState::Waiting && state.now() < pending.due {
            continue;
        }
        let outcome = match &pending.deed {
            Deed::Unlock { lock, to } => {
                let _alone = state.keeping();
                state.catalogue.unlock(pending.number, *lock, *to, state.now())?;
                Ok(Outcome::Done)
            }
            Deed::Forget(id) => forget(state, &pending, *id),
            Deed::Decommission(_) => erasure::go_on(state, &pending, pace, progress),
        };
        match outcome {
            Ok(Outcome::Done) => {
                executed.done += 1;
                audit(state, &pending, "executed", "done")?;
            }
            Ok(Outcome::Refused(why)) => {
                executed.refused += 1;
                state.catalogue.set_pending(pending.number, PendingState::Refused(why.clone()), false, state.now())?;
                audit(state, &pending, &why, "refused")?;
            }
            Ok(Outcome::Again(why)) => {
                executed.again += 1;
                tracing::warn!(number = pending.number, why, "a deed whose time has come is tried again");
            }
            Err(error) => {
                executed.again += 1;
                tracing::warn!(number = pending.number, %error, "a deed whose time has come failed and is tried again");
            }
        }
    }
    Ok(executed)
}

fn forget(state: &Arc<State>, pending: &Pending, id: GenerationId) -> Result<Outcome, StateError> {
    let tenant = state.tenant(pending.tenant)?;
    let failed = |source| StateError::Store { tenant: pending.tenant, source };
    let done = || state.catalogue.set_pending(pending.number, PendingState::Done(None), false, state.now());
    let _alone = state.keeping();
    let Some(generation) = tenant.store.generation(id).map_err(failed)? else {
        done()?; // retention was faster, or this process died in between
        return Ok(Outcome::Done);
    };
    if let Err(error) = may_go(state, &tenant, &generation, &pending.object)? {
        return Ok(Outcome::Refused(error.to_string()));
    }
    if let Some(name) = exported(state, |export| export.generation == id)? {
        return Ok(Outcome::Again(format!("export `{name}` shows it: stop that first")));
    }
    match tenant.store.forget(id) {
        Ok(()) => {
            dedupe::crash_point("gateway.retention.forgotten");
            done()?;
            Ok(Outcome::Done)
        }
        Err(StoreError::State { why, .. }) => Ok(Outcome::Again(why)),
        Err(error) => {
            tenant.note_failure(&error);
            Err(failed(error))
        }
    }
}

/// The name of an export of that kind, if there is one: what somebody reads is not taken away beneath them.
pub(crate) fn exported(state: &State, of: impl Fn(&ExportRow) -> bool) -> Result<Option<String>, StateError> {
    Ok(state.catalogue.exports()?.into_iter().find(of).map(|export| export.name))
}

/// Whether a sealed generation may be deleted now, as the law says. Whoever deletes it then holds [`State::keeping`] from before this until after that.
pub(crate) fn may_go(
    state: &State,
    tenant: &TenantStore,
    generation: &Generation,
    object: &str,
) -> Result<Result<(), RetentionError>, StateError> {
    let failed = |source| StateError::Store { tenant: tenant.id, source };
    let lineage = tenant.store.lineage(generation.lineage).map_err(failed)?;
    let locks = locks_of(&state.catalogue, tenant.id)?;
    let kept = lineage.as_ref().and_then(|lineage| Kept::of(tenant.id, lineage, generation));
    if let Some(held) = kept.and_then(|kept| held(&kept, &locks, state.now())) {
        let what = format!("generation {} of {object}", generation.number);
        return Ok(Err(RetentionError::Held { what, lock: held.lock, until: held.words() }));
    }
    let newest = tenant.store.latest(generation.lineage).map_err(failed)?;
    match newest.is_some_and(|newest| newest.id == generation.id) {
        true => Ok(Err(RetentionError::Newest(format!("generation {} of {object}", generation.number)))),
        false => Ok(Ok(())),
    }
}

/// The word of a deed in the audit log.
pub(crate) fn word(deed: &Deed) -> &'static str {
    match deed {
        Deed::Unlock { .. } => "lock.release",
        Deed::Forget(_) => "generation.forget",
        Deed::Decommission(_) => "site.decommission",
    }
}

/// Writes down what the gateway did by itself of what people agreed on.
fn audit(state: &State, pending: &Pending, said: &str, outcome: &'static str) -> Result<(), StateError> {
    let tenant = state.catalogue.tenants()?.into_iter().find(|tenant| tenant.id == pending.tenant);
    state.catalogue.audit(NewAudit {
        time: state.now(),
        actor: "gateway".into(),
        via: "gateway",
        tenant: tenant.map(|tenant| tenant.name).unwrap_or_default(),
        what: word(&pending.deed),
        object: pending.object.clone(),
        detail: format!(
            "number {}, asked for by {}, agreed to by {}: {said}",
            pending.number, pending.by, pending.approved_by
        ),
        outcome,
    })?;
    Ok(())
}
