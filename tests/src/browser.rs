//! A real browser: Debian's Chromium, driven through its WebDriver on the loopback. As much of the protocol as the scenarios need.
//!
//! What it shows is what people see: screenshots are of whole pages, what the console says and what axe finds are read after each page.

use data_encoding::BASE64;
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::world::{PATIENCE, WorldError, free_tcp};

/// The key under which WebDriver names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// Between two looks at a page that is waited for.
const STEP: Duration = Duration::from_millis(50);

/// Why the browser did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum BrowserError {
    /// The driver did not start or went away.
    #[error("chromedriver: {0}")]
    Driver(#[from] io::Error),
    /// No free port.
    #[error(transparent)]
    World(#[from] WorldError),
    /// The driver refused.
    #[error("the browser: {0}")]
    Refused(String),
    /// What was waited for did not happen.
    #[error("{what} did not happen within {} s; the page is {url}: {text}", PATIENCE.as_secs())]
    Waited {
        /// What.
        what: String,
        /// Where.
        url: String,
        /// What the page shows.
        text: String,
    },
}

/// A browser with one window. Dropping it ends both processes.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    _profile: tempfile::TempDir,
}

/// Whether this machine has what [`Browser::start`] needs; else what is missing.
pub fn missing() -> Option<String> {
    let there =
        |program: &str| Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let missing: Vec<&str> =
        ["chromium", "chromedriver"].into_iter().filter(|program| there(program).is_err()).collect();
    (!missing.is_empty()).then(|| format!("{} is not installed", missing.join(" and ")))
}

