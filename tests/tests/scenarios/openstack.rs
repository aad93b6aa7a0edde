//! A branch and a real OpenStack: what its gateway brings to Cinder is the guest's disk, also to whoever uses the cloud without Sluice.

#[allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]
#[allow(dead_code, reason = "the tests of targets share it and need more of it")]
#[path = "../../../gateway/targets/tests/services/openstack/cloud.rs"]
mod cloud;

use super::guests::Guest;
use anyhow::{Context, Result, bail, ensure};
use cloud::Cloud;
use lab::guest::{self, Disk, Writes};
use lab::images::same_bytes;
use lab::wan::blake3_of;
use lab::world::{Captured, PATIENCE, run};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The target's name at the gateway.
const TARGET: &str = "cinder";
/// Between two looks at what Cinder is doing.
const LOOK: Duration = Duration::from_millis(200);

/// What somebody attached, as a server would: Cinder says where it is.
struct Attached<'a> {
    cloud: &'a Cloud,
    id: String,
    disk: Disk,
}

impl<'a> Attached<'a> {
    fn new(cloud: &'a Cloud, volume: &str) -> Result<Self> {
        let body = json!({ "attachment": { "volume_uuid": volume, "connector": { "host": "a-server" } } });
        let made = cloud.cinder("POST", "/attachments", &body);
        let (attachment, info) = (&made["attachment"], &made["attachment"]["connection_info"]);
        let name = info["name"].as_str().with_context(|| format!("no file of {volume} in {made}"))?;
        let format = match info["format"].as_str() {
            Some("raw") => "raw",
            Some("qcow2") => "qcow2",
            other => bail!("{volume} has the format {other:?}"),
        };
        let at = cloud.share().join(name).display().to_string();
        Ok(Self { cloud, id: text(attachment, "id")?, disk: Disk { at, format } })
    }

    /// Its bytes, as a raw file.
    fn copied_to(&self, to: PathBuf) -> Result<PathBuf> {
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-f", self.disk.format, "-O", "raw", &self.disk.at]).arg(&to);
        run(command)?;
        Ok(to)
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.cloud.cinder("DELETE", &format!("/attachments/{}", self.id), &Value::Null);
    }
}

#[test]
fn a_guest_boots_from_its_volume_in_cinder_which_has_a_snapshot_for_each_generation() -> Result<()> {
    let Some(cloud) = Cloud::new() else { return Ok(()) };
    let Some((mut guest, seed)) = Guest::replicated()? else { return Ok(()) };
    let seed_image = guest.world.path().join("seed.img");
    lab::images::copy_sparse(&guest.source(), &seed_image)?;
    add_cinder(&guest, &cloud)?;
    let first = guest.brought_to(TARGET)?;
    // A day at the branch: the guest runs, and writes that it did.
    guest.boots_from(&Disk::raw(&guest.source()), Writes::Kept, 1)?;
    let next = guest.edge.capture(super::branch::VOLUME)?;
    let second = guest.brought_to(TARGET)?;
    let written = |done: &Value| done["written_bytes"].as_u64().with_context(|| format!("nothing written: {done}"));
    ensure!(second["plan"]["from"] == seed.number, "it was no delta: {second}");
    ensure!(written(&second)? > 0 && written(&second)? < written(&first)? / 4, "{second} came after {first}");

    let volume = the_volume(&cloud, &[(&first, &seed), (&second, &next)])?;
    // What a server gets: a volume that is made from a snapshot. That of the first generation knows nothing of the second.
    let restored = made_from(&cloud, &text(&first, "point")?)?;
    holds(&Attached::new(&cloud, &restored)?, &seed, &seed_image)?;
    remove(&cloud, "volumes", &restored)?;
    // The volume itself, which has to stay what was proved: what is written goes elsewhere.
    let attached = Attached::new(&cloud, &volume)?;
    holds(&attached, &next, &guest.source())?;
    guest.boots_from(&attached.disk, Writes::Dropped, 2)?;
    holds(&attached, &next, &guest.source())?;
    drop(attached);

    for done in [&second, &first] {
        remove(&cloud, "snapshots", &text(done, "point")?)?;
    }
    remove(&cloud, "volumes", &volume)?;
    ensure!(cloud.volumes() == (vec![], 0, 0), "left in the cloud: {:?}", cloud.volumes());
    Ok(())
}

