//! What is durable of a shipment: `shipments/<id>/record.json`, written whole when something changes, and `medium-<n>.parts`, which grows by a line for each
//! part that is out and was read back.

use super::{MediumLine, ShipmentError};
use crate::files;
use data_encoding::HEXLOWER;
use dedupe::{ByteCount, SLAB, SeedId, SiteId, SlabNumber, TenantId, UnixMillis};
use seed::key::ShipmentKey;
use seed::manifest::{Part, Volume, slabs_of};
use seed::part::MediumId;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use wire::seeding::{SeedState, Way};
use zeroize::Zeroizing;

const FORMAT: &str = "sluice-edge-shipment";
const VERSION: u32 = 1;
/// Characters of a note at most.
const MAX_NOTE: usize = 300;

/// One entry of the chain of custody.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Noted {
    /// What it became.
    pub state: SeedState,
    /// When, Unix milliseconds.
    pub at: u64,
    /// Who said so.
    pub by: String,
    /// Courier, number, reason.
    pub note: String,
}

/// One shipment.
#[derive(Clone)]
pub struct Shipment {
    /// Its id: that of its first seed.
    pub id: SeedId,
    /// Whose it is.
    pub tenant: TenantId,
    /// From where.
    pub site: SiteId,
    /// How it stands. Changed by [`Shipment::becomes`] alone.
    pub state: SeedState,
    /// If it was given up: how its volumes go on. `None` then: nobody said so yet.
    pub way: Option<Way>,
    /// What happened to it, oldest first.
    pub custody: Vec<Noted>,
    /// The gateway's key: first 16 digits.
    pub key: String,
    /// What the gateway works the secret out from.
    pub encapped: String,
    /// The secret, while it may still be needed.
    pub secret: Option<ShipmentKey>,
    /// What it carries.
    pub volumes: Vec<Volume>,
    /// Its media, ascending by number.
    pub media: Vec<Medium>,
}

/// One medium.
#[derive(Clone, Debug, PartialEq)]
pub struct Medium {
    /// Which.
    pub id: MediumId,
    /// Where it was mounted last.
    pub mount: PathBuf,
    /// Whether it has its manifest.
    pub closed: bool,
    /// What is on it.
    pub parts: Vec<Part>,
    /// Parts that are to be written again on another one: damaged, or lost with all of it.
    pub void: HashSet<u32>,
    /// The last number that a part was begun under.
    pub last: u32,
}

#[derive(Serialize, Deserialize)]
struct Disk {
    format: String,
    version: u32,
    id: SeedId,
    tenant: TenantId,
    site: SiteId,
    state: SeedState,
    #[serde(default)]
    way: Option<Way>,
    custody: Vec<Noted>,
    key: String,
    encapped: String,
    secret: Option<String>,
    volumes: Vec<Volume>,
    media: Vec<DiskMedium>,
}

#[derive(Serialize, Deserialize)]
struct DiskMedium {
    number: u32,
    salt: String,
    mount: PathBuf,
    closed: bool,
    void: Vec<u32>,
}

impl Medium {
    pub(super) fn line(&self) -> MediumLine {
        MediumLine {
            number: self.id.number,
            mount: self.mount.clone(),
            closed: self.closed,
            parts: self.parts.len(),
            bytes: self.parts.iter().map(|part| part.bytes + part.index_bytes).sum(),
        }
    }

    /// Its folder.
    pub fn folder(&self) -> PathBuf {
        self.mount.join(seed::folder_name(self.id.shipment, self.id.number))
    }
}

impl Shipment {
    fn folder(&self, all: &Path) -> PathBuf {
        all.join(self.id.to_string())
    }

