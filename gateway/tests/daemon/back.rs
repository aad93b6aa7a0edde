//! The way back: what a site may fetch, what it may not, and what an answer costs.

use crate::edge::{Control, Data, Edge, Volume, replicate};
use crate::world::World;
use dedupe::{BlockNumber, BlockRun, Generation, GenerationId, Wanted};
use sluice_gateway::admin::{Answer, Request};
use wire::message::*;
use wire::stream::{self, StreamError};

const SIZE: usize = 5 << 20;

/// An edge that speaks version 4.
async fn enrol(world: &World, site: &str) -> Edge {
    Edge { alpn: vec![b"sluice/4".to_vec()], ..Edge::enrol(world, site).await }
}

/// A site with two generations of a volume.
async fn replicated(world: &World, site: &str, volume: &mut Volume) -> (Edge, Control, Data, [Generation; 2]) {
    let edge = enrol(world, site).await;
    let mut control = edge.control(world).await;
    let data = edge.data(world, &control).await;
    control.announce(volume.lineage, "core-db").await;
    let first = replicate(volume, &mut control, &data).await;
    for block in [3, 4, 705] {
        volume.scribble(9, block);
    }
    let second = replicate(volume, &mut control, &data).await;
    (edge, control, data, [first, second])
}

fn fetch(generation: GenerationId, base: Option<GenerationId>) -> Fetch {
    let wanted = Wanted {
        generation,
        base,
        start: BlockNumber(0),
        end: BlockNumber((SIZE / 4096) as u64),
        absent: Vec::new(),
        held: Vec::new(),
        most: MAX_FETCH,
    };
    Fetch { wanted, have: None, priority: false, actor: "li.wei".into() }
}

/// Asks; the answer and what follows it.
async fn ask(data: &Data, fetch: Fetch) -> Result<(DataReply, Vec<u8>), StreamError> {
    let (mut writer, mut reader) = stream::open_next(&data.connection).await?;
    writer.send(&DataRequest::Fetch(fetch)).await?;
    writer.finish();
    let reply = reader.expect().await?;
    let mut bytes = Vec::new();
    while let Some(piece) = reader.raw().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok((reply, bytes))
}

