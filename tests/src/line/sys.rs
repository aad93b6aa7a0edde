//! The two system calls that have no safe wrapper. Nothing else in this crate is unsafe.
#![allow(unsafe_code)]

use nix::libc;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

nix::ioctl_write_ptr_bad!(
    /// Attaches an open `/dev/net/tun` to a device.
    tunsetiff,
    nix::request_code_write!(b'T', 202, std::mem::size_of::<libc::c_int>()),
    libc::ifreq
);

/// Makes the open `/dev/net/tun` the TUN device `name` (IP packets without a header) of the calling thread's network namespace.
pub(super) fn attach_tun(tun: impl AsFd, name: &str) -> io::Result<()> {
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    let flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    let request = libc::ifreq { ifr_name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } };
    // SAFETY: the descriptor is open for the time of the call, and TUNSETIFF reads one ifreq with a terminated name and its flags.
    unsafe { tunsetiff(tun.as_fd().as_raw_fd(), &request) }?;
    Ok(())
}

/// Asks that this thread is woken before ordinary ones; refused without the right to, which only costs punctuality.
pub(super) fn prefer_this_thread() {
    let priority = libc::sched_param { sched_priority: 10 };
    // SAFETY: a plain system call about the calling thread with a valid parameter.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &priority) };
}
