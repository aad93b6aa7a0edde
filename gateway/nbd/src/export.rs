//! What can be served: a range of bytes with its errors.

use std::io;
use std::ops::Range;

/// Something that is read and written as a block device.
///
/// Every call blocks and may come from any thread, several at a time; ranges that come from the server lie within `size`. What is said to be done by
/// [`flush`](Export::flush) holds for all writes that had returned before it was called, whoever made them: the server tells clients that they may
/// spread their work over several connections.
pub trait Export: Send + Sync {
    /// Bytes; never changes while it is served. Answered from memory.
    fn size(&self) -> u64;

    /// The block that it likes best, in bytes; clients may ask for any. Answered from memory.
    fn block(&self) -> u32 {
        4096
    }

    /// Whether all that changes it is refused with `EPERM`. Answered from memory.
    fn is_read_only(&self) -> bool;

    /// Fills all of `into` with the bytes at `at`.
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Failure>;

    /// Writes `bytes` at `at`. Durable after the next flush.
    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Failure>;

    /// Makes `range` read as zeroes; without `may_trim` the room for it is kept.
    fn zero(&self, range: Range<u64>, may_trim: bool) -> Result<(), Failure>;

    /// Says that nobody needs what `range` holds. It may read as anything that was there or as zeroes.
    fn trim(&self, range: Range<u64>) -> Result<(), Failure>;

    /// Makes durable all writes that have returned.
    fn flush(&self) -> Result<(), Failure>;

    /// What `range` holds, from its start on, each with its length in bytes. It may end early, but tells something of a range that is not empty. It may
    /// say `Data` of what it does not know. At most some thousands of extents, so that an answer costs little memory.
    fn status(&self, range: Range<u64>) -> Result<Vec<(u64, Status)>, Failure>;
}

/// What is known of an extent without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Bytes that have to be read.
    Data,
    /// Zeroes that take no room.
    Hole,
    /// Zeroes that take room.
    Zero,
}

impl Status {
    /// As flags of `base:allocation`.
    pub fn to_flags(self) -> u32 {
        match self {
            Status::Data => 0,
            Status::Zero => 2,
            Status::Hole => 3,
        }
    }

    /// From flags of `base:allocation`. A hole that is not said to read as zeroes counts as data.
    pub fn from_flags(flags: u32) -> Status {
        match flags & 3 {
            3 => Status::Hole,
            2 => Status::Zero,
            _ => Status::Data,
        }
    }
}

/// The errors that NBD knows, of those that a server needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// Not permitted: it is read-only.
    Eperm = 1,
    /// Reading or writing failed.
    Eio = 5,
    /// The request makes no sense.
    Einval = 22,
    /// No room.
    Enospc = 28,
    /// Too long.
    Eoverflow = 75,
    /// The server is about to stop.
    Eshutdown = 108,
}

impl Errno {
    /// From the number on the wire; what is not known is [`Eio`](Errno::Eio).
    pub fn from_wire(number: u32) -> Errno {
        match number {
            1 => Errno::Eperm,
            22 => Errno::Einval,
            28 => Errno::Enospc,
            75 => Errno::Eoverflow,
            108 => Errno::Eshutdown,
            _ => Errno::Eio,
        }
    }
}

/// Why an export did not do what it was asked for. Clients see number and message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The number for the wire.
    pub errno: Errno,
    /// What failed and why.
    pub message: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(errno: Errno, message: impl Into<String>) -> Failure {
        Failure { errno, message: message.into() }
    }

    /// The refusal of a write.
    pub fn read_only() -> Failure {
        Failure::new(Errno::Eperm, "the export is read-only")
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        let errno = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Errno::Enospc,
            io::ErrorKind::InvalidInput => Errno::Einval,
            _ => Errno::Eio,
        };
        Failure::new(errno, error.to_string())
    }
}
