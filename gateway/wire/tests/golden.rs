//! Golden bytes: what each message and version looks like on the wire. A change here breaks every edge in the field.
//!
//! `SLUICE_WRITE_GOLDEN=1` writes files for messages that have none yet; it never changes one that is there.

#![allow(clippy::unwrap_used)] // tests

use dedupe::{
    BlockNumber, BlockRun, ByteCount, GenerationId, Kind, LineageId, Mark, Measured, Root, RootScheme, SeedId,
    UnixMillis, Wanted,
};
use std::path::{Path, PathBuf};
use wire::frame::{self, Message};
use wire::message::*;
use wire::policy::SignedPolicy;
use wire::release::{Appliance, Order, PartFollows, PartWanted, ReleaseId, Stage, Trial};
use wire::seeding::{KnownSeed, Promise, Promised, SeedKey, SeedState, Seeding, Seeds, Way};
use wire::telemetry::{Report, SiteFigures, Teller, VolumeFigures, VolumeState};
use wire::version::{ENROL_ALPN, SPOKEN, Version};

const GENERATION: GenerationId = GenerationId([0x11; 16]);
const PARENT: GenerationId = GenerationId([0x22; 16]);
const LINEAGE: LineageId = LineageId([0x33; 16]);
const ROOT: Root = Root { scheme: RootScheme::Blake3, hash: [0x44; 32] };
const NOW: UnixMillis = UnixMillis(1_785_542_400_123);

fn runs() -> Vec<BlockRun> {
    vec![BlockRun { first: BlockNumber(7), count: 2 }, BlockRun { first: BlockNumber(1 << 33), count: 1 }]
}

