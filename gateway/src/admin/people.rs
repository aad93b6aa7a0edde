//! Requests about accounts, approvals and the audit log.

use super::{AccountRequest, Admin, AdminError, Answer, Report, Request};
use crate::access::accounts::{self, AccountError, Patch};
use crate::access::{Caller, Role, Scope};
use crate::catalogue::{Account, Answered, ApiToken, Approval, AuditRow};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use dedupe::UnixMillis;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An account, without its secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AccountLine {
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The tenant that it is for; absent: the whole gateway.
    pub tenant: Option<String>,
    /// May not sign in.
    pub disabled: bool,
    /// Has to change its password first.
    pub must_change: bool,
    /// When it was made, milliseconds since 1970.
    #[schema(value_type = u64)]
    pub created: UnixMillis,
    /// When it last signed in, milliseconds since 1970.
    #[schema(value_type = Option<u64>)]
    pub signed_in: Option<UnixMillis>,
}

/// An API token, without its secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TokenLine {
    /// Its id, 16 hexadecimal digits.
    pub id: String,
    /// What it is for.
    pub label: String,
    /// What it may do.
    pub role: Role,
    /// When it was made, milliseconds since 1970.
    #[schema(value_type = u64)]
    pub created: UnixMillis,
    /// Until when it is good, milliseconds since 1970.
    #[schema(value_type = u64)]
    pub valid_until: UnixMillis,
    /// When it was last used, to the hour, milliseconds since 1970.
    #[schema(value_type = Option<u64>)]
    pub used: Option<UnixMillis>,
}

/// Something that waits for a second person, or was answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ApprovalLine {
    /// Its number.
    pub number: u64,
    /// `waiting`, `approved`, `refused`, `expired`.
    pub state: String,
    /// The tenant.
    pub tenant: String,
    /// When it was asked for, milliseconds since 1970.
    #[schema(value_type = u64)]
    pub asked: UnixMillis,
    /// Who asked.
    pub by: String,
    /// For what.
    pub what: String,
    /// Why the owner of the line has to agree, one sentence each.
    pub causes: Vec<String>,
    /// Until when it may be answered, milliseconds since 1970.
    #[schema(value_type = u64)]
    pub valid_until: UnixMillis,
    /// Who answered.
    pub answered_by: Option<String>,
    /// Why they answered so.
    pub answer: Option<String>,
}

/// Something that waits for a second person, with what it would change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Proposal {
    /// What waits.
    pub approval: ApprovalLine,
    /// Documents that would take the place of others; none: it is no change of documents.
    pub documents: Vec<ProposedDocument>,
    /// Sites whose policies were changed since this was asked for: nobody can agree to it any more.
    pub stale: Vec<String>,
}

/// A document that would take the place of another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProposedDocument {
    /// The site.
    pub site: String,
    /// The document that was in force when it was asked for, TOML; absent: there was none.
    pub before: Option<String>,
    /// The one that would be, TOML.
    pub after: String,
}

/// How the audit log is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AuditFormat {
    /// A line of JSON for each entry.
    Json,
    /// A line of syslog (RFC 5424) for each entry.
    Syslog,
}

/// Private enterprise number in structured data of syslog: 32473 is the one for documentation (RFC 5612), as we have none.
const ENTERPRISE: u32 = 32_473;
/// Facility 13, log audit (RFC 5424, table 1).
const FACILITY: u8 = 13;

impl AuditFormat {
    /// An entry as a line, without its end. `host` names the gateway.
    pub fn line(self, entry: &AuditRow, host: &str) -> String {
        match self {
            AuditFormat::Json => serde_json::json!({
                "number": entry.number,
                "time": crate::policies::timestamp(entry.time).to_string(),
                "actor": entry.actor,
                "via": entry.via,
                "tenant": entry.tenant,
                "what": entry.what,
                "object": entry.object,
                "detail": entry.detail,
                "outcome": entry.outcome,
                "before": HEXLOWER.encode(&entry.before),
                "hash": HEXLOWER.encode(&entry.hash),
            })
            .to_string(),
            AuditFormat::Syslog => syslog(entry, host),
        }
    }
}

