//! Generations: offered, sent in parcels, cut, resumed, sealed, refused.

use crate::edge::{Edge, Volume, replicate};
use crate::world::World;
use dedupe::{GenerationId, LineageId, Root, RootScheme};
use sluice_gateway::admin::{Answer, Request};
use sluice_gateway::rehydrate::{Proof, Where};
use wire::message::*;

const SIZE: usize = 5 << 20;

fn rehydrate(world: &World, volume: &str, generation: &str, quick: bool) -> (Vec<u8>, sluice_gateway::rehydrate::Done) {
    let to = world.path("image");
    let request = Request::Rehydrate {
        volume: volume.into(),
        generation: generation.into(),
        to: Where::Path(to.clone()),
        proof: quick.then_some(Proof::Changed),
        plan: false,
    };
    let Answer::Rehydrated { done } = world.ask(request).unwrap() else { panic!("not rehydrated") };
    (std::fs::read(to).unwrap(), done)
}

#[test]
fn a_seed_and_its_deltas_arrive_and_come_back_byte_for_byte() {
    let world = World::new();
    let mut volume = Volume::new(1, SIZE + 512);
    let first = volume.bytes.clone();
    let (edge, mut control, data) = world.run(async {
        let edge = Edge::enrol(&world, "b").await;
        let mut control = edge.control(&world).await;
        let data = edge.data(&world, &control).await;
        let held = control.announce(volume.lineage, "core-db").await;
        assert_eq!(held, FromGateway::Held { lineage: volume.lineage, sealed: vec![], draft: None });
        replicate(&volume, &mut control, &data).await;
        (edge, control, data)
    });
    let (bytes, done) = rehydrate(&world, "b/core-db", "latest", false);
    assert!(bytes == first);
    assert_eq!((done.plan.from, done.repaired), (None, false));

    for block in [3, 4, 700] {
        volume.scribble(9, block);
    }
    volume.bytes[100 * 4096..110 * 4096].fill(0);
    world.run(replicate(&volume, &mut control, &data));
    let (bytes, done) = rehydrate(&world, "b/core-db", "2", false);
    assert!(bytes == volume.bytes);
    assert_eq!(done.plan.from, Some(1));
    assert_eq!(done.written_bytes, 3 * 4096, "only what differs is written");
    let (bytes, done) = rehydrate(&world, "bank/b/core-db", "1", false);
    assert!(bytes == first, "and back to the older one");
    let blocks = first.chunks(4096).zip(volume.bytes.chunks(4096));
    let differ = blocks.filter(|(old, new)| old != new && old.iter().any(|byte| *byte != 0)).count();
    assert_eq!((done.plan.from, done.written_bytes), (Some(2), 4096 * differ as u64), "what differs differs both ways");

    // A target that was touched is found, whether its time tells or only its bytes.
    std::fs::write(world.path("image"), vec![1; SIZE]).unwrap();
    let (bytes, done) = rehydrate(&world, "b/core-db", "latest", true);
    assert!(bytes == volume.bytes);
    assert_eq!(done.plan.whole_because.as_deref(), Some("the target was touched since it was last written"));
    let touched = std::fs::File::options().write(true).open(world.path("image")).unwrap();
    let before = touched.metadata().unwrap().modified().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&touched, b"touched", 12_345).unwrap();
    touched.set_modified(before).unwrap();
    let (bytes, done) = rehydrate(&world, "b/core-db", "latest", false);
    assert!(bytes == volume.bytes);
    assert!(done.repaired);
    let held = world.run(async {
        drop(edge);
        control.announce(volume.lineage, "core-db").await
    });
    assert!(matches!(held, FromGateway::Held { sealed, draft: None, .. } if sealed.len() == 2));
    assert!(world.metrics().contains("sluice_gateway_generations_sealed_total 2"));
}

