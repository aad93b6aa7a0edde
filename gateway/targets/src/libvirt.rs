//! Domains of libvirt on rehydrated disks: defined from a template, started when somebody asks, removed without a trace.
//!
//! Through `virsh`: the C library would bring its threads, its callbacks and its version into the gateway for a handful of calls an hour, and what was done
//! can be done again by hand. A domain is ours when its metadata say so; no other is ever changed. Disks get an overlay each, which is thrown away with the
//! domain, so that what boots cannot spoil a point.

use crate::error::TargetError;
use crate::pause::Stop;
use crate::program::Run;
use crate::xml::escape;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What marks a domain as ours, in its metadata.
const OURS: &str = "urn:sluice:domain:1";
/// Bytes of a template at most.
const MOST_TEMPLATE: u64 = 256 << 10;
/// Disks of a domain at most: `a` to `z` of one bus.
pub const MOST_DISKS: usize = 26;
/// MiB of memory of a domain at most: more is a mistyped number, not a machine.
const MOST_MEMORY: u64 = 4 << 20;
/// Processors of a domain at most: the same.
const MOST_PROCESSORS: u32 = 1024;
/// For one call.
const LONGEST: Duration = Duration::from_secs(120);
/// For a look at what all domains do: whoever opens a page waits for it.
const LONGEST_LOOK: Duration = Duration::from_secs(15);
/// A machine that boots what old servers booted: BIOS, no network, a serial console.
const TEMPLATE: &str = include_str!("libvirt/domain.xml");

/// What is to be defined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Its name: letters, digits, `-`, `_` and `.`, at most 100.
    pub name: String,
    /// MiB of memory.
    pub memory: u64,
    /// Processors.
    pub vcpus: u32,
    /// Its disks, the one to boot from first.
    pub disks: Vec<Disk>,
    /// A file with a domain's XML in which `@NAME@`, `@MEMORY@` (MiB), `@VCPUS@`, `@DISKS@` and `@METADATA@` (inside `<metadata>`) are filled in; else a
    /// machine with BIOS and no network.
    pub template: Option<PathBuf>,
    /// The folder for overlays that are thrown away with the domain. `None`: the disks themselves are written, which makes them points no more.
    pub overlays: Option<PathBuf>,
}

/// A disk of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Where it is.
    pub path: PathBuf,
    /// `raw`, `qcow2` or `vpc`.
    pub format: String,
    /// `virtio`, `sata`, `scsi` or `ide`.
    pub bus: String,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Libvirt {
    uri: String,
    stop: Stop,
}

impl Libvirt {
    /// A libvirt by its address, such as `qemu:///system`.
    pub fn new(uri: &str, stop: &Stop) -> Libvirt {
        Libvirt { uri: uri.to_owned(), stop: stop.clone() }
    }

    /// Defines a domain and does not start it. One of ours of this name that does not run is replaced.
    ///
    /// # Errors
    /// [`TargetError::Conflict`] when the name is taken by a domain that is not ours, or that runs; [`TargetError::Unfit`] for what no domain can be.
    pub fn define(&self, domain: &Domain) -> Result<(), TargetError> {
        check(domain)?;
        let template = template(domain)?;
        if let Some(state) = self.state(&domain.name)? {
            self.check_ours(&domain.name)?;
            if state != "shut off" {
                return Err(TargetError::Conflict(format!("the domain {} is {state}; end it first", domain.name)));
            }
        }
        self.remove(&domain.name, domain.overlays.as_deref())?;
        let disks = self.disks(domain)?;
        let xml = fill(&template, domain, &disks);
        let args = ["define".as_ref(), "--validate".as_ref(), "/dev/stdin".as_ref()];
        self.virsh_with(&args, xml.as_bytes()).map(|_| ())
    }

    /// Starts a domain of ours.
    pub fn start(&self, name: &str) -> Result<(), TargetError> {
        self.check_ours(name)?;
        self.virsh(&["start".as_ref(), "--domain".as_ref(), name.as_ref()]).map(|_| ())
    }

    /// What a domain does, in libvirt's words; `None`: there is none of this name.
    pub fn state(&self, name: &str) -> Result<Option<String>, TargetError> {
        check_name(name)?;
        let all = self.virsh(&["list".as_ref(), "--all".as_ref(), "--name".as_ref()])?;
        if !all.lines().any(|line| line == name) {
            return Ok(None);
        }
        let state = self.virsh(&["domstate".as_ref(), "--domain".as_ref(), name.as_ref()])?;
        Ok(Some(state.trim().to_owned()))
    }

