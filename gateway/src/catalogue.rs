//! Tenants, sites, tokens and certificates: what the gateway knows beside the stores. One redb file, `catalogue.redb`.
//!
//! What it knows of lines (policies, audit, evidence) is in `catalogue/policies.rs`, of people and programs in `catalogue/people.rs`, what edges
//! told in `catalogue/telemetry.rs`, of targets and what was put there in `catalogue/rehydrations.rs`, what it stated and signed in `catalogue/proofs.rs`,
//! what may not be deleted and what is to be in `catalogue/retention.rs`, releases of the appliance's system in `catalogue/releases.rs`,
//! seeds by courier in `catalogue/seeds.rs`.
//!
//! The API is the narrow waist for a shared database later: each method is one transaction, and nothing of redb shows.

mod people;
mod policies;
mod proofs;
mod rehydrations;
mod releases;
mod retention;
mod seeds;
mod telemetry;

pub use people::{Account, Answered, ApiToken, Approval, AuditRow, NewAudit};
pub use policies::{EdgePolicy, LineChange, LineEvent, PolicyRow};
pub use proofs::{NewProof, Proof};
pub use releases::{ApplianceRow, ReleaseRow};
pub use retention::{Deed, Lock, LockOn, Pending, PendingState, Term};

use dedupe::{SiteId, TenantId, UnixMillis};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use wire::identity::Serial;
use wire::message::MAX_NAME;
use wire::token::{Secret, SecretHash};

type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

// Keys are ids of 16 bytes (settings: names), values are postcard. A table's name ends in the number of its format.
const SETTINGS: Table = TableDefinition::new("settings_v1");
const TENANTS: Table = TableDefinition::new("tenants_v1");
const SITES: Table = TableDefinition::new("sites_v1");
const TOKENS: Table = TableDefinition::new("tokens_v1");
const CERTIFICATES: Table = TableDefinition::new("certificates_v1");

/// Memory for the catalogue's pages: a site is some 200 bytes, so this holds tens of thousands.
const CACHE: usize = 8 << 20;

/// A customer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: UnixMillis,
}

