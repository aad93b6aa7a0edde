//! What lies beside this crate's code for the people on duty: rules, runbooks, dashboards. They are data, so what can be wrong with them is looked for
//! here; that their expressions find something in what real daemons say is `tests/tests/scenarios/monitoring.rs`.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let listed = fs::read_dir(here().join(folder)).unwrap();
    let mut found: Vec<PathBuf> = listed.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension() == Some(OsStr::new(extension)));
    found.sort();
    assert!(!found.is_empty(), "{folder} has files with .{extension}");
    found
}

/// Runs a checking tool over files; `None`, and a line that `tests/run` counts, where it is not installed.
fn tool(program: &str, arguments: &[&str], files: &[PathBuf]) -> Option<Result<(), String>> {
    let output = match Command::new(program).args(arguments).args(files).current_dir(here()).output() {
        Ok(output) => output,
        Err(_) => {
            eprintln!("skipped: {program} is not installed");
            return None;
        }
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Some(if output.status.success() { Ok(()) } else { Err(said) })
}

#[test]
fn prometheus_takes_the_rules_and_the_configuration() {
    if let Some(checked) = tool("promtool", &["check", "rules"], &files("rules", "yml")) {
        checked.unwrap();
        tool("promtool", &["check", "config", "prometheus.yml"], &[]).unwrap().unwrap();
    }
}

#[test]
fn alertmanager_takes_its_configuration() {
    if let Some(checked) = tool("amtool", &["check-config", "alertmanager.yml"], &[]) {
        checked.unwrap();
    }
}

#[test]
fn each_alert_fires_where_it_should_and_only_there() {
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let runs: Vec<_> = files("tests", "yml")
            .into_iter()
            .map(|file| scope.spawn(move || tool("promtool", &["test", "rules"], &[file])))
            .collect();
        runs.into_iter().filter_map(|run| run.join().unwrap()?.err()).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the rules say of an alert, as far as it is looked at here.
struct Alert {
    name: String,
    text: String,
}

impl Alert {
    /// In the order of the file, which is that of duty.
    fn all() -> Vec<Alert> {
        let text = read(&here().join("rules/alerts.yml"));
        let alerts = text.split("- alert: ").skip(1).map(|text| {
            let (name, text) = text.split_once('\n').unwrap();
            Alert { name: name.trim().to_owned(), text: text.split("\n  - name: ").next().unwrap().to_owned() }
        });
        alerts.collect()
    }

    fn severity(&self) -> &str {
        let after = self.text.split("severity: ").nth(1).unwrap_or_else(|| panic!("{} has a severity", self.name));
        after.split(['}', ',', '\n']).next().unwrap()
    }
}

#[test]
fn each_alert_says_how_urgent_it_is_what_is_wrong_and_where_to_read_on() {
    let alerts = Alert::all();
    assert!(alerts.len() > 30, "{} alerts are found", alerts.len());
    let names: BTreeSet<&str> = alerts.iter().map(|alert| alert.name.as_str()).collect();
    assert_eq!(names.len(), alerts.len(), "an alert is there once");
    for alert in &alerts {
        assert!(["page", "ticket", "info"].contains(&alert.severity()), "{}: {}", alert.name, alert.severity());
        assert!(alert.text.contains("\n          summary: \""), "{} has a summary", alert.name);
        assert!(alert.text.contains("\n          description: >-\n"), "{} has a description", alert.name);
        let runbook = format!("runbook_url: \"{{{{ $externalLabels.runbooks }}}}/{}.md\"", alert.name);
        assert!(alert.text.contains(&runbook), "{} links to its runbook", alert.name);
    }
}

#[test]
fn each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() {
    let mut cases: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for file in files("tests", "yml") {
        let text = read(&file);
        for case in text.split("alertname: ").skip(1) {
            let (name, rest) = case.split_once('\n').unwrap();
            let quiet = rest.trim_start().starts_with("exp_alerts: []");
            let counted = cases.entry(name.trim().to_owned()).or_default();
            *(if quiet { &mut counted.1 } else { &mut counted.0 }) += 1;
        }
    }
    for alert in Alert::all() {
        let (fires, quiet) = cases.remove(&alert.name).unwrap_or_default();
        assert!(fires > 0 && quiet > 0, "{}: {fires} cases fire, {quiet} do not", alert.name);
    }
    assert!(cases.is_empty(), "cases of alerts that are not there: {cases:?}");
}

#[test]
fn each_alert_has_a_runbook_and_each_runbook_an_alert() {
    let alerts = Alert::all();
    for (index, folder) in [("runbooks/README.md", ""), ("../docs/design/monitoring.md", "../../monitoring/runbooks/")]
    {
        let text = read(&here().join(index));
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| [Sluice")).collect();
        assert_eq!(rows.len(), alerts.len(), "{index} lists each alert");
        for (row, Alert { name, .. }) in rows.iter().zip(&alerts) {
            assert!(
                row.starts_with(&format!("| [{name}]({folder}{name}.md) |")),
                "{index} has the rules' order: {row}, {name}"
            );
        }
        for (row, alert) in rows.iter().zip(&alerts) {
            assert!(row.ends_with(&format!("| {} |", alert.severity())), "{index}: {row}: {}", alert.severity());
        }
    }
    for alert in &alerts {
        let name = &alert.name;
        let page = read(&here().join(format!("runbooks/{name}.md")));
        assert!(page.starts_with(&format!("# {name}\n\nSeverity: {}.\n", alert.severity())), "the head of {name}.md");
        for part in ["What it means", "Who is hurt", "Look first", "Do", "Escalate", "False positives"]
            .map(|p| format!("\n## {p}\n\n"))
        {
            assert!(page.contains(&part), "{name}.md lacks {part:?}");
        }
    }
    for page in files("runbooks", "md") {
        let name = page.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(name == "README" || alerts.iter().any(|alert| alert.name == name), "{name}.md has no alert");
    }
}

#[test]
fn links_of_runbooks_lead_somewhere() {
    let mut links = 0;
    for page in files("runbooks", "md").into_iter().chain([here().join("../docs/design/monitoring.md")]) {
        for link in read(&page).split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let target = page.parent().unwrap().join(link.split('#').next().unwrap());
            assert!(target.exists(), "{}: {link} leads nowhere", page.display());
            links += 1;
        }
    }
    assert!(links > 60, "{links} links are found");
}

fn boards() -> Vec<(String, Value)> {
    let load = |path: PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let board = serde_json::from_str(&read(&path)).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, board)
    };
    files("dashboards", "json").into_iter().map(load).collect()
}

