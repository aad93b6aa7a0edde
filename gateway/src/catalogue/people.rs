//! What the catalogue knows of people and programs that work with the gateway: accounts, API tokens, what waits for a second person, the audit log.

use super::{Catalogue, CatalogueError, Table, decode, encode};
use crate::access::{Role, Scope};
use dedupe::{SiteId, TenantId, UnixMillis};
use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use serde::{Deserialize, Serialize};

/// Name to [`Account`].
const ACCOUNTS: Table = TableDefinition::new("accounts_v1");
/// Id (8 bytes) to [`ApiToken`].
const API_TOKENS: Table = TableDefinition::new("api_tokens_v1");
/// Number (8 bytes, big endian, from 1) to [`Approval`].
const APPROVALS: Table = TableDefinition::new("approvals_v1");
/// Number (8 bytes, big endian, from 1) to [`AuditRow`]. Only ever added to.
const AUDIT: Table = TableDefinition::new("audit_v1");

pub(super) const TABLES: [Table; 4] = [ACCOUNTS, API_TOKENS, APPROVALS, AUDIT];

/// Somebody who may sign in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its name, unique; never changes.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// For whom.
    pub scope: Scope,
    /// Its password, as argon2id in the PHC string format.
    pub password: String,
    /// Somebody else set the password: it has to be changed before anything else.
    pub must_change: bool,
    /// May not sign in, and its tokens are refused.
    pub disabled: bool,
    /// When it was made.
    pub created: UnixMillis,
    /// When it last signed in.
    pub signed_in: Option<UnixMillis>,
}

/// A program's way in: acts for an account, with at most its rights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiToken {
    /// Names it.
    pub id: [u8; 8],
    /// BLAKE3 of its secret.
    pub hash: [u8; 32],
    /// The account that it acts for.
    pub account: String,
    /// What it may do; never more than the account.
    pub role: Role,
    /// What it is for.
    pub label: String,
    /// When it was made.
    pub created: UnixMillis,
    /// Until when it is good.
    pub valid_until: UnixMillis,
    /// When it was last used, to the hour.
    pub used: Option<UnixMillis>,
}

/// Something that waits for a second person, or that one has answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Its number.
    pub number: u64,
    /// When it was asked for.
    pub asked: UnixMillis,
    /// Who asked.
    pub by: String,
    /// Of which tenant.
    pub tenant: TenantId,
    /// The request, as JSON.
    pub request: String,
    /// What it is, for people.
    pub what: String,
    /// Why the line's owner has to agree, one sentence each.
    pub causes: Vec<String>,
    /// The sites, and the version of the policy that each had: what was looked at when it was asked for.
    pub seen: Vec<(SiteId, u64)>,
    /// Until when it may be approved.
    pub valid_until: UnixMillis,
    /// What became of it.
    pub answer: Option<Answered>,
}

/// What a second person said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// Who.
    pub by: String,
    /// When.
    pub at: UnixMillis,
    /// Whether they agreed.
    pub approved: bool,
    /// Why.
    pub reason: String,
}

/// One entry of the audit log. Its hash covers the one before, so that none can be changed, taken out or put in without a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow {
    /// Its number, from 1, without gaps.
    pub number: u64,
    /// When.
    pub time: UnixMillis,
    /// Who.
    pub actor: String,
    /// How they came: `command-line`, `session`, `token`, `gateway`; `edge`: asked at a site, by the name that its edge gives.
    pub via: String,
    /// The tenant's name; empty: the whole gateway.
    pub tenant: String,
    /// What, in a word: `policy.set`.
    pub what: String,
    /// On what: a site, a volume, an account.
    pub object: String,
    /// More of it, for people. Holds no secret.
    pub detail: String,
    /// What came of it: `done`, `waiting`, `refused`, `failed`.
    pub outcome: String,
    /// Hash of the entry before; zeroes for the first.
    pub before: [u8; 32],
    /// BLAKE3 of all above, see [`AuditRow::hashed`].
    pub hash: [u8; 32],
}

