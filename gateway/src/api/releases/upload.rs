//! A bundle on its way in: into a file, as it comes, within bounds.

use super::Problem;
use crate::incoming::has_room;
use crate::web::Web;
use axum::body::Body;
use axum::http::StatusCode;
use futures_util::StreamExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use wire::release::{MAX_IMAGE, MAX_MANIFEST};

/// Bytes of a bundle at most: an image of which nothing compresses, what zstd puts around it, and its manifest.
const MAX_BUNDLE: u64 = MAX_IMAGE + (MAX_IMAGE >> 8) + MAX_MANIFEST as u64;
/// Whoever sends nothing for so long has gone.
const SILENCE: Duration = Duration::from_secs(60);
/// After so many bytes it is looked whether there is room still.
const LOOK_EVERY: u64 = 64 << 20;

/// A file that is removed unless somebody keeps it.
pub(super) struct Sent(Option<PathBuf>);

impl Sent {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.0.as_deref().expect("it is only taken when it is kept")
    }

    /// Somebody else removes it.
    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if let Some(path) = self.0.take()
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::warn!(%error, path = %path.display(), "what was sent in vain stays until the next start");
        }
    }
}

/// Takes a body into a file. One at a time.
pub(super) async fn take(web: &Arc<Web>, body: Body) -> Result<Sent, Problem> {
    let busy = || Problem::busy("another release is being sent: wait until it is here");
    let _alone = web.state.releases.receiving.clone().try_acquire_owned().map_err(|_| busy())?;
    let failed = |error: std::io::Error| {
        tracing::error!(%error, "a release that is sent cannot be written");
        Problem::failed("what was sent cannot be written to the gateway's disk: look whether it is full")
    };
    let folder = web.state.releases.uploads();
    crate::files::private_folder(&folder).map_err(|error| failed(error.source))?;
    let mut number = [0; 8];
    getrandom::fill(&mut number).expect("the operating system has a random source");
    let sent =
        Sent(Some(folder.join(format!("{}{}", data_encoding::HEXLOWER.encode(&number), release::bundle::SUFFIX))));
    let mut file = File::create_new(sent.path()).await.map_err(failed)?;
    let (mut stream, mut taken, mut looked) = (body.into_data_stream(), 0, 0);
    while let Some(piece) = next(&mut stream).await? {
        taken += piece.len() as u64;
        if taken > MAX_BUNDLE {
            let said = format!("a release has {} at most", crate::text::bytes(MAX_BUNDLE));
            return Err(Problem::unreadable(StatusCode::PAYLOAD_TOO_LARGE, said));
        }
        if looked <= taken {
            looked = taken + LOOK_EVERY;
            if !has_room(&folder, LOOK_EVERY, web.state.reserve).map_err(failed)? {
                return Err(Problem::conflict("the gateway's disk is nearly full: make room, then send it again"));
            }
        }
        file.write_all(&piece).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    Ok(sent)
}

async fn next(stream: &mut axum::body::BodyDataStream) -> Result<Option<axum::body::Bytes>, Problem> {
    match tokio::time::timeout(SILENCE, stream.next()).await {
        Ok(None) => Ok(None),
        Ok(Some(Ok(piece))) => Ok(Some(piece)),
        Ok(Some(Err(error))) => {
            Err(Problem::unreadable(StatusCode::BAD_REQUEST, format!("the body did not arrive whole: {error}")))
        }
        Err(_) => Err(Problem::unreadable(StatusCode::REQUEST_TIMEOUT, "nothing came for a minute: send it again")),
    }
}
