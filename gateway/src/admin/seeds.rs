//! Requests about seeds by courier.

use super::judge::{Subject, only_here};
use super::{Admin, AdminError, Answer, Report, watch};
use crate::access::{Caller, Right};
use crate::seeds::import::{DamagedPart, Import, Outcome, opening_key};
use crate::seeds::kept::{Kept, Missing};
use crate::seeds::{Custody, Seed};
use crate::text::{bytes, moment, printable, table};
use dedupe::{NewGeneration, UnixMillis};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use utoipa::ToSchema;
use wire::seeding::{SeedState, Way};

/// What is asked for about seeds by courier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SeedRequest {
    /// Take media in.
    Import {
        /// Where they are mounted; absolute.
        mounts: Vec<PathBuf>,
    },
    /// List seeds.
    List,
    /// Show one.
    Show {
        /// Its id, or the beginning of it.
        seed: String,
    },
    /// The key that media are encrypted to.
    Key,
    /// Note that the media of one are here, before they are imported.
    Arrived {
        /// Its id, or the beginning of it.
        seed: String,
        /// Who brought them, in what state.
        note: String,
    },
    /// Note that its media are lost, or given up for now: what waits for it goes on waiting, and it may still turn up.
    Lost {
        /// Its id, or the beginning of it.
        seed: String,
        /// Why.
        reason: String,
    },
    /// Give one up: what came over the line for it is dropped.
    Abandon {
        /// Its id, or the beginning of it.
        seed: String,
        /// How its volume goes on; without it, its edge holds it until somebody says so there.
        by: Option<Way>,
        /// Why.
        reason: String,
    },
}

impl SeedRequest {
    /// Whether it changes nothing.
    pub fn only_looks(&self) -> bool {
        matches!(self, SeedRequest::List | SeedRequest::Show { .. } | SeedRequest::Key)
    }
}

/// What came of a request about seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "seed", rename_all = "kebab-case")]
pub enum SeedAnswer {
    /// Media were taken in, as far as they could be.
    Imported {
        /// What came of each.
        outcome: Outcome,
    },
    /// Seeds.
    List {
        /// Newest first.
        seeds: Vec<SeedLine>,
    },
    /// One.
    Shown {
        /// It.
        line: Box<SeedLine>,
        /// What happened to it, oldest first.
        custody: Vec<CustodyLine>,
        /// Bytes of its volume that are not in, once some are.
        missing_bytes: Option<u64>,
        /// Media that were given.
        media: Vec<u32>,
        /// Parts that could not be read.
        damaged: Vec<DamagedPart>,
    },
    /// The public key.
    Key {
        /// 64 digits.
        key: String,
    },
}

/// A seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SeedLine {
    /// Its id.
    pub id: String,
    /// The tenant.
    pub tenant: String,
    /// The site.
    pub site: String,
    /// The volume.
    pub volume: String,
    /// The generation.
    pub generation: String,
    /// What it hashes to.
    pub root: String,
    /// Bytes of the volume.
    pub size: u64,
    /// Where it is.
    pub state: String,
    /// Since when.
    #[schema(value_type = u64)]
    pub since: UnixMillis,
}

/// An entry of the chain of custody.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CustodyLine {
    /// What it became.
    pub state: String,
    /// When, by whoever said so.
    #[schema(value_type = u64)]
    pub at: UnixMillis,
    /// Who said so.
    pub by: String,
    /// Courier, number, reason.
    pub note: String,
}

impl CustodyLine {
    fn of(entry: &Custody) -> CustodyLine {
        let note = printable(&entry.note);
        CustodyLine { state: entry.state.word().into(), at: entry.at, by: printable(&entry.by), note }
    }
}

pub(super) fn seed_subject(caller: &Caller, request: &SeedRequest) -> Result<Subject, AdminError> {
    Ok(match request {
        SeedRequest::Import { mounts } => {
            only_here(caller, "seed import")?;
            let places: Vec<String> = mounts.iter().map(|mount| mount.display().to_string()).collect();
            let subject = Subject::new(Some("seed.import"), Right::Operate, None, &places.join(", "));
            Subject { whole: true, ..subject }
        }
        SeedRequest::Arrived { seed, .. } | SeedRequest::Lost { seed, .. } | SeedRequest::Abandon { seed, .. } => {
            only_here(caller, "seed custody")?;
            Subject { whole: true, ..Subject::new(Some("seed.custody"), Right::Operate, None, seed) }
        }
        SeedRequest::List | SeedRequest::Show { .. } | SeedRequest::Key => Subject::new(None, Right::See, None, ""),
    })
}

