//! What the edge is doing and what holds it back: as figures for programs and as one sentence per volume for people.

mod doing;

pub use doing::{Behind, Doing};

use crate::appliance::ApplianceStatus;
use crate::capture::How;
use crate::gate::Share;
use crate::line::Standing;
use crate::link::LinkState;
use crate::restore::RestoreStatus;
use crate::sender::{Coder, State};
use crate::text;
use crate::tracks::Demoted;
use crate::volume::{CaptureSide, SenderSide, Volume};
use dedupe::{Generation, UnixMillis};
use serde::{Deserialize, Serialize};
use shaping::Rate;
use shaping::scheduler::Waits;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Everything that `status` shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The site's name, once enrolled.
    pub site: Option<String>,
    /// The line, as one sentence.
    pub line: String,
    /// The line, for programs.
    pub link: LinkState,
    /// The rate that holds now.
    pub rate: String,
    /// What decided so, and until when.
    pub allowance: Standing,
    /// Coded bytes that wait.
    pub spool_bytes: u64,
    /// IP-level bytes sent since the daemon started.
    pub sent_bytes: u64,
    /// IP-level bytes received since the daemon started.
    pub received_bytes: u64,
    /// All volumes, in the order in which they were added.
    pub volumes: Vec<VolumeStatus>,
    /// Restores that run, and the last ones that are over.
    #[serde(default)]
    pub restores: Vec<RestoreStatus>,
    /// The appliance's system; absent on an edge that is no appliance.
    #[serde(default)]
    pub appliance: Option<ApplianceStatus>,
}

/// One volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Its name.
    pub name: String,
    /// Where its bytes come from.
    pub source: String,
    /// What it is doing and what holds it back.
    pub doing: String,
    /// The same as data, but for what a capture does.
    #[serde(default)]
    pub state: Doing,
    /// Why the last capture failed, until one succeeds.
    #[serde(default)]
    pub capture_failed: Option<String>,
    /// What keeps a record from being written, until it is.
    #[serde(default)]
    pub trouble: Option<String>,
    /// How the bytes of the newest generation were come by; absent until one is captured after the daemon's start.
    #[serde(default)]
    pub how: Option<How>,
    /// Bytes that were read for it.
    #[serde(default)]
    pub read_bytes: Option<u64>,
    /// Why the source's change tracker is not believed.
    #[serde(default)]
    pub tracker_demoted: Option<String>,
    /// The newest generation that was captured here.
    pub captured: Option<GenerationStatus>,
    /// The newest generation that the gateway has sealed.
    pub sealed: Option<SealedStatus>,
    /// The capture that runs.
    pub capturing: Option<ProgressStatus>,
    /// The generation on its way.
    pub sending: Option<SendingStatus>,
    /// How it shares the line with the others.
    pub share: ShareStatus,
    /// When a newer generation has to be at the gateway, so that the newest there is never older than the policy allows, Unix seconds.
    pub deadline: Option<i64>,
    /// What becomes of that as things are, in one sentence; absent while it is met.
    pub late: Option<String>,
    /// When the policy will have let it cross, Unix seconds; absent while nothing is on its way, or nobody can tell.
    pub arrives_at: Option<i64>,
    /// The same for people, in the site's civil time.
    pub arrives: Option<String>,
}

/// How a volume shares the line.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ShareStatus {
    /// `critical`, `normal` or `bulk`.
    pub class: String,
    /// Its weight in the class.
    pub weight: u32,
    /// Never more than this.
    pub cap: Option<String>,
    /// This much whatever class is above it.
    pub floor: Option<String>,
    /// Why it does not send although it has something to send: `waits behind critical`.
    pub waits: Option<String>,
}

impl SendingStatus {
    /// Coded bytes that still have to cross: what is coded and not acknowledged, and what is not planned yet at the ratio so far.
    pub fn left(&self) -> u64 {
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        let all = self.coded_bytes as f64 / share(self.planned_bytes, self.size).max(0.001);
        let acknowledged =
            self.coded_bytes as f64 * share(self.parcels_acknowledged.into(), self.parcels_coded.into()).min(1.0);
        (all - acknowledged - self.parcel_sent_bytes as f64).max(0.0) as u64
    }
}

