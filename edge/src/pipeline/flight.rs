//! Brings one spooled parcel to the gateway: verify the file, agree on the offset, hand the bytes over piece by piece as the gate admits them, wait for the
//! answer.

use super::{Input, Shared, blocking};
use crate::gate::{Berth, Turn};
use crate::link::Session;
use crate::sender::Event;
use crate::spool::{Parcel, SpoolError, Spooled};
use dedupe::{GenerationId, LineageId, crash_point};
use shaping::scheduler::in_hand;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;
use wire::message::{DataReply, DataRequest, Refusal};
use wire::stream::{self, FrameReader, StreamError};

/// One parcel on its way.
pub(super) struct Flight {
    pub(super) shared: Arc<Shared>,
    pub(super) session: Arc<Session>,
    pub(super) lineage: LineageId,
    pub(super) volume: String,
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
        let (parcel, spooled) = match self.load().await {
            Ok(loaded) => loaded,
            Err(event) => return Ok(event),
        };
        let spooled = Arc::new(spooled);
        loop {
            let berth = self.shared.gate.board(self.lineage).await;
            if let Some(event) = self.bring(data, &parcel, &spooled, berth).await? {
                return Ok(event);
            }
        }
    }

    /// Brings the parcel over, or as much of it as its berth lasts for; `None`: it has left that.
    async fn bring(
        &self,
        data: &quinn::Connection,
        parcel: &Parcel,
        spooled: &Arc<Spooled>,
        berth: Berth,
    ) -> Result<Option<Event>, StreamError> {
        let (mut writer, mut reader) = stream::open_next(data).await?;
        let Parcel { generation, number, len, hash, .. } = *parcel;
        writer.send(&DataRequest::Parcel { generation, number, len, hash }).await?;
        let from = match reader.expect().await? {
            DataReply::From { offset } if offset <= len => offset,
            DataReply::Done => return Ok(Some(Event::Acknowledged(number))),
            DataReply::Refused(why) => return Ok(Some(Event::ParcelRefused(number, why))),
            DataReply::From { .. }
            | DataReply::Joined
            | DataReply::Tested { .. }
            | DataReply::Fetched { .. }
            | DataReply::Part(_)
            | DataReply::Later { .. } => {
                let why = "the gateway asked for bytes beyond the parcel's end".into();
                return Ok(Some(Event::ParcelRefused(number, Refusal::Internal(why))));
            }
        };
        self.sent.store(from, Ordering::Relaxed);
        let (half, mut at, mut window) = (len / 2, from, None);
        while at < len {
            let Turn::Send(most) = berth.next(len - at).await else {
                writer.finish();
                drop(berth);
                return self.put_down(reader, number).await;
            };
            // The connection was dialled with what the rate was then.
            let wanted = in_hand(self.shared.link.shaper().effective_rate());
            if window.replace(wanted) != Some(wanted) {
                data.set_send_window(wanted);
            }
            let (file, begin) = (spooled.clone(), at);
            let piece = match blocking(move || file.piece(begin, most)).await {
                Ok(piece) => piece,
                Err(error) => return Ok(Some(Event::ParcelRefused(number, Refusal::Internal(error.to_string())))),
            };
            writer.raw(&piece).await?;
            let end = at + piece.len() as u64;
            if at <= half && half < end {
                crash_point("edge.send.half");
            }
            at = end;
            self.sent.store(at, Ordering::Relaxed);
            self.shared.metrics.handed_over(&self.volume, piece.len() as u64);
        }
        writer.finish();
        drop(berth);
        self.shared.metrics.sent();
        self.tell(Event::Written(number)).await;
        Ok(Some(match reader.expect().await? {
            DataReply::Done => Event::Acknowledged(number),
            DataReply::Refused(why) => {
                self.shared.metrics.refused();
                tracing::warn!(%generation, number, %why, "the gateway refuses a parcel");
                Event::ParcelRefused(number, why)
            }
            _ => Event::ParcelRefused(number, Refusal::Internal("an unexpected answer to a parcel".into())),
        }))
    }

    /// The stream has ended before the parcel. The gateway keeps what came and says how far that goes; only then may the rest be announced.
    async fn put_down(&self, mut reader: FrameReader, number: u32) -> Result<Option<Event>, StreamError> {
        tracing::debug!(number, volume = self.volume, "makes way for a volume that comes first");
        match reader.expect().await? {
            DataReply::From { .. } => Ok(None),
            DataReply::Refused(why) => Ok(Some(Event::ParcelRefused(number, why))),
            DataReply::Done => Ok(Some(Event::Acknowledged(number))),
            _ => Ok(Some(Event::ParcelRefused(number, Refusal::Internal("an unexpected answer to a parcel".into())))),
        }
    }

    async fn load(&self) -> Result<(Parcel, Spooled), Event> {
        let (disk, generation, number) = (self.shared.disk.clone(), self.generation, self.number);
        let loaded = blocking(move || match disk.spool.parcel(generation, number)? {
            Some(parcel) => disk.spool.open_parcel(&parcel).map(|spooled| Some((parcel, spooled))),
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
