//! Credentials: from a file or from the environment, never from a command line, an answer or a log.
//!
//! One form for all clouds: lines `NAME=VALUE`, as clouds' own `openrc` and `env` files are. `export` in front and quotes around the value are allowed,
//! nothing is expanded or run.

use crate::error::TargetError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Bytes of a file of credentials at most. Larger than any that a cloud hands out.
const MOST: u64 = 64 << 10;

/// Where credentials come from. Names a place, holds no secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Credentials {
    /// There are none.
    #[default]
    None,
    /// A file of lines `NAME=VALUE` that nobody but its owner can read.
    File(PathBuf),
    /// The daemon's environment.
    Environment,
}

/// What credentials say, by name. Shows names only.
pub struct Vars {
    from: String,
    vars: BTreeMap<String, Zeroizing<String>>,
}

impl fmt::Debug for Vars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vars({} from {})", self.vars.keys().cloned().collect::<Vec<_>>().join(", "), self.from)
    }
}

impl Credentials {
    /// Reads them. `names` are those that the environment is asked for.
    ///
    /// # Errors
    /// [`TargetError::Credentials`] names the file and what is wrong with it.
    pub fn read(&self, names: &[&str]) -> Result<Vars, TargetError> {
        match self {
            Credentials::None => Ok(Vars { from: "nowhere: none were named".into(), vars: BTreeMap::new() }),
            Credentials::File(path) => read_file(path),
            Credentials::Environment => {
                let found = names.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
                let vars = found.map(|(name, value)| (name, Zeroizing::new(value))).collect();
                Ok(Vars { from: "the daemon's environment".into(), vars })
            }
        }
    }
}

impl Vars {
    /// One value, if it is there and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(|value| value.as_str()).filter(|value| !value.is_empty())
    }

    /// One value that must be there.
    pub fn must(&self, name: &str) -> Result<&str, TargetError> {
        self.get(name).ok_or_else(|| TargetError::Credentials {
            from: self.from.clone(),
            why: format!("`{name}` is missing; add a line `{name}=…`"),
        })
    }
}

fn read_file(path: &Path) -> Result<Vars, TargetError> {
    let refuse = |why: String| TargetError::Credentials { from: path.display().to_string(), why };
    let file = File::open(path).map_err(|error| refuse(error.to_string()))?;
    let metadata = file.metadata().map_err(|error| refuse(error.to_string()))?;
    if !metadata.is_file() {
        return Err(refuse("it is no regular file".into()));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(refuse(format!("others can read it (mode {:o}); run `chmod 600` on it", metadata.mode() & 0o777)));
    }
    let mut text = Zeroizing::new(String::new());
    let read = file.take(MOST + 1).read_to_string(&mut text).map_err(|error| refuse(error.to_string()))?;
    if read as u64 > MOST {
        return Err(refuse(format!("it is longer than {MOST} bytes, which no credentials are")));
    }
    let vars = parse(&text).map_err(|line| refuse(format!("line {line} is not `NAME=VALUE`")))?;
    Ok(Vars { from: path.display().to_string(), vars })
}

/// The lines of a file; the number of the first one that is none.
fn parse(text: &str) -> Result<BTreeMap<String, Zeroizing<String>>, usize> {
    let mut vars = BTreeMap::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let (name, value) = line.split_once('=').ok_or(at + 1)?;
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name {
            return Err(at + 1);
        }
        let quoted = |quote| value.strip_prefix(quote).and_then(|rest: &str| rest.strip_suffix(quote));
        let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
        vars.insert(name.to_owned(), Zeroizing::new(value.to_owned()));
    }
    Ok(vars)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_of_credentials_is_read_as_clouds_write_it_and_shows_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("openrc");
        std::fs::write(&path, "# from the cloud\nexport OS_USERNAME=sluice\nOS_PASSWORD=\"p=a's$HOME\"\n\nOS_X=''\n")
            .unwrap();
        let credentials = Credentials::File(path.clone());
        let open = credentials.read(&[]).unwrap_err().to_string();
        assert!(open.contains("others can read it (mode 644); run `chmod 600`"), "{open}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let vars = credentials.read(&[]).unwrap();
        assert_eq!((vars.get("OS_USERNAME"), vars.get("OS_PASSWORD")), (Some("sluice"), Some("p=a's$HOME")));
        assert_eq!(vars.get("OS_X"), None, "empty is missing");
        let missing = vars.must("OS_AUTH_URL").unwrap_err().to_string();
        assert!(missing.contains("`OS_AUTH_URL` is missing"), "{missing}");
        assert!(!format!("{vars:?}").contains("p=a"), "{vars:?}");
        std::fs::write(&path, "OS_USERNAME=x\nnonsense\n").unwrap();
        let wrong = credentials.read(&[]).unwrap_err().to_string();
        assert!(wrong.ends_with("line 2 is not `NAME=VALUE`"), "{wrong}");
        assert!(!wrong.contains("nonsense"), "a line may be a secret: {wrong}");
    }

    #[test]
    fn the_environment_is_asked_for_named_variables_only() {
        let vars = Credentials::Environment.read(&["PATH"]).unwrap();
        assert!(vars.get("PATH").is_some() && vars.get("HOME").is_none());
        assert!(Credentials::None.read(&["PATH"]).unwrap().must("PATH").is_err());
    }
}
