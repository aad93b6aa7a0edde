//! The store and the codec against the obvious: a volume as a vector of bytes.

use dedupe::*;
use std::path::Path;
use std::sync::Arc;

/// splitmix64: the same volumes in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        // Words of a small vocabulary: compresses, repeats, and is never the same.
        for byte in bytes {
            *byte = b"etaoin shrdlu\n0123456789"[self.below(24)];
        }
    }
}

struct End {
    dir: tempfile::TempDir,
    store: Arc<Store>,
}

fn keys() -> Keys {
    Keys::new(1, [9; 32])
}

fn options() -> StoreOptions {
    StoreOptions { pack_target: 1 << 20, ..StoreOptions::default() }
}

fn open(dir: &Path) -> Arc<Store> {
    let packs = Arc::new(LocalPacks::open(&dir.join("packs")).expect("packs"));
    Store::open(&dir.join("index.redb"), packs, keys(), options()).expect("store")
}

impl End {
    fn new() -> End {
        let dir = tempfile::tempdir().expect("a folder");
        let store = open(dir.path());
        End { dir, store }
    }

    fn reopen(&mut self) {
        let path = self.dir.path().to_owned();
        // redb holds a lock while open.
        let spare = tempfile::tempdir().expect("a folder");
        self.store = open(spare.path());
        self.store = open(&path);
    }
}

fn capture(draft: &Arc<Draft>, volume: &[u8]) {
    for (number, bytes) in volume.chunks(SLAB).enumerate() {
        let mut scan = draft.scan(SlabNumber(number as u64)).expect("scan");
        for part in bytes.chunks(LEAF * 3) {
            match part.iter().all(|byte| *byte == 0) && number % 2 == 0 {
                true => scan.hole(part.len()).expect("hole"),
                false => scan.data(part).expect("data"),
            }
        }
        scan.finish().expect("finish");
        if number % 2 == 1 {
            draft.checkpoint().expect("checkpoint");
        }
    }
}

fn read(store: &Arc<Store>, id: GenerationId) -> Vec<u8> {
    let view = store.view(id).expect("view");
    let mut bytes = vec![1; view.size().0 as usize];
    view.read(ByteOffset(0), &mut bytes).expect("read");
    bytes
}

fn new(lineage: LineageId, parent: Option<GenerationId>, size: usize) -> NewGeneration {
    let size = ByteCount(size as u64);
    NewGeneration { id: GenerationId::random(), lineage, parent, size, captured_at: UnixMillis(1), source: Vec::new() }
}

fn lineage(name: &str) -> Lineage {
    Lineage { id: LineageId::random(), kind: Kind::Volume, name: name.into(), site: None, fork_of: None }
}

fn encoder(store: &Arc<Store>) -> Encoder {
    let codec = CodecMemory { long_log: 16, chain_log: 0 };
    let options = EncoderOptions { parcel: 1 << 20, chosen: 1 << 20, recent: 2 << 20, anchors: 1 << 24, codec };
    Encoder::new(store.clone(), options)
}

/// Sends `target` and returns the parcels' bytes. `gateway` answers questions.
fn send(
    edge: &Arc<Store>,
    gateway: &Arc<Store>,
    base: Option<GenerationId>,
    target: &NewGeneration,
    plain: bool,
) -> (Generation, usize) {
    let receiver = gateway.draft(NewGeneration { parent: base, ..target.clone() }).expect("draft");
    let encoder = encoder(edge);
    let held = |id: GenerationId| gateway.generation(id).expect("generation").is_some_and(|found| found.is_sealed());
    let (mut job, mut bytes) = (Job { base, target: target.id, cursor: BlockNumber(0), number: 0, plain }, 0);
    while let Some(mut plan) = encoder.plan(&job, &held).expect("plan") {
        let samples = plan.samples();
        let rest = plan.narrow(&gateway.find_marks(&samples).expect("marks"));
        plan.take_answer(&gateway.find_marks(&rest).expect("marks"));
        let encoded = encoder.encode(plan, Effort::Light, &held).expect("encode");
        bytes += encoded.bytes.len();
        receiver.ingest(job.number, &encoded.bytes, &mut Workspace::default()).expect("ingest");
        (job.number, job.cursor) = (job.number + 1, encoded.cursor);
    }
    let root = edge.generation(target.id).expect("generation").expect("there").sealed.expect("sealed").root;
    (receiver.seal_as(root, UnixMillis(2)).expect("the same root"), bytes)
}

