//! A gateway of one site, small enough to be told to misbehave: real connections, real store, no rules but those of the protocol.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "part of a test")]

pub(crate) mod releases;

use dedupe::{
    Draft, GenerationId, Keys, Lineage, LocalPacks, NewGeneration, SiteId, Store, StoreOptions, TenantId, UnixMillis,
    Workspace,
};
use shaping::{Rate, Role, Shaper};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;
use wire::clock::KnownTime;
use wire::identity::{Authority, Bearer, Key};
use wire::message::*;
use wire::stream::{self, Agreed, CloseCode, FrameReader, FrameWriter, Purpose};
use wire::tls::GatewayIdentity;
use wire::token::Token;

const YEAR_2100: UnixMillis = UnixMillis(4_102_444_800_000);

/// How it misbehaves.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Trick {
    None,
    RefuseParcelsFrom(u32, Refusal),
    RefuseParcelOnce(Refusal),
    RefuseSealOnce(Refusal),
    CutInParcelOnce,
    CutInPartOnce,
}

#[derive(Clone)]
pub(crate) struct SmallGateway(Arc<Inner>);

struct Inner {
    _dir: tempfile::TempDir,
    store: Arc<Store>,
    authority: Authority,
    key: Key,
    token: Mutex<Token>,
    endpoint: Mutex<quinn::Endpoint>,
    connections: Mutex<Vec<quinn::Connection>>,
    addresses: Mutex<Vec<String>>,
    drafts: Mutex<HashMap<GenerationId, Arc<Draft>>>,
    parts: Mutex<HashMap<[u8; 32], Vec<u8>>>,
    trick: Mutex<Trick>,
    received: AtomicU64,
    acknowledged: AtomicU64,
    refused: AtomicU64,
    repeated: AtomicU64,
    changed: Notify,
    releases: releases::Releases,
    ingest: tokio::sync::Mutex<()>,
}

impl SmallGateway {
    pub(crate) async fn start() -> SmallGateway {
        let dir = tempfile::tempdir().unwrap();
        let packs = Arc::new(LocalPacks::open(&dir.path().join("packs")).unwrap());
        let options = StoreOptions::default();
        let store = Store::open(&dir.path().join("index.redb"), packs, Keys::new(1, [1; 32]), options).unwrap();
        let (authority, key) = (Authority::generate("test", YEAR_2100).unwrap(), Key::generate().unwrap());
        let endpoint = listen(&authority, &key);
        let address = endpoint.local_addr().unwrap().to_string();
        let token = Token::random(vec![address.clone()], authority.fingerprint());
        let gateway = SmallGateway(Arc::new(Inner {
            _dir: dir,
            store,
            authority,
            key,
            token: Mutex::new(token),
            endpoint: Mutex::new(endpoint.clone()),
            connections: Mutex::default(),
            addresses: Mutex::new(vec![address]),
            drafts: Mutex::default(),
            parts: Mutex::default(),
            trick: Mutex::new(Trick::None),
            received: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            changed: Notify::new(),
            releases: releases::Releases::default(),
            ingest: tokio::sync::Mutex::default(),
        }));
        tokio::spawn(gateway.clone().accept(endpoint));
        gateway
    }

    pub(crate) fn token(&self) -> Token {
        self.0.token.lock().unwrap().clone()
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.0.store
    }

    pub(crate) fn trick(&self, trick: Trick) {
        *self.0.trick.lock().unwrap() = trick;
    }

    pub(crate) fn trick_is_left(&self) -> bool {
        *self.0.trick.lock().unwrap() != Trick::None
    }

    /// Bytes of parcels that arrived.
    pub(crate) fn received(&self) -> u64 {
        self.0.received.load(Ordering::Relaxed)
    }

    /// Acknowledged parcels that were offered again with bytes to send.
    pub(crate) fn repeated(&self) -> u64 {
        self.0.repeated.load(Ordering::Relaxed)
    }

    pub(crate) async fn wait_for_acknowledged(&self, count: u64) {
        self.wait(|inner| inner.acknowledged.load(Ordering::Relaxed) >= count).await;
    }

    pub(crate) async fn wait_for_refused(&self, count: u64) {
        self.wait(|inner| inner.refused.load(Ordering::Relaxed) >= count).await;
    }

    async fn wait(&self, until: impl Fn(&Inner) -> bool) {
        loop {
            let changed = self.0.changed.notified();
            if until(&self.0) {
                return;
            }
            tokio::time::timeout(super::PATIENCE, changed).await.expect("in time");
        }
    }

    /// Cuts all connections.
    pub(crate) fn cut(&self) {
        for connection in self.0.connections.lock().unwrap().drain(..) {
            stream::close(&connection, CloseCode::Stopping, "");
        }
    }

    /// Tells the new address, then is only there.
    pub(crate) async fn announce_and_move(&self) {
        let endpoint = listen(&self.0.authority, &self.0.key);
        *self.0.addresses.lock().unwrap() = vec![endpoint.local_addr().unwrap().to_string()];
        self.cut();
        // The next session, still at the old address, hears the new one.
        self.wait(|inner| inner.connections.lock().unwrap().len() >= 2).await;
        tokio::spawn(self.clone().accept(endpoint.clone()));
        let old = std::mem::replace(&mut *self.0.endpoint.lock().unwrap(), endpoint);
        self.cut();
        old.close(1u32.into(), b"");
    }

