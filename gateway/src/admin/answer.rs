//! What came of what operators asked for.

use super::domains::DomainLine;
use super::exports::ExportLine;
use super::people::{AccountLine, ApprovalLine, TokenLine};
use super::policy::PolicyAnswer;
use super::proofs::ProofAnswer;
use super::releases::{ReleaseAnswer, RolloutAnswer};
use super::retention::RetentionAnswer;
use super::seeds::SeedAnswer;
use super::targets::TargetAnswer;
use crate::catalogue::AuditRow;
use crate::rehydrate;
use dedupe::UnixMillis;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

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
    /// Domains of libvirt.
    Domains {
        /// By name; after a change that one.
        domains: Vec<DomainLine>,
    },
    /// What is exported.
    Exports {
        /// By name; after a start that one.
        exports: Vec<ExportLine>,
    },
    /// What came of a request about targets.
    Target(TargetAnswer),
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
    /// Proofs.
    Proof(ProofAnswer),
    /// What came of a request about locks and deletions.
    Retention(RetentionAnswer),
    /// What came of a request about releases.
    Release(ReleaseAnswer),
    /// What came of a request about roll-outs.
    Rollout(RolloutAnswer),
    /// What came of a request about seeds by courier.
    Seed(SeedAnswer),
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
    /// Where its seed is, if that travels on media and is not over: `exported`, `shipped`, ….
    #[serde(default)]
    pub seed: Option<String>,
    /// Generations that are complete here and wait for that seed: not to be used before it is in.
    #[serde(default)]
    pub waiting: usize,
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