impl Admin {
    pub(super) fn seed(
        &self,
        caller: &Caller,
        request: SeedRequest,
        report: &mut dyn FnMut(Report) -> bool,
    ) -> Result<Answer, AdminError> {
        Ok(Answer::Seed(match request {
            SeedRequest::Import { mounts } => {
                let _one_at_a_time = self.importing.try_lock().map_err(|_| AdminError::Importing)?;
                let import = Import::new(&self.state, &caller.name)?;
                let outcome = watch(report, |progress, phase| import.run(&mounts, progress, phase))?;
                SeedAnswer::Imported { outcome }
            }
            SeedRequest::List => {
                let mut seeds = Vec::new();
                for seed in self.state.catalogue.seeds()? {
                    seeds.extend(self.seed_line(caller, &seed)?);
                }
                seeds.sort_by_key(|line| std::cmp::Reverse(line.since));
                SeedAnswer::List { seeds }
            }
            SeedRequest::Show { seed } => self.show_seed(caller, &seed)?,
            SeedRequest::Arrived { seed, note } => self.seed_becomes(caller, &seed, SeedState::Arrived, None, note)?,
            SeedRequest::Lost { seed, reason } => self.seed_becomes(caller, &seed, SeedState::Lost, None, reason)?,
            SeedRequest::Abandon { seed, by, reason } => {
                self.seed_becomes(caller, &seed, SeedState::Abandoned, by, reason)?
            }
            SeedRequest::Key => SeedAnswer::Key { key: opening_key(&self.state)?.sealing().to_string() },
        }))
    }

    /// A seed, if the caller sees its tenant.
    fn seed_line(&self, caller: &Caller, seed: &Seed) -> Result<Option<SeedLine>, AdminError> {
        let Some(tenant) = self.tenant_seen(caller, seed.tenant)? else { return Ok(None) };
        let site = self.state.catalogue.site(seed.site)?;
        Ok(Some(SeedLine {
            id: seed.id.to_string(),
            tenant: tenant.name,
            site: site.map_or_else(|| seed.site.to_string(), |site| site.name),
            volume: printable(&seed.volume),
            generation: seed.generation.to_string(),
            root: seed.root.to_string(),
            size: seed.size.0,
            state: seed.state.word().into(),
            since: seed.since(),
        }))
    }

    /// The one seed whose id begins so, if the caller sees its tenant.
    fn seed_named(&self, caller: &Caller, id: &str) -> Result<(Seed, SeedLine), AdminError> {
        let missing = || AdminError::NoSeed(printable(id));
        let all = self.state.catalogue.seeds()?;
        let mut found = all.into_iter().filter(|seed| !id.is_empty() && seed.id.to_string().starts_with(id));
        let (Some(seed), None) = (found.next(), found.next()) else { return Err(missing()) };
        let line = self.seed_line(caller, &seed)?.ok_or_else(missing)?;
        Ok((seed, line))
    }

    /// Notes what became of a seed, and shows it.
    fn seed_becomes(
        &self,
        caller: &Caller,
        id: &str,
        state: SeedState,
        by: Option<Way>,
        note: String,
    ) -> Result<SeedAnswer, AdminError> {
        let (mut seed, line) = self.seed_named(caller, id)?;
        let says_how =
            seed.state == SeedState::Abandoned && state == SeedState::Abandoned && seed.way.is_none() && by.is_some();
        if !seed.state.may_become(state) && !says_how {
            return Err(AdminError::SeedState { id: line.id, is: line.state, cannot: state.word() });
        }
        let now = self.state.now();
        let entry = Custody { state, at: now, noted: now, by: caller.name.clone(), note };
        if state == SeedState::Abandoned {
            crate::seeds::abandon(&self.state, &mut seed, by, entry).map_err(AdminError::Waiting)?;
        } else if seed.becomes(entry) {
            self.state.catalogue.put_seed(&seed)?;
        }
        self.state.seed_changed((seed.tenant, seed.site, seed.lineage));
        self.show_seed(caller, id)
    }

