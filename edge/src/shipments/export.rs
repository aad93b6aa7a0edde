//! Writes media.

use super::record::{Medium, Shipment};
use super::{ShipmentError, Shipments, Wish};
use crate::config::Config;
use crate::files;
use crate::identity::Identity;
use crate::state::State;
use data_encoding::HEXLOWER;
use dedupe::carry::Given;
use dedupe::{Progress, SeedId, SlabNumber, View, crash_point};
use seed::key::Shipment as Whose;
use seed::manifest::{FILE, Manifest, Volume, runs_of};
use seed::part::{Kind, MediumId, file_name};
use seed::write::{Queue, WriteError, Writer, put, sync_folder};
use seed::{FileError, MAX_PART, label};
use std::path::{Path, PathBuf};
use wire::clock::machine_time;
use wire::seeding::SeedState;

/// Bytes that stay free on a medium for what closes it: manifest, label, and what its file system needs.
const CLOSING: u64 = 8 << 20;
/// A medium with less room than this is full: a slab that does not compress has 16 MiB, twice that with rests of old chunks.
const LEAST: u64 = 40 << 20;
/// Slabs that are asked of the index at once.
const SLABS: usize = 64 << 10;
/// Memory from which on two threads lift slabs: each takes up to 100 MiB beside what the daemon has.
const MEMORY_OF_TWO: u64 = 768 << 20;

/// One run of an export. Blocks.
pub struct Export<'a> {
    disk: &'a State,
    shipments: &'a Shipments,
    progress: &'a Progress,
    identity: Identity,
    workers: usize,
}

