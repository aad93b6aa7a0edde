//! What no honest peer sends, to both ends: neither panics, hangs or takes more memory than its limits.

use crate::support::*;
use nbd::client::Options;
use nbd::proto::{self, ChunkHead, Contexts, Go, Request, can, chunk, command, flag, info, option, reply};
use nbd::server::Limits;
use nbd::{Client, ClientError, Errno};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A client that says what it is told to.
struct Peer(UnixStream);

impl Peer {
    fn greeted(server: &Server) -> Peer {
        let stream = UnixStream::connect(server.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut peer = Peer(stream);
        proto::parse_greeting(&peer.take::<18>()).unwrap();
        peer.say(&3u32.to_be_bytes());
        peer
    }

    fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// The kind of the last reply to an option.
    fn ask(&mut self, kind: u32, data: &[u8]) -> u32 {
        self.say(&proto::option(kind, data));
        loop {
            let (kind, len) = proto::parse_option_reply(&self.take(), kind).unwrap();
            self.0.read_exact(&mut vec![0; len as usize]).unwrap();
            if kind == reply::ACK || kind & reply::ERROR != 0 {
                return kind;
            }
        }
    }

    /// The error of a simple reply.
    fn request(&mut self, command: u16, flags: u16, at: u64, len: u32) -> u32 {
        self.say(&Request { flags, command, cookie: 9, at, len }.encode());
        let bytes = self.take::<16>();
        assert_eq!(bytes[8..], 9u64.to_be_bytes());
        u32::from_be_bytes(bytes[4..8].try_into().unwrap())
    }

    fn hung_up(&mut self) -> bool {
        match self.0.read(&mut [0; 64]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

fn go(name: &str) -> Vec<u8> {
    Go { name, infos: vec![info::NAME, info::BLOCK_SIZE] }.encode()
}

fn served(read_only: bool) -> (tempfile::TempDir, Server) {
    let folder = tempfile::tempdir().unwrap();
    image(&folder.path().join("disk"), 20);
    let server = Server::unix("disk", Raw::open(&folder.path().join("disk"), read_only));
    (folder, server)
}

#[test]
fn requests_that_make_no_sense_are_refused_with_their_errors() {
    let (_folder, server) = served(false);
    let mut peer = Peer::greeted(&server);
    assert_eq!(peer.ask(option::GO, &go("nothing")), reply::UNKNOWN);
    assert_eq!(peer.ask(77, b"what?"), reply::UNSUPPORTED);
    assert_eq!(peer.ask(option::STARTTLS, &[]), reply::UNSUPPORTED);
    assert_eq!(peer.ask(option::GO, &[0xff; 9]), reply::INVALID);
    let contexts = Contexts { name: "disk", queries: vec![proto::ALLOCATION] }.encode();
    assert_eq!(peer.ask(option::SET_META_CONTEXT, &contexts), reply::INVALID, "without structured replies");
    assert_eq!(peer.ask(option::INFO, &go("disk")), reply::ACK);
    assert_eq!(peer.ask(option::GO, &go("disk")), reply::ACK);
    let size = (8 << 20) + 512;
    let (invalid, no_room) = (Errno::Einval as u32, Errno::Enospc as u32);
    for (command, flags, at, len, error) in [
        (command::READ, 0, size, 1, invalid),
        (command::READ, 0, u64::MAX, 2, invalid),
        (command::READ, 0, 0, 0, invalid),
        (command::READ, flag::DF, 0, 512, invalid),
        (command::READ, 0, 0, proto::PAYLOAD + 1, Errno::Eoverflow as u32),
        (command::TRIM, 0, size - 1, 2, no_room),
        (command::WRITE_ZEROES, 0, 0, u32::MAX, no_room),
        (command::WRITE_ZEROES, 1 << 9, 0, 512, invalid),
        (command::FLUSH, 0, 512, 0, invalid),
        (command::BLOCK_STATUS, 0, 0, 512, invalid),
        (99, 0, 0, 512, invalid),
        (command::FLUSH, 0, 0, 0, 0),
    ] {
        assert_eq!(
            peer.request(command, flags, at, len),
            error,
            "command {command}, flags {flags}, {len} bytes at {at}"
        );
    }
    peer.say(&Request { flags: 0, command: command::WRITE, cookie: 1, at: 0, len: proto::PAYLOAD + 1 }.encode());
    assert!(peer.hung_up(), "a payload over the limit cannot be skipped");
    let mut peer = Peer::greeted(&server);
    peer.say(&[&proto::OPTION.to_be_bytes()[..], &option::LIST.to_be_bytes(), &u32::MAX.to_be_bytes()].concat());
    assert!(peer.hung_up(), "an option of 4 GiB is not waited for");
}

#[test]
fn what_is_read_only_refuses_changes_and_the_oldest_way_in_works() {
    let (folder, server) = served(true);
    let mut peer = Peer::greeted(&server);
    peer.say(&proto::option(option::EXPORT_NAME, b"disk"));
    let told = peer.take::<10>();
    assert_eq!(told[..8], ((8u64 << 20) + 512).to_be_bytes());
    assert_ne!(u16::from_be_bytes([told[8], told[9]]) & can::READ_ONLY, 0);
    for command in [command::TRIM, command::WRITE_ZEROES] {
        assert_eq!(peer.request(command, 0, 0, 512), Errno::Eperm as u32);
    }
    peer.say(&Request { flags: 0, command: command::WRITE, cookie: 9, at: 0, len: 512 }.encode());
    peer.say(&[7; 512]);
    assert_eq!(peer.take::<16>()[4..8], (Errno::Eperm as u32).to_be_bytes());
    assert_eq!(peer.request(command::READ, 0, 0, 4096), 0);
    assert!(peer.take::<4096>()[..] == std::fs::read(folder.path().join("disk")).unwrap()[..4096]);
}

#[test]
fn without_tls_a_server_that_requires_it_tells_nothing() {
    let folder = tempfile::tempdir().unwrap();
    image(&folder.path().join("disk"), 21);
    let made = crate::serving::certificates(folder.path());
    let tls = nbd::tls::server(made.server, None).unwrap();
    let server =
        Server::start("disk", Raw::open(&folder.path().join("disk"), true), false, Some(tls), Limits::default());
    let mut peer = Peer::greeted(&server);
    let contexts = Contexts { name: "disk", queries: vec![] }.encode();
    for (kind, data) in [
        (option::LIST, &[][..]),
        (option::STRUCTURED_REPLY, &[]),
        (option::INFO, &go("disk")),
        (option::GO, &go("disk")),
        (option::LIST_META_CONTEXT, &contexts),
        (option::SET_META_CONTEXT, &contexts),
        (77, &[]),
    ] {
        assert_eq!(peer.ask(kind, data), reply::TLS_REQUIRED, "option {kind}");
    }
    // What is sent plainly right behind STARTTLS is not taken for what comes by TLS.
    peer.say(&[proto::option(option::STARTTLS, &[]), proto::option(option::LIST, &[])].concat());
    assert_eq!(proto::parse_option_reply(&peer.take(), option::STARTTLS).unwrap(), (reply::ACK, 0));
    let mut rest = Vec::new();
    let _ = peer.0.read_to_end(&mut rest);
    assert!(!rest.windows(4).any(|word| word == b"disk") && rest.len() < 64, "an alert at most: {rest:?}");
    let mut peer = Peer::greeted(&server);
    peer.say(&proto::option(option::EXPORT_NAME, b"disk"));
    assert!(peer.hung_up());
    let mut peer = Peer::greeted(&server);
    assert_eq!(peer.ask(option::ABORT, &[]), reply::ACK);
    assert!(peer.hung_up());
}

#[test]
fn clients_that_fall_silent_are_let_go_and_too_many_are_not_heard() {
    let folder = tempfile::tempdir().unwrap();
    image(&folder.path().join("disk"), 22);
    let short = Duration::from_millis(200);
    let limits = Limits { connections: 2, handshake: short, stall: short, ..Limits::default() };
    let server = Server::start("disk", Raw::open(&folder.path().join("disk"), false), false, None, limits);
    let mut silent = Peer::greeted(&server);
    assert!(silent.hung_up(), "nothing was agreed on in time");
    let mut half = Peer::greeted(&server);
    assert_eq!(half.ask(option::GO, &go("disk")), reply::ACK);
    half.say(&Request { flags: 0, command: command::WRITE, cookie: 1, at: 0, len: 4096 }.encode());
    assert!(half.hung_up(), "the payload did not come");
    // A client that asks for much and takes nothing.
    let mut deaf = Peer::greeted(&server);
    assert_eq!(deaf.ask(option::GO, &go("disk")), reply::ACK);
    for cookie in 0..64 {
        deaf.say(&Request { flags: 0, command: command::READ, cookie, at: 0, len: 8 << 20 }.encode());
    }
    let mut other = Peer::greeted(&server);
    assert_eq!(other.ask(option::GO, &go("disk")), reply::ACK);
    let third = UnixStream::connect(server.socket()).unwrap();
    assert!(matches!((&third).read(&mut [0; 18]), Ok(0)), "the third connection of two");
    drop((third, deaf, other));
    server.stop.cancel();
}

/// A few changes, insertions and cuts.
fn mutate(random: &mut Random, input: &[u8]) -> Vec<u8> {
    let mut out = input.to_vec();
    for _ in 0..1 + random.below(4) {
        let at = random.below(out.len() as u64) as usize;
        match random.below(5) {
            0 if !out.is_empty() => out[at] ^= 1 << random.below(8),
            1 if !out.is_empty() => out[at] = random.next() as u8,
            2 => out.insert(at.min(out.len()), 0xff),
            3 => out.truncate(at),
            _ => drop(out.splice(at.min(out.len())..at.min(out.len()), random.bytes(4))),
        }
    }
    out
}

/// Counts panics of all threads of this process.
fn count_panics() -> &'static AtomicUsize {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        PANICS.fetch_add(1, Ordering::Relaxed);
    }));
    &PANICS
}

