//! Our client, at the servers that others use and at our own.

use crate::serving::certificates;
use crate::support::*;
use nbd::client::Options;
use nbd::server::Limits;
use nbd::{Client, ClientError, Errno, Export, Status};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

fn options(export: &str, connections: usize) -> Options {
    Options { export: export.to_owned(), connections, ..Options::default() }
}

/// Writes, zeroes and trims from several threads, reads all of it back; what should be there.
fn exercise(client: &Client, seed: u64) -> Vec<u8> {
    let size = client.size() as usize;
    let mut expected = vec![0; size];
    let quarter = size / 4 / 4096 * 4096;
    std::thread::scope(|scope| {
        for (number, part) in expected[..4 * quarter].chunks_mut(quarter).enumerate() {
            scope.spawn(move || {
                let (mut random, base) = (Random(seed + number as u64), number * quarter);
                client.zero(base as u64..(base + quarter) as u64, true).unwrap();
                for _ in 0..20 {
                    let at = random.below(quarter as u64 - 1) as usize;
                    let len = (random.below(200_000) as usize + 1).min(quarter - at);
                    if random.below(4) == 0 {
                        part[at..at + len].fill(0);
                        client.zero((base + at) as u64..(base + at + len) as u64, random.below(2) == 0).unwrap();
                    } else {
                        part[at..at + len].copy_from_slice(&random.bytes(len));
                        client.write((base + at) as u64, &part[at..at + len]).unwrap();
                    }
                    let mut back = vec![1; len];
                    client.read((base + at) as u64, &mut back).unwrap();
                    assert!(back == part[at..at + len], "{len} bytes at {} came back changed", base + at);
                }
            });
        }
    });
    // One call over everything: many pieces in flight.
    client.flush().unwrap();
    let mut all = vec![1; size];
    client.read(0, &mut all).unwrap();
    assert!(all[..4 * quarter] == expected[..4 * quarter], "what was written is not what is read");
    expected.copy_from_slice(&all);
    expected
}

#[test]
fn qcow2_and_raw_images_are_written_through_qemu_nbd() {
    if !has("qemu-nbd") || !has("qemu-img") {
        return;
    }
    for (format, shared) in [("qcow2", 1), ("raw", 4)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let (image, copy) = (path.to_str().unwrap(), folder.path().join("copy"));
        run("qemu-img", &["create", "-q", "-f", format, image, "32M"]);
        let share = format!("--shared={}", shared + 1);
        // Anything beside our connections would count as one, so the one that waits for the socket is the one more.
        let arguments = ["--socket={}", "--persistent", "-f", format, &share, "--discard=unmap", image];
        let mut server = Theirs::start("qemu-nbd", &arguments).unwrap();
        let client = Client::connect(&server.address(), &options("", shared)).unwrap();
        assert_eq!((client.size(), client.is_read_only()), (32 << 20, false));
        let expected = exercise(&client, 3);
        client.trim(0..1 << 20).unwrap();
        client.zero(0..1 << 20, true).unwrap();
        client.flush().unwrap();
        let map = client.block_status("base:allocation", 0..32 << 20).unwrap();
        assert_eq!(map.iter().map(|(len, _)| len).sum::<u64>(), 32 << 20);
        assert_eq!(Status::from_flags(map[0].1), Status::Hole);
        drop(client);
        server.kill();
        run("qemu-img", &["convert", "-f", format, "-O", "raw", image, copy.to_str().unwrap()]);
        let written = std::fs::read(copy).unwrap();
        assert!(written[..1 << 20].iter().all(|&byte| byte == 0) && written[1 << 20..] == expected[1 << 20..]);
    }
}

