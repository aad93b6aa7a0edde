//! surface-bench: what people and programs wait for: the page of a fleet of five hundred sites, and the API beside ingest.
//!
//! The gateway is a process of its own; its state is prepared with sites, policies, a day of evidence and figures of edges. Prints a table and writes rows
//! `{what, asked, measured, unit, holds}`. What an edge's telemetry costs is a row of line-bench (`--only telemetry`).

#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lab::browser::{Browser, missing};
use lab::report::{Verdict, print_verdicts, write_json};
use lab::world::{Binaries, Edge, EdgeOptions, Gateway, GatewayOptions, World, free_tcp};
use serde_json::{Value, json};
use sluice_gateway::catalogue::Site;
use sluice_gateway::policies::{Author, Change, change};
use sluice_gateway::state::State;
use sluice_gateway::telemetry::Heard;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use wire::message::Minute;
use wire::telemetry::SiteFigures;
use wire::token::Token;

/// Measures pages and API of a gateway.
#[derive(Parser)]
#[command(name = "surface-bench")]
struct Asked {
    /// How many sites.
    #[arg(long, default_value_t = 500)]
    sites: usize,
    /// Seconds of requests beside ingest.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Requests in a second.
    #[arg(long, default_value_t = 100)]
    rate: u64,
    /// Write the rows {what, asked, measured, unit, holds} as a JSON array into this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

const PASSWORD: &str = "the river is high tonight";
/// Looks at the page.
const LOOKS: usize = 60;
/// Threads that ask.
const ASKERS: u64 = 8;
/// What is ingested beside: incompressible, so that every byte travels.
const INGESTED: usize = 512 << 20;
const POLICY: &str = "zone = \"Asia/Shanghai\"\n[line]\nup = \"2 Mbit/s\"\ncap = \"80 %\"\n[profiles]\nnight = \"80 %\"\nday = \"256 kbit/s\"\n\
    [grid]\nmon-fri = \"00:00 night 07:30 closed 12:00 day 13:00 closed 19:30 night\"\nsat-sun = \"00:00 night\"\n\
    [[blackouts]]\nname = \"month end\"\nwhen = \"last business day of month -1..+2\"\nhours = \"01:00-03:00\"\n\
    [[quotas]]\nperiod = \"month\"\nlimit = \"100 GB\"\n";

fn main() -> Result<()> {
    let asked = Asked::parse();
    let world = World::with(Binaries::find()?, &std::env::temp_dir())?;
    let pages = free_tcp()?;
    let web = format!("listen = \"{pages}\"\ntls = \"off\"");
    let mut gateway = world.gateway(GatewayOptions { web: Some(web), ..GatewayOptions::default() })?;
    prepare(&gateway, asked.sites)?;
    gateway.start()?;
    let code = std::fs::read_to_string(gateway.state().join("setup.code"))?;
    let mut client = Client { address: pages, cookie: String::new(), stream: None };
    let body = json!({ "code": code.trim(), "name": "chief", "password": PASSWORD });
    client.sign_in(&body)?;
    let mut verdicts = fleet(&mut client, asked.sites)?;
    verdicts.extend(layout(&client)?);
    verdicts.extend(beside_ingest(&world, &gateway, &client, &asked)?);
    gateway.stop()?;
    print_verdicts(&verdicts);
    if let Some(file) = &asked.json {
        write_json(file, &verdicts)?;
    }
    ensure!(verdicts.iter().all(|verdict| verdict.holds != Some(false)), "not everything is as asked");
    Ok(())
}

/// Sites with a policy, a day of evidence and figures of their edges.
fn prepare(gateway: &Gateway, sites: usize) -> Result<()> {
    let config = sluice_gateway::Config::load(&gateway.config())?;
    let state = State::open(&config)?;
    let now = state.now();
    let tenant = state.catalogue.tenant("bank", now)?;
    let mut all: Vec<Site> = Vec::with_capacity(sites);
    for number in 0..sites {
        let token = Token::random(vec!["gw:1".into()], [0; 32]);
        let name = format!("branch-{number:03}");
        let site = state.catalogue.add_token(&tenant, &name, &token, now, now)?;
        state.catalogue.note_seen(site.id, "0.1.0", now)?;
        all.push(site);
    }
    let author = Author::new("bench", "as agreed with the branch").map_err(anyhow::Error::msg)?;
    change(&state, None, &all, &Change::Set { document: POLICY.into(), expected: None }, &author)?;
    let last = (now.0 / 60_000) as u32;
    for (number, site) in (0u32..).zip(&all) {
        let sent =
            |minute: u32| if (minute + number * 7) % 60 < 45 { 9_000_000 + (minute * 7919) % 3_000_000 } else { 0 };
        let minutes: Vec<Minute> = (last - 1440..last)
            .map(|minute| Minute {
                minute,
                sent: sent(minute),
                received: 90_000,
                allowed: 12_000_000,
                peak: 200_000,
                reason: 7,
            })
            .collect();
        state.catalogue.keep_minutes(site.id, &minutes)?;
        let second = now.0 / 1000;
        let figures = SiteFigures {
            allowed: 1_600_000,
            reason: 7,
            sent_minute: 11_000_000,
            policy: 1,
            quotas: vec![(37_000_000_000, 100_000_000_000)],
            backlog: 1_234_000_000 + u64::from(number),
            arrives: (second + 30_000 + u64::from(number)) as u32,
            disk_free: 400_000_000_000,
            disk_size: 500_000_000_000,
            certificate_until: (second + 80 * 86_400) as u32,
            volumes: 3,
            ..SiteFigures::default()
        };
        state.telemetry.hear(site.id, Heard { at: now, site: figures, volumes: Default::default() });
    }
    state.telemetry.keep(&state.catalogue)?;
    Ok(())
}

// ---- the page of the fleet

fn fleet(client: &mut Client, sites: usize) -> Result<Vec<Verdict>> {
    let (mut times, mut size) = (Vec::new(), 0);
    for look in 0..LOOKS {
        // Every third look comes when the last snapshot is too old: somebody has to make a new one.
        std::thread::sleep(Duration::from_millis(if look % 3 == 0 { 2100 } else { 20 }));
        let began = Instant::now();
        let page = client.get("/")?;
        if look > 0 {
            times.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        let rows = page.matches("data-tick value").count();
        ensure!(rows == sites, "the page shows {rows} of {sites} sites");
        size = page.len();
    }
    Ok(vec![
        Verdict::at_most("fleet page, p95 of the time to have it", 100.0, percentile(&mut times, 95), "ms"),
        Verdict::at_most("fleet page, without compression", 500.0, size as f64 / 1000.0, "kB"),
    ])
}

/// How much the page jumps while it is loaded, by Chromium's own measure.
fn layout(client: &Client) -> Result<Vec<Verdict>> {
    if let Some(why) = missing() {
        println!("the layout is not looked at: {why}");
        return Ok(Vec::new());
    }
    let browser = Browser::start()?;
    let mut most = 0f64;
    for width in [1440, 390] {
        browser.width(width)?;
        browser.goto(&format!("http://{}/sign-in?back=/", client.address))?;
        browser.wait("the form", "document.querySelector('#name')")?;
        browser.fill("#name", "chief")?;
        browser.fill("#password", PASSWORD)?;
        browser.click("main button[type=submit]")?;
        browser.wait("the fleet", "location.pathname === '/' && document.readyState === 'complete'")?;
        let shift = browser.run_async(
            "const done = arguments[arguments.length - 1]; let sum = 0; new PerformanceObserver((list) => { for (const e of list.getEntries()) if (!e.hadRecentInput) sum += e.value; }).observe({ type: 'layout-shift', buffered: true }); setTimeout(() => done(sum), 4000)",
        )?;
        most = most.max(shift.as_f64().unwrap_or(1.0));
    }
    Ok(vec![Verdict::at_most("fleet page, layout shift", 0.0, most, "score")])
}

// ---- the API beside ingest

fn beside_ingest(world: &World, gateway: &Gateway, client: &Client, asked: &Asked) -> Result<Vec<Verdict>> {
    let image = world.path().join("disk.img");
    noise(&image)?;
    // A site without a policy, whose edge has no limit: what it sends comes as fast as it can be taken in.
    let mut edge = world.edge("busy", EdgeOptions::default())?;
    edge.enrol(&gateway.token("busy")?)?;
    edge.start()?;
    edge.add_volume("disk", &image)?;
    let mut capture = edge.capture_in_background("disk").spawn().context("starting a capture")?;
    let until = Instant::now() + Duration::from_secs(120);
    while ingested(gateway)? == 0.0 {
        ensure!(Instant::now() < until, "nothing was ingested within two minutes");
        std::thread::sleep(Duration::from_millis(100));
    }
    let before = ingested(gateway)?;
    let paths = [
        "/api/v1/sites?per_page=50",
        "/api/v1/sites/bank/branch-007",
        "/api/v1/sites/bank/branch-007/policy",
        "/api/v1/sites/bank/branch-007/overrides",
        "/api/v1/sites/bank/branch-007/preview?days=14",
        "/api/v1/volumes",
        "/api/v1/volumes/bank/busy/disk/generations",
        "/api/v1/jobs",
        "/api/v1/audit?most=50",
        "/api/v1/tenants",
    ];
    let (began, count) = (Instant::now(), asked.rate * asked.seconds);
    let every = Duration::from_secs_f64(1.0 / asked.rate as f64);
    let asker = |first: u64| {
        let mut client = Client { stream: None, ..client.clone() };
        move || -> Result<Vec<f64>> {
            let mut times = Vec::new();
            for number in (first..count).step_by(ASKERS as usize) {
                let due = began + every * number as u32;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let answer = client.get(paths[number as usize % paths.len()]);
                // Since it was due: who is late because the one before was slow counts as slow.
                times.push(due.elapsed().as_secs_f64() * 1000.0);
                answer?;
            }
            Ok(times)
        }
    };
    let threads: Vec<_> = (0..ASKERS).map(|first| std::thread::spawn(asker(first))).collect();
    let mut times = Vec::new();
    for thread in threads {
        times.extend(thread.join().map_err(|_| anyhow::anyhow!("an asker panicked"))??);
    }
    let taken_in = ingested(gateway)? - before;
    let _over_already = capture.kill();
    let _over_already = capture.wait();
    stop(edge)?;
    Ok(vec![
        Verdict::at_most(
            &format!("API, p99 at {} requests a second beside ingest", asked.rate),
            50.0,
            percentile(&mut times, 99),
            "ms",
        ),
        Verdict::reported("API, p50 of the same", percentile(&mut times, 50), "ms"),
        Verdict::reported("ingested meanwhile", taken_in / 1e6 / asked.seconds as f64, "MB/s"),
    ])
}

fn stop(mut edge: Edge) -> Result<()> {
    edge.kill()?;
    Ok(())
}

/// Raw bytes that the gateway has taken in.
fn ingested(gateway: &Gateway) -> Result<f64> {
    let mut client = Client { address: gateway.http(), cookie: String::new(), stream: None };
    let metrics = client.get("/metrics")?;
    let line = metrics.lines().find_map(|line| line.strip_prefix("sluice_gateway_ingested_bytes_total "));
    Ok(line.and_then(|value| value.parse().ok()).unwrap_or(0.0))
}

fn noise(path: &Path) -> Result<()> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let bytes: Vec<u8> = (0..INGESTED / 8)
        .flat_map(|_| {
            // xorshift64 (Marsaglia): bytes that no coder makes smaller.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect();
    Ok(std::fs::write(path, bytes)?)
}

fn percentile(times: &mut [f64], percent: usize) -> f64 {
    times.sort_by(f64::total_cmp);
    times[(times.len() * percent).div_ceil(100).saturating_sub(1).min(times.len() - 1)]
}

/// A browser without a screen, that keeps its connection.
#[derive(Debug)]
struct Client {
    address: SocketAddr,
    cookie: String,
    stream: Option<BufReader<TcpStream>>,
}

impl Clone for Client {
    fn clone(&self) -> Self {
        Client { address: self.address, cookie: self.cookie.clone(), stream: None }
    }
}

impl Client {
    fn sign_in(&mut self, body: &Value) -> Result<()> {
        let (head, said) = self.ask("POST", "/api/v1/setup", &body.to_string())?;
        let cookie = head.iter().find_map(|line| line.strip_prefix("set-cookie: "));
        self.cookie =
            cookie.with_context(|| format!("no cookie: {said}"))?.split(';').next().unwrap_or_default().to_owned();
        Ok(())
    }

    fn get(&mut self, path: &str) -> Result<String> {
        let (head, body) = self.ask("GET", path, "")?;
        ensure!(head[0].contains(" 200 "), "{path}: {}: {body:.300}", head[0]);
        Ok(body)
    }

    fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<(Vec<String>, String)> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(self.address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            self.stream = Some(BufReader::new(stream));
        }
        let stream = self.stream.as_mut().context("it was just made")?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nCookie: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.cookie,
            body.len()
        );
        stream.get_mut().write_all(request.as_bytes())?;
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            ensure!(stream.read_line(&mut line)? > 0, "the gateway closed the connection");
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            head.push(line);
        }
        let length = head
            .iter()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok());
        let mut bytes = Vec::new();
        match length {
            Some(length) => {
                bytes.resize(length, 0);
                stream.read_exact(&mut bytes)?;
            }
            None => loop {
                let mut line = String::new();
                stream.read_line(&mut line)?;
                let size = usize::from_str_radix(line.trim(), 16).context("a chunk's size")?;
                let at = bytes.len();
                bytes.resize(at + size, 0);
                stream.read_exact(&mut bytes[at..])?;
                stream.read_line(&mut String::new())?;
                if size == 0 {
                    break;
                }
            },
        }
        Ok((head, String::from_utf8_lossy(&bytes).into_owned()))
    }
}