fn syslog(entry: &AuditRow, host: &str) -> String {
    let severity = match entry.outcome.as_str() {
        "done" => 5,    // notice
        "waiting" => 5, // notice
        _ => 4,         // warning
    };
    let time = crate::policies::timestamp(entry.time).strftime("%Y-%m-%dT%H:%M:%S.%3fZ");
    // Parameter values escape these three (RFC 5424, 6.3.3); everything else is UTF-8 as it is.
    let value = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace(']', "\\]");
    let host: String = host.chars().filter(char::is_ascii_graphic).take(255).collect();
    let params: String = [
        ("number", entry.number.to_string().as_str()),
        ("actor", &entry.actor),
        ("via", &entry.via),
        ("tenant", &entry.tenant),
        ("object", &entry.object),
        ("outcome", &entry.outcome),
        ("hash", &HEXLOWER.encode(&entry.hash)),
    ]
    .into_iter()
    .map(|(name, text)| format!(" {name}=\"{}\"", value(text)))
    .collect();
    let host = if host.is_empty() { "-" } else { host.as_str() };
    format!(
        "<{}>1 {time} {host} sluice-gateway - {} [audit@{ENTERPRISE}{params}] \u{feff}{}",
        FACILITY * 8 + severity,
        entry.what,
        entry.detail
    )
}

