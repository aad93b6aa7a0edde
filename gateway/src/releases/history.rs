//! What became of other versions at a site, read off what its appliance says. Pure.

use dedupe::UnixMillis;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use wire::release::{Appliance, ReleaseId, Stage};

/// Entries that are kept of one site: at a release a month, four years.
pub const MOST: usize = 50;

/// One thing that became of a version at a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = VersionEntry)]
pub struct Entry {
    /// When that was heard here, milliseconds since 1970.
    #[schema(value_type = u64)]
    pub heard: UnixMillis,
    /// What became of it.
    pub result: Outcome,
    /// The version that ran before; empty: not known.
    pub from: String,
    /// The version that it is about; of one that this gateway does not have, the beginning of its root hash.
    pub to: String,
    /// Why, where it did not go well.
    pub why: String,
}

/// What became of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = VersionOutcome)]
pub enum Outcome {
    /// The site said for the first time what it runs.
    FirstSeen,
    /// The appliance started it, for a trial.
    OnTrial,
    /// It was proved and stays.
    Confirmed,
    /// Its trial failed: the appliance went back by itself.
    FellBack,
    /// It was not taken: no trial began.
    NotTaken,
    /// It runs, and this gateway heard of no trial: somebody at the appliance chose it, or it was installed anew.
    ByHand,
}

impl Outcome {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::FirstSeen => "first-seen",
            Outcome::OnTrial => "on-trial",
            Outcome::Confirmed => "confirmed",
            Outcome::FellBack => "fell-back",
            Outcome::NotTaken => "not-taken",
            Outcome::ByHand => "by-hand",
        }
    }
}

/// What is new in `now` since `before`, oldest first. `name` gives the version of a release.
pub fn news(
    before: Option<&Appliance>,
    now: &Appliance,
    heard: UnixMillis,
    name: impl Fn(ReleaseId) -> Option<String>,
) -> Vec<Entry> {
    let entry = |result, from: &str, to: String, why: &str| Entry {
        heard,
        result,
        from: from.to_owned(),
        to,
        why: crate::text::printable(why),
    };
    let Some(before) = before else {
        return vec![entry(Outcome::FirstSeen, "", now.version.clone(), "")];
    };
    let named = |release: ReleaseId| {
        let runs = [before, now].into_iter().find(|report| report.release == release);
        runs.map(|report| report.version.clone()).or_else(|| name(release)).unwrap_or_else(|| release.to_string())
    };
    let mut entries = Vec::new();
    let trial = now.last.as_ref().filter(|trial| before.last.as_ref() != Some(trial));
    // The version that a trial began from is the one that runs when it is over, unless it was confirmed.
    let from = if before.release == now.release { now.previous.as_deref().unwrap_or("") } else { &before.version };
    let tried = trial.map(|trial| trial.release);
    if before.release != now.release && tried != Some(now.release) && tried != Some(before.release) {
        let result = if now.confirmed { Outcome::ByHand } else { Outcome::OnTrial };
        entries.push(entry(result, &before.version, now.version.clone(), ""));
    }
    if let Some(trial) = trial {
        entries.push(match trial.confirmed {
            true => entry(Outcome::Confirmed, from, named(trial.release), ""),
            false => entry(Outcome::FellBack, &now.version, named(trial.release), &trial.why),
        });
    }
    if let Stage::Failed { release, why } = &now.stage
        && before.stage != now.stage
    {
        entries.push(entry(Outcome::NotTaken, &now.version, named(*release), why));
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::release::Trial;

    const OLD: ReleaseId = ReleaseId([1; 32]);
    const NEW: ReleaseId = ReleaseId([2; 32]);

    fn runs(release: ReleaseId, version: &str, confirmed: bool) -> Appliance {
        let sequence = u64::from(release.0[0]);
        let version = version.to_owned();
        Appliance { release, version, sequence, confirmed, previous: None, stage: Stage::Idle, last: None }
    }

    fn told(before: &Appliance, now: &Appliance) -> Vec<(Outcome, String, String, String)> {
        let news = news(Some(before), now, UnixMillis(5), |id| (id == NEW).then(|| "2.0".to_owned()));
        news.into_iter().map(|entry| (entry.result, entry.from, entry.to, entry.why)).collect()
    }

    #[test]
    fn a_history_tells_trial_proof_and_the_way_back() {
        let old = runs(OLD, "1.0", true);
        assert_eq!(news(None, &old, UnixMillis(5), |_| None)[0].result, Outcome::FirstSeen);
        assert_eq!(told(&old, &old), []);
        let trial = runs(NEW, "2.0", false);
        let line = |result, from: &str, to: &str, why: &str| (result, from.to_owned(), to.to_owned(), why.to_owned());
        assert_eq!(told(&old, &trial), [line(Outcome::OnTrial, "1.0", "2.0", "")]);
        let ended = |confirmed, why: &str| Some(Trial { release: NEW, confirmed, why: why.into(), at: UnixMillis(9) });
        let good = Appliance { last: ended(true, ""), previous: Some("1.0".into()), ..runs(NEW, "2.0", true) };
        assert_eq!(told(&trial, &good), [line(Outcome::Confirmed, "1.0", "2.0", "")]);
        assert_eq!(
            told(&old, &good),
            [line(Outcome::Confirmed, "1.0", "2.0", "")],
            "also when the trial was not heard of"
        );
        let back = Appliance { last: ended(false, "no link"), ..old.clone() };
        assert_eq!(told(&trial, &back), [line(Outcome::FellBack, "1.0", "2.0", "no link")]);
        assert_eq!(told(&old, &back), [line(Outcome::FellBack, "1.0", "2.0", "no link")]);
        assert_eq!(told(&back, &back), [], "once");
        let failed = Appliance { stage: Stage::Failed { release: NEW, why: "full".into() }, ..old.clone() };
        assert_eq!(told(&old, &failed), [line(Outcome::NotTaken, "1.0", "2.0", "full")]);
        assert_eq!(told(&good, &old), [line(Outcome::ByHand, "2.0", "1.0", "")], "the way back at the appliance");
    }
}
