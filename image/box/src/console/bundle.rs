//! The support bundle: what the daemon says of itself and the journal, onto a stick.

use super::Console;
use super::stick::{self, Access, Stick};
use crate::run::{Place, RunError, run_into, succeed};
use crate::status::Role;
use crate::terminal::Stop;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// For `date`.
const WITHIN: Duration = Duration::from_secs(60);
/// For the bundle to be made and to be written to the slowest stick.
const WRITING: Duration = Duration::from_secs(600);
/// Lines of the journal: some weeks, some megabytes.
const JOURNAL: &str = "20000";

/// Writes the bundle to a stick that somebody plugged in.
pub(super) fn save(console: &mut Console) -> Result<(), Stop> {
    let Some(stick) = stick::choose(console, "support bundle")? else { return Ok(()) };
    console.say_in(&format!("Writing to {stick}; leave it in..."), &format!("正在写入 {stick}，请勿拔出……"))?;
    match write(console, &stick) {
        Ok(names) => {
            console.record(&format!("support bundle written to {stick}"));
            let names = names.join(", ");
            let said = console.of(
                format!("Written: {names}. The stick can be taken out."),
                format!("已写入：{names}。现在可以拔出 U 盘。"),
            );
            console.say_folded(&said)
        }
        Err(why) => console.fail("support bundle", "It was not written:", "写入失败：", &why),
    }
}

fn write(console: &Console, stick: &Stick) -> anyhow::Result<Vec<String>> {
    stick::with_mounted(&console.place, &stick.device, Access::Write, |folder| write_files(console, folder))
}

fn write_files(console: &Console, folder: &Path) -> anyhow::Result<Vec<String>> {
    let at = console_time(&console.place)?;
    let mut names = Vec::new();
    if console.release.role == Role::Edge {
        let name = format!("sluice-diagnostics-{at}.json");
        into(&folder.join(&name), console.place.edge().args(["diagnostics", "--to", "-"]))?;
        names.push(name);
    }
    let name = format!("sluice-journal-{at}.txt");
    into(
        &folder.join(&name),
        console.place.program("journalctl").args(["--no-pager", "-q", "-o", "short-iso", "-n", JOURNAL]),
    )?;
    names.push(name);
    Ok(names)
}

/// The time in a file's name, as in 20261128-120000 (UTC).
fn console_time(place: &Place) -> Result<String, RunError> {
    Ok(succeed(place.program("date").args(["-u", "+%Y%m%d-%H%M%S"]), WITHIN)?.trim().to_owned())
}

/// What a program says, as a file, synced; nothing is left of it when the program fails.
fn into(path: &Path, program: &mut Command) -> anyhow::Result<()> {
    let file = File::create(path)?;
    let said = run_into(program, file.try_clone()?.into(), WRITING)?;
    if !said.status.success() {
        let _ = fs::remove_file(path);
        return Err(said.failure(program.get_program().to_string_lossy().into_owned()).into());
    }
    Ok(file.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_leaves_no_half_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut fails = Place::real().program("sh");
        assert!(
            into(&path, fails.args(["-c", "echo half; echo why >&2; exit 1"])).unwrap_err().to_string().contains("why")
        );
        assert!(!path.exists());
        into(&path, Place::real().program("echo").arg("whole")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole\n");
    }
}