/// A branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Its id.
    pub id: SiteId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name, unique within the tenant.
    pub name: String,
    /// When it was made.
    pub created: UnixMillis,
    /// Since when none of its certificates is accepted; a new token lifts it.
    pub revoked: Option<UnixMillis>,
    /// When a session of it last began or ended.
    pub seen: Option<UnixMillis>,
    /// The edge's software version at that time.
    pub software: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct TokenRow {
    site: SiteId,
    hash: SecretHash,
    valid_until: UnixMillis,
    /// The key that used it up and the certificate that it got: an edge whose answer was lost asks again.
    used: Option<Used>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Used {
    key: [u8; 32],
    certificate: Vec<u8>,
}

#[derive(Debug, Serialize, Deserialize)]
struct CertificateRow {
    site: SiteId,
    valid_until: UnixMillis,
    revoked: Option<UnixMillis>,
}

/// What a new certificate is for.
#[derive(Clone, Debug)]
pub struct NewCertificate {
    /// DER.
    pub certificate: Vec<u8>,
    /// Its number.
    pub serial: Serial,
    /// End of its validity.
    pub valid_until: UnixMillis,
}

/// What became of an enrolment.
#[derive(Debug)]
pub struct Enrolled {
    /// The site, not revoked any more.
    pub site: Site,
    /// The certificate to hand out.
    pub certificate: Vec<u8>,
}

/// Why a catalogue operation failed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The file is open elsewhere.
    #[error("the catalogue {0} is in use: another gateway runs on this state directory")]
    InUse(PathBuf),
    /// The file is not there.
    #[error("there is no catalogue at {0}; `sluice-gateway init` makes one, or restore the state from a backup")]
    None(PathBuf),
    /// The database failed.
    #[error("the catalogue: {0}; if it is damaged, restore it from a backup")]
    Database(#[from] Box<redb::Error>),
    /// A row does not decode.
    #[error("the catalogue is damaged in {0}; restore it from a backup")]
    Corrupt(&'static str),
    /// No tenant of that name.
    #[error("there is no tenant `{0}`; `sluice-gateway sites` lists tenants and sites")]
    NoTenant(String),
    /// No site of that name.
    #[error("there is no site `{0}`; `sluice-gateway sites` lists tenants and sites")]
    NoSite(String),
    /// Several tenants have a site of that name.
    #[error("several tenants have a site `{0}`; write TENANT/{0}")]
    Ambiguous(String),
    /// A name cannot be one.
    #[error(
        "`{0}` cannot be a name: use 1 to 100 letters, digits, `-`, `_` and `.`, without `/`, spaces or control characters"
    )]
    Name(String),
    /// The token is unknown, used up, expired, or its secret is wrong. Which of them is only for the gateway's log.
    #[error("the token is not valid: it is {0}")]
    Token(&'static str),
}

macro_rules! from_redb {
    ($($kind:ty),*) => {$(
        impl From<$kind> for CatalogueError {
            fn from(error: $kind) -> Self {
                CatalogueError::Database(Box::new(error.into()))
            }
        }
    )*};
}
from_redb!(redb::TransactionError, redb::TableError, redb::StorageError, redb::CommitError, redb::CompactionError);

/// See the module's documentation.
#[derive(Debug)]
pub struct Catalogue {
    database: Database,
}

impl Catalogue {
    /// Makes a catalogue where there is none.
    pub fn create(path: &Path) -> Result<Catalogue, CatalogueError> {
        let opened = redb::Builder::new().set_cache_size(CACHE).create(path);
        let catalogue = Catalogue { database: opened.map_err(|error| unopened(error, path))? };
        let commit = catalogue.database.begin_write()?;
        for table in tables() {
            commit.open_table(table)?;
        }
        commit.commit()?;
        Ok(catalogue)
    }

    /// Opens a catalogue, for this process alone.
    pub fn open(path: &Path) -> Result<Catalogue, CatalogueError> {
        if !path.exists() {
            return Err(CatalogueError::None(path.to_owned()));
        }
        Self::create(path)
    }

    // ---- settings

    /// Addresses that edges are told.
    pub fn addresses(&self) -> Result<Vec<String>, CatalogueError> {
        Ok(self.one(SETTINGS, b"addresses", "settings")?.unwrap_or_default())
    }

    /// Sets the addresses that edges are told.
    pub fn set_addresses(&self, addresses: &[String]) -> Result<(), CatalogueError> {
        self.put(SETTINGS, b"addresses", &addresses)
    }

    /// The last time that was known to have passed; certificates are judged by nothing earlier.
    pub fn known_time(&self) -> Result<UnixMillis, CatalogueError> {
        Ok(self.one(SETTINGS, b"known_time", "settings")?.unwrap_or_default())
    }

    /// Notes that this time has passed.
    pub fn set_known_time(&self, time: UnixMillis) -> Result<(), CatalogueError> {
        self.put(SETTINGS, b"known_time", &time)
    }

    /// The share of a disk's time, per cent, of the workers for which one was set, by name.
    pub fn tranquillity(&self) -> Result<BTreeMap<String, u8>, CatalogueError> {
        Ok(self.one(SETTINGS, b"tranquillity", "settings")?.unwrap_or_default())
    }

    /// Sets the share of a disk's time that a worker may take, per cent.
    pub fn set_tranquillity(&self, worker: &str, share: u8) -> Result<(), CatalogueError> {
        let mut shares = self.tranquillity()?;
        shares.insert(worker.to_owned(), share);
        self.put(SETTINGS, b"tranquillity", &shares)
    }

    // ---- tenants and sites

    /// The tenant of that name, made if there is none.
    pub fn tenant(&self, name: &str, now: UnixMillis) -> Result<Tenant, CatalogueError> {
        check_name(name)?;
        if let Some(tenant) = self.tenants()?.into_iter().find(|tenant| tenant.name == name) {
            return Ok(tenant);
        }
        let tenant = Tenant { id: TenantId::random(), name: name.to_owned(), created: now };
        self.put(TENANTS, &tenant.id.0, &tenant)?;
        Ok(tenant)
    }

    /// Takes a tenant up again under the id that its folder has; after a catalogue was lost.
    pub fn recover_tenant(&self, tenant: &Tenant) -> Result<(), CatalogueError> {
        self.put(TENANTS, &tenant.id.0, tenant)
    }

    /// Takes a site up again under the id that its lineages name; after a catalogue was lost.
    pub fn recover_site(&self, site: &Site) -> Result<(), CatalogueError> {
        self.put(SITES, &site.id.0, site)
    }

    /// All tenants, by name.
    pub fn tenants(&self) -> Result<Vec<Tenant>, CatalogueError> {
        let mut tenants: Vec<Tenant> = self.all(TENANTS, "tenants")?;
        tenants.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(tenants)
    }

    /// The tenant of that name.
    pub fn find_tenant(&self, name: &str) -> Result<Tenant, CatalogueError> {
        let found = self.tenants()?.into_iter().find(|tenant| tenant.name == name);
        found.ok_or_else(|| CatalogueError::NoTenant(crate::text::printable(name)))
    }

    /// All sites, by name.
    pub fn sites(&self) -> Result<Vec<Site>, CatalogueError> {
        let mut sites: Vec<Site> = self.all(SITES, "sites")?;
        sites.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(sites)
    }

    /// One site.
    pub fn site(&self, id: SiteId) -> Result<Option<Site>, CatalogueError> {
        self.one(SITES, &id.0, "sites")
    }

    /// The site of that name: `SITE`, or `TENANT/SITE` where several tenants have one.
    pub fn find_site(&self, name: &str) -> Result<Site, CatalogueError> {
        let (tenant, site) = match name.split_once('/') {
            Some((tenant, site)) => (Some(self.find_tenant(tenant)?.id), site),
            None => (None, name),
        };
        let mut found = self.sites()?;
        found.retain(|known| known.name == site && tenant.is_none_or(|tenant| tenant == known.tenant));
        match found.len() {
            0 => Err(CatalogueError::NoSite(crate::text::printable(name))),
            1 => Ok(found.remove(0)),
            _ => Err(CatalogueError::Ambiguous(crate::text::printable(name))),
        }
    }

    /// The site of that name of a tenant, made if there is none. Says whether it was made.
    pub fn add_site(&self, tenant: &Tenant, name: &str, now: UnixMillis) -> Result<(Site, bool), CatalogueError> {
        check_name(name)?;
        let known = self.sites()?.into_iter().find(|known| known.tenant == tenant.id && known.name == name);
        if let Some(known) = known {
            return Ok((known, false));
        }
        let site = new_site(tenant, name, now);
        self.put(SITES, &site.id.0, &site)?;
        Ok((site, true))
    }

    /// Notes that a session of the site began or ended.
    pub fn note_seen(&self, id: SiteId, software: &str, now: UnixMillis) -> Result<(), CatalogueError> {
        let Some(mut site) = self.site(id)? else { return Ok(()) };
        site.seen = Some(now);
        site.software = software.chars().take(MAX_NAME).collect();
        self.put(SITES, &id.0, &site)
    }

    /// Refuses all of a site's certificates from now on. Repeating it is harmless.
    pub fn revoke(&self, id: SiteId, now: UnixMillis) -> Result<(), CatalogueError> {
        let commit = self.database.begin_write()?;
        {
            let mut sites = commit.open_table(SITES)?;
            let row = sites.get(id.0.as_slice())?.map(|row| row.value().to_vec());
            let mut site: Site = decode(&row.ok_or_else(|| CatalogueError::NoSite(id.to_string()))?, "sites")?;
            site.revoked = site.revoked.or(Some(now));
            sites.insert(id.0.as_slice(), encode(&site).as_slice())?;
            revoke_certificates(&commit, id, now)?;
        }
        Ok(commit.commit()?)
    }

    // ---- tokens and certificates

    /// Makes a token for a site, which is made if there is none of that name.
    pub fn add_token(
        &self,
        tenant: &Tenant,
        site: &str,
        token: &wire::token::Token,
        valid_until: UnixMillis,
        now: UnixMillis,
    ) -> Result<Site, CatalogueError> {
        check_name(site)?;
        let known = self.sites()?.into_iter().find(|known| known.tenant == tenant.id && known.name == site);
        let site = known.unwrap_or_else(|| new_site(tenant, site, now));
        let row = TokenRow { site: site.id, hash: token.secret.hash(), valid_until, used: None };
        let commit = self.database.begin_write()?;
        commit.open_table(SITES)?.insert(site.id.0.as_slice(), encode(&site).as_slice())?;
        commit.open_table(TOKENS)?.insert(token.id.as_slice(), encode(&row).as_slice())?;
        commit.commit()?;
        Ok(site)
    }

    /// Uses a token up: checks it, has a certificate signed, revokes what the site had before. All or nothing.
    ///
    /// The same token with the same key (its name, see [`wire::identity::Authority::key_of`]) gets the same certificate again, as long
    /// as the token is not expired: the answer may have been lost.
    pub fn enrol<E>(
        &self,
        token: &[u8; 16],
        secret: &Secret,
        key: [u8; 32],
        now: UnixMillis,
        sign: impl FnOnce(&Site) -> Result<NewCertificate, E>,
    ) -> Result<Result<Enrolled, E>, CatalogueError> {
        let commit = self.database.begin_write()?;
        let enrolled = {
            let (mut tokens, mut sites) = (commit.open_table(TOKENS)?, commit.open_table(SITES)?);
            let row = tokens.get(token.as_slice())?.map(|row| row.value().to_vec());
            let mut row: TokenRow = decode(&row.ok_or(CatalogueError::Token("unknown"))?, "tokens")?;
            if !row.hash.matches(secret) {
                return Err(CatalogueError::Token("presented with a wrong secret"));
            }
            if now > row.valid_until {
                return Err(CatalogueError::Token("expired"));
            }
            let site = sites.get(row.site.0.as_slice())?.map(|row| row.value().to_vec());
            let mut site: Site = decode(&site.ok_or(CatalogueError::Corrupt("tokens"))?, "sites")?;
            if let Some(used) = row.used {
                return match used.key == key {
                    true => Ok(Ok(Enrolled { site, certificate: used.certificate })),
                    false => Err(CatalogueError::Token("used already")),
                };
            }
            let new = match sign(&site) {
                Ok(new) => new,
                Err(error) => return Ok(Err(error)),
            };
            revoke_certificates(&commit, site.id, now)?;
            insert_certificate(&commit, site.id, &new)?;
            site.revoked = None;
            row.used = Some(Used { key, certificate: new.certificate.clone() });
            tokens.insert(token.as_slice(), encode(&row).as_slice())?;
            sites.insert(site.id.0.as_slice(), encode(&site).as_slice())?;
            Enrolled { site, certificate: new.certificate }
        };
        commit.commit()?;
        Ok(Ok(enrolled))
    }

    /// Notes a renewed certificate. The one before stays good until it expires: the edge may not have got the new one.
    pub fn add_certificate(&self, site: SiteId, new: &NewCertificate) -> Result<(), CatalogueError> {
        let commit = self.database.begin_write()?;
        insert_certificate(&commit, site, new)?;
        Ok(commit.commit()?)
    }

    /// Whether a certificate that TLS has verified is still good: it was issued here and neither it nor its site is revoked.
    pub fn accepts(&self, site: SiteId, serial: Serial) -> Result<bool, CatalogueError> {
        let certificate: Option<CertificateRow> = self.one(CERTIFICATES, &serial.0, "certificates")?;
        let known = certificate.is_some_and(|row| row.site == site && row.revoked.is_none());
        Ok(known && self.site(site)?.is_some_and(|site| site.revoked.is_none()))
    }

    /// Of each site that has certificates which are not revoked: when the last of them ends.
    pub fn certificate_ends(&self) -> Result<HashMap<SiteId, UnixMillis>, CatalogueError> {
        let mut ends = HashMap::new();
        for row in self.all::<CertificateRow>(CERTIFICATES, "certificates")? {
            if row.revoked.is_none() {
                let end = ends.entry(row.site).or_insert(row.valid_until);
                *end = row.valid_until.max(*end);
            }
        }
        Ok(ends)
    }

    /// Tenant and site of each enrolled edge that is not revoked, by name.
    pub fn enrolled_names(&self) -> Result<Vec<(String, String)>, CatalogueError> {
        let tenants: HashMap<TenantId, String> =
            self.tenants()?.into_iter().map(|tenant| (tenant.id, tenant.name)).collect();
        let enrolled = self.certificate_ends()?;
        let sites = self.sites()?.into_iter().filter(|site| site.revoked.is_none() && enrolled.contains_key(&site.id));
        let mut names: Vec<(String, String)> =
            sites.filter_map(|site| Some((tenants.get(&site.tenant)?.clone(), site.name))).collect();
        names.sort();
        Ok(names)
    }

    /// Drops tokens and certificates that expired before `before`; returns how many.
    pub fn tidy(&self, before: UnixMillis) -> Result<usize, CatalogueError> {
        let commit = self.database.begin_write()?;
        let mut dropped = 0;
        {
            let mut tokens = commit.open_table(TOKENS)?;
            tokens.retain(|_, row| {
                let keep = decode::<TokenRow>(row, "tokens").map_or(true, |row| row.valid_until >= before);
                dropped += usize::from(!keep);
                keep
            })?;
            let mut certificates = commit.open_table(CERTIFICATES)?;
            certificates.retain(|_, row| {
                let keep = decode::<CertificateRow>(row, "certificates").map_or(true, |row| row.valid_until >= before);
                dropped += usize::from(!keep);
                keep
            })?;
        }
        commit.commit()?;
        Ok(dropped)
    }

    /// Writes a consistent copy of everything to a new catalogue at `path`, while this one is in use.
    pub fn copy_to(&self, path: &Path) -> Result<(), CatalogueError> {
        let copy = Self::create(path)?;
        let (read, commit) = (self.database.begin_read()?, copy.database.begin_write()?);
        for table in tables() {
            let mut to = commit.open_table(table)?;
            for row in read.open_table(table)?.iter()? {
                let (key, value) = row?;
                to.insert(key.value(), value.value())?;
            }
        }
        Ok(commit.commit()?)
    }

    // ---- rows

    fn one<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &[u8],
        name: &'static str,
    ) -> Result<Option<T>, CatalogueError> {
        let table = self.database.begin_read()?.open_table(table)?;
        table.get(key)?.map(|row| decode(row.value(), name)).transpose()
    }

    fn all<T: DeserializeOwned>(&self, table: Table, name: &'static str) -> Result<Vec<T>, CatalogueError> {
        let table = self.database.begin_read()?.open_table(table)?;
        table.iter()?.map(|row| decode(row?.1.value(), name)).collect()
    }

    fn put<T: Serialize>(&self, table: Table, key: &[u8], row: &T) -> Result<(), CatalogueError> {
        let commit = self.database.begin_write()?;
        commit.open_table(table)?.insert(key, encode(row).as_slice())?;
        Ok(commit.commit()?)
    }
}