fn refusal(answer: (DataReply, Vec<u8>)) -> Refusal {
    match answer {
        (DataReply::Refused(why), rest) if rest.is_empty() => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_part_goes_back_goes_on_where_it_was_and_is_audited_once() {
    let world = World::new();
    let mut volume = Volume::new(1, SIZE);
    let before = volume.bytes.clone();
    world.run(async {
        let (_edge, mut control, data, [first, second]) = replicated(&world, "b", &mut volume).await;
        let (reply, bytes) = ask(&data, fetch(first.id, Some(second.id))).await.unwrap();
        let DataReply::Fetched { len, hash, offset: 0, until } = reply else { panic!("{reply:?}") };
        assert_eq!((len, until), (bytes.len() as u64, BlockNumber((SIZE / 4096) as u64)));
        assert_eq!(hash, *blake3::hash(&bytes).as_bytes());
        let taken = volume.store.take(&fetch(first.id, Some(second.id)).wanted, until, &bytes).unwrap();
        let blocks: u64 = taken.data.iter().map(|(run, _)| run.count).sum();
        assert_eq!(blocks, 3, "only what differs");
        for (run, at) in taken.data {
            let (from, len) = (run.first.0 as usize * 4096, run.count as usize * 4096);
            assert!(taken.bytes[at..at + len] == before[from..from + len]);
        }
        // The same question has the same answer, from where it broke off; another one begins anew.
        let again = Fetch { have: Some((hash, len - 10)), ..fetch(first.id, Some(second.id)) };
        let (reply, rest) = ask(&data, again).await.unwrap();
        assert_eq!(reply, DataReply::Fetched { len, hash, offset: len - 10, until });
        assert_eq!(rest, bytes[bytes.len() - 10..]);
        let whole = Fetch { have: Some((hash, len)), ..fetch(first.id, Some(second.id)) };
        assert!(ask(&data, whole).await.unwrap().1.is_empty());
        let other = Fetch { have: Some(([7; 32], 10)), ..fetch(first.id, Some(second.id)) };
        assert_eq!(ask(&data, other).await.unwrap().1, bytes);
        let listed = control.ask(FromEdge::List { id: 3, lineage: volume.lineage, before: 0 }).await;
        let FromGateway::Listed { id: 3, generations } = listed else { panic!("{listed:?}") };
        let numbers: Vec<_> = generations.iter().map(|held| (held.generation, held.number)).collect();
        assert_eq!(numbers, [(second.id, 2), (first.id, 1)]);
        let measure = FromEdge::Measure { id: 4, generation: first.id, base: Some(second.id) };
        let measured = control.ask(measure).await;
        let is_three = |measured: &dedupe::Measured| (measured.blocks, measured.sampled) == (3, false);
        assert!(matches!(&measured, FromGateway::Measured { id: 4, measured: Some(m) } if is_three(m)), "{measured:?}");
    });
    let Answer::Audit { entries } = world.ask(Request::Audit { after: 0, most: 1000 }).unwrap() else { panic!() };
    let noted: Vec<_> = entries.iter().filter(|entry| entry.what == "volume.fetch").collect();
    assert_eq!(noted.len(), 1, "{noted:?}");
    assert_eq!((noted[0].actor.as_str(), noted[0].object.as_str()), ("li.wei", "b/core-db"));
    assert!(world.metrics().contains("sluice_gateway_fetched_bytes_total"));
}

#[test]
fn what_is_another_sites_does_not_exist() {
    let world = World::new();
    let (mut one, mut two) = (Volume::new(1, SIZE), Volume::new(2, SIZE));
    world.run(async {
        let (_edge, _control, _data, [first, second]) = replicated(&world, "one", &mut one).await;
        let (_edge, mut control, data, own) = replicated(&world, "two", &mut two).await;
        let unknown = GenerationId([9; 16]);
        for id in [first.id, unknown] {
            let why = refusal(ask(&data, fetch(id, None)).await.unwrap());
            assert_eq!(why, Refusal::MissingBase(id), "the same for what is another's and for what is nobody's");
        }
        let why = refusal(ask(&data, fetch(own[0].id, Some(second.id))).await.unwrap());
        assert_eq!(why, Refusal::MissingBase(second.id));
        // Blocks of another site's generation are never named, whoever claims to hold it.
        let claims = Fetch {
            wanted: Wanted { held: vec![first.id], ..fetch(own[0].id, None).wanted },
            ..fetch(own[0].id, None)
        };
        assert!(matches!(ask(&data, claims).await.unwrap().0, DataReply::Fetched { .. }));
        let listed = control.ask(FromEdge::List { id: 1, lineage: one.lineage, before: 0 }).await;
        assert_eq!(listed, FromGateway::Listed { id: 1, generations: vec![] });
        for (generation, base) in [(first.id, None), (first.id, Some(own[0].id))] {
            let measured = control.ask(FromEdge::Measure { id: 2, generation, base }).await;
            assert_eq!(measured, FromGateway::Measured { id: 2, measured: None });
        }
    });
    let Answer::Audit { entries } = world.ask(Request::Audit { after: 0, most: 1000 }).unwrap() else { panic!() };
    assert!(entries.iter().all(|entry| entry.what != "volume.fetch" || entry.object == "two/core-db"), "{entries:?}");
}

#[test]
fn absurd_questions_are_refused_and_the_gateway_goes_on() {
    let world = World::new();
    let mut volume = Volume::new(1, SIZE);
    world.run(async {
        let (edge, control, data, [first, second]) = replicated(&world, "b", &mut volume).await;
        let change = |change: &dyn Fn(&mut Wanted)| {
            let mut asked = fetch(first.id, Some(second.id));
            change(&mut asked.wanted);
            asked
        };
        let run = |first, count| BlockRun { first: BlockNumber(first), count };
        // Within the protocol's limits, and senseless.
        for asked in [
            change(&|w| w.end = BlockNumber(MAX_SPAN)),
            change(&|w| (w.start, w.end) = (BlockNumber(u64::MAX - 1), BlockNumber(u64::MAX))),
            change(&|w| w.absent = vec![run(0, 0)]),
            change(&|w| w.absent = vec![run(5, 1), run(4, 1)]),
        ] {
            assert!(matches!(refusal(ask(&data, asked).await.unwrap()), Refusal::Protocol(_)));
        }
        let all = ask(&data, change(&|w| w.absent = vec![run(0, u64::MAX)])).await.unwrap();
        assert!(matches!(all.0, DataReply::Fetched { .. }) && all.1.len() > 1000);
        // Beyond the limits: this end refuses to say it, and the gateway to hear it.
        for asked in [
            change(&|w| w.end = BlockNumber(MAX_SPAN + 1)),
            change(&|w| w.end = w.start),
            change(&|w| w.most = MAX_FETCH + 1),
            change(&|w| w.absent = vec![run(0, 1); MAX_ABSENT + 1]),
            change(&|w| w.held = vec![first.id; 65]),
        ] {
            assert!(ask(&data, asked.clone()).await.is_err());
            let body = postcard_frame(&asked);
            let (mut writer, mut reader) = stream::open_next(&data.connection).await.unwrap();
            writer.raw(&body).await.unwrap();
            assert!(reader.expect::<DataReply>().await.is_err());
        }
        assert!(matches!(ask(&data, fetch(first.id, None)).await.unwrap().0, DataReply::Fetched { .. }));
        drop((control, data));
        // A session of an older version knows nothing of it.
        let old = Edge { alpn: vec![b"sluice/3".to_vec()], instance: 1, ..edge };
        let control = old.control(&world).await;
        let data = old.data(&world, &control).await;
        assert!(ask(&data, fetch(first.id, None)).await.is_err());
    });
}

/// A frame without a look at its limits.
fn postcard_frame(fetch: &Fetch) -> Vec<u8> {
    let body = postcard::to_stdvec(&DataRequest::Fetch(fetch.clone())).unwrap();
    [(body.len() as u32).to_le_bytes().to_vec(), body].concat()
}
