//! What the people on duty watch, over real daemons: Prometheus is started as `monitoring/up` starts it, and every expression of rules and dashboards is
//! asked. One that cannot be read fails; so does one that asks for a series that nobody exposes, because an alert on that would never fire.

use anyhow::{Context, Result, bail, ensure};
use lab::appliance::{appliance, release};
use lab::volumes::Sample;
use lab::world::{Daemon, Edge, EdgeOptions, Ended, Gateway, GatewayOptions, HURRY, PATIENCE, World, free_tcp};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What a scenario cannot have because it takes days: what is recorded of two weeks (`monitoring/tests/content.yml` proves it), and runs of workers whose first
/// one comes after a day or a month. And a line that is slower than what is allowed: there is none here (`monitoring/tests/line.yml`).
const NEEDS_DAYS: &[&str] = &[
    "volume:sluice_generation_reduction:median2w",
    "volume:sluice_generation_new_bytes:median2w",
    "site:sluice_link_test_below_allowed:bits",
    "sluice_gateway_worker_last_run_timestamp_seconds{worker=\"scrub\"}",
    "sluice_gateway_worker_last_run_timestamp_seconds{worker!~\"figures|grants|sites|words|retention|scrub\"}",
];
/// The volume of each site.
const VOLUME: &str = "disk";
/// How long all of it may take to be there: edges tell of themselves once a minute, and some figures are rates of what they told.
const TOLD: Duration = Duration::from_secs(300);

fn kit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../monitoring")
}

fn read(path: impl AsRef<Path>) -> Result<String> {
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.as_ref().display()))
}

/// Files of the kit's folder with this extension.
fn files(folder: &str, extension: &str) -> Result<Vec<PathBuf>> {
    let listed: Result<Vec<PathBuf>, _> =
        fs::read_dir(kit().join(folder))?.map(|entry| entry.map(|e| e.path())).collect();
    Ok(listed?.into_iter().filter(|path| path.extension().is_some_and(|have| have == extension)).collect())
}

/// Prometheus and Alertmanager by `monitoring/up`; ended with it.
struct Watch {
    up: Option<Daemon>,
    alertmanager: SocketAddr,
}

impl Watch {
    /// `None`, and a line that `tests/run` counts, where they are not installed. Its HTTP is that of `asked`.
    fn start(world: &World, gateway: SocketAddr, asked: Asked) -> Result<Option<Watch>> {
        for program in ["prometheus", "promtool", "amtool"] {
            if Command::new(program).arg("--version").output().is_err() {
                lab::skip(&format!("{program} is not installed"));
                return Ok(None);
            }
        }
        let (prometheus, alertmanager) = (free_tcp()?, free_tcp()?);
        let mut command = Command::new(kit().join("up"));
        command.args(["--gateway", &gateway.to_string(), "--interval", "1s", "--port", &prometheus.port().to_string()]);
        command.args(["--alertmanager-port", &alertmanager.port().to_string(), "--folder"]);
        command.arg(world.path().join("monitoring"));
        let http = if asked == Asked::Prometheus { prometheus } else { alertmanager };
        let up = Daemon::start("monitoring/up", command, &world.path().join("up.log"), http)?;
        up.wait_line("Ctrl-C ends both", PATIENCE)?;
        Ok(Some(Watch { up: Some(up), alertmanager }))
    }

    /// What its HTTP answers, as JSON. Questions that are refused are errors with the reason.
    fn get(&self, path: &str) -> Result<Value> {
        let (status, text) = self.up.as_ref().context("it runs until it is dropped")?.get(path)?;
        let answer: Value = serde_json::from_str(&text).with_context(|| format!("{path}: {status}, {text}"))?;
        ensure!(status == 200, "{path}: {status}, {}", answer["error"]);
        Ok(answer)
    }

    /// How many series an expression finds now.
    fn finds(&self, expression: &str) -> Result<usize> {
        let answer =
            self.get(&format!("/api/v1/query?query={}", encoded(expression))).context(expression.to_owned())?;
        let result = &answer["data"]["result"];
        Ok(if answer["data"]["resultType"] == "scalar" { 1 } else { result.as_array().map_or(0, Vec::len) })
    }

