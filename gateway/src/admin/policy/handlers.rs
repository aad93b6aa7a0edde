//! What each request about policies does.

use super::{Bending, OverrideLine, PolicyAnswer, PolicyRequest, Signature};
use crate::admin::{Admin, AdminError, Answer};
use crate::catalogue::Site;
use crate::policies::draft::Draft;
use crate::policies::report::EventLine;
use crate::policies::{self, Author, Change, ChangeError, Wanted, holidays, preview, report};
use shaping::policy::{Bend, VolumeClass};

impl Admin {
    pub(in crate::admin) fn policy(&self, request: PolicyRequest) -> Result<Answer, AdminError> {
        let answered = match request {
            PolicyRequest::Show { site, version } => self.show_policy(&site, version),
            PolicyRequest::Set { site, all_of, sites, document, expected, author } => {
                self.change(&self.sites_of(site, all_of, &sites)?, Change::Set { document, expected }, &author)
            }
            PolicyRequest::Schedule { sites, document, author } => {
                let draft = Draft::read(&document)?;
                self.change(&self.sites_of(None, None, &sites)?, Change::Schedule(Box::new(draft)), &author)
            }
            PolicyRequest::Preview { site, days, from } => {
                let (policy, _) = policies::in_force(&self.state.catalogue, &self.site(&site)?)?;
                let first = preview::first_day(from.as_deref(), &policy.zone, policies::timestamp(self.state.now()));
                let shown =
                    first.and_then(|first| preview::preview(&policy, first, days)).map_err(ChangeError::from)?;
                Ok(PolicyAnswer::Preview { preview: shown })
            }
            PolicyRequest::History { site } => {
                let events = self.state.catalogue.line_events(self.site(&site)?.id)?;
                Ok(PolicyAnswer::History { events: events.iter().map(EventLine::from).collect() })
            }
            PolicyRequest::Bend { site, bend, from, until, seconds, volume, author } => {
                let bend = match bend {
                    Bending::Pause => Bend::Pause,
                    Bending::Boost { rate, pierce } => {
                        Bend::Boost { rate: rate.parse().map_err(AdminError::Rate)?, pierce }
                    }
                    Bending::Class(word) => {
                        let class = VolumeClass::ALL.into_iter().find(|class| class.word() == word);
                        Bend::Class(class.ok_or(AdminError::Class(word))?)
                    }
                    Bending::Weight(weight) => Bend::Weight(weight),
                };
                let change = Change::Bend(Wanted { bend, from, until, seconds, volume });
                self.change(&[self.site(&site)?], change, &author)
            }
            PolicyRequest::Overrides { site } => self.overrides(&site),
            PolicyRequest::EndOverride { site, id, author } => {
                self.change(&[self.site(&site)?], Change::EndOverride { id }, &author)
            }
            PolicyRequest::Hold { site, author } => self.change(&[self.site(&site)?], Change::Hold, &author),
            PolicyRequest::Release { site, author } => self.change(&[self.site(&site)?], Change::Release, &author),
            PolicyRequest::Holidays { site, calendar, author } => {
                let days = holidays::read(&calendar).map_err(ChangeError::from)?;
                self.change(&[self.site(&site)?], Change::Holidays(days), &author)
            }
            PolicyRequest::Report { site, month } => self.line_report(&site, &month),
        };
        answered.map(Answer::Policy)
    }

    pub(in crate::admin) fn site(&self, name: &str) -> Result<Site, AdminError> {
        Ok(self.state.catalogue.find_site(name)?)
    }

    pub(in crate::admin) fn sites_of(
        &self,
        site: Option<String>,
        all_of: Option<String>,
        sites: &[String],
    ) -> Result<Vec<Site>, AdminError> {
        match (site, all_of) {
            (None, None) if !sites.is_empty() => {
                let mut found: Vec<Site> = Vec::with_capacity(sites.len());
                for name in sites {
                    let site = self.site(name)?;
                    if found.iter().all(|known| known.id != site.id) {
                        found.push(site);
                    }
                }
                Ok(found)
            }
            (Some(site), None) if sites.is_empty() => Ok(vec![self.site(&site)?]),
            (None, Some(tenant)) if sites.is_empty() => {
                let tenant = self.state.catalogue.find_tenant(&tenant)?;
                let mut sites = self.state.catalogue.sites()?;
                sites.retain(|site| site.tenant == tenant.id);
                if sites.is_empty() { Err(ChangeError::NoSites(tenant.name).into()) } else { Ok(sites) }
            }
            _ => Err(AdminError::Whose),
        }
    }

    pub(in crate::admin) fn change(
        &self,
        sites: &[Site],
        change: Change,
        author: &Signature,
    ) -> Result<PolicyAnswer, AdminError> {
        let author = Author::new(&author.actor, &author.reason).map_err(ChangeError::from)?;
        let live = self.daemon.as_ref().map(|daemon| daemon.live.as_ref());
        let _runtime = self.daemon.as_ref().map(|daemon| daemon.runtime.enter());
        let changes = policies::change(&self.state, live, sites, &change, &author)?;
        Ok(PolicyAnswer::Changed { changes })
    }

    fn show_policy(&self, site: &str, version: Option<u64>) -> Result<PolicyAnswer, AdminError> {
        let (site, catalogue) = (self.site(site)?, &self.state.catalogue);
        let row = match version {
            None => catalogue.policy(site.id)?.ok_or_else(|| ChangeError::NoPolicy(site.name.clone()))?,
            Some(version) => {
                let missing = || ChangeError::NoVersion { site: site.name.clone(), version };
                catalogue.policy_version(site.id, version)?.ok_or_else(missing)?
            }
        };
        let (version, made) = (row.version, row.made);
        let (actor, reason, document) = (row.actor, row.reason, row.document);
        Ok(PolicyAnswer::Document { site: site.name, version, made, actor, reason, document })
    }

    fn overrides(&self, site: &str) -> Result<PolicyAnswer, AdminError> {
        let (policy, _) = policies::in_force(&self.state.catalogue, &self.site(site)?)?;
        let now = policies::timestamp(self.state.now());
        let ahead = policy.overrides.into_iter().filter(|bend| bend.until > now);
        let overrides = ahead.map(|bend| OverrideLine {
            id: bend.id,
            bend: policies::bend_text(&bend.bend),
            from: policies::millis(bend.from),
            until: policies::millis(bend.until),
            volume: bend.volume,
            actor: bend.actor,
            reason: bend.reason,
        });
        let hold = policy.hold.map(|hold| Signature { actor: hold.actor, reason: hold.reason });
        Ok(PolicyAnswer::Overrides { overrides: overrides.collect(), hold })
    }

    fn line_report(&self, site: &str, month: &str) -> Result<PolicyAnswer, AdminError> {
        let site = self.site(site)?;
        // Evidence is kept whether the site has a policy or not.
        let policy = match policies::in_force(&self.state.catalogue, &site) {
            Ok((policy, _)) => Some(policy),
            Err(ChangeError::NoPolicy(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let made = report::report(&self.state.catalogue, &site, policy.as_ref(), month, self.state.now());
        Ok(PolicyAnswer::Report { report: made.map_err(ChangeError::from)? })
    }
}
