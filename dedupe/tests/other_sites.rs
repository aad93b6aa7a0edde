//! What an edge with a correct certificate and its own ideas may do with the bytes of another site of its tenant: refer to whole blocks that it knows, and
//! nothing else.

use dedupe::codec::{self, CodecMemory, Effort};
use dedupe::parcel::{self, Copied, Header};
use dedupe::{
    BLOCK, BlockNumber, BlockRun, ByteCount, Draft, GenerationId, IngestError, Keys, Kind, Lineage, LineageId,
    LocalPacks, NewGeneration, SiteId, SlabNumber, Store, StoreOptions, UnixMillis, Workspace,
};
use std::path::Path;
use std::sync::Arc;

const ONE_BLOCK: BlockRun = BlockRun { first: BlockNumber(0), count: 1 };

fn open(dir: &Path) -> Arc<Store> {
    let packs = Arc::new(LocalPacks::open(&dir.join("packs")).expect("works"));
    Store::open(&dir.join("index.redb"), packs, Keys::new(1, [7; 32]), StoreOptions::default()).expect("works")
}

/// A draft of one block of a new volume of `site`.
fn draft(store: &Arc<Store>, site: SiteId) -> Arc<Draft> {
    let lineage = LineageId::random();
    store
        .put_lineage(&Lineage {
            id: lineage,
            kind: Kind::Volume,
            name: "volume".into(),
            site: Some(site),
            fork_of: None,
        })
        .expect("works");
    let (id, size, captured_at) = (GenerationId::random(), ByteCount(BLOCK as u64), UnixMillis(1));
    store.draft(NewGeneration { id, lineage, parent: None, size, captured_at, source: Vec::new() }).expect("works")
}

/// A sealed generation of one block.
fn sealed(store: &Arc<Store>, site: SiteId, block: &[u8]) -> GenerationId {
    let draft = draft(store, site);
    let mut scan = draft.scan(SlabNumber(0)).expect("works");
    scan.data(block).expect("works");
    scan.finish().expect("works");
    draft.seal(UnixMillis(2)).expect("works").id
}

fn header(draft: &Draft) -> Header {
    Header {
        generation: draft.generation().id,
        number: 0,
        sources: Vec::new(),
        base: None,
        fresh: Vec::new(),
        zero: Vec::new(),
        copied: Vec::new(),
        chosen: Vec::new(),
        recent: 0,
        without_old: Vec::new(),
        fresh_hash: *blake3::hash(b"").as_bytes(),
        copied_hash: [0; 32],
    }
}

/// A parcel that decodes to `guess` if the prefix is what the sender hopes that it is.
fn guessing(mut header: Header, guess: &[u8]) -> Vec<u8> {
    header.fresh = vec![ONE_BLOCK];
    header.fresh_hash = *blake3::hash(guess).as_bytes();
    let memory = CodecMemory { long_log: 16, chain_log: 0 };
    let payload = codec::encode(&[guess, guess].concat(), BLOCK, Effort::Normal, memory).expect("works");
    parcel::assemble(&header, &payload)
}

fn incompressible() -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    blake3::Hasher::new().update(b"a block of the other site").finalize_xof().fill(&mut block);
    block
}

#[test]
fn bytes_of_another_site_cannot_be_guessed_through_a_prefix() {
    let dir = tempfile::tempdir().expect("works");
    let store = open(dir.path());
    let (ours, theirs) = (SiteId::random(), SiteId::random());
    let block = incompressible();
    let victim = sealed(&store, theirs, &block);
    let own = sealed(&store, ours, &block);

    let draft = draft(&store, ours);
    let chosen = |id| Header { sources: vec![id], chosen: vec![(0, vec![ONE_BLOCK])], ..header(&draft) };
    let based = |id| Header { base: Some(id), ..header(&draft) };
    for foreign in [chosen(victim), based(victim)] {
        let refused = draft.ingest(0, &guessing(foreign, &block), &mut Workspace::default());
        // The same as for a generation that does not exist: even a right guess tells nothing.
        assert!(matches!(refused, Err(IngestError::MissingBase(id)) if id == victim), "{refused:?}");
    }
    draft.ingest(0, &guessing(chosen(own), &block), &mut Workspace::default()).expect("works");
}

#[test]
fn copies_from_another_site_need_the_hash_of_what_is_copied() {
    let dir = tempfile::tempdir().expect("works");
    let store = open(dir.path());
    let (ours, theirs) = (SiteId::random(), SiteId::random());
    let block = incompressible();
    let victim = sealed(&store, theirs, &block);

    let draft = draft(&store, ours);
    let copy = Copied { to: BlockNumber(0), count: 1, source: 0, from: BlockNumber(0) };
    let copied = |hash: blake3::Hash| {
        let header = Header { sources: vec![victim], copied: vec![copy], copied_hash: hash.into(), ..header(&draft) };
        let memory = CodecMemory { long_log: 16, chain_log: 0 };
        parcel::assemble(&header, &codec::encode(&[], 0, Effort::Normal, memory).expect("works"))
    };
    let refused = draft.ingest(0, &copied(blake3::hash(b"a guess")), &mut Workspace::default());
    assert!(matches!(refused, Err(IngestError::MissingBase(id)) if id == victim), "{refused:?}");
    let generation = draft.generation().id;
    assert!(!store.generation(generation).expect("works").expect("works").is_sealed());
    let mut read = vec![1; BLOCK];
    store.view(generation).expect("works").read(dedupe::ByteOffset(0), &mut read).expect("works");
    assert_ne!(read, block, "nothing of the refused copy stays");
    draft.ingest(0, &copied(blake3::hash(&block)), &mut Workspace::default()).expect("works");
}