#[test]
fn holes_stay_holes() {
    use std::os::unix::fs::MetadataExt;
    let world = World::new();
    let mut volume = Volume::new(1, 64 << 20);
    volume.bytes[1 << 20..].fill(0);
    world.run(async {
        let edge = Edge::enrol(&world, "b").await;
        let mut control = edge.control(&world).await;
        let data = edge.data(&world, &control).await;
        control.announce(volume.lineage, "v").await;
        replicate(&volume, &mut control, &data).await;
    });
    let (bytes, done) = rehydrate(&world, "b/v", "latest", false);
    assert!(bytes == volume.bytes);
    assert_eq!(done.plan.zero_bytes, (64 << 20) - done.plan.data_bytes);
    let blocks = std::fs::metadata(world.path("image")).unwrap().blocks();
    assert!(blocks * 512 < 2 << 20, "{} bytes on disk", blocks * 512);
}

#[test]
fn a_cut_parcel_resumes_where_it_was_also_after_a_restart() {
    let mut world = World::new();
    let volume = Volume::new(2, SIZE);
    let generation = volume.capture();
    let parcels = volume.parcels(None, generation.id, 8 << 20);
    assert_eq!(parcels.len(), 1);
    let (bytes, half) = (&parcels[0], parcels[0].len() / 2);
    let edge = world.run(async {
        let edge = Edge::enrol(&world, "b").await;
        let mut control = edge.control(&world).await;
        control.announce(volume.lineage, "v").await;
        control.ask(volume.offer(&generation)).await;
        let data = edge.data(&world, &control).await;
        let (offset, _) = data.parcel(generation.id, 0, bytes, Some(half)).await;
        assert_eq!(offset, 0);
        let part = world.state().join(format!("incoming/{}-0.part", generation.id));
        while std::fs::metadata(&part).map_or(0, |part| part.len()) < 300_000 {
            tokio::task::yield_now().await;
        }
        data.cut().await;
        // The second data connection waits for the first one's bytes to be safe: what arrived is not asked for again.
        let data = edge.data(&world, &control).await;
        let (offset, _) = data.parcel(generation.id, 0, bytes, Some(half)).await;
        assert!(offset > 0 && offset <= half as u64, "{offset} of {half}");
        edge
    });
    world.restart();
    world.run(async {
        let mut control = edge.control(&world).await;
        let held = control.announce(volume.lineage, "v").await;
        let draft = Some((generation.id, 0));
        assert_eq!(held, FromGateway::Held { lineage: volume.lineage, sealed: vec![], draft });
        let accepted = control.ask(volume.offer(&generation)).await;
        assert_eq!(accepted, FromGateway::Accept { generation: generation.id, next_parcel: 0 });
        let data = edge.data(&world, &control).await;
        let (offset, reply) = data.parcel(generation.id, 0, bytes, None).await;
        assert!(offset > 0, "a restart loses nothing that was synced");
        assert_eq!(reply, Some(DataReply::Done));
        // Its acknowledgement may be lost: the same parcel again is nothing to send.
        let (offset, reply) = data.parcel(generation.id, 0, bytes, None).await;
        assert_eq!((offset, reply), (bytes.len() as u64, Some(DataReply::Done)));
    });
    world.restart();
    world.run(async {
        let mut control = edge.control(&world).await;
        control.announce(volume.lineage, "v").await;
        let accepted = control.ask(volume.offer(&generation)).await;
        assert_eq!(accepted, FromGateway::Accept { generation: generation.id, next_parcel: 1 });
        let sealed = control.ask(volume.seal(&generation, 1)).await;
        assert_eq!(sealed, FromGateway::Sealed { generation: generation.id, number: 1 });
        // And so may the seal's.
        let mut control = edge.control(&world).await;
        control.announce(volume.lineage, "v").await;
        let accepted = control.ask(volume.offer(&generation)).await;
        assert_eq!(accepted, FromGateway::Accept { generation: generation.id, next_parcel: 1 });
        assert_eq!(control.ask(volume.seal(&generation, 1)).await, sealed);
    });
    let parts = std::fs::read_dir(world.state().join("incoming")).unwrap().count();
    assert_eq!(parts, 0, "no part is left behind");
}

