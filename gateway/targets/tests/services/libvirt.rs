//! Domains of a real libvirtd, which starts guests by software emulation.

use crate::service;
use std::path::{Path, PathBuf};
use std::process::Command;
use targets::libvirt::{Disk, Domain, Libvirt};
use targets::{Stop, TargetError};

/// A disk that boots: the BIOS loads its first sector, which writes this to the serial line and halts.
const SAYS: &[u8] = b"sluice boots\n\0";

fn bootable(path: &Path) {
    // xor ax,ax; mov ds,ax; cld; mov si,0x7c16; next: lodsb; test al,al; jz halt; mov dx,0x3f8; out dx,al; jmp next; halt: hlt; jmp halt
    let mut disk = vec![0x31, 0xc0, 0x8e, 0xd8, 0xfc, 0xbe, 0x16, 0x7c, 0xac, 0x84, 0xc0, 0x74, 0x06, 0xba, 0xf8, 0x03];
    disk.extend([0xee, 0xeb, 0xf5, 0xf4, 0xeb, 0xfd]);
    disk.extend(SAYS);
    disk.resize(1 << 20, 0);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    std::fs::write(path, disk).unwrap();
}

struct World {
    libvirt: Libvirt,
    uri: String,
    dir: tempfile::TempDir,
    name: String,
}

fn world(test: &str) -> Option<World> {
    let uri = service::find("libvirt")?.get("SLUICE_LIBVIRT_URI");
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("over <&'\"> lays")).unwrap();
    let name = format!("{test}-{}", std::process::id());
    Some(World { libvirt: Libvirt::new(&uri, &Stop::default()), uri, dir, name })
}

impl World {
    fn overlays(&self) -> PathBuf {
        self.dir.path().join("over <&'\"> lays")
    }

    /// A domain on a disk that boots, whose serial line is a file.
    fn domain(&self) -> Domain {
        let disk = self.dir.path().join("disk & <one>.raw");
        bootable(&disk);
        let template = self.dir.path().join("template.xml");
        let said = self.dir.path().join("said");
        let serial = format!("<serial type='file'><source path='{}'/></serial>", said.display());
        let text = include_str!("../../src/libvirt/domain.xml").replace("<serial type='pty'/>", &serial);
        std::fs::write(&template, text.replace("    <console type='pty'/>\n", "")).unwrap();
        Domain {
            name: self.name.clone(),
            memory: 64,
            vcpus: 1,
            disks: vec![Disk { path: disk, format: "raw".into(), bus: "virtio".into() }],
            template: Some(template),
            overlays: Some(self.overlays()),
        }
    }

    fn virsh(&self, args: &[&str]) -> String {
        let out = Command::new("virsh").args(["-q", "-c", &self.uri]).args(args).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    }
}

#[test]
fn a_domain_is_defined_started_when_asked_and_leaves_nothing_behind() {
    let Some(world) = world("boots") else { return };
    let (libvirt, domain) = (&world.libvirt, world.domain());
    let before = std::fs::read(&domain.disks[0].path).unwrap();
    libvirt.define(&domain).unwrap();
    assert_eq!(libvirt.state(&world.name).unwrap().as_deref(), Some("shut off"), "nobody asked for a start");
    assert_eq!(libvirt.states().unwrap().get(&world.name).unwrap(), "shut off");
    libvirt.define(&domain).unwrap(); // ours, replaced
    let disk = format!("/{}.0.overlay.qcow2'/>", world.name);
    assert!(world.virsh(&["dumpxml", &world.name]).contains(&disk), "the guest writes to an overlay");
    libvirt.start(&world.name).unwrap();
    let said = world.dir.path().join("said");
    while std::fs::read(&said).unwrap_or_default() != SAYS[..SAYS.len() - 1] {
        assert_eq!(libvirt.state(&world.name).unwrap().as_deref(), Some("running"));
    }
    assert_eq!(libvirt.states().unwrap().get(&world.name).unwrap(), "running");
    let running = libvirt.define(&domain).unwrap_err().to_string();
    assert_eq!(running, format!("the domain {} is running; end it first", world.name));
    libvirt.remove(&world.name, Some(&world.overlays())).unwrap();
    libvirt.remove(&world.name, Some(&world.overlays())).unwrap();
    assert_eq!(libvirt.state(&world.name).unwrap(), None);
    assert_eq!(std::fs::read_dir(world.overlays()).unwrap().count(), 0, "the overlay is gone");
    assert_eq!(std::fs::read(&domain.disks[0].path).unwrap(), before, "the point is as it was");
}

#[test]
fn a_domain_that_is_not_ours_is_left_alone() {
    let Some(world) = world("foreign") else { return };
    let foreign = world.dir.path().join("foreign.xml");
    let xml = format!(
        "<domain type='qemu'><name>{}</name><memory>65536</memory><os><type>hvm</type></os></domain>",
        world.name
    );
    std::fs::write(&foreign, xml).unwrap();
    world.virsh(&["define", foreign.to_str().unwrap()]);
    let domain = world.domain();
    let refused = [
        world.libvirt.define(&domain).unwrap_err(),
        world.libvirt.start(&world.name).unwrap_err(),
        world.libvirt.remove(&world.name, Some(&world.overlays())).unwrap_err(),
    ];
    let state = world.libvirt.state(&world.name).unwrap();
    world.virsh(&["undefine", &world.name]);
    for refused in refused {
        assert!(matches!(&refused, TargetError::Conflict(why) if why.contains("was not defined by us")), "{refused}");
    }
    assert_eq!(state.as_deref(), Some("shut off"));
}

#[test]
fn a_machine_of_the_built_in_template_can_be_defined_with_each_bus() {
    let Some(world) = world("plain") else { return };
    for bus in ["virtio", "sata", "scsi"] {
        let mut domain = Domain { template: None, overlays: None, ..world.domain() };
        domain.disks[0].bus = bus.into();
        world.libvirt.define(&domain).unwrap();
        let xml = world.virsh(&["dumpxml", &world.name]);
        assert!(xml.contains("disk &amp; &lt;one&gt;.raw'/>") && !xml.contains("<interface"), "{xml}");
    }
    world.libvirt.remove(&world.name, None).unwrap();
}

#[test]
fn what_is_no_domain_is_refused_before_libvirt_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let libvirt = Libvirt::new("qemu:///nowhere", &Stop::default());
    let disk = Disk { path: "/x".into(), format: "raw".into(), bus: "virtio".into() };
    let good =
        Domain { name: "a".into(), memory: 64, vcpus: 1, disks: vec![disk.clone()], template: None, overlays: None };
    let unmarked = dir.path().join("t.xml");
    std::fs::write(&unmarked, "<domain><name>@NAME@</name>@DISKS@</domain>").unwrap();
    let wrong = [
        Domain { name: "-x".into(), ..good.clone() },
        Domain { name: "a\nb".into(), ..good.clone() },
        Domain { disks: Vec::new(), ..good.clone() },
        Domain { memory: 0, ..good.clone() },
        Domain { memory: 5 << 20, ..good.clone() },
        Domain { vcpus: 0, ..good.clone() },
        Domain { vcpus: 2000, ..good.clone() },
        Domain { disks: vec![Disk { path: "x".into(), ..disk.clone() }], ..good.clone() },
        Domain { disks: vec![Disk { format: "vmdk".into(), ..disk }], ..good.clone() },
        Domain { template: Some(unmarked), ..good },
    ];
    for domain in wrong {
        let refused = libvirt.define(&domain).unwrap_err();
        assert!(matches!(refused, TargetError::Unfit(_)), "{refused}");
    }
}