#[test]
fn garbage_to_the_server_ends_its_own_connection_and_nothing_else() {
    let panics = count_panics();
    let (_folder, server) = served(false);
    let request = |command, len| Request { flags: 0, command, cookie: 5, at: 4096, len }.encode();
    let good = [
        &3u32.to_be_bytes()[..],
        &proto::option(option::LIST, &[]),
        &proto::option(option::STRUCTURED_REPLY, &[]),
        &proto::option(option::SET_META_CONTEXT, &Contexts { name: "disk", queries: vec![proto::ALLOCATION] }.encode()),
        &proto::option(option::GO, &go("disk")),
        &request(command::READ, 65536),
        &request(command::BLOCK_STATUS, 65536),
        &request(command::WRITE, 64),
        &[3; 64],
        &request(command::TRIM, 4096),
        &request(command::DISC, 0),
    ]
    .concat();
    for seed in 0..400 {
        let mut random = Random(seed);
        let len = random.below(300) as usize;
        let said = if seed % 4 == 0 { random.bytes(len) } else { mutate(&mut random, &good) };
        let mut stream = UnixStream::connect(server.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let _ = stream.write_all(&said);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut heard = Vec::new();
        match stream.read_to_end(&mut heard) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("seed {seed}: the server waits for more than the end")
            }
            _ => {}
        }
    }
    let client = Client::connect(&server.address(), &Options { export: "disk".into(), ..Options::default() }).unwrap();
    client.read(0, &mut [0; 512]).unwrap();
    assert_eq!(panics.load(Ordering::Relaxed), 0);
}

