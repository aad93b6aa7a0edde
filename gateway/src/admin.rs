//! What operators ask for: one request enum, handled in one place, by the running daemon over its socket or by the command itself.
//!
//! Every handler blocks; long ones report progress and stop when they are told to.

mod answer;
mod domains;
mod exports;
mod handlers;
mod judge;
mod people;
pub mod policy;
mod proofs;
mod releases;
pub mod render;
mod request;
mod retention;
mod seeds;
pub mod socket;
pub mod targets;

pub use crate::catalogue::Term;
pub use answer::{Answer, GenerationLine, Report, SiteLine, VolumeLine};
pub use domains::{DomainDisk, DomainLine, DomainRequest, DomainRow};
pub use exports::{ExportLine, ExportRequest};
pub use handlers::{Admin, watch};
pub use judge::Fault;
pub use people::{AccountLine, ApprovalLine, AuditFormat, Proposal, ProposedDocument, TokenLine};
pub use policy::{Bending, PolicyAnswer, PolicyRequest, Signature};
pub use proofs::{ProofAnswer, ProofLine, ProofRequest, StatementKeyLine};
pub use releases::{
    ReleaseAnswer, ReleaseLine, ReleaseRequest, RingLine, RolloutAnswer, RolloutLine, RolloutRequest, StepLine,
    VersionLine,
};
pub use request::{AccountRequest, Authority, Request};
pub use retention::{LockLine, On, PendingLine, RetentionAnswer, RetentionRequest};
pub use seeds::{CustodyLine, SeedAnswer, SeedLine, SeedRequest};
pub use targets::{TargetAnswer, TargetRequest};

use crate::rehydrate;

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
    /// An export failed.
    #[error(transparent)]
    Export(#[from] crate::export::ExportError),
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
    /// No such target.
    #[error("there is no target `{0}`; `sluice-gateway target list` lists those that there are")]
    NoTarget(String),
    /// No such domain.
    #[error("there is no domain `{0}`; `sluice-gateway domain list` shows those that there are")]
    NoDomain(String),
    /// There is one of that name.
    #[error("there is a domain `{0}` already; remove it first, or choose another name")]
    DomainExists(String),
    /// One change at a time.
    #[error("another change of a domain is under way; ask again in a moment")]
    DomainBusy,
    /// No machines from afar.
    #[error(
        "no libvirt is set: write `libvirt = \"qemu:///system\"` under `[web]` in the gateway's configuration, or use the command line"
    )]
    NoLibvirt,
    /// What it holds is no file here.
    #[error("what target `{0}` holds is no disk of this machine; a domain needs raw files, a device or qcow2")]
    NoDisk(String),
    /// Nothing to boot from.
    #[error(
        "target `{target}` holds no such point of `{volume}`; `sluice-gateway target points {target}` lists those that there are"
    )]
    NoPoint {
        /// The target.
        target: String,
        /// The volume, with its number.
        volume: String,
    },
    /// A domain stands on it.
    #[error(
        "domain `{domain}` stands on what target `{target}` holds of this volume, which would be written over: remove the domain first"
    )]
    UnderDomain {
        /// The domain.
        domain: String,
        /// The target.
        target: String,
    },
    /// Several tenants have one of that name.
    #[error("several tenants have a target `{0}`; write TENANT/{0}")]
    AmbiguousTarget(String),
    /// There is one of that name.
    #[error("there is a target `{0}` already; remove it first, or choose another name")]
    TargetExists(String),
    /// Somebody still wants it.
    #[error("target `{0}` is kept at the latest of {1} volumes; end that first: `sluice-gateway target release`")]
    TargetInUse(String, usize),
    /// Another tenant's.
    #[error("target `{target}` is not of the tenant of volume `{volume}`")]
    ForeignTarget {
        /// The target.
        target: String,
        /// The volume.
        volume: String,
    },
    /// Nothing of that kind.
    #[error("there is no run `{0}` that is not over; `sluice-gateway target runs` lists them")]
    NoRun(String),
    /// Nothing of that kind.
    #[error("target `{target}` is not kept at the latest of `{volume}`; `sluice-gateway target orders` lists what is")]
    NoOrder {
        /// The target.
        target: String,
        /// The volume.
        volume: String,
    },
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
    /// Something is kept, or not deleted.
    #[error(transparent)]
    Retention(#[from] crate::retention::RetentionError),
    /// A release or a roll-out.
    #[error(transparent)]
    Releases(#[from] crate::releases::ReleasesError),
    /// Media were not imported.
    #[error(transparent)]
    Import(#[from] crate::seeds::import::ImportError),
    /// No such seed.
    #[error("there is no seed `{0}`; `sluice-gateway seed list` lists those that there are")]
    NoSeed(String),
    /// That does not follow.
    #[error(
        "seed {id} is {is}, which cannot become {cannot}; `sluice-gateway seed show {id}` says what happened to it"
    )]
    SeedState {
        /// Which.
        id: String,
        /// How it stands.
        is: String,
        /// What was wanted.
        cannot: &'static str,
    },
    /// What waits for a seed.
    #[error(transparent)]
    Waiting(crate::seeds::WaitError),
    /// One import at a time.
    #[error("an import of media is under way; its command shows how far it is")]
    Importing,
    /// There is no proof under that number.
    #[error("there is no proof {0}; `sluice-gateway proof list` lists those that there are")]
    NoProof(u64),
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
    /// Somebody else's.
    #[error("`{0}` is not free: something else is kept there; choose another place")]
    NotFree(String),
    /// Credentials may not come from there when somebody says so from afar. Names no path that was asked for: it may be a secret in the wrong field.
    #[error(
        "credentials come from a file below {0}: put the file there (mode 600) and name its path; a secret itself is never sent"
    )]
    OutsideCredentials(String),
    /// Credentials may be named on the machine only.
    #[error(
        "no folder for credentials is set: write `credentials = [\"/etc/sluice/credentials\"]` under `[web]` in the gateway's configuration, or set the target up on the command line"
    )]
    NoCredentials,
    /// The daemon's environment is that of the whole gateway.
    #[error(
        "the daemon's environment is for targets that an administrator of the whole gateway sets up; name a file of credentials"
    )]
    NotTheirEnvironment,
    /// An order says otherwise.
    #[error(
        "target `{target}` is kept at the latest of `{volume}`: let that rest first (`sluice-gateway target pause`), or the latest would be put over it"
    )]
    KeptAtLatest {
        /// The target.
        target: String,
        /// The volume.
        volume: String,
    },
    /// Something is on its way there.
    #[error("{1} runs to target `{0}` are not over; let them end, or give them up: `sluice-gateway target runs`")]
    TargetHasRuns(String, usize),
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
