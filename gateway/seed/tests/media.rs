//! Media written from one store and read into another, whole and in every way that they can be broken.
#![allow(clippy::unwrap_used)] // tests

use dedupe::carry::Given;
use dedupe::{
    ByteCount, ByteOffset, Draft, GenerationId, Keys, Kind, Lineage, LineageId, LocalPacks, NewGeneration, Progress,
    Root, SLAB, SealError, SeedId, SiteId, SlabNumber, Store, StoreOptions, TenantId, UnixMillis, View,
};
use seed::key::{OpeningKey, Shipment, ShipmentKey};
use seed::manifest::{FILE, Manifest, ManifestError, Volume, runs_of, slabs_of};
use seed::part::{Kind as FileKind, MediumId, file_name};
use seed::read::{Brought, Medium, ReadError};
use seed::write::{Queue, WriteError, Writer, put};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wire::identity::{Authority, Bearer, Key};

const SIZE: usize = 9 * SLAB + 5 * 4096 + 512;
const END: UnixMillis = UnixMillis(1_900_000_000_000);
const NOW: u64 = 1_800_000_000_000;

fn open(folder: &Path) -> Arc<Store> {
    let packs = Arc::new(LocalPacks::open(&folder.join("packs")).unwrap());
    Store::open(&folder.join("index.redb"), packs, Keys::new(1, [9; 32]), StoreOptions::default()).unwrap()
}

fn text(len: usize, mut seed: u64) -> Vec<u8> {
    (0..len)
        .map(|_| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 57) as u8
        })
        .collect()
}

/// A site with a volume, and a gateway's key and store.
struct World {
    folder: tempfile::TempDir,
    branch: Arc<Store>,
    lineage: LineageId,
    generation: GenerationId,
    root: Root,
    bytes: Vec<u8>,
    gateway: OpeningKey,
    authority: Authority,
    edge: Key,
    certificate: Vec<u8>,
    shipment: Shipment,
    secret: ShipmentKey,
    encapped: [u8; 32],
}

fn new(lineage: LineageId, id: GenerationId) -> NewGeneration {
    let size = ByteCount(SIZE as u64);
    NewGeneration { id, lineage, parent: None, size, captured_at: UnixMillis(1), source: Vec::new() }
}