/// A captured generation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GenerationStatus {
    /// Its id.
    pub generation: String,
    /// Its number at this site.
    pub number: u64,
    /// Its root, hexadecimal: what `b3sum` prints for the image.
    pub root: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was captured, Unix milliseconds.
    pub captured_at: u64,
    /// Ranges of sectors that could not be read and are zero in it.
    pub unreadable_ranges: usize,
}

/// What the gateway has sealed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SealedStatus {
    /// The generation.
    pub generation: String,
    /// Its number at this site.
    pub number: u64,
    /// When, Unix milliseconds.
    pub at: u64,
}

/// How far something is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ProgressStatus {
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes of these that were new.
    pub new_bytes: u64,
    /// Seconds since the begin.
    pub seconds: f64,
}

/// The generation on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SendingStatus {
    /// The generation.
    pub generation: String,
    /// Parcels that the gateway has acknowledged.
    pub parcels_acknowledged: u32,
    /// Parcels that are coded.
    pub parcels_coded: u32,
    /// Bytes of these.
    pub coded_bytes: u64,
    /// Bytes of the volume that they stand for.
    pub raw_bytes: u64,
    /// How far into the volume the next plan begins.
    pub planned_bytes: u64,
    /// Size of the volume.
    pub size: u64,
    /// Bytes of the parcel on the line that have left.
    pub parcel_sent_bytes: u64,
    /// Bytes of the parcel on the line.
    pub parcel_bytes: u64,
}

/// What is known beside the volume itself.
pub(crate) struct Surroundings<'a> {
    pub(crate) link: &'a LinkState,
    pub(crate) rate: Rate,
    /// Wall clock.
    pub(crate) now: UnixMillis,
    pub(crate) instant: Instant,
    /// How the volume shares the line.
    pub(crate) share: &'a Share,
}

impl VolumeStatus {
    pub(crate) fn of(volume: &Volume, around: &Surroundings<'_>) -> VolumeStatus {
        let capture = volume.capture().clone();
        let sender = volume.sender.borrow().clone();
        VolumeStatus {
            name: volume.entry.name.clone(),
            source: volume.source().to_string(),
            doing: sentence(&capture, &sender, around),
            state: Doing::of(&capture, &sender, around),
            capture_failed: capture.failed.clone(),
            trouble: sender.trouble.clone(),
            how: capture.how.as_ref().map(|(how, _)| how.clone()),
            read_bytes: capture.how.as_ref().map(|(_, bytes)| *bytes),
            tracker_demoted: capture.demoted.as_ref().map(Demoted::to_string),
            captured: capture.newest.as_ref().and_then(|newest| generation(newest, capture.unreadable)),
            sealed: sender.acknowledged.map(|(sealed, number)| SealedStatus {
                generation: sealed.generation.to_string(),
                number,
                at: sealed.at.0,
            }),
            capturing: capture.running.as_ref().map(|(progress, began)| ProgressStatus {
                done_bytes: progress.done.load(Ordering::Relaxed),
                total_bytes: progress.total.load(Ordering::Relaxed),
                new_bytes: progress.stored.load(Ordering::Relaxed),
                seconds: around.instant.saturating_duration_since(*began).as_secs_f64(),
            }),
            sending: sending(&sender),
            share: share(around.share),
            deadline: deadline(&sender, around.share),
            late: None,
            arrives_at: None,
            arrives: None,
        }
    }
}

fn share(share: &Share) -> ShareStatus {
    let terms = &share.standing.terms;
    ShareStatus {
        class: terms.class.word().into(),
        weight: terms.weight,
        cap: terms.cap.map(|cap| cap.to_string()),
        floor: terms.floor.map(|floor| floor.to_string()),
        waits: waits(share),
    }
}

