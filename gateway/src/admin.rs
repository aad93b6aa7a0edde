//! What operators ask for: one request enum, handled in one place, by the running daemon over its socket or by the command itself.
//!
//! Every handler blocks; long ones report progress and stop when they are told to.

mod handlers;
mod judge;
mod people;
pub mod policy;
pub mod render;
pub mod socket;

pub use handlers::{Admin, watch};
pub use judge::Fault;
pub use people::{AccountLine, ApprovalLine, AuditFormat, Proposal, ProposedDocument, TokenLine};
pub use policy::{Bending, PolicyAnswer, PolicyRequest, Signature};

use crate::access::Role;
use crate::catalogue::AuditRow;
use crate::rehydrate;
use dedupe::UnixMillis;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Make a one-time token for a site, which is made if there is none.
    Token {
        /// The tenant's name.
        tenant: String,
        /// The site's name.
        site: String,
        /// Seconds that the token is good for.
        valid_seconds: u64,
    },
    /// List sites.
    Sites,
    /// List volumes.
    Volumes,
    /// List the generations of a volume.
    Generations {
        /// `SITE/VOLUME` or `TENANT/SITE/VOLUME`.
        volume: String,
    },
    /// Rebuild a generation on a file or block device.
    Rehydrate {
        /// `SITE/VOLUME` or `TENANT/SITE/VOLUME`.
        volume: String,
        /// `latest`, a number, or an id.
        generation: String,
        /// Absolute path of the target.
        to: PathBuf,
        /// Read back only what was written.
        quick: bool,
        /// Only say what would be done.
        plan: bool,
    },
    /// Refuse a site's certificates from now on and end its session.
    Revoke {
        /// The site's name.
        site: String,
    },
    /// Copy catalogue and keys to a directory.
    Backup {
        /// Absolute path of a directory that is empty or not there.
        to: PathBuf,
        /// Absolute path of a file whose first line is the passphrase.
        passphrase_file: Option<PathBuf>,
    },
    /// Make the indexes of all tenants anew from their packs. Not while the daemon runs.
    Rebuild,
    /// Give back what no generation needs.
    Gc {
        /// Only say what would be done.
        plan: bool,
    },
    /// Read everything and name what is damaged.
    Scrub,
    /// Work with the authorities.
    Authority(Authority),
    /// Work with policies, and report what lines were used for.
    Policy(PolicyRequest),
    /// What the daemon and its workers are doing.
    Status,
    /// Read a generation from the store and compare it with its root.
    Verify {
        /// `SITE/VOLUME` or `TENANT/SITE/VOLUME`.
        volume: String,
        /// `latest`, a number, or an id.
        generation: String,
    },
    /// Make a tenant.
    Tenant {
        /// Its name.
        name: String,
    },
    /// Make a site, if there is none of that name.
    Site {
        /// The tenant's name; it is made if there is none.
        tenant: String,
        /// The site's name.
        site: String,
    },
    /// Set the share of a disk's time that a worker may take.
    Tranquillity {
        /// The worker's name: `collection` or `scrub`.
        worker: String,
        /// Per cent, 1 to 100.
        share: u32,
    },
    /// Work with accounts.
    Account(AccountRequest),
    /// List what waits for a second person, or was answered.
    Approvals {
        /// Also those that were answered.
        all: bool,
    },
    /// Answer what waits for a second person.
    Answer {
        /// Its number.
        number: u64,
        /// Whether it is done.
        approve: bool,
        /// Why.
        reason: String,
    },
    /// Read the audit log.
    Audit {
        /// Entries after this number.
        after: u64,
        /// So many at most.
        most: usize,
    },
    /// Check that no entry of the audit log was changed, taken out or put in.
    AuditCheck,
}

impl Request {
    /// Whether it changes nothing.
    pub fn only_looks(&self) -> bool {
        use PolicyRequest as P;
        matches!(
            self,
            Request::Sites
                | Request::Volumes
                | Request::Generations { .. }
                | Request::Status
                | Request::Approvals { .. }
                | Request::Audit { .. }
                | Request::AuditCheck
                | Request::Authority(Authority::List)
                | Request::Gc { plan: true }
                | Request::Rehydrate { plan: true, .. }
                | Request::Account(AccountRequest::List | AccountRequest::Tokens { .. })
                | Request::Policy(
                    P::Show { .. } | P::Preview { .. } | P::History { .. } | P::Overrides { .. } | P::Report { .. }
                )
        )
    }
}

