//! Packs in an object store: a local directory now, anything that `object_store` speaks later.
//!
//! Names are `<tenant's prefix>/ab/abcd….data`, the layout of [`dedupe::LocalPacks`], so that either reads what the other wrote.

use bytes::Bytes;
use dedupe::storage::parse_name;
use dedupe::{PackClass, PackId, PackStorage, StorageError};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Name;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Packs of one tenant. Every call blocks, so none may be made on a thread that drives the runtime.
#[derive(Debug)]
pub struct ObjectPacks {
    objects: Arc<dyn ObjectStore>,
    runtime: Handle,
}

impl ObjectPacks {
    /// Packs in any object store. A `put` of that store must be durable when it returns.
    pub fn new(objects: Arc<dyn ObjectStore>, runtime: Handle) -> ObjectPacks {
        ObjectPacks { objects, runtime }
    }

    /// Packs in a directory, which is made. Files and folders are synced before a `put` returns.
    pub fn local(folder: &Path, runtime: Handle) -> Result<ObjectPacks, StorageError> {
        let fail = |source| StorageError::new("open the folder of packs", folder.display(), source);
        crate::files::private_folder(folder).map_err(|error| fail(error.source))?;
        remove_unfinished(folder).map_err(fail)?;
        let objects = LocalFileSystem::new_with_prefix(folder).map_err(|error| fail(to_io(error)))?;
        Ok(Self::new(Arc::new(objects.with_fsync(true)), runtime))
    }

    fn block<T>(
        &self,
        what: &'static str,
        pack: PackId,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, StorageError> {
        self.runtime.block_on(work).map_err(|error| StorageError::new(what, pack, to_io(error)))
    }
}

impl PackStorage for ObjectPacks {
    fn put(&self, pack: PackId, class: PackClass, bytes: &[u8]) -> Result<(), StorageError> {
        let payload = PutPayload::from(Bytes::copy_from_slice(bytes));
        let options = PutOptions { mode: PutMode::Overwrite, ..PutOptions::default() };
        self.block("write", pack, self.objects.put_opts(&name(pack, class), payload, options)).map(drop)
    }

    fn read_at(&self, pack: PackId, class: PackClass, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        let range = offset..offset + buffer.len() as u64;
        let bytes = self.block("read", pack, self.objects.get_range(&name(pack, class), range))?;
        if bytes.len() != buffer.len() {
            return Err(StorageError::new("read", pack, io::ErrorKind::UnexpectedEof.into()));
        }
        buffer.copy_from_slice(&bytes);
        Ok(())
    }

    fn len(&self, pack: PackId, class: PackClass) -> Result<u64, StorageError> {
        Ok(self.block("look at", pack, self.objects.head(&name(pack, class)))?.size)
    }

    fn list(&self) -> Result<Vec<(PackId, PackClass)>, StorageError> {
        // Folder by folder, so that a store of millions of packs is not listed in one answer.
        let list = async {
            let mut packs = Vec::new();
            for folder in self.objects.list_with_delimiter(None).await?.common_prefixes {
                let objects = self.objects.list_with_delimiter(Some(&folder)).await?.objects;
                packs.extend(objects.iter().filter_map(|object| parse_name(object.location.filename()?)));
            }
            Ok(packs)
        };
        self.runtime.block_on(list).map_err(|error| StorageError::new("list", "folder", to_io(error)))
    }

