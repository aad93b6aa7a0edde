//! An answer of the gateway on its way here, durably: a cut, a closed window or a restart costs what is in flight and no more.
//!
//! It lies in one file: 128 bytes that say what it is and how much of it is durable, then its bytes. Bytes count only once they were synced and the head says
//! so.

use crate::files;
use crate::pipeline::blocking;
use dedupe::crash_point;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use wire::stream::FrameReader;

const MAGIC: &[u8; 8] = b"SLFETCH\0";
const VERSION: u32 = 1;
const HEAD: usize = 128;
/// Bytes between two syncs: half a second at 16 Mbit/s.
const SYNC_EVERY: u64 = 1 << 20;
/// An answer of which nothing comes for so long is asked for anew. The gateway gives it up after two minutes.
const SILENT: Duration = Duration::from_secs(180);

/// How the coming of bytes ended.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// All are here.
    Whole,
    /// The stream ended in good order before the last.
    Short,
    /// Trouble that passes.
    Trouble(String),
}

/// Why nothing more is taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    /// More bytes than announced.
    #[error("more bytes came than were announced")]
    TooMuch,
    /// The local disk.
    #[error(transparent)]
    File(#[from] io::Error),
}

/// The head of a file for what arrives.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Arriving {
    /// Bytes of the whole answer.
    pub(crate) len: u64,
    /// BLAKE3 of them.
    pub(crate) hash: [u8; 32],
    /// How many are durable here.
    pub(crate) durable: u64,
    /// What the asking side has to remember of the answer.
    pub(crate) note: u64,
    /// Names the question.
    pub(crate) question: [u8; 32],
}

impl Arriving {
    /// What lies at `path`; `None`: nothing that could be gone on with, or more than `most` bytes.
    pub(crate) fn find(path: &Path, most: u64) -> Option<Arriving> {
        let file = File::open(path).ok()?;
        let mut head = [0; HEAD];
        file.read_exact_at(&mut head, 0).ok()?;
        let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
        let part = Arriving {
            len: number(16),
            durable: number(24),
            note: number(32),
            hash: head[40..72].try_into().expect("32 bytes"),
            question: head[72..104].try_into().expect("32 bytes"),
        };
        let there = file.metadata().ok()?.len().checked_sub(HEAD as u64)?;
        let holds = part.durable <= part.len && part.durable <= there && part.len <= most;
        (holds && part.head() == head).then_some(part)
    }

    fn head(&self) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(MAGIC);
        head[8..12].copy_from_slice(&VERSION.to_le_bytes());
        for (at, number) in [(16, self.len), (24, self.durable), (32, self.note)] {
            head[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        head[40..72].copy_from_slice(&self.hash);
        head[72..104].copy_from_slice(&self.question);
        let check = blake3::hash(&head[..104]);
        head[104..].copy_from_slice(&check.as_bytes()[..HEAD - 104]);
        head
    }

    /// Goes on with the file, or begins it anew.
    fn begin(&self, path: &Path) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        if self.durable == 0 {
            file.set_len(0)?;
        }
        file.write_all_at(&self.head(), 0)?;
        file.sync_all()?;
        files::sync_directory(path.parent().unwrap_or(Path::new(".")))?;
        Ok(file)
    }

    /// Adds bytes at `at`, durably, and says so in the head.
    fn add(&self, file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
        file.write_all_at(bytes, HEAD as u64 + at)?;
        file.sync_data()?;
        file.write_all_at(&self.head(), 0)?;
        file.sync_data()
    }

    /// All of it, which has to be durable.
    pub(crate) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.len as usize];
        File::open(path)?.read_exact_at(&mut bytes, HEAD as u64)?;
        Ok(bytes)
    }

    /// Takes the bytes until they end; `count` hears how many became durable. May be dropped at any time.
    pub(crate) async fn receive(
        self,
        path: &Path,
        mut reader: FrameReader,
        count: impl Fn(u64),
    ) -> Result<Stopped, ReceiveError> {
        let mut part = self;
        let (begun, at_path) = (part.clone(), path.to_owned());
        let file = Arc::new(blocking(move || begun.begin(&at_path)).await?);
        let mut at = part.durable;
        let mut gathered: Vec<u8> = Vec::new();
        let mut ended = None;
        while ended.is_none() {
            match timeout(SILENT, reader.raw()).await {
                Ok(Ok(Some(bytes))) => gathered.extend_from_slice(&bytes),
                Ok(Ok(None)) => ended = Some(Stopped::Short),
                Ok(Err(error)) => ended = Some(Stopped::Trouble(error.to_string())),
                Err(_) => ended = Some(Stopped::Trouble("nothing came any more".into())),
            }
            if at + gathered.len() as u64 > part.len {
                return Err(ReceiveError::TooMuch);
            }
            if ended.is_some() || gathered.len() as u64 >= SYNC_EVERY {
                let (file, bytes, mut next) = (file.clone(), std::mem::take(&mut gathered), part.clone());
                let end = at + bytes.len() as u64;
                next.durable = end;
                count(bytes.len() as u64);
                part = blocking(move || next.add(&file, at, &bytes).map(|()| next)).await?;
                at = end;
                crash_point("edge.fetch.synced");
            }
        }
        Ok(if at == part.len { Stopped::Whole } else { ended.expect("it ended") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(len: u64) -> Arriving {
        Arriving { len, hash: [1; 32], durable: 0, note: 9, question: [2; 32] }
    }

    #[test]
    fn what_is_durable_is_gone_on_with_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.part");
        assert_eq!(Arriving::find(&path, 1 << 20), None);
        let mut begun = part(10);
        let file = begun.begin(&path).unwrap();
        begun.durable = 4;
        begun.add(&file, 0, b"abcd").unwrap();
        file.write_all_at(b"efgh", HEAD as u64 + 4).unwrap(); // written, not promised: as when the process is killed
        assert_eq!(Arriving::find(&path, 1 << 20), Some(begun.clone()));
        let again = begun.begin(&path).unwrap();
        begun.durable = 10;
        begun.add(&again, 4, b"ijklmn").unwrap();
        assert_eq!(begun.read(&path).unwrap(), b"abcdijklmn");
        again.set_len(HEAD as u64 + 9).unwrap();
        assert_eq!(Arriving::find(&path, 1 << 20), None, "a shorter file than promised is worth nothing");
    }

    #[test]
    fn a_head_that_was_changed_is_no_head() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.part");
        let file = part(0).begin(&path).unwrap();
        for at in 0..HEAD as u64 {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            assert_eq!(Arriving::find(&path, 1 << 20), None, "byte {at}");
            file.write_all_at(&byte, at).unwrap();
        }
        assert!(Arriving::find(&path, 1 << 20).is_some());
    }
}
