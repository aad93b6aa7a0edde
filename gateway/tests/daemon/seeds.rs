//! Seeds by courier: what is expected, what waits for it, how it joins, and how a seed is given up. The import is played by a writer into the store.

use crate::edge::{Control, Data, Edge, Volume, replicate};
use crate::world::World;
use dedupe::{Generation, SLAB, SeedId, SlabNumber};
use sluice_gateway::admin::{Answer, Request, VolumeLine};
use sluice_gateway::rehydrate::Where;
use sluice_gateway::state::State;
use wire::clock::machine_time;
use wire::message::*;
use wire::seeding::{Promise, Promised, SeedState, Seeding, Seeds, Way};

const SIZE: usize = 5 << 20;

/// An edge of version 6.
async fn edge_of(world: &World, site: &str) -> Edge {
    Edge { alpn: vec![b"sluice/6".to_vec()], ..Edge::enrol(world, site).await }
}

fn seeding(volume: &Volume, generation: &Generation, state: SeedState) -> Seeding {
    Seeding {
        seed: SeedId(generation.id.0),
        lineage: volume.lineage,
        volume: "db".into(),
        generation: generation.id,
        root: generation.sealed.unwrap().root,
        size: generation.size,
        captured_at: generation.captured_at,
        state,
        at: machine_time(),
        way: None,
        note: "courier 7".into(),
    }
}

async fn tell(control: &mut Control, seeding: Seeding) -> Seeds {
    control.say(FromEdge::Seeding(seeding)).await;
    loop {
        if let FromGateway::Seeds(seeds) = control.hear().await {
            return seeds;
        }
    }
}

async fn holding(control: &mut Control, volume: &Volume) -> (Vec<dedupe::GenerationId>, Vec<Promised>) {
    control
        .say(FromEdge::Volume(VolumeOffer { lineage: volume.lineage, kind: dedupe::Kind::Volume, name: "db".into() }))
        .await;
    loop {
        if let FromGateway::Holding { sealed, promised, draft, .. } = control.hear().await {
            assert_eq!(draft, None);
            return (sealed.into_iter().map(|(id, _)| id).collect(), promised);
        }
    }
}

fn promise(generation: &Generation, promise: Promise) -> Promised {
    Promised { generation: generation.id, root: generation.sealed.unwrap().root, promise }
}

/// Sends a generation up to its seal.
async fn send(volume: &Volume, generation: &Generation, control: &mut Control, data: &Data) -> FromGateway {
    let parcels = volume.parcels(generation.parent, generation.id, 1 << 20);
    let accepted = control.ask(volume.offer(generation)).await;
    assert_eq!(accepted, FromGateway::Accept { generation: generation.id, next_parcel: 0 });
    for (number, bytes) in parcels.iter().enumerate() {
        let (_, reply) = data.parcel(generation.id, number as u32, bytes, None).await;
        assert_eq!(reply, Some(DataReply::Done));
    }
    control.ask(volume.seal(generation, parcels.len())).await
}

/// Plays the import: seals the seed's generation through the real draft, while no daemon runs.
fn import(world: &mut World, volume: &Volume, generation: &Generation, image: &[u8]) {
    world.stop();
    let state = State::open(&world.config).unwrap();
    let tenant = state.catalogue.find_tenant("bank").unwrap();
    let store = state.tenant(tenant.id).unwrap();
    let draft = store
        .store
        .draft(dedupe::NewGeneration {
            id: generation.id,
            lineage: volume.lineage,
            parent: None,
            size: generation.size,
            captured_at: generation.captured_at,
            source: Vec::new(),
        })
        .unwrap();
    for (number, slab) in image.chunks(SLAB).enumerate() {
        let mut scan = draft.scan(SlabNumber(number as u64)).unwrap();
        scan.data(slab).unwrap();
        scan.finish().unwrap();
    }
    draft.seal_as(generation.sealed.unwrap().root, machine_time()).unwrap();
    drop((draft, store, state));
    world.start();
}

fn line_of(world: &World) -> VolumeLine {
    let Answer::Volumes { mut volumes } = world.ask(Request::Volumes).unwrap() else { panic!() };
    volumes.remove(0)
}

