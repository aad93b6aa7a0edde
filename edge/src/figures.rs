//! The edge's figures: made here once, for its own `/metrics` and for the telemetry that goes to the gateway.

use crate::daemon::Daemon;
use crate::files;
use crate::gate::Share;
use crate::journal::Cost;
use crate::link::LinkState;
use crate::sender::{Coder, State};
use crate::status::{self, Surroundings, VolumeStatus};
use crate::volume::{CaptureSide, SenderSide, Volume};
use dedupe::{BLOCK, Generation};
use monitoring::Page;
use shaping::Rate;
use shaping::forecast::Work;
use shaping::policy::{ClockTrust, REASONS, VolumeClass};
use shaping::scheduler::Waits;
use std::sync::Arc;
use std::time::Duration;
use wire::clock::machine_time;
use wire::telemetry::{SiteFigures, VolumeFigures, VolumeState};

/// What the edge tells of itself.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Of the site.
    pub site: SiteFigures,
    /// Of its volumes, by their names, in the order in which they were added.
    pub volumes: Vec<(String, VolumeFigures)>,
}

impl Figures {
    /// Puts them on a page of metrics.
    pub fn put(&self, page: &mut Page) {
        let volumes = self.volumes.iter().map(|(name, volume)| (name.as_str(), volume));
        wire::telemetry::series(&self.site, volumes, |name, help, labels, value| page.put(name, help, labels, value));
    }
}

/// What a daemon knows of itself now. Blocks for a look at the disk.
pub(crate) fn of(daemon: &Daemon) -> Figures {
    let volumes = volumes(daemon);
    Figures { site: site(daemon, &volumes), volumes }
}

