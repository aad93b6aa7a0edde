//! Schedules in the making: what a document and an edit of it come to, before anything is changed.

use super::sites::with_site;
use super::{Json, Me, Problem};
use crate::admin::AdminError;
use crate::catalogue::PolicyRow;
use crate::fleet::SiteView;
use crate::policies::draft::{Draft, OffDraft};
use crate::policies::outlook::{ClockChange, SpecialDay, Summary, Waiting};
use crate::policies::preview::{Preview, first_day, preview};
use crate::policies::{self, ChangeError, holidays, outlook};
use crate::web::{Web, blocking};
use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shaping::forecast::Work;
use shaping::policy::{Policy, PolicyError};
use similar::TextDiff;
use std::sync::Arc;
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Days that a preview shows unless said otherwise.
const PREVIEW_DAYS: u16 = 14;
/// Lines around a change in a diff.
const DIFF_CONTEXT: usize = 2;

pub(super) fn routes() -> OpenApiRouter<Arc<Web>> {
    OpenApiRouter::new().routes(routes!(draft)).routes(routes!(read_holidays))
}

/// A document, and an edit of its schedule.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DraftRequest {
    /// TOML; a document with nothing but the edit's zone and line unless said otherwise.
    document: Option<String>,
    /// The schedule that the document is to have; as it is unless said otherwise.
    edit: Option<Draft>,
    /// The site that it is for, as `TENANT/SITE`: what waits there, and what is in force.
    site: Option<String>,
    /// The version of the site's policy that it is compared with; the one in force unless said otherwise.
    against: Option<u64>,
    /// How many days are previewed, 1 to 400; 14 unless said otherwise.
    days: Option<u16>,
}

/// What a document and an edit of it come to.
#[derive(Serialize, ToSchema)]
struct DraftAnswer {
    /// The document with the edit in it, as its author wrote it otherwise.
    document: String,
    /// Its schedule; absent while the document cannot be read.
    schedule: Option<Draft>,
    /// What it means, day by day; absent while the document cannot be read.
    preview: Option<Preview>,
    /// What it comes to; absent while the document cannot be read.
    summary: Option<Summary>,
    /// Changes of the clocks within 400 days.
    clocks: Vec<ClockChange>,
    /// The days of twelve months, from this one on, on which something else than the ordinary week holds.
    calendar: Vec<SpecialDay>,
    /// What is wrong with the document; empty: it may be saved.
    problems: Vec<DraftProblem>,
    /// What is different from the policy that it is compared with, as a unified diff; empty: nothing.
    diff: String,
    /// What the owner of the line has to agree to.
    causes: Vec<String>,
    /// The version in force at the site; absent: it has no policy, or no site was named.
    version: Option<u64>,
}

/// What is wrong with a document.
#[derive(Serialize, ToSchema)]
struct DraftProblem {
    /// The line, from 1, where one is to blame.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    /// The field, where one is to blame.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// What is wrong, and what to write instead.
    detail: String,
}

/// What is known of the site that a draft is for.
#[derive(Default)]
struct Known {
    view: Option<SiteView>,
    row: Option<PolicyRow>,
    against: Option<PolicyRow>,
    has_approvers: bool,
}

/// What a document and an edit of it come to. Nothing is changed; what is wrong with the document is part of the answer.
#[utoipa::path(post, path = "/policy/draft", tag = "policy", request_body = DraftRequest, security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = DraftAnswer), (status = 401, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn draft(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Json(asked): Json<DraftRequest>,
) -> Result<Json<DraftAnswer>, Problem> {
    let known = match &asked.site {
        None => Known::default(),
        Some(site) => {
            let (tenant, site) = site.split_once('/').ok_or_else(|| {
                Problem::invalid("`site` names a tenant and a site: write it as in \"bank/branch-07\"")
            })?;
            let against = asked.against;
            with_site(&web, &caller, tenant, site, move |web, caller, tenant, site| {
                let row = web.state.catalogue.policy(site.id)?;
                let against = match against {
                    None => row.clone(),
                    Some(version) => Some(web.state.catalogue.policy_version(site.id, version)?.ok_or_else(|| {
                        AdminError::from(ChangeError::NoVersion { site: site.name.clone(), version })
                    })?),
                };
                Ok(Known {
                    view: Some(web.fleet.site(caller, tenant, site, Instant::now())?),
                    row,
                    against,
                    has_approvers: web.admin.has_approvers(tenant)?,
                })
            })
            .await?
        }
    };
    let now = policies::timestamp(web.state.now());
    let answer = blocking(move || answer(asked, &known, now)).await;
    Ok(Json(answer.map_err(AdminError::from)?))
}