    async fn accept(self, endpoint: quinn::Endpoint) {
        while let Some(incoming) = endpoint.accept().await {
            let gateway = self.clone();
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else { return };
                match stream::agreed(&connection) {
                    Ok(Agreed::Enrolment) => gateway.enrol(connection).await,
                    _ => gateway.session(connection).await,
                }
            });
        }
    }

    async fn enrol(&self, connection: quinn::Connection) {
        let (mut writer, mut reader) = stream::accept_next(&connection).await.unwrap();
        let request: EnrolRequest = reader.expect().await.unwrap();
        let (token, authority) = (self.token(), &self.0.authority);
        let reply = if token.id == request.token && *token.secret.reveal() == request.secret {
            let bearer = Bearer { tenant: TenantId([1; 16]), site: SiteId([2; 16]) };
            EnrolReply::Enrolled {
                site: "Branch".into(),
                certificate: authority.sign_edge(&request.request, bearer, YEAR_2100).unwrap().certificate,
                authorities: vec![authority.certificate().to_vec()],
                addresses: self.0.addresses.lock().unwrap().clone(),
            }
        } else {
            EnrolReply::Refused { why: "the token is unknown, used or expired".into() }
        };
        writer.send(&reply).await.unwrap();
        writer.finish_and_wait().await;
    }

    async fn session(&self, connection: quinn::Connection) {
        self.0.connections.lock().unwrap().push(connection.clone());
        self.0.changed.notify_waiters();
        let Ok((purpose, writer, reader)) = stream::accept(&connection).await else { return };
        match purpose {
            Purpose::Control => self.control(writer, reader).await,
            Purpose::Data => self.data(connection, writer, reader).await,
        }
    }

    async fn control(&self, mut writer: FrameWriter, mut reader: FrameReader) {
        while let Ok(Some(message)) = reader.next::<FromEdge>().await {
            if let Some(reply) = self.answer(message)
                && writer.send(&reply).await.is_err()
            {
                return;
            }
        }
    }

    fn answer(&self, message: FromEdge) -> Option<FromGateway> {
        let store = &self.0.store;
        Some(match message {
            FromEdge::Hello(_) => FromGateway::Welcome(Welcome {
                software: "small".into(),
                now: wire::clock::machine_time(),
                session: 1,
                addresses: self.0.addresses.lock().unwrap().clone(),
            }),
            FromEdge::Volume(VolumeOffer { lineage, kind, name }) => {
                store.put_lineage(&Lineage { id: lineage, kind, name, site: None, fork_of: None }).unwrap();
                let generations = store.generations(lineage).unwrap();
                let sealed = generations.iter().rev().filter_map(|g| Some((g.id, g.sealed?.root))).collect();
                let draft = generations.iter().find(|g| !g.is_sealed()).map(|g| (g.id, g.stats.parcels));
                FromGateway::Held { lineage, sealed, draft }
            }
            FromEdge::Offer(offer) => self.offer(offer),
            FromEdge::Seal { generation, parcels, root } => self.seal(generation, parcels, root),
            FromEdge::Abandon { generation } => {
                if let Some(draft) = self.0.drafts.lock().unwrap().remove(&generation) {
                    draft.discard().unwrap();
                }
                return None;
            }
            FromEdge::Ask(ask) => {
                let found = store.find_marks(&ask.marks).unwrap().into_iter().map(|run| Found {
                    at: run.at,
                    count: run.count,
                    generation: run.generation,
                    first: run.first,
                });
                FromGateway::Answer(Answer { id: ask.id, found: found.collect() })
            }
            FromEdge::Fetch { id, generation, blocks } => {
                let parcel = store.blocks_parcel(generation, &blocks).unwrap().unwrap_or_default();
                FromGateway::Blocks { id, parcel }
            }
            FromEdge::Appliance(appliance) => self.note_appliance(appliance),
            _ => return None,
        })
    }

    fn offer(&self, offer: GenerationOffer) -> FromGateway {
        let latest = self.0.store.latest(offer.lineage).unwrap();
        let have = latest.and_then(|latest| Some((latest.id, latest.sealed?.root)));
        if have != offer.parent {
            return FromGateway::Refuse { generation: offer.generation, why: Refusal::WrongBase { have } };
        }
        let draft = self.0.store.draft(NewGeneration {
            id: offer.generation,
            lineage: offer.lineage,
            parent: offer.parent.map(|(id, _)| id),
            size: offer.size,
            captured_at: offer.captured_at,
            source: vec![],
        });
        let draft = draft.unwrap();
        let next_parcel = draft.next_parcel();
        self.0.drafts.lock().unwrap().insert(offer.generation, draft);
        FromGateway::Accept { generation: offer.generation, next_parcel }
    }

    fn seal(&self, generation: GenerationId, parcels: u32, root: dedupe::Root) -> FromGateway {
        let refuse = |why| FromGateway::Refuse { generation, why };
        if let Some(why) = self.take_trick(|trick| match trick {
            Trick::RefuseSealOnce(why) => Some(why.clone()),
            _ => None,
        }) {
            return refuse(why);
        }
        let draft = self.0.drafts.lock().unwrap().remove(&generation).expect("it was offered");
        if draft.next_parcel() != parcels {
            return refuse(Refusal::OutOfOrder { want: draft.next_parcel(), got: parcels });
        }
        match draft.seal_as(root, UnixMillis(1)) {
            Ok(sealed) => FromGateway::Sealed { generation, number: sealed.number },
            Err(error) => panic!("the edge's parcels do not make its generation: {error}"),
        }
    }

    fn take_trick(&self, wanted: impl Fn(&Trick) -> Option<Refusal>) -> Option<Refusal> {
        let mut trick = self.0.trick.lock().unwrap();
        let why = wanted(&trick)?;
        *trick = Trick::None;
        Some(why)
    }

    async fn data(&self, connection: quinn::Connection, mut writer: FrameWriter, mut reader: FrameReader) {
        let Ok(DataRequest::Join { .. }) = reader.expect().await else { panic!("joining comes first") };
        writer.send(&DataReply::Joined).await.unwrap();
        while let Ok((writer, reader)) = stream::accept_next(&connection).await {
            let (gateway, connection) = (self.clone(), connection.clone());
            tokio::spawn(async move {
                // A connection that was cut in the middle is what some of the tests are about.
                let _ = gateway.parcel(connection, writer, reader).await;
            });
        }
    }

    async fn parcel(
        &self,
        connection: quinn::Connection,
        mut writer: FrameWriter,
        mut reader: FrameReader,
    ) -> Result<(), stream::StreamError> {
        let (generation, number, len, hash) = match reader.expect().await? {
            DataRequest::Parcel { generation, number, len, hash } => (generation, number, len, hash),
            DataRequest::Part(wanted) => return self.part(connection, wanted, writer, reader).await,
            _ => panic!("a parcel or a part"),
        };
        let draft = self.0.drafts.lock().unwrap().get(&generation).cloned().expect("it was offered");
        if number < draft.next_parcel() {
            self.0.repeated.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(why) = self.refusal(number) {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
            self.0.changed.notify_waiters();
            return writer.send(&DataReply::Refused(why)).await;
        }
        let mut bytes = self.0.parts.lock().unwrap().remove(&hash).unwrap_or_default();
        writer.send(&DataReply::From { offset: bytes.len() as u64 }).await?;
        while let Some(piece) = reader.raw().await? {
            bytes.extend_from_slice(&piece);
            self.0.received.fetch_add(piece.len() as u64, Ordering::Relaxed);
            let cut = *self.0.trick.lock().unwrap() == Trick::CutInParcelOnce && bytes.len() as u64 > len / 2;
            if cut {
                self.trick(Trick::None);
                self.0.parts.lock().unwrap().insert(hash, bytes);
                stream::close(&connection, CloseCode::Stopping, "");
                return Ok(());
            }
        }
        assert_eq!(*blake3::hash(&bytes).as_bytes(), hash);
        let _in_turn = self.0.ingest.lock().await;
        let ingested =
            tokio::task::spawn_blocking(move || draft.ingest(number, &bytes, &mut Workspace::default())).await.unwrap();
        let reply = match ingested {
            Ok(_) => {
                self.0.acknowledged.fetch_add(1, Ordering::Relaxed);
                DataReply::Done
            }
            Err(dedupe::IngestError::WrongNumber { want, got }) => {
                DataReply::Refused(Refusal::OutOfOrder { want, got })
            }
            Err(dedupe::IngestError::MissingBase(id)) => DataReply::Refused(Refusal::MissingBase(id)),
            Err(error) => panic!("{error}"),
        };
        self.0.changed.notify_waiters();
        writer.send(&reply).await?;
        writer.finish_and_wait().await;
        Ok(())
    }

    fn refusal(&self, number: u32) -> Option<Refusal> {
        if let Trick::RefuseParcelsFrom(from, why) = &*self.0.trick.lock().unwrap() {
            return (number >= *from).then(|| why.clone());
        }
        self.take_trick(|trick| match trick {
            Trick::RefuseParcelOnce(why) => Some(why.clone()),
            _ => None,
        })
    }
}

fn listen(authority: &Authority, key: &Key) -> quinn::Endpoint {
    let issued = authority.sign_server(key, YEAR_2100).unwrap();
    let authorities = [authority.certificate().to_vec()];
    let identity = GatewayIdentity { key, issued: &issued, signer: authority.certificate(), authorities: &authorities };
    let time = Arc::new(KnownTime::new(UnixMillis(0)));
    let mut server = wire::tls::gateway(&identity, &wire::version::SPOKEN, time).unwrap();
    server.transport_config(Arc::new(shaping::gateway_transport()));
    let local: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    let socket = shaping::bind(local, Role::Gateway, &Shaper::new(Rate::Unlimited)).unwrap();
    shaping::endpoint(socket, shaping::endpoint_config(), Some(server)).unwrap()
}
