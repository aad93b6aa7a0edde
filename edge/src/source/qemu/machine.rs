//! What is done in a running machine so that one of its disks can be read as it was at one moment, and how it is undone.
//!
//! ```text
//!   guest ──► filter ──────► disk's node ◄── bitmap since-TAG: what is written from now on
//!               │ before a part is overwritten, its old bytes
//!               ▼
//!            scratch (a file without a name, ours)          frozen ── export TAG ──► NBD, read by us
//!                                                             └─ the old bytes where there are some, else the disk's
//! ```
//!
//! Order, and why a crash anywhere is harmless: bitmap, scratch, filter (its insertion is the moment that is captured), frozen, server, export. Each has a name
//! that begins with `sluice-`; whoever opens the machine next removes what is there ([`Machine::tidy`]). What is left until then costs the guest one copy
//! of each part that it overwrites. A scratch that is full, slow or gone gives the moment up, never the guest's write (`break-snapshot`, `cbw-timeout`).
//!
//! The bitmap comes before the filter and not in one transaction with it: what is written between the two is in the bitmap *and* in the moment, which costs
//! reading it twice and loses nothing.
//!
//! Source: QEMU's QMP reference, docs/interop/bitmaps.rst, the drivers `copy-before-write` and `snapshot-access`.

use super::QemuError;
use super::monitor::Monitor;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// The first QEMU whose filters give a moment up rather than the guest's write.
const OLDEST: (u64, u64) = (7, 1);
/// Seconds that a write of the guest waits for the scratch at most.
pub(super) const GUEST_WAITS: u64 = 10;
/// Of bitmaps that follow changes: a leaf. See docs/design/sources.md for what other grains cost.
const GRAIN: usize = dedupe::LEAF;
/// Connections that QEMU lets in.
const CONNECTIONS: usize = 16;
/// How often, and after how much each time, it is asked whether an export has gone.
const GONE: (u32, Duration) = (500, Duration::from_millis(20));

/// Everything of ours in a machine has a name that begins so. Names of nodes have 31 bytes at most.
const OURS: &str = "sluice-";
const SINCE: &str = "sluice-since-";
const READ: &str = "sluice-read-";
const FILTER: &str = "sluice-filter-";
const SCRATCH: &str = "sluice-scratch-";
const FROZEN: &str = "sluice-frozen-";
/// An empty node that says that the NBD server is ours: there is one server in a machine, and nothing else tells whose it is.
const SERVER: &str = "sluice-server-";

/// A machine, by its monitor.
pub(super) struct Machine {
    socket: PathBuf,
    monitor: Monitor,
}

/// One of its disks, as the guest has it.
#[derive(Clone, Debug)]
pub(super) struct Device {
    /// The QOM path of what the guest sees.
    path: String,
    /// The node with the disk's bytes, to which bitmaps belong.
    pub(super) node: String,
    /// Its format: `qcow2` keeps bitmaps while the machine is off.
    pub(super) format: String,
    /// In bytes.
    pub(super) size: u64,
}

/// A bitmap as QEMU describes it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct BitmapInfo {
    #[serde(default)]
    name: String,
    recording: bool,
    #[serde(default)]
    inconsistent: bool,
    /// Bytes that are dirty.
    count: u64,
}