fn list<'a>(value: &'a Value, what: &str) -> &'a Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("{what} is a list"))
}

fn word<'a>(value: &'a Value, what: &str) -> &'a str {
    value.as_str().filter(|text| !text.trim().is_empty()).unwrap_or_else(|| panic!("{what} is a text"))
}

#[test]
fn dashboards_are_whole() {
    let boards = boards();
    let uids: BTreeSet<&str> = boards.iter().map(|(name, board)| word(&board["uid"], name)).collect();
    assert_eq!(uids.len(), boards.len(), "each has a uid of its own");
    for (name, board) in &boards {
        word(&board["title"], name);
        word(&board["description"], name);
        assert!(board["schemaVersion"].as_u64().unwrap() >= 39, "{name}: an old schema");
        assert!(board["id"].is_null(), "{name}: an id is what one Grafana gave it");
        assert!(
            list(&board["tags"], name).contains(&"sluice".into()),
            "{name}: dashboards find each other by their tag"
        );
        let variables: Vec<&Value> = list(&board["templating"]["list"], name).iter().collect();
        assert_eq!(variables[0]["type"], "datasource", "{name}: the first variable is the datasource");
        let mut ids = BTreeSet::new();
        let mut taken: Vec<[u64; 4]> = Vec::new();
        for panel in list(&board["panels"], name) {
            let of = format!("{name}, panel {}", panel["title"]);
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{of}: its id is taken");
            place(&panel["gridPos"], &of, &mut taken);
            if panel["type"] != "row" {
                panel_is_whole(panel, &of, &variables);
            }
        }
        assert!(ids.len() > 10, "{name} has panels");
    }
}

/// Within the 24 columns, and on no other panel.
fn place(grid: &Value, of: &str, taken: &mut Vec<[u64; 4]>) {
    let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| grid[side].as_u64().unwrap_or_else(|| panic!("{of}: {side}")));
    assert!(w > 0 && h > 0 && x + w <= 24, "{of}: {grid}");
    let apart = |&[ox, oy, ow, oh]: &[u64; 4]| x + w <= ox || ox + ow <= x || y + h <= oy || oy + oh <= y;
    assert!(taken.iter().all(apart), "{of} lies on another: {grid}");
    taken.push([x, y, w, h]);
}

fn panel_is_whole(panel: &Value, of: &str, variables: &[&Value]) {
    word(&panel["title"], of);
    word(&panel["description"], of);
    word(&panel["fieldConfig"]["defaults"]["unit"], of);
    assert!(!list(&panel["fieldConfig"]["defaults"]["thresholds"]["steps"], of).is_empty(), "{of}");
    assert_eq!(panel["datasource"]["uid"], "${datasource}", "{of}");
    let mut letters = BTreeSet::new();
    for target in list(&panel["targets"], of) {
        assert!(letters.insert(word(&target["refId"], of)), "{of}: a refId comes twice");
        assert_eq!(target["datasource"]["uid"], "${datasource}", "{of}");
        let expression = word(&target["expr"], of);
        for variable in expression.split('$').skip(1) {
            let variable: String = variable.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let known = variable.starts_with("__") || variables.iter().any(|known| known["name"] == variable);
            assert!(known, "{of}: ${variable} is no variable");
        }
    }
    assert!(!letters.is_empty(), "{of} asks nothing");
}

#[test]
fn links_to_dashboards_lead_somewhere() {
    let boards = boards();
    let uids: BTreeSet<&str> = boards.iter().map(|(name, board)| word(&board["uid"], name)).collect();
    let mut texts: Vec<String> = boards.iter().map(|(_, board)| board.to_string()).collect();
    texts.push(read(&here().join("rules/alerts.yml")));
    let mut links = 0;
    for link in texts.iter().flat_map(|text| text.split("/d/").skip(1)) {
        let uid = link.split(['?', '"', '/']).next().unwrap();
        assert!(uids.contains(uid), "/d/{uid} is no dashboard");
        links += 1;
    }
    assert!(links > 30, "{links} links are found");
    let fleet = &boards.iter().find(|(name, _)| name == "fleet.json").unwrap().1.to_string();
    assert!(
        fleet.contains("/d/sluice-site?var-tenant=${__data.fields.tenant}&var-site=${__data.fields.site}"),
        "from fleet to site"
    );
}

#[test]
fn the_command_that_starts_all_of_it_names_what_it_does_not_understand() {
    for (arguments, said) in [
        (["--gateway", "nowhere"], "--gateway nowhere: write an address and port"),
        (["--port", "99999"], "99999: not a port"),
        (["--interval", "often"], "--interval often: write a time as 30s"),
        (["--runbooks", "a | b"], "not a URL"),
        (["--speed", "1"], "--speed: no such flag"),
    ] {
        let output = Command::new(here().join("up")).args(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && stderr.contains(said), "{arguments:?}: {stderr}");
    }
}
