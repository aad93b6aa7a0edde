//! Requests about policies and lines, and what comes of them.

pub(super) mod handlers;
pub mod render;

use crate::policies::{Changed, holidays, preview::Preview, report::LineReport};
use dedupe::UnixMillis;
use serde::{Deserialize, Serialize};

/// How an override bends the schedule, in the words of whoever asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bending {
    /// Nothing is sent.
    Pause,
    /// Another rate.
    Boost {
        /// The rate, `unlimited` for the line's cap.
        rate: String,
        /// Also in a blackout.
        pierce: bool,
    },
    /// The volume is served with another class: `critical`, `normal` or `bulk`.
    Class(String),
    /// The volume has another weight within its class.
    Weight(u32),
}

/// What is asked about policies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PolicyRequest {
    /// Show a policy's document.
    Show {
        /// The site's name.
        site: String,
        /// Which version; else the one in force.
        version: Option<u64>,
    },
    /// Put another document in the place of the one before, of one site or of all of a tenant.
    Set {
        /// The site's name.
        site: Option<String>,
        /// The tenant's name, in the place of a site's.
        all_of: Option<String>,
        /// Several sites, in the place of one.
        #[serde(default)]
        sites: Vec<String>,
        /// TOML.
        document: String,
        /// The version that was looked at when the document was written: another one in force refuses it. `None`: whatever is in force.
        #[serde(default)]
        expected: Option<u64>,
        /// Who wants it, and why.
        author: Signature,
    },
    /// Put the schedule of a document, but not its zone, line, quotas, volumes and the like, in the place of those of several sites of one tenant.
    Schedule {
        /// The sites' names.
        sites: Vec<String>,
        /// TOML, of which the schedule is taken.
        document: String,
        /// Who wants it, and why.
        author: Signature,
    },
    /// Show what a policy means.
    Preview {
        /// The site's name.
        site: String,
        /// How many days, 1 to 400.
        days: u16,
        /// The first date; else today.
        from: Option<String>,
    },
    /// List who changed what.
    History {
        /// The site's name.
        site: String,
    },
    /// Bend the schedule for a while.
    Bend {
        /// The site's name.
        site: String,
        /// How.
        bend: Bending,
        /// From when on; else at once.
        from: Option<String>,
        /// Until when.
        until: Option<String>,
        /// For how many seconds, in the place of `until`.
        seconds: Option<u64>,
        /// For one volume only.
        volume: Option<String>,
        /// Who wants it, and why.
        author: Signature,
    },
    /// List the overrides in force and to come.
    Overrides {
        /// The site's name.
        site: String,
    },
    /// End an override before its time.
    EndOverride {
        /// The site's name.
        site: String,
        /// The override's id.
        id: u64,
        /// Who wants it, and why.
        author: Signature,
    },
    /// Stop everything at a site until it is released.
    Hold {
        /// The site's name.
        site: String,
        /// Who wants it, and why.
        author: Signature,
    },
    /// End a hold.
    Release {
        /// The site's name.
        site: String,
        /// Who wants it, and why.
        author: Signature,
    },
    /// Take days off and make-up working days from a calendar.
    Holidays {
        /// The site's name.
        site: String,
        /// iCalendar, at most [`holidays::MAX_CALENDAR`] bytes.
        calendar: String,
        /// Who wants it, and why.
        author: Signature,
    },
    /// Report a month of a line.
    Report {
        /// The site's name.
        site: String,
        /// As `2026-11`.
        month: String,
    },
}

/// Who asks for a change, and why, as it was typed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Signature {
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// What came of a request about policies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "kebab-case")]
pub enum PolicyAnswer {
    /// A policy.
    Document {
        /// The site's name.
        site: String,
        /// The version.
        version: u64,
        /// When it was made.
        made: UnixMillis,
        /// Who made it.
        actor: String,
        /// Why.
        reason: String,
        /// TOML.
        document: String,
    },
    /// Policies were changed.
    Changed {
        /// One for each site.
        changes: Vec<Changed>,
    },
    /// What a policy means.
    Preview {
        /// The preview.
        preview: Preview,
    },
    /// Who changed what, oldest first.
    History {
        /// The changes.
        events: Vec<crate::policies::report::EventLine>,
    },
    /// The overrides in force and to come, and the hold.
    Overrides {
        /// The overrides.
        overrides: Vec<OverrideLine>,
        /// Who holds the site and why.
        hold: Option<Signature>,
    },
    /// A month of a line.
    Report {
        /// The report.
        report: LineReport,
    },
}

/// An override.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OverrideLine {
    /// Its id.
    pub id: u64,
    /// What it does.
    pub bend: String,
    /// From when on.
    #[schema(value_type = u64)]
    pub from: UnixMillis,
    /// Until when.
    #[schema(value_type = u64)]
    pub until: UnixMillis,
    /// For one volume only.
    pub volume: Option<String>,
    /// Who wanted it.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// Bytes of a request at most: a calendar, of which JSON may write every byte as six, and what is around it.
pub(super) const MAX_REQUEST: u64 = 6 * holidays::MAX_CALENDAR as u64 + (64 << 10);