#[derive(Deserialize)]
struct Block {
    #[serde(default)]
    device: String,
    qdev: Option<String>,
    inserted: Option<Inserted>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Inserted {
    #[serde(default)]
    node_name: String,
    drv: String,
    image: Image,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Image {
    virtual_size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Node {
    node_name: String,
    #[serde(default)]
    dirty_bitmaps: Vec<BitmapInfo>,
}

impl Block {
    fn path(&self) -> Option<String> {
        let qdev = self.qdev.as_ref()?;
        Some(if qdev.starts_with('/') { qdev.clone() } else { format!("/machine/peripheral/{qdev}") })
    }

    /// The device's id: the last word of its path, but for the half of a virtio device that is everywhere called the same.
    fn id(&self) -> Option<String> {
        let path = self.path()?;
        path.trim_end_matches("/virtio-backend").rsplit('/').next().map(str::to_owned)
    }

    fn names(&self) -> impl Iterator<Item = String> {
        let node = self.inserted.as_ref().map(|inserted| inserted.node_name.clone());
        [self.id(), Some(self.device.clone()), node].into_iter().flatten().filter(|name| !name.is_empty())
    }
}

impl Machine {
    /// Opens its monitor.
    pub(super) fn open(socket: &Path) -> Result<Machine, QemuError> {
        let monitor = Monitor::connect(socket)?;
        if monitor.version < OLDEST {
            let (major, minor) = monitor.version;
            let why = format!(
                "it is QEMU {major}.{minor}, and {}.{} is the first that can read a disk as it was at one moment without risk to its guest",
                OLDEST.0, OLDEST.1
            );
            let next = "export its disk by qemu-nbd while it is off, or use a snapshot of the storage below it (docs/sources.md)";
            return Err(QemuError::of(socket, "use it", why, next));
        }
        Ok(Machine { socket: socket.into(), monitor })
    }

    fn error(&self, what: &str, why: impl Into<String>, next: &str) -> QemuError {
        QemuError::of(&self.socket, what, why, next)
    }

    fn ask<T: DeserializeOwned>(&mut self, command: &str, arguments: Value) -> Result<T, QemuError> {
        let told = self.monitor.run(command, arguments)?;
        serde_json::from_value(told).map_err(|error| {
            self.error(
                &format!("understand its answer to {command}"),
                error.to_string(),
                "this QEMU is newer than Sluice knows; report it",
            )
        })
    }

    fn nodes(&mut self) -> Result<Vec<Node>, QemuError> {
        self.ask("query-named-block-nodes", json!({"flat": true}))
    }

    fn exports(&mut self) -> Result<Vec<String>, QemuError> {
        #[derive(Deserialize)]
        struct Export {
            id: String,
        }
        let exports: Vec<Export> = self.ask("query-block-exports", json!({}))?;
        Ok(exports.into_iter().map(|export| export.id).collect())
    }

    /// Finds a disk by one of its names, in a machine that is tidy.
    pub(super) fn find(&mut self, name: &str) -> Result<Device, QemuError> {
        let blocks: Vec<Block> = self.ask("query-block", json!({}))?;
        let Some(block) = blocks.iter().find(|block| block.names().any(|known| known == name)) else {
            let known: Vec<String> = blocks.iter().filter_map(|block| block.names().next()).collect();
            let why = format!(
                "it has no disk `{name}`; it has: {}",
                if known.is_empty() { "none".into() } else { known.join(", ") }
            );
            return Err(self.error("use it", why, "name one of these in `disk=`"));
        };
        let (Some(path), Some(inserted)) = (block.path(), &block.inserted) else {
            let why = format!("no device of the guest uses the disk `{name}`, or nothing is in it");
            return Err(self.error("use it", why, "name a disk that the guest has"));
        };
        Ok(Device {
            path,
            node: inserted.node_name.clone(),
            format: inserted.drv.clone(),
            size: inserted.image.virtual_size,
        })
    }

    /// Removes everything of ours but the bitmaps that follow changes, and says whether there was anything.
    pub(super) fn tidy(&mut self) -> Result<bool, QemuError> {
        let exports = self.exports()?;
        let (ours, others): (Vec<_>, Vec<_>) = exports.into_iter().partition(|id| id.starts_with(OURS));
        for id in &ours {
            self.monitor.run("block-export-del", json!({"id": id, "mode": "hard"}))?;
        }
        self.await_gone()?;
        let nodes = self.nodes()?;
        let is_ours = |node: &&Node| node.node_name.starts_with(OURS);
        let left = !ours.is_empty() || nodes.iter().any(|node| is_ours(&node));
        if nodes.iter().any(|node| node.node_name.starts_with(SERVER)) && others.is_empty() {
            // Refused where it did not start.
            let _ = self.monitor.try_run("nbd-server-stop", json!({}))?;
        }
        for prefix in [SERVER, FROZEN, FILTER, SCRATCH] {
            if prefix == FILTER {
                self.take_filters_out(&nodes)?;
            }
            for node in nodes.iter().filter(|node| node.node_name.starts_with(prefix)) {
                self.monitor.run("blockdev-del", json!({"node-name": node.node_name}))?;
            }
        }
        for node in nodes.iter().filter(|node| !is_ours(node)) {
            for bitmap in node.dirty_bitmaps.iter().filter(|bitmap| bitmap.name.starts_with(READ)) {
                self.remove_bitmap(&node.node_name, &bitmap.name)?;
            }
        }
        self.close_files()?;
        Ok(left)
    }

    /// Waits until no export of ours is left: its clients are disconnected, but that takes a moment.
    fn await_gone(&mut self) -> Result<(), QemuError> {
        for _ in 0..GONE.0 {
            if !self.exports()?.iter().any(|id| id.starts_with(OURS)) {
                return Ok(());
            }
            sleep(GONE.1);
        }
        Err(self.error("end an export of it", "it does not end", "the next capture tries again"))
    }

    /// Gives the guest's devices their disks back. A disk is known by the bitmap that has the filter's tag.
    fn take_filters_out(&mut self, nodes: &[Node]) -> Result<(), QemuError> {
        let blocks: Vec<Block> = self.ask("query-block", json!({}))?;
        for block in &blocks {
            let (Some(path), Some(inserted)) = (block.path(), &block.inserted) else { continue };
            let Some(tag) = inserted.node_name.strip_prefix(FILTER) else { continue };
            let since = format!("{SINCE}{tag}");
            let disk = nodes.iter().find(|node| {
                !node.node_name.starts_with(OURS) && node.dirty_bitmaps.iter().any(|bitmap| bitmap.name == since)
            });
            let Some(disk) = disk else {
                let why =
                    format!("the bitmap {since} is gone, by which the disk below {} is known", inserted.node_name);
                return Err(self.error(
                    "give its guest the disk back",
                    why,
                    "it goes on working; restart the machine when that is possible",
                ));
            };
            self.monitor.run("qom-set", json!({"path": path, "property": "drive", "value": disk.node_name}))?;
        }
        Ok(())
    }

    /// QEMU closes the files that were given to it and are of no use any more.
    fn close_files(&mut self) -> Result<(), QemuError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct Set {
            fdset_id: u64,
            fds: Vec<Given>,
        }
        #[derive(Deserialize)]
        struct Given {
            #[serde(default)]
            opaque: String,
        }
        let sets: Vec<Set> = self.ask("query-fdsets", json!({}))?;
        for set in sets.iter().filter(|set| set.fds.iter().any(|given| given.opaque.starts_with(OURS))) {
            // One that was removed stays listed while the machine is paused.
            let _ = self.monitor.try_run("remove-fd", json!({"fdset-id": set.fdset_id}))?;
        }
        Ok(())
    }

    /// Holds a disk at this moment, and begins to follow what is written from now on. Returns the name of the bitmap that does.
    pub(super) fn freeze(&mut self, device: &Device, tag: &str, scratch: &File) -> Result<String, QemuError> {
        let named = |prefix: &str| format!("{prefix}{tag}");
        let since = named(SINCE);
        self.monitor.run(
            "block-dirty-bitmap-add",
            json!({"node": device.node, "name": since, "granularity": GRAIN, "persistent": device.format == "qcow2"}),
        )?;
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct Added {
            fdset_id: u64,
        }
        let added = self.monitor.run_with("add-fd", json!({"opaque": named(OURS)}), Some(scratch.as_fd()))?;
        let Added { fdset_id } = serde_json::from_value(added).map_err(|error| {
            self.error("give it a file", error.to_string(), "this QEMU is newer than Sluice knows; report it")
        })?;
        self.monitor.run(
            "blockdev-add",
            json!({"driver": "raw", "node-name": named(SCRATCH), "file": {"driver": "file", "filename": format!("/dev/fdset/{fdset_id}")}}),
        )?;
        self.monitor.run(
            "blockdev-add",
            json!({"driver": "copy-before-write", "node-name": named(FILTER), "file": device.node, "target": named(SCRATCH),
                   "on-cbw-error": "break-snapshot", "cbw-timeout": GUEST_WAITS}),
        )?;
        self.monitor.run("qom-set", json!({"path": device.path, "property": "drive", "value": named(FILTER)}))?;
        self.monitor.run(
            "blockdev-add",
            json!({"driver": "snapshot-access", "node-name": named(FROZEN), "file": named(FILTER), "read-only": true}),
        )?;
        Ok(since)
    }

    /// Serves what was frozen under `tag`, to whoever connects to `listener`. Returns the export's name.
    pub(super) fn serve(&mut self, tag: &str, listener: &UnixListener) -> Result<String, QemuError> {
        let (handle, mark) = (format!("{OURS}{tag}"), format!("{SERVER}{tag}"));
        self.monitor
            .run("blockdev-add", json!({"driver": "null-co", "node-name": mark, "size": 0, "read-zeroes": true}))?;
        self.monitor.run_with("getfd", json!({"fdname": handle}), Some(listener.as_fd()))?;
        let started = self.monitor.try_run(
            "nbd-server-start",
            json!({"addr": {"type": "fd", "data": {"str": handle}}, "max-connections": CONNECTIONS}),
        )?;
        if let Err((_, why)) = started {
            self.monitor.run("blockdev-del", json!({"node-name": mark}))?;
            let next = "QEMU has one NBD server, which another program uses (a migration, another backup); the capture is tried again";
            return Err(self.error("start its NBD server", why, next));
        }
        self.export(tag, &handle, None)
    }

    fn export(&mut self, tag: &str, name: &str, bitmap: Option<(&str, &str)>) -> Result<String, QemuError> {
        let mut export =
            json!({"type": "nbd", "id": name, "name": name, "node-name": format!("{FROZEN}{tag}"), "writable": false});
        if let Some((node, bitmap)) = bitmap {
            export["bitmaps"] = json!([{"node": node, "name": bitmap}]);
        }
        self.monitor.run("block-export-add", export)?;
        Ok(name.to_owned())
    }

    /// The bitmaps of a node.
    fn bitmaps(&mut self, node: &str) -> Result<Vec<BitmapInfo>, QemuError> {
        let found = self.nodes()?.into_iter().find(|known| known.node_name == node);
        Ok(found.map(|node| node.dirty_bitmaps).unwrap_or_default())
    }

    /// Serves what is dirty in `since` until now, with the bytes that were frozen under `tag`. Returns the export's name and the bitmap's, and how many bytes are dirty.
    /// The copy that is served is as it was at this call; `round` tells the copies of one capture apart.
    pub(super) fn serve_changes(
        &mut self,
        device: &Device,
        tag: &str,
        since: &str,
        round: u32,
    ) -> Result<(String, String, u64), QemuError> {
        let (node, copy) = (&device.node, format!("{READ}{tag}-{round}"));
        self.monitor.run(
            "transaction",
            json!({"actions": [
                {"type": "block-dirty-bitmap-add", "data": {"node": node, "name": copy, "granularity": GRAIN, "disabled": true}},
                {"type": "block-dirty-bitmap-merge", "data": {"node": node, "target": copy, "bitmaps": [since]}},
            ]}),
        )?;
        let bytes = self.bitmaps(node)?.iter().find(|bitmap| bitmap.name == copy).map_or(0, |bitmap| bitmap.count);
        let export = self.export(tag, &format!("{OURS}{tag}-{round}"), Some((node, &copy)))?;
        Ok((export, copy, bytes))
    }

    /// Why a bitmap cannot say what changed since it was made; `None`: it can.
    pub(super) fn doubt(&mut self, device: &Device, since: &str) -> Result<Option<String>, QemuError> {
        let bitmaps = self.bitmaps(&device.node)?;
        Ok(match bitmaps.iter().find(|bitmap| bitmap.name == since) {
            None if device.format == "qcow2" => Some(
                "the machine has lost its bitmap: QEMU did not end well, or its disk was put back or replaced".into(),
            ),
            None => Some(format!(
                "the machine was off, and disks of the format {} lose their bitmaps then; qcow2 keeps them",
                device.format
            )),
            Some(bitmap) if bitmap.inconsistent => Some("QEMU did not end well, and its bitmap is not whole".into()),
            Some(bitmap) if !bitmap.recording => Some("its bitmap was stopped by somebody else".into()),
            Some(_) => None,
        })
    }

    /// Removes the bitmaps of ours but these.
    pub(super) fn forget(&mut self, device: &Device, kept: &[&str]) -> Result<(), QemuError> {
        for bitmap in self.bitmaps(&device.node)? {
            if bitmap.name.starts_with(SINCE) && !kept.contains(&bitmap.name.as_str()) {
                self.remove_bitmap(&device.node, &bitmap.name)?;
            }
        }
        Ok(())
    }

    /// Removes one bitmap.
    pub(super) fn remove_bitmap(&mut self, node: &str, name: &str) -> Result<(), QemuError> {
        self.monitor.run("block-dirty-bitmap-remove", json!({"node": node, "name": name})).map(drop)
    }
}