/// Why a volume does not send, as part of a sentence.
fn waits(share: &Share) -> Option<String> {
    if let Some(bar) = &share.standing.bar {
        return Some(bar.sentence.clone());
    }
    Some(match share.waits? {
        Waits::Barred => "held".into(),
        // What the policy says, not what of it is payload.
        Waits::Cap(cap) => format!("at its cap of {}", share.standing.terms.cap.unwrap_or(cap)),
        Waits::Behind(class) => format!("waits behind {}", class.word()),
        Waits::Turn => "waits for its turn".into(),
    })
}

/// Only what was at the gateway before can become too old there.
fn deadline(sender: &SenderSide, share: &Share) -> Option<i64> {
    let captured = sender.sealed_captured?;
    Some(((captured.0 / 1000) + share.standing.lag?.as_secs()) as i64)
}

fn generation(newest: &Generation, unreadable_ranges: usize) -> Option<GenerationStatus> {
    Some(GenerationStatus {
        generation: newest.id.to_string(),
        number: newest.number,
        root: newest.sealed?.root.to_string(),
        size: newest.size.0,
        captured_at: newest.captured_at.0,
        unreadable_ranges,
    })
}

fn sending(sender: &SenderSide) -> Option<SendingStatus> {
    let job = match &sender.state {
        State::Idle => return None,
        State::Offline(job) | State::Offering(job) | State::Moving(job, _) | State::Sealing(job) => job,
        State::Waiting { job, .. } | State::Stopped { job, .. } => job,
    };
    let (parcel_bytes, parcel_sent_bytes) = doing::parcel(sender);
    Some(SendingStatus {
        generation: job.target.generation.to_string(),
        parcels_acknowledged: job.acknowledged,
        parcels_coded: job.next,
        coded_bytes: sender.cost.coded_bytes,
        raw_bytes: sender.cost.raw_bytes,
        planned_bytes: sender.planned.min(sender.size.0),
        size: sender.size.0,
        parcel_sent_bytes,
        parcel_bytes,
    })
}

/// What the line is doing and what holds it back.
pub(crate) fn line(link: &LinkState, rate: Rate, now: UnixMillis) -> String {
    match link {
        LinkState::Unenrolled => {
            "This edge is not enrolled: get a token with `sluice-gateway token` and run `sluice-edge enrol`.".into()
        }
        LinkState::Connecting { address } => format!("Dialling the gateway at {address}."),
        LinkState::Connected { address, .. } => match rate {
            Rate::Closed => format!("Connected with {address}; closed for data (rate 0)."),
            Rate::Limited(rate) => format!("Connected with {address} at up to {rate}."),
            Rate::Unlimited => format!("Connected with {address} without a limit of the rate."),
        },
        LinkState::Down { why, retry_at, needs_person, .. } => {
            let wait =
                text::duration(Duration::from_millis(retry_at.saturating_sub(now.0)).max(Duration::from_secs(1)));
            let help = if *needs_person { " This needs a person." } else { "" };
            format!("No gateway: {why}.{help} Next attempt in {wait}.")
        }
    }
}

/// What a volume is doing and what holds it back.
pub(crate) fn sentence(capture: &CaptureSide, sender: &SenderSide, around: &Surroundings<'_>) -> String {
    let mut parts = Vec::new();
    if let Some((progress, began)) = &capture.running {
        let (done, total) = (progress.done.load(Ordering::Relaxed), progress.total.load(Ordering::Relaxed));
        let elapsed = around.instant.saturating_duration_since(*began);
        parts.push(format!("being captured: {}", text::progress(done, total, elapsed)));
    }
    if capture.running.is_none() || sender.state != State::Idle {
        parts.push(sending_part(capture, sender, around));
    }
    if let Some(trouble) = &sender.trouble {
        parts.push(format!("held back: {trouble}"));
    }
    if let Some(failed) = &capture.failed {
        parts.push(format!("the last capture failed: {failed}"));
    }
    if capture.unreadable > 0 {
        parts.push(format!(
            "{} ranges of sectors were unreadable and are zero in the newest generation",
            capture.unreadable
        ));
    }
    match (&capture.demoted, &capture.how) {
        (Some(demoted), _) => parts.push(demoted.to_string()),
        (None, Some((How::Reread { why }, _))) => parts.push(format!("everything was read: {why}")),
        _ => {}
    }
    let mut text = parts.join("; ");
    if let Some(first) = text.get(..1).map(str::to_uppercase) {
        text.replace_range(..1, &first);
    }
    text + "."
}

