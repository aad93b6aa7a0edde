//! What the owner of a line has to agree to: more than was agreed on before, or data in a time that was to be kept free. Pure.

use shaping::Rate;
use shaping::policy::{Bend, Blackout, Policy};

/// Why a second person has to agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// More may be sent at once than before.
    Cap {
        /// Towards the gateway?
        up: bool,
        /// Before.
        from: Rate,
        /// After.
        to: Rate,
    },
    /// A blackout is gone, or another one stands in its place.
    Blackout(String),
    /// Data may be sent in blackouts.
    Pierce,
    /// People at the site may boost to more than before.
    LocalBoost,
    /// Replication makes way for the branch's own traffic later than before, or not at all.
    Courtesy,
    /// A quota is larger than before, or gone.
    Quota(&'static str),
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Cause::Cap { up, from, to } => {
                let way = if *up { "towards the gateway" } else { "towards the site" };
                write!(f, "the cap {way} rises from {from} to {to}")
            }
            Cause::Blackout(name) => {
                write!(f, "the blackout \"{}\" is changed or taken out", crate::text::printable(name))
            }
            Cause::Pierce => f.write_str("data may be sent in blackouts"),
            Cause::LocalBoost => f.write_str("people at the site may boost to more than before"),
            Cause::Courtesy => f.write_str("replication makes way for the branch's own traffic later than before"),
            Cause::Quota(period) => write!(f, "the {period} quota is larger than before, or gone"),
        }
    }
}

/// Why a policy that takes the place of another needs the owner's word. A first policy is what is agreed on to begin with: nothing.
pub fn of_policy(before: &Policy, after: &Policy) -> Vec<Cause> {
    let mut causes = Vec::new();
    let (was, will) = (&before.line, &after.line);
    for (up, from, to) in
        [(true, was.cap.of(was.up), will.cap.of(will.up)), (false, was.cap.of(was.down), will.cap.of(will.down))]
    {
        if to > from {
            causes.push(Cause::Cap { up, from, to });
        }
    }
    let is_kept = |blackout: &Blackout| {
        let same =
            |new: &Blackout| new.when == blackout.when && new.hours == blackout.hours && new.kind >= blackout.kind;
        after.blackouts.iter().any(same)
    };
    let gone = before.blackouts.iter().filter(|blackout| !is_kept(blackout));
    causes.extend(gone.map(|blackout| Cause::Blackout(blackout.name.clone())));
    let pierces = |policy: &Policy| policy.overrides.iter().filter(|bend| is_piercing(&bend.bend)).count();
    if pierces(after) > pierces(before) {
        causes.push(Cause::Pierce);
    }
    let boost = |policy: &Policy| policy.local_boost.map_or(Rate::Closed, |share| share.of(policy.line.up));
    if boost(after).min(after.line.cap.of(will.up)) > boost(before).min(before.line.cap.of(was.up)) {
        causes.push(Cause::LocalBoost);
    }
    match (was.courtesy, will.courtesy) {
        (Some(_), None) => causes.push(Cause::Courtesy),
        (Some(was), Some(will)) if will > was => causes.push(Cause::Courtesy),
        _ => {}
    }
    for quota in &before.quotas {
        let kept = after.quotas.iter().any(|new| new.period == quota.period && new.limit <= quota.limit);
        if !kept {
            causes.push(Cause::Quota(Policy::period_name(quota.period)));
        }
    }
    causes
}

/// Whether an override needs the owner's word.
pub fn of_override(bend: &Bend) -> Vec<Cause> {
    if is_piercing(bend) { vec![Cause::Pierce] } else { Vec::new() }
}

fn is_piercing(bend: &Bend) -> bool {
    matches!(bend, Bend::Boost { pierce: true, .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "version = 1\nzone = \"UTC\"\n[line]\nup = \"2 Mbit/s\"\ncap = \"80 %\"\ncourtesy = \"25 ms\"\n\
        [profiles]\nnight = \"80 %\"\n[[blackouts]]\nname = \"month end\"\nwhen = \"day 1..3\"\nkind = \"data\"\n\
        [[quotas]]\nperiod = \"day\"\nlimit = \"5 GB\"\n[local]\nboost = \"50 %\"\n";

    fn causes(from: &str, to: &str) -> Vec<String> {
        let after = BEFORE.replacen(from, to, 1);
        let parse = |text: &str| Policy::parse(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        of_policy(&parse(BEFORE), &parse(&after)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn more_than_was_agreed_on_needs_the_owners_word() {
        assert_eq!(
            causes("\"80 %\"\nc", "\"90 %\"\nc"),
            [
                "the cap towards the gateway rises from 1.6 Mbit/s to 1.8 Mbit/s",
                "the cap towards the site rises from 1.6 Mbit/s to 1.8 Mbit/s"
            ]
        );
        assert_eq!(causes("day 1..3", "day 1..2"), ["the blackout \"month end\" is changed or taken out"]);
        assert_eq!(causes("\"50 %\"", "\"70 %\""), ["people at the site may boost to more than before"]);
        assert_eq!(causes("25 ms", "50 ms"), ["replication makes way for the branch's own traffic later than before"]);
        assert_eq!(
            causes("\"25 ms\"", "\"off\""),
            ["replication makes way for the branch's own traffic later than before"]
        );
        assert_eq!(causes("5 GB", "6 GB"), ["the day quota is larger than before, or gone"]);
        let bend = "[[overrides]]\nid = 1\nbend = \"boost 1 Mbit/s\"\npierce = true\nfrom = \"2026-11-24T00:00:00Z\"\nuntil = \"2026-11-24T01:00:00Z\"\nactor = \"li\"\nreason = \"r\"\n[[quotas]]";
        assert_eq!(causes("[[quotas]]", bend), ["data may be sent in blackouts"]);
    }

    #[test]
    fn less_and_what_is_within_the_agreement_needs_nobody() {
        let nothing: [&str; 0] = [];
        assert_eq!(causes("\"80 %\"\nc", "\"70 %\"\nc"), nothing);
        assert_eq!(causes("kind = \"data\"", "kind = \"silent\""), nothing);
        assert_eq!(causes("month end", "end of month"), nothing, "a name is no time");
        assert_eq!(causes("5 GB", "4 GB"), nothing);
        assert_eq!(causes("25 ms", "10 ms"), nothing);
        assert_eq!(causes("night = \"80 %\"", "night = \"100 %\""), nothing, "the cap holds it down");
    }
}
