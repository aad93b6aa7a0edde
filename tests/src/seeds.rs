//! What writing and reading shipped media costs, beside what the disk and one core's AES do in the same run.

use crate::codec::End;
use crate::report::Verdict;
use crate::volumes::Random;
use anyhow::{Context, Result, ensure};
use dedupe::carry::Given;
use dedupe::{
    ByteCount, Draft, GenerationId, Kind, Lineage, LineageId, NewGeneration, Progress, Root, SLAB, SeedId, SiteId,
    SlabNumber, Store, StoreOptions, TenantId, UnixMillis,
};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use seed::key::{OpeningKey, Shipment};
use seed::manifest::{Manifest, Volume, runs_of};
use seed::part::MediumId;
use seed::read::Medium;
use seed::write::{Queue, Writer};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// What is asked of the slower of disk and AES.
const SHARE: f64 = 0.7;
/// As an edge has it.
const WRITERS: usize = 2;
/// As a gateway has it.
const READERS: usize = 3;
/// Bytes of one piece of plain work.
const PIECE: usize = 1 << 20;

/// Bytes of content of a volume.
#[derive(Clone, Copy, Debug)]
pub enum Content {
    /// Does not compress: medium bytes are volume bytes.
    Noise,
    /// Half of each block is noise: compresses two to one.
    Half,
}

fn rate(bytes: u64, began: Instant) -> f64 {
    bytes as f64 / 1e6 / began.elapsed().as_secs_f64()
}

/// MB/s of writing a file and syncing it, and of reading it from the disk.
fn disk(folder: &Path, bytes: u64) -> Result<(f64, f64)> {
    let (path, piece) = (folder.join("plain"), Random::new(9, 1).noise(PIECE));
    let mut file = File::create(&path)?;
    let began = Instant::now();
    for at in 0..bytes / PIECE as u64 {
        file.write_all(&piece)?;
        if at % 16 == 15 {
            // As the writer of parts does: the disk works meanwhile.
            posix_fadvise(&file, (at as i64 - 15) << 20, 16 << 20, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        }
    }
    file.sync_all()?;
    let write = rate(bytes, began);
    let mut file = File::open(&path)?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    let (began, mut buffer) = (Instant::now(), vec![0; PIECE]);
    while file.read(&mut buffer)? > 0 {}
    let read = rate(bytes, began);
    std::fs::remove_file(&path)?;
    Ok((write, read))
}

/// MB/s of one core sealing records of 16 KiB, as chunks have.
fn aes() -> Result<f64> {
    const RECORD: usize = 16 << 10;
    let unbound = UnboundKey::new(&AES_256_GCM, &[7; 32]).ok().context("a key")?;
    let (key, mut buffer) = (LessSafeKey::new(unbound), vec![1; RECORD]);
    let (began, count) = (Instant::now(), 100_000);
    for number in 0..count {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&u64::to_le_bytes(number));
        let sealed = key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut buffer);
        let _tag = sealed.ok().context("sealed")?;
    }
    Ok(rate(count * RECORD as u64, began))
}

/// Two pieces of work, one after the other on the same bytes.
fn both(one: f64, other: f64) -> f64 {
    1.0 / (1.0 / one + 1.0 / other)
}

fn new(lineage: LineageId, id: GenerationId, size: u64) -> NewGeneration {
    NewGeneration { id, lineage, parent: None, size: ByteCount(size), captured_at: UnixMillis(1), source: Vec::new() }
}

fn store(folder: &Path, lineage: LineageId) -> Result<Arc<Store>> {
    let end = End::make(folder, StoreOptions::default())?;
    let known = Lineage { id: lineage, kind: Kind::Volume, name: "db".into(), site: None, fork_of: None };
    end.store.put_lineage(&known)?;
    Ok(end.store)
}

/// Fills a draft's slabs, by two threads, and seals it.
fn fill(draft: &Arc<Draft>, size: u64, content: Content) -> Result<Root> {
    let next = std::sync::atomic::AtomicU64::new(0);
    let work = || -> Result<()> {
        loop {
            let slab = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if slab >= size / SLAB as u64 {
                return Ok(());
            }
            let mut bytes = Random::new(slab, 3).noise(SLAB);
            if let Content::Half = content {
                bytes.chunks_mut(4096).for_each(|block| block[2048..].fill(7));
            }
            let mut scan = draft.scan(SlabNumber(slab))?;
            scan.data(&bytes)?;
            scan.finish()?;
        }
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(work);
        work()?;
        other.join().map_err(|_| anyhow::anyhow!("a thread that fills the store failed"))?
    })?;
    Ok(draft.seal(UnixMillis(2))?.sealed.context("it is sealed")?.root)
}