#[test]
fn parcels_that_overtake_each_other_are_taken_in_in_order() {
    let world = World::new();
    let volume = Volume::new(3, SIZE);
    let generation = volume.capture();
    let parcels = volume.parcels(None, generation.id, 1 << 20);
    assert!(parcels.len() > 3);
    world.run(async {
        let edge = Edge::enrol(&world, "b").await;
        let mut control = edge.control(&world).await;
        control.announce(volume.lineage, "v").await;
        control.ask(volume.offer(&generation)).await;
        let data = edge.data(&world, &control).await;
        let one = data.parcel(generation.id, 1, &parcels[1], None);
        let later = async {
            let (_, reply) = data.parcel(generation.id, 0, &parcels[0], None).await;
            reply
        };
        let ((_, one), zero) = tokio::join!(one, later);
        assert_eq!((zero, one), (Some(DataReply::Done), Some(DataReply::Done)));
        let (_, far) = data.parcel(generation.id, 99, &parcels[2], None).await;
        assert_eq!(far, Some(DataReply::Refused(Refusal::OutOfOrder { want: 2, got: 99 })));
        let early = control.ask(volume.seal(&generation, parcels.len())).await;
        let why = Refusal::OutOfOrder { want: 2, got: parcels.len() as u32 };
        assert_eq!(early, FromGateway::Refuse { generation: generation.id, why });
    });
}

#[test]
fn damaged_and_foreign_parcels_are_refused_and_come_again() {
    let world = World::new();
    let volume = Volume::new(4, SIZE);
    let generation = volume.capture();
    let parcels = volume.parcels(None, generation.id, 8 << 20);
    world.run(async {
        let edge = Edge::enrol(&world, "b").await;
        let mut control = edge.control(&world).await;
        control.announce(volume.lineage, "v").await;
        let data = edge.data(&world, &control).await;
        let (_, early) = data.parcel(generation.id, 0, &parcels[0], None).await;
        let why = Refusal::Protocol("its generation is not being received; offer it first".into());
        assert_eq!(early, Some(DataReply::Refused(why)));
        control.ask(volume.offer(&generation)).await;
        let mut damaged = parcels[0].clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        let (_, reply) = data.parcel(generation.id, 0, &damaged, None).await;
        assert!(matches!(reply, Some(DataReply::Refused(Refusal::Damaged(_)))), "{reply:?}");
        let (_, reply) = data.parcel(generation.id, 0, b"not a parcel at all", None).await;
        assert!(matches!(reply, Some(DataReply::Refused(Refusal::Damaged(_)))), "{reply:?}");
        let (_, reply) = data.parcel(generation.id, 0, &[], None).await;
        assert!(matches!(reply, Some(DataReply::Refused(Refusal::Protocol(_)))), "{reply:?}");
        let (offset, reply) = data.parcel(generation.id, 0, &parcels[0], None).await;
        assert_eq!((offset, reply), (0, Some(DataReply::Done)));
        // The right parcels, but the edge promises another root.
        let wrong = Root { scheme: RootScheme::Blake3, hash: [1; 32] };
        let seal = FromEdge::Seal { generation: generation.id, parcels: 1, root: wrong };
        let refused = control.ask(seal).await;
        let why = Refusal::WrongRoot(generation.sealed.unwrap().root);
        assert_eq!(refused, FromGateway::Refuse { generation: generation.id, why });
        // The draft is gone: the same generation begins again, from its first parcel.
        let again = control.ask(volume.offer(&generation)).await;
        assert_eq!(again, FromGateway::Accept { generation: generation.id, next_parcel: 0 });
    });
}

