//! Brings one spooled parcel to the gateway: verify the file, agree on the offset, hand the bytes over, wait for the answer.

use super::{Input, Shared, blocking};
use crate::link::Session;
use crate::sender::Event;
use crate::spool::{Parcel, SpoolError};
use dedupe::{GenerationId, crash_point};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;
use wire::message::{DataReply, DataRequest, Refusal};
use wire::stream::{self, StreamError};

/// Bytes that are handed to the connection at once: below its send window, so that progress is what has left.
const PIECE: usize = 64 << 10;

/// One parcel on its way.
pub(super) struct Flight {
    pub(super) shared: Arc<Shared>,
    pub(super) session: Arc<Session>,
    pub(super) generation: GenerationId,
    pub(super) number: u32,
    pub(super) sent: Arc<AtomicU64>,
    pub(super) me: mpsc::Sender<Input>,
    pub(super) id: u64,
}

impl Flight {
    /// Sends the parcel and reports what became of it; may be dropped at any time.
    pub(super) async fn go(self) {
        let event = match self.fly().await {
            Ok(event) => event,
            // The session is over: the machine hears that from the line itself.
            Err(StreamError::Ended(_)) => return,
            Err(error) => {
                let why = format!("sending broke off: {error}");
                Event::ParcelRefused(self.number, Refusal::Internal(why))
            }
        };
        self.tell(event).await;
    }

    async fn tell(&self, event: Event) {
        let _ = self.me.send(Input::Line(self.id, event)).await;
    }

    async fn fly(&self) -> Result<Event, StreamError> {
        let Some(data) = self.session.data() else {
            // Data is closed by a rate of 0: nothing leaves until the session is another one.
            self.session.ended().await;
            return std::future::pending().await;
        };
        let Ok(turn) = self.shared.turn.clone().acquire_owned().await else { return std::future::pending().await };
        let (parcel, bytes) = match self.load().await {
            Ok(loaded) => loaded,
            Err(event) => return Ok(event),
        };
        let (mut writer, mut reader) = stream::open_next(data).await?;
        let (generation, number, len, hash) = (parcel.generation, parcel.number, parcel.len, parcel.hash);
        writer.send(&DataRequest::Parcel { generation, number, len, hash }).await?;
        let from = match reader.expect().await? {
            DataReply::From { offset } if offset <= len => offset,
            DataReply::Done => return Ok(Event::Acknowledged(number)),
            DataReply::Refused(why) => return Ok(Event::ParcelRefused(number, why)),
            DataReply::From { .. } | DataReply::Joined | DataReply::Tested { .. } => {
                let why = "the gateway asked for bytes beyond the parcel's end".into();
                return Ok(Event::ParcelRefused(number, Refusal::Internal(why)));
            }
        };
        self.sent.store(from, Ordering::Relaxed);
        let half = bytes.len() / 2;
        let mut at = from as usize;
        for piece in bytes[at..].chunks(PIECE) {
            writer.raw(piece).await?;
            if at <= half && half < at + piece.len() {
                crash_point("edge.send.half");
            }
            at += piece.len();
            self.sent.store(at as u64, Ordering::Relaxed);
        }
        writer.finish();
        drop((turn, bytes));
        self.shared.metrics.sent();
        self.tell(Event::Written(number)).await;
        Ok(match reader.expect().await? {
            DataReply::Done => Event::Acknowledged(number),
            DataReply::Refused(why) => {
                self.shared.metrics.refused();
                tracing::warn!(%generation, number, %why, "the gateway refuses a parcel");
                Event::ParcelRefused(number, why)
            }
            _ => Event::ParcelRefused(number, Refusal::Internal("an unexpected answer to a parcel".into())),
        })
    }

    async fn load(&self) -> Result<(Parcel, Vec<u8>), Event> {
        let (disk, generation, number) = (self.shared.disk.clone(), self.generation, self.number);
        let loaded = blocking(move || match disk.spool.parcel(generation, number)? {
            Some(parcel) => disk.spool.read(&parcel).map(|bytes| Some((parcel, bytes))),
            None => Ok(None),
        });
        match loaded.await {
            Ok(Some(loaded)) => Ok(loaded),
            Ok(None) => Err(Event::SpoolDamaged(number)),
            Err(error @ SpoolError::Damaged { .. }) => {
                tracing::warn!(%error, "a spool file");
                self.shared.metrics.damaged();
                Err(Event::SpoolDamaged(number))
            }
            Err(error) => Err(Event::ParcelRefused(number, Refusal::Internal(error.to_string()))),
        }
    }
}
