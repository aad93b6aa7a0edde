//! What is written over an export stays its own, whatever happens to the process.

use crate::support::*;
use nbd::client::Options;
use nbd::overlay::OverlayError;
use nbd::server::{Exports, Limits, Listener};
use nbd::{Address, Client, Export, Overlay, Status};
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

const IDENTITY: [u8; 32] = [7; 32];

fn check(overlay: &Overlay, model: &[u8]) {
    let mut all = vec![1; model.len()];
    overlay.read(0, &mut all).unwrap();
    if let Some(at) = (0..model.len()).find(|&at| all[at] != model[at]) {
        panic!("byte {at} is {} and not {}", all[at], model[at]);
    }
    let mut at = 0;
    while at < model.len() {
        for (len, status) in overlay.status(at as u64..model.len() as u64).unwrap() {
            let range = at..at + len as usize;
            assert!(
                status == Status::Data || model[range.clone()].iter().all(|&byte| byte == 0),
                "{range:?} is told to be zeroes"
            );
            at = range.end;
        }
    }
    assert_eq!(at, model.len());
}

#[derive(Debug, Clone)]
enum Step {
    Write(u32, u32, u8),
    Zero(u32, u32, bool),
    Trim(u32, u32),
    Flush,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    // Positions near blocks' and regions' edges are where mistakes live; lengths from nothing to over a region.
    let at =
        prop_oneof![any::<u32>(), (0u32..600, 0u32..3).prop_map(|(block, off)| (block * 4096 + off).saturating_sub(1))];
    let len = prop_oneof![1u32..10_000, 1u32..1_500_000, (1u32..4).prop_map(|blocks| blocks * 4096)];
    prop_oneof![
        4 => (at.clone(), len.clone(), any::<u8>()).prop_map(|(at, len, byte)| Step::Write(at, len, byte)),
        2 => (at.clone(), len.clone(), any::<bool>()).prop_map(|(at, len, trim)| Step::Zero(at, len, trim)),
        1 => (at, len).prop_map(|(at, len)| Step::Trim(at, len)),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn an_overlay_reads_as_a_plain_array_would(steps in proptest::collection::vec(step(), 1..30), odd in 0usize..5000) {
        let folder = tempfile::tempdir().unwrap();
        let (disk, path) = (folder.path().join("disk"), folder.path().join("overlay"));
        let size = (2 << 20) + odd;
        let mut model = image(&disk, 8);
        model.truncate(size);
        std::fs::File::options().write(true).open(&disk).unwrap().set_len(size as u64).unwrap();
        let base = Raw::open(&disk, true);
        let mut overlay = Overlay::create(&path, base.clone(), IDENTITY).unwrap();
        let clip = |at: u32, len: u32| {
            let at = at as usize % size;
            at..(at + len as usize).min(size)
        };
        for step in steps {
            match step {
                Step::Write(at, len, byte) => {
                    let range = clip(at, len);
                    model[range.clone()].fill(byte);
                    overlay.write(range.start as u64, &model[range]).unwrap();
                }
                Step::Zero(at, len, may_trim) => {
                    let range = clip(at, len);
                    model[range.clone()].fill(0);
                    overlay.zero(range.start as u64..range.end as u64, may_trim).unwrap();
                }
                Step::Trim(at, len) => {
                    let range = clip(at, len);
                    let end = if range.end == size { size } else { range.end / 4096 * 4096 };
                    let start = range.start.next_multiple_of(4096);
                    if start < end {
                        model[start..end].fill(0);
                    }
                    overlay.trim(range.start as u64..range.end as u64).unwrap();
                }
                Step::Flush => overlay.flush().unwrap(),
                Step::Reopen => {
                    overlay.flush().unwrap();
                    drop(overlay);
                    overlay = Overlay::open(&path, base.clone(), IDENTITY).unwrap();
                }
            }
            check(&overlay, &model);
        }
        prop_assert!(std::fs::read(&disk).unwrap() == { let mut whole = image(&folder.path().join("again"), 8); whole.truncate(size); whole }, "the base changed");
    }
}

#[test]
fn an_overlay_opens_over_its_own_base_only_once_and_only_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, path) = (folder.path().join("disk"), folder.path().join("overlay"));
    image(&disk, 9);
    let base = Raw::open(&disk, true);
    let overlay = Overlay::create(&path, base.clone(), IDENTITY).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(Overlay::open(&path, base.clone(), IDENTITY), Err(OverlayError::InUse { .. })));
    assert!(matches!(Overlay::create(&path, base.clone(), IDENTITY), Err(OverlayError::File { .. })));
    drop(overlay);
    assert!(matches!(Overlay::open(&path, base.clone(), [8; 32]), Err(OverlayError::OtherBase { .. })));
    let good = std::fs::read(&path).unwrap();
    for (at, len) in [(0, good.len()), (9, good.len()), (20, good.len()), (60, good.len()), (0, 100), (0, 5000)] {
        let mut bad = good[..len].to_vec();
        bad[at] ^= u8::from(len == good.len() || len == 100);
        std::fs::write(&path, &bad).unwrap();
        let opened = Overlay::open(&path, base.clone(), IDENTITY);
        assert!(matches!(opened, Err(OverlayError::Unusable { .. })), "byte {at} of {len}: {:?}", opened.err());
    }
    std::fs::write(&path, &good).unwrap();
    Overlay::open(&path, base, IDENTITY).unwrap().discard().unwrap();
    assert!(!path.exists());
}

