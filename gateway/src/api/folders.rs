//! Paths of the gateway's machine that somebody names from afar: below the folders of the configuration, and nowhere else.

use crate::access::{Caller, Scope};
use crate::admin::AdminError;
use crate::catalogue::Tenant;
use crate::config::WebConfig;
use crate::rehydrate::Place;
use std::path::{Component, Path, PathBuf};
use targets::{Credentials, Settings};

/// The path, if it leads below one of the folders for targets, also when symbolic links are followed.
pub(super) fn for_target(web: &WebConfig, asked: &str) -> Result<PathBuf, AdminError> {
    if web.targets.is_empty() {
        return Err(AdminError::NoTargets);
    }
    let outside = || AdminError::Outside(crate::text::printable(asked), listed(&web.targets));
    within(&web.targets, asked).ok_or_else(outside)
}

/// Whether a target that somebody sets up writes below the folders for targets only, and where no other tenant's target does.
pub(super) fn settings_allowed(
    web: &WebConfig,
    settings: &Settings,
    tenant: &Tenant,
    others: &[Place],
) -> Result<(), AdminError> {
    for path in settings.paths() {
        free_for(&for_target(web, &path.to_string_lossy())?, tenant, others)?;
    }
    Ok(())
}

/// Whether no other tenant's target writes there: a path that is free is no tenant's yet, and what one has filled is not another's to write over.
pub(super) fn free_for(path: &Path, tenant: &Tenant, others: &[Place]) -> Result<(), AdminError> {
    let foreign = others.iter().filter(|place| place.tenant != tenant.id);
    let mut taken = foreign.flat_map(|place| place.settings.paths().into_iter().map(followed).collect::<Vec<_>>());
    match taken.any(|other| path.starts_with(&other) || other.starts_with(path)) {
        true => Err(AdminError::NotFree(crate::text::printable(&path.to_string_lossy()))),
        false => Ok(()),
    }
}

/// Where credentials come from, when somebody says so from afar: nothing, the daemon's environment (who acts for the whole gateway), or a file below one of the
/// folders for credentials; for who acts for one tenant below that tenant's own folder in there. What was asked for is in no error: it may be a secret that was
/// put into the wrong field.
pub(super) fn credentials(
    web: &WebConfig,
    caller: &Caller,
    tenant: &Tenant,
    asked: Option<&str>,
) -> Result<Credentials, AdminError> {
    let whole = caller.scope == Scope::Whole;
    match asked {
        None | Some("" | "none") => Ok(Credentials::None),
        Some("environment") if whole => Ok(Credentials::Environment),
        Some("environment") => Err(AdminError::NotTheirEnvironment),
        Some(path) => secret_file(web, whole, tenant, path).map(Credentials::File),
    }
}

/// A file below one of the folders for credentials, as [`credentials`] says.
pub(super) fn secret_file(web: &WebConfig, whole: bool, tenant: &Tenant, asked: &str) -> Result<PathBuf, AdminError> {
    if web.credentials.is_empty() {
        return Err(AdminError::NoCredentials);
    }
    let own = |folder: &PathBuf| if whole { folder.clone() } else { folder.join(&tenant.name) };
    let folders: Vec<PathBuf> = web.credentials.iter().map(own).collect();
    // The path as it was named: what replaces files of secrets moves a symbolic link.
    within(&folders, asked).map(|_| asked.into()).ok_or_else(|| AdminError::OutsideCredentials(listed(&folders)))
}

fn listed(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(" or ")
}

/// Where an absolute path leads when symbolic links are followed, if that is below one of the folders.
fn within(folders: &[PathBuf], asked: &str) -> Option<PathBuf> {
    let path = Path::new(asked);
    let plain = path.is_absolute()
        && !asked.contains('\0')
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let (Some(parent), Some(name), true) = (path.parent(), path.file_name(), plain) else { return None };
    let target = parent.canonicalize().ok()?.join(name);
    // A link at the end would lead out of the folder as well as one before it.
    let target = if target.symlink_metadata().is_ok() { target.canonicalize().ok()? } else { target };
    let mut allowed = folders.iter().filter_map(|folder| folder.canonicalize().ok());
    allowed.any(|folder| target.starts_with(&folder) && target != folder).then_some(target)
}

