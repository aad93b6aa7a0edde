//! Generations as block devices, at once and without rehydrating: NBD straight from the store.
//!
//! Read-only, or with an overlay that takes what is written and can be thrown away or kept: a rehearsal costs what the guest writes. Exports are rows of the
//! catalogue, so that a restart of the gateway serves them again; a generation that is exported is not forgotten.

mod view;

use crate::catalogue::CatalogueError;
use crate::config::ExportConfig;
use crate::files::{self, FileError};
use crate::state::{State, StateError};
use dedupe::{GenerationId, LineageId, StoreError, TenantId, UnixMillis};
use nbd::overlay::{Overlay, OverlayError};
use nbd::{Export, Exports, Limits, Listener};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use std::io::BufReader;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use view::StoredView;

/// Name of the socket in the state directory.
pub const SOCKET: &str = "nbd.sock";
/// Folder of overlays in the state directory.
const OVERLAYS: &str = "exports";
/// Exports at once: each holds a view, an overlay an open file.
const MOST: usize = 256;

/// An export as the catalogue keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportRow {
    /// Its name, by which clients ask for it.
    pub name: String,
    /// Whose it is.
    pub tenant: TenantId,
    /// The volume, `TENANT/SITE/VOLUME`.
    pub volume: String,
    /// Its lineage.
    pub lineage: LineageId,
    /// The generation.
    pub generation: GenerationId,
    /// Its number for people.
    pub number: u64,
    /// Whether it takes writes, into an overlay.
    pub writable: bool,
    /// Whether it is served; an overlay that was kept waits for being served again.
    pub served: bool,
    /// Who asked for it.
    pub by: String,
    /// Since when.
    pub since: UnixMillis,
}

/// Why a generation is not exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The catalogue failed.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// A tenant's store cannot be opened.
    #[error(transparent)]
    State(#[from] StateError),
    /// The store failed.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// The overlay failed.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// A folder could not be made.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is one of that name.
    #[error("there is an export `{0}` already; stop it first, or choose another name")]
    Exists(String),
    /// There is none of that name.
    #[error("there is no export `{0}`; `sluice-gateway export list` shows those that there are")]
    None(String),
    /// What becomes of the overlay was not said.
    #[error(
        "export `{0}` has taken writes: say whether they are thrown away (--discard) or kept (--keep); in the API by `keep=false` or `keep=true`"
    )]
    Undecided(String),
    /// Too many.
    #[error("{MOST} exports are there: stop one first")]
    TooMany,
    /// No daemon serves it.
    #[error("exports are served by the daemon; start it, then ask again")]
    NotRunning,
}

/// Why exports cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket cannot be made.
    #[error("cannot listen for NBD on {at}: {source}")]
    Listen {
        /// Where.
        at: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file of certificates is none.
    #[error(
        "{path} cannot be used for NBD's TLS: {why}; the folder needs ca-cert.pem, server-cert.pem and server-key.pem, as QEMU and libvirt name them"
    )]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// What is served.
#[derive(Clone)]
pub struct Server {
    exports: Exports,
    /// Where clients of other machines find it.
    pub(crate) address: Option<SocketAddr>,
    /// Whether they have to come by TLS.
    pub(crate) is_encrypted: bool,
    changing: Arc<Mutex<()>>,
}