/// Rows of the export and the import of a volume of `size`.
pub fn measure(folder: &Path, size: u64, content: Content) -> Result<Vec<Verdict>> {
    let size = size.next_multiple_of(SLAB as u64);
    let (lineage, id) = (LineageId::random(), GenerationId::random());
    let branch = store(&folder.join("branch"), lineage)?;
    let root = fill(&branch.draft(new(lineage, id, size))?, size, content)?;
    let shipment = Shipment { id: SeedId::random(), tenant: TenantId([1; 16]), site: SiteId([2; 16]) };
    let gateway = OpeningKey::generate();
    let (encapped, secret) = gateway.sealing().shipment(&shipment)?;
    let view = branch.view(id)?;
    let slabs = view.slabs_from(SlabNumber(0), usize::MAX)?;
    let medium = MediumId { shipment: shipment.id, number: 1, salt: [3; 16] };
    let place = folder.join("medium");
    std::fs::create_dir(&place)?;
    let (views, given, progress) = ([view], Given::default(), Progress::default());
    let writer = Writer {
        folder: &place,
        medium,
        key: &secret,
        views: &views,
        given: &given,
        workers: WRITERS,
        progress: &progress,
    };
    let mut queue = Queue::new(slabs.iter().map(|slab| (0, *slab)));
    let (began, mut parts) = (Instant::now(), Vec::new());
    while !queue.is_empty() {
        parts.push(writer.part(parts.len() as u32 + 1, seed::MAX_PART, &mut queue)?);
    }
    let bytes: u64 = parts.iter().map(|part| part.bytes + part.index_bytes).sum();
    let export = rate(bytes, began);
    let manifest = Manifest {
        medium: medium.into(),
        last: true,
        made: 1,
        tenant: shipment.tenant,
        site: shipment.site,
        site_name: "b".into(),
        key: gateway.sealing().id(),
        encapped: data_encoding::HEXLOWER.encode(&encapped),
        volumes: vec![Volume {
            seed: shipment.id,
            name: "db".into(),
            lineage,
            generation: id,
            root: root.to_string(),
            size,
            captured_at: 1,
            slabs: runs_of(slabs),
        }],
        parts,
    };
    for entry in std::fs::read_dir(&place)? {
        posix_fadvise(&File::open(entry?.path())?, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    }
    let centre = store(&folder.join("centre"), lineage)?;
    let draft = centre.draft(new(lineage, id, size))?;
    let began = Instant::now();
    let brought = Medium::open(&place, manifest, &gateway)?.import(&[Some(draft.clone())], READERS, &progress)?;
    let import = rate(brought.bytes, began);
    ensure!(brought.damages.is_empty(), "{brought:?}");
    draft.seal_as(root, UnixMillis(3))?;
    let ((write, read), aes) = (disk(folder, bytes)?, aes()?);
    let what = format!("{content:?}").to_lowercase();
    let slower = both(write, read).min(aes);
    Ok(vec![
        Verdict::reported(&format!("medium, {what}: bytes of a volume's"), bytes as f64 / size as f64, "x"),
        Verdict::reported(&format!("disk, {what}: written and synced"), write, "MB/s"),
        Verdict::reported(&format!("disk, {what}: read"), read, "MB/s"),
        Verdict::reported(&format!("disk, {what}: written, then read"), both(write, read), "MB/s"),
        Verdict::reported("AES-256-GCM, one core", aes, "MB/s"),
        Verdict::reported(&format!("seed export, {what}, with its read-back"), export, "MB/s"),
        Verdict::reported(&format!("seed import, {what}, read, proved and stored"), import, "MB/s"),
        Verdict::at_least(&format!("seed export, {what}, by the slower of disk and AES"), SHARE, export / slower, "x"),
        Verdict::at_least(&format!("seed import, {what}, by the slower of disk and AES"), SHARE, import / slower, "x"),
    ])
}