fn known(store: &Store, lineage: LineageId) {
    let lineage = Lineage { id: lineage, kind: Kind::Volume, name: "db".into(), site: None, fork_of: None };
    store.put_lineage(&lineage).unwrap();
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let (branch, lineage, generation) =
            (open(&folder.path().join("branch")), LineageId::random(), GenerationId::random());
        known(&branch, lineage);
        let mut bytes = text(SIZE, 1);
        bytes[SLAB..2 * SLAB].fill(0);
        bytes.copy_within(..SLAB, 7 * SLAB); // far from what it repeats: in another part
        let draft = branch.draft(new(lineage, generation)).unwrap();
        for (number, bytes) in bytes.chunks(SLAB).enumerate() {
            let mut scan = draft.scan(SlabNumber(number as u64)).unwrap();
            scan.data(bytes).unwrap();
            scan.finish().unwrap();
        }
        let root = draft.seal(UnixMillis(2)).unwrap().sealed.unwrap().root;
        let (gateway, authority, edge) =
            (OpeningKey::generate(), Authority::generate("ours", END).unwrap(), Key::generate().unwrap());
        let shipment = Shipment { id: SeedId([7; 16]), tenant: TenantId([1; 16]), site: SiteId([2; 16]) };
        let bearer = Bearer { tenant: shipment.tenant, site: shipment.site };
        let certificate = authority.sign_edge(&edge.request().unwrap(), bearer, END).unwrap().certificate;
        let (encapped, secret) = gateway.sealing().shipment(&shipment).unwrap();
        World {
            folder,
            branch,
            lineage,
            generation,
            root,
            bytes,
            gateway,
            authority,
            edge,
            certificate,
            shipment,
            secret,
            encapped,
        }
    }

    fn view(&self) -> View {
        self.branch.view(self.generation).unwrap()
    }

    fn slabs(&self) -> Vec<SlabNumber> {
        self.view().slabs_from(SlabNumber(0), 1000).unwrap()
    }

    /// Writes a medium with these slabs, in parts of at most `most` bytes.
    fn write(&self, number: u32, slabs: &[SlabNumber], most: u32) -> (PathBuf, Manifest) {
        let mut salt = [0; 16];
        salt[..4].copy_from_slice(&std::process::id().to_le_bytes());
        salt[4..12].copy_from_slice(&SeedId::random().0[..8]);
        let medium = MediumId { shipment: self.shipment.id, number, salt };
        let folder =
            self.folder.path().join(format!("{}-{}", seed::folder_name(self.shipment.id, number), SeedId::random()));
        std::fs::create_dir(&folder).unwrap();
        let (views, given, progress) = ([self.view()], Given::default(), Progress::default());
        let writer = Writer {
            folder: &folder,
            medium,
            key: &self.secret,
            views: &views,
            given: &given,
            workers: 2,
            progress: &progress,
        };
        let mut queue = Queue::new(slabs.iter().map(|slab| (0, *slab)));
        let mut parts = Vec::new();
        while !queue.is_empty() {
            parts.push(writer.part(parts.len() as u32 + 1, most, &mut queue).unwrap());
        }
        let manifest = Manifest {
            medium: medium.into(),
            last: true,
            made: NOW,
            tenant: self.shipment.tenant,
            site: self.shipment.site,
            site_name: "Branch & 1".into(),
            key: self.gateway.sealing().id(),
            encapped: data_encoding::HEXLOWER.encode(&self.encapped),
            volumes: vec![self.volume()],
            parts,
        };
        put(&folder.join(FILE), &manifest.sign(&self.edge, &self.certificate).unwrap()).unwrap();
        (folder, manifest)
    }

    fn volume(&self) -> Volume {
        Volume {
            seed: self.shipment.id,
            name: "db".into(),
            lineage: self.lineage,
            generation: self.generation,
            root: self.root.to_string(),
            size: SIZE as u64,
            captured_at: 1,
            slabs: runs_of(self.slabs()),
        }
    }

    fn authorities(&self) -> Vec<Vec<u8>> {
        vec![self.authority.certificate().to_vec()]
    }

    fn open(&self, folder: &Path) -> Medium {
        let (manifest, _) = Manifest::read(folder).unwrap().verify(&self.authorities()).unwrap();
        Medium::open(folder, manifest, &self.gateway).unwrap()
    }

    fn centre(&self) -> (Arc<Store>, Arc<Draft>) {
        let store = open(&self.folder.path().join(format!("centre-{}", SeedId::random())));
        known(&store, self.lineage);
        let draft = store.draft(new(self.lineage, self.generation)).unwrap();
        (store, draft)
    }

    fn import(&self, folder: &Path, draft: &Arc<Draft>) -> Brought {
        self.open(folder).import(&[Some(draft.clone())], 2, &Progress::default()).unwrap()
    }

    fn is_whole(&self, store: &Arc<Store>, draft: &Draft) {
        draft.seal_as(self.root, UnixMillis(5)).unwrap();
        let mut bytes = vec![0; SIZE];
        store.view(self.generation).unwrap().read(ByteOffset(0), &mut bytes).unwrap();
        assert!(bytes == self.bytes);
    }
}