fn sending_part(capture: &CaptureSide, sender: &SenderSide, around: &Surroundings<'_>) -> String {
    let connected = matches!(around.link, LinkState::Connected { .. });
    let sent = |acknowledged: u32| match acknowledged {
        0 => String::new(),
        1 => " (1 parcel acknowledged)".into(),
        many => format!(" ({many} parcels acknowledged)"),
    };
    match &sender.state {
        State::Idle => idle_part(capture, sender, around),
        State::Offline(job) => format!("on its way{}, waiting for a session with a gateway", sent(job.acknowledged)),
        State::Offering(job) => format!("offering to the gateway{}", sent(job.acknowledged)),
        State::Sealing(_) => "the gateway verifies what was sent".into(),
        State::Waiting { why, .. } => format!("waiting: {why}"),
        State::Stopped { why, .. } => format!("stopped until a person helps: {why}"),
        State::Moving(job, line) => {
            let what = match &sender.parcel {
                _ if around.rate == Rate::Closed && connected => "waiting: the line is closed for data (rate 0)".into(),
                Some((len, left)) if line.writing => {
                    let sent = format!("{} of {}", text::bytes(left.load(Ordering::Relaxed)), text::bytes(*len));
                    match (waits(around.share), around.share.waits) {
                        (Some(cap), Some(Waits::Cap(_))) => {
                            format!("sending parcel {}: {sent}, {cap}", line.next + 1)
                        }
                        (Some(waits), _) => format!("{waits}, with {sent} of parcel {} sent", line.next + 1),
                        (None, _) => format!("sending parcel {}: {sent}", line.next + 1),
                    }
                }
                _ if around.share.standing.bar.is_some() => waits(around.share).unwrap_or_default(),
                _ if line.next > job.acknowledged => "waiting for the gateway to take in what was sent".into(),
                _ => coding_part(&job.coder),
            };
            let held = match &job.coder {
                Coder::NoRoom { why, .. } => format!("; coding is held back: {why}"),
                Coder::Failed { why, .. } => format!("; coding failed: {why}"),
                _ => String::new(),
            };
            what + &sent(job.acknowledged) + &held
        }
    }
}

fn coding_part(coder: &Coder) -> String {
    match coder {
        Coder::Resting | Coder::Planning => "finding what is to be sent",
        Coder::Asking { .. } => "asking the gateway what it holds already",
        Coder::Encoding => "coding a parcel",
        Coder::Storing => "writing a parcel to the spool",
        Coder::NoRoom { .. } | Coder::Failed { .. } => "not sending",
        Coder::Finished => "all is coded",
    }
    .into()
}

fn idle_part(capture: &CaptureSide, sender: &SenderSide, around: &Surroundings<'_>) -> String {
    let Some(newest) = &capture.newest else { return "not captured yet".into() };
    match (sealed_of(sender, newest), around.link) {
        (Some((at, number)), _) => {
            let ago = Duration::from_millis(around.now.0.saturating_sub(at));
            format!("up to date: generation {number} was verified at the gateway {} ago", text::duration(ago))
        }
        (None, LinkState::Connected { .. }) => format!("generation {} is about to be offered", newest.number),
        (None, _) => format!("generation {} waits for a session with a gateway", newest.number),
    }
}

/// When the gateway sealed the newest generation, in Unix milliseconds, and its number; none: it has not.
fn sealed_of(sender: &SenderSide, newest: &Generation) -> Option<(u64, u64)> {
    let sealed = sender.acknowledged.filter(|(sealed, _)| sealed.generation == newest.id);
    sealed.map(|(sealed, number)| (sealed.at.0, number))
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