fn answer(asked: DraftRequest, known: &Known, now: Timestamp) -> Result<DraftAnswer, ChangeError> {
    let document = match (asked.document, &asked.edit) {
        (Some(document), _) => document,
        (None, Some(edit)) => fresh(edit),
        (None, None) => known.row.as_ref().map(|row| row.document.clone()).unwrap_or_default(),
    };
    let written = match &asked.edit {
        None => Ok(document.clone()),
        Some(edit) => match edit.written(&document) {
            // An edit that is none was made wrongly; a document that cannot be read was typed so.
            Err(error @ ChangeError::Draft(_)) => return Err(error),
            other => other,
        },
    };
    let (document, read) = match written {
        Ok(document) => {
            let read = policies::check(&document, now);
            (document, read)
        }
        Err(error) => (document, Err(error)),
    };
    let version = known.row.as_ref().map(|row| row.version);
    let diff = known.against.as_ref().map(|row| diff(&row.document, &document)).unwrap_or_default();
    let mut answer = DraftAnswer {
        document,
        schedule: None,
        preview: None,
        summary: None,
        clocks: Vec::new(),
        calendar: Vec::new(),
        problems: Vec::new(),
        diff,
        causes: Vec::new(),
        version,
    };
    let policy = match read {
        Ok(policy) => policy,
        Err(error) => {
            answer.problems.push(problem(&error));
            return Ok(answer);
        }
    };
    let first = first_day(None, &policy.zone, now)?;
    answer.schedule = Some(Draft::of(&policy)?);
    answer.preview = Some(preview(&policy, first, asked.days.unwrap_or(PREVIEW_DAYS))?);
    answer.summary = Some(outlook::summary(&policy, now, waiting(known, &policy).as_ref()));
    answer.clocks = outlook::clock_changes(&policy, now);
    answer.calendar = outlook::calendar(&policy, now);
    if known.has_approvers
        && let Some(before) = known.row.as_ref().and_then(|row| Policy::parse(&row.document).ok())
    {
        answer.causes = crate::access::agreement::of_policy(&before, &policy).iter().map(ToString::to_string).collect();
        answer.causes.sort();
        answer.causes.dedup();
    }
    Ok(answer)
}

/// What waits at the site, as its edge told; `None`: it never has.
fn waiting(known: &Known, policy: &Policy) -> Option<Waiting> {
    let view = known.view.as_ref().filter(|view| view.heard.is_some())?;
    let mut works: Vec<Work> =
        view.volumes.iter().map(|volume| Work { name: volume.name.clone(), bytes: volume.left }).collect();
    let counted: u64 = works.iter().map(|work| work.bytes).sum();
    if view.backlog > counted {
        // Of volumes of which the gateway holds nothing yet.
        works.push(Work { name: String::new(), bytes: view.backlog - counted });
    }
    let used = policy.quotas.iter().map(|rule| {
        let period = Policy::period_name(rule.period);
        view.quotas.iter().find(|known| known.period == period).map_or(0, |known| known.used)
    });
    Some(Waiting { works, used: used.collect() })
}

/// The document of a site that has none yet.
fn fresh(edit: &Draft) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let line = &edit.line;
    format!(
        "zone = {}  # all times are this zone's\n\n[line]  # what the line carries; shares are of this\nup = {}\ndown = {}\ncap = {}  # never above this\ncourtesy = {}  # make way from this queue on\n",
        quoted(&edit.zone),
        quoted(&line.up),
        quoted(&line.down),
        quoted(&line.cap),
        quoted(&line.courtesy)
    )
}