/// A busy day: writes, zeroes, moves, growth and shrinking, at any 512 bytes.
fn change(volume: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..random.below(12) {
        let at = random.below(volume.len());
        let len = (1 << random.below(20)).min(volume.len() - at);
        match random.below(5) {
            0 => volume[at..at + len].fill(0),
            1 => {
                let from = random.below(volume.len() - len + 1);
                volume.copy_within(from..from + len, at);
            }
            2 => {
                // An aligned move: what a file system does to a copied file.
                let (at, len) = (at / BLOCK * BLOCK, len / BLOCK * BLOCK);
                let from = random.below(volume.len() - len + 1) / BLOCK * BLOCK;
                volume.copy_within(from..from + len, at);
            }
            _ => random.fill(&mut volume[at..at + len]),
        }
    }
    match random.below(6) {
        0 => volume.resize(volume.len() + 512 * random.below(60_000), 0),
        1 => volume.truncate((volume.len() - random.below(volume.len() / 2)).next_multiple_of(512)),
        2 => {
            let old = volume.len();
            volume.resize(old + 512 * (1 + random.below(5000)), 0);
            random.fill(&mut volume[old..]);
        }
        _ => {}
    }
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

#[test]
fn every_generation_arrives_byte_for_byte_whatever_changed() {
    for seed in 0..6 {
        let mut random = Random(seed);
        let (mut edge, mut gateway) = (End::new(), End::new());
        let line = lineage("disk");
        edge.store.put_lineage(&line).expect("lineage");
        gateway.store.put_lineage(&line).expect("lineage");
        let mut volume = vec![0; 512 * (1 + random.below(70_000))];
        let (mut parent, mut held): (Option<GenerationId>, Vec<(GenerationId, [u8; 32])>) = (None, Vec::new());
        for step in 0..7 {
            change(&mut volume, &mut random);
            let target = new(line.id, parent, volume.len());
            let draft = edge.store.draft(target.clone()).expect("draft");
            capture(&draft, &volume);
            let sealed = draft.seal(UnixMillis(1)).expect("seal");
            drop(draft);
            assert_eq!(
                sealed.sealed.expect("sealed").root.hash,
                hash(&volume),
                "seed {seed} step {step}: what b3sum prints"
            );
            assert_eq!(read(&edge.store, target.id), volume);
            parent = Some(target.id);
            // Now and then a generation is not sent, so the next delta folds two.
            if step > 0 && random.below(3) == 0 {
                continue;
            }
            let base = held.last().map(|(id, _)| *id);
            send(&edge.store, &gateway.store, base, &target, random.below(4) == 0);
            assert_eq!(read(&gateway.store, target.id), volume, "seed {seed} step {step}");
            held.push((target.id, hash(&volume)));
            if random.below(3) == 0 {
                edge.reopen();
                gateway.reopen();
            }
        }
        keep_and_prove(&mut gateway, line.id, &mut held);
    }
}

/// Forgetting, sweeping and rebuilding change no byte of what is kept.
fn keep_and_prove(gateway: &mut End, line: LineageId, held: &mut Vec<(GenerationId, [u8; 32])>) {
    let prove = |store: &Arc<Store>, held: &[(GenerationId, [u8; 32])]| {
        for (id, root) in held {
            assert_eq!(hash(&read(store, *id)), *root);
        }
    };
    let progress = Progress::default();
    for at in (0..held.len().saturating_sub(1)).rev().step_by(2) {
        gateway.store.forget(held[at].0).expect("forget");
        held.remove(at);
    }
    prove(&gateway.store, held);
    assert!(gateway.store.forget(held[held.len() - 1].0).is_err(), "the newest is never forgotten");
    let plan = gateway.store.gc_plan(&progress).expect("plan");
    gateway.store.gc(&plan, Pace(1.0), &progress).expect("gc");
    prove(&gateway.store, held);
    let again = gateway.store.gc_plan(&progress).expect("plan");
    gateway.store.gc(&again, Pace(1.0), &progress).expect("gc");
    prove(&gateway.store, held);
    assert_eq!(gateway.store.scrub(Pace(1.0), &progress).expect("scrub"), []);

    let before = gateway.store.generations(line).expect("generations");
    let packs = Arc::new(LocalPacks::open(&gateway.dir.path().join("packs")).expect("packs"));
    let index = gateway.dir.path().join("rebuilt.redb");
    let rebuilt = Store::rebuild(&index, packs, keys(), options(), &progress).expect("rebuild");
    assert_eq!(rebuilt.generations(line).expect("generations"), before);
    prove(&rebuilt, held);
}

#[test]
fn moved_and_shared_blocks_are_referred_to_not_sent() {
    let (first, second, gateway) = (End::new(), End::new(), End::new());
    let mut random = Random(5);
    let mut volume = vec![0; 6 << 20];
    random.fill(&mut volume);
    let line = lineage("a");
    first.store.put_lineage(&line).expect("lineage");
    gateway.store.put_lineage(&line).expect("lineage");
    let target = new(line.id, None, volume.len());
    let draft = first.store.draft(target.clone()).expect("draft");
    capture(&draft, &volume);
    draft.seal(UnixMillis(1)).expect("seal");
    let (_, seed) = send(&first.store, &gateway.store, None, &target, false);

    // Another site has the same data elsewhere on its volume.
    let mut other = vec![0; 9 << 20];
    other[2 << 20..8 << 20].copy_from_slice(&volume);
    let line = lineage("b");
    second.store.put_lineage(&line).expect("lineage");
    gateway.store.put_lineage(&line).expect("lineage");
    let target = new(line.id, None, other.len());
    let draft = second.store.draft(target.clone()).expect("draft");
    capture(&draft, &other);
    draft.seal(UnixMillis(1)).expect("seal");
    let (sealed, sister) = send(&second.store, &gateway.store, None, &target, false);
    assert!(sister * 50 < seed, "{sister} of {seed} bytes");
    assert_eq!(sealed.stats.copied_blocks, (6 << 20) / BLOCK as u64);
    assert_eq!(read(&gateway.store, target.id), other);

    // What was only referred to is a base for what changes next, at another address and offset.
    let shifted = other[3 << 20..(3 << 20) + (512 << 10)].to_vec();
    other[(8 << 20) + 100..(8 << 20) + 100 + shifted.len()].copy_from_slice(&shifted);
    let next = new(line.id, Some(target.id), other.len());
    let draft = second.store.draft(next.clone()).expect("draft");
    capture(&draft, &other);
    draft.seal(UnixMillis(1)).expect("seal");
    let (_, delta) = send(&second.store, &gateway.store, Some(target.id), &next, false);
    assert!(delta * 50 < shifted.len(), "{delta} of {} bytes", shifted.len());
}

#[test]
fn parcels_out_of_order_damaged_or_on_another_base_are_refused_and_leave_nothing() {
    let (edge, gateway) = (End::new(), End::new());
    let mut random = Random(11);
    let mut volume = vec![0; 3 << 20];
    random.fill(&mut volume);
    let line = lineage("disk");
    edge.store.put_lineage(&line).expect("lineage");
    gateway.store.put_lineage(&line).expect("lineage");
    let target = new(line.id, None, volume.len());
    let draft = edge.store.draft(target.clone()).expect("draft");
    capture(&draft, &volume);
    let root = draft.seal(UnixMillis(1)).expect("seal").sealed.expect("sealed").root;
    let encoder = encoder(&edge.store);
    let mut job = Job { base: None, target: target.id, cursor: BlockNumber(0), number: 0, plain: false };
    let mut parcels = Vec::new();
    while let Some(plan) = encoder.plan(&job, &|_| false).expect("plan") {
        let encoded = encoder.encode(plan, Effort::Quick, &|_| false).expect("encode");
        parcels.push(encoded.bytes);
        (job.number, job.cursor) = (job.number + 1, encoded.cursor);
    }
    assert_eq!(parcels.len(), 3);
    let receiver = gateway.store.draft(target.clone()).expect("draft");
    assert!(matches!(
        receiver.ingest(1, &parcels[1], &mut Workspace::default()),
        Err(IngestError::WrongNumber { want: 0, got: 1 })
    ));
    for at in [0, 6, 40, parcels[0].len() / 2, parcels[0].len() - 1] {
        let mut damaged = parcels[0].clone();
        damaged[at] ^= 4;
        assert!(receiver.ingest(0, &damaged, &mut Workspace::default()).is_err(), "a flipped bit at {at}");
    }
    assert!(receiver.ingest(0, &parcels[1], &mut Workspace::default()).is_err(), "another parcel under this number");
    for (number, parcel) in (0..).zip(&parcels[..2]) {
        receiver.ingest(number, parcel, &mut Workspace::default()).expect("ingest");
    }
    assert!(matches!(receiver.seal_as(root, UnixMillis(1)), Err(SealError::WrongRoot(_))), "a parcel is missing");
    drop(receiver);
    let receiver = gateway.store.draft(target.clone()).expect("the draft goes on");
    receiver.ingest(receiver.next_parcel(), &parcels[2], &mut Workspace::default()).expect("ingest");
    receiver.seal_as(root, UnixMillis(1)).expect("seal");
    assert_eq!(read(&gateway.store, target.id), volume);

    // A delta on a base that the receiver does not hold.
    random.fill(&mut volume[5000..9000]);
    let next = new(line.id, Some(target.id), volume.len());
    let draft = edge.store.draft(next.clone()).expect("draft");
    capture(&draft, &volume);
    draft.seal(UnixMillis(1)).expect("seal");
    let other = End::new();
    other.store.put_lineage(&line).expect("lineage");
    assert!(matches!(other.store.draft(next.clone()), Err(StoreError::State { .. })), "no such parent");
    let stranger = other.store.draft(NewGeneration { parent: None, ..next.clone() }).expect("draft");
    let job = Job { base: Some(target.id), target: next.id, cursor: BlockNumber(0), number: 0, plain: false };
    let held = |id: GenerationId| id == target.id;
    let plan = encoder.plan(&job, &held).expect("plan").expect("some");
    let encoded = encoder.encode(plan, Effort::Quick, &held).expect("encode");
    assert!(
        matches!(stranger.ingest(0, &encoded.bytes, &mut Workspace::default()), Err(IngestError::MissingBase(id)) if id == target.id)
    );
}

#[test]
fn flipped_bits_are_found_named_and_mended_from_the_other_end() {
    let (edge, gateway) = (End::new(), End::new());
    let mut random = Random(3);
    let mut volume = vec![0; (2 << 20) + 512];
    random.fill(&mut volume);
    let line = lineage("disk");
    edge.store.put_lineage(&line).expect("lineage");
    gateway.store.put_lineage(&line).expect("lineage");
    let target = new(line.id, None, volume.len());
    let draft = edge.store.draft(target.clone()).expect("draft");
    capture(&draft, &volume);
    draft.seal(UnixMillis(1)).expect("seal");
    send(&edge.store, &gateway.store, None, &target, false);

    let packs = LocalPacks::open(&gateway.dir.path().join("packs")).expect("packs");
    for (pack, class) in packs.list().expect("list") {
        let mut bytes = vec![0; packs.len(pack, class).expect("len") as usize];
        packs.read_at(pack, class, 0, &mut bytes).expect("read");
        if class != PackClass::MetaCopy {
            bytes[70] ^= 1; // in the first record
            packs.delete(pack, class).expect("delete");
            packs.put(pack, class, &bytes).expect("put");
        }
    }
    let mut end = gateway;
    end.reopen();
    let error = {
        let mut bytes = vec![0; volume.len()];
        end.store.view(target.id).expect("view").read(ByteOffset(0), &mut bytes).expect_err("damaged")
    };
    assert!(error.to_string().contains("is damaged at byte 64"), "{error}");
    let damages = end.store.scrub(Pace(1.0), &Progress::default()).expect("scrub");
    assert!(damages.iter().any(|damage| damage.mended), "records are mended from their copies");
    let lost: Vec<_> = damages.iter().flat_map(|damage| &damage.lost).collect();
    assert!(!lost.is_empty());
    for (generation, blocks) in lost {
        let parcel = edge.store.blocks_parcel(*generation, blocks).expect("parcel").expect("the edge has them");
        let mut wrong = parcel.clone();
        let last = wrong.len() - 1;
        wrong[last] ^= 1;
        assert!(end.store.repair(*generation, &wrong).is_err());
        end.store.repair(*generation, &parcel).expect("repair");
    }
    assert_eq!(read(&end.store, target.id), volume);
    let plan = end.store.gc_plan(&Progress::default()).expect("plan");
    end.store.gc(&plan, Pace(1.0), &Progress::default()).expect("gc");
    let left = end.store.scrub(Pace(1.0), &Progress::default()).expect("scrub");
    assert!(left.iter().all(|damage| damage.lost.is_empty()), "what is still damaged, nothing needs: {left:?}");
}

#[test]
fn evicted_bytes_are_no_base_any_more_and_nothing_else_is_lost() {
    let (edge, gateway) = (End::new(), End::new());
    let mut random = Random(8);
    let mut volume = vec![0; 5 << 20];
    random.fill(&mut volume);
    let line = lineage("disk");
    edge.store.put_lineage(&line).expect("lineage");
    gateway.store.put_lineage(&line).expect("lineage");
    let first = new(line.id, None, volume.len());
    let draft = edge.store.draft(first.clone()).expect("draft");
    capture(&draft, &volume);
    draft.seal(UnixMillis(1)).expect("seal");
    assert_eq!(edge.store.evict(0, &[(None, first.id)]).expect("evict"), 0, "what is unsent stays");
    send(&edge.store, &gateway.store, None, &first, false);
    for at in (0..2 << 20).step_by(300_000) {
        random.fill(&mut volume[at..at + 3000]);
    }
    let second = new(line.id, Some(first.id), volume.len());
    let draft = edge.store.draft(second.clone()).expect("draft");
    capture(&draft, &volume);
    draft.seal(UnixMillis(1)).expect("seal");
    let pending = [(Some(first.id), second.id)];
    let full = edge.store.stats().expect("stats").data_bytes;
    assert!(edge.store.evict(full / 2, &pending).expect("evict") > 0);
    send(&edge.store, &gateway.store, Some(first.id), &second, false);
    assert_eq!(read(&gateway.store, second.id), volume);
    // What was captured is not stored again by reference to something that is gone.
    let third = new(line.id, Some(second.id), volume.len());
    let draft = edge.store.draft(third.clone()).expect("draft");
    volume.rotate_left(BLOCK);
    capture(&draft, &volume);
    draft.seal(UnixMillis(1)).expect("seal");
    assert_eq!(read(&edge.store, third.id).len(), volume.len());
    send(&edge.store, &gateway.store, Some(second.id), &third, false);
    assert_eq!(read(&gateway.store, third.id), volume);
}

/// Packs on a disk that is full when told to.
struct Full {
    packs: LocalPacks,
    full: std::sync::atomic::AtomicBool,
}

impl PackStorage for Full {
    fn put(&self, pack: PackId, class: PackClass, bytes: &[u8]) -> Result<(), StorageError> {
        if self.full.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(StorageError::new("write", pack, std::io::ErrorKind::StorageFull.into()));
        }
        self.packs.put(pack, class, bytes)
    }
    fn read_at(&self, pack: PackId, class: PackClass, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        self.packs.read_at(pack, class, offset, buffer)
    }
    fn len(&self, pack: PackId, class: PackClass) -> Result<u64, StorageError> {
        self.packs.len(pack, class)
    }
    fn list(&self) -> Result<Vec<(PackId, PackClass)>, StorageError> {
        self.packs.list()
    }
    fn delete(&self, pack: PackId, class: PackClass) -> Result<(), StorageError> {
        self.packs.delete(pack, class)
    }
}