/// All that a good server would say to a client that reads 64 KiB, asks what they are, and flushes.
fn good_server() -> Vec<u8> {
    let export =
        [&info::EXPORT.to_be_bytes()[..], &(1u64 << 20).to_be_bytes(), &(can::HAS_FLAGS | can::FLUSH).to_be_bytes()]
            .concat();
    let context = [&1u32.to_be_bytes()[..], proto::ALLOCATION.as_bytes()].concat();
    let data = [&0u64.to_be_bytes()[..], &[5; 32 << 10]].concat();
    let hole = [&(32u64 << 10).to_be_bytes()[..], &(32u32 << 10).to_be_bytes()].concat();
    let status = [1u32, 65536, 3].map(u32::to_be_bytes).concat();
    let said = |flags, kind, cookie, data: &[u8]| {
        [&ChunkHead { flags, kind, cookie, len: data.len() as u32 }.encode()[..], data].concat()
    };
    [
        proto::greeting(3),
        proto::option_reply(option::STRUCTURED_REPLY, reply::ACK, &[]),
        proto::option_reply(option::SET_META_CONTEXT, reply::META_CONTEXT, &context),
        proto::option_reply(option::SET_META_CONTEXT, reply::ACK, &[]),
        proto::option_reply(option::GO, reply::INFO, &export),
        proto::option_reply(option::GO, reply::ACK, &[]),
        said(0, chunk::OFFSET_DATA, 0, &data),
        said(chunk::DONE, chunk::OFFSET_HOLE, 0, &hole),
        said(chunk::DONE, chunk::BLOCK_STATUS, 1, &status),
        said(chunk::DONE, chunk::NONE, 2, &[]),
    ]
    .concat()
}

/// The bytes of a read, and what they are said to be.
type Heard = (Vec<u8>, Vec<(u64, u32)>);

/// A client at a server that says `said`, as far as `steps` tell only after what they wait for, and hangs up then.
fn converse(said: &[u8], steps: &[(usize, usize)], wait: Duration) -> Result<Heard, ClientError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let (said, steps) = (said.to_vec(), steps.to_vec());
    let server = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        // A client that garbage has put off asks no further: then the rest is said anyway.
        stream.set_read_timeout(Some(wait)).unwrap();
        let mut at = 0;
        for (say, wait) in steps {
            let end = (at + say).min(said.len());
            let _ = stream.write_all(&said[at..end]);
            at = end;
            let _ = stream.read_exact(&mut vec![0; wait]);
        }
        let _ = stream.write_all(&said[at..]);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        stream.set_read_timeout(None).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let options = Options { patience: Duration::from_secs(20), ..Options::default() };
    let outcome = Client::connect(&nbd::Address::Unix(path), &options).and_then(|client| {
        let mut data = vec![1; 64 << 10];
        client.read(0, &mut data)?;
        let extents = client.block_status(proto::ALLOCATION, 0..64 << 10)?;
        client.flush()?;
        Ok((data, extents))
    });
    server.join().unwrap();
    outcome
}

