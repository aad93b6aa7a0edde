//! A release into the slot that is not running, for a trial. The part of an upgrade that needs root; it believes nobody who prepared it.
//!
//! ```text
//!   manifest ──► signed? newer? ──► other slot: empty ──► image written ──► read back, tree made: the signed root? ──► tree written ──► on trial
//! ```
//!
//! | a crash after | the next start finds |
//! |---|---|
//! | the other slot was said to be empty | the running release, which alone can be started; the upgrade is done again |
//! | some of the image was written | the same |
//! | the tree was written | the same |
//! | `slot-X.cfg` was replaced | the same: it says of an empty slot what is in it |
//! | the trial was written | the new release |

use crate::bundle::{self, BundleError};
use crate::report;
use crate::slots::{Boot, BootError, Slot, State};
use crate::verity::{BLOCK, Tree, Verity};
use dedupe::BlockNumber;
use dedupe::image::{self, FileImage, Image, ImageError, Nothing};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use wire::release::{MAX_MANIFEST, MAX_PART, MAX_PARTS, Manifest, ReleaseError, ReleaseId, Role};
use wire::statement::KeyId;

/// Bytes of the file of trusted keys at most.
const MAX_KEYS: u64 = 4096;
/// Bytes that are read back at once.
const PIECE: usize = 1 << 20;

/// What runs, and where the other slot is.
#[derive(Clone, Debug)]
pub struct System {
    /// What it is made for.
    pub role: Role,
    /// The running release's version.
    pub version: String,
    /// Its sequence.
    pub sequence: u64,
    /// The release itself.
    pub release: ReleaseId,
    /// Bytes of its image.
    pub bytes: u64,
    /// The slot that it was started from.
    pub slot: Slot,
    /// Keys whose releases are taken.
    pub keys: Vec<KeyId>,
    /// Where the running image can be read, checked by its tree.
    pub running: PathBuf,
    /// The partition of the other slot.
    pub target: PathBuf,
    /// The boot loader's files.
    pub boot: Boot,
}

/// What may be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Only what is newer than what runs: whoever asked is not at the box.
    Newer,
    /// An older release too: a person at the box said so.
    Older,
}

/// Where a release comes from.
#[derive(Debug)]
pub enum Source<'a> {
    /// Parts that came over the line, in a folder: `manifest`, and `0`, `1`, …; coded against the running image, or against nothing.
    Parts {
        /// The folder.
        folder: &'a Path,
        /// Whether they are coded against the running image.
        against_running: bool,
    },
    /// A bundle.
    Bundle(&'a Path),
}

/// Why a release is not on trial.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ReleaseError),
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A release of another kind.
    #[error("the release is for the role `{0}`, and this box is of another: take the file for this one")]
    Role(&'static str),
    /// It runs already.
    #[error("version {0} runs already")]
    Running(String),
    /// An older one.
    #[error(
        "version {version} is not newer than version {running}, which runs: an older one is only taken from a stick, by somebody at the box who says so"
    )]
    Older {
        /// Of the release.
        version: String,
        /// Of what runs.
        running: String,
    },
    /// What runs is not confirmed.
    #[error("version {0} runs on trial: another release is taken when it is confirmed")]
    OnTrial(String),
    /// The slot is too small.
    #[error("the release needs {need} bytes, and the slot has {have}")]
    TooLarge {
        /// With its tree.
        need: u64,
        /// Of the partition.
        have: u64,
    },
    /// A part does not fit.
    #[error("part {number} of the release: {source}")]
    Part {
        /// Its number.
        number: u32,
        /// Why.
        source: ImageError,
    },
    /// Files that were to be there.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk did not keep what was written.
    #[error(
        "what was read back from the slot has the root hash {found}, not {wanted}: the disk does not keep what is written to it, or the parts were made for another image"
    )]
    Image {
        /// Of what is there.
        found: ReleaseId,
        /// Of the manifest.
        wanted: ReleaseId,
    },
    /// The boot loader's files.
    #[error(transparent)]
    Boot(#[from] BootError),
}

