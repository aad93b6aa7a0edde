//! Another release of the system, from a stick: for sites without a line, and for going back further than the other slot does.

use super::Console;
use super::stick::{self, Access, Stick};
use crate::run::{now, succeed};
use crate::status::FOLDER;
use crate::terminal::{Key, Stop};
use crate::upgrade::{CHOSEN, Chosen};
use release::bundle::{SUFFIX, read_head};
use release::install::read_keys;
use release::machine::Machine;
use release::report::{self, InstallReport, InstallState};
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;
use wire::release::Manifest;
use wire::statement::KeyId;

/// For systemd to take an order.
const WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked how far it is.
const LOOK: Duration = Duration::from_secs(2);
/// Bundles that one stick is looked through for.
const MOST: usize = 64;

/// A release on a stick.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    file: String,
    manifest: Manifest,
}

/// Lists the releases on a stick and installs the one that is chosen.
pub(super) fn from_stick(console: &mut Console) -> Result<(), Stop> {
    let Some(stick) = stick::choose(console, "upgrade")? else { return Ok(()) };
    let machine = Machine::default();
    let system = match machine.system() {
        Ok(system) => system,
        Err(why) => return console.fail("upgrade", "This system cannot be upgraded:", "本系统无法升级：", &why),
    };
    let found = stick::with_mounted(&console.place, &stick.device, Access::Read, |folder| {
        Ok(releases(folder, console.release.role.word(), &read_keys(&machine.keys())?))
    });
    let (found, refused) = match found {
        Ok(found) => found,
        Err(why) => return console.fail("upgrade", "The stick cannot be read:", "无法读取 U 盘：", &why),
    };
    for why in refused {
        console.say_folded(&why)?;
    }
    if found.is_empty() {
        let said = console.of(
            format!("There is no release for this box on {stick}: a file whose name ends with {SUFFIX}."),
            format!("{stick} 上没有适用于本设备的升级文件（文件名以 {SUFFIX} 结尾）。"),
        );
        return console.say_folded(&said);
    }
    let names: Vec<String> =
        found.iter().map(|found| format!("{}  ({})", found.manifest.version, found.file)).collect();
    let chosen = &found[console.terminal.choose(&names)?];
    let older = chosen.manifest.sequence <= system.sequence;
    if !confirmed(console, &chosen.manifest.version, older)? {
        return Ok(());
    }
    let order = Chosen { device: stick.device.clone(), file: chosen.file.clone(), older };
    begin(console, &machine, &order, &stick)
}

fn confirmed(console: &mut Console, version: &str, older: bool) -> Result<bool, Stop> {
    let now = &console.release.version;
    let said = console.of(
        format!(
            "Now version {now} runs. Version {version} goes into the other slot, and the box restarts to try it; if it does not work, the box goes back by itself."
        ),
        format!("当前版本为 {now}。版本 {version} 将写入另一系统槽，随后设备重启试用；若无法正常工作，设备会自动恢复到当前版本。"),
    );
    console.say_folded(&said)?;
    if older {
        console.say_in(
            "It is not newer than the one that runs: it may lack what keeps this box safe.",
            "该版本不比当前版本新，可能缺少安全修复。",
        )?;
        return console.terminal.has_typed("older");
    }
    console.terminal.has_typed("upgrade")
}

/// Has it done by the service that may, and says how far it is.
fn begin(console: &mut Console, machine: &Machine, order: &Chosen, stick: &Stick) -> Result<(), Stop> {
    let report_path = machine.install_report();
    let _of_before = fs::remove_file(&report_path);
    let written = report::write(&console.place.path(FOLDER).join(CHOSEN), order).map_err(anyhow::Error::from);
    let mut start = console.place.program("systemctl");
    let started = written
        .and_then(|()| Ok(succeed(start.args(["--no-block", "start", "sluice-upgrade-stick.service"]), WITHIN)?));
    if let Err(why) = started {
        return console.fail("upgrade", "It was not begun:", "未能开始：", &why);
    }
    console.record(&format!("upgrade from {stick} begun: {}, older: {}", order.file, order.older));
    console.say_in("Leave the stick in. This takes some minutes.", "请勿拔出 U 盘，需要几分钟。")?;
    let mut shown = 0;
    loop {
        // Whatever is typed meanwhile means nothing.
        let _key: Option<Key> = console.terminal.key(now() + LOOK)?;
        let report = report::read::<InstallReport>(&report_path).ok().flatten();
        match report.map(|report| report.state) {
            None => {}
            Some(InstallState::Running { done, total }) => {
                let percent = done * 100 / total.max(1);
                if percent >= shown + 5 {
                    shown = percent;
                    console.terminal.say(&format!("  {percent} %"))?;
                }
            }
            Some(InstallState::OnTrial) => return console.say_in("Restarting...", "正在重新启动……"),
            Some(InstallState::Failed { why, .. }) => {
                return console.fail("upgrade", "It was not installed:", "安装失败：", &why);
            }
        }
    }
}

/// The releases in a folder that are for this box and signed by somebody trusted, newest first; and why others are not offered.
fn releases(folder: &Path, role: &str, trusted: &[KeyId]) -> (Vec<Found>, Vec<String>) {
    let (mut found, mut refused) = (Vec::new(), Vec::new());
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    for file in names.filter(|name| name.ends_with(SUFFIX)).take(MOST) {
        let read = File::open(folder.join(&file)).map_err(|error| error.to_string());
        let text = read.and_then(|mut from| read_head(&mut from).map_err(|error| error.to_string()));
        match text.and_then(|text| Manifest::read(&text, trusted).map_err(|error| error.to_string())) {
            Ok(manifest) if manifest.role.word() == role => found.push(Found { file, manifest }),
            Ok(_) => {}
            Err(why) => refused.push(format!("{file}: {why}")),
        }
    }
    found.sort_by_key(|found| std::cmp::Reverse(found.manifest.sequence));
    (found, refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use release::bundle;
    use wire::release::{ReleaseId, Role};
    use wire::statement::StatementKey;

    #[test]
    fn releases_of_others_are_not_offered_and_the_newest_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let keys = [StatementKey::generate(), StatementKey::generate()].map(|key| StatementKey::read(&key).unwrap());
        let put = |name: &str, key: &StatementKey, role, sequence| {
            let manifest = Manifest {
                role,
                version: format!("0.{sequence}"),
                sequence,
                bytes: 4096,
                id: ReleaseId([1; 32]),
                salt: [0; 32],
                made: serde_json::from_str("0").unwrap(),
                next_key: None,
            };
            let text = manifest.sign(key).unwrap().to_json();
            let to = File::create(dir.path().join(name)).unwrap();
            bundle::write(&text, [0u8; 4096].as_slice(), to, 1).unwrap();
        };
        put("a.sluice-release", &keys[0], Role::Edge, 5);
        put("b.sluice-release", &keys[0], Role::Edge, 7);
        put("c.sluice-release", &keys[0], Role::Gateway, 9);
        put("d.sluice-release", &keys[1], Role::Edge, 9);
        fs::write(dir.path().join("e.sluice-release"), "a letter").unwrap();
        fs::write(dir.path().join("f.txt"), "another").unwrap();
        let (found, mut refused) = releases(dir.path(), "edge", &[keys[0].public()]);
        let names: Vec<_> = found.iter().map(|found| found.file.as_str()).collect();
        assert_eq!(names, ["b.sluice-release", "a.sluice-release"]);
        refused.sort();
        assert!(
            refused.len() == 2 && refused[0].contains("not trusted") && refused[1].contains("no release"),
            "{refused:?}"
        );
    }
}
