//! What is pasted into a shell to use an export: for nbdinfo, QEMU and the kernel's client.

use crate::admin::ExportLine;
use crate::export::SOCKET;
use std::path::Path;

/// Where the commands take a client's certificates from.
pub(super) const CERTIFICATES: &str = "/etc/pki/nbd";

/// Where a client connects to.
pub(super) enum Place {
    /// The socket in the gateway's state.
    Here { socket: String },
    /// An address, by TLS or plainly.
    Afar { address: String, host: String, port: String, is_encrypted: bool },
}

impl Place {
    /// Of one of an export's URIs.
    pub(super) fn of(uri: &str, line: &ExportLine, state: &Path) -> Place {
        let (scheme, rest) = uri.split_once("://").unwrap_or_default();
        let address = rest.split('/').next().unwrap_or_default();
        match address.rsplit_once(':') {
            Some((host, port)) => Place::Afar {
                address: address.into(),
                host: host.trim_matches(['[', ']']).into(),
                port: port.into(),
                is_encrypted: scheme == "nbds",
            },
            None => {
                debug_assert!(line.served && scheme == "nbd+unix", "{uri}");
                Place::Here { socket: state.join(SOCKET).display().to_string() }
            }
        }
    }

    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self, Place::Afar { is_encrypted: true, .. })
    }

    /// A command a line: they look at it, boot from it, and make it a device.
    pub(super) fn commands(&self, uri: &str, line: &ExportLine) -> [String; 3] {
        let mode = if line.writable { "" } else { ",readonly=on" };
        let drive = |file: &str| quoted(&format!("{file},format=raw,if=virtio{mode}"));
        let name = quoted(&line.name);
        match self {
            Place::Here { socket } => [
                format!("nbdinfo {}", quoted(uri)),
                format!("qemu-system-x86_64 -m 2048 -drive {}", drive(&format!("file={}", uri.replace(',', ",,")))),
                format!("nbd-client -unix {} /dev/nbd0 -N {name}", quoted(socket)),
            ],
            Place::Afar { host, port, is_encrypted: false, .. } => [
                format!("nbdinfo {}", quoted(uri)),
                format!("qemu-system-x86_64 -m 2048 -drive {}", drive(&format!("file={uri}"))),
                format!("nbd-client {host} {port} /dev/nbd0 -N {name}"),
            ],
            Place::Afar { host, port, .. } => [
                format!("nbdinfo {}", quoted(&format!("{uri}?tls-certificates={CERTIFICATES}"))),
                format!(
                    "qemu-system-x86_64 -m 2048 -object tls-creds-x509,id=tls,dir={CERTIFICATES},endpoint=client -drive {}",
                    drive(&format!("driver=nbd,host={host},port={port},export={},tls-creds=tls", line.name))
                        .replace(",format=raw", "")
                ),
                format!(
                    "nbd-client {host} {port} /dev/nbd0 -N {name} -cacertfile {CERTIFICATES}/ca-cert.pem -certfile {CERTIFICATES}/client-cert.pem -keyfile {CERTIFICATES}/client-key.pem"
                ),
            ],
        }
    }
}

/// A text as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