    /// Notes what became of it. At the end its secret is wiped.
    pub(super) fn becomes(&mut self, state: SeedState, at: UnixMillis, by: &str, note: &str) {
        let note = note.chars().filter(|c| !c.is_control()).take(MAX_NOTE).collect();
        let by = by.chars().filter(|c| !c.is_control()).take(MAX_NOTE).collect();
        self.state = state;
        self.custody.push(Noted { state, at: at.0, by, note });
        if state.is_over() {
            self.secret = None;
        }
    }

    /// Bytes of slabs that have to go out.
    pub fn total_bytes(&self) -> u64 {
        let of = |volume: &Volume| bytes_of(volume, slabs_of(&volume.slabs));
        self.volumes.iter().map(of).sum()
    }

    /// Bytes of slabs that are out.
    pub fn done_bytes(&self) -> u64 {
        let parts = self.parts().flat_map(|part| &part.slabs);
        parts.filter_map(|(volume, runs)| Some(bytes_of(self.volumes.get(usize::from(*volume))?, slabs_of(runs)))).sum()
    }

    /// Parts that count.
    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.media.iter().flat_map(|medium| medium.parts.iter().filter(|part| !medium.void.contains(&part.number)))
    }

    /// Slabs that are not out, by volume, ascending.
    pub fn left(&self) -> Vec<(u16, SlabNumber)> {
        let mut left = Vec::new();
        for (number, volume) in (0u16..).zip(&self.volumes) {
            let mut out: Vec<(u64, u64)> =
                self.parts().filter_map(|part| part.slabs.get(&number)).flatten().copied().collect();
            out.sort_unstable();
            let mut out = out.into_iter().peekable();
            for slab in slabs_of(&volume.slabs) {
                while out.peek().is_some_and(|(first, count)| first + count <= slab.0) {
                    out.next();
                }
                if out.peek().is_none_or(|(first, _)| *first > slab.0) {
                    left.push((number, slab));
                }
            }
        }
        left
    }

    /// Notes a part that is out, durably. Called after the part itself is.
    pub(super) fn add_part(&mut self, all: &Path, at: usize, part: Part) -> Result<(), ShipmentError> {
        let path = self.folder(all).join(format!("medium-{}.parts", self.media[at].id.number));
        let append = || -> io::Result<()> {
            let mut line = serde_json::to_vec(&part).expect("plain data serialises");
            line.push(b'\n');
            let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
            file.write_all(&line)?;
            file.sync_all()?;
            files::sync_directory(&self.folder(all))
        };
        append().map_err(|source| ShipmentError::Record { path: path.clone(), source })?;
        self.media[at].last = self.media[at].last.max(part.number);
        self.media[at].parts.push(part);
        Ok(())
    }

    /// Writes the list of a medium's parts anew: some are not there any more.
    pub(super) fn rewrite_parts(&self, all: &Path, at: usize) -> Result<(), ShipmentError> {
        let path = self.folder(all).join(format!("medium-{}.parts", self.media[at].id.number));
        let mut lines = Vec::new();
        for part in &self.media[at].parts {
            lines.extend(serde_json::to_vec(part).expect("plain data serialises"));
            lines.push(b'\n');
        }
        files::write_whole(&path, &[&lines]).map_err(|source| ShipmentError::Record { path, source })
    }

    /// Writes its record.
    pub(super) fn store(&self, all: &Path) -> Result<(), ShipmentError> {
        let folder = self.folder(all);
        let medium = |medium: &Medium| DiskMedium {
            number: medium.id.number,
            salt: HEXLOWER.encode(&medium.id.salt),
            mount: medium.mount.clone(),
            closed: medium.closed,
            void: medium.void.iter().copied().collect(),
        };
        let disk = Disk {
            format: FORMAT.into(),
            version: VERSION,
            id: self.id,
            tenant: self.tenant,
            site: self.site,
            state: self.state,
            way: self.way,
            custody: self.custody.clone(),
            key: self.key.clone(),
            encapped: self.encapped.clone(),
            secret: self.secret.as_ref().map(|secret| HEXLOWER.encode(secret.bytes())),
            volumes: self.volumes.clone(),
            media: self.media.iter().map(medium).collect(),
        };
        let json = Zeroizing::new(serde_json::to_vec(&disk).expect("plain data serialises"));
        let path = folder.join("record.json");
        let written = files::private_directory(&folder).and_then(|()| files::write_whole(&path, &[&json]));
        written.map_err(|source| ShipmentError::Record { path, source })
    }

    /// All that are remembered.
    pub(super) fn load_all(all: &Path) -> Result<Vec<Shipment>, ShipmentError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ShipmentError::Record { path, source }
        };
        let entries = match std::fs::read_dir(all) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed(all))?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let folder = entry.map_err(failed(all))?.path();
            let path = folder.join("record.json");
            if folder.file_name().and_then(|name| name.to_str()).is_none_or(|name| name.parse::<SeedId>().is_err()) {
                continue;
            }
            match std::fs::read(&path) {
                // Made and not yet written when the edge was killed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                read => found.push(load(&folder, &path, &Zeroizing::new(read.map_err(failed(&path))?))?),
            }
        }
        Ok(found)
    }
}

