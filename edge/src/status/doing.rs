//! What a volume is doing, as data: whoever shows it finds the words, in whichever language. Texts in it are details in English.

use super::{Surroundings, sealed_of};
use crate::link::LinkState;
use crate::sender::{Coder, State};
use crate::volume::{CaptureSide, SenderSide};
use serde::{Deserialize, Serialize};
use shaping::Rate;
use shaping::policy::VolumeClass;
use shaping::scheduler::Waits;
use std::sync::atomic::Ordering;

/// What is done to bring the newest generation to the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "step")]
pub enum Doing {
    /// It was never captured.
    #[default]
    NeverCaptured,
    /// The gateway has verified the newest generation.
    UpToDate {
        /// Its number.
        number: u64,
        /// When it was verified, Unix milliseconds.
        at: u64,
    },
    /// It is about to be offered.
    About {
        /// Its number.
        number: u64,
    },
    /// It waits for a session with a gateway.
    NoSession,
    /// The gateway is asked whether it takes it.
    Offering,
    /// The line is closed for data.
    Closed,
    /// Bytes are on the line.
    Sending {
        /// At the volume's cap: more would go over the line.
        capped: bool,
    },
    /// It does not send although it could.
    Waits {
        /// For what.
        behind: Behind,
    },
    /// The gateway takes in what was sent.
    TakingIn,
    /// Finding what is to be sent, and what the gateway holds already.
    Planning,
    /// Parcels are being coded, or written to the spool.
    Coding,
    /// The gateway verifies the whole.
    Verifying,
    /// Held back by something that passes.
    HeldBack {
        /// By what.
        why: String,
    },
    /// Stopped until a person helps.
    Stopped {
        /// Why.
        why: String,
    },
}

/// What a volume waits for while others send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "for")]
pub enum Behind {
    /// Somebody holds or pauses it.
    Bar {
        /// Until when, Unix seconds; absent: until somebody ends it.
        until: Option<i64>,
        /// Who.
        by: String,
        /// Why.
        why: String,
    },
    /// Its cap.
    Cap,
    /// A class that comes first.
    Class {
        /// Which.
        class: VolumeClass,
    },
    /// Its turn among those of its class.
    Turn,
}

impl Doing {
    pub(super) fn of(capture: &CaptureSide, sender: &SenderSide, around: &Surroundings<'_>) -> Doing {
        match &sender.state {
            State::Idle => idle(capture, sender, around),
            State::Offline(_) => Doing::NoSession,
            State::Offering(_) => Doing::Offering,
            State::Sealing(_) => Doing::Verifying,
            State::Waiting { why, .. } => Doing::HeldBack { why: why.clone() },
            State::Stopped { why, .. } => Doing::Stopped { why: why.clone() },
            State::Moving(job, line) => {
                let connected = matches!(around.link, LinkState::Connected { .. });
                let behind = behind(around);
                match &sender.parcel {
                    _ if around.rate == Rate::Closed && connected => Doing::Closed,
                    Some(_) if line.writing => match behind {
                        Some(Behind::Cap) => Doing::Sending { capped: true },
                        Some(behind) => Doing::Waits { behind },
                        None => Doing::Sending { capped: false },
                    },
                    _ => match behind.filter(|behind| matches!(behind, Behind::Bar { .. })) {
                        Some(behind) => Doing::Waits { behind },
                        None if line.next > job.acknowledged => Doing::TakingIn,
                        None => coding(&job.coder),
                    },
                }
            }
        }
    }
}

fn idle(capture: &CaptureSide, sender: &SenderSide, around: &Surroundings<'_>) -> Doing {
    let Some(newest) = &capture.newest else { return Doing::NeverCaptured };
    match (sealed_of(sender, newest), around.link) {
        (Some((at, number)), _) => Doing::UpToDate { number, at },
        (None, _) if sender.hold.is_some() => {
            Doing::HeldBack { why: sender.hold.map(|hold| hold.to_string()).unwrap_or_default() }
        }
        (None, LinkState::Connected { .. }) => Doing::About { number: newest.number },
        (None, _) => Doing::NoSession,
    }
}

fn behind(around: &Surroundings<'_>) -> Option<Behind> {
    if let Some(bar) = &around.share.standing.bar {
        let until = bar.until.map(jiff::Timestamp::as_second);
        return Some(Behind::Bar { until, by: bar.actor.clone(), why: bar.reason.clone() });
    }
    Some(match around.share.waits? {
        Waits::Barred => Behind::Bar { until: None, by: String::new(), why: String::new() },
        Waits::Cap(_) => Behind::Cap,
        Waits::Behind(class) => Behind::Class { class },
        Waits::Turn => Behind::Turn,
    })
}

fn coding(coder: &Coder) -> Doing {
    match coder {
        Coder::Resting | Coder::Planning | Coder::Asking { .. } => Doing::Planning,
        Coder::Encoding | Coder::Storing | Coder::Finished => Doing::Coding,
        Coder::NoRoom { why, .. } | Coder::Failed { why, .. } => Doing::HeldBack { why: why.clone() },
    }
}

/// Bytes of a parcel on the line that have left, for whoever shows progress.
pub(super) fn parcel(sender: &SenderSide) -> (u64, u64) {
    sender.parcel.as_ref().map_or((0, 0), |(len, sent)| (*len, sent.load(Ordering::Relaxed)))
}
