//! A policy written as a document.

use super::super::grid::{self, days_text, time_text};
use super::super::{Bend, BlackoutKind, Hold, Hours, Period, Policy, ProfileNumber, Share};
use std::fmt::Write as _;

impl Policy {
    /// The document that [`Policy::parse`] reads as this policy.
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("writing to a string does not fail");
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let name = |number: ProfileNumber| quoted(&self.profile(number).name);
        writeln!(text, "version = {}\nzone = {}", self.version, quoted(self.zone.iana_name().unwrap_or("UTC")))?;
        let line = &self.line;
        writeln!(text, "\n[line]\nup = \"{}\"\ndown = \"{}\"\ncap = \"{}\"", line.up, line.down, share_text(line.cap))?;
        match line.courtesy {
            Some(delay) => writeln!(text, "courtesy = \"{} ms\"", delay.as_millis())?,
            None => writeln!(text, "courtesy = \"off\"")?,
        }
        writeln!(text, "packet_overhead = {}\n\n[profiles]", line.packet_overhead)?;
        for profile in &self.profiles[1..] {
            match profile.up == profile.down {
                true => writeln!(text, "{} = \"{}\"", profile.name, share_text(profile.up))?,
                false => writeln!(
                    text,
                    "{} = {{ up = \"{}\", down = \"{}\" }}",
                    profile.name,
                    share_text(profile.up),
                    share_text(profile.down)
                )?,
            }
        }
        writeln!(text, "\n[grid]")?;
        for run in self.grid.alike() {
            let day = self.grid.day_text(run.start, |number| &self.profile(number).name);
            writeln!(text, "{} = \"{day}\"", days_text(run))?;
        }
        writeln!(text, "\n[holidays]")?;
        if let Some(row) = self.holidays_as {
            writeln!(text, "as = \"{}\"", grid::DAY_NAMES[row])?;
        }
        writeln!(text, "working_as = \"{}\"\noff = [", grid::DAY_NAMES[self.working_as])?;
        for (date, name) in &self.holidays.off {
            writeln!(text, "  {},", quoted(format!("{date} {name}").trim_end()))?;
        }
        writeln!(text, "]\nworking = [")?;
        for date in &self.holidays.working {
            writeln!(text, "  \"{date}\",")?;
        }
        writeln!(text, "]")?;
        for rule in &self.exceptions {
            writeln!(text, "\n[[exceptions]]\nname = {}\nwhen = \"{}\"", quoted(&rule.name), rule.when)?;
            writeln!(text, "hours = \"{}\"\nprofile = {}", hours_text(rule.hours), name(rule.profile))?;
        }
        for rule in &self.blackouts {
            let kind = if rule.kind == BlackoutKind::Silent { "silent" } else { "data" };
            writeln!(text, "\n[[blackouts]]\nname = {}\nwhen = \"{}\"", quoted(&rule.name), rule.when)?;
            writeln!(text, "hours = \"{}\"\nkind = \"{kind}\"", hours_text(rule.hours))?;
        }
        for bend in &self.overrides {
            writeln!(text, "\n[[overrides]]\nid = {}", bend.id)?;
            match bend.bend {
                Bend::Pause => writeln!(text, "bend = \"pause\"")?,
                Bend::Class(class) => writeln!(text, "bend = \"class {}\"", class.word())?,
                Bend::Weight(weight) => writeln!(text, "bend = \"weight {weight}\"")?,
                Bend::Boost { rate, pierce } => writeln!(text, "bend = \"boost {rate}\"\npierce = {pierce}")?,
            }
            writeln!(text, "from = \"{}\"\nuntil = \"{}\"", bend.from, bend.until)?;
            if let Some(volume) = &bend.volume {
                writeln!(text, "volume = {}", quoted(volume))?;
            }
            writeln!(text, "actor = {}\nreason = {}", quoted(&bend.actor), quoted(&bend.reason))?;
        }
        if let Some(hold) = &self.hold {
            writeln!(text, "\n[hold]\nactor = {}\nreason = {}", quoted(&hold.actor), quoted(&hold.reason))?;
        }
        for rule in &self.quotas {
            writeln!(text, "\n[[quotas]]\nperiod = \"{}\"\nlimit = \"{} B\"", period_text(rule.period), rule.limit)?;
            writeln!(text, "warn = {}\neven = {}", rule.warn, rule.even)?;
            if let Some((percent, profile)) = rule.soft {
                writeln!(text, "soft = \"{percent} % {}\"", self.profile(profile).name)?;
            }
        }
        for rule in &self.volumes {
            let class = rule.class.word();
            writeln!(
                text,
                "\n[[volumes]]\nname = {}\nclass = \"{class}\"\nweight = {}",
                quoted(&rule.name),
                rule.weight
            )?;
            for (field, rate) in [("cap", rule.cap), ("floor", rule.floor)] {
                if let Some(rate) = rate {
                    writeln!(text, "{field} = \"{rate}\"")?;
                }
            }
            if let Some(lag) = rule.lag {
                writeln!(text, "lag = \"{} s\"", lag.as_secs())?;
            }
            if let Some(Hold { actor, reason }) = &rule.held {
                writeln!(text, "held = {{ actor = {}, reason = {} }}", quoted(actor), quoted(reason))?;
            }
        }
        writeln!(
            text,
            "\n[clock]\nholdover = \"{} s\"\nuntrusted = {}",
            self.clock_holdover.as_secs(),
            name(self.untrusted_clock)
        )?;
        if let Some(boost) = self.local_boost {
            writeln!(text, "\n[local]\nboost = \"{}\"", share_text(boost))?;
        }
        Ok(())
    }
}

fn share_text(share: Share) -> String {
    match share {
        Share::Rate(rate) => rate.to_string(),
        Share::PerMille(tenths) if tenths % 10 == 0 => format!("{} %", tenths / 10),
        Share::PerMille(tenths) => format!("{}.{} %", tenths / 10, tenths % 10),
    }
}

fn hours_text(hours: Hours) -> String {
    format!("{}-{}", time_text(hours.from), time_text(hours.to))
}

fn period_text(period: Period) -> String {
    match period {
        Period::Month(day) if day != 1 => format!("month from day {day}"),
        other => Policy::period_name(other).into(),
    }
}

/// A string as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