/// A checkpoint that failed for want of room once lost the pack it was about to write, while slabs went on referring to it.
#[test]
fn a_full_disk_loses_nothing_and_the_capture_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().expect("a folder");
    let packs = LocalPacks::open(&dir.path().join("packs")).expect("packs");
    let disk = Arc::new(Full { packs, full: false.into() });
    let store = Store::open(&dir.path().join("index.redb"), disk.clone(), keys(), options()).expect("store");
    let line = lineage("disk");
    store.put_lineage(&line).expect("lineage");
    let mut volume = vec![0; SLAB + (3 << 20)];
    Random(4).fill(&mut volume);
    let target = new(line.id, None, volume.len());
    let draft = store.draft(target.clone()).expect("draft");
    let scan = |number: u64| {
        let bytes = &volume[number as usize * SLAB..volume.len().min((number as usize + 1) * SLAB)];
        let mut scan = draft.scan(SlabNumber(number)).expect("scan");
        scan.data(bytes).and_then(|()| scan.finish().map(|_| ()))
    };
    scan(0).expect("the first slab");
    disk.full.store(true, std::sync::atomic::Ordering::Relaxed);
    let error = draft.checkpoint().expect_err("full");
    assert!(error.is_no_room(), "{error}");
    assert!(scan(1).expect_err("full").is_no_room());
    disk.full.store(false, std::sync::atomic::Ordering::Relaxed);
    scan(1).expect("the second slab again");
    draft.checkpoint().expect("there is room");
    let sealed = draft.seal(UnixMillis(1)).expect("seal");
    assert_eq!(sealed.sealed.expect("sealed").root.hash, hash(&volume));
    assert_eq!(read(&store, target.id), volume);
    assert_eq!(store.scrub(Pace(1.0), &Progress::default()).expect("scrub"), []);
}