/// Every table that there is.
fn tables() -> impl Iterator<Item = Table> {
    let own = [SETTINGS, TENANTS, SITES, TOKENS, CERTIFICATES].into_iter();
    let people = policies::TABLES.into_iter().chain(people::TABLES).chain(telemetry::TABLES);
    let kept = rehydrations::TABLES.into_iter().chain(proofs::TABLES).chain(retention::TABLES);
    own.chain(people).chain(kept).chain(releases::TABLES).chain(seeds::TABLES)
}

fn insert_certificate(
    commit: &redb::WriteTransaction,
    site: SiteId,
    new: &NewCertificate,
) -> Result<(), CatalogueError> {
    let row = CertificateRow { site, valid_until: new.valid_until, revoked: None };
    commit.open_table(CERTIFICATES)?.insert(new.serial.0.as_slice(), encode(&row).as_slice())?;
    Ok(())
}

fn revoke_certificates(commit: &redb::WriteTransaction, site: SiteId, now: UnixMillis) -> Result<(), CatalogueError> {
    let mut table = commit.open_table(CERTIFICATES)?;
    let mut revoked = Vec::new();
    for row in table.iter()? {
        let (key, value) = row?;
        let certificate: CertificateRow = decode(value.value(), "certificates")?;
        if certificate.site == site && certificate.revoked.is_none() {
            revoked.push((key.value().to_vec(), CertificateRow { revoked: Some(now), ..certificate }));
        }
    }
    for (key, row) in revoked {
        table.insert(key.as_slice(), encode(&row).as_slice())?;
    }
    Ok(())
}

