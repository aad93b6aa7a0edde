//! A tiny edge: identity, one store, one volume; every step by hand.

use crate::world::World;
use dedupe::{
    BlockNumber, ByteCount, Effort, Encoder, EncoderOptions, Generation, GenerationId, Job, Keys, Kind, LineageId,
    LocalPacks, NewGeneration, SLAB, SlabNumber, Store, StoreOptions,
};
use quinn::{Connection, Endpoint};
use std::net::SocketAddr;
use std::sync::Arc;
use wire::clock::{KnownTime, machine_time};
use wire::identity::Key;
use wire::message::*;
use wire::stream::{self, Ended, FrameReader, FrameWriter, Purpose};
use wire::tls::{self, EdgeIdentity, server_name};
use wire::token::Token;

pub(crate) struct Edge {
    pub(crate) key: Key,
    pub(crate) certificate: Vec<u8>,
    pub(crate) authorities: Vec<Vec<u8>>,
    pub(crate) alpn: Vec<Vec<u8>>,
    pub(crate) instance: u64,
}

/// A control connection after its welcome.
pub(crate) struct Control {
    pub(crate) connection: Connection,
    pub(crate) writer: FrameWriter,
    pub(crate) reader: FrameReader,
    pub(crate) welcome: Welcome,
    _endpoint: Endpoint,
}

pub(crate) struct Data {
    pub(crate) connection: Connection,
    endpoint: Endpoint,
}

/// Blocks until the connection is gone, and says why.
pub(crate) async fn why_closed(connection: &Connection) -> Ended {
    stream::ended(&connection.closed().await)
}