    fn delete(&self, pack: PackId, class: PackClass) -> Result<(), StorageError> {
        match self.block("delete", pack, self.objects.delete(&name(pack, class))) {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }

    fn read_ranges(
        &self,
        pack: PackId,
        class: PackClass,
        ranges: &[(u64, usize)],
    ) -> Result<Vec<Vec<u8>>, StorageError> {
        let wanted: Vec<_> = ranges.iter().map(|(offset, len)| *offset..*offset + *len as u64).collect();
        let pieces = self.block("read", pack, self.objects.get_ranges(&name(pack, class), &wanted))?;
        let short = pieces.iter().zip(ranges).any(|(piece, (_, len))| piece.len() != *len);
        if short || pieces.len() != ranges.len() {
            return Err(StorageError::new("read", pack, io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(pieces.into_iter().map(Vec::from).collect())
    }
}

/// Removes what a crash left half-written: the object store writes beside the final name, with a `#` and a number behind it.
fn remove_unfinished(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(entry.path())? {
            let file = file?;
            if file.file_name().to_str().is_some_and(|name| name.contains('#')) {
                std::fs::remove_file(file.path())?;
            }
        }
    }
    Ok(())
}

fn name(pack: PackId, class: PackClass) -> Name {
    let id = pack.to_string();
    Name::from(format!("{}/{id}.{}", &id[..2], class.suffix()))
}

/// The cause as an I/O error, with the kind that the store decides by (full, missing) wherever it hides.
fn to_io(error: object_store::Error) -> io::Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    let mut kind = match &error {
        object_store::Error::NotFound { .. } => io::ErrorKind::NotFound,
        _ => io::ErrorKind::Other,
    };
    while let Some(current) = cause {
        if let Some(found) = current.downcast_ref::<io::Error>() {
            kind = found.kind();
        }
        cause = current.source();
    }
    io::Error::new(kind, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dedupe::LocalPacks;

    fn with_packs(test: impl FnOnce(&ObjectPacks, &Path)) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        test(&ObjectPacks::local(dir.path(), runtime.handle().clone()).unwrap(), dir.path());
    }

    #[test]
    fn packs_are_written_read_listed_and_deleted() {
        with_packs(|packs, _| {
            let (one, two) = (PackId::random(), PackId::random());
            packs.put(one, PackClass::Data, b"0123456789").unwrap();
            packs.put(two, PackClass::Meta, b"meta").unwrap();
            let mut buffer = [0; 3];
            packs.read_at(one, PackClass::Data, 4, &mut buffer).unwrap();
            assert_eq!(&buffer, b"456");
            assert_eq!(packs.len(one, PackClass::Data).unwrap(), 10);
            let ranges = packs.read_ranges(one, PackClass::Data, &[(8, 2), (0, 1)]).unwrap();
            assert_eq!(ranges, [b"89".to_vec(), b"0".to_vec()]);
            let mut listed = packs.list().unwrap();
            listed.sort();
            let mut expected = vec![(one, PackClass::Data), (two, PackClass::Meta)];
            expected.sort();
            assert_eq!(listed, expected);
            packs.delete(one, PackClass::Data).unwrap();
            packs.delete(one, PackClass::Data).unwrap();
            assert_eq!(packs.list().unwrap(), [(two, PackClass::Meta)]);
        });
    }

    #[test]
    fn missing_packs_and_short_reads_are_told_apart() {
        with_packs(|packs, _| {
            let pack = PackId::random();
            let missing = packs.read_at(pack, PackClass::Data, 0, &mut [0; 4]).unwrap_err();
            assert!(missing.is_missing(), "{missing}");
            packs.put(pack, PackClass::Data, b"abc").unwrap();
            assert!(!packs.read_at(pack, PackClass::Data, 0, &mut [0; 4]).unwrap_err().is_missing());
            assert!(packs.read_ranges(pack, PackClass::Data, &[(1, 9)]).is_err());
        });
    }

    #[test]
    fn what_a_crash_left_half_written_is_removed() {
        with_packs(|packs, folder| {
            let pack = PackId::random();
            packs.put(pack, PackClass::Data, b"whole").unwrap();
            let half = folder.join(format!("{}#1", name(pack, PackClass::Data)));
            std::fs::write(&half, "half").unwrap();
            let again = ObjectPacks::local(folder, packs.runtime.clone()).unwrap();
            assert!(!half.exists());
            assert_eq!(again.list().unwrap(), [(pack, PackClass::Data)]);
        });
    }

    #[test]
    fn the_layout_is_that_of_plain_local_packs() {
        with_packs(|packs, folder| {
            let pack = PackId::random();
            packs.put(pack, PackClass::Data, b"bytes").unwrap();
            let plain = LocalPacks::open(folder).unwrap();
            assert_eq!(plain.list().unwrap(), [(pack, PackClass::Data)]);
            let other = PackId::random();
            plain.put(other, PackClass::Meta, b"x").unwrap();
            assert_eq!(packs.len(other, PackClass::Meta).unwrap(), 1);
        });
    }
}
