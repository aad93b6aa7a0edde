//! A data connection: joins its session, then carries one parcel per stream.

use crate::back;
use crate::brake::Brake;
use crate::incoming::{Announced, Part, has_room};
use crate::ingest::{AHEAD, Receiving, file_refusal, finish};
use crate::live::LiveSession;
use crate::releases;
use crate::server::Gateway;
use dedupe::parcel::MAX_PARCEL;
use quinn::Connection;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument;
use wire::identity::PeerIdentity;
use wire::message::{DataReply, DataRequest, MAX_SLOTS, Refusal, SLOT_MILLIS};
use wire::stream::{self, CloseCode, FrameReader, FrameWriter, StreamError};

/// How long a stream may stay silent before its first message.
const FIRST_WORD: Duration = Duration::from_secs(30);
/// Parcels of one connection that are handled at once. One is on the line, others are being decoded.
const STREAMS: usize = 4;
/// Bytes that are gathered before they are written. 256 KiB are a second of a 2 Mbit/s line and few enough for hundreds of edges.
const BATCH: usize = 256 << 10;

/// Why a parcel's stream ends without a `Done`.
enum Stop {
    /// The edge is told.
    Refuse(Refusal),
    /// The edge ended the stream before the parcel's end; what came, up to `offset`, is durable.
    PutDown { offset: u64 },
    /// The edge is gone, or broke the stream; there is nobody to tell.
    Gone,
}

/// Runs one data connection to its end.
pub(crate) async fn run(
    gateway: Arc<Gateway>,
    (connection, line): (Connection, shaping::Peer),
    peer: PeerIdentity,
    (mut writer, mut reader): (FrameWriter, FrameReader),
) {
    let session = match tokio::time::timeout(FIRST_WORD, reader.expect::<DataRequest>()).await {
        Ok(Ok(DataRequest::Join { session })) => gateway.live.of_number(peer.bearer.site, session),
        _ => None,
    };
    // The same certificate is not asked for: a renewal may have come between the two connections.
    let Some(session) = session.filter(|session| session.tenant.id == peer.bearer.tenant) else {
        return stream::close(&connection, CloseCode::Protocol, "there is no control session of this number and site");
    };
    session.join(connection.clone(), &line);
    if writer.send(&DataReply::Joined).await.is_err() {
        return;
    }
    let (room, back) = (Arc::new(Semaphore::new(STREAMS)), Arc::new(Semaphore::new(back::AT_ONCE)));
    // One part of a release at a time: the edge applies them in order.
    let parts = Arc::new(Semaphore::new(1));
    loop {
        let permit = room.clone().acquire_owned().await.expect("the semaphore is never closed");
        let streams = tokio::select! {
            () = gateway.stop.cancelled() => break stream::close(&connection, CloseCode::Stopping, "the gateway stops"),
            accepted = stream::accept_next(&connection) => match accepted {
                Ok(streams) => streams,
                Err(_) => break, // the edge closed it, was cut off, or the session ended
            },
        };
        let (tasks, gateway, session) = (gateway.tasks.clone(), gateway.clone(), session.clone());
        let (back, parts) = (back.clone(), parts.clone());
        let span = tracing::info_span!("session", session = session.label(), site = session.name);
        let taken = async move {
            serve(&gateway, &session, streams, (permit, back, parts)).await;
        };
        tasks.spawn(taken.instrument(span));
    }
}

async fn serve(
    gateway: &Gateway,
    session: &LiveSession,
    (mut writer, mut reader): (FrameWriter, FrameReader),
    (place, back, parts): (OwnedSemaphorePermit, Arc<Semaphore>, Arc<Semaphore>),
) {
    let announced = match tokio::time::timeout(FIRST_WORD, reader.expect::<DataRequest>()).await {
        Ok(Ok(DataRequest::Parcel { generation, number, len, hash })) => Announced { generation, number, len, hash },
        Ok(Ok(DataRequest::Test { len })) => return test(len, writer, reader).await,
        Ok(Ok(DataRequest::Fetch(fetch))) => {
            // What goes down for minutes takes no parcel's place.
            drop(place);
            return back::serve(gateway, session, (fetch, back.try_acquire_owned()), writer, reader).await;
        }
        Ok(Ok(DataRequest::Part(wanted))) => {
            drop(place);
            return releases::serve::serve(gateway, session, (wanted, parts.try_acquire_owned()), writer, reader).await;
        }
        _ => return reader.stop(),
    };
    let reply = match receive(gateway, session, announced, &mut writer, &mut reader).await {
        Ok(()) => DataReply::Done,
        Err(Stop::Refuse(why)) => {
            tracing::info!(site = %session.site, generation = %announced.generation, parcel = announced.number, %why, "parcel refused");
            gateway.metrics.refused(&why);
            reader.stop();
            DataReply::Refused(why)
        }
        Err(Stop::PutDown { offset }) => DataReply::From { offset },
        Err(Stop::Gone) => return reader.stop(),
    };
    if writer.send(&reply).await.is_ok() {
        writer.finish();
    }
}

