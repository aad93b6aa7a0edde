//! Single files back to the branch: a generation is served as a block device, and only what is read of it crosses the line.

use super::branch::{Branch, RECOVERY, Setup, VOLUME};
use anyhow::{Context, Result, ensure};
use lab::line::Fate;
use lab::world::EdgeOptions;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SIZE: u64 = 96 << 20;

/// A process that ends with the test.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill(); // fails only when it has ended already
        let _ = self.0.wait();
    }
}

/// A mount of nbdfuse, let go when it is dropped.
struct Fuse<'a>(&'a Path, #[expect(dead_code, reason = "ended when it is dropped")] Ending);

impl Drop for Fuse<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

fn is_there(tool: &str) -> bool {
    Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
        || Command::new(tool).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + RECOVERY;
    while !is_so() {
        ensure!(Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A branch whose edge has forgotten the first generation of a file system with two files, and evicted nearly all bytes of the others.
fn with_files(small: &[u8]) -> Result<Branch> {
    let setup = Setup::default();
    let extra = format!("cache = \"1 MB\"\n{}", setup.edge.extra);
    let edge = EdgeOptions { extra, ..setup.edge };
    let mut branch = Branch::with(Setup { edge, size: SIZE, ..Setup::default() })?;
    let image = branch.sample.path().to_owned();
    run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
    // In this order, so that the small one is not in the newest pack, which stays.
    for (name, bytes) in [("small.bin", small), ("large.bin", &noise(1, 60 << 20))] {
        let file = branch.world.path().join(name);
        std::fs::write(&file, bytes)?;
        let command = format!("write {} {name}", file.display());
        run(Command::new("debugfs").args(["-w", "-R", &command]).arg(&image))?;
    }
    branch.replicate()?;
    for number in 0..5 {
        let command = if number == 0 { "rm /small.bin".to_owned() } else { format!("mkdir /day{number}") };
        run(Command::new("debugfs").args(["-w", "-R", &command]).arg(&image))?;
        branch.edge.capture(VOLUME)?;
    }
    branch.edge.run("gc", &[])?;
    Ok(branch)
}

#[test]
fn a_single_file_of_an_old_generation_is_copied_and_little_else_crosses_the_line() -> Result<()> {
    for tool in ["nbdfuse", "debugfs", "mkfs.ext4"] {
        if !is_there(tool) {
            println!("skipped: {tool} is not there");
            return Ok(());
        }
    }
    if !Path::new("/dev/fuse").exists() || !nix::unistd::geteuid().is_root() {
        println!("skipped: no file system can be mounted by FUSE here");
        return Ok(());
    }
    let small = noise(2, 300_000);
    let branch = with_files(&small)?;
    let listed = branch.edge.run("generations", &[VOLUME, "--remote", "--json"])?;
    ensure!(listed.contains("\"number\":1,\"number_here\":null"), "the edge has forgotten the first: {listed}");
    let (socket, mount) = (branch.world.path().join("nbd.sock"), branch.world.path().join("mnt"));
    std::fs::create_dir(&mount)?;
    let down = || branch.line.reading().down.of(Fate::Delivered).bytes;
    let before = down();
    let mut export = branch.edge.command("export");
    export.args([VOLUME, "--generation", "1", "--socket"]).arg(&socket).stderr(Stdio::null()).stdout(Stdio::null());
    let export = Ending(export.spawn()?);
    wait_for("the socket", || socket.exists())?;
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let device = mount.join("nbd");
    let fuse = Command::new("nbdfuse").arg("-r").arg(&device).arg(uri).spawn().context("starting nbdfuse")?;
    let fuse = Fuse(&mount, Ending(fuse));
    wait_for("the mount", || device.exists())?;
    let copy = branch.world.path().join("copy.bin");
    let dump = format!("dump /small.bin {}", copy.display());
    // Past the kernel's cache, which would read ahead what nobody asked for.
    let copy_out = || run(Command::new("debugfs").args(["-D", "-R", &dump]).arg(&device));
    copy_out()?;
    ensure!(std::fs::read(&copy)? == small, "the file differs");
    let crossed = down() - before;
    ensure!(crossed > small.len() as u64, "{crossed} bytes crossed: the file was here all the time");
    ensure!(crossed < SIZE / 16, "{crossed} bytes crossed for a file of {} on a volume of {SIZE}", small.len());
    // Read again: nothing is fetched twice.
    let again = down();
    std::fs::remove_file(&copy)?;
    copy_out()?;
    ensure!(std::fs::read(&copy)? == small && down() - again < 20_000, "{} bytes crossed again", down() - again);
    let writes = std::fs::OpenOptions::new().write(true).open(&device);
    ensure!(writes.is_err(), "it cannot be written to");
    drop(fuse);
    drop(export);
    wait_for("the end of the export", || !socket.exists())
}