impl InstallError {
    /// Whether the same release may come out right when it is brought anew, coded against nothing.
    pub fn is_of_parts(&self) -> bool {
        matches!(self, InstallError::Part { .. } | InstallError::Image { .. } | InstallError::File { .. })
    }
}

/// Reads the keys whose releases are taken: one a line, 64 hexadecimal digits; lines that begin with `#` say something to people.
pub fn read_keys(path: &Path) -> Result<Vec<KeyId>, InstallError> {
    let failed = |source| InstallError::File { path: path.to_owned(), source };
    let mut text = String::new();
    File::open(path).map_err(failed)?.take(MAX_KEYS).read_to_string(&mut text).map_err(failed)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| KeyId::read(line).map_err(|error| failed(io::Error::other(error.to_string())))).collect()
}

/// Takes a release into the other slot and puts it on trial: the next start of the machine is the first of two that it gets. `progress` is told how many of
/// how many bytes are done, writing and reading back both counted.
///
/// # Errors
/// The running release stays what is started, whatever happens.
pub fn install(
    system: &System,
    source: &Source<'_>,
    allowed: Allowed,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Manifest, InstallError> {
    let (manifest, mut bundle) = match source {
        Source::Parts { folder, .. } => (Manifest::read(&manifest_of(folder)?, &system.keys)?, None),
        Source::Bundle(path) => {
            let file = File::open(path).map_err(|source| InstallError::File { path: path.to_path_buf(), source })?;
            let (_, manifest, rest) = bundle::open(file, &system.keys)?;
            (manifest, Some(rest))
        }
    };
    may_be_taken(system, &manifest, allowed)?;
    let target = Target::open(&system.target)?;
    let other = system.slot.other();
    target.check_size(&manifest)?;
    system.boot.empty(other)?;
    let total = 2 * manifest.bytes;
    let mut done = 0;
    let mut write = |at: u64, bytes: &[u8]| {
        target.file.write_all_at(bytes, at)?;
        done += bytes.len() as u64;
        progress(done, total);
        Ok(())
    };
    match (source, bundle.as_mut()) {
        (Source::Parts { folder, against_running: true }, _) => {
            let running = File::open(&system.running)
                .map_err(|source| InstallError::File { path: system.running.clone(), source })?;
            apply_parts(folder, &manifest, &FileImage::new(running, system.bytes), &mut write)?;
        }
        (Source::Parts { folder, against_running: false }, _) => apply_parts(folder, &manifest, &Nothing, &mut write)?,
        (Source::Bundle(_), rest) => {
            let rest = rest.ok_or(BundleError::Other)?;
            let mut at = 0;
            bundle::read_image(rest, &manifest, |bytes| {
                write(at, bytes)?;
                at += bytes.len() as u64;
                Ok(())
            })?;
        }
    }
    let tree = target.read_back(&manifest, |read| progress(manifest.bytes + read, total))?;
    if tree.root() != manifest.id {
        return Err(InstallError::Image { found: tree.root(), wanted: manifest.id });
    }
    target.put_tree(manifest.bytes, &tree)?;
    system.boot.put_on_trial(other, &manifest.version, manifest.id, manifest.bytes)?;
    Ok(manifest)
}

/// Whether a release may come here at all: asked before it is fetched, and again before it is installed.
pub fn may_be_taken(system: &System, manifest: &Manifest, allowed: Allowed) -> Result<(), InstallError> {
    if manifest.role != system.role {
        return Err(InstallError::Role(manifest.role.word()));
    }
    if manifest.id == system.release {
        return Err(InstallError::Running(manifest.version.clone()));
    }
    if allowed == Allowed::Newer && manifest.sequence <= system.sequence {
        return Err(InstallError::Older { version: manifest.version.clone(), running: system.version.clone() });
    }
    match system.boot.state(system.slot)? {
        State::Good => Ok(()),
        _ => Err(InstallError::OnTrial(system.version.clone())),
    }
}

fn manifest_of(folder: &Path) -> Result<String, InstallError> {
    let path = folder.join("manifest");
    let bytes = read_bounded(&path, MAX_MANIFEST as u64)?;
    String::from_utf8(bytes).map_err(|_| InstallError::File { path, source: io::ErrorKind::InvalidData.into() })
}

fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>, InstallError> {
    let failed = |source| InstallError::File { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    report::open_plain(path).map_err(failed)?.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 <= most {
        true => Ok(bytes),
        false => Err(failed(io::ErrorKind::FileTooLarge.into())),
    }
}

fn apply_parts(
    folder: &Path,
    manifest: &Manifest,
    old: &dyn Image,
    write: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
) -> Result<(), InstallError> {
    let blocks = manifest.bytes / BLOCK as u64;
    let mut at = BlockNumber(0);
    for number in 0..MAX_PARTS {
        if at.0 == blocks {
            return Ok(());
        }
        let part = read_bounded(&folder.join(number.to_string()), MAX_PART)?;
        let applied = image::apply(&part, number, at, blocks, old, |block, bytes| write(block.0 * BLOCK as u64, bytes));
        at = applied.map_err(|source| InstallError::Part { number, source })?;
    }
    match at.0 == blocks {
        true => Ok(()),
        false => Err(InstallError::Part { number: MAX_PARTS, source: ImageError::Damaged("there are too many") }),
    }
}

/// The other slot's partition.
struct Target {
    file: File,
    path: PathBuf,
}

impl Target {
    fn open(path: &Path) -> Result<Target, InstallError> {
        let opened = OpenOptions::new().read(true).write(true).open(path);
        let file = opened.map_err(|source| InstallError::File { path: path.to_owned(), source })?;
        Ok(Target { file, path: path.to_owned() })
    }

    fn failed(&self, source: io::Error) -> InstallError {
        InstallError::File { path: self.path.clone(), source }
    }

    fn check_size(&self, manifest: &Manifest) -> Result<(), InstallError> {
        let have = (&self.file).seek(SeekFrom::End(0)).map_err(|source| self.failed(source))?;
        // A superblock, and 1/127 of the image.
        let need = manifest.bytes + manifest.bytes / 127 + 4 * BLOCK as u64;
        match need <= have {
            true => Ok(()),
            false => Err(InstallError::TooLarge { need, have }),
        }
    }

    /// Reads what was written from the disk, not from memory.
    fn read_back(&self, manifest: &Manifest, mut progress: impl FnMut(u64)) -> Result<Tree, InstallError> {
        self.file.sync_all().map_err(|source| self.failed(source))?;
        let forgotten = posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        forgotten.map_err(|error| self.failed(error.into()))?;
        let mut verity = Verity::new(manifest.salt);
        let (mut at, mut buffer) = (0, vec![0; PIECE]);
        while at < manifest.bytes {
            let piece = &mut buffer[..(manifest.bytes - at).min(PIECE as u64) as usize];
            self.file.read_exact_at(piece, at).map_err(|source| self.failed(source))?;
            verity.update(piece);
            at += piece.len() as u64;
            progress(at);
        }
        Ok(verity.finish())
    }

    fn put_tree(&self, at: u64, tree: &Tree) -> Result<(), InstallError> {
        let write = || {
            let mut file = &self.file;
            file.seek(SeekFrom::Start(at))?;
            file.write_all(&tree.bytes())?;
            file.sync_all()
        };
        write().map_err(|source| self.failed(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dedupe::{Effort, UnixMillis};
    use std::fs;
    use wire::statement::StatementKey;

    struct Bed {
        dir: tempfile::TempDir,
        key: StatementKey,
        old: Vec<u8>,
        system: System,
    }

    fn bytes(blocks: usize, seed: u32) -> Vec<u8> {
        (0..(blocks * BLOCK) as u32).map(|at| ((at ^ seed).wrapping_mul(2_654_435_761) >> 11) as u8).collect()
    }

    fn manifest(image: &[u8], sequence: u64) -> Manifest {
        let mut verity = Verity::new([9; 32]);
        verity.update(image);
        Manifest {
            role: Role::Edge,
            version: format!("0.{sequence}"),
            sequence,
            bytes: image.len() as u64,
            id: verity.finish().root(),
            salt: [9; 32],
            made: UnixMillis(0),
            next_key: None,
        }
    }

    impl Bed {
        fn new() -> Bed {
            let dir = tempfile::tempdir().unwrap();
            let old = bytes(700, 1);
            fs::write(dir.path().join("running"), &old).unwrap();
            File::create(dir.path().join("slot-b")).unwrap().set_len(8 << 20).unwrap();
            let env = b"# GRUB Environment Block\norder=A B\nA_state=good\nA_tries=0\nB_state=good\nB_tries=0\n";
            let mut env = env.to_vec();
            env.resize(1024, b'#');
            fs::write(dir.path().join("grubenv"), env).unwrap();
            let key = StatementKey::read(&StatementKey::generate()).unwrap();
            let running = manifest(&old, 5);
            let system = System {
                role: Role::Edge,
                version: running.version.clone(),
                sequence: running.sequence,
                release: running.id,
                bytes: running.bytes,
                slot: Slot::A,
                keys: vec![key.public()],
                running: dir.path().join("running"),
                target: dir.path().join("slot-b"),
                boot: Boot::new(dir.path()),
            };
            Bed { dir, key, old, system }
        }

        fn parts(&self, manifest: &Manifest, new: &[u8]) -> PathBuf {
            let folder = self.dir.path().join("parts");
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("manifest"), manifest.sign(&self.key).unwrap().to_json()).unwrap();
            let (old, new) = (self.file(&self.old), self.file(new));
            let mut maker = image::Maker::new(&old, &new, Effort::Quick).unwrap();
            let mut number = 0;
            while let Some(part) = maker.next_part().unwrap() {
                fs::write(folder.join(number.to_string()), part).unwrap();
                number += 1;
            }
            folder
        }

        fn file(&self, bytes: &[u8]) -> FileImage {
            let mut file = tempfile::tempfile_in(self.dir.path()).unwrap();
            file.write_all(bytes).unwrap();
            FileImage::new(file, bytes.len() as u64)
        }

        fn install(&self, folder: &Path, allowed: Allowed) -> Result<Manifest, InstallError> {
            let source = Source::Parts { folder, against_running: true };
            install(&self.system, &source, allowed, &mut |done, total| assert!(done <= total))
        }

        fn is_untouched(&self) {
            assert_eq!(self.system.boot.state(Slot::B).unwrap(), State::Good);
            assert!(fs::read(&self.system.target).unwrap().iter().all(|byte| *byte == 0));
        }
    }

    fn changed(old: &[u8]) -> Vec<u8> {
        let mut new = old[..300 * BLOCK].to_vec();
        new.extend_from_slice(b"a few bytes more");
        new.extend_from_slice(&old[300 * BLOCK..]);
        new.resize(new.len().next_multiple_of(BLOCK), 0);
        new
    }

    #[test]
    fn parts_against_the_running_image_become_a_slot_on_trial() {
        let bed = Bed::new();
        let new = changed(&bed.old);
        let wanted = manifest(&new, 6);
        let folder = bed.parts(&wanted, &new);
        let mut told = (0, 0);
        let source = Source::Parts { folder: &folder, against_running: true };
        let made = install(&bed.system, &source, Allowed::Newer, &mut |done, total| told = (done, total)).unwrap();
        assert_eq!(made, wanted);
        assert_eq!(told, (2 * wanted.bytes, 2 * wanted.bytes));
        let slot = fs::read(&bed.system.target).unwrap();
        assert!(slot[..new.len()] == new);
        assert_eq!(&slot[new.len()..new.len() + 6], b"verity");
        assert_eq!(bed.system.boot.state(Slot::B).unwrap(), State::Trial);
        assert_eq!(bed.system.boot.release(Slot::B), Some(wanted.id));
        // It is not installed on top of itself when it runs on trial.
        let running = System { slot: Slot::B, ..bed.system.clone() };
        let again = install(&running, &source, Allowed::Newer, &mut |_, _| {});
        assert!(matches!(again, Err(InstallError::OnTrial(_))));
    }

    #[test]
    fn a_bundle_becomes_the_same_slot() {
        let bed = Bed::new();
        let new = changed(&bed.old);
        let wanted = manifest(&new, 6);
        let path = bed.dir.path().join("x.sluice-release");
        let text = wanted.sign(&bed.key).unwrap().to_json();
        bundle::write(&text, new.as_slice(), File::create(&path).unwrap(), 1).unwrap();
        install(&bed.system, &Source::Bundle(&path), Allowed::Newer, &mut |_, _| {}).unwrap();
        assert!(fs::read(&bed.system.target).unwrap()[..new.len()] == new);
        assert_eq!(bed.system.boot.state(Slot::B).unwrap(), State::Trial);
    }

    #[test]
    fn what_is_not_to_be_taken_leaves_the_other_slot_as_it_is() {
        let bed = Bed::new();
        let new = changed(&bed.old);
        let older = bed.parts(&manifest(&new, 5), &new);
        assert!(matches!(bed.install(&older, Allowed::Newer), Err(InstallError::Older { .. })));
        bed.is_untouched();
        let gateways = bed.parts(&Manifest { role: Role::Gateway, ..manifest(&new, 6) }, &new);
        assert!(matches!(bed.install(&gateways, Allowed::Older), Err(InstallError::Role("gateway"))));
        let same = bed.parts(&manifest(&bed.old, 9), &bed.old);
        assert!(matches!(bed.install(&same, Allowed::Newer), Err(InstallError::Running(_))));
        let huge = bed.parts(&Manifest { bytes: 8 << 20, ..manifest(&new, 6) }, &new);
        assert!(matches!(bed.install(&huge, Allowed::Newer), Err(InstallError::TooLarge { .. })));
        let stranger = StatementKey::read(&StatementKey::generate()).unwrap();
        fs::write(huge.join("manifest"), manifest(&new, 6).sign(&stranger).unwrap().to_json()).unwrap();
        assert!(matches!(bed.install(&huge, Allowed::Older), Err(InstallError::Manifest(ReleaseError::Untrusted(_)))));
        bed.is_untouched();
        let folder = bed.parts(&manifest(&new, 5), &new);
        assert!(bed.install(&folder, Allowed::Older).is_ok(), "somebody at the box said so");
    }

    #[test]
    fn parts_that_make_another_image_end_with_an_empty_slot() {
        let bed = Bed::new();
        let new = changed(&bed.old);
        let folder = bed.parts(&Manifest { id: ReleaseId([3; 32]), ..manifest(&new, 6) }, &new);
        assert!(matches!(bed.install(&folder, Allowed::Newer), Err(InstallError::Image { .. })));
        assert_eq!(bed.system.boot.state(Slot::B).unwrap(), State::Empty);
        fs::write(bed.system.running.clone(), bytes(700, 77)).unwrap();
        let folder = bed.parts(&manifest(&new, 6), &new);
        let refused = bed.install(&folder, Allowed::Newer).unwrap_err();
        assert!(matches!(refused, InstallError::Part { number: 0, .. }) && refused.is_of_parts(), "{refused}");
        fs::remove_file(folder.join("0")).unwrap();
        assert!(matches!(bed.install(&folder, Allowed::Newer), Err(InstallError::File { .. })));
        assert_eq!(bed.system.boot.state(Slot::B).unwrap(), State::Empty);
        assert_eq!(bed.system.boot.state(Slot::A).unwrap(), State::Good);
    }

    #[test]
    fn keys_are_read_with_what_is_said_about_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("release-keys");
        let key = KeyId([7; 32]);
        fs::write(&path, format!("# the maker's\n\n{}\n", key.hex())).unwrap();
        assert_eq!(read_keys(&path).unwrap(), [key]);
        fs::write(&path, "not a key\n").unwrap();
        assert!(read_keys(&path).unwrap_err().to_string().contains("release-keys"));
    }
}