    fn show_seed(&self, caller: &Caller, id: &str) -> Result<SeedAnswer, AdminError> {
        let (seed, line) = self.seed_named(caller, id)?;
        let kept = Kept::load(self.state.folder(), seed.id);
        let tenant = self.state.tenant(seed.tenant)?;
        let is_draft = tenant.store.generation(seed.generation)?.is_some_and(|known| !known.is_sealed());
        let missing_bytes = match &kept {
            Some(kept) if is_draft => {
                // The draft that is in use, or one that only looks.
                let receiving = tenant.receiving(seed.generation);
                let draft = match receiving.as_ref().and_then(|receiving| receiving.draft()) {
                    Some(draft) => draft.clone(),
                    None => tenant.store.draft(NewGeneration {
                        id: seed.generation,
                        lineage: seed.lineage,
                        parent: None,
                        size: seed.size,
                        captured_at: seed.captured_at,
                        source: Vec::new(),
                    })?,
                };
                Some(Missing::of(&draft, &kept.volume)?.bytes)
            }
            _ => None,
        };
        Ok(SeedAnswer::Shown {
            line: Box::new(line),
            custody: seed.custody.iter().map(CustodyLine::of).collect(),
            missing_bytes,
            media: kept.iter().flat_map(|kept| kept.media.keys().copied()).collect(),
            damaged: kept.map(|kept| kept.damaged).unwrap_or_default(),
        })
    }
}

/// An answer for people.
pub(super) fn render(answer: &SeedAnswer) -> String {
    match answer {
        SeedAnswer::Key { key } => format!("{key}\n"),
        SeedAnswer::List { seeds } if seeds.is_empty() => {
            "There are no seeds by courier; `sluice-edge seed export` at a site makes one.\n".into()
        }
        SeedAnswer::List { seeds } => {
            let row = |line: &SeedLine| {
                let volume = format!("{}/{}/{}", line.tenant, line.site, line.volume);
                vec![line.id.clone(), volume, bytes(line.size), line.state.clone(), moment(line.since)]
            };
            table(&["seed", "volume", "size", "state", "since"], &seeds.iter().map(row).collect::<Vec<_>>())
        }
        SeedAnswer::Shown { line, custody, missing_bytes, media, damaged } => {
            let mut text = format!(
                "Seed {} of {}/{}/{}: {}\ngeneration {}, {}, root {}\n",
                line.id,
                line.tenant,
                line.site,
                line.volume,
                line.state,
                line.generation,
                bytes(line.size),
                line.root
            );
            if let Some(missing) = missing_bytes {
                let given: Vec<String> = media.iter().map(u32::to_string).collect();
                text += &format!("{} are not in yet; media given so far: {}\n", bytes(*missing), given.join(", "));
            }
            text += &parts(damaged, &line.id);
            for entry in custody {
                text += &format!("{}  {} by {} {}\n", moment(entry.at), entry.state, entry.by, entry.note);
            }
            text
        }
        SeedAnswer::Imported { outcome } => imported(outcome),
    }
}

fn imported(outcome: &Outcome) -> String {
    let mut text = String::new();
    for medium in &outcome.media {
        match &medium.refused {
            Some(why) => text += &format!("{}: refused: {why}\n", medium.folder),
            None => {
                let (slabs, known) = (medium.slabs, medium.known);
                let read = bytes(medium.bytes);
                text += &format!("{}: {slabs} slabs taken in, {known} were in, {read} read\n", medium.folder);
                text += &parts(&medium.damaged, &medium.shipment);
            }
        }
    }
    for seed in &outcome.seeds {
        text += &format!("{}: seed {} is {}", seed.volume, seed.seed, seed.state);
        if seed.missing_bytes > 0 {
            text += &format!(", {} are missing", bytes(seed.missing_bytes));
        }
        match &seed.why {
            Some(why) => text += &format!(": {why}\n"),
            None => text += "\n",
        }
    }
    text
}

fn parts(damaged: &[DamagedPart], shipment: &str) -> String {
    let mut text = String::new();
    for part in damaged {
        text += &format!("part {}: {} ({})\n", part.part, part.what, part.held.join("; "));
    }
    if !damaged.is_empty() {
        let names: Vec<&str> = damaged.iter().map(|part| part.part.as_str()).collect();
        text += &format!(
            "ask the site for them: sluice-edge seed export --again {shipment} --parts {} --to MOUNT\n",
            names.join(" ")
        );
    }
    text
}