/// What differs between two documents, but for their versions, which the gateway counts.
fn diff(before: &str, after: &str) -> String {
    let (before, after) = (policies::numbered_alike(before), policies::numbered_alike(after));
    TextDiff::from_lines(&before, &after).unified_diff().context_radius(DIFF_CONTEXT).to_string()
}

fn problem(error: &ChangeError) -> DraftProblem {
    match error {
        ChangeError::Policy(PolicyError::Field { line, field, why }) => {
            DraftProblem { line: Some(*line), field: Some(field.clone()), detail: why.clone() }
        }
        ChangeError::Policy(PolicyError::Parse(said)) => parse_problem(said),
        other => DraftProblem { line: None, field: None, detail: other.to_string() },
    }
}

/// The TOML reader's words span several lines with a picture of the place; the line's number and the last line say it.
fn parse_problem(said: &str) -> DraftProblem {
    let line = said
        .split_once("at line ")
        .and_then(|(_, rest)| rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<usize>().ok());
    let moved = said.contains("lines are counted with `version");
    let words = said.lines().rfind(|line| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with("(lines are counted") && !line.starts_with('|')
    });
    DraftProblem {
        line: line.map(|line| line.saturating_sub(usize::from(moved)).max(1)),
        field: None,
        detail: words.unwrap_or(said).trim().to_owned(),
    }
}

/// A calendar to be looked at.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CalendarFile {
    /// iCalendar, at most 1 MiB.
    calendar: String,
}

/// What a calendar says.
#[derive(Serialize, ToSchema)]
struct CalendarDays {
    /// Days off.
    off: Vec<OffDraft>,
    /// Make-up working days, as `2026-10-10`.
    working: Vec<String>,
}

/// Days off and make-up working days of a calendar. Nothing is changed.
#[utoipa::path(post, path = "/policy/holidays", tag = "policy", request_body = CalendarFile, security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = CalendarDays), (status = 401, body = Problem), (status = 422, body = Problem)))]
async fn read_holidays(
    State(_web): State<Arc<Web>>,
    Me(_caller): Me,
    Json(file): Json<CalendarFile>,
) -> Result<Json<CalendarDays>, Problem> {
    let read = blocking(move || holidays::read(&file.calendar).map_err(ChangeError::from)).await;
    let days = read.map_err(AdminError::from)?;
    let off = policies::runs(days.off).into_iter().map(|(from, to, name)| OffDraft {
        from: from.to_string(),
        to: to.to_string(),
        name,
    });
    Ok(Json(CalendarDays { off: off.collect(), working: days.working.iter().map(ToString::to_string).collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_reader_says_becomes_a_line_and_a_sentence() {
        let now = Timestamp::UNIX_EPOCH;
        let wrong = |text: &str| problem(&policies::check(text, now).unwrap_err());
        let found = wrong("zone = \"UTC\"\n[line]\nup = \"2 Mb\"\n");
        assert_eq!((found.line, found.field.as_deref()), (Some(3), Some("up")));
        let found = wrong("version = 1\nzone = \"UTC\"\n[line\nup = \"2 Mbit/s\"\n");
        assert_eq!(found.line, Some(3), "{}", found.detail);
        let found = wrong("zone = \"UTC\"\n[line]\nupp = \"2 Mbit/s\"\n");
        assert_eq!(found.line, Some(3), "{}", found.detail);
        assert!(found.detail.contains("upp"), "{}", found.detail);
    }

    #[test]
    fn versions_are_no_difference() {
        assert_eq!(diff("version = 7\nzone = \"UTC\"\n", "zone = \"UTC\"\n"), "");
        let changed = diff("version = 7\nzone = \"UTC\"\n", "version = 7\nzone = \"Asia/Shanghai\"\n");
        assert!(changed.contains("-zone = \"UTC\"\n+zone = \"Asia/Shanghai\"\n"), "{changed}");
    }
}