impl<'a> Export<'a> {
    /// Of an edge that is enrolled.
    pub fn new(disk: &'a State, config: &Config, progress: &'a Progress) -> Result<Export<'a>, ShipmentError> {
        let identity = Identity::load(disk.directory())?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = if config.memory.0 < MEMORY_OF_TWO { 1 } else { cores.min(2) };
        Ok(Export { disk, shipments: &disk.shipments, progress, identity, workers })
    }

    /// Exports as far as the media have room; done when it returns.
    pub fn run(&mut self, wish: &Wish) -> Result<Shipment, ShipmentError> {
        let mut shipment = match wish.again {
            Some(id) => self.again(id, wish)?,
            None => self.begin(wish)?,
        };
        if let Some(running) = self.shipments.running().as_mut() {
            running.id = Some(shipment.id);
        }
        let mut queue = Queue::new(shipment.left());
        let views = shipment.volumes.iter().map(|volume| self.disk.store.view(volume.generation));
        let views: Vec<View> = views.collect::<Result<_, _>>()?;
        for mount in &wish.to {
            self.fill(&mut shipment, mount, &views, &mut queue)?;
        }
        if !queue.is_empty() {
            return Err(ShipmentError::NeedsMore(shipment.total_bytes().saturating_sub(shipment.done_bytes())));
        }
        if let Some(open) = shipment.media.iter().find(|medium| !medium.closed && medium.counts()) {
            let (id, number, mount) = (shipment.id, open.id.number, open.mount.clone());
            return Err(ShipmentError::Unclosed { id, number, mount });
        }
        if shipment.state == SeedState::Exporting {
            let note = format!("{} media, read back", shipment.media.len());
            shipment.becomes(SeedState::Exported, machine_time(), &wish.actor, &note);
            self.shipments.put(&shipment)?;
        }
        Ok(shipment)
    }

    /// What was not finished, or something new.
    fn begin(&self, wish: &Wish) -> Result<Shipment, ShipmentError> {
        let unfinished = self.shipments.lock().values().find(|known| known.state == SeedState::Exporting).cloned();
        if let Some(shipment) = unfinished {
            let is_same = |names: &[String]| {
                names.len() == shipment.volumes.len()
                    && shipment.volumes.iter().all(|volume| names.contains(&volume.name))
            };
            return match wish.volumes.is_empty() || is_same(&wish.volumes) {
                true => Ok(shipment),
                false => Err(ShipmentError::OtherVolumes(shipment.id)),
            };
        }
        if let Some(key) = &wish.key {
            self.shipments.set_key(key.parse()?)?;
        }
        let key = self.shipments.key()?;
        let volumes = self.volumes(&wish.volumes)?;
        let bearer = self.identity.bearer()?.bearer;
        let id = volumes.first().ok_or(ShipmentError::NoVolumes)?.seed;
        let (encapped, secret) = key.shipment(&Whose { id, tenant: bearer.tenant, site: bearer.site })?;
        let mut shipment = Shipment {
            id,
            tenant: bearer.tenant,
            site: bearer.site,
            state: SeedState::Exporting,
            way: None,
            custody: Vec::new(),
            key: key.id(),
            encapped: HEXLOWER.encode(&encapped),
            secret: Some(secret),
            volumes,
            media: Vec::new(),
        };
        shipment.becomes(SeedState::Exporting, machine_time(), &wish.actor, "");
        // Pinned from here on.
        self.shipments.put(&shipment)?;
        Ok(shipment)
    }

    fn volumes(&self, names: &[String]) -> Result<Vec<Volume>, ShipmentError> {
        let known = self.disk.volumes().entries().to_vec();
        let unknown = |name: &String| self.disk.volumes().find(name).err().map(|error| error.to_string());
        if let Some(why) = names.iter().find_map(unknown) {
            return Err(ShipmentError::Unknown(why));
        }
        let mut volumes = Vec::new();
        for entry in known.into_iter().filter(|entry| names.is_empty() || names.contains(&entry.name)) {
            let open = |shipment: &&Shipment| {
                !shipment.state.is_over() && shipment.volumes.iter().any(|volume| volume.lineage == entry.lineage)
            };
            if let Some(other) = self.shipments.lock().values().find(open) {
                return Err(ShipmentError::OnItsWay { volume: entry.name, id: other.id });
            }
            let latest = self.disk.store.latest(entry.lineage)?;
            let Some((latest, sealed)) = latest.and_then(|latest| latest.sealed.map(|sealed| (latest, sealed))) else {
                return Err(ShipmentError::NeverCaptured(entry.name));
            };
            let view = self.disk.store.view(latest.id)?;
            let (mut slabs, mut from) = (Vec::new(), SlabNumber(0));
            loop {
                let batch = view.slabs_from(from, SLABS)?;
                let Some(last) = batch.last() else { break };
                from = SlabNumber(last.0 + 1);
                slabs.extend(batch);
            }
            volumes.push(Volume {
                seed: SeedId::random(),
                name: entry.name,
                lineage: entry.lineage,
                generation: latest.id,
                root: sealed.root.to_string(),
                size: latest.size.0,
                captured_at: latest.captured_at.0,
                slabs: runs_of(slabs),
            });
        }
        Ok(volumes)
    }

    /// Parts that the gateway could not read are written again, to another medium.
    fn again(&self, id: SeedId, wish: &Wish) -> Result<Shipment, ShipmentError> {
        let mut shipment = self.shipments.get(id)?;
        if shipment.secret.is_none() {
            let why = "nothing of it is written any more";
            return Err(ShipmentError::State { id, state: shipment.state.word(), why });
        }
        for text in &wish.parts {
            let wrong = || ShipmentError::Parts(text.chars().take(40).collect());
            let (medium, part) = text.split_once('/').map_or((text.as_str(), None), |(m, p)| (m, Some(p)));
            let number: u32 = medium.parse().map_err(|_| wrong())?;
            let medium = shipment.media.iter_mut().find(|medium| medium.id.number == number).ok_or_else(wrong)?;
            let numbers: Vec<u32> = medium.parts.iter().map(|part| part.number).collect();
            match part {
                None => medium.void.extend(numbers),
                Some(part) => {
                    let part: u32 = part.parse().map_err(|_| wrong())?;
                    numbers.contains(&part).then(|| medium.void.insert(part)).ok_or_else(wrong)?;
                }
            }
        }
        self.shipments.put(&shipment)?;
        Ok(shipment)
    }

    /// Writes to one medium until it is full or nothing is left, and closes it.
    fn fill(
        &self,
        shipment: &mut Shipment,
        mount: &Path,
        views: &[View],
        queue: &mut Queue,
    ) -> Result<(), ShipmentError> {
        let at = match self.open(shipment, mount, queue)? {
            Some(at) => at,
            None if queue.is_empty() => return Ok(()),
            None if room(mount)? < LEAST => return Ok(()),
            None => self.medium(shipment, mount)?,
        };
        let folder = shipment.media[at].folder();
        let key = shipment.secret.clone().expect("only an open shipment is filled, and it has its secret");
        let given = Given::default();
        while !queue.is_empty() {
            let room = room(mount)?;
            if room < LEAST {
                break;
            }
            let (medium, number) = (shipment.media[at].id, shipment.media[at].last + 1);
            let writer = Writer {
                folder: &folder,
                medium,
                key: &key,
                views,
                given: &given,
                workers: self.workers,
                progress: self.progress,
            };
            let most = room.min(u64::from(MAX_PART)) as u32;
            match writer.part(number, most, queue) {
                Ok(part) if part.slabs.is_empty() => {
                    remove(&folder, number);
                    break;
                }
                Ok(part) => {
                    shipment.add_part(&self.shipments.folder, at, part)?;
                    crash_point("edge.seed.noted");
                    self.shipments.lock().insert(shipment.id, shipment.clone());
                }
                Err(WriteError::File(error)) if error.is_no_room() => break,
                Err(source) => return Err(ShipmentError::Write { source }),
            }
        }
        self.close(shipment, at, queue.is_empty())
    }

    /// The medium of this shipment at `mount` that is not closed. Parts of it that are not there any more are to be written again.
    fn open(&self, shipment: &mut Shipment, mount: &Path, queue: &mut Queue) -> Result<Option<usize>, ShipmentError> {
        for at in 0..shipment.media.len() {
            let medium = &shipment.media[at];
            let folder = mount.join(seed::folder_name(shipment.id, medium.id.number));
            if medium.closed || !folder.join("salt").exists() {
                continue;
            }
            let salt =
                std::fs::read_to_string(folder.join("salt")).map_err(FileError::on("read", &folder.join("salt")))?;
            if salt.trim() != HEXLOWER.encode(&medium.id.salt) {
                continue; // an earlier writing
            }
            let is_there = |part: &seed::manifest::Part| {
                let len =
                    |kind| std::fs::metadata(folder.join(file_name(part.number, kind))).map(|meta| meta.len()).ok();
                len(Kind::Part) == Some(part.bytes) && len(Kind::Index) == Some(part.index_bytes)
            };
            let before = medium.parts.len();
            let medium = &mut shipment.media[at];
            medium.parts.retain(is_there);
            medium.mount = mount.to_owned();
            if medium.parts.len() < before {
                tracing::warn!(
                    medium = medium.id.number,
                    gone = before - medium.parts.len(),
                    "parts of a medium are not there any more and are written again"
                );
                shipment.rewrite_parts(&self.shipments.folder, at)?;
                *queue = Queue::new(shipment.left());
            }
            self.shipments.put(shipment)?;
            return Ok(Some(at));
        }
        Ok(None)
    }

    /// Begins a medium.
    fn medium(&self, shipment: &mut Shipment, mount: &Path) -> Result<usize, ShipmentError> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).expect("the operating system has a random source");
        let number = shipment.media.last().map_or(0, |medium| medium.id.number) + 1;
        let id = MediumId { shipment: shipment.id, number, salt };
        let medium =
            Medium { id, mount: mount.to_owned(), closed: false, parts: Vec::new(), void: Default::default(), last: 0 };
        let folder = medium.folder();
        match std::fs::create_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => made.map_err(FileError::on("make the folder", &folder))?,
        }
        put(&folder.join("salt"), format!("{}\n", HEXLOWER.encode(&salt)).as_bytes())?;
        sync_folder(mount)?;
        shipment.media.push(medium);
        self.shipments.put(shipment)?;
        crash_point("edge.seed.medium");
        Ok(shipment.media.len() - 1)
    }

    fn close(&self, shipment: &mut Shipment, at: usize, last: bool) -> Result<(), ShipmentError> {
        let medium = &shipment.media[at];
        let folder = medium.folder();
        if !medium.counts() {
            // Nothing found room on it.
            let gone = shipment.media.remove(at);
            self.shipments.put(shipment)?;
            let _ = std::fs::remove_file(folder.join("salt"));
            let _ = std::fs::remove_dir(gone.folder());
            return Ok(());
        }
        let manifest = Manifest {
            medium: medium.id.into(),
            last,
            made: machine_time().0,
            tenant: shipment.tenant,
            site: shipment.site,
            site_name: self.identity.credentials().site,
            key: shipment.key.clone(),
            encapped: shipment.encapped.clone(),
            volumes: shipment.volumes.clone(),
            parts: medium.parts.clone(),
        };
        let signed = self.identity.sign(&manifest)?;
        put(&folder.join("LABEL.txt"), label::text(&manifest).as_bytes())?;
        put(&folder.join("label.svg"), label::picture(&manifest).as_bytes())?;
        put(&folder.join(FILE), &signed)?;
        let hash = blake3::hash(&signed).to_hex();
        let proved = seed::write::prove(&folder.join(FILE), hash.as_str(), self.progress);
        proved.map_err(|source| ShipmentError::Write { source })?;
        crash_point("edge.seed.closed");
        shipment.media[at].closed = true;
        self.shipments.put(shipment)
    }
}

impl Medium {
    /// Whether something on it is needed.
    pub(super) fn counts(&self) -> bool {
        self.parts.iter().any(|part| !self.void.contains(&part.number))
    }
}

fn remove(folder: &Path, number: u32) {
    for kind in [Kind::Part, Kind::Index] {
        let path: PathBuf = folder.join(file_name(number, kind));
        let _ = std::fs::remove_file(path);
    }
}

/// Bytes that a part at `mount` may have.
fn room(mount: &Path) -> Result<u64, ShipmentError> {
    let (free, _) = files::disk(mount).map_err(FileError::on("look at", mount))?;
    Ok(free.saturating_sub(CLOSING))
}