#[test]
fn threads_that_write_parts_of_the_same_blocks_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, path) = (folder.path().join("disk"), folder.path().join("overlay"));
    let mut model = image(&disk, 10);
    let overlay = Overlay::create(&path, Raw::open(&disk, true), IDENTITY).unwrap();
    let pieces = model.len() / 512;
    // Eight neighbours of 512 bytes share a block that is still the base's: each has to see the others'.
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let overlay = &overlay;
            scope.spawn(move || {
                for piece in (thread..pieces).step_by(8) {
                    overlay.write(piece as u64 * 512, &[thread as u8 + 1; 512]).unwrap();
                    if piece % 1000 == 0 {
                        overlay.flush().unwrap();
                    }
                }
            });
        }
    });
    (0..pieces).for_each(|piece| model[piece * 512..][..512].fill((piece % 8) as u8 + 1));
    check(&overlay, &model);
}

const CHILD: &str = "NBD_TEST_OVERLAY";

/// The process that the next test kills: an overlay, served. Does nothing when nobody asks for it.
#[test]
fn child_that_serves_an_overlay() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let folder = Path::new(&folder);
    let base = Raw::open(&folder.join("disk"), true);
    let exports = Exports::new();
    exports.put("", Arc::new(Overlay::open(&folder.join("overlay"), base, IDENTITY).unwrap()));
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
        let listener = tokio::net::UnixListener::bind(folder.join("socket")).unwrap();
        nbd::serve(Listener::Unix(listener), exports, Limits::default(), None, Default::default()).await;
    });
}

#[test]
fn what_was_flushed_survives_kill_9_at_any_moment() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, path, socket) =
        (folder.path().join("disk"), folder.path().join("overlay"), folder.path().join("socket"));
    let mut flushed = image(&disk, 11);
    let blocks = flushed.len() / 4096;
    drop(Overlay::create(&path, Raw::open(&disk, true), IDENTITY).unwrap());
    let mut random = Random(12);
    for round in 0..6 {
        let _ = std::fs::remove_file(&socket);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "overlays::child_that_serves_an_overlay"])
            .env(CHILD, folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_for(&socket);
        let client = Client::connect(&Address::Unix(socket.clone()), &Options::default()).unwrap();
        // What each block may hold: its flushed bytes, or anything that was written to it since.
        let mut since: Vec<(usize, Vec<u8>)> = Vec::new();
        let flushes = 1 + random.below(6);
        'alive: for flush in 0.. {
            if flush == flushes {
                // Writes and flushes go on while the process dies.
                nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(child.id() as i32),
                    nix::sys::signal::Signal::SIGKILL,
                )
                .unwrap();
            }
            for _ in 0..random.below(30) {
                let block = random.below(blocks as u64) as usize;
                let bytes = if random.below(5) == 0 { vec![0; 4096] } else { random.bytes(4096) };
                since.push((block, bytes.clone()));
                if client.write(block as u64 * 4096, &bytes).is_err() {
                    break 'alive;
                }
            }
            if client.flush().is_err() {
                break;
            }
            for (block, bytes) in since.drain(..) {
                flushed[block * 4096..][..4096].copy_from_slice(&bytes);
            }
        }
        child.wait().unwrap();
        let overlay = Overlay::open(&path, Raw::open(&disk, true), IDENTITY).unwrap();
        let mut now = vec![0; flushed.len()];
        overlay.read(0, &mut now).unwrap();
        for block in 0..blocks {
            let range = block * 4096..(block + 1) * 4096;
            let may = now[range.clone()] == flushed[range.clone()]
                || since.iter().any(|(of, bytes)| *of == block && now[range.clone()] == bytes[..]);
            assert!(may, "round {round}: block {block} holds neither what was flushed nor what was written since");
        }
        flushed = now;
        overlay.flush().unwrap();
    }
}

#[test]
fn a_file_system_on_an_overlay_is_what_qemu_img_reads_from_it() {
    if !has("qemu-img") || !has("mkfs.ext4") || !has("e2fsck") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (disk, copy) = (folder.path().join("disk"), folder.path().join("copy"));
    std::fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    run("mkfs.ext4", &["-q", "-F", disk.to_str().unwrap()]);
    let overlay = Overlay::create(&folder.path().join("overlay"), Raw::open(&disk, true), IDENTITY).unwrap();
    let server = Server::unix("", Arc::new(overlay));
    let before = std::fs::read(&disk).unwrap();
    run(
        "qemu-img",
        &[
            "bench",
            "-c",
            "2000",
            "-d",
            "16",
            "-w",
            "--pattern=9",
            "-o",
            "33554432",
            "-s",
            "4096",
            "-f",
            "raw",
            &server.uri(""),
        ],
    );
    run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &server.uri(""), copy.to_str().unwrap()]);
    let after = std::fs::read(&copy).unwrap();
    let (from, to) = (32 << 20, (32 << 20) + 2000 * 4096);
    assert!(after[from..to].iter().all(|&byte| byte == 9));
    assert!(after[..from] == before[..from] && after[to..] == before[to..] && std::fs::read(&disk).unwrap() == before);
}