impl Server {
    /// Begins to serve what the catalogue lists. What cannot be opened is left out and said in the log. Must be called within a runtime.
    pub(crate) fn start(
        state: &State,
        config: Option<&ExportConfig>,
        (tasks, stop): (&TaskTracker, &CancellationToken),
    ) -> Result<Server, ServeError> {
        let exports = Exports::new();
        let path = state.folder().join(SOCKET);
        let _left_by_a_crash = std::fs::remove_file(&path);
        let failed = |at: String| move |source| ServeError::Listen { at, source };
        let unix = tokio::net::UnixListener::bind(&path).map_err(failed(path.display().to_string()))?;
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, private).map_err(failed(path.display().to_string()))?;
        tasks.spawn(nbd::serve(Listener::Unix(unix), exports.clone(), Limits::default(), None, stop.clone()));
        let (mut address, mut is_encrypted) = (None, false);
        if let Some(config) = config {
            let at = || config.listen.to_string();
            let tls = config.tls.as_deref().map(tls_of).transpose()?;
            is_encrypted = tls.is_some();
            let listener = std::net::TcpListener::bind(config.listen).map_err(failed(at()))?;
            listener.set_nonblocking(true).map_err(failed(at()))?;
            let listener = tokio::net::TcpListener::from_std(listener).map_err(failed(at()))?;
            address = listener.local_addr().ok();
            tasks.spawn(nbd::serve(Listener::Tcp(listener), exports.clone(), Limits::default(), tls, stop.clone()));
        }
        let server = Server { exports, address, is_encrypted, changing: Arc::default() };
        match state.catalogue.exports() {
            Ok(rows) => {
                for row in rows.into_iter().filter(|row| row.served) {
                    match open(state, &row) {
                        Ok(export) => server.exports.put(row.name, export),
                        Err(error) => tracing::error!(export = row.name, %error, "an export is not served any more"),
                    }
                }
            }
            Err(error) => tracing::error!(%error, "exports of before are not served"),
        }
        Ok(server)
    }

    /// Serves a generation from now on; what was kept under the name is served again.
    pub(crate) fn add(&self, state: &State, row: ExportRow) -> Result<ExportRow, ExportError> {
        let _one_at_a_time = self.changing.lock().expect("nobody panics while they change exports");
        let rows = state.catalogue.exports()?;
        let row = match rows.iter().find(|known| known.name == row.name && known.tenant == row.tenant) {
            Some(known) if known.served => return Err(ExportError::Exists(row.name)),
            Some(known) if known.generation == row.generation && row.writable => {
                ExportRow { served: true, ..known.clone() }
            }
            Some(_) => return Err(ExportError::Exists(row.name)),
            None if rows.iter().any(|known| known.name == row.name) => return Err(ExportError::Exists(row.name)),
            None if rows.len() >= MOST => return Err(ExportError::TooMany),
            None => {
                // Thrown away, by somebody who was killed between the row and the file.
                files::remove(&overlay_of(state, &row.name))?;
                row
            }
        };
        let export = open(state, &row)?;
        state.catalogue.put_export(&row)?;
        self.exports.put(row.name.clone(), export);
        Ok(row)
    }

    /// Connections to it now.
    pub(crate) fn connections(&self, name: &str) -> usize {
        self.exports.connections(name)
    }

    /// Serves it no more. `keep`: whether the overlay stays, to be served again.
    pub(crate) fn stop(&self, state: &State, name: &str, keep: Option<bool>) -> Result<(), ExportError> {
        let _one_at_a_time = self.changing.lock().expect("nobody panics while they change exports");
        let row = state.catalogue.exports()?.into_iter().find(|row| row.name == name);
        let row = row.ok_or_else(|| ExportError::None(crate::text::printable(name)))?;
        let keeps = match (row.writable, keep) {
            (true, None) => return Err(ExportError::Undecided(row.name)),
            (true, Some(keep)) => keep,
            (false, _) => false,
        };
        self.exports.remove(name);
        if keeps {
            return Ok(state.catalogue.put_export(&ExportRow { served: false, ..row })?);
        }
        state.catalogue.remove_export(name)?;
        files::remove(&overlay_of(state, name))?;
        Ok(())
    }
}

/// The generation as a block device.
fn open(state: &State, row: &ExportRow) -> Result<Arc<dyn Export>, ExportError> {
    let tenant = state.tenant(row.tenant)?;
    let view = tenant.store.view(row.generation)?;
    let root = view.generation().sealed.map(|sealed| sealed.root.hash).unwrap_or_default();
    let base: Arc<dyn Export> = Arc::new(StoredView::new(view));
    if !row.writable {
        return Ok(base);
    }
    let path = overlay_of(state, &row.name);
    files::private_folder(path.parent().expect("overlays lie in a folder of their own"))?;
    let overlay = match path.exists() {
        true => Overlay::open(&path, base, root)?,
        false => Overlay::create(&path, base, root)?,
    };
    Ok(Arc::new(overlay))
}

fn overlay_of(state: &State, name: &str) -> PathBuf {
    state.folder().join(OVERLAYS).join(format!("{name}.overlay"))
}

/// TLS with certificates of both ends, from a folder as QEMU and libvirt lay it out.
fn tls_of(folder: &Path) -> Result<Arc<rustls::ServerConfig>, ServeError> {
    let certificates = |name: &str| {
        let path = folder.join(name);
        let found = std::fs::File::open(&path).and_then(|file| pem_certificates(&mut BufReader::new(file)));
        match found {
            Ok(found) if !found.is_empty() => Ok((path, found)),
            Ok(_) => Err(ServeError::Tls { path, why: "it holds no certificate".into() }),
            Err(error) => Err(ServeError::Tls { path, why: error.to_string() }),
        }
    };
    let (_, clients) = certificates("ca-cert.pem")?;
    let (path, own) = certificates("server-cert.pem")?;
    let key_path = folder.join("server-key.pem");
    let key = PrivateKeyDer::from_pem_file(&key_path)
        .map_err(|error| ServeError::Tls { path: key_path, why: error.to_string() })?;
    nbd::tls::server((own, key), Some(&clients)).map_err(|error| ServeError::Tls { path, why: error.to_string() })
}

fn pem_certificates(from: &mut impl std::io::BufRead) -> std::io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_reader_iter(from).map(|found| found.map_err(std::io::Error::other)).collect()
}
