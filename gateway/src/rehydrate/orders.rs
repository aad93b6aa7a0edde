//! The worker behind standing orders: begins what is due, and goes on with what a crash or a restart interrupted.

use super::runs::{Standing, Trouble};
use super::standing::Held;
use super::{RehydrateError, Where};
use crate::access::{Caller, Role, Scope, Via};
use crate::admin::{Admin, AdminError, Request};
use crate::jobs::Jobs;
use crate::state::State;
use crate::workers::Said;
use dedupe::{LineageId, TenantId, UnixMillis};
use std::collections::HashMap;
use std::time::Duration;

/// How often standing orders are looked at, beside each sealed generation.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// A pause at most: a service that came back is used again within the hour.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// What is due now.
#[derive(Debug, PartialEq)]
struct Due {
    tenant: TenantId,
    volume: String,
    generation: String,
    to: Where,
    by: String,
}

/// Looks once, and begins what is due. Must be called within a runtime.
pub(crate) fn look(state: &State, admin: &Admin, jobs: &Jobs) -> Said {
    match due(state) {
        Ok((due, behind)) => {
            let mut begun = 0;
            for one in due {
                let tenant = one.tenant;
                let caller =
                    Caller { name: one.by, role: Role::Operator, scope: Scope::Tenant(tenant), via: Via::Order };
                let what = ("volume.rehydrate", one.volume.clone(), Some(tenant));
                let request = Request::Rehydrate {
                    volume: one.volume,
                    generation: one.generation,
                    to: one.to,
                    proof: None,
                    plan: false,
                };
                // Full: at the next look.
                begun += usize::from(jobs.begin(admin, &caller, what, request).is_ok());
            }
            Said::new(
                format!("{behind} targets are behind; began {begun} runs"),
                format!("{behind} 个目标落后；已开始 {begun} 次还原"),
            )
        }
        Err(error) => {
            tracing::warn!(%error, "standing orders could not be looked at");
            Said::new(format!("could not look: {error}"), format!("无法检查：{error}"))
        }
    }
}

fn due(state: &State) -> Result<(Vec<Due>, usize), AdminError> {
    let (runs, now) = (state.catalogue.runs()?, state.now());
    let mut due = Vec::new();
    let orders = state.catalogue.standing()?;
    let mut behind = 0;
    let held = Held::of(&runs);
    for order in &orders {
        let stand = held.stand(state, order)?;
        let (Some(latest), Some(_)) = (stand.latest, stand.behind_since) else { continue };
        behind += 1;
        let to = Where::Target(order.target.clone());
        let rests = order.paused || order.trouble.as_ref().is_some_and(|trouble| trouble.next > now);
        if !rests && !state.is_running(order.tenant, &to, order.image.lineage) {
            due.push(of(order.tenant, &order.image, &latest.id.to_string(), to, &order.by));
        }
    }
    let ordered: HashMap<(TenantId, LineageId, Where), ()> = orders
        .iter()
        .map(|order| ((order.tenant, order.image.lineage, Where::Target(order.target.clone())), ()))
        .collect();
    for run in runs.iter().filter(|run| run.is_open() && run.resumes && run.held.is_none()) {
        let lineage = run.work.image.lineage;
        let is_ordered = ordered.contains_key(&(run.tenant, lineage, run.to.clone()));
        if !is_ordered && !state.is_running(run.tenant, &run.to, lineage) {
            due.push(of(run.tenant, &run.work.image, &run.work.generation.to_string(), run.to.clone(), &run.by));
        }
    }
    Ok((due, behind))
}

fn of(tenant: TenantId, image: &targets::Image, generation: &str, to: Where, by: &str) -> Due {
    let volume = format!("{}/{}/{}", image.tenant, image.site, image.volume);
    Due { tenant, volume, generation: generation.to_owned(), to, by: by.to_owned() }
}

/// What became of a run that a standing order wanted: trouble is noted, with a pause, or is over.
pub(crate) fn note_outcome(
    state: &State,
    tenant: TenantId,
    lineage: LineageId,
    target: &str,
    outcome: Result<(), &RehydrateError>,
) -> Result<(), AdminError> {
    let orders = state.catalogue.standing()?;
    let same = |order: &Standing| order.tenant == tenant && order.image.lineage == lineage && order.target == target;
    let Some(order) = orders.into_iter().find(same) else { return Ok(()) };
    let trouble = outcome.err().map(|error| after(order.trouble.as_ref(), error, state.now()));
    Ok(state.catalogue.put_standing(&Standing { trouble, ..order })?)
}

fn after(before: Option<&Trouble>, error: &RehydrateError, now: UnixMillis) -> Trouble {
    let failures = before.map_or(0, |before| before.failures) + 1;
    let pause = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(10)).min(LONGEST_PAUSE);
    Trouble {
        why: error.to_string(),
        is_credentials: error.is_credentials(),
        since: before.map_or(now, |before| before.since),
        next: UnixMillis(now.0 + pause.as_millis() as u64),
        failures,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_doubles_the_pause_up_to_an_hour() {
        let error = RehydrateError::Busy("cloud".into());
        let start = UnixMillis(1_800_000_000_000);
        let mut trouble = after(None, &error, start);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            pauses.push((trouble.next.0 - start.0) / 60_000);
            trouble = after(Some(&trouble), &error, start);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!((trouble.failures, trouble.since, trouble.is_credentials), (10, start, false));
        let refused = targets::TargetError::Refused {
            service: "Keystone".into(),
            asked: "POST /v3/auth/tokens".into(),
            status: 401,
            said: "no".into(),
        };
        assert!(after(None, &refused.into(), start).is_credentials);
    }
}
