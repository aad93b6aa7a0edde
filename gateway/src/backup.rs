//! A copy of what cannot be made anew: the catalogue and the keys. Taken while the daemon runs.
//!
//! ```text
//! backup/
//!   catalogue.redb   consistent copy
//!   secrets          keys of authorities and tenants; encrypted under a passphrase if one was given, else readable by its owner alone
//!   backup.json      what belongs to it, with hashes; written last, so a backup without it is not one
//! ```
//!
//! Indexes are not in it: they are made from the packs. Packs are not in it either: they are the bulk, and their copies are the business
//! of whatever stores them.

use crate::catalogue::{CatalogueError, Site, Tenant};
use crate::files::{self, FileError};
use crate::state::{State, catalogue_of};
use dedupe::{Lineage, TenantId, UnixMillis};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::pbkdf2;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;
use std::path::{Component, Path, PathBuf};
use zeroize::Zeroizing;

const FORMAT: u32 = 1;
/// PBKDF2-HMAC-SHA256 rounds: what OWASP's password storage cheat sheet asks for (2023); half a second.
const ROUNDS: NonZeroU32 = NonZeroU32::new(600_000).expect("not zero");
/// Shortest passphrase that is taken.
const MIN_PASSPHRASE: usize = 12;
const MAGIC_PLAIN: &[u8; 8] = b"SLUICEB0";
const MAGIC_SEALED: &[u8; 8] = b"SLUICEB1";
const SALT: usize = 16;

/// Why a backup or restore failed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The catalogue failed.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The place is taken.
    #[error("{0} is not empty; name a directory that is empty or not there yet")]
    NotEmpty(PathBuf),
    /// The passphrase is too weak to protect anything.
    #[error("the passphrase in {0} has fewer than {MIN_PASSPHRASE} characters; its first line has to be a longer one")]
    Passphrase(PathBuf),
    /// The backup is encrypted.
    #[error("the keys in {0} are encrypted; give the file with the passphrase by --passphrase-file")]
    NeedsPassphrase(PathBuf),
    /// The passphrase is wrong, or the file is damaged.
    #[error("the keys in {0} cannot be decrypted: another passphrase, or a damaged file")]
    Undecipherable(PathBuf),
    /// It is no backup, not a whole one, or of a later version.
    #[error("{path} is not a usable backup: {why}")]
    Unusable {
        /// Where.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    made: UnixMillis,
    software: String,
    encrypted: bool,
    catalogue: String,
    secrets: String,
}

/// Files of the state directory by their relative path.
#[derive(Serialize, Deserialize)]
struct Secrets(Vec<(String, Vec<u8>)>);

/// Copies the catalogue and the keys of a state that is in use. Returns whether the keys are encrypted.
pub fn back_up(state: &State, to: &Path, passphrase_file: Option<&Path>) -> Result<bool, BackupError> {
    let passphrase = passphrase_file.map(read_passphrase).transpose()?;
    claim_empty(to)?;
    let catalogue = to.join("catalogue.redb");
    state.catalogue.copy_to(&catalogue)?;
    let secrets = {
        let _unchanging = state.authorities();
        collect(state.folder())?
    };
    let plain = Zeroizing::new(postcard::to_stdvec(&secrets).expect("memory takes a few keys"));
    let bytes = match &passphrase {
        Some(passphrase) => seal(passphrase, &plain),
        None => [MAGIC_PLAIN, plain.as_slice()].concat(),
    };
    files::write_private(&to.join("secrets"), &bytes)?;
    let manifest = Manifest {
        format: FORMAT,
        made: state.now(),
        software: env!("CARGO_PKG_VERSION").into(),
        encrypted: passphrase.is_some(),
        catalogue: hash_of(&catalogue)?,
        secrets: blake3::hash(&bytes).to_string(),
    };
    let json = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain JSON");
    files::write_private(&to.join("backup.json"), &json)?;
    Ok(passphrase.is_some())
}

/// Makes a state directory from a backup. Indexes are made from the packs afterwards.
pub fn restore(from: &Path, to: &Path, passphrase_file: Option<&Path>) -> Result<(), BackupError> {
    let unusable = |why: &str| BackupError::Unusable { path: from.to_owned(), why: why.into() };
    let manifest = files::read(&from.join("backup.json")).map_err(|_| unusable("it has no backup.json"))?;
    let manifest: Manifest = serde_json::from_slice(&manifest).map_err(|error| unusable(&error.to_string()))?;
    if manifest.format != FORMAT {
        return Err(unusable("it was made by a later version; restore it with that"));
    }
    let bytes = Zeroizing::new(files::read(&from.join("secrets"))?);
    let whole = hash_of(&from.join("catalogue.redb"))? == manifest.catalogue;
    if !whole || blake3::hash(&bytes).to_string() != manifest.secrets {
        return Err(unusable("a file of it is damaged"));
    }
    let plain = open(&bytes, passphrase_file, &from.join("secrets"))?;
    let secrets: Secrets = postcard::from_bytes(&plain).map_err(|_| unusable("its keys do not parse"))?;
    claim_empty(to)?;
    for (name, bytes) in &secrets.0 {
        let relative = Path::new(name);
        if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(unusable("it holds a path that leads elsewhere"));
        }
        let path = to.join(relative);
        files::private_folder(path.parent().expect("a joined path has a parent"))?;
        files::write_private(&path, bytes)?;
    }
    files::write_private(&catalogue_of(to), &files::read(&from.join("catalogue.redb"))?)?;
    Ok(())
}

