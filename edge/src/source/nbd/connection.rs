//! The way to one export: opened again when it breaks, a bounded number of times, and never to something else than before.

use super::{NbdError, NbdUri};
use crate::source::SourceError;
use nbd::client::Options;
use nbd::proto::ALLOCATION;
use nbd::{Client, ClientError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long connecting may take, and how long the server may be silent while it owes an answer: a disk that spins up takes ten seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// Times that a connection is opened again in one capture. A server that breaks off more often is not going to end well.
const BREAKS: u32 = 16;
/// Waits between attempts to open it again: a server that is started anew is back within seconds.
const WAITS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// One export of one server, over as many connections as it lets in.
pub(super) struct Connection {
    uri: NbdUri,
    options: Mutex<Options>,
    /// `None` while nothing is open.
    open: Mutex<Open>,
    /// Bytes, as told first.
    size: u64,
}

struct Open {
    client: Option<Arc<Client>>,
    breaks: u32,
    /// Why it is not opened again any more: what one caller waited for in vain is not waited for by the next.
    gone: Option<ClientError>,
}

impl Connection {
    /// Connects with these contexts beside `base:allocation`.
    pub(super) fn open(
        uri: &NbdUri,
        tls: Option<Arc<rustls::ClientConfig>>,
        connections: usize,
        contexts: impl IntoIterator<Item = String>,
    ) -> Result<Connection, SourceError> {
        let name = uri.tls.as_ref().map(|name| rustls::pki_types::ServerName::try_from(name.clone()));
        let name = name.transpose().map_err(|error| {
            NbdError::of(uri, "use", error.to_string(), "give the name in the server's certificate with tls-hostname=")
        })?;
        let options = Options {
            export: uri.export.clone(),
            contexts: [ALLOCATION.to_owned()].into_iter().chain(contexts).collect(),
            tls: tls.zip(name),
            connections,
            patience: PATIENCE,
        };
        let client =
            Client::connect(&uri.address, &options).map_err(|error| NbdError::from_client(uri, "open", &error))?;
        Ok(Connection {
            uri: uri.clone(),
            options: Mutex::new(options),
            size: client.size(),
            open: Mutex::new(Open { client: Some(Arc::new(client)), breaks: 0, gone: None }),
        })
    }

    pub(super) fn uri(&self) -> &NbdUri {
        &self.uri
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Asks the server, again over a new connection if this one breaks.
    pub(super) fn ask<T>(
        &self,
        what: &str,
        mut act: impl FnMut(&Client) -> Result<T, ClientError>,
    ) -> Result<T, SourceError> {
        loop {
            let client = self.client(what)?;
            match act(&client) {
                Ok(done) => return Ok(done),
                Err(error @ ClientError::Lost(_)) => self.broke(&client, what, &error)?,
                Err(error) => return Err(NbdError::from_client(&self.uri, what, &error).into()),
            }
        }
    }

    /// Whether the server has this context; asks for it if it was not asked for yet, which takes new connections.
    pub(super) fn has(&self, context: &str) -> Result<bool, SourceError> {
        let known = {
            let mut options = self.options.lock().unwrap_or_else(PoisonError::into_inner);
            let known = options.contexts.iter().any(|asked| asked == context);
            if !known {
                options.contexts.push(context.to_owned());
            }
            known
        };
        if !known {
            // Closed first: a server may let in no more than these.
            self.lock().client = None;
        }
        self.ask("look for a dirty bitmap", |client| Ok(client.contexts().any(|name| name == context)))
    }

    fn client(&self, what: &str) -> Result<Arc<Client>, SourceError> {
        let mut open = self.lock();
        match &open.client {
            Some(client) => Ok(client.clone()),
            None => self.reopen(&mut open, what),
        }
    }

    /// Notes that a client is of no use any more, if nobody else did.
    fn broke(&self, broken: &Arc<Client>, what: &str, error: &ClientError) -> Result<(), SourceError> {
        let mut open = self.lock();
        if !open.client.as_ref().is_some_and(|client| Arc::ptr_eq(client, broken)) {
            return Ok(());
        }
        open.client = None;
        open.breaks += 1;
        if open.breaks > BREAKS {
            return Err(NbdError::from_client(&self.uri, what, error).into());
        }
        tracing::warn!(export = %self.uri, %error, "the connection to an NBD server broke; opening it again");
        Ok(())
    }

    fn reopen(&self, open: &mut Open, what: &str) -> Result<Arc<Client>, SourceError> {
        if let Some(gone) = &open.gone {
            return Err(NbdError::from_client(&self.uri, what, gone).into());
        }
        let options = self.options.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut last = None;
        for wait in WAITS {
            std::thread::sleep(wait);
            match Client::connect(&self.uri.address, &options) {
                Ok(client) if client.size() != self.size => {
                    let why = format!("it has {} bytes now and had {} when it was opened", client.size(), self.size);
                    return Err(NbdError::of(&self.uri, what, why, "capture it again; everything is read then").into());
                }
                Ok(client) => {
                    let client = Arc::new(client);
                    open.client = Some(client.clone());
                    return Ok(client);
                }
                Err(error @ (ClientError::Connect { .. } | ClientError::Lost(_))) => last = Some(error),
                Err(error) => return Err(NbdError::from_client(&self.uri, what, &error).into()),
            }
        }
        let error = last.expect("each attempt that does not return leaves its error");
        Err(NbdError::from_client(&self.uri, what, open.gone.insert(error)).into())
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