#[test]
fn a_delta_on_another_base_is_refused_with_what_is_held() {
    let world = World::new();
    let mut volume = Volume::new(5, SIZE);
    world.run(async {
        let edge = Edge::enrol(&world, "b").await;
        let mut control = edge.control(&world).await;
        let data = edge.data(&world, &control).await;
        control.announce(volume.lineage, "v").await;
        let seed = replicate(&volume, &mut control, &data).await;
        volume.scribble(1, 1);
        let skipped = volume.capture();
        volume.scribble(2, 2);
        let next = volume.capture();
        assert_eq!(next.parent, Some(skipped.id));
        let have = Some((seed.id, seed.sealed.unwrap().root));
        let why = Refusal::WrongBase { have };
        let refused = control.ask(volume.offer(&next)).await;
        assert_eq!(refused, FromGateway::Refuse { generation: next.id, why: why.clone() });
        // The right base with a wrong root is another generation too.
        let FromEdge::Offer(mut offer) = volume.offer(&skipped) else { panic!() };
        offer.parent = Some((seed.id, Root { scheme: RootScheme::Blake3, hash: [9; 32] }));
        let refused = control.ask(FromEdge::Offer(offer)).await;
        assert_eq!(refused, FromGateway::Refuse { generation: skipped.id, why });
        let accepted = control.ask(volume.offer(&skipped)).await;
        assert!(matches!(accepted, FromGateway::Accept { .. }), "{accepted:?}");
        // A newer capture takes its place: what was begun is dropped.
        let FromEdge::Offer(mut folded) = volume.offer(&next) else { panic!() };
        folded.parent = Some((seed.id, seed.sealed.unwrap().root));
        let accepted = control.ask(FromEdge::Offer(folded)).await;
        assert_eq!(accepted, FromGateway::Accept { generation: next.id, next_parcel: 0 });
        let held = control.announce(volume.lineage, "v").await;
        assert!(matches!(held, FromGateway::Held { draft: Some((id, 0)), .. } if id == next.id));
        control.say(FromEdge::Abandon { generation: next.id }).await;
        let held = control.announce(volume.lineage, "v").await;
        assert!(matches!(held, FromGateway::Held { draft: None, .. }), "{held:?}");
    });
}

#[test]
fn volumes_of_other_sites_cannot_be_touched_or_read() {
    let world = World::new();
    let volume = Volume::new(6, SIZE);
    world.run(async {
        let owner = Edge::enrol(&world, "owner").await;
        let mut control = owner.control(&world).await;
        let data = owner.data(&world, &control).await;
        control.announce(volume.lineage, "v").await;
        let generation = replicate(&volume, &mut control, &data).await;
        let run = dedupe::BlockRun { first: dedupe::BlockNumber(0), count: 4 };
        let fetch = || FromEdge::Fetch { id: 7, generation: generation.id, blocks: vec![run] };
        let FromGateway::Blocks { id: 7, parcel } = control.ask(fetch()).await else { panic!() };
        assert!(!parcel.is_empty(), "the owner gets its blocks back");

        let stranger = Edge::enrol(&world, "stranger").await;
        let mut other = stranger.control(&world).await;
        let held = other.announce(volume.lineage, "mine-now").await;
        assert_eq!(held, FromGateway::Held { lineage: volume.lineage, sealed: vec![], draft: None });
        let refused = other.ask(volume.offer(&generation)).await;
        assert_eq!(refused, FromGateway::Refuse { generation: generation.id, why: Refusal::Foreign });
        let bye = other.ask(fetch()).await;
        assert_eq!(bye, FromGateway::Bye { why: Refusal::Foreign });
        let mut other = stranger.control(&world).await;
        let bye = other.ask(FromEdge::Abandon { generation: generation.id }).await;
        assert_eq!(bye, FromGateway::Bye { why: Refusal::Foreign });
        // A generation's id under a lineage of its own is no way in either.
        let mut other = stranger.control(&world).await;
        let lineage = LineageId::random();
        other.announce(lineage, "trap").await;
        let FromEdge::Offer(offer) = volume.offer(&generation) else { panic!() };
        let refused = other.ask(FromEdge::Offer(GenerationOffer { lineage, ..offer })).await;
        assert_eq!(refused, FromGateway::Refuse { generation: generation.id, why: Refusal::Foreign });
    });
}