/// What to do with accounts and API tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum AccountRequest {
    /// List accounts.
    List,
    /// Make one.
    Add {
        /// Its name.
        name: String,
        /// What it may do.
        role: Role,
        /// The tenant that it is for; `None`: the whole gateway.
        tenant: Option<String>,
    },
    /// Change what one may do.
    Change {
        /// Its name.
        name: String,
        /// Another role.
        role: Option<Role>,
        /// Whether it may sign in.
        disabled: Option<bool>,
    },
    /// Give it a new password, to be changed at once.
    ResetPassword {
        /// Its name.
        name: String,
    },
    /// Remove it, with its tokens.
    Remove {
        /// Its name.
        name: String,
    },
    /// List the API tokens of an account.
    Tokens {
        /// The account.
        account: String,
    },
    /// Make an API token.
    AddToken {
        /// The account that it acts for.
        account: String,
        /// What it is for.
        label: String,
        /// What it may do.
        role: Role,
        /// How many days it is good for.
        days: u32,
    },
    /// Take an API token back.
    RemoveToken {
        /// The account.
        account: String,
        /// Its id.
        id: String,
    },
}

/// What to do with the authorities.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", content = "number", rename_all = "kebab-case")]
pub enum Authority {
    /// Show them.
    List,
    /// Make a further one, which edges learn to trust when they renew.
    Add,
    /// Let this one sign.
    Use(u32),
    /// Trust this one no more.
    Retire(u32),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// A token, secret: for the person who enrols the edge.
    Token {
        /// The token.
        token: String,
        /// The site's name.
        site: String,
        /// Until when it is good.
        valid_until: UnixMillis,
    },
    /// Sites.
    Sites {
        /// By tenant and name.
        sites: Vec<SiteLine>,
    },
    /// Volumes.
    Volumes {
        /// By tenant, site and name.
        volumes: Vec<VolumeLine>,
    },
    /// Generations.
    Generations {
        /// Oldest first.
        generations: Vec<GenerationLine>,
    },
    /// What would be written.
    Plan {
        /// The plan.
        plan: rehydrate::Plan,
    },
    /// A generation was rebuilt and proved.
    Rehydrated {
        /// How.
        done: rehydrate::Done,
    },
    /// A site is revoked.
    Revoked {
        /// Its name.
        site: String,
        /// Whether a session of it was ended.
        was_connected: bool,
    },
    /// A backup was made.
    BackedUp {
        /// Where.
        to: PathBuf,
        /// Whether the keys in it are encrypted.
        encrypted: bool,
    },
    /// Indexes were made anew.
    Rebuilt {
        /// Tenants.
        tenants: usize,
        /// Volumes found.
        volumes: usize,
        /// Generations found.
        generations: usize,
        /// Sites that had to be given a name made from their id.
        unnamed_sites: Vec<String>,
    },
    /// What a collection would do, or did.
    Gc {
        /// One sentence per tenant.
        plans: Vec<String>,
        /// Bytes given back; `None`: only planned.
        freed_bytes: Option<u64>,
    },
    /// What a scrub found.
    Scrubbed {
        /// One sentence for each damage.
        damages: Vec<String>,
        /// How many of them were mended from their second copy.
        mended: usize,
        /// Generations whose edges were asked for blocks.
        asked: usize,
        /// Generations whose edges are asked when they connect.
        waiting: usize,
    },
    /// The authorities.
    Authorities {
        /// Number, fingerprint, whether it signs.
        authorities: Vec<(u32, String, bool)>,
    },
    /// What came of a request about policies.
    Policy(PolicyAnswer),
    /// The daemon's state.
    Status {
        /// Whether this is a running daemon.
        running: bool,
        /// Sites with a session.
        connected: usize,
        /// Workers: name and what each is doing.
        workers: Vec<(String, String)>,
    },
    /// A generation in the store is what was captured.
    Verified {
        /// Its number.
        number: u64,
        /// Its root.
        root: String,
        /// Bytes that were read.
        bytes: u64,
    },
    /// A tenant is there.
    Tenant {
        /// Its name.
        tenant: String,
    },
    /// A site is there.
    Site {
        /// Its name.
        site: String,
        /// Whether it was made just now.
        made: bool,
    },
    /// Accounts.
    Accounts {
        /// By name.
        accounts: Vec<AccountLine>,
    },
    /// An account was made, or got a new password: to be handed to whom it belongs, and changed at the first sign-in.
    AccountSecret {
        /// Its name.
        name: String,
        /// The password, secret.
        password: String,
    },
    /// API tokens.
    ApiTokens {
        /// Oldest first.
        tokens: Vec<TokenLine>,
    },
    /// An API token was made.
    ApiTokenSecret {
        /// Its id.
        id: String,
        /// The token, secret.
        token: String,
    },
    /// It is done.
    Done {
        /// What, in a sentence.
        what: String,
    },
    /// A second person has to agree first.
    Waiting {
        /// The number under which they find it.
        number: u64,
        /// Why.
        causes: Vec<String>,
    },
    /// What waits for a second person.
    Approvals {
        /// Newest first.
        approvals: Vec<ApprovalLine>,
    },
    /// Entries of the audit log.
    Audit {
        /// Oldest first.
        entries: Vec<AuditRow>,
    },
    /// The audit log is whole.
    AuditWhole {
        /// Entries.
        entries: u64,
        /// Hash of the last one: whoever noted it before can see that nothing before it was changed.
        last: String,
    },
}