    /// Waits until an expression finds something.
    fn wait_for(&self, expression: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.finds(expression)? == 0 {
            ensure!(Instant::now() < deadline, "{expression} finds nothing");
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// All names of series that there were.
    fn names(&self) -> Result<BTreeSet<String>> {
        Ok(serde_json::from_value(self.get("/api/v1/label/__name__/values")?["data"].clone())?)
    }

    /// SIGTERM: both end.
    fn stop(mut self) -> Result<Ended> {
        Ok(self.up.take().context("it is stopped once")?.terminate()?)
    }
}

impl Drop for Watch {
    /// A killed script would leave what it started to the kernel to end, which only does where `setpriv` is there.
    fn drop(&mut self) {
        if let Some(up) = self.up.take() {
            let _ = up.terminate();
        }
    }
}

/// Whose HTTP a test asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Prometheus,
    Alertmanager,
}

/// As a value in a URL's query.
fn encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

/// Whether an identifier of an expression names series: ours, what every process has, what rules record, what Prometheus makes.
fn is_series(word: &str) -> bool {
    word.starts_with("sluice_")
        || word.starts_with("process_")
        || word.contains(':')
        || ["up", "ALERTS"].contains(&word)
}

/// Every series that an expression asks for, each with its matchers and without ranges and functions.
fn selectors(expression: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = BTreeSet::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => 2 + rest[1..].find('"').unwrap_or(rest.len() - 2),
            c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let (word, after) = rest.split_at(length);
        rest = after;
        if first.is_ascii_digit() || !is_series(word) {
            continue;
        }
        let matchers = if after.starts_with('{') { &after[..=after.find('}').unwrap_or(after.len() - 1)] } else { "" };
        rest = &after[matchers.len()..];
        found.insert(format!("{word}{matchers}"));
    }
    found
}

/// Names of our series anywhere in a text.
fn names_in(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    words.filter(|word| (word.starts_with("sluice_") || word.starts_with("process_")) && !word.contains(':'))
}

#[test]
fn selectors_are_found_in_expressions() {
    let found = |expression: &str| selectors(expression).into_iter().collect::<Vec<_>>();
    assert_eq!(
        found("8 * sum by (tenant, site) (rate(sluice_a_total{tenant=\"up\",x=~\"y\"}[5m])) / on (site) b:c:d > +Inf"),
        ["b:c:d", "sluice_a_total{tenant=\"up\",x=~\"y\"}"]
    );
    assert_eq!(
        found("quantile_over_time(0.5, v:r:ratio[2w:2h] offset 1d) and up{job=\"up\"} == 0"),
        ["up{job=\"up\"}", "v:r:ratio"]
    );
    assert_eq!(
        names_in("'sluice_a{b=\"c\"}' v:sluice_x:y sluice-edge process_b").collect::<Vec<_>>(),
        ["sluice_a", "process_b"]
    );
}

/// Asks the gateway's pages for one, without signing in.
fn ask_page(at: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(at)?;
    write!(stream, "GET /api/v1/sites HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 "), "{answer}");
    Ok(())
}

/// A question and where it stands.
struct Question {
    place: String,
    expression: String,
}

/// Of every panel of every dashboard, with what its variables and ranges would be.
fn of_dashboards() -> Result<Vec<Question>> {
    let mut questions = Vec::new();
    for path in files("dashboards", "json")? {
        let board: Value = serde_json::from_str(&read(&path)?)?;
        for panel in board["panels"].as_array().context("panels")? {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let expression = target["expr"].as_str().context("expr")?;
                let expression = [("$tenant", "bank"), ("$site", "hefei"), ("$__range", "10m")]
                    .iter()
                    .fold(expression.to_owned(), |text, (variable, value)| text.replace(variable, value));
                let place = format!("{}, {}", board["title"], panel["title"]);
                questions.push(Question { place, expression });
            }
        }
    }
    ensure!(questions.len() > 100, "{} expressions are found in dashboards", questions.len());
    Ok(questions)
}