/// Messages and the names of their files.
type Named<M> = Vec<(&'static str, M)>;

fn from_edge() -> Named<FromEdge> {
    vec![
        ("hello", FromEdge::Hello(Hello { software: "0.1.0".into(), instance: 0x0123_4567_89ab_cdef, now: NOW })),
        ("volume", FromEdge::Volume(VolumeOffer { lineage: LINEAGE, kind: Kind::Volume, name: "core-db".into() })),
        (
            "offer",
            FromEdge::Offer(GenerationOffer {
                lineage: LINEAGE,
                generation: GENERATION,
                parent: Some((PARENT, ROOT)),
                size: ByteCount(20 << 30),
                captured_at: NOW,
            }),
        ),
        (
            "offer-seed",
            FromEdge::Offer(GenerationOffer {
                lineage: LINEAGE,
                generation: GENERATION,
                parent: None,
                size: ByteCount(512),
                captured_at: NOW,
            }),
        ),
        ("seal", FromEdge::Seal { generation: GENERATION, parcels: 3, root: ROOT }),
        ("abandon", FromEdge::Abandon { generation: GENERATION }),
        ("ask", FromEdge::Ask(Ask { id: 5, marks: vec![Mark([1, 2, 3, 4, 5, 6]), Mark::ZERO] })),
        ("renew", FromEdge::Renew { request: vec![0x30, 0x82] }),
        ("repair", FromEdge::Repair { id: 6, generation: GENERATION, parcel: vec![9; 3] }),
        ("fetch", FromEdge::Fetch { id: 7, generation: GENERATION, blocks: runs() }),
        (
            "status",
            FromEdge::Status(EdgeStatus { spooled: 1 << 20, sent: 300, received: 20, doing: "core-db waits".into() }),
        ),
        ("policy-held", FromEdge::PolicyHeld { version: 12, refused: Some("older".into()) }),
        (
            "evidence",
            FromEdge::Evidence(vec![Minute {
                minute: 29_759_040,
                sent: 12_000_000,
                received: 300_000,
                allowed: 12_000_500,
                peak: 200_400,
                reason: 7,
            }]),
        ),
        ("telemetry", FromEdge::Telemetry(telemetry())),
        ("list", FromEdge::List { id: 8, lineage: LINEAGE, before: 40 }),
        ("measure", FromEdge::Measure { id: 9, generation: GENERATION, base: Some(PARENT) }),
        ("appliance-idle", FromEdge::Appliance(appliance(Stage::Idle))),
        (
            "appliance-fetching",
            FromEdge::Appliance(appliance(Stage::Fetching { release: NEW, done: 70_000, total: 1_900_000 })),
        ),
        ("appliance-installing", FromEdge::Appliance(appliance(Stage::Installing { release: NEW }))),
        ("seeding", FromEdge::Seeding(seeding(SeedState::Shipped, None))),
        ("seeding-abandoned", FromEdge::Seeding(seeding(SeedState::Abandoned, Some(Way::Line)))),
        ("appliance-failed", FromEdge::Appliance(appliance(Stage::Failed { release: NEW, why: "no room".into() }))),
    ]
}

const SEED: SeedId = SeedId([0x66; 16]);

fn seeding(state: SeedState, way: Option<Way>) -> Seeding {
    Seeding {
        seed: SEED,
        lineage: LINEAGE,
        volume: "core-db".into(),
        generation: GENERATION,
        root: ROOT,
        size: ByteCount(20 << 30),
        captured_at: NOW,
        state,
        at: NOW,
        way,
        note: "courier 1234".into(),
    }
}

fn seeds() -> Vec<(&'static str, FromGateway)> {
    let known = KnownSeed { seed: SEED, lineage: LINEAGE, generation: GENERATION, state: SeedState::Lost, way: None };
    let over = KnownSeed { state: SeedState::Abandoned, way: Some(Way::NewSeed), ..known };
    let key = SeedKey { id: [0x77; 8], public: [0x88; 32] };
    let promised = |generation, promise| Promised { generation, root: ROOT, promise };
    vec![
        ("seeds", FromGateway::Seeds(Seeds { key, seeds: vec![known, over] })),
        (
            "holding",
            FromGateway::Holding {
                lineage: LINEAGE,
                sealed: vec![(PARENT, ROOT)],
                draft: Some((GENERATION, 2)),
                promised: vec![promised(PARENT, Promise::Waiting), promised(GENERATION, Promise::Expected)],
            },
        ),
        ("waits", FromGateway::Waits { generation: GENERATION }),
    ]
}

/// What a session's second report may look like: something new, something changed, something gone.
fn telemetry() -> Report {
    let site = SiteFigures {
        uptime: 3_600,
        allowed: 1_600_000,
        reason: 7,
        sent: 40_000_000,
        clock_skew: -1_200,
        quotas: vec![(12_000_000_000, 40_000_000_000)],
        disk_free: 180_000_000_000,
        volumes: 2,
        ..SiteFigures::default()
    };
    let volume = |lineage, left| VolumeFigures {
        lineage,
        state: VolumeState::Sending,
        captured: 1_785_542_400,
        size: 500_000_000_000,
        changed: 1_234_567_168,
        raw: 900_000_000,
        coded: 120_000_000,
        left,
        arrives: 1_785_550_000,
        deadline: 0,
        class: 1,
        weight: 10,
    };
    let (two, three) = (LineageId([0x34; 16]), LineageId([0x35; 16]));
    let mut teller = Teller::default();
    teller.tell(&site, &[volume(LINEAGE, 60_000_000), volume(two, 1)]);
    let later = SiteFigures { uptime: 3_660, sent: 40_000_450, backlog: 70_000_000, ..site };
    teller.tell(&later, &[volume(LINEAGE, 51_000_000), volume(three, 19_000_000)])
}

fn from_gateway() -> Named<FromGateway> {
    let addresses = || vec!["gateway.example:9470".to_owned(), "[2001:db8::1]:9470".to_owned()];
    let refusals: [(&'static str, Refusal); 13] = [
        ("refuse-wrong-base", Refusal::WrongBase { have: Some((PARENT, ROOT)) }),
        ("refuse-wrong-base-none", Refusal::WrongBase { have: None }),
        ("refuse-wrong-root", Refusal::WrongRoot(ROOT)),
        ("refuse-missing-base", Refusal::MissingBase(PARENT)),
        ("refuse-damaged", Refusal::Damaged("hash".into())),
        ("refuse-out-of-order", Refusal::OutOfOrder { want: 2, got: 5 }),
        ("refuse-no-room", Refusal::NoRoom("disk full".into())),
        ("refuse-revoked", Refusal::Revoked),
        ("refuse-cloned", Refusal::Cloned),
        ("refuse-foreign", Refusal::Foreign),
        ("refuse-protocol", Refusal::Protocol("second hello".into())),
        ("refuse-internal", Refusal::Internal("busy".into())),
        ("refuse-internal-empty", Refusal::Internal(String::new())),
    ];
    let mut all: Vec<_> =
        refusals.into_iter().map(|(name, why)| (name, FromGateway::Refuse { generation: GENERATION, why })).collect();
    all.extend([
        (
            "welcome",
            FromGateway::Welcome(Welcome { software: "0.1.0".into(), now: NOW, session: 77, addresses: addresses() }),
        ),
        ("held", FromGateway::Held { lineage: LINEAGE, sealed: vec![(PARENT, ROOT)], draft: Some((GENERATION, 2)) }),
        ("accept", FromGateway::Accept { generation: GENERATION, next_parcel: 2 }),
        ("sealed", FromGateway::Sealed { generation: GENERATION, number: 12 }),
        (
            "answer",
            FromGateway::Answer(Answer {
                id: 5,
                found: vec![Found { at: 0, count: 9, generation: PARENT, first: BlockNumber(300) }],
            }),
        ),
        (
            "certificate",
            FromGateway::Certificate { certificate: vec![0x30, 1], authorities: vec![vec![0x30, 2], vec![0x30, 3]] },
        ),
        ("addresses", FromGateway::Addresses(addresses())),
        ("repair-wanted", FromGateway::RepairWanted { id: 6, generation: GENERATION, blocks: runs() }),
        ("blocks", FromGateway::Blocks { id: 7, parcel: vec![8; 4] }),
        (
            "policy",
            FromGateway::Policy(SignedPolicy {
                document: "version = 1\n".into(),
                signature: vec![5; 64],
                key: [6; 32],
            }),
        ),
        ("time", FromGateway::Time { now: NOW }),
        ("grant", FromGateway::Grant { bits: 1_600_000, millis: 15_000 }),
        ("evidence-held", FromGateway::EvidenceHeld { minute: 29_759_040 }),
        ("listed", FromGateway::Listed { id: 8, generations: vec![held()] }),
        (
            "measured",
            FromGateway::Measured {
                id: 9,
                measured: Some(Measured { blocks: 300_000, zeroes: 12, ratio: 3_700, sampled: true }),
            },
        ),
        ("release", FromGateway::Release(Some(Order { manifest: "{}".into(), rollout: 4 }))),
        ("release-none", FromGateway::Release(None)),
        ("bye", FromGateway::Bye { why: Refusal::Cloned }),
    ]);
    all.extend(seeds());
    all
}

const OLD: ReleaseId = ReleaseId([0x88; 32]);
const NEW: ReleaseId = ReleaseId([0x99; 32]);

fn appliance(stage: Stage) -> Appliance {
    Appliance {
        release: OLD,
        version: "0.1.0+abc".into(),
        sequence: 1_785_542_400,
        confirmed: true,
        previous: Some("0.0.9".into()),
        stage,
        last: Some(Trial { release: NEW, confirmed: false, why: "not ready in 600 s".into(), at: NOW }),
    }
}

fn held() -> Held {
    Held { generation: PARENT, number: 39, root: ROOT, size: ByteCount(20 << 30), captured_at: NOW }
}

fn fetch() -> Fetch {
    Fetch {
        wanted: Wanted {
            generation: GENERATION,
            base: Some(PARENT),
            start: BlockNumber(4096),
            end: BlockNumber(8192),
            absent: vec![BlockRun { first: BlockNumber(5000), count: 9 }],
            held: vec![PARENT],
            most: MAX_FETCH,
        },
        have: Some(([0x55; 32], 70_000)),
        priority: true,
        actor: "li.wei".into(),
    }
}

fn data() -> (Named<DataRequest>, Named<DataReply>) {
    let parcel = DataRequest::Parcel { generation: GENERATION, number: 3, len: 16 << 20, hash: [0x55; 32] };
    let requests = vec![("join", DataRequest::Join { session: 77 }), ("parcel", parcel)];
    let replies = vec![
        ("joined", DataReply::Joined),
        ("from", DataReply::From { offset: 1 << 20 }),
        ("done", DataReply::Done),
        ("refused", DataReply::Refused(Refusal::MissingBase(PARENT))),
    ];
    (requests, replies)
}

fn enrolment() -> (Named<EnrolRequest>, Named<EnrolReply>) {
    let request = EnrolRequest { token: [0x66; 16], secret: [0x77; 32], request: vec![0x30, 0x82, 1] };
    let enrolled = EnrolReply::Enrolled {
        site: "branch-07".into(),
        certificate: vec![0x30, 4],
        authorities: vec![vec![0x30, 5]],
        addresses: vec!["gateway.example:9470".into()],
    };
    let refused = EnrolReply::Refused { why: "the token is not valid".into() };
    (vec![("request", request)], vec![("enrolled", enrolled), ("refused", refused)])
}

fn check<M: Message + PartialEq + std::fmt::Debug>(folder: &str, messages: Vec<(&'static str, M)>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(folder);
    let mut expected: Vec<PathBuf> = Vec::new();
    for (name, message) in messages {
        let path = folder.join(format!("{name}.bin"));
        let bytes = frame::encode(&message).unwrap();
        if std::env::var_os("SLUICE_WRITE_GOLDEN").is_some() && !path.exists() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        let golden = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(bytes, golden, "{name} is written otherwise than in {}", path.display());
        assert_eq!(frame::decode::<M>(&golden[frame::HEADER..]).unwrap(), message, "{name}");
        expected.push(path);
    }
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        assert!(expected.contains(&path), "{} belongs to no message of this test", path.display());
    }
}

#[test]
fn messages_of_the_edge_keep_their_bytes() {
    // Older versions are the same bytes with fewer messages: one set of files serves all, in a folder for the version that has them first.
    let (first, later): (Vec<_>, Vec<_>) = from_edge().into_iter().partition(|(_, m)| Version::V1.allows(m).is_ok());
    let (second, later): (Vec<_>, Vec<_>) = later.into_iter().partition(|(_, m)| Version::V2.allows(m).is_ok());
    let (third, later): (Vec<_>, Vec<_>) = later.into_iter().partition(|(_, m)| Version::V3.allows(m).is_ok());
    let (fourth, later): (Vec<_>, Vec<_>) = later.into_iter().partition(|(_, m)| Version::V4.allows(m).is_ok());
    let (fifth, sixth): (Vec<_>, Vec<_>) = later.into_iter().partition(|(_, m)| Version::V5.allows(m).is_ok());
    check("v1/from-edge", first);
    check("v2/from-edge", second);
    check("v3/from-edge", third);
    check("v4/from-edge", fourth);
    check("v5/from-edge", fifth);
    check("v6/from-edge", sixth);
}

#[test]
fn messages_of_the_gateway_keep_their_bytes() {
    let (first, later): (Vec<_>, Vec<_>) =
        from_gateway().into_iter().partition(|(_, m)| Version::V1.allows_reply(m).is_ok());
    let (second, later): (Vec<_>, Vec<_>) = later.into_iter().partition(|(_, m)| Version::V2.allows_reply(m).is_ok());
    let (fourth, later): (Vec<_>, Vec<_>) = later.into_iter().partition(|(_, m)| Version::V4.allows_reply(m).is_ok());
    let (fifth, sixth): (Vec<_>, Vec<_>) = later.into_iter().partition(|(_, m)| Version::V5.allows_reply(m).is_ok());
    check("v1/from-gateway", first);
    check("v2/from-gateway", second);
    check("v4/from-gateway", fourth);
    check("v5/from-gateway", fifth);
    check("v6/from-gateway", sixth);
}

#[test]
fn parcels_and_enrolments_keep_their_bytes() {
    let (requests, replies) = data();
    check("v1/data-request", requests);
    check("v1/data-reply", replies);
    check("v2/data-request", vec![("test", DataRequest::Test { len: 1_200_000 })]);
    check("v2/data-reply", vec![("tested", DataReply::Tested { arrived: vec![0, 10_000, 12_500] })]);
    check("v4/data-request", vec![("fetch", DataRequest::Fetch(fetch()))]);
    let fetched = DataReply::Fetched { len: 90_000, hash: [0x55; 32], offset: 70_000, until: BlockNumber(6000) };
    let later = |why| DataReply::Later { seconds: 30, why };
    check(
        "v4/data-reply",
        vec![("fetched", fetched), ("later-closed", later(Wait::Closed)), ("later-busy", later(Wait::Busy))],
    );
    let wanted = PartWanted { release: NEW, base: Some(OLD), part: 3, have: Some(([0x55; 32], 70_000)) };
    check("v5/data-request", vec![("part", DataRequest::Part(wanted))]);
    let follows = PartFollows { parts: 5, total: 1_900_000, len: 90_000, hash: [0x55; 32], offset: 70_000 };
    check("v5/data-reply", vec![("part", DataReply::Part(follows))]);
    let (requests, replies) = enrolment();
    check("v1/enrol-request", requests);
    check("v1/enrol-reply", replies);
}

#[test]
fn protocol_names_never_change() {
    assert_eq!(
        SPOKEN.map(Version::alpn),
        [b"sluice/6".as_slice(), b"sluice/5", b"sluice/4", b"sluice/3", b"sluice/2", b"sluice/1"]
    );
    assert_eq!(ENROL_ALPN, b"sluice-enrol/1");
}