/// A site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteLine {
    /// Whose it is.
    pub tenant: String,
    /// Its name.
    pub site: String,
    /// Its id.
    pub id: String,
    /// `connected`, `away`, `never enrolled`, `revoked`.
    pub state: String,
    /// When a session last began or ended.
    pub seen: Option<UnixMillis>,
    /// The edge's software.
    pub software: String,
    /// What the edge said last about itself.
    pub doing: String,
    /// Version of its policy, if it has one.
    pub policy: Option<u64>,
    /// Version of the policy that the edge says it holds; `None`: it never said, 0: none.
    pub policy_held: Option<u64>,
    /// Why the edge refused the policy that it was sent last.
    pub policy_refused: Option<String>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VolumeLine {
    /// Whose it is.
    pub tenant: String,
    /// Its site.
    pub site: String,
    /// Its name.
    pub volume: String,
    /// Its lineage.
    pub lineage: String,
    /// Sealed generations.
    pub generations: usize,
    /// Number of the newest sealed one.
    pub latest: Option<u64>,
    /// When that was captured.
    #[schema(value_type = Option<u64>)]
    pub captured: Option<UnixMillis>,
    /// Size of the volume in bytes then.
    pub size: u64,
    /// Parcels of a generation that is arriving.
    pub arriving: Option<u32>,
}

/// A generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct GenerationLine {
    /// Its number.
    pub number: u64,
    /// Its id.
    pub id: String,
    /// When it was captured.
    #[schema(value_type = u64)]
    pub captured: UnixMillis,
    /// When it was proved here; `None`: still arriving.
    #[schema(value_type = Option<u64>)]
    pub sealed: Option<UnixMillis>,
    /// Size of the volume in bytes.
    pub size: u64,
    /// Bytes that were new.
    pub new_bytes: u64,
    /// Bytes of its parcels as they travelled.
    pub coded_bytes: u64,
    /// Its root.
    pub root: Option<String>,
}

/// How far a long command is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What is being done.
    pub phase: String,
    /// Bytes done of this phase.
    pub done: u64,
    /// Bytes to do, 0 when unknown.
    pub total: u64,
    /// Bytes written so far.
    pub written: u64,
}