/// What is written down; the log adds number and hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAudit {
    /// When.
    pub time: UnixMillis,
    /// Who.
    pub actor: String,
    /// How they came.
    pub via: &'static str,
    /// The tenant's name; empty: the whole gateway.
    pub tenant: String,
    /// What, in a word.
    pub what: &'static str,
    /// On what.
    pub object: String,
    /// More of it.
    pub detail: String,
    /// What came of it.
    pub outcome: &'static str,
}

/// Separates these hashes from all others that are made of the same bytes.
const DOMAIN: &str = "sluice 2026-11 audit entry";

impl AuditRow {
    /// The hash that its contents must have: BLAKE3 in key-derivation mode over number, time, the hash before, and each text with its length.
    pub fn hashed(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(DOMAIN);
        hasher.update(&self.number.to_le_bytes()).update(&self.time.0.to_le_bytes()).update(&self.before);
        for text in [&self.actor, &self.via, &self.tenant, &self.what, &self.object, &self.detail, &self.outcome] {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

impl Catalogue {
    // ---- accounts

    /// All accounts, by name.
    pub fn accounts(&self) -> Result<Vec<Account>, CatalogueError> {
        self.all(ACCOUNTS, "accounts")
    }

    /// One account.
    pub fn account(&self, name: &str) -> Result<Option<Account>, CatalogueError> {
        self.one(ACCOUNTS, name.as_bytes(), "accounts")
    }

    /// Makes or changes an account: `change` gets what is there and gives what is to be, in one transaction.
    pub fn change_account<E>(
        &self,
        name: &str,
        change: impl FnOnce(Option<Account>, &[Account]) -> Result<Account, E>,
    ) -> Result<Result<Account, E>, CatalogueError> {
        let commit = self.database.begin_write()?;
        let changed = {
            let mut table = commit.open_table(ACCOUNTS)?;
            let all: Vec<Account> =
                table.iter()?.map(|row| decode(row?.1.value(), "accounts")).collect::<Result<_, CatalogueError>>()?;
            let there = all.iter().find(|account| account.name == name).cloned();
            let account = match change(there, &all) {
                Ok(account) => account,
                Err(error) => return Ok(Err(error)),
            };
            table.insert(name.as_bytes(), encode(&account).as_slice())?;
            account
        };
        commit.commit()?;
        Ok(Ok(changed))
    }

    /// Removes an account and its tokens. Says whether it was there.
    pub fn remove_account(&self, name: &str) -> Result<bool, CatalogueError> {
        let commit = self.database.begin_write()?;
        let was = {
            let was = commit.open_table(ACCOUNTS)?.remove(name.as_bytes())?.is_some();
            commit
                .open_table(API_TOKENS)?
                .retain(|_, row| decode::<ApiToken>(row, "API tokens").map_or(true, |token| token.account != name))?;
            was
        };
        commit.commit()?;
        Ok(was)
    }

    // ---- API tokens

    /// All API tokens.
    pub fn api_tokens(&self) -> Result<Vec<ApiToken>, CatalogueError> {
        self.all(API_TOKENS, "API tokens")
    }

    /// One API token.
    pub fn api_token(&self, id: [u8; 8]) -> Result<Option<ApiToken>, CatalogueError> {
        self.one(API_TOKENS, &id, "API tokens")
    }

    /// Makes or changes an API token.
    pub fn put_api_token(&self, token: &ApiToken) -> Result<(), CatalogueError> {
        self.put(API_TOKENS, &token.id, token)
    }

    /// Removes an API token. Says whether it was there.
    pub fn remove_api_token(&self, id: [u8; 8]) -> Result<bool, CatalogueError> {
        let commit = self.database.begin_write()?;
        let was = commit.open_table(API_TOKENS)?.remove(id.as_slice())?.is_some();
        commit.commit()?;
        Ok(was)
    }

    // ---- approvals

    /// Notes something that waits for a second person; gives it its number.
    pub fn add_approval(&self, mut approval: Approval) -> Result<Approval, CatalogueError> {
        let commit = self.database.begin_write()?;
        {
            let mut table = commit.open_table(APPROVALS)?;
            approval.number = last_number(&table)? + 1;
            table.insert(approval.number.to_be_bytes().as_slice(), encode(&approval).as_slice())?;
        }
        commit.commit()?;
        Ok(approval)
    }

    /// One of them.
    pub fn approval(&self, number: u64) -> Result<Option<Approval>, CatalogueError> {
        self.one(APPROVALS, &number.to_be_bytes(), "approvals")
    }

    /// All of them, oldest first.
    pub fn approvals(&self) -> Result<Vec<Approval>, CatalogueError> {
        self.all(APPROVALS, "approvals")
    }

    /// Notes what a second person said, unless somebody has answered already; says whether it was noted.
    pub fn answer_approval(&self, number: u64, answer: &Answered) -> Result<bool, CatalogueError> {
        let commit = self.database.begin_write()?;
        let noted = {
            let mut table = commit.open_table(APPROVALS)?;
            let row = table.get(number.to_be_bytes().as_slice())?.map(|row| row.value().to_vec());
            let row: Option<Approval> = row.map(|row| decode(&row, "approvals")).transpose()?;
            match row.filter(|row| row.answer.is_none()) {
                Some(row) => {
                    let row = Approval { answer: Some(answer.clone()), ..row };
                    table.insert(number.to_be_bytes().as_slice(), encode(&row).as_slice())?;
                    true
                }
                None => false,
            }
        };
        commit.commit()?;
        Ok(noted)
    }

    // ---- the audit log

    /// Writes an entry; durable on return.
    pub fn audit(&self, new: NewAudit) -> Result<AuditRow, CatalogueError> {
        let commit = self.database.begin_write()?;
        let row = {
            let mut table = commit.open_table(AUDIT)?;
            let last = table.last()?.map(|(_, row)| decode::<AuditRow>(row.value(), "audit")).transpose()?;
            let (number, before) = last.map_or((1, [0; 32]), |last| (last.number + 1, last.hash));
            let mut row = AuditRow {
                number,
                time: new.time,
                actor: new.actor,
                via: new.via.into(),
                tenant: new.tenant,
                what: new.what.into(),
                object: new.object,
                detail: new.detail,
                outcome: new.outcome.into(),
                before,
                hash: [0; 32],
            };
            row.hash = row.hashed();
            table.insert(number.to_be_bytes().as_slice(), encode(&row).as_slice())?;
            row
        };
        commit.commit()?;
        Ok(row)
    }

    /// Entries after number `after`, oldest first, until `each` says `false`.
    pub fn each_audit(&self, after: u64, mut each: impl FnMut(AuditRow) -> bool) -> Result<(), CatalogueError> {
        let table = self.database.begin_read()?.open_table(AUDIT)?;
        for row in table.range(after.saturating_add(1).to_be_bytes().as_slice()..)? {
            if !each(decode(row?.1.value(), "audit")?) {
                break;
            }
        }
        Ok(())
    }

    /// Entries before number `before`, newest first, until `each` says `false`.
    pub fn each_audit_back(&self, before: u64, mut each: impl FnMut(AuditRow) -> bool) -> Result<(), CatalogueError> {
        let table = self.database.begin_read()?.open_table(AUDIT)?;
        for row in table.range(..before.to_be_bytes().as_slice())?.rev() {
            if !each(decode(row?.1.value(), "audit")?) {
                break;
            }
        }
        Ok(())
    }

    /// Entries of the audit log.
    pub fn audit_len(&self) -> Result<u64, CatalogueError> {
        Ok(self.database.begin_read()?.open_table(AUDIT)?.len()?)
    }
}

pub(super) fn last_number(table: &impl ReadableTable<&'static [u8], &'static [u8]>) -> Result<u64, CatalogueError> {
    let Some((key, _)) = table.last()? else { return Ok(0) };
    let number = key.value().try_into().map(u64::from_be_bytes);
    number.map_err(|_| CatalogueError::Corrupt("approvals"))
}
