//! An NBD export as a source: what QEMU, qemu-nbd, nbdkit and storage appliances serve.
//!
//! Holes come from `base:allocation`, changes from a dirty bitmap of QEMU ([`bitmap`]), where the server has them. Reads go out together, over several
//! connections where the server lets them in, so that a line of 20 ms is filled by few workers.

mod bitmap;
mod connection;
mod contexts;
pub mod uri;

use super::tracking::{Changes, Stamp, Tracking, Unknown};
use super::{Identity, SECTOR, Source, SourceError, Wanted};
use bitmap::Bitmap;
use connection::Connection;
use contexts::Context;
use dedupe::{ByteCount, ByteOffset, GenerationId, LEAF};
use nbd::proto::ALLOCATION;
use nbd::{ClientError, Errno, Status};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
pub use uri::NbdUri;

/// Bytes that a worker asks for at once: two of them keep more under way than 1 Gbit/s carries in 20 ms (2.5 MB), with the work between two reads.
const AT_ONCE: usize = 4 << 20;

/// What all NBD sources have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdConfig {
    /// Connections to one export at most, 1 to 16.
    pub connections: usize,
    /// A file of PEM certificates: of the authorities whose servers are believed.
    pub authorities: Option<PathBuf>,
    /// Files of PEM: the own certificate's chain and its key, for servers that want one.
    pub own: Option<(PathBuf, PathBuf)>,
}

impl Default for NbdConfig {
    fn default() -> NbdConfig {
        // Four connections keep a server with one thread per connection busy on as many cores; more gained nothing.
        NbdConfig { connections: 4, authorities: None, own: None }
    }
}

/// Something went wrong with an export.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} the NBD export `{export}` at {server}: {why}; {next}")]
pub struct NbdError {
    what: String,
    export: String,
    server: String,
    why: String,
    next: String,
    /// What the server called its failure, where it tried and failed.
    pub(super) errno: Option<Errno>,
}

impl NbdError {
    fn of(uri: &NbdUri, what: &str, why: impl Into<String>, next: impl Into<String>) -> NbdError {
        NbdError {
            what: what.into(),
            export: uri.export.clone(),
            server: uri.address.to_string(),
            why: why.into(),
            next: next.into(),
            errno: None,
        }
    }

    fn from_client(uri: &NbdUri, what: &str, error: &ClientError) -> NbdError {
        let (why, next) = match error {
            ClientError::Connect { cause, .. } => {
                (cause.clone(), "check that the server runs and that this host may reach it")
            }
            ClientError::Lost(why) => {
                (why.to_string(), "check the server and the network; what was read is kept or read again")
            }
            ClientError::Refused { what, why } => (
                format!("it refuses {what}: {why}"),
                "`nbdinfo --list` shows the exports; a server that wants TLS is named with nbds://",
            ),
            ClientError::Protocol(why) => (
                format!("it does not keep to the protocol: {why}"),
                "`nbdinfo` shows whether others understand the server; else put nbdkit's nbd plugin in front of it",
            ),
            ClientError::Failed { message, errno, .. } => {
                (format!("{message} ({errno:?})"), "the server's log says more")
            }
            ClientError::Misuse(why) => (why.clone(), "`sluice-edge volume test` says what the server lacks"),
        };
        let errno = match error {
            ClientError::Failed { errno, .. } => Some(*errno),
            _ => None,
        };
        NbdError { errno, ..NbdError::of(uri, what, why, next) }
    }
}

impl From<NbdError> for SourceError {
    fn from(error: NbdError) -> SourceError {
        SourceError::Nbd(Box::new(error))
    }
}

/// An export, opened for one capture.
pub struct NbdSource {
    connection: Connection,
    block: u32,
    holes: Option<Context>,
    /// The bitmap as it was when the capture began.
    looked: Mutex<Option<Bitmap>>,
}

/// What a server offers, for who asks before anything is captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Connections that it let in.
    pub connections: usize,
    /// Whether it tells holes.
    pub tells_holes: bool,
    /// Whether it takes no writes.
    pub is_read_only: bool,
}

impl NbdSource {
    /// Connects to `uri`.
    pub fn open(uri: &NbdUri, config: &NbdConfig) -> Result<NbdSource, SourceError> {
        let tls = uri.tls.is_some().then(|| tls(uri, config)).transpose()?;
        let contexts = uri.bitmap.iter().map(|name| bitmap::context(name));
        let connection = Connection::open(uri, tls, config.connections, contexts)?;
        let size = connection.size();
        let refuse = |why: String, next: &str| NbdError::of(uri, "use", why, next);
        if size == 0 {
            return Err(refuse("it has no bytes".into(), "a volume has at least one sector").into());
        }
        if !size.is_multiple_of(SECTOR) {
            let next = "no disk has such a size; nbdkit's truncate filter rounds it (round-up=512)";
            return Err(refuse(format!("it has {size} bytes, which is not a multiple of 512"), next).into());
        }
        let (block, tells_holes) = connection
            .ask("open", |client| Ok((client.smallest(), client.contexts().any(|name| name == ALLOCATION))))?;
        if block as usize > LEAF {
            let next = "nbdkit's blocksize filter in front of it makes them smaller (minblock=4k)";
            return Err(refuse(
                format!("it only reads blocks of {block} bytes, and {LEAF} are the most that work"),
                next,
            )
            .into());
        }
        let holes = tells_holes.then(|| Context::new(ALLOCATION.into()));
        Ok(NbdSource { connection, block: block.max(SECTOR as u32), holes, looked: Mutex::default() })
    }