#[test]
fn questions_are_answered_from_all_sites_of_the_tenant() {
    let world = World::new();
    let volume = Volume::new(7, SIZE);
    world.run(async {
        let first = Edge::enrol(&world, "first").await;
        let mut control = first.control(&world).await;
        let data = first.data(&world, &control).await;
        control.announce(volume.lineage, "v").await;
        let generation = replicate(&volume, &mut control, &data).await;
        let second = Edge::enrol(&world, "second").await;
        let mut other = second.control(&world).await;
        let marks: Vec<_> = volume.bytes.chunks(4096).map(dedupe::Mark::of).collect();
        let FromGateway::Answer(answer) = other.ask(FromEdge::Ask(Ask { id: 3, marks: marks.clone() })).await else {
            panic!("no answer");
        };
        assert_eq!(answer.id, 3);
        let found: u32 = answer.found.iter().map(|run| run.count).sum();
        let data_blocks = marks.iter().filter(|mark| **mark != dedupe::Mark::ZERO).count();
        assert_eq!(found as usize, data_blocks, "a copied slab is found whole");
        assert!(answer.found.iter().all(|run| run.generation == generation.id));
    });
}

#[test]
fn absurd_offers_are_refused() {
    let world = World::new();
    let lineage = LineageId::random();
    world.run(async {
        let edge = Edge::enrol(&world, "b").await;
        let mut control = edge.control(&world).await;
        control.announce(lineage, "v").await;
        for size in [u64::MAX, (64 << 40) + 512, 1000] {
            let generation = GenerationId::random();
            let offer = GenerationOffer {
                lineage,
                generation,
                parent: None,
                size: dedupe::ByteCount(size),
                captured_at: dedupe::UnixMillis(0),
            };
            let refused = control.ask(FromEdge::Offer(offer)).await;
            assert!(matches!(refused, FromGateway::Refuse { why: Refusal::Protocol(_), .. }), "{refused:?}");
        }
        let bye = control.announce(LineageId::random(), "../etc").await;
        assert!(matches!(bye, FromGateway::Bye { why: Refusal::Protocol(_) }), "{bye:?}");
    });
}

#[test]
fn only_the_last_generations_are_kept() {
    let mut world = World::new();
    world.config.retention = 2;
    world.restart();
    let mut volume = Volume::new(8, SIZE);
    world.run(async {
        let edge = Edge::enrol(&world, "b").await;
        let mut control = edge.control(&world).await;
        let data = edge.data(&world, &control).await;
        control.announce(volume.lineage, "v").await;
        for step in 0..4 {
            volume.scribble(100 + step, step as usize);
            replicate(&volume, &mut control, &data).await;
        }
    });
    let numbers = || {
        let Answer::Generations { generations } = world.ask(Request::Generations { volume: "b/v".into() }).unwrap()
        else {
            panic!()
        };
        generations.iter().map(|line| line.number).collect::<Vec<_>>()
    };
    // The worker is woken by each seal; it works beside the session.
    let kept = (0..3000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        numbers() == [3, 4]
    });
    assert!(kept, "{:?}", numbers());
    let (bytes, _) = rehydrate(&world, "b/v", "3", false);
    let mut expected = volume.bytes.clone();
    expected[3 * 4096..4 * 4096].copy_from_slice(&Volume::new(8, SIZE).bytes[3 * 4096..4 * 4096]);
    assert!(bytes == expected, "older bytes stay readable through younger generations");
}

