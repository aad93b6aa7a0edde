//! What operators ask for.

use super::domains::DomainRequest;
use super::exports::ExportRequest;
use super::policy::PolicyRequest;
use super::proofs::ProofRequest;
use super::releases::{ReleaseRequest, RolloutRequest};
use super::retention::RetentionRequest;
use super::seeds::SeedRequest;
use super::targets::TargetRequest;
use crate::access::Role;
use crate::rehydrate::{Proof, Where};
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
    /// Rebuild a generation on a target.
    Rehydrate {
        /// `SITE/VOLUME` or `TENANT/SITE/VOLUME`.
        volume: String,
        /// `latest`, a number, or an id.
        generation: String,
        /// Where.
        to: Where,
        /// How it is proved; `None`: as the target says, or by reading all of it back.
        proof: Option<Proof>,
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
    /// Work with domains of libvirt.
    Domain(DomainRequest),
    /// Serve generations as block devices.
    Export(ExportRequest),
    /// Work with targets.
    Target(TargetRequest),
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
    /// Look at proofs.
    Proof(ProofRequest),
    /// Work with locks, and delete what was kept.
    Retention(RetentionRequest),
    /// Work with releases of the appliance's system.
    Release(ReleaseRequest),
    /// Roll releases out.
    Rollout(RolloutRequest),
    /// Work with seeds by courier.
    Seed(SeedRequest),
}

impl Request {
    /// Whether it changes nothing.
    pub fn only_looks(&self) -> bool {
        use PolicyRequest as P;
        match self {
            Request::Retention(request) => return request.only_looks(),
            Request::Release(request) => return request.only_looks(),
            Request::Rollout(request) => return request.only_looks(),
            Request::Seed(request) => return request.only_looks(),
            _ => {}
        }
        matches!(
            self,
            Request::Sites
                | Request::Volumes
                | Request::Generations { .. }
                | Request::Status
                | Request::Approvals { .. }
                | Request::Audit { .. }
                | Request::AuditCheck
                | Request::Proof(_)
                | Request::Authority(Authority::List)
                | Request::Gc { plan: true }
                | Request::Rehydrate { plan: true, .. }
                | Request::Domain(DomainRequest::List)
                | Request::Export(ExportRequest::List)
                | Request::Target(
                    TargetRequest::List
                        | TargetRequest::Test { .. }
                        | TargetRequest::Points { .. }
                        | TargetRequest::Runs { .. }
                        | TargetRequest::Orders
                )
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