/// Everything secret in a state directory.
fn collect(folder: &Path) -> Result<Secrets, BackupError> {
    let mut found = vec![(String::from("reset.key"), files::read(&folder.join("reset.key"))?)];
    let mut take = |path: PathBuf| -> Result<(), FileError> {
        let relative = path.strip_prefix(folder).expect("the path begins with the folder");
        found.push((relative.to_string_lossy().into_owned(), files::read(&path)?));
        Ok(())
    };
    let list = |path: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    list(&folder.join("ca")).into_iter().filter(|path| path.is_file()).try_for_each(&mut take)?;
    let keys = list(&folder.join("tenants")).into_iter().map(|tenant| tenant.join("key"));
    keys.filter(|key| key.exists()).try_for_each(&mut take)?;
    Ok(Secrets(found))
}

fn claim_empty(folder: &Path) -> Result<(), BackupError> {
    files::private_folder(folder)?;
    let mut entries = std::fs::read_dir(folder).map_err(FileError::on("list", folder))?;
    if entries.next().is_some() { Err(BackupError::NotEmpty(folder.to_owned())) } else { Ok(()) }
}

fn hash_of(path: &Path) -> Result<String, FileError> {
    Ok(blake3::hash(&files::read(path)?).to_string())
}

fn read_passphrase(path: &Path) -> Result<Zeroizing<String>, BackupError> {
    let bytes = Zeroizing::new(files::read(path)?);
    let text = std::str::from_utf8(&bytes).map_err(|_| BackupError::Passphrase(path.to_owned()))?;
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() < MIN_PASSPHRASE {
        return Err(BackupError::Passphrase(path.to_owned()));
    }
    Ok(Zeroizing::new(line.to_owned()))
}

/// Magic, rounds, salt, and AES-256-GCM of the bytes. The key is used once, so the nonce is constant.
fn seal(passphrase: &str, plain: &[u8]) -> Vec<u8> {
    let mut salt = [0; SALT];
    getrandom::fill(&mut salt).expect("the operating system has a random source");
    let header = [MAGIC_SEALED.as_slice(), &ROUNDS.get().to_le_bytes(), &salt].concat();
    let mut sealed = plain.to_vec();
    let key = derive(passphrase, &salt, ROUNDS);
    key.seal_in_place_append_tag(nonce(), Aad::from(&header), &mut sealed)
        .expect("a few keys are below the cipher's 64 GiB");
    [header, sealed].concat()
}

fn open(bytes: &[u8], passphrase_file: Option<&Path>, path: &Path) -> Result<Zeroizing<Vec<u8>>, BackupError> {
    if let Some(plain) = bytes.strip_prefix(MAGIC_PLAIN) {
        return Ok(Zeroizing::new(plain.to_vec()));
    }
    let undecipherable = || BackupError::Undecipherable(path.to_owned());
    let (header, sealed) = bytes.split_at_checked(8 + 4 + SALT).ok_or_else(undecipherable)?;
    let rounds = header[8..12].try_into().ok().map(u32::from_le_bytes).and_then(NonZeroU32::new);
    // A damaged count must not keep the machine busy for days.
    let rounds = rounds.filter(|rounds| rounds.get() <= 100 * ROUNDS.get()).ok_or_else(undecipherable)?;
    if header[..8] != *MAGIC_SEALED {
        return Err(undecipherable());
    }
    let passphrase_file = passphrase_file.ok_or_else(|| BackupError::NeedsPassphrase(path.to_owned()))?;
    let key = derive(&read_passphrase(passphrase_file)?, &header[12..], rounds);
    let mut sealed = Zeroizing::new(sealed.to_vec());
    let len = key.open_in_place(nonce(), Aad::from(header), &mut sealed).map_err(|_| undecipherable())?.len();
    sealed.truncate(len);
    Ok(sealed)
}

fn derive(passphrase: &str, salt: &[u8], rounds: NonZeroU32) -> LessSafeKey {
    let mut key = Zeroizing::new([0; 32]);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, passphrase.as_bytes(), &mut *key);
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*key).expect("the key is 32 bytes long"))
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

// ---- after a loss without a backup of the catalogue

/// Takes up tenants that have a key but are not in the catalogue, under a name made from their id.
pub(crate) fn recover_tenants(state: &State) -> Result<(), CatalogueError> {
    let known = state.catalogue.tenants()?;
    for entry in std::fs::read_dir(state.folder().join("tenants")).into_iter().flatten().flatten() {
        let id: Option<TenantId> = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(id) = id.filter(|id| known.iter().all(|tenant| tenant.id != *id)) {
            let name = format!("recovered-{}", &id.to_string()[..8]);
            state.catalogue.recover_tenant(&Tenant { id, name, created: state.now() })?;
        }
    }
    Ok(())
}