/// Why a request was not fulfilled.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The state failed.
    #[error(transparent)]
    State(#[from] crate::state::StateError),
    /// The catalogue refused.
    #[error(transparent)]
    Catalogue(#[from] crate::catalogue::CatalogueError),
    /// An authority refused.
    #[error(transparent)]
    Ca(#[from] crate::ca::CaError),
    /// A store failed.
    #[error("the store: {0}")]
    Store(#[from] dedupe::StoreError),
    /// A target failed.
    #[error(transparent)]
    Rehydrate(#[from] rehydrate::RehydrateError),
    /// A backup failed.
    #[error(transparent)]
    Backup(#[from] crate::backup::BackupError),
    /// A policy was not changed or read.
    #[error(transparent)]
    Policy(#[from] crate::policies::ChangeError),
    /// A rate is none.
    #[error(transparent)]
    Rate(shaping::ParseRateError),
    /// A class is none.
    #[error("`{0}` is no class of volumes: write critical, normal or bulk")]
    Class(String),
    /// It is not said for whom a policy is.
    #[error("say for whom the policy is: for one site by --site, or for all sites of a tenant by --all-of")]
    Whose,
    /// A volume's name is not one.
    #[error(
        "`{0}` does not name a volume: write SITE/VOLUME, or TENANT/SITE/VOLUME; `sluice-gateway volumes` lists them"
    )]
    VolumeName(String),
    /// No such volume.
    #[error("there is no volume `{0}`; `sluice-gateway volumes` lists those that there are")]
    NoVolume(String),
    /// No such generation.
    #[error(
        "volume `{volume}` has no sealed generation `{generation}`; `sluice-gateway generations {volume}` lists those that there are"
    )]
    NoGeneration {
        /// The volume.
        volume: String,
        /// What was asked for.
        generation: String,
    },
    /// Edges could not reach the gateway with such a token.
    #[error(
        "no address is known under which edges reach this gateway; set `addresses` in the configuration, or `init --address HOST:PORT`"
    )]
    NoAddress,
    /// Not while the daemon runs.
    #[error("the daemon is running; stop it first, then run this again")]
    Running,
    /// Asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// Not theirs to do.
    #[error(transparent)]
    Forbidden(#[from] crate::access::Forbidden),
    /// An account was not made or changed.
    #[error(transparent)]
    Account(#[from] crate::access::accounts::AccountError),
    /// There is nothing under that number.
    #[error("nothing waits for approval under number {0}; `sluice-gateway approval list` shows what does")]
    NoApproval(u64),
    /// Somebody has answered.
    #[error("number {0} was answered already, by {1}")]
    Answered(u64, String),
    /// Nobody answered in time.
    #[error("number {0} waited too long for an answer: whoever wants it has to ask again")]
    Expired(u64),
    /// One person is not two.
    #[error("who asks for a change cannot agree to it: somebody else has to")]
    OwnRequest,
    /// Something else was looked at.
    #[error(
        "the policy of site `{0}` was changed since this was asked for: whoever wants it has to look at it and ask again"
    )]
    Stale(String),
    /// The audit log is not what was written.
    #[error(
        "the audit log was changed: entry {0} does not follow from the one before it. Compare with what was exported, and find out who had access to the gateway's state"
    )]
    AuditBroken(u64),
    /// A generation is not what was captured.
    #[error(
        "generation {number} reads as {found} instead of {wanted}: the store is damaged; run `sluice-gateway scrub`, which asks the edge for what is broken"
    )]
    Mismatch {
        /// Its number.
        number: u64,
        /// What it hashes to.
        found: String,
        /// Its root.
        wanted: String,
    },
    /// Where it may not be written from afar.
    #[error("`{0}` does not lie in a folder for targets: name one below {1}")]
    Outside(String, String),
    /// Nowhere may be written from afar.
    #[error(
        "no folder for targets is set: write `targets = [\"/srv/targets\"]` under `[web]` in the gateway's configuration, or use the command line"
    )]
    NoTargets,
    /// No worker whose share can be set.
    #[error("there is no worker `{0}` whose share of the disk's time can be set: name `collection` or `scrub`")]
    NoWorker(String),
    /// No share.
    #[error("{0} % is no share of the disk's time: write a whole number from 1 to 100")]
    Share(u32),
    /// Only for commands.
    #[error("this can only be asked for on the gateway's own machine: `sluice-gateway {0}`")]
    CommandLineOnly(&'static str),
}

/// Ids as text in JSON.
pub(crate) mod as_text {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::fmt::Display;
    use std::str::FromStr;

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T: FromStr, D: Deserializer<'de>>(from: D) -> Result<T, D::Error>
    where
        T::Err: Display,
    {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}