    /// The ranges that are dirty in the bitmap that its address names, `bytes` or so, without a look at all of it first: for who knows that the bitmap is the
    /// right one.
    pub(super) fn into_dirty(self, bytes: u64) -> Result<Box<dyn Changes>, Unknown> {
        let name = self.connection.uri().bitmap.clone().ok_or_else(|| Unknown("no bitmap is named".into()))?;
        Ok(Box::new(bitmap::Dirty::new(self.connection, &name, bytes)))
    }

    /// What its server offers.
    pub fn offered(&self) -> Result<Offered, SourceError> {
        self.connection.ask("open", |client| {
            Ok(Offered {
                connections: client.connections(),
                tells_holes: self.holes.is_some(),
                is_read_only: client.is_read_only(),
            })
        })
    }
}

impl Source for NbdSource {
    fn size(&self) -> ByteCount {
        ByteCount(self.connection.size())
    }

    fn block_size(&self) -> u32 {
        self.block
    }

    fn next_data(&self, within: Range<u64>) -> Result<Option<Range<u64>>, SourceError> {
        let Some(holes) = &self.holes else { return Ok(Some(within).filter(|within| !within.is_empty())) };
        let mut found: Option<Range<u64>> = None;
        holes.walk(&self.connection, within, |extent, flags| match (&mut found, Status::from_flags(flags)) {
            (None, Status::Data) => {
                found = Some(extent);
                true
            }
            (Some(found), Status::Data) => {
                found.end = extent.end;
                true
            }
            (found, Status::Hole | Status::Zero) => found.is_none(),
        })?;
        Ok(found)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), SourceError> {
        let (block, size) = (u64::from(self.block), self.connection.size());
        let (start, end) = (offset.0, offset.0 + buf.len() as u64);
        let whole = start / block * block..end.next_multiple_of(block).min(size.max(end));
        if whole == (start..end) {
            return self.read_all(&mut [(offset, buf)]);
        }
        // Pieces of a bad range may be smaller than what the server reads.
        let mut around = vec![0; (whole.end - whole.start) as usize];
        self.read_all(&mut [(ByteOffset(whole.start), &mut around)])?;
        buf.copy_from_slice(&around[(start - whole.start) as usize..(end - whole.start) as usize]);
        Ok(())
    }

    fn read_all(&self, wanted: &mut [Wanted<'_>]) -> Result<(), SourceError> {
        self.connection.ask("read", |client| {
            let mut wanted: Vec<(u64, &mut [u8])> = wanted.iter_mut().map(|(at, buf)| (at.0, &mut **buf)).collect();
            client.read_many(&mut wanted)
        })
    }

    fn at_once(&self) -> usize {
        AT_ONCE
    }

    fn check(&self) -> Result<(), SourceError> {
        // Its size cannot change under a connection, and a new connection compares it.
        let last = self.connection.size() - u64::from(self.block).min(self.connection.size());
        let last = last / u64::from(self.block) * u64::from(self.block);
        self.read_at(ByteOffset(last), &mut vec![0; (self.connection.size() - last).min(self.block.into()) as usize])
    }

    fn identity(&self) -> Option<Identity> {
        None
    }

    fn tracking(&self) -> Option<&dyn Tracking> {
        self.connection.uri().bitmap.is_some().then_some(self)
    }
}

impl Tracking for NbdSource {
    fn begin(&self) -> Result<Stamp, Unknown> {
        let name = self.connection.uri().bitmap.as_ref().ok_or_else(|| Unknown("no bitmap is named".into()))?;
        let looked = bitmap::look(&self.connection, name)?;
        let stamp = looked.stamp();
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = Some(looked);
        Ok(stamp)
    }

    fn changed_since(&self, stamp: &Stamp) -> Result<Box<dyn Changes + '_>, Unknown> {
        let looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        bitmap::since(&self.connection, stamp, looked)
    }

    /// Nothing can be cleared over NBD: the bitmap goes on growing until somebody names another one.
    fn done(&self, _generation: GenerationId, _stamp: &Stamp) {}
}

/// The TLS configuration for `uri`, read anew each time so that files may be replaced.
fn tls(uri: &NbdUri, config: &NbdConfig) -> Result<Arc<rustls::ClientConfig>, SourceError> {
    let Some(authorities) = &config.authorities else {
        let next = "name a file of the authority's certificate in the configuration: [nbd] authorities = \"/etc/sluice/nbd-ca.pem\"";
        return Err(NbdError::of(uri, "use", "no authority of its server is known", next).into());
    };
    let failed = |path: &Path, why: String| {
        let next = "the files of [nbd] in the configuration are PEM, readable by the daemon's user";
        SourceError::from(NbdError::of(uri, "use", format!("{}: {why}", path.display()), next))
    };
    let chain = |path: &Path| -> Result<Vec<CertificateDer<'static>>, SourceError> {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let read = read.map_err(|error| failed(path, error.to_string()))?;
        if read.is_empty() { Err(failed(path, "it holds no certificate".into())) } else { Ok(read) }
    };
    let own = match &config.own {
        None => None,
        Some((certificate, key)) => {
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| failed(key, error.to_string()))?;
            Some((chain(certificate)?, secret))
        }
    };
    let made = nbd::tls::client(&chain(authorities)?, own);
    Ok(made.map_err(|error| NbdError::of(uri, "use", error.to_string(), "look at [nbd] in the configuration"))?)
}

#[cfg(test)]
mod tests;
