//! The policy that a new site begins with: a few documents, filled in with what its line carries and where it is.

use super::{ChangeError, timestamp};
use dedupe::UnixMillis;
use serde::{Deserialize, Serialize};
use shaping::policy::Policy;
use utoipa::ToSchema;

/// What a site begins with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FirstPolicy {
    /// What its line carries, as `2 Mbit/s`.
    pub up: String,
    /// Its zone, by its IANA name.
    pub zone: String,
    /// When data may pass.
    pub preset: Preset,
    /// How much of the line data may take then, per cent.
    #[schema(minimum = 1, maximum = 100)]
    pub share: u8,
}

/// When data may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// From 19:30 to 07:30, and all day on Saturday and Sunday.
    NightsAndWeekends,
    /// From 19:30 to 07:30.
    Nights,
    /// Always.
    Always,
}

impl Preset {
    /// All of them.
    pub const ALL: [Preset; 3] = [Preset::NightsAndWeekends, Preset::Nights, Preset::Always];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Preset::NightsAndWeekends => "nights-and-weekends",
            Preset::Nights => "nights",
            Preset::Always => "always",
        }
    }

    /// The rows of its grid.
    fn grid(self) -> &'static str {
        match self {
            Preset::NightsAndWeekends => "mon-fri = \"00:00 open 07:30 closed 19:30 open\"\nsat-sun = \"00:00 open\"\n",
            Preset::Nights => "mon-sun = \"00:00 open 07:30 closed 19:30 open\"\n",
            Preset::Always => "mon-sun = \"00:00 open\"\n",
        }
    }
}

impl FirstPolicy {
    /// The document. What was typed is refused here where it cannot be; the rest is for [`super::check`].
    pub fn document(&self) -> Result<String, ChangeError> {
        // As TOML writes a text, so that nothing that was typed ends it.
        let quoted = |text: &str| toml::Value::String(text.trim().to_owned()).to_string();
        let (zone, up, share, grid) = (quoted(&self.zone), quoted(&self.up), self.share, self.preset.grid());
        let document = format!(
            "# The first policy of this site, made when it was added.\nzone = {zone}\n\n[line]\nup = {up}\ncap = \"{share} %\"\ncourtesy = \"25 ms\"\n\n[profiles]\nopen = \"{share} %\"\n\n[grid]\n{grid}"
        );
        Policy::parse(&format!("version = 1\n{document}"))?;
        Ok(document)
    }

    /// What it allows, for a test or a page: the document read as a policy.
    pub fn policy(&self, now: UnixMillis) -> Result<Policy, ChangeError> {
        super::check(&self.document()?, timestamp(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn first(preset: Preset) -> FirstPolicy {
        FirstPolicy { up: "2 Mbit/s".into(), zone: "Asia/Shanghai".into(), preset, share: 80 }
    }

    #[test]
    fn each_preset_is_a_policy_that_the_gateway_takes() {
        let open_at = |policy: &Policy, at: &str| {
            let at: jiff::Timestamp = at.parse().unwrap();
            let schedule = policy.schedule(at, 2);
            crate::fleet::allowed(policy, &schedule, at).up
        };
        let (night, noon, saturday) = ("2026-11-24T20:00:00Z", "2026-11-25T04:00:00Z", "2026-11-28T04:00:00Z");
        let allowed = "1600 kbit/s".parse().unwrap();
        let closed = shaping::Rate::Closed;
        for (preset, wanted) in [
            (Preset::NightsAndWeekends, [allowed, closed, allowed]),
            (Preset::Nights, [allowed, closed, closed]),
            (Preset::Always, [allowed, allowed, allowed]),
        ] {
            let policy = first(preset).policy(NOW).unwrap();
            let found = [night, noon, saturday].map(|at| open_at(&policy, at));
            assert_eq!(found, wanted, "{preset:?}");
        }
        for share in [1, 25, 50, 100] {
            FirstPolicy { share, ..first(Preset::Always) }.policy(NOW).unwrap();
        }
    }

    #[test]
    fn what_was_typed_stays_a_text_and_is_named_where_it_is_wrong() {
        let why = |first: FirstPolicy| first.policy(NOW).unwrap_err().to_string();
        let hostile = "UTC\"\n[local]\nboost = \"100 %";
        let error = why(FirstPolicy { zone: hostile.into(), ..first(Preset::Always) });
        assert!(error.contains("zone"), "{error}");
        let error = why(FirstPolicy { up: "2 Mb".into(), ..first(Preset::Always) });
        assert!(error.contains("`up`") && error.contains("Mbit/s"), "{error}");
        let error = why(FirstPolicy { share: 101, ..first(Preset::Always) });
        assert!(error.contains("`open`") && error.contains("share of the line"), "{error}");
    }
}