fn new_site(tenant: &Tenant, name: &str, now: UnixMillis) -> Site {
    Site {
        id: SiteId::random(),
        tenant: tenant.id,
        name: name.to_owned(),
        created: now,
        revoked: None,
        seen: None,
        software: String::new(),
    }
}

/// Whether a text may be a tenant's, site's or volume's name.
pub fn check_name(name: &str) -> Result<(), CatalogueError> {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    let ok = !name.is_empty() && name.chars().count() <= MAX_NAME && name.chars().all(fits);
    if ok { Ok(()) } else { Err(CatalogueError::Name(crate::text::printable(name))) }
}

fn encode<T: Serialize>(row: &T) -> Vec<u8> {
    postcard::to_stdvec(row).expect("memory takes any row")
}

fn decode<T: DeserializeOwned>(bytes: &[u8], table: &'static str) -> Result<T, CatalogueError> {
    postcard::from_bytes(bytes).map_err(|_| CatalogueError::Corrupt(table))
}

fn unopened(error: redb::DatabaseError, path: &Path) -> CatalogueError {
    match error {
        redb::DatabaseError::DatabaseAlreadyOpen => CatalogueError::InUse(path.to_owned()),
        other => CatalogueError::Database(Box::new(other.into())),
    }
}

#[cfg(test)]
mod tests;