impl Admin {
    pub(super) fn account(&self, caller: &Caller, request: AccountRequest) -> Result<Answer, AdminError> {
        let (catalogue, now) = (&self.state.catalogue, self.state.now());
        Ok(match request {
            AccountRequest::List => {
                let mut accounts = Vec::new();
                for account in catalogue.accounts()? {
                    if caller.scope == Scope::Whole || caller.scope == account.scope {
                        accounts.push(self.account_line(account)?);
                    }
                }
                Answer::Accounts { accounts }
            }
            AccountRequest::Add { name, role, tenant } => {
                let scope = match tenant {
                    None => Scope::Whole,
                    Some(tenant) => Scope::Tenant(self.tenant_named(caller, &tenant)?),
                };
                let (account, password) = accounts::create(catalogue, caller, (&name, role, scope), now)?;
                Answer::AccountSecret { name: account.name, password: password.reveal().to_owned() }
            }
            AccountRequest::Change { name, role, disabled } => {
                let account = accounts::change(catalogue, caller, &name, Patch { role, disabled })?;
                self.changed(&account.name);
                Answer::Accounts { accounts: vec![self.account_line(account)?] }
            }
            AccountRequest::ResetPassword { name } => {
                let password = accounts::reset_password(catalogue, caller, &name)?;
                self.changed(&name);
                Answer::AccountSecret { name, password: password.reveal().to_owned() }
            }
            AccountRequest::Remove { name } => {
                accounts::remove(catalogue, caller, &name)?;
                self.changed(&name);
                Answer::Done { what: format!("account {name} is removed") }
            }
            AccountRequest::Tokens { account } => {
                let account = self.account_of(caller, &account)?;
                let mut tokens = catalogue.api_tokens()?;
                tokens.retain(|token| token.account == account.name);
                tokens.sort_by_key(|token| token.created);
                Answer::ApiTokens { tokens: tokens.into_iter().map(token_line).collect() }
            }
            AccountRequest::AddToken { account, label, role, days } => {
                let account = self.account_of(caller, &account)?;
                let (token, shown) = accounts::make_token(catalogue, &account, (&label, role, days), now)?;
                Answer::ApiTokenSecret { id: HEXLOWER.encode(&token.id), token: shown.reveal().to_owned() }
            }
            AccountRequest::RemoveToken { account, id } => {
                let account = self.account_of(caller, &account)?;
                let missing = || AccountError::NoToken(crate::text::printable(&id));
                let bytes = HEXLOWER_PERMISSIVE.decode(id.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
                let bytes: [u8; 8] = bytes.ok_or_else(missing)?;
                let token = catalogue.api_token(bytes)?.filter(|token| token.account == account.name);
                token.ok_or_else(missing)?;
                catalogue.remove_api_token(bytes)?;
                Answer::Done { what: format!("API token {id} of {} is taken back", account.name) }
            }
        })
    }

    /// One's own account, or one that the caller manages.
    fn account_of(&self, caller: &Caller, name: &str) -> Result<Account, AdminError> {
        let missing = || AccountError::None(crate::text::printable(name));
        let account = self.state.catalogue.account(name)?.ok_or_else(missing)?;
        let seen = caller.scope == Scope::Whole || caller.scope == account.scope;
        Ok(if seen { account } else { return Err(missing().into()) })
    }

    fn account_line(&self, account: Account) -> Result<AccountLine, AdminError> {
        let tenant = match account.scope {
            Scope::Whole => None,
            Scope::Tenant(id) => {
                let known = self.state.catalogue.tenants()?.into_iter().find(|tenant| tenant.id == id);
                Some(known.map_or_else(|| id.to_string(), |tenant| tenant.name))
            }
        };
        let Account { name, role, disabled, must_change, created, signed_in, .. } = account;
        Ok(AccountLine { name, role, tenant, disabled, must_change, created, signed_in })
    }

    fn tenant_named(&self, caller: &Caller, name: &str) -> Result<dedupe::TenantId, AdminError> {
        let tenant = self.state.catalogue.find_tenant(name)?;
        match caller.sees(&tenant) {
            true => Ok(tenant.id),
            false => Err(crate::catalogue::CatalogueError::NoTenant(crate::text::printable(name)).into()),
        }
    }

    /// What an account may do has changed: whoever is signed in by it has to sign in again.
    fn changed(&self, name: &str) {
        if let Some(daemon) = &self.daemon {
            daemon.sessions.end_of(name);
        }
    }

    // ---- approvals

    pub(super) fn approvals(&self, caller: &Caller, all: bool) -> Result<Answer, AdminError> {
        let (now, tenants) = (self.state.now(), self.state.catalogue.tenants()?);
        let mut lines = Vec::new();
        for approval in self.state.catalogue.approvals()?.into_iter().rev() {
            let Some(tenant) = tenants.iter().find(|tenant| tenant.id == approval.tenant && caller.sees(tenant)) else {
                continue;
            };
            let line = approval_line(approval, tenant.name.clone(), now);
            if all || line.state == "waiting" {
                lines.push(line);
            }
        }
        Ok(Answer::Approvals { approvals: lines })
    }

    /// What waits or waited under this number, with what it would change, if the caller sees it.
    pub(crate) fn proposal(&self, caller: &Caller, number: u64) -> Result<Proposal, AdminError> {
        let catalogue = &self.state.catalogue;
        let missing = || AdminError::NoApproval(number);
        let approval = catalogue.approval(number)?.ok_or_else(missing)?;
        let mut tenants = catalogue.tenants()?.into_iter();
        let tenant = tenants.find(|tenant| tenant.id == approval.tenant && caller.sees(tenant)).ok_or_else(missing)?;
        let asked: Option<Request> = serde_json::from_str(&approval.request).ok();
        let (mut documents, mut stale) = (Vec::new(), Vec::new());
        for (id, version) in &approval.seen {
            let site = catalogue.site(*id)?.map_or_else(|| id.to_string(), |site| site.name);
            if catalogue.policy(*id)?.map_or(0, |row| row.version) != *version {
                stale.push(site.clone());
            }
            if let Some(Request::Policy(super::PolicyRequest::Set { document, .. })) = &asked {
                let before = catalogue.policy_version(*id, *version)?.map(|row| row.document);
                documents.push(ProposedDocument { site, before, after: document.clone() });
            }
        }
        let approval = approval_line(approval, tenant.name, self.state.now());
        if approval.state != "waiting" {
            stale.clear(); // what was done has made the version after it
        }
        Ok(Proposal { approval, documents, stale })
    }

    pub(super) fn answer(
        &self,
        caller: &Caller,
        (number, approved, reason): (u64, bool, &str),
        report: &mut dyn FnMut(Report) -> bool,
    ) -> Result<Answer, AdminError> {
        let catalogue = &self.state.catalogue;
        let author = crate::policies::Author::new(&caller.name, reason).map_err(crate::policies::ChangeError::from)?;
        let approval = catalogue.approval(number)?.ok_or(AdminError::NoApproval(number))?;
        let now = self.state.now();
        if let Some(answer) = approval.answer {
            return Err(AdminError::Answered(number, answer.by));
        }
        if approved && approval.by == caller.name {
            return Err(AdminError::OwnRequest);
        }
        if now > approval.valid_until {
            return Err(AdminError::Expired(number));
        }
        for (site, version) in approval.seen.iter().filter(|_| approved) {
            if catalogue.policy(*site)?.map_or(0, |row| row.version) != *version {
                let name = catalogue.site(*site)?.map_or_else(|| site.to_string(), |site| site.name);
                return Err(AdminError::Stale(name));
            }
        }
        if approved {
            self.may_agree(caller, &approval)?;
        }
        let answer = Answered { by: caller.name.clone(), at: now, approved, reason: author.reason().to_owned() };
        if !catalogue.answer_approval(number, &answer)? {
            return Err(AdminError::Answered(number, "somebody else".into()));
        }
        if !approved {
            return Ok(Answer::Done { what: format!("number {number} is refused") });
        }
        let request: Request = serde_json::from_str(&approval.request)
            .map_err(|_| crate::catalogue::CatalogueError::Corrupt("approvals"))?;
        if let Request::Retention(asked) = &request {
            return self.agreed(caller, &approval, &answer.reason, asked);
        }
        // Done in the name of whoever asked for it; who agreed stands in the audit log and with the approval.
        self.perform(caller, request, report)
    }

    // ---- the audit log

    pub(super) fn audit(&self, after: u64, most: usize) -> Result<Answer, AdminError> {
        let mut entries = Vec::new();
        self.state.catalogue.each_audit(after, |entry| {
            entries.push(entry);
            entries.len() < most
        })?;
        entries.truncate(most);
        Ok(Answer::Audit { entries })
    }

    /// Follows the chain from its beginning.
    pub(super) fn audit_check(&self) -> Result<Answer, AdminError> {
        let (mut expected, mut before, mut broken) = (1, [0; 32], None);
        self.state.catalogue.each_audit(0, |entry| {
            let whole = entry.number == expected && entry.before == before && entry.hash == entry.hashed();
            if whole {
                (expected, before) = (entry.number + 1, entry.hash);
            } else {
                broken = Some(expected);
            }
            whole
        })?;
        match broken {
            Some(number) => Err(AdminError::AuditBroken(number)),
            None => Ok(Answer::AuditWhole { entries: expected - 1, last: HEXLOWER.encode(&before) }),
        }
    }
}

fn token_line(token: ApiToken) -> TokenLine {
    let ApiToken { id, label, role, created, valid_until, used, .. } = token;
    TokenLine { id: HEXLOWER.encode(&id), label, role, created, valid_until, used }
}

fn approval_line(approval: Approval, tenant: String, now: UnixMillis) -> ApprovalLine {
    let state = match &approval.answer {
        Some(answer) if answer.approved => "approved",
        Some(_) => "refused",
        None if now > approval.valid_until => "expired",
        None => "waiting",
    };
    ApprovalLine {
        number: approval.number,
        state: state.into(),
        tenant,
        asked: approval.asked,
        by: approval.by,
        what: approval.what,
        causes: approval.causes,
        valid_until: approval.valid_until,
        answered_by: approval.answer.as_ref().map(|answer| answer.by.clone()),
        answer: approval.answer.map(|answer| answer.reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> AuditRow {
        let mut row = AuditRow {
            number: 7,
            time: UnixMillis(1_800_000_000_123),
            actor: "li \"x\"".into(),
            via: "session".into(),
            tenant: "bank".into(),
            what: "policy.set".into(),
            object: "b[1]".into(),
            detail: "as agreed".into(),
            outcome: "done".into(),
            before: [1; 32],
            hash: [0; 32],
        };
        row.hash = row.hashed();
        row
    }

    #[test]
    fn entries_are_lines_of_json_and_of_syslog() {
        let (entry, hash) = (entry(), HEXLOWER.encode(&entry().hash));
        assert_eq!(
            AuditFormat::Syslog.line(&entry, "gw.example"),
            format!(
                "<109>1 2027-01-15T08:00:00.123Z gw.example sluice-gateway - policy.set [audit@32473 number=\"7\" actor=\"li \\\"x\\\"\" via=\"session\" tenant=\"bank\" object=\"b[1\\]\" outcome=\"done\" hash=\"{hash}\"] \u{feff}as agreed"
            )
        );
        let json: serde_json::Value = serde_json::from_str(&AuditFormat::Json.line(&entry, "")).unwrap();
        assert_eq!((&json["time"], &json["hash"]), (&"2027-01-15T08:00:00.123Z".into(), &hash.into()));
    }

    #[test]
    fn a_hash_covers_every_field() {
        let whole = entry();
        let changed: [fn(&mut AuditRow); 6] = [
            |row| row.number += 1,
            |row| row.time.0 += 1,
            |row| row.before = [2; 32],
            |row| row.outcome = "failed".into(),
            |row| (row.actor, row.via) = ("li \"x\"s".into(), "ession".into()),
            |row| row.detail.clear(),
        ];
        for change in changed {
            let mut row = whole.clone();
            change(&mut row);
            assert_ne!(row.hashed(), whole.hash, "{row:?}");
        }
    }
}