/// Takes padding in and says when it came. How much may come is bounded by the message, how long by the slots of the answer.
async fn test(len: u64, mut writer: FrameWriter, mut reader: FrameReader) {
    let mut arrived: Vec<u32> = Vec::new();
    let mut first = None;
    let (mut left, longest) = (len, Duration::from_millis(SLOT_MILLIS * MAX_SLOTS as u64));
    let taking = async {
        while left > 0 {
            // Reset by the edge when its time is over: what came counts.
            let Ok(Some(bytes)) = reader.raw_as_it_comes().await else { break };
            let began = *first.get_or_insert_with(tokio::time::Instant::now);
            let slot = (began.elapsed().as_millis() as u64 / SLOT_MILLIS) as usize;
            if slot < MAX_SLOTS {
                arrived.resize(arrived.len().max(slot + 1), 0);
                arrived[slot] += bytes.len() as u32;
            }
            left = left.saturating_sub(bytes.len() as u64);
        }
    };
    let _too_slow = tokio::time::timeout(longest, taking).await;
    if writer.send(&DataReply::Tested { arrived }).await.is_ok() {
        writer.finish();
    }
    reader.stop();
}

async fn receive(
    gateway: &Gateway,
    session: &LiveSession,
    announced: Announced,
    writer: &mut FrameWriter,
    reader: &mut FrameReader,
) -> Result<(), Stop> {
    let refuse = |why: &str| Stop::Refuse(Refusal::Protocol(why.into()));
    let not_received = || refuse("its generation is not being received; offer it first");
    let receiving = session.receiving(announced.generation).ok_or_else(not_received)?;
    if announced.len == 0 || announced.len > MAX_PARCEL as u64 {
        return Err(refuse(&format!("a parcel of {} bytes: from 1 to {MAX_PARCEL} are possible", announced.len)));
    }
    let due = receiving.due();
    if announced.number < due {
        // Taken in before its acknowledgement was heard: nothing is to be sent.
        return send(writer, &DataReply::From { offset: announced.len }).await;
    }
    if announced.number - due > AHEAD {
        return Err(Stop::Refuse(Refusal::OutOfOrder { want: due, got: announced.number }));
    }
    let part = arrive(gateway, announced, (&receiving, &session.brake), writer, reader).await?;
    if session.tenant.has_failed() {
        return Err(Stop::Refuse(Refusal::Internal("the tenant's store is being opened anew".into())));
    }
    // Revoked or abandoned meanwhile: what arrived is taken in no more.
    session.receiving(announced.generation).ok_or_else(not_received)?;
    gateway.pool.take_in(&session.tenant, &receiving, announced.number, part).await.map_err(Stop::Refuse)
}

/// Takes the parcel's bytes from where they broke off last time to their end, durable.
async fn arrive(
    gateway: &Gateway,
    announced: Announced,
    (receiving, brake): (&Receiving, &Brake),
    writer: &mut FrameWriter,
    reader: &mut FrameReader,
) -> Result<Part, Stop> {
    // One stream at a time writes a part. An older one of a connection that was replaced is about to end.
    let _turn = receiving.part(announced.number).lock_owned().await;
    let (incoming, reserve, folder) =
        (gateway.pool.incoming().clone(), gateway.reserve, gateway.state.folder().to_owned());
    let open = move || {
        // Room for the part and for what it will take in the store: short of that, redb and the packs would be the ones to hit the wall.
        match has_room(&folder, announced.len * 2, reserve) {
            Ok(true) => incoming.open(announced).map_err(file_refusal),
            Ok(false) => Err(Refusal::NoRoom("its disk is nearly full".into())),
            Err(error) => Err(Refusal::Internal(error.to_string())),
        }
    };
    let mut part = finish(tokio::task::spawn_blocking(open).await).map_err(Stop::Refuse)?;
    send(writer, &DataReply::From { offset: part.offset() }).await?;
    loop {
        let (batch, ended) = gather(reader, brake, announced.len - part.offset()).await?;
        let gone = matches!(ended, Some(Err(())));
        let last = ended.is_some();
        let write = move || {
            part.write(&batch)?;
            if last {
                part.sync()?;
            }
            Ok(part)
        };
        let written = tokio::task::spawn_blocking(write).await;
        part = finish(written.map(|written| written.map_err(file_refusal))).map_err(Stop::Refuse)?;
        match ended {
            _ if gone => return Err(Stop::Gone),
            // The edge makes way for another volume, and announces the parcel again when it goes on.
            Some(_) if !part.is_whole() => return Err(Stop::PutDown { offset: part.offset() }),
            Some(_) => return Ok(part),
            None => {}
        }
    }
}

/// The next bytes, at most `room`, and how the stream ended if it has: well, or because the edge is gone.
async fn gather(reader: &mut FrameReader, brake: &Brake, room: u64) -> Result<(Vec<u8>, Option<Result<(), ()>>), Stop> {
    let mut batch = Vec::new();
    while batch.len() < BATCH {
        brake.pass().await;
        let piece = reader.raw().await;
        if let Ok(Some(bytes)) = &piece {
            brake.paid(bytes.len() as u64);
        }
        match piece {
            Ok(Some(bytes)) if batch.len() as u64 + bytes.len() as u64 > room => {
                return Err(Stop::Refuse(Refusal::Protocol("more bytes came than the parcel has".into())));
            }
            Ok(Some(bytes)) => batch.extend_from_slice(&bytes),
            Ok(None) => return Ok((batch, Some(Ok(())))),
            // What came before the cut counts.
            Err(StreamError::Ended(_) | StreamError::Stopped(_)) => return Ok((batch, Some(Err(())))),
            Err(_) => return Err(Stop::Gone),
        }
    }
    Ok((batch, None))
}

async fn send(writer: &mut FrameWriter, reply: &DataReply) -> Result<(), Stop> {
    writer.send(reply).await.map_err(|_| Stop::Gone)
}