/// The project becomes a target of the gateway.
fn add_cinder(guest: &Guest, cloud: &Cloud) -> Result<()> {
    let (share, folder) = cloud.settings.shares.iter().next().context("the cloud has a share")?;
    let settings = format!("kind = \"openstack\"\n[shares]\n{share:?} = {folder:?}\n");
    guest.add_target(TARGET, &settings, &["--credentials", &cloud.openrc().display().to_string()])
}

/// The id of the only volume: nobody uses it, and its snapshots are these points and no others, named as their generations.
fn the_volume(cloud: &Cloud, points: &[(&Value, &Captured)]) -> Result<String> {
    let volumes = cloud.cinder("GET", "/volumes/detail", &Value::Null)["volumes"].take();
    let volumes = volumes.as_array().context("a list of volumes")?;
    ensure!(volumes.len() == 1 && volumes[0]["status"] == "available", "one volume was to be there: {volumes:?}");
    let (id, name) = (text(&volumes[0], "id")?, text(&volumes[0], "name")?);
    ensure!(cloud.volumes().1 == points.len(), "one snapshot for each generation: {:?}", cloud.volumes());
    for (done, captured) in points {
        let path = format!("/snapshots/{}", text(done, "point")?);
        let snapshot = cloud.cinder("GET", &path, &Value::Null)["snapshot"].take();
        let is_so = snapshot["volume_id"] == id.as_str()
            && snapshot["status"] == "available"
            && snapshot["name"] == format!("{name}.{}", captured.number)
            && snapshot["metadata"]["sluice-root-blake3"] == captured.root;
        ensure!(is_so, "{captured:?} was to be the snapshot of {id} that says {snapshot}");
    }
    Ok(id)
}

/// Makes a volume from a snapshot, as people do who start a server, and gives its id.
fn made_from(cloud: &Cloud, snapshot: &str) -> Result<String> {
    let body = json!({ "volume": { "size": 1, "name": "a server's", "snapshot_id": snapshot } });
    let id = text(&cloud.cinder("POST", "/volumes", &body)["volume"], "id")?;
    wait(cloud, &format!("/volumes/{id}"), |said| said["volume"]["status"] == "available")?;
    Ok(id)
}

/// Removes a volume or snapshot, and waits until it is gone.
fn remove(cloud: &Cloud, kind: &str, id: &str) -> Result<()> {
    let path = format!("/{kind}/{id}");
    wait(cloud, &path, |said| said["volume"]["status"] != "detaching")?;
    cloud.cinder("DELETE", &path, &Value::Null);
    wait(cloud, &path, |said| said["itemNotFound"].is_object())
}

/// Waits until Cinder says this.
fn wait(cloud: &Cloud, path: &str, is_so: impl Fn(&Value) -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let said = cloud.cinder("GET", path, &Value::Null);
        if is_so(&said) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "after {} s Cinder still says: {said}", PATIENCE.as_secs());
        std::thread::sleep(LOOK);
    }
}

/// It is what was captured, byte for byte what stands in `source`, and its file system is in order.
fn holds(attached: &Attached<'_>, captured: &Captured, source: &Path) -> Result<()> {
    let copy = attached.copied_to(source.with_extension("from-cinder"))?;
    let at = &attached.disk.at;
    ensure!(blake3_of(&copy)? == captured.root, "{at} has another root than generation {}", captured.number);
    ensure!(same_bytes(source, &copy)?, "{at} differs from {}", source.display());
    guest::check_fs(&copy)?;
    std::fs::remove_file(&copy)?;
    Ok(())
}

fn text(value: &Value, key: &str) -> Result<String> {
    Ok(value[key].as_str().with_context(|| format!("no {key} in {value}"))?.to_owned())
}