    /// What all domains do, ours and others', by name, in libvirt's words. One call, however many there are.
    pub fn states(&self) -> Result<BTreeMap<String, String>, TargetError> {
        let args = self.args(&["domstats".as_ref(), "--state".as_ref()]);
        let run = Run { program: "virsh", args: &args, input: b"", longest: LONGEST_LOOK, stop: &self.stop };
        Ok(states_of(&run.well()?))
    }

    /// Ends a domain of ours as pulling the plug does, removes it, and its overlays. That it is gone already is no error.
    pub fn remove(&self, name: &str, overlays: Option<&Path>) -> Result<(), TargetError> {
        if let Some(state) = self.state(name)? {
            self.check_ours(name)?;
            if state != "shut off" {
                self.virsh(&["destroy".as_ref(), "--domain".as_ref(), name.as_ref()])?;
            }
            self.virsh(&["undefine".as_ref(), "--domain".as_ref(), name.as_ref(), "--nvram".as_ref()])?;
        }
        let Some(folder) = overlays else { return Ok(()) };
        (0..MOST_DISKS).try_for_each(|at| crate::raw::remove(&overlay(folder, name, at)))
    }

    fn check_ours(&self, name: &str) -> Result<(), TargetError> {
        let args = ["metadata".as_ref(), "--domain".as_ref(), name.as_ref(), "--uri".as_ref(), OURS.as_ref()];
        let args = self.args(&args);
        match (Run { program: "virsh", args: &args, input: b"", longest: LONGEST, stop: &self.stop }).to_end()?.status {
            Some(0) => Ok(()),
            _ => Err(TargetError::Conflict(format!(
                "the domain {name} was not defined by us (or is gone) and is left alone; choose another name"
            ))),
        }
    }

    /// The disks as the domain gets them: behind an overlay each, or themselves.
    fn disks(&self, domain: &Domain) -> Result<Vec<Disk>, TargetError> {
        let Some(folder) = &domain.overlays else { return Ok(domain.disks.clone()) };
        let behind = |(at, disk): (usize, &Disk)| {
            let path = overlay(folder, &domain.name, at);
            let args: [&OsStr; 9] = [
                "create".as_ref(),
                "-q".as_ref(),
                "-f".as_ref(),
                "qcow2".as_ref(),
                "-F".as_ref(),
                disk.format.as_ref(),
                "-b".as_ref(),
                disk.path.as_ref(),
                path.as_ref(),
            ];
            Run { program: "qemu-img", args: &args, input: b"", longest: LONGEST, stop: &self.stop }.well()?;
            Ok(Disk { path, format: "qcow2".into(), bus: disk.bus.clone() })
        };
        domain.disks.iter().enumerate().map(behind).collect()
    }

    fn args<'a>(&'a self, args: &[&'a OsStr]) -> Vec<&'a OsStr> {
        [&["--quiet".as_ref(), "--connect".as_ref(), self.uri.as_ref()], args].concat()
    }

    fn virsh(&self, args: &[&OsStr]) -> Result<String, TargetError> {
        self.virsh_with(args, b"")
    }

    fn virsh_with(&self, args: &[&OsStr], input: &[u8]) -> Result<String, TargetError> {
        let args = self.args(args);
        Run { program: "virsh", args: &args, input, longest: LONGEST, stop: &self.stop }.well()
    }
}

/// What `virsh domstats --state` says: `Domain: 'NAME'`, then a line for each figure. The numbers are libvirt's `virDomainState`, which never change.
fn states_of(said: &str) -> BTreeMap<String, String> {
    let (mut states, mut name) = (BTreeMap::new(), None);
    for line in said.lines() {
        if let Some(named) = line.strip_prefix("Domain: '").and_then(|rest| rest.strip_suffix('\'')) {
            name = Some(named);
        } else if let Some((name, number)) = name.zip(line.trim().strip_prefix("state.state=")) {
            let word = match number {
                "1" => "running",
                "2" => "idle",
                "3" => "paused",
                "4" => "in shutdown",
                "5" => "shut off",
                "6" => "crashed",
                "7" => "pmsuspended",
                _ => "no state",
            };
            states.insert(name.to_owned(), word.to_owned());
        }
    }
    states
}

fn overlay(folder: &Path, name: &str, at: usize) -> PathBuf {
    folder.join(format!("{name}.{at}.overlay.qcow2"))
}

fn check_name(name: &str) -> Result<(), TargetError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    match (1..=100).contains(&name.len()) && name.bytes().all(fits) && name.as_bytes()[0].is_ascii_alphanumeric() {
        true => Ok(()),
        false => Err(TargetError::Unfit(format!(
            "`{}` is no name for a domain: at most 100 letters, digits, `-`, `_` and `.`, a letter or digit first",
            name.escape_default()
        ))),
    }
}