/// Takes up the site that a lineage names, if the catalogue has lost it; returns the name that was made up for it.
pub(crate) fn recover_site(
    state: &State,
    tenant: TenantId,
    lineage: &Lineage,
) -> Result<Option<String>, CatalogueError> {
    let Some(id) = lineage.site else { return Ok(None) };
    if state.catalogue.site(id)?.is_some() {
        return Ok(None);
    }
    let name = format!("recovered-{}", &id.to_string()[..8]);
    let site = Site {
        id,
        tenant,
        name: name.clone(),
        created: state.now(),
        revoked: None,
        seen: None,
        software: String::new(),
    };
    state.catalogue.recover_site(&site)?;
    Ok(Some(name))
}

/// Moves an index out of the way of the one that is made anew, keeping it.
pub(crate) fn set_aside(index: &Path) -> Result<(), BackupError> {
    if !index.exists() {
        return Ok(());
    }
    // redb refuses to open what another process has open: then this must not be moved from under it.
    let taken = matches!(redb::Database::open(index), Err(redb::DatabaseError::DatabaseAlreadyOpen));
    if taken {
        return Err(CatalogueError::InUse(index.to_owned()).into());
    }
    let aside = index.with_added_extension("old");
    std::fs::rename(index, &aside).map_err(FileError::on("move aside", index))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use wire::token::Token;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn state(folder: &Path) -> std::sync::Arc<State> {
        State::create(folder, NOW).unwrap();
        let state = State::open(&Config::new(folder)).unwrap();
        let tenant = state.catalogue.tenant("bank", NOW).unwrap();
        let token = Token::random(vec!["gw:1".into()], [0; 32]);
        state.catalogue.add_token(&tenant, "b1", &token, NOW, NOW).unwrap();
        state.tenant(tenant.id).unwrap();
        state
    }

    #[test]
    fn a_backup_gives_the_same_keys_and_sites_with_and_without_a_passphrase() {
        let dir = tempfile::tempdir().unwrap();
        let state = state(&dir.path().join("state"));
        let phrase = dir.path().join("phrase");
        std::fs::write(&phrase, "correct horse battery\nsecond line").unwrap();
        for (name, file) in [("plain", None), ("sealed", Some(phrase.as_path()))] {
            let (to, restored) = (dir.path().join(name), dir.path().join(format!("{name}-state")));
            assert_eq!(back_up(&state, &to, file).unwrap(), file.is_some());
            assert!(matches!(back_up(&state, &to, file), Err(BackupError::NotEmpty(_))));
            restore(&to, &restored, file).unwrap();
            let again = State::open(&Config::new(&restored)).unwrap();
            assert_eq!(again.catalogue.sites().unwrap(), state.catalogue.sites().unwrap());
            assert_eq!(again.authorities().fingerprint(), state.authorities().fingerprint());
            let tenant = state.catalogue.tenants().unwrap()[0].id;
            let key = |state: &State| files::read(&state.tenant_folder(tenant).join("key")).unwrap();
            assert_eq!(key(&again), key(&state));
        }
        let sealed = files::read(&dir.path().join("sealed/secrets")).unwrap();
        assert!(!sealed.windows(11).any(|w| w == b"PRIVATE KEY"), "keys are not in the clear");
    }

    #[test]
    fn wrong_passphrases_and_damage_are_found_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let state = state(&dir.path().join("state"));
        let (phrase, other, short) = (dir.path().join("p"), dir.path().join("o"), dir.path().join("s"));
        std::fs::write(&phrase, "correct horse battery").unwrap();
        std::fs::write(&other, "another passphrase").unwrap();
        std::fs::write(&short, "short").unwrap();
        let to = dir.path().join("backup");
        assert!(matches!(back_up(&state, &to, Some(&short)), Err(BackupError::Passphrase(_))));
        back_up(&state, &to, Some(&phrase)).unwrap();
        let at = dir.path().join("restored");
        assert!(matches!(restore(&to, &at, None), Err(BackupError::NeedsPassphrase(_))));
        assert!(matches!(restore(&to, &at, Some(&other)), Err(BackupError::Undecipherable(_))));
        let mut catalogue = files::read(&to.join("catalogue.redb")).unwrap();
        catalogue[5000] ^= 1;
        std::fs::write(to.join("catalogue.redb"), catalogue).unwrap();
        let damaged = restore(&to, &at, Some(&phrase)).unwrap_err().to_string();
        assert!(damaged.ends_with("is not a usable backup: a file of it is damaged"), "{damaged}");
        std::fs::remove_file(to.join("backup.json")).unwrap();
        assert!(restore(&to, &at, Some(&phrase)).unwrap_err().to_string().contains("it has no backup.json"));
    }
}
