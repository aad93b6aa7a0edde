//! How standing orders stand: what is here, what is there, since when the two differ. The worker, the answers and the figures ask here.

use super::Where;
use super::places::Place;
use super::runs::{Run, Standing};
use crate::state::{State, StateError};
use dedupe::{Generation, GenerationId, LineageId, TenantId, UnixMillis};
use std::collections::HashMap;

/// How an order stands, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stands {
    /// The target was brought to the latest generation and to none since.
    Current,
    /// Another generation is there, or none; nothing went wrong.
    Behind,
    /// The last run failed.
    Failing,
    /// Somebody let it rest.
    Paused,
}

impl Stands {
    /// Its word for programs.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Stands::Current => "current",
            Stands::Behind => "behind",
            Stands::Failing => "failing",
            Stands::Paused => "paused",
        }
    }
}

/// How one order stands.
#[derive(Clone, Debug)]
pub(crate) struct Stand {
    pub(crate) stands: Stands,
    /// The newest sealed generation.
    pub(crate) latest: Option<Generation>,
    /// Number of the generation that the target was brought to last.
    pub(crate) holds: Option<u64>,
    /// When the oldest generation was sealed here that the target lacks, of those that are kept, and not before the order was given; `None`: it lacks none.
    pub(crate) behind_since: Option<UnixMillis>,
}

/// What each target was brought to last, by tenant, volume and name.
pub(crate) struct Held(HashMap<(TenantId, LineageId, String), (UnixMillis, GenerationId, u64)>);

impl Held {
    /// From all runs that are known.
    pub(crate) fn of(runs: &[Run]) -> Held {
        let mut held = HashMap::new();
        for run in runs.iter().filter(|run| run.point().is_some()) {
            let (Where::Target(name), Some(ended)) = (&run.to, run.ended) else { continue };
            let last = (ended, run.work.generation, run.work.number);
            let known = held.entry((run.tenant, run.work.image.lineage, name.clone())).or_insert(last);
            if known.0 <= ended {
                *known = last;
            }
        }
        Held(held)
    }

    /// How an order stands.
    pub(crate) fn stand(&self, state: &State, order: &Standing) -> Result<Stand, StateError> {
        let store = state.tenant(order.tenant)?;
        let failed = |source| StateError::Store { tenant: order.tenant, source };
        let latest = store.store.latest(order.image.lineage).map_err(failed)?;
        let held = self.0.get(&(order.tenant, order.image.lineage, order.target.clone()));
        let is_behind = latest.as_ref().is_some_and(|latest| held.is_none_or(|(_, id, _)| *id != latest.id));
        let holds = held.map(|(.., number)| *number);
        let behind_since = match is_behind {
            false => None,
            true => {
                let kept = store.store.generations(order.image.lineage).map_err(failed)?;
                let lacks = kept.iter().filter(|one| holds.is_none_or(|holds| one.number > holds));
                let sealed = lacks.filter_map(|one| one.sealed.as_ref().map(|sealed| sealed.at)).min();
                Some(sealed.unwrap_or(order.since).max(order.since))
            }
        };
        let stands = match (&order.trouble, order.paused, is_behind) {
            (_, true, _) => Stands::Paused,
            (Some(_), ..) => Stands::Failing,
            (None, false, false) => Stands::Current,
            (None, false, true) => Stands::Behind,
        };
        Ok(Stand { stands, latest, holds, behind_since })
    }
}

/// Whether a run rests until somebody does something: it was stopped, or failed, and no order tries it again by itself. An order that somebody let rest is
/// somebody's word, too.
pub(crate) fn rests(run: &Run, orders: &[Standing]) -> bool {
    let same = |order: &Standing| {
        order.tenant == run.tenant
            && order.image.lineage == run.work.image.lineage
            && run.to == Where::Target(order.target.clone())
    };
    run.is_open() && run.held.is_some() && !orders.iter().any(same)
}

/// How all orders and runs of one target stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) orders: usize,
    pub(crate) behind: usize,
    pub(crate) failing: usize,
    pub(crate) paused: usize,
    pub(crate) credentials_failing: bool,
    /// The earliest moment since which one lacks a generation; paused ones aside.
    pub(crate) behind_since: Option<UnixMillis>,
    pub(crate) runs_open: usize,
    pub(crate) runs_resting: usize,
}

impl State {
    /// How all orders and runs of one target stand. `orders` and `runs` are all that there are.
    pub(crate) fn sum(&self, place: &Place, orders: &[Standing], runs: &[Run], held: &Held) -> Result<Sum, StateError> {
        let mut sum = Sum::default();
        for order in orders.iter().filter(|order| order.tenant == place.tenant && order.target == place.name) {
            let stand = held.stand(self, order)?;
            sum.orders += 1;
            match stand.stands {
                Stands::Current => {}
                Stands::Behind => sum.behind += 1,
                Stands::Failing => sum.failing += 1,
                Stands::Paused => sum.paused += 1,
            }
            if stand.stands != Stands::Paused {
                sum.credentials_failing |= order.trouble.as_ref().is_some_and(|trouble| trouble.is_credentials);
                sum.behind_since = [sum.behind_since, stand.behind_since].into_iter().flatten().min();
            }
        }
        let to = Where::Target(place.name.clone());
        let open = runs.iter().filter(|run| run.is_open() && run.tenant == place.tenant && run.to == to);
        for run in open {
            sum.runs_open += 1;
            sum.runs_resting += usize::from(rests(run, orders));
        }
        Ok(sum)
    }
}
