//! Codes the generations of volumes without a network: what the codec alone does. `steps EFFORT DIR...`, EFFORT 0-3 (of the deltas; seeds are coded quickly).
//! Each DIR holds g0.img g1.img …; each is a site of its own, all of one tenant. The wire's share is not counted here.

use dedupe::{
    ByteCount, ByteOffset, Draft, Effort, Encoder, EncoderOptions, GenerationId, Job, Keys, Kind, LEAF, Lineage,
    LineageId, LocalPacks, NewGeneration, SlabNumber, Store, StoreOptions, UnixMillis, Workspace,
};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

fn store(dir: &Path) -> Arc<Store> {
    let packs = Arc::new(LocalPacks::open(&dir.join("packs")).expect("packs"));
    Store::open(&dir.join("index.redb"), packs, Keys::new(1, [7; 32]), StoreOptions::default()).expect("store")
}

fn capture(draft: &Arc<Draft>, file: &File, size: u64) {
    let mut buffer = vec![0; 1 << 20];
    for slab in 0..ByteCount(size).slabs() {
        let mut scan = draft.scan(SlabNumber(slab)).expect("scan");
        let (mut at, end) = (slab * (16 << 20), (slab + 1) * (16 << 20));
        let end = end.min(size);
        while at < end {
            let data = nix::unistd::lseek(file, at as i64, nix::unistd::Whence::SeekData).map_or(size, |at| at as u64);
            let next = (data / LEAF as u64 * LEAF as u64).min(end);
            if next > at {
                scan.hole((next - at) as usize).expect("hole");
                at = next;
                continue;
            }
            let step = (end - at).min(1 << 20) as usize;
            file.read_exact_at(&mut buffer[..step], at).expect("read");
            scan.data(&buffer[..step]).expect("data");
            at += step as u64;
        }
        scan.finish().expect("finish");
        if slab % 16 == 15 {
            draft.checkpoint().expect("checkpoint");
        }
    }
}

/// CPU seconds of this thread: other work on the machine does not count.
fn cpu() -> f64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every Linux has it");
    now.tv_sec() as f64 + now.tv_nsec() as f64 * 1e-9
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let effort = Effort::LADDER[arguments[0].parse::<usize>().expect("0-3")];
    let scratch = std::path::PathBuf::from(std::env::var("SCRATCH").unwrap_or_else(|_| "/tmp".into()))
        .join(format!("steps-{}", std::process::id()));
    std::fs::create_dir_all(scratch.join("gateway")).expect("scratch");
    let gateway = store(&scratch.join("gateway"));
    let mut workspace = Workspace::default();
    for (site, dir) in arguments[1..].iter().enumerate() {
        let home = scratch.join(site.to_string());
        std::fs::create_dir_all(&home).expect("scratch");
        let edge = store(&home);
        let lineage =
            Lineage { id: LineageId::random(), kind: Kind::Volume, name: dir.clone(), site: None, fork_of: None };
        edge.put_lineage(&lineage).expect("lineage");
        gateway.put_lineage(&lineage).expect("lineage");
        let encoder = Encoder::new(edge.clone(), EncoderOptions::default());
        let mut held: Vec<GenerationId> = Vec::new();
        for step in 0.. {
            let Ok(file) = File::open(Path::new(dir).join(format!("g{step}.img"))) else { break };
            let size = file.metadata().expect("size").len();
            let new = NewGeneration {
                id: GenerationId::random(),
                lineage: lineage.id,
                parent: held.last().copied(),
                size: ByteCount(size),
                captured_at: UnixMillis(0),
                source: Vec::new(),
            };
            let began = cpu();
            let draft = edge.draft(new.clone()).expect("draft");
            capture(&draft, &file, size);
            let generation = draft.seal(UnixMillis(0)).expect("seal");
            let captured = cpu() - began;
            let receiver = gateway.draft(new.clone()).expect("draft");
            let mut job =
                Job { base: new.parent, target: new.id, cursor: dedupe::BlockNumber(0), number: 0, plain: false };
            let is_held = |id: GenerationId| held.contains(&id);
            let (mut sizes, mut asked, mut ingest, mut code, mut choose) = ([0u64; 2], 0, 0.0, 0.0, 0.0);
            let (mut fresh, mut copied, mut prefix) = (0, 0, 0);
            while let Some(mut plan) = encoder.plan(&job, &is_held).expect("plan") {
                let samples = plan.samples();
                asked += samples.len() * 6;
                let rest = plan.narrow(&gateway.find_marks(&samples).expect("find"));
                if !rest.is_empty() {
                    asked += rest.len() * 6;
                    let found = gateway.find_marks(&rest).expect("find");
                    asked += found.len() * 6;
                    plan.take_answer(&found);
                }
                let encoded =
                    encoder.encode(plan, if step == 0 { Effort::Quick } else { effort }, &is_held).expect("encode");
                sizes[0] += encoded.stats.header_bytes;
                sizes[1] += encoded.stats.payload_bytes;
                fresh += encoded.stats.fresh_bytes;
                copied += encoded.stats.copied_bytes;
                prefix = prefix.max(encoded.stats.prefix_bytes.iter().sum());
                code += encoded.stats.code_seconds;
                choose += encoded.stats.choose_seconds;
                // A thread of its own, so that a profiler can tell the two ends apart.
                ingest += std::thread::scope(|scope| {
                    let work = || {
                        let began = cpu();
                        receiver.ingest(job.number, &encoded.bytes, &mut workspace).expect("ingest");
                        cpu() - began
                    };
                    let thread =
                        std::thread::Builder::new().name("ingest".into()).spawn_scoped(scope, work).expect("a thread");
                    thread.join().expect("no panic")
                });
                job.number += 1;
                job.cursor = encoded.cursor;
            }
            let root = generation.sealed.expect("sealed").root;
            receiver.seal_as(root, UnixMillis(0)).expect("the same root");
            held.push(new.id);
            let mut probe = vec![0; 65536];
            gateway.view(new.id).expect("view").read(ByteOffset(0), &mut probe).expect("read");
            println!(
                "{dir} g{step}: dirty {:.2} MB, coded {:.3} MB (headers {:.1} kB, asked {:.1} kB), fresh {:.2}, copied {:.2}, prefix {} MiB, parcels {}; capture {captured:.1} s, choose {choose:.1} s, code {code:.1} s, ingest {ingest:.1} s = {:.0} MB/s; root {root:.8}",
                generation.stats.new_blocks as f64 * 0.004096,
                (sizes[0] + sizes[1] + asked as u64) as f64 / 1e6,
                sizes[0] as f64 / 1e3,
                asked as f64 / 1e3,
                fresh as f64 / 1e6,
                copied as f64 / 1e6,
                prefix >> 20,
                job.number,
                (fresh + copied) as f64 / 1e6 / ingest
            );
        }
        println!("{dir}: {:?}", edge.stats().expect("stats"));
    }
    println!("gateway: {:?}", gateway.stats().expect("stats"));
    let _ = std::fs::remove_dir_all(&scratch);
}