/// A path with its links followed, as far as it is there.
fn followed(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| {
        match (path.parent().and_then(|parent| parent.canonicalize().ok()), path.file_name()) {
            (Some(parent), Some(name)) => parent.join(name),
            _ => path.to_owned(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Role, Via};
    use crate::config::Config;
    use dedupe::{TenantId, UnixMillis};
    use targets::settings::RawSettings;

    fn web(targets: &[PathBuf], credentials: &[PathBuf]) -> WebConfig {
        let web = Config::new("/nowhere").web.unwrap();
        WebConfig { targets: targets.to_vec(), credentials: credentials.to_vec(), ..web }
    }

    fn tenant(name: &str, id: u8) -> Tenant {
        Tenant { id: TenantId([id; 16]), name: name.into(), created: UnixMillis(1) }
    }

    #[test]
    fn targets_lie_below_their_folders_whatever_leads_there() {
        let dir = tempfile::tempdir().unwrap();
        let (targets, secret) = (dir.path().join("targets"), dir.path().join("secret"));
        for folder in [&targets, &targets.join("a"), &secret] {
            std::fs::create_dir(folder).unwrap();
        }
        std::os::unix::fs::symlink(&secret, targets.join("link")).unwrap();
        std::os::unix::fs::symlink(secret.join("key"), targets.join("file")).unwrap();
        std::fs::write(secret.join("key"), "x").unwrap();
        let web = web(std::slice::from_ref(&targets), &[]);
        let ask = |path: &str| for_target(&web, &format!("{}/{path}", targets.display()));
        assert_eq!(ask("a/disk.img").unwrap(), targets.canonicalize().unwrap().join("a/disk.img"));
        for wrong in ["../secret/key", "link/key", "file", "a/../../secret/x", "nowhere/x", "", ".", "a/\0"] {
            assert!(matches!(ask(wrong), Err(AdminError::Outside(..))), "{wrong}");
        }
        for wrong in ["/etc/passwd", "disk.img", "", "/"] {
            assert!(matches!(for_target(&web, wrong), Err(AdminError::Outside(..))), "{wrong}");
        }
        assert!(matches!(for_target(&self::web(&[], &[]), "/srv/x"), Err(AdminError::NoTargets)));
    }

    #[test]
    fn credentials_are_files_of_the_tenant_and_what_was_named_is_in_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("credentials");
        for tenant in ["bank", "rival"] {
            std::fs::create_dir_all(folder.join(tenant)).unwrap();
            std::fs::write(folder.join(tenant).join("openrc"), "A=B").unwrap();
        }
        let web = web(&[], std::slice::from_ref(&folder));
        let bank = tenant("bank", 1);
        let of = |scope| Caller { name: "li".into(), role: Role::Administrator, scope, via: Via::Session };
        let (whole, own) = (of(Scope::Whole), of(Scope::Tenant(bank.id)));
        let ask = |caller: &Caller, path: &str| credentials(&web, caller, &bank, Some(path));
        let path = |name: &str| folder.join(name).display().to_string();
        assert_eq!(ask(&own, &path("bank/openrc")).unwrap(), Credentials::File(folder.join("bank/openrc")));
        assert_eq!(ask(&whole, &path("rival/openrc")).unwrap(), Credentials::File(folder.join("rival/openrc")));
        assert_eq!(ask(&whole, "environment").unwrap(), Credentials::Environment);
        assert_eq!(ask(&own, "none").unwrap(), Credentials::None);
        assert!(matches!(ask(&own, "environment"), Err(AdminError::NotTheirEnvironment)));
        for wrong in ["AKIA-a-secret-key", "/etc/passwd", &path("rival/openrc"), &path("bank/../rival/openrc")] {
            let said = ask(&own, wrong).unwrap_err().to_string();
            assert!(said.contains("credentials/bank") && !said.contains(wrong), "{said}");
        }
        let none = credentials(&self::web(&[], &[]), &whole, &bank, Some("/x/y")).unwrap_err().to_string();
        assert!(none.contains("`credentials = [") && !none.contains("/x/y"), "{none}");
    }

    #[test]
    fn what_another_tenant_fills_is_not_free() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        let web = web(&[dir.path().to_owned()], &[]);
        let (bank, rival) = (tenant("bank", 1), tenant("rival", 2));
        let raw = |name: &str| Settings::Raw(RawSettings { folder: dir.path().join(name) });
        let place = Place {
            tenant: bank.id,
            name: "vault".into(),
            settings: raw("a"),
            credentials: Credentials::None,
            authorities: None,
            limits: crate::rehydrate::Limits::default(),
            proof: crate::rehydrate::Proof::All,
            keep: None,
            made: UnixMillis(1),
            by: "li".into(),
        };
        let places = [place];
        let ask = |tenant: &Tenant, name: &str| settings_allowed(&web, &raw(name), tenant, &places);
        ask(&bank, "a").unwrap();
        ask(&rival, "b").unwrap();
        for taken in ["a", "a/b"] {
            assert!(matches!(ask(&rival, taken), Err(AdminError::NotFree(_))), "{taken}");
        }
    }
}
