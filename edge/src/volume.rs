//! One volume as the running daemon sees it: what its capture and its sender are doing now.

use crate::capture::How;
use crate::journal::{Acknowledged, Cost};
use crate::sender::{Hold, State};
use crate::source::SourceSpec;
use crate::tracks::Demoted;
use crate::volumes::VolumeEntry;
use dedupe::{ByteCount, Generation, GenerationId, Progress, UnixMillis};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// One volume of the running daemon.
pub struct Volume {
    /// What the operator said when it was taken up.
    pub entry: VolumeEntry,
    /// Where its bytes come from now: the bitmap that follows its changes may become another one.
    source: Mutex<SourceSpec>,
    /// What the capture does.
    capture: Mutex<CaptureSide>,
    /// What the sender does.
    pub sender: watch::Sender<SenderSide>,
    /// One capture at a time.
    pub(crate) capturing: tokio::sync::Mutex<()>,
    /// Ends the volume's tasks when it is removed.
    pub(crate) removed: CancellationToken,
}

/// What the capture of a volume does.
#[derive(Clone, Default)]
pub struct CaptureSide {
    /// The capture that runs, with the time of its begin.
    pub running: Option<(Arc<Progress>, Instant)>,
    /// The newest sealed generation here.
    pub newest: Option<Generation>,
    /// Sectors that are zero in it because they could not be read, as ranges.
    pub unreadable: usize,
    /// How the bytes of the newest generation were come by, and how many were read; none: not since the daemon started.
    pub how: Option<(How, u64)>,
    /// Why the source's change tracker is not believed.
    pub demoted: Option<Demoted>,
    /// Why the last capture failed, until one succeeds.
    pub failed: Option<String>,
    /// When the last capture ended and how long it took, in seconds, with its CPU seconds.
    pub took: Option<(f64, f64)>,
}

/// What the sender of a volume does.
#[derive(Clone, Debug)]
pub struct SenderSide {
    /// Where its machine stands.
    pub state: State,
    /// The size of the volume in the generation on its way.
    pub size: ByteCount,
    /// What the generation on its way cost so far.
    pub cost: Cost,
    /// How far planning has come, in bytes of the volume.
    pub planned: u64,
    /// Bytes of the parcel that is being handed to the line, and how many of them have left.
    pub parcel: Option<(u64, Arc<AtomicU64>)>,
    /// What the gateway sealed last, with its number here.
    pub acknowledged: Option<(Acknowledged, u64)>,
    /// When that was captured here.
    pub sealed_captured: Option<UnixMillis>,
    /// What keeps a record from being written, until it is.
    pub trouble: Option<String>,
    /// Why nothing of it goes, for its seed's sake.
    pub hold: Option<Hold>,
    /// Generations that stay here, whole, until its seed is in; oldest first.
    pub awaited: Vec<GenerationId>,
}

impl Volume {
    /// A volume that does nothing yet.
    pub(crate) fn new(entry: VolumeEntry) -> Volume {
        let sender = SenderSide {
            state: State::Idle,
            size: ByteCount(0),
            cost: Cost::default(),
            planned: 0,
            parcel: None,
            acknowledged: None,
            sealed_captured: None,
            trouble: None,
            hold: None,
            awaited: Vec::new(),
        };
        Volume {
            source: Mutex::new(entry.source.clone()),
            entry,
            capture: Mutex::default(),
            sender: watch::Sender::new(sender),
            capturing: tokio::sync::Mutex::default(),
            removed: CancellationToken::new(),
        }
    }

    /// Where its bytes come from.
    pub fn source(&self) -> SourceSpec {
        self.source.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From the next capture on they come from there.
    pub(crate) fn set_source(&self, source: SourceSpec) {
        *self.source.lock().unwrap_or_else(PoisonError::into_inner) = source;
    }

    /// What the capture does.
    pub fn capture(&self) -> MutexGuard<'_, CaptureSide> {
        // Fields are set one by one and each is true by itself.
        self.capture.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
