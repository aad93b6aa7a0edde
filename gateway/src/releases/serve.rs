//! Parts of releases on their way to a site: below everything else, and only while an order for that release holds for it.
//!
//! Memory: [`BATCH`] for each part that is being sent. A part is at most [`wire::release::MAX_PART`] long and is read from its file as it goes.

use super::parts::{Found, Pair};
use super::rollouts;
use crate::ingest::finish;
use crate::live::LiveSession;
use crate::server::Gateway;
use dedupe::GenerationId;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, TryAcquireError};
use wire::message::{DataReply, Refusal, Wait};
use wire::release::{PartFollows, PartWanted};
use wire::stream::{FrameReader, FrameWriter};
use wire::version::Version;

/// Parts of all sites that are sent at once: with [`BATCH`] 128 MiB.
pub(crate) const AT_ONCE: usize = 512;
/// Bytes that are read at once.
const BATCH: usize = 256 << 10;
/// Bytes that are handed to the connection at once: between two of them it is looked whether anything may go down still.
const PIECE: usize = 16 << 10;
/// An edge that takes nothing for so long is cut off, or its line is closed, or restores go first: its memory is given back, and it asks again.
const STALLED: Duration = Duration::from_secs(120);
/// Below answers to parcels (0) and fetches (-1).
const PRIORITY: i32 = -2;
/// After so many seconds a question is worth asking again: when nothing may go down; while a delta is being made; when others come first.
const ASK_AGAIN: (u32, u32, u32) = (60, 30, 10);
/// The base of a question is not here. No generation has this id: the protocol has no other name for a release.
pub(crate) const NO_SUCH_BASE: GenerationId = GenerationId([0xff; 16]);

enum No {
    Refuse(Refusal),
    Later(u32, Wait),
}

/// Answers one question on its stream.
pub(crate) async fn serve(
    gateway: &Gateway,
    session: &LiveSession,
    (wanted, turn): (PartWanted, Result<OwnedSemaphorePermit, TryAcquireError>),
    mut writer: FrameWriter,
    mut reader: FrameReader,
) {
    if session.version() < Version::V5 {
        return reader.stop();
    }
    let _closed = writer.stream().set_priority(PRIORITY);
    let found = match turn {
        Ok(_) if !gateway.live.down().is_open(session.site) => Err(No::Later(ASK_AGAIN.0, Wait::Closed)),
        Ok(turn) => match gateway.state.releases.sending.clone().try_acquire_owned() {
            Ok(memory) => find(gateway, session, wanted).await.map(|found| (found, turn, memory)),
            Err(_) => Err(No::Later(ASK_AGAIN.2, Wait::Busy)),
        },
        Err(_) => Err(No::Later(ASK_AGAIN.2, Wait::Busy)),
    };
    let reply = match found {
        Ok((found, _turn, _memory)) => return give(gateway, session, &wanted, found, writer).await,
        Err(No::Later(seconds, why)) => DataReply::Later { seconds, why },
        Err(No::Refuse(why)) => {
            tracing::info!(site = %session.site, release = %wanted.release, %why, "a part of a release was refused");
            gateway.metrics.refused(&why);
            DataReply::Refused(why)
        }
    };
    if writer.send(&reply).await.is_ok() {
        writer.finish();
    }
}

async fn find(gateway: &Gateway, session: &LiveSession, wanted: PartWanted) -> Result<Found, No> {
    let (state, site) = (gateway.state.clone(), session.site);
    let pair: Pair = (wanted.base, wanted.release);
    let internal = |error: super::ReleasesError| {
        tracing::error!(%error, "a release cannot be served");
        Refusal::Internal("the store of releases failed".into())
    };
    let look = move || {
        if rollouts::ordered(&state, site).map_err(internal)? != Some(wanted.release) {
            return Err(Refusal::Protocol("no roll-out has reached this site with that release".into()));
        }
        let is_here = |id| -> Result<bool, Refusal> {
            let row = state.catalogue.release(id).map_err(|error| internal(error.into()))?;
            row.map_or(Ok(false), |row| state.releases.holds(&row).map_err(internal))
        };
        if !is_here(wanted.release)? {
            return Err(Refusal::Internal("the image of the release is not here: it has to be imported again".into()));
        }
        if let Some(base) = wanted.base
            && !is_here(base)?
        {
            return Err(Refusal::MissingBase(NO_SUCH_BASE));
        }
        match state.releases.part(pair, wanted.part) {
            Err(error @ super::ReleasesError::NoPart { .. }) => Err(Refusal::Protocol(error.to_string())),
            found => found.map_err(internal),
        }
    };
    let found = finish(tokio::task::spawn_blocking(look).await).map_err(No::Refuse)?;
    found.ok_or_else(|| {
        // Too many wait: this one asks again, and is let in then.
        let _asked = gateway.state.releases.wanted.ask(pair);
        gateway.state.releases.work.notify_one();
        No::Later(ASK_AGAIN.1, Wait::Busy)
    })
}

/// Sends a part from where the edge goes on, while anything may go down.
async fn give(gateway: &Gateway, session: &LiveSession, wanted: &PartWanted, found: Found, mut writer: FrameWriter) {
    let Found { index, mut file } = found;
    let (len, hash) = index.0[wanted.part as usize];
    let offset = wanted.have.filter(|(had, durable)| *had == hash && *durable <= len).map_or(0, |(_, durable)| durable);
    let follows = PartFollows { parts: index.0.len() as u32, total: index.total(), len, hash, offset };
    if writer.send(&DataReply::Part(follows)).await.is_err() {
        return;
    }
    let mut at = offset;
    while at < len {
        let room = ((len - at) as usize).min(BATCH);
        let read = tokio::task::spawn_blocking(move || read(file, at, room)).await;
        let bytes = match read {
            Ok(Ok((again, bytes))) => {
                file = again;
                bytes
            }
            failed => {
                let why = failed.map(|read| read.err().map(|error| error.to_string()));
                tracing::error!(?why, "a part of a release cannot be read");
                let _gone = writer.stream().reset(0u32.into());
                return;
            }
        };
        for piece in bytes.chunks(PIECE) {
            // Ended early: the edge keeps what came, and asks for the rest when the window opens.
            if !gateway.live.down().is_open(session.site) || gateway.stop.is_cancelled() {
                writer.finish();
                return;
            }
            match tokio::time::timeout(STALLED, writer.raw(piece)).await {
                Ok(Ok(())) => gateway.metrics.release_bytes.inc_by(piece.len() as u64),
                Ok(Err(_)) => return,
                Err(_) => {
                    let _gone = writer.stream().reset(0u32.into());
                    return;
                }
            }
            dedupe::crash_point("gateway.release.piece");
        }
        at += bytes.len() as u64;
    }
    writer.finish();
}

fn read(file: File, at: u64, len: usize) -> std::io::Result<(File, Vec<u8>)> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at)?;
    Ok((file, bytes))
}