impl Browser {
    /// Starts a browser with an empty profile.
    pub fn start() -> Result<Browser, BrowserError> {
        let (address, profile) = (free_tcp()?, tempfile::tempdir()?);
        let mut driver = Command::new("chromedriver");
        driver.arg(format!("--port={}", address.port())).stdout(Stdio::null()).stderr(Stdio::null());
        let mut browser = Browser { driver: driver.spawn()?, address, session: String::new(), _profile: profile };
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            if began.elapsed() > PATIENCE || browser.driver.try_wait()?.is_some() {
                return Err(BrowserError::Refused("chromedriver did not begin to listen".into()));
            }
            std::thread::sleep(STEP);
        }
        let profile = format!("--user-data-dir={}", browser._profile.path().display());
        // Without these it looks for hosts that no test may ask.
        let args = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--ignore-certificate-errors",
            "--hide-scrollbars",
            &profile,
        ];
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "acceptInsecureCerts": true,
            "goog:chromeOptions": { "args": args },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let begun = browser.ask("POST", "/session", Some(&capabilities))?;
        browser.session = begun["sessionId"].as_str().unwrap_or_default().to_owned();
        Ok(browser)
    }

    /// Shows pages at this width, in pixels, as a telephone does below 700.
    pub fn width(&self, width: u32) -> Result<(), BrowserError> {
        let height = if width < 700 { 844 } else { 900 };
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700 });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).map(drop)
    }

    /// Light or dark.
    pub fn scheme(&self, scheme: &str) -> Result<(), BrowserError> {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", features).map(drop)
    }

    /// Goes to a page and waits until it is loaded.
    pub fn goto(&self, url: &str) -> Result<(), BrowserError> {
        self.command("POST", "/url", Some(&json!({ "url": url }))).map(drop)
    }

    /// Where it is.
    pub fn url(&self) -> Result<String, BrowserError> {
        Ok(self.command("GET", "/url", None)?.as_str().unwrap_or_default().to_owned())
    }

    /// What a script of the page returns.
    pub fn run(&self, script: &str) -> Result<Value, BrowserError> {
        self.command("POST", "/execute/sync", Some(&json!({ "script": script, "args": [] })))
    }

    /// What a script gives to its last argument, a function, in the end.
    pub fn run_async(&self, script: &str) -> Result<Value, BrowserError> {
        self.command("POST", "/execute/async", Some(&json!({ "script": script, "args": [] })))
    }

    /// The text that a page shows.
    pub fn text(&self) -> Result<String, BrowserError> {
        Ok(self.run("return document.body.innerText")?.as_str().unwrap_or_default().to_owned())
    }

    /// Waits until an expression of the page is true.
    pub fn wait(&self, what: &str, expression: &str) -> Result<(), BrowserError> {
        let began = Instant::now();
        let script = format!("return Boolean({expression})");
        loop {
            // A page that is just being replaced runs nothing.
            if self.run(&script).is_ok_and(|said| said == true) {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                let text = self.text().unwrap_or_default().chars().take(2000).collect();
                return Err(BrowserError::Waited { what: what.into(), url: self.url()?, text });
            }
            std::thread::sleep(STEP);
        }
    }

    /// Waits until the page shows a text.
    pub fn wait_text(&self, text: &str) -> Result<(), BrowserError> {
        self.wait(&format!("the text {text:?}"), &format!("document.body?.innerText.includes({})", json!(text)))
    }

    /// Clicks on what a selector finds first.
    pub fn click(&self, selector: &str) -> Result<(), BrowserError> {
        let id = self.find(selector)?;
        self.command("POST", &format!("/element/{id}/click"), Some(&json!({}))).map(drop)
    }

    /// Types into a field, in the place of what it holds.
    pub fn fill(&self, selector: &str, text: &str) -> Result<(), BrowserError> {
        let id = self.find(selector)?;
        self.command("POST", &format!("/element/{id}/clear"), Some(&json!({})))?;
        self.command("POST", &format!("/element/{id}/value"), Some(&json!({ "text": text }))).map(drop)
    }

    /// Chooses a file, as the dialogue of a file field would.
    pub fn choose_file(&self, selector: &str, path: &Path) -> Result<(), BrowserError> {
        let id = self.find(selector)?;
        let path = path.to_string_lossy();
        self.command("POST", &format!("/element/{id}/value"), Some(&json!({ "text": path }))).map(drop)
    }

    /// Presses keys where the focus is; special ones by their code points of WebDriver.
    pub fn press(&self, keys: &str) -> Result<(), BrowserError> {
        let actions: Vec<Value> = keys
            .chars()
            .flat_map(|key| [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })])
            .collect();
        let body = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] });
        self.command("POST", "/actions", Some(&body)).map(drop)
    }

    /// Drags from the middle of one element to the middle of another.
    pub fn drag(&self, from: &str, to: &str) -> Result<(), BrowserError> {
        let origin = |id: String| json!({ ELEMENT: id });
        let (from, to) = (origin(self.find(from)?), origin(self.find(to)?));
        let actions = json!([
            { "type": "pointerMove", "origin": from, "x": 0, "y": 0, "duration": 0 },
            { "type": "pointerDown", "button": 0 },
            { "type": "pointerMove", "origin": to, "x": 0, "y": 0, "duration": 200 },
            { "type": "pointerUp", "button": 0 },
        ]);
        let pointer =
            json!({ "type": "pointer", "id": "mouse", "parameters": { "pointerType": "mouse" }, "actions": actions });
        self.command("POST", "/actions", Some(&json!({ "actions": [pointer] }))).map(drop)
    }

    /// What the console said since it was read last, as warnings and errors.
    pub fn console(&self) -> Result<Vec<String>, BrowserError> {
        let entries = self.command("POST", "/se/log", Some(&json!({ "type": "browser" })))?;
        let loud = |entry: &&Value| matches!(entry["level"].as_str(), Some("SEVERE" | "WARNING"));
        let text = |entry: &Value| entry["message"].as_str().unwrap_or_default().to_owned();
        Ok(entries.as_array().into_iter().flatten().filter(loud).map(text).collect())
    }

    /// What axe finds wrong with the page for people who see, hear or move differently: rule, help and the places.
    pub fn faults(&self, axe: &str) -> Result<Vec<String>, BrowserError> {
        self.run(&format!("{axe}; return true"))?;
        let found = self.run_async(
            "const done = arguments[arguments.length - 1]; axe.run(document, { resultTypes: ['violations'] }).then((r) => done(r.violations), (e) => done([{ id: String(e), help: '', nodes: [] }]))",
        )?;
        let line = |fault: &Value| {
            let places: Vec<&str> = fault["nodes"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|node| node["html"].as_str())
                .take(3)
                .collect();
            format!(
                "{}: {} {}",
                fault["id"].as_str().unwrap_or_default(),
                fault["help"].as_str().unwrap_or_default(),
                places.join(" | ")
            )
        };
        Ok(found.as_array().into_iter().flatten().map(line).collect())
    }

    /// A picture of the whole page, PNG.
    pub fn screenshot(&self, to: &Path) -> Result<(), BrowserError> {
        let shot =
            self.devtools("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": true }))?;
        let bytes = BASE64.decode(shot["data"].as_str().unwrap_or_default().as_bytes()).map_err(io::Error::other)?;
        if let Some(folder) = to.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(std::fs::write(to, bytes)?)
    }

    fn find(&self, selector: &str) -> Result<String, BrowserError> {
        let found = self.command("POST", "/element", Some(&json!({ "using": "css selector", "value": selector })))?;
        Ok(found[ELEMENT].as_str().unwrap_or_default().to_owned())
    }

    fn devtools(&self, command: &str, params: Value) -> Result<Value, BrowserError> {
        self.command("POST", "/goog/cdp/execute", Some(&json!({ "cmd": command, "params": params })))
    }

    fn command(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, BrowserError> {
        self.ask(method, &format!("/session/{}{path}", self.session), body)
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, BrowserError> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let body = body.map(Value::to_string).unwrap_or_default();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.address,
            body.len()
        )?;
        let answer = read_answer(&mut stream)?;
        let parsed: Value = serde_json::from_slice(&answer).map_err(io::Error::other)?;
        match parsed["value"]["error"].as_str() {
            Some(error) => {
                let said = parsed["value"]["message"].as_str().unwrap_or_default().lines().next().unwrap_or_default();
                Err(BrowserError::Refused(format!("{method} {path}: {error}: {said} ({body:.200})")))
            }
            None => Ok(parsed["value"].clone()),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends its browser with the session.
        let _gone_already = self.command("DELETE", "", None);
        let _ended = self.driver.kill();
        let _ended = self.driver.wait();
    }
}

/// The body of an answer whose head says how long it is: the driver leaves the connection open.
fn read_answer(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 64 << 10];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
            if let Some(length) = length.filter(|length| bytes.len() >= end + 4 + length) {
                return Ok(bytes[end + 4..end + 4 + length].to_vec());
            }
        }
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => bytes.extend_from_slice(&buffer[..read]),
        }
    }
}