fn site(daemon: &Daemon, volumes: &[(String, VolumeFigures)]) -> SiteFigures {
    let (link, line) = (daemon.link(), daemon.link().line());
    let (standing, meter, packets) = (line.standing(), link.shaper().meter(), link.packets());
    let (round_trips, (sent_minute, over_minutes)) = (link.round_trips(), line.conduct());
    let micros = |time: Option<Duration>| time.map_or(0, |time| u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
    let (disk_free, disk_size) = files::disk(&daemon.config().state).unwrap_or_default();
    let certificate = link.identity().and_then(|identity| identity.bearer().ok());
    let spool = &daemon.disk().spool;
    let waiting = || volumes.iter().filter(|(_, volume)| volume.left > 0).map(|(_, volume)| volume.arrives);
    SiteFigures {
        uptime: u32::try_from(daemon.uptime().as_secs()).unwrap_or(u32::MAX),
        allowed: match link.shaper().effective_rate() {
            Rate::Closed => 0,
            Rate::Limited(rate) => rate.bits(),
            Rate::Unlimited => u64::MAX,
        },
        reason: REASONS.iter().position(|reason| *reason == standing.reason).unwrap_or(0) as u8,
        until: standing.until.map_or(0, second),
        sent_minute,
        sent: meter.sent_bytes,
        received: meter.received_bytes,
        over_minutes,
        base_round_trip: micros(round_trips.base),
        round_trip: micros(round_trips.now),
        packets: packets.sent,
        lost: packets.lost,
        line_rate: line.tested(),
        clock: match standing.clock {
            ClockTrust::Synced => 0,
            ClockTrust::Holdover => 1,
            ClockTrust::Untrusted => 2,
        },
        clock_skew: line.clock_skew(),
        policy: standing.policy.unwrap_or(0),
        quotas: standing.quotas.iter().map(|(_, used, limit)| (*used, *limit)).collect(),
        backlog: volumes.iter().fold(0, |sum: u64, (_, volume)| sum.saturating_add(volume.left)),
        // Everything is there when the last one is; nobody can tell when one of them is not known.
        arrives: if waiting().any(|arrives| arrives == 0) { 0 } else { waiting().max().unwrap_or(0) },
        spool: spool.used().0,
        spool_limit: spool.limit().0,
        disk_free,
        disk_size,
        certificate_until: certificate.map_or(0, |bearer| second((bearer.valid_until.0 / 1000) as i64)),
        volumes: u16::try_from(volumes.len()).unwrap_or(u16::MAX),
    }
}

fn volumes(daemon: &Daemon) -> Vec<(String, VolumeFigures)> {
    let (link, rate) = (daemon.link().state(), daemon.link().shaper().effective_rate());
    let (now, instant) = (machine_time(), tokio::time::Instant::now().into_std());
    let of = |volume: &Arc<Volume>| {
        let share = &daemon.share(volume);
        let around = Surroundings { link: &link, rate, now, instant, share };
        (volume.entry.name.clone(), figures_of(volume, &around))
    };
    let mut volumes: Vec<(String, VolumeFigures)> = daemon.all_volumes().iter().map(of).collect();
    let on_their_way = |(_, volume): &(String, VolumeFigures)| volume.left > 0;
    let works: Vec<Work> = volumes
        .iter()
        .filter(|volume| on_their_way(volume))
        .map(|(name, volume)| Work { name: name.clone(), bytes: volume.left })
        .collect();
    let arrivals = daemon.arrivals(&works);
    let waiting = volumes.iter_mut().filter(|volume| on_their_way(volume));
    for ((_, volume), arrival) in waiting.zip(arrivals) {
        volume.arrives = arrival.map_or(0, second);
    }
    volumes
}

fn figures_of(volume: &Volume, around: &Surroundings<'_>) -> VolumeFigures {
    let (capture, sender) = (volume.capture().clone(), volume.sender.borrow().clone());
    let status = VolumeStatus::of(volume, around);
    let sending = status.sending.filter(|sending| sending.coded_bytes > 0);
    let last = sender.acknowledged.map(|(sealed, _)| sealed.cost).unwrap_or_default();
    let (raw, coded) = match &sending {
        Some(sending) => (sending.raw_bytes, sending.coded_bytes),
        None => (last.raw_bytes, last.coded_bytes),
    };
    let terms = &around.share.standing.terms;
    VolumeFigures {
        lineage: volume.entry.lineage,
        state: state(&capture, &sender, around),
        captured: capture.newest.as_ref().map_or(0, |newest| second((newest.captured_at.0 / 1000) as i64)),
        size: capture.newest.as_ref().map_or(0, |newest| newest.size.0),
        changed: capture.newest.as_ref().map_or(0, changed),
        raw,
        coded,
        left: sending.as_ref().map_or(0, status::SendingStatus::left).saturating_add(not_begun(
            &capture,
            &sender,
            sending.is_some(),
            last,
        )),
        arrives: 0,
        deadline: status.deadline.map_or(0, second),
        class: VolumeClass::ALL.iter().position(|class| *class == terms.class).unwrap_or(1) as u8,
        weight: terms.weight,
    }
}

/// Bytes of blocks that a capture found changed.
fn changed(generation: &Generation) -> u64 {
    (generation.stats.new_blocks + generation.stats.zeroed_blocks) * BLOCK as u64
}

/// What the newest generation will come to, while nothing of it is coded: its changed bytes at the ratio of the last one that was sent.
pub(crate) fn not_begun(capture: &CaptureSide, sender: &SenderSide, is_sending: bool, last: Cost) -> u64 {
    let Some(newest) = &capture.newest else { return 0 };
    let sealed = sender.acknowledged.as_ref().map(|(sealed, _)| sealed.generation);
    let under_way = job(sender).map(|job| job.target.generation).filter(|_| is_sending);
    if sealed == Some(newest.id) || under_way == Some(newest.id) {
        return 0;
    }
    let ratio = if last.raw_bytes > 0 { last.coded_bytes as f64 / last.raw_bytes as f64 } else { 1.0 };
    (changed(newest) as f64 * ratio.min(1.0)).ceil() as u64
}

fn job(sender: &SenderSide) -> Option<&crate::sender::Job> {
    match &sender.state {
        State::Idle => None,
        State::Offline(job) | State::Offering(job) | State::Moving(job, _) | State::Sealing(job) => Some(job),
        State::Waiting { job, .. } | State::Stopped { job, .. } => Some(job),
    }
}

/// One word for what is done with a volume.
pub(crate) fn state(capture: &CaptureSide, sender: &SenderSide, around: &Surroundings<'_>) -> VolumeState {
    match &sender.state {
        State::Stopped { .. } => VolumeState::Stopped,
        State::Waiting { .. } => VolumeState::Troubled,
        _ if sender.trouble.is_some() || capture.failed.is_some() => VolumeState::Troubled,
        State::Sealing(_) => VolumeState::Verifying,
        State::Offline(_) | State::Offering(_) => VolumeState::Waiting,
        State::Moving(job, _) if matches!(job.coder, Coder::NoRoom { .. } | Coder::Failed { .. }) => {
            VolumeState::Troubled
        }
        State::Moving(..) => moving(around),
        State::Idle if capture.running.is_some() => VolumeState::Capturing,
        State::Idle => match (&capture.newest, &sender.acknowledged) {
            (None, _) => VolumeState::NeverCaptured,
            (Some(newest), Some((sealed, _))) if sealed.generation == newest.id => VolumeState::UpToDate,
            (Some(_), _) => VolumeState::Waiting,
        },
    }
}

fn moving(around: &Surroundings<'_>) -> VolumeState {
    let Share { standing, waits } = around.share;
    match waits {
        _ if around.rate == Rate::Closed || !matches!(around.link, LinkState::Connected { .. }) => VolumeState::Waiting,
        _ if standing.bar.is_some() => VolumeState::Behind,
        Some(Waits::Barred | Waits::Cap(_) | Waits::Behind(_)) => VolumeState::Behind,
        // Its turn comes within a piece.
        Some(Waits::Turn) | None => VolumeState::Sending,
    }
}

/// A point in time as it travels; 0: before 1970 or too late for it.
fn second(second: i64) -> u32 {
    u32::try_from(second).unwrap_or(0)
}