fn wait_for(world: &World, what: impl Fn(&VolumeLine) -> bool) -> VolumeLine {
    for _ in 0..600 {
        let line = line_of(world);
        if what(&line) {
            return line;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("it never came: {:?}", line_of(world))
}

fn image(world: &World, generation: &str) -> Result<Vec<u8>, String> {
    let to = world.path("image");
    let to_there = Where::Path(to.clone());
    let (volume, generation) = ("b/db".into(), generation.into());
    world.ask(Request::Rehydrate { volume, generation, to: to_there, proof: None, plan: false })?;
    Ok(std::fs::read(to).unwrap())
}

/// A volume whose seed was shipped, and two generations that wait for it. Gives the images of all three.
struct Shipped {
    world: World,
    edge: Edge,
    volume: Volume,
    generations: Vec<Generation>,
    images: Vec<Vec<u8>>,
}

fn shipped() -> Shipped {
    let world = World::new();
    let mut volume = Volume::new(1, SIZE);
    let mut images = vec![volume.bytes.clone()];
    let mut generations = vec![volume.capture()];
    let edge = world.run(async {
        let edge = edge_of(&world, "b").await;
        let mut control = edge.control(&world).await;
        let data = edge.data(&world, &control).await;
        let seeds = tell(&mut control, seeding(&volume, &generations[0], SeedState::Shipped)).await;
        assert_eq!(seeds.seeds.len(), 1);
        assert_ne!(seeds.key.public, [0; 32]);
        let expected = promise(&generations[0], Promise::Expected);
        assert_eq!(holding(&mut control, &volume).await, (vec![], vec![expected]));
        for number in 1..3 {
            volume.scribble(10 + number, 5 * number as usize);
            images.push(volume.bytes.clone());
            generations.push(volume.capture());
            let sealed = send(&volume, &generations[number as usize], &mut control, &data).await;
            assert_eq!(sealed, FromGateway::Waits { generation: generations[number as usize].id });
        }
        let waiting = |at: usize| promise(&generations[at], Promise::Waiting);
        assert_eq!(holding(&mut control, &volume).await, (vec![], vec![waiting(2), waiting(1), expected]));
        edge
    });
    Shipped { world, edge, volume, generations, images }
}

#[test]
fn what_was_sent_while_the_seed_travelled_joins_it() {
    let Shipped { mut world, edge, volume, generations, images } = shipped();
    let line = line_of(&world);
    assert_eq!((line.generations, line.waiting, line.seed.as_deref()), (0, 2, Some("shipped")));
    assert!(image(&world, "latest").is_err(), "nothing is offered before it joined");
    world.restart(); // what waits outlives the daemon
    assert_eq!(line_of(&world).waiting, 2);
    import(&mut world, &volume, &generations[0], &images[0]);
    let line = wait_for(&world, |line| line.generations == 3 && line.waiting == 0);
    assert_eq!(line.seed, None, "it is in");
    for (at, expected) in images.iter().enumerate() {
        assert!(&image(&world, &(at + 1).to_string()).unwrap() == expected, "generation {}", at + 1);
    }
    let left = std::fs::read_dir(world.state().join("waiting")).unwrap().count();
    assert_eq!(left, 0, "nothing is kept twice");
    world.run(async {
        let mut control = edge.control(&world).await;
        let sealed: Vec<_> = generations.iter().rev().map(|generation| generation.id).collect();
        assert_eq!(holding(&mut control, &volume).await, (sealed, vec![]));
        let seeds = tell(&mut control, seeding(&volume, &generations[0], SeedState::Lost)).await;
        assert_eq!(seeds.seeds[0].state, SeedState::Imported, "late word changes nothing");
        // And the lineage goes on as any other.
        let data = edge.data(&world, &control).await;
        replicate(&volume, &mut control, &data).await;
    });
}

#[test]
fn a_damaged_parcel_that_waited_drops_its_generation_and_those_behind_it() {
    let Shipped { mut world, edge, volume, generations, images } = shipped();
    world.stop();
    let folder = world.state().join("waiting").join(generations[2].id.to_string());
    let parcel = folder.join("00000000.parcel");
    let mut bytes = std::fs::read(&parcel).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&parcel, bytes).unwrap();
    world.start();
    import(&mut world, &volume, &generations[0], &images[0]);
    wait_for(&world, |line| line.generations == 2 && line.waiting == 0);
    assert!(image(&world, "latest").unwrap() == images[1]);
    world.run(async {
        let mut control = edge.control(&world).await;
        let data = edge.data(&world, &control).await;
        let sealed = vec![generations[1].id, generations[0].id];
        assert_eq!(holding(&mut control, &volume).await, (sealed, vec![]), "the edge goes on from what is held");
        let sealed = send(&volume, &generations[2], &mut control, &data).await;
        assert!(matches!(sealed, FromGateway::Sealed { .. }), "{sealed:?}");
    });
    assert!(image(&world, "latest").unwrap() == images[2]);
}

#[test]
fn a_root_that_was_promised_wrongly_drops_all_that_builds_on_it() {
    let mut world = World::new();
    let mut volume = Volume::new(1, SIZE);
    let (first, before) = (volume.capture(), volume.bytes.clone());
    volume.scribble(7, 3);
    let second = volume.capture();
    let edge = world.run(async {
        let edge = edge_of(&world, "b").await;
        let mut control = edge.control(&world).await;
        let data = edge.data(&world, &control).await;
        tell(&mut control, seeding(&volume, &first, SeedState::Exported)).await;
        holding(&mut control, &volume).await;
        let parcels = volume.parcels(Some(first.id), second.id, 1 << 20);
        control.ask(volume.offer(&second)).await;
        for (number, bytes) in parcels.iter().enumerate() {
            data.parcel(second.id, number as u32, bytes, None).await;
        }
        let (generation, parcels) = (second.id, parcels.len() as u32);
        let wrong = FromEdge::Seal { generation, parcels, root: first.sealed.unwrap().root };
        assert_eq!(control.ask(wrong).await, FromGateway::Waits { generation });
        edge
    });
    import(&mut world, &volume, &first, &before);
    wait_for(&world, |line| line.generations == 1 && line.waiting == 0);
    world.run(async {
        let mut control = edge.control(&world).await;
        assert_eq!(holding(&mut control, &volume).await, (vec![first.id], vec![]));
    });
}

#[test]
fn a_seed_that_is_given_up_takes_what_waited_with_it_and_nothing_else() {
    let Shipped { world, edge, volume, generations, .. } = shipped();
    world.run(async {
        let mut control = edge.control(&world).await;
        let undecided = seeding(&volume, &generations[0], SeedState::Abandoned);
        let seeds = tell(&mut control, undecided.clone()).await;
        assert_eq!((seeds.seeds[0].state, seeds.seeds[0].way), (SeedState::Abandoned, None));
        assert_eq!(holding(&mut control, &volume).await, (vec![], vec![]));
        let seeds = tell(&mut control, Seeding { way: Some(Way::Line), ..undecided.clone() }).await;
        assert_eq!(seeds.seeds[0].way, Some(Way::Line), "said later");
        let seeds = tell(&mut control, Seeding { way: Some(Way::NewSeed), ..undecided }).await;
        assert_eq!(seeds.seeds[0].way, Some(Way::Line), "said once");
    });
    assert_eq!(std::fs::read_dir(world.state().join("waiting")).unwrap().count(), 0);
    assert_eq!(line_of(&world).waiting, 0);
}

#[test]
fn word_that_an_edge_may_not_say_is_not_believed() {
    let Shipped { world, edge, volume, generations, .. } = shipped();
    let other = Volume::new(2, 1 << 20);
    let foreign = other.capture();
    world.run(async {
        let mut control = edge.control(&world).await;
        for state in [SeedState::Arrived, SeedState::Importing, SeedState::Imported] {
            let seeds = tell(&mut control, seeding(&volume, &generations[0], state)).await;
            assert_eq!(seeds.seeds[0].state, SeedState::Shipped, "{state:?} is the gateway's to say");
        }
        let forged =
            Seeding { root: foreign.sealed.unwrap().root, ..seeding(&volume, &generations[0], SeedState::Lost) };
        assert_eq!(tell(&mut control, forged).await.seeds[0].state, SeedState::Shipped, "another seed has its id");
        // Another site neither sees the seed nor touches it.
        let stranger = edge_of(&world, "c").await;
        let mut control = stranger.control(&world).await;
        let seeds = tell(&mut control, seeding(&volume, &generations[0], SeedState::Abandoned)).await;
        assert_eq!(seeds.seeds, []);
        let offer = match volume.offer(&generations[2]) {
            FromEdge::Offer(offer) => offer,
            other => panic!("{other:?}"),
        };
        control.announce(other.lineage, "own").await;
        let stolen = FromEdge::Offer(GenerationOffer { lineage: other.lineage, ..offer });
        let refused = control.ask(stolen).await;
        assert!(matches!(refused, FromGateway::Refuse { why: Refusal::Foreign, .. }), "{refused:?}");
    });
    assert_eq!(line_of(&world).waiting, 2);
}

#[test]
fn only_the_newest_promise_may_be_built_on_and_its_root_counts() {
    let Shipped { world, edge, mut volume, generations, .. } = shipped();
    volume.scribble(99, 1);
    let next = volume.capture();
    world.run(async {
        let mut control = edge.control(&world).await;
        holding(&mut control, &volume).await;
        let FromEdge::Offer(offer) = volume.offer(&next) else { panic!() };
        let older = (generations[1].id, generations[1].sealed.unwrap().root);
        let forged = (generations[2].id, generations[1].sealed.unwrap().root);
        for parent in [older, forged] {
            let refused = control.ask(FromEdge::Offer(GenerationOffer { parent: Some(parent), ..offer.clone() })).await;
            let wrong = matches!(refused, FromGateway::Refuse { why: Refusal::WrongBase { have: None }, .. });
            assert!(wrong, "{refused:?}");
        }
        // What waits, and the seed itself, are not an edge's to take back or to send.
        for generation in [&generations[0], &generations[2]] {
            control.say(FromEdge::Abandon { generation: generation.id }).await;
        }
        let (_, promised) = holding(&mut control, &volume).await;
        assert_eq!(promised.len(), 3);
        let refused = control.ask(volume.offer(&generations[0])).await;
        assert!(matches!(refused, FromGateway::Refuse { why: Refusal::Internal(_), .. }), "{refused:?}");
    });
}

#[test]
fn half_a_generation_goes_on_where_it_was_and_joins_when_the_seed_was_first() {
    let mut world = World::new();
    let mut volume = Volume::new(1, SIZE);
    let (first, before) = (volume.capture(), volume.bytes.clone());
    for block in 0..600 {
        volume.scribble(7, block);
    }
    let second = volume.capture();
    let parcels = volume.parcels(Some(first.id), second.id, 256 << 10);
    assert!(parcels.len() > 2, "{}", parcels.len());
    let edge = world.run(async {
        let edge = edge_of(&world, "b").await;
        let mut control = edge.control(&world).await;
        let data = edge.data(&world, &control).await;
        tell(&mut control, seeding(&volume, &first, SeedState::Exported)).await;
        holding(&mut control, &volume).await;
        control.ask(volume.offer(&second)).await;
        data.parcel(second.id, 0, &parcels[0], None).await;
        edge
    });
    import(&mut world, &volume, &first, &before);
    wait_for(&world, |line| line.generations == 1);
    world.run(async {
        let mut control = edge.control(&world).await;
        let data = edge.data(&world, &control).await;
        assert_eq!(holding(&mut control, &volume).await, (vec![first.id], vec![]));
        let accepted = control.ask(volume.offer(&second)).await;
        assert_eq!(accepted, FromGateway::Accept { generation: second.id, next_parcel: 1 }, "nothing is sent twice");
        for (number, bytes) in parcels.iter().enumerate().skip(1) {
            let (_, reply) = data.parcel(second.id, number as u32, bytes, None).await;
            assert_eq!(reply, Some(DataReply::Done));
        }
        let waits = control.ask(volume.seal(&second, parcels.len())).await;
        assert_eq!(waits, FromGateway::Waits { generation: second.id });
        // The seed is in: it joins at once, and the edge is told.
        loop {
            match control.hear().await {
                FromGateway::Holding { sealed, promised, .. } if sealed.len() == 2 => {
                    assert_eq!((sealed[0].0, promised), (second.id, vec![]));
                    break;
                }
                _ => {}
            }
        }
    });
    assert!(image(&world, "latest").unwrap() == volume.bytes);
}

#[test]
fn an_edge_of_version_5_hears_nothing_of_seeds() {
    let Shipped { world, edge, volume, .. } = shipped();
    let old = Edge { alpn: vec![b"sluice/5".to_vec()], ..edge };
    world.run(async {
        let mut control = old.control(&world).await;
        let held = control.announce(volume.lineage, "db").await;
        assert_eq!(held, FromGateway::Held { lineage: volume.lineage, sealed: vec![], draft: None });
    });
}