/// Of every rule: the series that it asks for, because most alerts should find nothing.
fn of_rules(watch: &Watch) -> Result<Vec<Question>> {
    let mut questions = Vec::new();
    let groups = watch.get("/api/v1/rules")?["data"]["groups"].clone();
    for rule in
        groups.as_array().context("groups")?.iter().flat_map(|group| group["rules"].as_array().into_iter().flatten())
    {
        let expression = rule["query"].as_str().context("query")?;
        watch.finds(expression)?;
        let place = format!("rule {}", rule["name"]);
        questions
            .extend(selectors(expression).into_iter().map(|expression| Question { place: place.clone(), expression }));
    }
    ensure!(questions.len() > 80, "{} series are found in rules", questions.len());
    Ok(questions)
}

fn is_excused(expression: &str) -> bool {
    NEEDS_DAYS.contains(&expression)
}

/// A site under a policy, with a volume.
struct Site {
    edge: Edge,
    sample: Sample,
}

impl Site {
    /// On an appliance, if somebody says what runs on it.
    fn enrol(world: &World, gateway: &Gateway, name: &str, seed: u64, appliance: &str) -> Result<Site> {
        let extra = format!("{HURRY}{appliance}\n");
        let mut edge = world.edge(name, EdgeOptions { rate: String::new(), extra, ..EdgeOptions::default() })?;
        edge.enrol(&gateway.token(name)?)?;
        edge.start()?;
        let sample = Sample::create(&world.path().join(format!("{name}.img")), 24 << 20, seed)?;
        edge.add_volume(VOLUME, sample.path())?;
        Ok(Site { edge, sample })
    }

    /// Open all day but for one hour, which lies an hour back: so there is a window that is over, and one now.
    fn govern(&self, world: &World, gateway: &Gateway, rate: &str) -> Result<()> {
        let hour = (jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).hour() + 22) % 24;
        let grid = match hour {
            0 => "00:00 closed 01:00 full".to_owned(),
            23 => "00:00 full 23:00 closed".to_owned(),
            hour => format!("00:00 full {hour:02}:00 closed {:02}:00 full", hour + 1),
        };
        let document = format!(
            "zone = \"UTC\"\n[line]\nup = \"{rate}\"\ndown = \"20 Mbit/s\"\ncap = \"80 %\"\n[profiles]\nfull = {{ up = \"100 %\", down = \"50 %\" }}\n\
             [grid]\nall = \"{grid}\"\n[[quotas]]\nperiod = \"month\"\nlimit = \"40 GB\"\n[[volumes]]\nname = \"{VOLUME}\"\nlag = \"12 hours\"\n"
        );
        let file = world.path().join("policy.toml");
        fs::write(&file, document)?;
        let file = file.to_string_lossy().into_owned();
        gateway.run("policy", &["set", "--site", self.edge.site(), "--file", &file, "--reason", "a test"])?;
        Ok(())
    }
}

