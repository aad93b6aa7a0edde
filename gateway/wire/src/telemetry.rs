//! What an edge tells of itself, once a minute, in the place of the scrape that cannot reach it through a one-way line.
//!
//! Everything here is a claim of the edge. Figures are those of its own `/metrics`; counters count since its daemon started.
//!
//! ```text
//!   edge: SiteFigures, VolumeFigures ──┬─► series ──► its own /metrics
//!                                      └─► Teller ──► Report ··line··► Hearer ──► gateway: the same figures ──► series ──► /metrics/site/TENANT/SITE
//! ```

mod report;
mod series;

pub use report::{Changes, Hearer, MAX_QUOTAS, MAX_REPORT, Report, ReportError, Teller, VolumeWord};
pub use series::series;

use dedupe::LineageId;
use serde::{Deserialize, Serialize};

/// What it tells of the site. Points in time are seconds since 1970, 0: not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteFigures {
    /// Seconds since the edge's daemon started.
    pub uptime: u32,
    /// Bits per second that hold now, towards the gateway; 0: closed, [`u64::MAX`]: no limit.
    pub allowed: u64,
    /// What decided so: a place in `shaping::policy::REASONS`.
    pub reason: u8,
    /// Until when that holds as far as time alone decides.
    pub until: u32,
    /// IP-level bytes sent in the last 60 s.
    pub sent_minute: u32,
    /// IP-level bytes sent, since the start.
    pub sent: u64,
    /// IP-level bytes received, since the start.
    pub received: u64,
    /// Minutes in which more was sent than was allowed and the bucket's depth: the cap was violated. Counter.
    pub over_minutes: u32,
    /// Round trip of the line when it is idle, microseconds; 0: not measured.
    pub base_round_trip: u32,
    /// Round trip now, smoothed, microseconds; 0: not measured.
    pub round_trip: u32,
    /// Packets sent over both connections. Counter.
    pub packets: u64,
    /// Those that were lost. Counter.
    pub lost: u64,
    /// Bits per second that the last `line-test` found; 0: none was made.
    pub line_rate: u64,
    /// How far the clock is trusted: a place in `synced`, `holdover`, `untrusted`.
    pub clock: u8,
    /// The machine's clock less the trusted time, milliseconds.
    pub clock_skew: i32,
    /// Version of the policy in force; 0: none.
    pub policy: u64,
    /// Of each quota of the policy, in its order: bytes used and limit.
    pub quotas: Vec<(u64, u64)>,
    /// Coded bytes that still have to cross, as far as can be told.
    pub backlog: u64,
    /// When all of that will have crossed by the policy; 0: nothing waits, or nobody can tell.
    pub arrives: u32,
    /// Bytes in the spool.
    pub spool: u64,
    /// Bytes that the spool may take.
    pub spool_limit: u64,
    /// Bytes that are free on the disk of the edge's state.
    pub disk_free: u64,
    /// Size of that disk.
    pub disk_size: u64,
    /// When the edge's certificate ends.
    pub certificate_until: u32,
    /// How many volumes the edge replicates.
    pub volumes: u16,
}

/// What it tells of one volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeFigures {
    /// Its lineage.
    pub lineage: LineageId,
    /// What is done with it.
    pub state: VolumeState,
    /// When its newest generation was captured.
    pub captured: u32,
    /// Bytes of the volume.
    pub size: u64,
    /// Bytes that the newest capture found changed since the one before.
    pub changed: u64,
    /// Of the generation on its way, else of the last one that was sent: bytes that its parcels stand for.
    pub raw: u64,
    /// Their bytes as they travel.
    pub coded: u64,
    /// Coded bytes of the generation on its way that still have to cross, as far as can be told.
    pub left: u64,
    /// When it will have crossed by the policy.
    pub arrives: u32,
    /// When a newer generation has to be at the gateway, so that the newest there is never older than the policy's `lag`.
    pub deadline: u32,
    /// Class: a place in `shaping::policy::VolumeClass::ALL`.
    pub class: u8,
    /// Weight within the class.
    pub weight: u32,
}

/// What is done with a volume. Variants are only ever added at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeState {
    /// The gateway has its newest generation.
    UpToDate,
    /// It was never captured.
    NeverCaptured,
    /// It is being captured, and nothing of it is on its way.
    Capturing,
    /// Its newest generation waits for the line or for a session.
    Waiting,
    /// It is on its way.
    Sending,
    /// The gateway verifies what was sent.
    Verifying,
    /// It waits behind others, or at its cap, or is held.
    Behind,
    /// It is held back by something that passes: no room, a passing refusal.
    Troubled,
    /// It is stopped until a person helps.
    Stopped,
}

impl VolumeState {
    /// In the order of their codes.
    pub const ALL: [VolumeState; 9] = [
        VolumeState::UpToDate,
        VolumeState::NeverCaptured,
        VolumeState::Capturing,
        VolumeState::Waiting,
        VolumeState::Sending,
        VolumeState::Verifying,
        VolumeState::Behind,
        VolumeState::Troubled,
        VolumeState::Stopped,
    ];

    /// The number under which it travels.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The state of a code; one that this build does not know is taken as one that waits.
    pub fn from_code(code: u8) -> VolumeState {
        Self::ALL.get(usize::from(code)).copied().unwrap_or(VolumeState::Waiting)
    }
}