#[test]
fn a_disk_that_is_nearly_full_makes_edges_wait_and_shows() {
    let mut world = World::new();
    world.config.reserve = 1 << 62;
    world.restart();
    let volume = Volume::new(9, SIZE);
    let generation = volume.capture();
    let parcels = volume.parcels(None, generation.id, 8 << 20);
    let edge = world.run(async {
        let edge = Edge::enrol(&world, "b").await;
        let mut control = edge.control(&world).await;
        control.announce(volume.lineage, "v").await;
        control.ask(volume.offer(&generation)).await;
        let data = edge.data(&world, &control).await;
        let (_, reply) = data.parcel(generation.id, 0, &parcels[0], None).await;
        assert_eq!(reply, Some(DataReply::Refused(Refusal::NoRoom("its disk is nearly full".into()))));
        edge
    });
    let health = world.get("/health");
    assert!(health.starts_with("HTTP/1.1 503") && health.contains("make room, edges wait until then"), "{health}");
    world.config.reserve = 0;
    world.restart();
    world.run(async {
        let mut control = edge.control(&world).await;
        control.announce(volume.lineage, "v").await;
        control.ask(volume.offer(&generation)).await;
        let data = edge.data(&world, &control).await;
        let (_, reply) = data.parcel(generation.id, 0, &parcels[0], None).await;
        assert_eq!(reply, Some(DataReply::Done));
    });
    assert!(world.get("/health").starts_with("HTTP/1.1 200"));
}

/// A block device over a file; needs root.
struct Loop(String);

impl Loop {
    fn over(file: &std::path::Path) -> Option<Loop> {
        let made = std::process::Command::new("losetup").args(["--find", "--show"]).arg(file).output().ok()?;
        made.status.success().then(|| Loop(String::from_utf8(made.stdout).unwrap().trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _best_effort = std::process::Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn block_devices_are_written_proved_and_brought_forward() {
    let world = World::new();
    let (file, small) = (world.path("disk"), world.path("small"));
    std::fs::write(&file, vec![0xaa; 8 << 20]).unwrap();
    std::fs::write(&small, vec![0xaa; 1 << 20]).unwrap();
    let (Some(device), Some(small)) = (Loop::over(&file), Loop::over(&small)) else {
        return eprintln!("skipped: no loop devices here (needs root)");
    };
    let mut volume = Volume::new(10, SIZE + 512);
    let (mut control, data) = world.run(async {
        let edge = Edge::enrol(&world, "b").await;
        let mut control = edge.control(&world).await;
        let data = edge.data(&world, &control).await;
        control.announce(volume.lineage, "v").await;
        replicate(&volume, &mut control, &data).await;
        (control, data)
    });
    let to_device = |device: &Loop| {
        let request = Request::Rehydrate {
            volume: "b/v".into(),
            generation: "latest".into(),
            to: Where::Path(device.0.clone().into()),
            proof: None,
            plan: false,
        };
        match world.ask(request)? {
            Answer::Rehydrated { done } => Ok::<_, String>(done),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(to_device(&device).unwrap().plan.from, None);
    let on_disk = |len: usize| {
        let mut bytes = vec![0; len];
        std::io::Read::read_exact(&mut std::fs::File::open(&device.0).unwrap(), &mut bytes).unwrap();
        bytes
    };
    assert!(on_disk(volume.bytes.len()) == volume.bytes);
    assert!(on_disk(8 << 20)[SIZE + 512..].iter().all(|byte| *byte == 0xaa), "nothing behind the volume is touched");
    volume.scribble(11, 5);
    world.run(replicate(&volume, &mut control, &data));
    let done = to_device(&device).unwrap();
    assert_eq!((done.plan.from, done.written_bytes, done.repaired), (Some(1), 4096, false));
    assert!(on_disk(volume.bytes.len()) == volume.bytes);
    let refused = to_device(&small).unwrap_err();
    assert!(refused.contains("has 1048576 bytes and the volume has 5243392; choose a larger device"), "{refused}");
}