#[test]
fn an_erased_lineage_leaves_nothing_in_any_pack_takes_nothing_from_others_and_does_not_come_back() {
    let mut end = End::new();
    let (gone, stays) = (lineage("gone"), lineage("stays"));
    let mut random = Random(11);
    let mut shared = vec![0; 3 << 20];
    random.fill(&mut shared);
    let grow = |store: &Arc<Store>, line: &Lineage, parent, bytes: &[u8]| {
        store.put_lineage(line).expect("lineage");
        let draft = store.draft(new(line.id, parent, bytes.len())).expect("draft");
        capture(&draft, bytes);
        draft.seal(UnixMillis(2)).expect("seal").id
    };
    let volume = |own: u64| {
        let mut bytes = shared.clone();
        bytes.resize(SLAB + (4 << 20), 0);
        Random(own).fill(&mut bytes[shared.len()..8 << 20]);
        bytes
    };
    // The one that goes comes first, so that the other's shared chunks lie in its packs.
    let first = grow(&end.store, &gone, None, &volume(1));
    let others = volume(2);
    let kept = grow(&end.store, &stays, None, &others);
    let second = grow(&end.store, &gone, Some(first), &volume(3));
    // A draft of it, and a sweep that has written one pack of records about both.
    let draft = end.store.draft(new(gone.id, Some(second), SLAB)).expect("draft");
    capture(&draft, &volume(4)[..SLAB]);
    draft.checkpoint().expect("checkpoint");
    drop(draft);
    let progress = Progress::default();
    end.store.gc(&end.store.gc_plan(&progress).expect("plan"), Pace(1.0), &progress).expect("gc");

    let footprint = end.store.footprint(&[gone.id], &progress).expect("footprint");
    assert!(footprint.shared_bytes > 0 && footprint.shared_bytes < footprint.bytes, "{footprint:?}");
    end.store.forget_lineages(&[gone.id]).expect("forget");
    end.store.forget_lineages(&[gone.id]).expect("that it is gone already is no error");
    assert!(
        end.store.lineage(gone.id).expect("lineage").is_none() && end.store.generation(second).expect("it").is_none()
    );
    let left = end.store.leftovers(&progress).expect("leftovers");
    assert!(left.chunks > 0 && left.records > 0, "forgetting alone erases nothing: {left:?}");

    // A rebuild from packs that still hold it does not take it up again.
    let rebuilt = |end: &End| {
        let folder = tempfile::tempdir().expect("a folder");
        let packs = Arc::new(LocalPacks::open(&end.dir.path().join("packs")).expect("packs"));
        let index = folder.path().join("index.redb");
        (Store::rebuild(&index, packs, keys(), options(), &Progress::default()).expect("rebuild"), folder)
    };
    let check = |store: &Arc<Store>, others: &[u8]| {
        let ids: Vec<_> = store.lineages().expect("lineages").iter().map(|line| line.id).collect();
        assert_eq!(ids, [stays.id]);
        assert_eq!(store.footprint(&[gone.id], &Progress::default()).expect("footprint").chunks, 0, "no row came back");
        assert!(read(store, kept) == others, "the other one is what it was");
    };
    check(&rebuilt(&end).0, &others);

    let purged = end.store.purge(Pace(1.0), &progress).expect("purge");
    assert!(purged.packs > 0 && purged.bytes > footprint.bytes - footprint.shared_bytes, "{purged:?}");
    let left = end.store.leftovers(&progress).expect("leftovers");
    assert!(left.is_nothing() && left.live > 0, "{left:?}");
    let again = end.store.purge(Pace(1.0), &progress).expect("again");
    assert!(again.bytes < 1 << 20, "only what lists what there is is written anew: {again:?}");
    check(&end.store, &others);
    check(&rebuilt(&end).0, &others);
    end.reopen();
    let third = grow(&end.store, &stays, Some(kept), &volume(5));
    assert!(read(&end.store, third) == volume(5), "the store goes on");
    assert!(end.store.leftovers(&progress).expect("leftovers").is_nothing());
}