/// The bytes of the good server up to the read's answer, and those of the client up to the read; then an answer and a request each.
const STEPS: [(usize, usize); 3] = [(HANDSHAKE, 115), (32828, 28), (32, 28)];
const HANDSHAKE: usize = 149;

/// For a client that gets on for certain.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn garbage_from_a_server_is_an_error_and_never_taken_for_an_answer() {
    let panics = count_panics();
    let good = good_server();
    let (data, extents) = converse(&good, &STEPS, LONG).unwrap();
    assert!(data[..32 << 10].iter().all(|&byte| byte == 5) && data[32 << 10..].iter().all(|&byte| byte == 0));
    assert_eq!(extents, [(65536, 3)]);
    for seed in 0..400 {
        let mut random = Random(seed);
        let len = random.below(300) as usize;
        // Not in the data themselves, which may be anything.
        let (head, tail) = good.split_at(HANDSHAKE + 28);
        let said = match seed % 4 {
            0 => random.bytes(len),
            1 => [head, &mutate(&mut random, tail)].concat(),
            _ => [&mutate(&mut random, head)[..], tail].concat(),
        };
        let _ = converse(&said, &STEPS, Duration::from_millis(50));
    }
    assert_eq!(panics.load(Ordering::Relaxed), 0);
}

#[test]
fn a_read_is_answered_once_wholly_and_with_what_was_asked_for() {
    let good = good_server();
    let start = HANDSHAKE;
    let said = |flags, kind, len: u32, data: &[u8]| {
        [&good[..start], &ChunkHead { flags, kind, cookie: 0, len }.encode(), data].concat()
    };
    let data = |at: u64, len: usize| [&at.to_be_bytes()[..], &vec![1; len]].concat();
    let hole = |at: u64, len: u32| [&at.to_be_bytes()[..], &len.to_be_bytes()].concat();
    let half = ChunkHead { flags: chunk::DONE, kind: chunk::OFFSET_DATA, cookie: 0, len: 8 + 32768 }.encode();
    let twice = [&said(0, chunk::OFFSET_HOLE, 12, &hole(0, 32768))[..], &half, &data(0, 32768)].concat();
    for (what, said) in [
        ("less than all", said(chunk::DONE, chunk::OFFSET_DATA, 108, &data(0, 100))),
        ("nothing", said(chunk::DONE, chunk::NONE, 0, &[])),
        ("past the end", said(chunk::DONE, chunk::OFFSET_HOLE, 12, &hole(1, 65536))),
        ("far past the end", said(chunk::DONE, chunk::OFFSET_HOLE, 12, &hole(u64::MAX, 65536))),
        ("4 GiB", said(chunk::DONE, chunk::OFFSET_DATA, u32::MAX, &data(0, 100))),
        ("4 GiB of extents", said(chunk::DONE, chunk::BLOCK_STATUS, u32::MAX, &[0; 100])),
        ("4 GiB of excuses", said(chunk::DONE, chunk::ERROR_PLAIN, u32::MAX, &[0; 100])),
        ("the same bytes twice", twice),
        ("a simple reply", [&good[..start], &proto::simple_head(0, 0), &[0; 65536]].concat()),
        ("another's cookie", [&good[..start], &proto::simple_head(8, 0)].concat()),
    ] {
        let error = converse(&said, &STEPS[..1], LONG).unwrap_err();
        assert!(matches!(error, ClientError::Protocol(_)), "{what}: {error}");
    }
    let failed =
        converse(&said(chunk::DONE, chunk::ERROR_PLAIN, 9, &[0, 0, 0, 28, 0, 3, b'f', b'u', b'l']), &STEPS[..1], LONG);
    assert!(matches!(failed, Err(ClientError::Failed { errno: Errno::Enospc, message, .. }) if message == "ful"));
}

#[test]
fn what_a_server_tells_of_bytes_beyond_its_export_is_an_error() {
    let good = good_server();
    let before = &good[..good.len() - 20 - 32];
    let status = |len: u32| {
        let head = ChunkHead { flags: chunk::DONE, kind: chunk::BLOCK_STATUS, cookie: 1, len: 12 }.encode();
        [before, &head, &[1, len, 3].map(u32::to_be_bytes).concat(), &good[good.len() - 20..]].concat()
    };
    // Beyond what was asked for is allowed.
    assert_eq!(converse(&status(1 << 20), &STEPS, LONG).unwrap().1, [(65536, 3)]);
    let error = converse(&status((1 << 20) + 1), &STEPS, LONG).unwrap_err();
    assert!(error.to_string().contains("beyond the end of its export"), "{error}");
}