fn part(folder: &Path, number: u32, kind: FileKind) -> PathBuf {
    folder.join(file_name(number, kind))
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn several_media_in_any_order_make_the_generation() {
    let world = World::new();
    let slabs = world.slabs();
    assert_eq!(slabs.len(), 9, "the hole is not carried");
    let (one, _) = world.write(1, &slabs[..4], 40 << 20);
    let (two, manifest) = world.write(2, &slabs[4..], 40 << 20);
    assert!(manifest.parts.len() > 1, "{}", manifest.parts.len());
    for order in [[&one, &two], [&two, &one]] {
        let (store, draft) = world.centre();
        let first = world.import(order[0], &draft);
        assert!(first.slabs > 0 && first.known == 0 && first.damages.is_empty());
        assert!(matches!(draft.seal_as(world.root, UnixMillis(5)), Err(SealError::WrongRoot(_))));
        let again = world.import(order[0], &draft);
        assert_eq!((again.slabs, again.known, again.bytes), (0, first.slabs, 0), "nothing is read twice");
        world.import(order[1], &draft);
        world.is_whole(&store, &draft);
    }
}

#[test]
fn a_chunk_of_another_part_is_read_there() {
    let world = World::new();
    let slabs = world.slabs();
    let (folder, manifest) = world.write(1, &slabs, 40 << 20);
    let bytes: u64 = manifest.parts.iter().map(|part| part.bytes).sum();
    let carried = (SIZE - 2 * SLAB) as u64;
    assert!(bytes < carried, "slab 7 is as slab 0 and is carried once: {bytes} of {carried}");
    // Slab 7 first: part 1, where its chunks are, is not in yet.
    let (store, draft) = world.centre();
    let (mut late, _) = Manifest::read(&folder).unwrap().verify(&world.authorities()).unwrap();
    late.parts.retain(|part| part.slabs[&0].iter().any(|run| slabs_of(&[*run]).any(|slab| slab.0 == 7)));
    let medium = Medium::open(&folder, late, &world.gateway).unwrap();
    let brought = medium.import(&[Some(draft.clone())], 2, &Progress::default()).unwrap();
    assert!(brought.damages.iter().all(|damage| damage.what.contains("needs part")), "{:?}", brought.damages);
    world.import(&folder, &draft);
    world.is_whole(&store, &draft);
}

#[test]
fn what_is_damaged_is_named_and_everything_else_is_taken_in() {
    let world = World::new();
    let slabs = world.slabs();
    type Spoil = fn(&Path);
    let cases: [(&str, Spoil); 9] = [
        ("a seal is broken", |folder| flip(&part(folder, 2, FileKind::Part), 5_000_000)),
        ("it was cut off", |folder| {
            let file = std::fs::OpenOptions::new().write(true).open(part(folder, 2, FileKind::Part)).unwrap();
            file.set_len(9_000_000).unwrap();
        }),
        ("it was cut off", |folder| std::fs::write(part(folder, 2, FileKind::Part), b"SLUICESD").unwrap()),
        ("cannot read", |folder| std::fs::remove_file(part(folder, 2, FileKind::Part)).unwrap()),
        ("cannot read", |folder| std::fs::remove_file(part(folder, 2, FileKind::Index)).unwrap()),
        ("its index is broken", |folder| flip(&part(folder, 2, FileKind::Index), 9000)),
        ("its index: it is part 1 under another name", |folder| {
            std::fs::copy(part(folder, 1, FileKind::Index), part(folder, 2, FileKind::Index)).unwrap();
        }),
        ("it is part 1 under another name", |folder| {
            std::fs::copy(part(folder, 1, FileKind::Part), part(folder, 2, FileKind::Part)).unwrap();
        }),
        ("format 2, cipher 1: made by a newer version", |folder| {
            let path = part(folder, 2, FileKind::Part);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[8] = 2;
            std::fs::write(path, bytes).unwrap();
        }),
    ];
    let (store, draft) = world.centre();
    for (what, spoil) in cases {
        let (folder, manifest) = world.write(1, &slabs, 40 << 20);
        spoil(&folder);
        let (_store, draft) = world.centre();
        let brought = world.import(&folder, &draft);
        let damage = brought.damages.iter().find(|damage| damage.part == 2).expect(what);
        assert!(damage.what.contains(what), "{what}: {}", damage.what);
        let lost: Vec<SlabNumber> = brought.damages.iter().flat_map(|damage| slabs_of(&damage.lost[&0])).collect();
        let held: Vec<SlabNumber> = slabs_of(&manifest.parts[1].slabs[&0]).collect();
        assert!(damage.lost[&0].iter().all(|run| slabs_of(&[*run]).all(|slab| held.contains(&slab))));
        for slab in &slabs {
            assert_eq!(draft.has_slab(*slab).unwrap(), !lost.contains(slab), "{what}: slab {slab}");
        }
        assert!(brought.slabs as usize + lost.len() == slabs.len() && brought.slabs >= 5, "{what}: {brought:?}");
        assert!(matches!(draft.seal_as(world.root, UnixMillis(5)), Err(SealError::WrongRoot(_))));
        // The next medium brings only those.
        let (again, _) = world.write(2, &lost, 40 << 20);
        assert!(world.import(&again, &draft).damages.is_empty());
        draft.seal_as(world.root, UnixMillis(5)).unwrap();
    }
    let (folder, _) = world.write(1, &slabs, 256 << 20);
    world.import(&folder, &draft);
    world.is_whole(&store, &draft);
}

#[test]
fn a_part_of_an_earlier_writing_is_refused() {
    let world = World::new();
    let slabs = world.slabs();
    let (old, _) = world.write(1, &slabs, 40 << 20);
    let (folder, _) = world.write(1, &slabs, 40 << 20);
    for kind in [FileKind::Part, FileKind::Index] {
        std::fs::copy(part(&old, 2, kind), part(&folder, 2, kind)).unwrap();
    }
    let (_store, draft) = world.centre();
    let brought = world.import(&folder, &draft);
    let damage = brought.damages.iter().find(|damage| damage.part == 2).unwrap();
    assert_eq!(damage.what, "its index: it belongs to an earlier writing of this medium");
    // An index that fits the part beside it and not the manifest.
    let (other, _) = world.write(1, &slabs[..2], 256 << 20);
    let mut manifest = Manifest::read(&other).unwrap().claims;
    manifest.parts[0].index_blake3 = "00".repeat(32);
    put(&other.join(FILE), &manifest.sign(&world.edge, &world.certificate).unwrap()).unwrap();
    let (_store, draft) = world.centre();
    let brought = world.import(&other, &draft);
    assert_eq!(brought.damages[0].what, "its index is not the one that the manifest was signed for");
}

#[test]
fn a_medium_for_another_gateway_or_of_a_foreign_edge_is_refused() {
    let world = World::new();
    let (folder, manifest) = world.write(1, &world.slabs()[..2], 256 << 20);
    let verify = |manifest: &Manifest, key: &Key, certificate: &[u8], authorities: &[Vec<u8>]| {
        let bytes = manifest.sign(key, certificate).unwrap();
        seed::manifest::Unverified::parse(&bytes).unwrap().verify(authorities)
    };
    let ours = world.authorities();
    let foreign = Authority::generate("theirs", END).unwrap();
    let refused = verify(&manifest, &world.edge, &world.certificate, &[foreign.certificate().to_vec()]);
    assert!(matches!(refused, Err(ManifestError::Signature(_))), "{refused:?}");
    let stranger = Key::generate().unwrap();
    assert!(verify(&manifest, &stranger, &world.certificate, &ours).is_err(), "signed by another key");
    let elsewhere = Bearer { tenant: world.shipment.tenant, site: SiteId([9; 16]) };
    let certificate = world.authority.sign_edge(&stranger.request().unwrap(), elsewhere, END).unwrap().certificate;
    let refused = verify(&manifest, &stranger, &certificate, &ours);
    assert!(matches!(refused, Err(ManifestError::OtherSite { .. })), "{refused:?}");
    let late = Manifest { made: END.0 + 1000, ..manifest.clone() };
    assert!(verify(&late, &world.edge, &world.certificate, &ours).is_err(), "signed after the certificate's end");
    let other = OpeningKey::generate();
    let refused = Medium::open(&folder, manifest.clone(), &other).err();
    assert!(matches!(refused, Some(ReadError::OtherKey { .. })), "{refused:?}");
    // A manifest that claims to be for the other gateway opens nothing.
    let lying = Manifest { key: other.sealing().id(), ..manifest };
    let (_store, draft) = world.centre();
    let medium = Medium::open(&folder, lying, &other).unwrap();
    let brought = medium.import(&[Some(draft.clone())], 2, &Progress::default()).unwrap();
    assert_eq!((brought.slabs, brought.damages.len()), (0, 1));
}

#[test]
fn a_manifest_that_is_none_is_refused() {
    let world = World::new();
    let (folder, manifest) = world.write(1, &world.slabs()[..1], 256 << 20);
    let good = std::fs::read(folder.join(FILE)).unwrap();
    let parse = |bytes: &[u8]| seed::manifest::Unverified::parse(bytes);
    assert!(parse(&good).is_ok());
    for cut in (0..good.len() - 2).step_by(7) {
        assert!(parse(&good[..cut]).is_err(), "{cut}");
    }
    let newer = [b"sluice shipped media 2\n", &good[..]].concat();
    assert!(matches!(parse(&newer), Err(ManifestError::Newer)));
    let changed = String::from_utf8(good).unwrap().replace("Branch & 1", "Branch & 2");
    let refused = parse(changed.as_bytes()).unwrap().verify(&world.authorities());
    assert!(matches!(refused, Err(ManifestError::Signature(_))), "{refused:?}");
    let refused = |change: &dyn Fn(&mut Manifest)| {
        let mut lying = manifest.clone();
        change(&mut lying);
        parse(&lying.sign(&world.edge, &world.certificate).unwrap()).is_err()
    };
    assert!(!refused(&|_| {}));
    assert!(refused(&|lying| lying.volumes.clear()));
    assert!(refused(&|lying| lying.volumes[0].size = u64::MAX));
    assert!(refused(&|lying| lying.volumes[0].slabs = vec![(0, u64::MAX)]));
    assert!(refused(&|lying| lying.volumes[0].slabs = vec![(5, 1), (4, 1)]));
    assert!(refused(&|lying| lying.volumes[0].root = "00".into()));
    assert!(refused(&|lying| lying.parts[0].bytes = 1 << 40));
    assert!(refused(&|lying| lying.parts.push(lying.parts[0].clone())));
    assert!(refused(&|lying| lying.encapped = "zz".into()));
    assert!(refused(&|lying| lying.medium.number = 0));
    std::fs::remove_file(folder.join(FILE)).unwrap();
    assert!(matches!(Manifest::read(&folder), Err(ManifestError::Unfinished)));
}

#[test]
fn a_part_that_cannot_be_written_leaves_nothing_and_loses_nothing() {
    let world = World::new();
    let (folder, views) = (world.folder.path().join("away"), [world.view()]);
    let medium = MediumId { shipment: world.shipment.id, number: 1, salt: [1; 16] };
    let (given, progress) = (Given::default(), Progress::default());
    let writer = |folder, progress| Writer {
        folder,
        medium,
        key: &world.secret,
        views: &views,
        given: &given,
        workers: 2,
        progress,
    };
    let mut queue = Queue::new(world.slabs().into_iter().map(|slab| (0, slab)));
    let gone = writer(&folder, &progress).part(1, 256 << 20, &mut queue);
    assert!(matches!(gone, Err(WriteError::File(_))), "{gone:?}");
    assert_eq!(queue.len(), 9);
    std::fs::create_dir(&folder).unwrap();
    let stopped = Progress::default();
    stopped.cancel();
    assert!(matches!(writer(&folder, &stopped).part(1, 256 << 20, &mut queue), Err(WriteError::Stopped)));
    assert_eq!((queue.len(), std::fs::read_dir(&folder).unwrap().count()), (9, 0));
    // Too little room for a slab: a part without any, and all of them are left.
    let empty = writer(&folder, &progress).part(1, 1 << 20, &mut queue).unwrap();
    assert!(empty.slabs.is_empty());
    assert_eq!(queue.len(), 9);
    let part = writer(&folder, &progress).part(1, 256 << 20, &mut queue).unwrap();
    assert_eq!((slabs_of(&part.slabs[&0]).count(), queue.len()), (9, 0));
    // The local store is damaged somewhere behind the first slabs.
    let packs = world.folder.path().join("branch/packs");
    let files =
        std::fs::read_dir(&packs).unwrap().flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap());
    let data: Vec<PathBuf> = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "data"))
        .collect();
    flip(data.last().unwrap(), 1_000_000);
    let mut queue = Queue::new(world.slabs().into_iter().map(|slab| (0, slab)));
    given.clear();
    let damaged = writer(&folder, &progress).part(2, 256 << 20, &mut queue);
    assert!(matches!(damaged, Err(WriteError::Lift { volume: 0, .. })), "{damaged:?}");
    assert_eq!(
        (queue.len(), part_files(&folder)),
        (9, 2),
        "all are to be written still, and nothing of the part is there"
    );
}

fn part_files(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[test]
fn a_label_tells_people_and_scanners_what_it_is_and_no_more() {
    let world = World::new();
    let (_, manifest) = world.write(3, &world.slabs()[..1], 256 << 20);
    let (label, picture) = (seed::label::text(&manifest), seed::label::picture(&manifest));
    let id = world.shipment.id.to_string();
    assert!(label.contains(&id) && label.contains("Branch & 1") && label.contains("Medium 3 of 3"), "{label}");
    assert!(label.ends_with(&format!("sluice-seed:{id}:3\n")), "{label}");
    assert!(picture.contains("Branch &amp; 1") && picture.matches("<svg").count() == 2, "{picture}");
    let secret = data_encoding::HEXLOWER.encode(world.secret.bytes());
    let signed = String::from_utf8(manifest.sign(&world.edge, &world.certificate).unwrap()).unwrap();
    assert!([&label, &picture, &signed].iter().all(|text| !text.contains(&secret)));
}
