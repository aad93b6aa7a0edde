//! SPECIFICATION.md names a test for each promise: here each named test is looked up, so that renaming or removing one cannot leave an empty promise behind.

use std::fs;
use std::path::Path;

#[test]
fn each_promise_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the lab is a folder of the workspace");
    let text = fs::read_to_string(root.join("SPECIFICATION.md")).expect("the specification is in the workspace's root");
    let promises: Vec<&str> =
        text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| you may")).collect();
    assert!(promises.len() > 20, "the tables are read: {}", promises.len());
    let mut wrong = Vec::new();
    for promise in promises {
        let proofs: Vec<&str> = promise.split('`').filter(|part| part.contains(".rs::")).collect();
        if proofs.is_empty() {
            wrong.push(format!("no proof: {promise}"));
        }
        wrong.extend(proofs.iter().filter(|proof| !exists(root, proof)).map(|proof| format!("no such test: {proof}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether `file::function` is a test.
fn exists(root: &Path, proof: &str) -> bool {
    let Some((file, function)) = proof.split_once("::") else { return false };
    let Ok(code) = fs::read_to_string(root.join(file)) else { return false };
    let declared = format!("fn {function}(");
    code.find(&declared).is_some_and(|at| {
        // The attributes stand between the end of the item before and the declaration; proptest's `#[test]` looks the same.
        let before = &code[..at];
        let item = before.rfind(['}', ';']).unwrap_or(0);
        before[item..].contains("test]") || before[item..].contains("test(")
    })
}