fn client() -> Endpoint {
    Endpoint::client("127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap()
}

pub(crate) async fn enrol_with(address: SocketAddr, token: &Token, key: &Key) -> Result<EnrolReply, Ended> {
    let endpoint = client();
    let config = tls::enrolment(token.authority, Arc::new(KnownTime::default()));
    let connection = endpoint.connect_with(config, address, server_name()).unwrap().await;
    let connection = connection.map_err(|error| stream::ended(&error))?;
    let (mut writer, mut reader) = stream::open_next(&connection).await.unwrap();
    let request = EnrolRequest { token: token.id, secret: *token.secret.reveal(), request: key.request().unwrap() };
    writer.send(&request).await.unwrap();
    writer.finish();
    Ok(reader.expect().await.unwrap())
}

impl Edge {
    pub(crate) async fn enrol(world: &World, site: &str) -> Edge {
        let token = world.token(site);
        let key = Key::generate().unwrap();
        let reply = enrol_with(world.address(), &token, &key).await.unwrap();
        let EnrolReply::Enrolled { site: name, certificate, authorities, addresses } = reply else {
            panic!("{reply:?}");
        };
        assert_eq!(name, site);
        assert_eq!(addresses, world.daemon().announced());
        assert!(key.fits(&certificate));
        let alpn = vec![b"sluice/2".to_vec(), b"sluice/1".to_vec()];
        Edge { key, certificate, authorities, alpn, instance: 1 }
    }

    pub(crate) async fn dial(&self, address: SocketAddr) -> Result<(Connection, Endpoint), Ended> {
        let endpoint = client();
        let identity = EdgeIdentity { key: &self.key, certificate: &self.certificate, authorities: &self.authorities };
        let config = tls::edge_with_alpn(&identity, self.alpn.clone(), Arc::new(KnownTime::default())).unwrap();
        let connection = endpoint.connect_with(config, address, server_name()).unwrap().await;
        Ok((connection.map_err(|error| stream::ended(&error))?, endpoint))
    }

    /// A control connection up to the first answer.
    pub(crate) async fn hello(&self, address: SocketAddr) -> Result<Control, Refusal> {
        let (connection, endpoint) = self.dial(address).await.unwrap();
        let (mut writer, mut reader) = stream::open(&connection, Purpose::Control).await.unwrap();
        let hello = Hello { software: "test".into(), instance: self.instance, now: machine_time() };
        writer.send(&FromEdge::Hello(hello)).await.unwrap();
        match reader.expect().await {
            Ok(FromGateway::Welcome(welcome)) => {
                Ok(Control { connection, writer, reader, welcome, _endpoint: endpoint })
            }
            Ok(FromGateway::Bye { why }) => Err(why),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn control(&self, world: &World) -> Control {
        self.hello(world.address()).await.unwrap()
    }

    pub(crate) async fn data(&self, world: &World, control: &Control) -> Data {
        self.join(world, control.welcome.session).await.unwrap()
    }

    pub(crate) async fn join(&self, world: &World, session: u64) -> Result<Data, Ended> {
        let (connection, endpoint) = self.dial(world.address()).await?;
        let (mut writer, mut reader) = stream::open(&connection, Purpose::Data).await.unwrap();
        writer.send(&DataRequest::Join { session }).await.unwrap();
        match reader.expect().await {
            Ok(DataReply::Joined) => Ok(Data { connection, endpoint }),
            Ok(other) => panic!("{other:?}"),
            Err(_) => Err(why_closed(&connection).await),
        }
    }
}

impl Control {
    pub(crate) async fn say(&mut self, message: FromEdge) {
        self.writer.send(&message).await.unwrap();
    }

    pub(crate) async fn ask(&mut self, message: FromEdge) -> FromGateway {
        self.say(message).await;
        self.hear().await
    }

    /// The next message that is not the gateway asking whether we live.
    pub(crate) async fn hear(&mut self) -> FromGateway {
        loop {
            match self.reader.expect().await.unwrap() {
                FromGateway::Addresses(_) => {}
                message => return message,
            }
        }
    }

    pub(crate) async fn announce(&mut self, lineage: LineageId, name: &str) -> FromGateway {
        self.ask(FromEdge::Volume(VolumeOffer { lineage, kind: Kind::Volume, name: name.into() })).await
    }
}

impl Data {
    /// Sends a parcel, all of it or as many bytes as `cut` says before the line is cut. Gives the offset that the gateway named.
    pub(crate) async fn parcel(
        &self,
        generation: GenerationId,
        number: u32,
        bytes: &[u8],
        cut: Option<usize>,
    ) -> (u64, Option<DataReply>) {
        let (mut writer, mut reader) = stream::open_next(&self.connection).await.unwrap();
        let request =
            DataRequest::Parcel { generation, number, len: bytes.len() as u64, hash: blake3::hash(bytes).into() };
        writer.send(&request).await.unwrap();
        let offset = match reader.expect().await.unwrap() {
            DataReply::From { offset } => offset,
            refused => return (0, Some(refused)),
        };
        match cut {
            None => {
                // A gateway that has heard enough stops the stream: its answer says why.
                let _stopped = writer.raw(&bytes[offset as usize..]).await;
                writer.finish();
                (offset, Some(reader.expect().await.unwrap()))
            }
            Some(end) => {
                writer.raw(&bytes[offset as usize..end]).await.unwrap();
                (offset, None)
            }
        }
    }

    /// The line is cut: the gateway hears nothing more of what is under way.
    pub(crate) async fn cut(self) {
        stream::close(&self.connection, stream::CloseCode::Done, "cut");
        self.endpoint.wait_idle().await;
    }
}

/// The volume of a branch and its store.
pub(crate) struct Volume {
    pub(crate) lineage: LineageId,
    pub(crate) store: Arc<Store>,
    pub(crate) bytes: Vec<u8>,
    _dir: tempfile::TempDir,
}

impl Volume {
    /// Text-like bytes with holes, different for each seed.
    pub(crate) fn new(seed: u64, size: usize) -> Volume {
        let dir = tempfile::tempdir().unwrap();
        let packs = Arc::new(LocalPacks::open(&dir.path().join("packs")).unwrap());
        let keys = Keys::new(1, [7; 32]);
        let store = Store::open(&dir.path().join("index.redb"), packs, keys, StoreOptions::default()).unwrap();
        let lineage = LineageId::random();
        let known = dedupe::Lineage { id: lineage, kind: Kind::Volume, name: "v".into(), site: None, fork_of: None };
        store.put_lineage(&known).unwrap();
        let mut volume = Volume { lineage, store, bytes: vec![0; size], _dir: dir };
        for block in (0..size / 4096).filter(|block| block % 16 < 11) {
            volume.scribble(seed, block);
        }
        volume
    }

    /// Gives a block new bytes that compress to about a half.
    pub(crate) fn scribble(&mut self, seed: u64, block: usize) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(&block.to_le_bytes());
        let end = ((block + 1) * 4096).min(self.bytes.len());
        let target = &mut self.bytes[block * 4096..end];
        hasher.finalize_xof().fill(target);
        target.iter_mut().for_each(|byte| *byte &= 0x0f);
    }

    pub(crate) fn capture(&self) -> Generation {
        let parent = self.store.latest(self.lineage).unwrap().map(|generation| generation.id);
        let draft = self
            .store
            .draft(NewGeneration {
                id: GenerationId::random(),
                lineage: self.lineage,
                parent,
                size: ByteCount(self.bytes.len() as u64),
                captured_at: machine_time(),
                source: Vec::new(),
            })
            .unwrap();
        for (number, slab) in self.bytes.chunks(SLAB).enumerate() {
            let mut scan = draft.scan(SlabNumber(number as u64)).unwrap();
            scan.data(slab).unwrap();
            scan.finish().unwrap();
        }
        draft.seal(machine_time()).unwrap()
    }

    /// All parcels of a generation.
    pub(crate) fn parcels(&self, base: Option<GenerationId>, target: GenerationId, size: usize) -> Vec<Vec<u8>> {
        let options = EncoderOptions { parcel: size, chosen: 1 << 20, recent: 1 << 20, ..EncoderOptions::default() };
        let encoder = Encoder::new(self.store.clone(), options);
        let held = |id| Some(id) == base;
        let mut job = Job { base, target, cursor: BlockNumber(0), number: 0, plain: false };
        let mut parcels = Vec::new();
        while let Some(plan) = encoder.plan(&job, &held).unwrap() {
            let encoded = encoder.encode(plan, Effort::Quick, &held).unwrap();
            job.cursor = encoded.cursor;
            job.number += 1;
            parcels.push(encoded.bytes);
        }
        parcels
    }

    pub(crate) fn offer(&self, generation: &Generation) -> FromEdge {
        let parent = generation.parent.map(|id| {
            let sealed = self.store.generation(id).unwrap().unwrap().sealed.unwrap();
            (id, sealed.root)
        });
        FromEdge::Offer(GenerationOffer {
            lineage: self.lineage,
            generation: generation.id,
            parent,
            size: generation.size,
            captured_at: generation.captured_at,
        })
    }

    pub(crate) fn seal(&self, generation: &Generation, parcels: usize) -> FromEdge {
        let root = generation.sealed.unwrap().root;
        FromEdge::Seal { generation: generation.id, parcels: parcels as u32, root }
    }
}

/// Captures, sends and seals a generation of a volume that was announced.
pub(crate) async fn replicate(volume: &Volume, control: &mut Control, data: &Data) -> Generation {
    let generation = volume.capture();
    let parcels = volume.parcels(generation.parent, generation.id, 1 << 20);
    let accepted = control.ask(volume.offer(&generation)).await;
    assert_eq!(accepted, FromGateway::Accept { generation: generation.id, next_parcel: 0 });
    for (number, bytes) in parcels.iter().enumerate() {
        let (_, reply) = data.parcel(generation.id, number as u32, bytes, None).await;
        assert_eq!(reply, Some(DataReply::Done));
    }
    let sealed = control.ask(volume.seal(&generation, parcels.len())).await;
    assert!(matches!(sealed, FromGateway::Sealed { .. }), "{sealed:?}");
    generation
}
