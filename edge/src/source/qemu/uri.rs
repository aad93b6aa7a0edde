//! Which disk of which machine: `qemu:/PATH/OF/MONITOR?disk=NAME`.

use crate::source::nbd::uri::{encoded, named};
use std::fmt;
use std::path::PathBuf;

/// How it is written, for who wrote it otherwise.
pub const EXAMPLE: &str = "qemu:/PATH/OF/QMP.sock?disk=NAME";

/// A disk of a running machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QemuDisk {
    /// Its QMP monitor's socket.
    pub socket: PathBuf,
    /// What the machine calls the disk: the id of the device (`-device …,id=`) or of the drive, or the name of its node.
    pub disk: String,
}

impl QemuDisk {
    /// Parses what stands behind `qemu:`; the error says what is wrong.
    pub fn parse(text: &str) -> Result<QemuDisk, String> {
        let (path, query) = text.split_once('?').ok_or("it has no `?disk=`")?;
        let disk =
            query.strip_prefix("disk=").filter(|name| !name.contains('&')).ok_or("behind `?` only `disk=` is known")?;
        let (socket, disk) = (PathBuf::from(named("the monitor's path", path)?), named("the disk", disk)?);
        match (socket.is_absolute(), disk.is_empty()) {
            (false, _) => {
                Err("the monitor needs an absolute path, because the daemon runs in another directory".into())
            }
            (_, true) => Err("`disk` has no name".into()),
            _ => Ok(QemuDisk { socket, disk }),
        }
    }
}

impl fmt::Display for QemuDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "qemu:{}?disk={}", encoded(&self.socket.to_string_lossy()), encoded(&self.disk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_of_a_machine_is_written_with_its_monitor() {
        for (text, shown) in [
            ("/run/erp.qmp?disk=vda", "qemu:/run/erp.qmp?disk=vda"),
            ("/run/a%3Fb?disk=%23block1", "qemu:/run/a%3Fb?disk=%23block1"),
        ] {
            let disk = QemuDisk::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!(disk.to_string(), shown);
        }
        for (text, why) in [
            ("/run/erp.qmp", "no `?disk=`"),
            ("/run/erp.qmp?node=a", "only `disk=`"),
            ("/run/erp.qmp?disk=a&x=b", "only `disk=`"),
            ("run/erp.qmp?disk=a", "absolute path"),
            ("/run/erp.qmp?disk=", "no name"),
            ("/run/%00?disk=a", "control"),
        ] {
            let refused = QemuDisk::parse(text).expect_err(text);
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }
}
