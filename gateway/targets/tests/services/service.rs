//! Services that `tests/services/up` started.

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What a service says about itself.
pub(crate) struct Env {
    /// The file, which is one of credentials too.
    pub(crate) path: PathBuf,
    vars: HashMap<String, String>,
}

impl Env {
    pub(crate) fn get(&self, name: &str) -> String {
        self.vars.get(name).unwrap_or_else(|| panic!("{} has no {name}", self.path.display())).clone()
    }
}

/// A service by its name. Where it does not run, says that the test is skipped.
pub(crate) fn find(name: &str) -> Option<Env> {
    let var = format!("SLUICE_{}", name.to_ascii_uppercase());
    let Some(path) = std::env::var_os(&var) else {
        println!("skipped: {var} is not set; start it by `eval \"$(tests/services/up {name})\"`");
        return None;
    };
    let text = std::fs::read_to_string(&path).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let vars = pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned())).collect();
    Some(Env { path: path.into(), vars })
}

/// One value of a service.
pub(crate) fn value(name: &str, var: &str) -> Option<String> {
    Some(find(name)?.get(var))
}

/// A file of credentials.
pub(crate) fn private(dir: &Path, lines: &str) -> PathBuf {
    let path = dir.join("credentials");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
    file.write_all(lines.as_bytes()).unwrap();
    path
}