/// The name is looked at whenever libvirt is asked for it.
fn check(domain: &Domain) -> Result<(), TargetError> {
    if domain.disks.is_empty() || domain.disks.len() > MOST_DISKS {
        return Err(TargetError::Unfit(format!("a domain has 1 to {MOST_DISKS} disks, not {}", domain.disks.len())));
    }
    if !(1..=MOST_MEMORY).contains(&domain.memory) || !(1..=MOST_PROCESSORS).contains(&domain.vcpus) {
        return Err(TargetError::Unfit(format!(
            "a domain has 1 to {MOST_MEMORY} MiB of memory and 1 to {MOST_PROCESSORS} processors, not {} and {}",
            domain.memory, domain.vcpus
        )));
    }
    for disk in &domain.disks {
        let is_known = matches!(disk.format.as_str(), "raw" | "qcow2" | "vpc")
            && matches!(disk.bus.as_str(), "virtio" | "sata" | "scsi" | "ide");
        if !is_known
            || !disk.path.is_absolute()
            || disk.path.to_str().is_none_or(|path| path.chars().any(char::is_control))
        {
            return Err(TargetError::Unfit(format!(
                "the disk {} ({}, {}) fits no domain: an absolute path, raw, qcow2 or vpc, on virtio, sata, scsi or ide",
                disk.path.display(),
                disk.format,
                disk.bus
            )));
        }
    }
    Ok(())
}

fn template(domain: &Domain) -> Result<String, TargetError> {
    let Some(path) = &domain.template else { return Ok(TEMPLATE.to_owned()) };
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MOST_TEMPLATE + 1).read_to_string(&mut text));
    if read.map_err(TargetError::io("read", path))? as u64 > MOST_TEMPLATE {
        return Err(TargetError::Unfit(format!(
            "{} has more than {MOST_TEMPLATE} bytes, which no domain has",
            path.display()
        )));
    }
    // Without the mark the domain would not be ours, and nobody could remove it.
    match ["@NAME@", "@DISKS@", "@METADATA@"].iter().find(|word| text.matches(**word).count() != 1) {
        Some(word) => Err(TargetError::Unfit(format!("{} has to have {word} exactly once", path.display()))),
        None => Ok(text),
    }
}

/// The domain's XML. What is filled in is escaped, and what was filled in is not looked at again.
fn fill(template: &str, domain: &Domain, disks: &[Disk]) -> String {
    let disks: String = disks.iter().enumerate().map(|(at, disk)| disk_xml(at, disk)).collect();
    let mark = format!("<sluice:domain xmlns:sluice='{OURS}'/>");
    let values = [
        ("@NAME@", escape(&domain.name)),
        ("@MEMORY@", domain.memory.to_string()),
        ("@VCPUS@", domain.vcpus.to_string()),
        ("@DISKS@", disks),
        ("@METADATA@", mark),
    ];
    let (mut xml, mut rest) = (String::new(), template);
    while let Some(at) = rest.find('@') {
        xml += &rest[..at];
        rest = &rest[at..];
        let (word, value) = values.iter().find(|(word, _)| rest.starts_with(word)).map_or(("@", "@"), |(w, v)| (w, v));
        xml += value;
        rest = &rest[word.len()..];
    }
    xml + rest
}

fn disk_xml(at: usize, disk: &Disk) -> String {
    let prefix = match disk.bus.as_str() {
        "virtio" => "vd",
        "ide" => "hd",
        _ => "sd",
    };
    let letter = char::from(b'a' + at as u8); // 26 at most
    let path = disk.path.to_string_lossy();
    format!(
        "\n    <disk type='file' device='disk'><driver name='qemu' type='{}'/><source file='{}'/><target dev='{prefix}{letter}' bus='{}'/></disk>",
        escape(&disk.format),
        escape(&path),
        escape(&disk.bus)
    )
}