fn load(folder: &Path, path: &Path, bytes: &[u8]) -> Result<Shipment, ShipmentError> {
    let damaged = |why: String| ShipmentError::Damaged { path: path.to_owned(), why };
    let disk: Disk = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    if disk.format != FORMAT || disk.version > VERSION {
        return Err(damaged(format!("format {} {}", disk.format, disk.version)));
    }
    let bytes = |text: &str| HEXLOWER.decode(text.as_bytes()).map_err(|_| damaged("a key is none".into()));
    let secret = match disk.secret.map(Zeroizing::new) {
        None => None,
        Some(text) => {
            let bytes = Zeroizing::new(bytes(&text)?);
            let key = bytes.as_slice().try_into().map_err(|_| damaged("its secret is none".into()))?;
            Some(ShipmentKey::from_bytes(key))
        }
    };
    let mut media = Vec::new();
    for medium in disk.media {
        let salt = bytes(&medium.salt)?.try_into().map_err(|_| damaged("a salt is none".into()))?;
        let parts = load_parts(&folder.join(format!("medium-{}.parts", medium.number)))?;
        media.push(Medium {
            id: MediumId { shipment: disk.id, number: medium.number, salt },
            mount: medium.mount,
            closed: medium.closed,
            last: parts.iter().map(|part| part.number).max().unwrap_or(0),
            void: medium.void.into_iter().collect(),
            parts,
        });
    }
    Ok(Shipment {
        id: disk.id,
        tenant: disk.tenant,
        site: disk.site,
        state: disk.state,
        way: disk.way,
        custody: disk.custody,
        key: disk.key,
        encapped: disk.encapped,
        secret,
        volumes: disk.volumes,
        media,
    })
}

/// A line that was being written when the edge was killed is none: its part is written again.
fn load_parts(path: &Path) -> Result<Vec<Part>, ShipmentError> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(|source| ShipmentError::Record { path: path.to_owned(), source })?,
    };
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    let damaged = |error: serde_json::Error| ShipmentError::Damaged { path: path.to_owned(), why: error.to_string() };
    let parts: Vec<Part> = lines.map(|line| serde_json::from_slice(line).map_err(damaged)).collect::<Result<_, _>>()?;
    if !bytes.is_empty() && !bytes.ends_with(b"\n") {
        // Or the next line would be added to it.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        files::write_whole(path, &[&bytes[..whole]])
            .map_err(|source| ShipmentError::Record { path: path.to_owned(), source })?;
    }
    Ok(parts)
}

/// Bytes of slabs of a volume; the last may be shorter.
fn bytes_of(volume: &Volume, slabs: impl Iterator<Item = SlabNumber>) -> u64 {
    slabs.map(|slab| ByteCount(volume.size).0.saturating_sub(slab.offset().0).min(SLAB as u64)).sum()
}
