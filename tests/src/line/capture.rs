//! Packets as they leave a namespace, with the kernel's timestamps: the evidence for what a sender put on its line. An emulator's own
//! stamps would include its wake-ups.

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeSpec;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;

/// One packet that left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Captured {
    /// Kernel time at which it was handed to the device, in nanoseconds since 1970.
    pub at: u64,
    /// Its IP bytes.
    pub bytes: u64,
    /// Its UDP source port.
    pub port: u16,
    /// Its UDP destination port.
    pub to: u16,
    /// Its DSCP (RFC 2474): 0 is the default class, 1 is lower effort (RFC 8622).
    pub dscp: u8,
}

/// A running capture of outgoing UDP packets over IPv4.
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Captured>>,
}

/// Headers are enough; the length comes from the kernel.
const HEADERS: usize = 64;
/// Room for the packets of a second at 100 Mbit/s while this thread does not run.
const BUFFER: usize = 32 << 20;

impl Capture {
    /// Begins in the network namespace of the calling thread. Needs CAP_NET_RAW.
    pub fn start() -> Result<Capture> {
        let fd = socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
            .context("open a packet socket")?;
        setsockopt(&fd, sockopt::ReceiveTimestampns, &true).context("ask for kernel timestamps")?;
        setsockopt(&fd, sockopt::RcvBufForce, &BUFFER).context("enlarge the packet socket's buffer")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut packets = Vec::new();
            while !stopped.load(Relaxed) {
                let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut polled, PollTimeout::from(20u8));
                while let Some(packet) = receive(&fd) {
                    packets.extend(packet);
                }
            }
            packets
        });
        Ok(Capture { stop, thread })
    }

    /// Ends it; the packets in order of time.
    pub fn finish(self) -> Vec<Captured> {
        self.stop.store(true, Relaxed);
        let mut packets = self.thread.join().unwrap_or_default();
        packets.sort_by_key(|packet| packet.at);
        packets
    }
}

/// The next packet, if there is one: Some(None) when it is none that counts.
fn receive(fd: &OwnedFd) -> Option<Option<Captured>> {
    let mut buffer = [0u8; HEADERS];
    let mut space = nix::cmsg_space!(TimeSpec);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
    let (outgoing, len, at) = loop {
        let mut iov = [IoSliceMut::new(&mut buffer)];
        match recvmsg::<LinkAddr>(fd.as_raw_fd(), &mut iov, Some(&mut space), flags) {
            Ok(message) => {
                let outgoing = message.address.is_some_and(|from| from.pkttype() == libc::PACKET_OUTGOING);
                let stamp = message.cmsgs().ok()?.find_map(|control| match control {
                    ControlMessageOwned::ScmTimestampns(time) => Some(time),
                    _ => None,
                });
                break (outgoing, message.bytes as u64, stamp);
            }
            Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    };
    let is_udp = buffer[0] >> 4 == 4 && buffer[9] == 17;
    let header = usize::from(buffer[0] & 15) * 4;
    Some(at.filter(|_| outgoing && is_udp && header + 4 <= HEADERS).map(|time| Captured {
        at: time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64,
        bytes: len,
        port: u16::from_be_bytes([buffer[header], buffer[header + 1]]),
        to: u16::from_be_bytes([buffer[header + 2], buffer[header + 3]]),
        dscp: buffer[1] >> 2,
    }))
}