#[test]
fn a_dirty_bitmap_of_qemu_says_what_changed() {
    if !has("qemu-nbd") || !has("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let image = path.to_str().unwrap();
    run("qemu-img", &["create", "-q", "-f", "qcow2", image, "32M"]);
    run("qemu-img", &["bitmap", "--add", "-g", "64k", image, "changes"]);
    let writer = Theirs::start("qemu-nbd", &["--socket={}", "--persistent", "-f", "qcow2", image]).unwrap();
    Client::connect(&writer.address(), &options("", 1))
        .and_then(|client| {
            client.write(1 << 20, &[7; 4096])?;
            client.flush()
        })
        .unwrap();
    let nbd::Address::Unix(socket) = writer.address() else { unreachable!() };
    // A bitmap is stored when its image is closed: SIGTERM closes it, SIGKILL would not.
    assert!(Command::new("kill").args(["-TERM", &writer.id().to_string()]).status().unwrap().success());
    writer.wait();
    assert!(!socket.exists());
    let reader =
        Theirs::start("qemu-nbd", &["--socket={}", "--persistent", "-r", "-f", "qcow2", "-B", "changes", image])
            .unwrap();
    let context = "qemu:dirty-bitmap:changes";
    let with =
        Options { contexts: vec![context.into(), "base:allocation".into(), "no:such".into()], ..Options::default() };
    let client = Client::connect(&reader.address(), &with).unwrap();
    assert_eq!(client.contexts().count(), 2);
    let changed = client.block_status(context, 0..client.size()).unwrap();
    assert_eq!(
        changed,
        [(1 << 20, 0), (64 << 10, 1), (31 << 20, 0)].map(|(len, flags)| if len == 31 << 20 {
            (len - (64 << 10), flags)
        } else {
            (len, flags)
        })
    );
    assert!(matches!(client.write(0, &[0; 512]), Err(ClientError::Misuse(_))));
    assert!(matches!(client.block_status("no:such", 0..512), Err(ClientError::Misuse(_))));
}

#[test]
fn nbdkit_is_read_and_written_with_delays_and_without_extents() {
    for filters in
        [&["--filter=delay", "delay-read=20ms", "delay-write=20ms"][..], &["--filter=noextents"], &["--filter=nozero"]]
    {
        let (flags, settings): (Vec<&str>, Vec<&str>) = filters.iter().partition(|word| word.starts_with("--"));
        let arguments = [&["-f", "-U", "{}"], &flags[..], &["memory", "16M"], &settings[..]].concat();
        let Some(server) = Theirs::start("nbdkit", &arguments) else { return };
        let client = Client::connect(&server.address(), &options("", 4)).unwrap();
        assert_eq!(client.connections(), 4);
        exercise(&client, 4);
    }
    let Some(server) = Theirs::start("nbdkit", &["-f", "-U", "{}", "pattern", "64M"]) else { return };
    let client = Client::connect(&server.address(), &options("", 1)).unwrap();
    let mut all = vec![0; 64 << 20];
    client.read(0, &mut all).unwrap();
    assert!(all.chunks(8).zip(0u64..).all(|(word, number)| word == (number * 8).to_be_bytes()));
}

#[test]
fn many_short_reads_in_one_call_each_bring_their_own_bytes() {
    let arguments = ["-f", "-U", "{}", "--filter=delay", "pattern", "64M", "delay-read=20ms"];
    let Some(server) = Theirs::start("nbdkit", &arguments) else { return };
    let client = Client::connect(&server.address(), &options("", 1)).unwrap();
    let mut buffers = vec![vec![0; 24 << 10]; 100];
    let places = (0..100).map(|number| number * (512 << 10) + 4096);
    let mut wanted: Vec<_> = places.zip(buffers.iter_mut().map(Vec::as_mut_slice)).collect();
    client.read_many(&mut wanted).unwrap();
    for (at, bytes) in wanted {
        assert!(bytes.chunks(8).zip((at..).step_by(8)).all(|(word, at)| word == at.to_be_bytes()), "{at}");
    }
    assert!(matches!(client.read_many(&mut [(64 << 20, &mut [0; 512])]), Err(ClientError::Misuse(_))));
}

#[test]
fn a_server_that_lets_in_fewer_connections_than_are_wanted_is_used_with_those() {
    if !has("qemu-nbd") || !has("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    std::fs::write(&path, vec![7; 4 << 20]).unwrap();
    // The one that waits for the socket is the one more.
    let arguments = ["--socket={}", "--persistent", "-r", "-f", "raw", "--shared=3", path.to_str().unwrap()];
    let server = Theirs::start("qemu-nbd", &arguments).unwrap();
    let first = Client::connect(&server.address(), &options("", 1)).unwrap();
    let client = Client::connect(&server.address(), &options("", 4)).unwrap();
    assert!(client.connections() < 4, "{}", client.connections());
    let mut all = vec![0; 4 << 20];
    client.read(0, &mut all).unwrap();
    assert!(all.iter().all(|&byte| byte == 7));
    drop(first);
}

#[test]
fn an_error_of_the_server_is_told_and_ends_nothing() {
    let arguments =
        ["-f", "-U", "{}", "--filter=error", "memory", "16M", "error-pwrite=ENOSPC", "error-pwrite-rate=100%"];
    let Some(server) = Theirs::start("nbdkit", &arguments) else { return };
    let client = Client::connect(&server.address(), &options("", 1)).unwrap();
    let error = client.write(0, &[1; 8 << 20]).unwrap_err();
    assert!(matches!(error, ClientError::Failed { errno: Errno::Enospc, .. }) && !error.ends(), "{error}");
    let mut back = [1; 512];
    client.read(0, &mut back).unwrap();
    assert_eq!(back, [0; 512]);
    let past = client.read(16 << 20, &mut back).unwrap_err();
    assert!(matches!(past, ClientError::Misuse(_)), "{past}");
}

#[test]
fn a_server_that_dies_or_stops_answering_is_an_error_within_the_patience() {
    let Some(mut server) = Theirs::start("nbdkit", &["-f", "-U", "{}", "memory", "16M"]) else { return };
    let client = Client::connect(&server.address(), &options("", 2)).unwrap();
    server.kill();
    assert!(client.read(0, &mut [0; 512]).unwrap_err().ends());
    assert!(client.flush().is_err() && client.write(0, &[1]).is_err());
    let arguments = ["-f", "-U", "{}", "--filter=delay", "memory", "16M", "delay-read=3600"];
    let Some(server) = Theirs::start("nbdkit", &arguments) else { return };
    let quick = Options { patience: Duration::from_millis(300), ..options("", 1) };
    let client = Client::connect(&server.address(), &quick).unwrap();
    assert!(client.read(0, &mut [0; 512]).unwrap_err().ends());
    drop(server);
    assert!(matches!(
        Client::connect(&nbd::Address::Unix("/nowhere".into()), &quick),
        Err(ClientError::Connect { .. })
    ));
}

#[test]
fn our_server_and_our_client_agree_plainly_and_over_tls_and_an_export_can_be_passed_on() {
    let folder = tempfile::tempdir().unwrap();
    let made = certificates(folder.path());
    let tls = nbd::tls::server(made.server, Some(std::slice::from_ref(&made.authority))).unwrap();
    let path = folder.path().join("disk");
    let before = image(&path, 5);
    let server = Server::start("disk", Raw::open(&path, false), true, Some(tls), Limits::default());
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let known = nbd::tls::client(std::slice::from_ref(&made.authority), Some(made.client)).unwrap();
    let stranger = nbd::tls::client(&[made.authority], None).unwrap();
    let with = |tls| Options { tls, ..options("disk", 3) };
    let Err(plain) = Client::connect(&server.address(), &with(None)) else { panic!("plainly") };
    assert!(matches!(&plain, ClientError::Refused { why, .. } if why.contains("requires TLS")), "{plain}");
    assert!(Client::connect(&server.address(), &with(Some((stranger, name.clone())))).is_err());
    let other = rustls::pki_types::ServerName::try_from("elsewhere").unwrap();
    assert!(Client::connect(&server.address(), &with(Some((known.clone(), other)))).is_err());
    let client = Client::connect(&server.address(), &with(Some((known, name)))).unwrap();
    assert_eq!(client.connections(), 3);
    let mut all = vec![0; before.len()];
    client.read(0, &mut all).unwrap();
    assert!(all == before, "what is read over TLS differs");
    // Passed on plainly, written through both.
    let further = Server::unix("", Arc::new(client));
    let client = Client::connect(&further.address(), &options("", 2)).unwrap();
    let map = Export::status(&client, 0..client.size()).unwrap();
    assert!(map.iter().any(|(_, status)| *status == Status::Hole));
    let expected = exercise(&client, 6);
    drop((client, further, server));
    assert!(std::fs::read(&path).unwrap() == expected, "the file holds something else than was read");
}

#[test]
fn an_export_that_is_removed_and_a_server_that_stops_let_go_of_their_clients() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    image(&path, 7);
    let server = Server::unix("disk", Raw::open(&path, false));
    server.exports.put("other", Raw::open(&path, false));
    let first = Client::connect(&server.address(), &options("disk", 2)).unwrap();
    let second = Client::connect(&server.address(), &options("other", 1)).unwrap();
    first.write(0, &[1; 512]).unwrap();
    server.exports.remove("disk");
    assert!((0..100_000).any(|_| first.write(0, &[2; 512]).is_err()), "it is still served");
    assert!(matches!(Client::connect(&server.address(), &options("disk", 1)), Err(ClientError::Refused { .. })));
    second.write(512, &[3; 512]).unwrap();
    server.stop.cancel();
    assert!((0..100_000).any(|_| second.write(512, &[4; 512]).is_err()), "it is still served");
    drop(server); // joins: nothing is left of it
}
