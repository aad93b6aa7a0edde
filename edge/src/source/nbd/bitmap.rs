//! Changes by a dirty bitmap of QEMU that is only read here: `qemu:dirty-bitmap:NAME`.
//!
//! A bitmap says what changed since it was made, and its bits only ever come on. So one that was there when a generation's capture began holds all that
//! changed since that generation, and more: *the name of the bitmap is the stamp*. Whoever wants fewer bits makes another bitmap, under a name that was
//! never used, and names that one in the volume's source; the server goes on showing the old one for one more capture.
//!
//! NBD tells of a bitmap nothing but its bits. That it is still the same one is seen from them: none that was on may be off again. The stamp holds how
//! many there were, and where some were.

use super::connection::Connection;
use super::contexts::Context;
use super::uri::NbdUri;
use crate::source::tracking::{Changes, Stamp, Unknown};
use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::ops::Range;

/// Set in the flags of an extent that changed.
const DIRTY: u32 = 1;
/// Places of dirty bits that a stamp remembers.
const WITNESSES: usize = 32;
/// First byte of a stamp.
const VERSION: u8 = 1;

/// What a stamp holds, after its version.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(super) struct Bitmap {
    /// Server and export: another disk may have a bitmap of the same name.
    place: String,
    name: String,
    /// Bytes of the export.
    size: u64,
    /// Bytes that were dirty.
    dirty: u64,
    /// Starts of some extents that were.
    witnesses: Vec<u64>,
}

/// The context of a bitmap.
pub(super) fn context(bitmap: &str) -> String {
    format!("qemu:dirty-bitmap:{bitmap}")
}

impl Bitmap {
    /// The stamp of the moment at which it was looked at.
    pub(super) fn stamp(&self) -> Stamp {
        let mut stamp = vec![VERSION];
        stamp.extend(postcard::to_allocvec(self).expect("plain data serialises"));
        Stamp(stamp)
    }
}

/// What changed since `stamp`, by the bitmap that it names; `looked` was looked at in this capture.
pub(super) fn since<'a>(
    connection: &'a Connection,
    stamp: &Stamp,
    looked: Option<Bitmap>,
) -> Result<Box<dyn Changes + 'a>, Unknown> {
    let then = parse(stamp)?;
    if then.place != place(connection) {
        return Err(Unknown(format!("its stamp is of another export, {}", then.place)));
    }
    if then.size != connection.size() {
        return Err(Unknown(format!("the size changed from {} to {} bytes", then.size, connection.size())));
    }
    // Looking takes a question for each window of the disk.
    let now = match looked.filter(|looked| looked.name == then.name) {
        Some(looked) => looked,
        None => look(connection, &then.name)?,
    };
    let gone = |why: String| {
        Unknown(format!("the bitmap `{}` was cleared or made anew ({why}); a new bitmap needs a new name", then.name))
    };
    if now.dirty < then.dirty {
        return Err(gone(format!("{} bytes were dirty in it, and {} are", then.dirty, now.dirty)));
    }
    let dirty = Dirty::new(connection, &then.name, now.dirty);
    for witness in &then.witnesses {
        if dirty.within(*witness..witness + 1)?.is_empty() {
            return Err(gone(format!("byte {witness} was dirty in it and is not")));
        }
    }
    Ok(Box::new(dirty))
}

fn parse(stamp: &Stamp) -> Result<Bitmap, Unknown> {
    let bytes = stamp.0.strip_prefix(&[VERSION]);
    let bitmap = bytes.and_then(|bytes| postcard::from_bytes::<Bitmap>(bytes).ok());
    let valid = bitmap.filter(|bitmap| bitmap.witnesses.iter().all(|witness| *witness < bitmap.size));
    valid.ok_or_else(|| Unknown("its stamp is of another version or source".into()))
}

/// Counts a bitmap's dirty bytes.
pub(super) fn look(connection: &Connection, bitmap: &str) -> Result<Bitmap, Unknown> {
    let context = Context::new(context(bitmap));
    let unknown = |error: crate::source::SourceError| Unknown(error.to_string());
    if !connection.has(context.name()).map_err(unknown)? {
        return Err(Unknown(format!(
            "the server shows no bitmap `{bitmap}` (it was not made, is inconsistent after a crash, or is not exported)"
        )));
    }
    let (mut dirty, mut seen, mut witnesses) = (0, 0u64, Vec::new());
    let walked = context.walk(connection, 0..connection.size(), |extent, flags| {
        if flags & DIRTY != 0 {
            dirty += extent.end - extent.start;
            // The first ones, and ever rarer ones after them.
            if seen < WITNESSES as u64 / 2 || seen.is_power_of_two() {
                witnesses.push(extent.start);
            }
            seen += 1;
        }
        true
    });
    walked.map_err(unknown)?;
    witnesses.truncate(WITNESSES);
    Ok(Bitmap { place: place(connection), name: bitmap.to_owned(), size: connection.size(), dirty, witnesses })
}

fn place(connection: &Connection) -> String {
    NbdUri { bitmap: None, ..connection.uri().clone() }.to_string()
}

/// A bitmap's dirty ranges, whoever holds the connection.
pub(super) struct Dirty<C> {
    connection: C,
    context: Context,
    bytes: u64,
}

impl<C: Borrow<Connection>> Dirty<C> {
    /// `bytes` are about as many as are dirty.
    pub(super) fn new(connection: C, bitmap: &str, bytes: u64) -> Dirty<C> {
        Dirty { connection, context: Context::new(context(bitmap)), bytes }
    }
}

impl<C: Borrow<Connection> + Send + Sync> Changes for Dirty<C> {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn within(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, Unknown> {
        let mut found: Vec<Range<u64>> = Vec::new();
        let walked = self.context.walk(self.connection.borrow(), range, |extent, flags| {
            match found.last_mut() {
                _ if flags & DIRTY == 0 => {}
                Some(last) if last.end == extent.start => last.end = extent.end,
                _ => found.push(extent),
            }
            true
        });
        walked.map_err(|error| Unknown(error.to_string()))?;
        Ok(found)
    }
}