#[test]
fn every_expression_of_rules_and_dashboards_finds_something_in_what_daemons_say() -> Result<()> {
    let world = World::new()?;
    let pages = free_tcp()?;
    let (bundle, key) = release(&world)?;
    let mut gateway = world.gateway(GatewayOptions {
        extra: format!("ingress = \"100 Mbit/s\"\nreleases = {{ keys = [\"{}\"] }}", key.hex()),
        web: Some(format!("listen = \"{pages}\"\ntls = \"off\"")),
        ..GatewayOptions::default()
    })?;
    gateway.start()?;
    let Some(watch) = Watch::start(&world, gateway.daemon()?.http(), Asked::Prometheus)? else { return Ok(()) };
    let mut hefei = Site::enrol(&world, &gateway, "hefei", 1, &appliance(&world)?)?;
    let mut wuhu = Site::enrol(&world, &gateway, "wuhu", 2, "")?;
    for site in [&hefei, &wuhu] {
        site.govern(&world, &gateway, "20 Mbit/s")?;
    }
    // A seed, a delta, what a test of the line found; both ends come back from a restart.
    hefei.edge.capture(VOLUME)?;
    wuhu.edge.capture(VOLUME)?;
    hefei.sample.busy_day()?;
    hefei.edge.capture(VOLUME)?;
    hefei.edge.run("line-test", &[])?;
    gateway.run("scrub", &[])?;
    // A release that is rolled out, to where it cannot be taken: nobody trusts its maker there.
    gateway.run("release", &["import", &bundle.to_string_lossy()])?;
    gateway.run("rollout", &["start", "2.0", "--site", "hefei", "--reason", "a test"])?;
    // A copy beside the gateway, kept at the latest.
    let vault = world.path().join("vault");
    fs::create_dir(&vault)?;
    gateway.run("target", &["add", "vault", "--tenant", "bank", "--folder", &vault.to_string_lossy()])?;
    gateway.run("target", &["keep", "vault", "--volume", &format!("hefei/{VOLUME}")])?;
    // Pages are asked plainly, and have a certificate after the restart.
    for _ in 0..3 {
        ask_page(pages)?;
    }
    watch.wait_for("sum(rate(sluice_api_requests_total[5m]))")?;
    gateway.stop()?;
    gateway.options().web = Some(format!("listen = \"{pages}\""));
    gateway.write_config()?;
    gateway.start()?;
    wuhu.edge.stop()?;
    // A volume whose first copy travels on a medium.
    let (travels, medium) = (world.path().join("travels.img"), world.path().join("medium"));
    fs::write(&travels, lab::volumes::Random::new(5, 0).noise(1 << 20))?;
    fs::create_dir(&medium)?;
    wuhu.edge.add_volume("travels", &travels)?;
    wuhu.edge.run("capture", &["travels"])?;
    let key = gateway.run("seed", &["key"])?;
    let to = medium.to_string_lossy();
    wuhu.edge.run("seed", &["export", "--volumes", "travels", "--key", key.trim(), "--to", &to])?;
    wuhu.edge.start()?;
    // A backlog that has a date, and an alert that is pending.
    hefei.govern(&world, &gateway, "2 Mbit/s")?;
    let noise = lab::volumes::Random::new(3, 0).noise(96 << 20);
    fs::write(hefei.sample.path(), noise)?;
    hefei.edge.run("capture", &[VOLUME])?;
    gateway.run("hold", &["--site", "wuhu", "--reason", "a test"])?;

    let mut questions = of_dashboards()?;
    questions.extend(of_rules(&watch)?);
    let deadline = Instant::now() + TOLD;
    loop {
        let mut open = Vec::new();
        for question in questions {
            if watch.finds(&question.expression).with_context(|| question.place.clone())? == 0 {
                open.push(question);
            }
        }
        questions = open;
        if questions.iter().all(|question| is_excused(&question.expression)) {
            break;
        }
        if Instant::now() > deadline {
            let open = questions.iter().filter(|question| !is_excused(&question.expression));
            let lines: Vec<String> = open.map(|q| format!("{}: {}", q.place, q.expression)).collect();
            bail!("these find nothing:\n{}", lines.join("\n"));
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    names_are_known(&watch)?;
    commands_are_known(&gateway, &hefei.edge)?;
    ensure!(watch.stop()? == Ended::Code(0), "monitoring/up ends both when it is told to");
    Ok(())
}

/// No name in rules, their tests, dashboards and runbooks that nobody exposes.
fn names_are_known(watch: &Watch) -> Result<()> {
    let known = watch.names()?;
    let mut unknown = BTreeSet::new();
    for (folder, extension) in [("rules", "yml"), ("tests", "yml"), ("dashboards", "json"), ("runbooks", "md")] {
        for path in files(folder, extension)? {
            let text = read(&path)?;
            let strange = names_in(&text).filter(|name| !known.contains(*name));
            unknown.extend(strange.map(|name| format!("{}: {name}", path.display())));
        }
    }
    ensure!(unknown.is_empty(), "nobody exposes these: {unknown:#?}");
    Ok(())
}

/// Each command of the runbooks is one, with the flags that stand there.
fn commands_are_known(gateway: &Gateway, edge: &Edge) -> Result<()> {
    let mut seen = 0;
    for path in files("runbooks", "md")? {
        for (gateways, line) in commands_in(&read(&path)?) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let subcommands: Vec<&str> = words
                .iter()
                .copied()
                .take_while(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') && !word.starts_with('-'))
                .collect();
            let Some((first, more)) = subcommands.split_first() else { continue };
            let arguments: Vec<&str> = more.iter().copied().chain(["--help"]).collect();
            let said = if gateways { gateway.run(first, &arguments) } else { edge.run(first, &arguments) };
            let help = said.with_context(|| format!("{}: {line}", path.display()))?;
            for flag in words.iter().filter(|word| word.starts_with("--")) {
                ensure!(
                    help.contains(&format!("{flag} ")) || help.contains(&format!("{flag}\n")),
                    "{}: {line}: no {flag}",
                    path.display()
                );
            }
            seen += 1;
        }
    }
    ensure!(seen > 80, "{seen} commands are found in runbooks");
    Ok(())
}

/// What follows each `sluice-gateway ` (true) and `sluice-edge ` within code, up to its end.
fn commands_in(text: &str) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    let mut block = false;
    for line in text.lines() {
        if line.starts_with("```") {
            block = !block;
            continue;
        }
        let spans: Vec<&str> = if block { vec![line] } else { line.split('`').skip(1).step_by(2).collect() };
        for span in spans {
            let code = span.split(" #").next().unwrap_or_default();
            for part in code.split(['|', ';']) {
                for (program, gateways) in [("sluice-gateway ", true), ("sluice-edge ", false)] {
                    if let Some(command) = part.trim().strip_prefix(program) {
                        found.push((gateways, command.to_owned()));
                    }
                }
            }
        }
    }
    found
}

#[test]
fn what_follows_from_another_alert_is_told_once() -> Result<()> {
    let world = World::new()?;
    let Some(watch) = Watch::start(&world, free_tcp()?, Asked::Alertmanager)? else { return Ok(()) };
    let raise = |labels: &[&str]| -> Result<()> {
        let url = format!("--alertmanager.url=http://{}", watch.alertmanager);
        let output = Command::new("amtool").args([&url, "alert", "add"]).args(labels).output()?;
        ensure!(output.status.success(), "amtool: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    let told = |watch: &Watch| -> Result<BTreeSet<String>> {
        let alerts = watch.get("/api/v2/alerts?inhibited=false&silenced=false&active=true")?;
        let label = |alert: &Value, name: &str| alert["labels"][name].as_str().unwrap_or_default().to_owned();
        let lines = alerts.as_array().context("a list of alerts")?.iter();
        Ok(lines.map(|alert| format!("{} {}", label(alert, "alertname"), label(alert, "site"))).collect())
    };
    let wait = |watch: &Watch, wanted: &[&str]| -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let wanted: BTreeSet<String> = wanted.iter().map(|&line| line.to_owned()).collect();
        while told(watch)? != wanted {
            ensure!(Instant::now() < deadline, "told is {:?}, and should be {wanted:?}", told(watch)?);
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    };
    raise(&["alertname=SluiceFallingBehind", "severity=ticket", "depends_on=edge", "tenant=bank", "site=hefei"])?;
    raise(&["alertname=SluiceFallingBehind", "severity=ticket", "depends_on=edge", "tenant=bank", "site=wuhu"])?;
    raise(&["alertname=SluiceRestorePointOld", "severity=page", "tenant=bank", "site=hefei", "volume=db"])?;
    wait(&watch, &["SluiceFallingBehind hefei", "SluiceFallingBehind wuhu", "SluiceRestorePointOld hefei"])?;
    // An edge that is offline: what follows from it at that site, and not what was promised.
    raise(&["alertname=SluiceEdgeOffline", "severity=ticket", "tenant=bank", "site=hefei"])?;
    wait(&watch, &["SluiceEdgeOffline hefei", "SluiceFallingBehind wuhu", "SluiceRestorePointOld hefei"])?;
    raise(&["alertname=SluiceGatewayDown", "severity=page", "instance=gw:9470"])?;
    wait(&watch, &["SluiceGatewayDown "])?;
    ensure!(watch.stop()? == Ended::Code(0), "monitoring/up ends both when it is told to");
    Ok(())
}
