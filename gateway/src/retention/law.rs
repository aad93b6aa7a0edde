//! Whether a generation may be deleted. Pure: a generation, the locks, a time.

use crate::catalogue::{Lock, LockOn, Term};
use crate::text::moment;
use dedupe::{Generation, GenerationId, Lineage, LineageId, SiteId, TenantId, UnixMillis};

/// Milliseconds of a day.
const DAY: u64 = 86_400_000;

/// A sealed generation, as locks see it.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    /// Whose it is.
    pub tenant: TenantId,
    /// The site that it comes from.
    pub site: Option<SiteId>,
    /// The volume's name.
    pub name: &'a str,
    /// Its lineage.
    pub lineage: LineageId,
    /// Its id.
    pub id: GenerationId,
    /// When it was proved here, by the gateway's clock: what an edge says of its own is no term.
    pub sealed: UnixMillis,
}

impl<'a> Kept<'a> {
    /// Of a generation; `None` for a draft, which nothing holds.
    pub fn of(tenant: TenantId, lineage: &'a Lineage, generation: &Generation) -> Option<Kept<'a>> {
        let sealed = generation.sealed?.at;
        let (site, name) = (lineage.site, lineage.name.as_str());
        Some(Kept { tenant, site, name, lineage: lineage.id, id: generation.id, sealed })
    }
}

/// A lock that holds a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which lock.
    pub lock: u64,
    /// Until when; `None`: until it is taken off.
    pub until: Option<UnixMillis>,
}

impl Held {
    /// For people.
    pub fn words(&self) -> String {
        self.until.map_or_else(|| "without end".into(), |until| format!("until {}", moment(until)))
    }
}

/// The lock that holds a generation for the longest, if any does.
pub fn held(kept: &Kept<'_>, locks: &[Lock], now: UnixMillis) -> Option<Held> {
    let holding =
        locks.iter().filter(|lock| lock.ended.is_none() && lock.tenant == kept.tenant && covers(&lock.on, kept));
    let held = holding.map(|lock| Held { lock: lock.number, until: end(lock.term, kept.sealed) });
    let held = held.filter(|held| held.until.is_none_or(|until| now < until));
    held.max_by_key(|held| held.until.map_or(u64::MAX, |until| until.0))
}

fn covers(on: &LockOn, kept: &Kept<'_>) -> bool {
    match on {
        LockOn::Tenant => true,
        LockOn::Site(site) => kept.site == Some(*site),
        LockOn::Volume { site, name, lineages } => {
            lineages.contains(&kept.lineage) || (kept.site == Some(*site) && name == kept.name)
        }
        LockOn::Generation(id) => *id == kept.id,
    }
}

/// When a term ends for what was sealed then; `None`: never by itself.
fn end(term: Term, sealed: UnixMillis) -> Option<UnixMillis> {
    match term {
        Term::Days(days) => Some(UnixMillis(sealed.0.saturating_add(u64::from(days) * DAY))),
        Term::Until(until) => Some(UnixMillis(until)),
        Term::Forever => None,
    }
}

/// Whether `to` holds for longer than `from`, whatever it holds; `None`: that depends on when a generation was sealed.
pub fn is_longer(from: Term, to: Term) -> Option<bool> {
    match (from, to) {
        (Term::Forever, _) => Some(false),
        (_, Term::Forever) => Some(true),
        (Term::Days(from), Term::Days(to)) => Some(to > from),
        (Term::Until(from), Term::Until(to)) => Some(to > from),
        _ => None,
    }
}

/// Whether a term is one that somebody may set now.
pub fn is_possible(term: Term, now: UnixMillis) -> bool {
    match term {
        Term::Days(days) => (1..=super::MAX_DAYS).contains(&days),
        Term::Until(until) => until > now.0,
        Term::Forever => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEALED: UnixMillis = UnixMillis(1_800_000_000_000);
    const TENANT: TenantId = TenantId([1; 16]);
    const SITE: SiteId = SiteId([2; 16]);

    fn kept() -> Kept<'static> {
        let (lineage, id) = (LineageId([3; 16]), GenerationId([4; 16]));
        Kept { tenant: TENANT, site: Some(SITE), name: "db", lineage, id, sealed: SEALED }
    }

    fn lock(number: u64, on: LockOn, term: Term) -> Lock {
        let (object, reason, by) = (String::new(), String::new(), String::new());
        Lock { number, tenant: TENANT, on, object, term, reason, by, set: SEALED, ended: None }
    }

    fn after(days: u64) -> UnixMillis {
        UnixMillis(SEALED.0 + days * DAY)
    }

    #[test]
    fn a_generation_is_held_from_its_seal_on_for_so_many_days_and_not_one_longer() {
        let locks = [lock(1, LockOn::Site(SITE), Term::Days(30))];
        assert_eq!(held(&kept(), &locks, SEALED), Some(Held { lock: 1, until: Some(after(30)) }));
        assert!(held(&kept(), &locks, UnixMillis(after(30).0 - 1)).is_some());
        assert_eq!(held(&kept(), &locks, after(30)), None);
    }

    #[test]
    fn a_lock_holds_its_scope_and_nothing_else() {
        let volume = |name: &str, lineages| LockOn::Volume { site: SITE, name: name.into(), lineages };
        let holds = |on: LockOn| held(&kept(), &[lock(1, on, Term::Forever)], after(9_999)).is_some();
        assert!(holds(LockOn::Tenant) && holds(LockOn::Site(SITE)) && holds(LockOn::Generation(kept().id)));
        assert!(holds(volume("db", vec![])), "a volume that was seeded anew keeps its name");
        assert!(holds(volume("was-db", vec![kept().lineage])), "an edge renamed it");
        assert!(!holds(LockOn::Site(SiteId([9; 16]))) && !holds(LockOn::Generation(GenerationId([9; 16]))));
        assert!(!holds(volume("other", vec![])));
        let elsewhere = Lock { tenant: TenantId([9; 16]), ..lock(1, LockOn::Tenant, Term::Forever) };
        assert_eq!(held(&kept(), &[elsewhere], SEALED), None);
        let ended = Lock { ended: Some(SEALED), ..lock(1, LockOn::Tenant, Term::Forever) };
        assert_eq!(held(&kept(), &[ended], SEALED), None);
    }

    #[test]
    fn of_several_locks_the_longest_holds() {
        let days = lock(1, LockOn::Tenant, Term::Days(30));
        let until = lock(2, LockOn::Generation(kept().id), Term::Until(after(90).0));
        let forever = lock(3, LockOn::Site(SITE), Term::Forever);
        let of = |locks: &[Lock], now| held(&kept(), locks, now).map(|held| held.lock);
        assert_eq!(of(&[days.clone(), until.clone()], after(1)), Some(2));
        assert_eq!(of(&[until.clone(), forever, days.clone()], after(1)), Some(3));
        assert_eq!(of(&[days, until], after(60)), Some(2), "one that is over hides none that is not");
    }

    #[test]
    fn what_is_longer_is_only_said_where_it_is_so_for_every_generation() {
        let (days, until) = (Term::Days(30), Term::Until(after(30).0));
        assert_eq!(is_longer(days, Term::Days(31)), Some(true));
        assert_eq!((is_longer(days, days), is_longer(until, Term::Until(after(29).0))), (Some(false), Some(false)));
        assert_eq!((is_longer(days, until), is_longer(until, days)), (None, None));
        assert_eq!((is_longer(until, Term::Forever), is_longer(Term::Forever, until)), (Some(true), Some(false)));
        assert!(!is_possible(Term::Days(0), SEALED) && !is_possible(Term::Until(SEALED.0), SEALED));
    }
}
