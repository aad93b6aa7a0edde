//! An edge with its identity, its configuration and its command line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub use sluice_edge::CaptureReport as Captured;

use super::gateway::not_running;
use super::{Daemon, Doing, Ended, WorldError, free_tcp, must_crash, run};

/// How an edge differs from the usual one.
#[derive(Clone, Debug)]
pub struct EdgeOptions {
    /// The allowed rate, as in the configuration; empty: none is written, and the policy alone decides.
    pub rate: String,
    /// Lines of TOML added at the top of its configuration, before any table. The default lets the encoder hurry: scenarios are not
    /// about ratios.
    pub extra: String,
    /// Lines of its `[capture]` table.
    pub capture: String,
    /// Environment of the daemon, such as `SLUICE_CRASH_AT`.
    pub env: Vec<(String, String)>,
}

impl Default for EdgeOptions {
    fn default() -> Self {
        Self { rate: "unlimited".into(), extra: HURRY.into(), capture: String::new(), env: Vec::new() }
    }
}

/// An assumed rate at which the encoder takes its cheapest effort.
pub const HURRY: &str = "assume_rate = \"1 Gbit/s\"\n";

/// An edge. Its daemon runs between [`Edge::start`] and [`Edge::stop`] or [`Edge::kill`].
#[derive(Debug)]
pub struct Edge {
    binary: PathBuf,
    folder: PathBuf,
    site: String,
    options: EdgeOptions,
    http: SocketAddr,
    daemon: Option<Daemon>,
}

impl Edge {
    /// Writes the configuration of a new edge in `folder`.
    pub fn configure(binary: &Path, folder: &Path, site: &str, options: EdgeOptions) -> Result<Self, WorldError> {
        std::fs::create_dir_all(folder).doing(|| format!("making {}", folder.display()))?;
        let edge = Self {
            binary: binary.to_path_buf(),
            folder: folder.to_path_buf(),
            site: site.to_owned(),
            options,
            http: free_tcp()?,
            daemon: None,
        };
        edge.write_config()?;
        Ok(edge)
    }

    /// The site's name.
    pub fn site(&self) -> &str {
        &self.site
    }

    /// Its state directory.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("edge.toml")
    }

    /// The log of all its runs.
    pub fn log(&self) -> PathBuf {
        self.folder.join("edge.log")
    }

    /// What it does differently, to be changed between runs.
    pub fn options(&mut self) -> &mut EdgeOptions {
        &mut self.options
    }

    /// Enrols with a token, handed over in a file.
    pub fn enrol(&self, token: &str) -> Result<String, WorldError> {
        let file = self.folder.join("token");
        std::fs::write(&file, token).doing(|| "writing the token file".into())?;
        let mut command = self.command("enrol");
        command.arg("--token-file").arg(&file);
        let said = run(command);
        std::fs::remove_file(&file).doing(|| "removing the token file".into())?;
        said
    }

    /// Starts the daemon and waits until it is ready.
    pub fn start(&mut self) -> Result<(), WorldError> {
        self.launch()?;
        self.daemon()?.wait_ready()
    }

    /// Starts the daemon, which is to crash at the `pass`-th time it comes by `point`.
    pub fn start_to_crash(&mut self, point: &str, pass: u32) -> Result<(), WorldError> {
        must_crash(&self.binary)?;
        self.options.env.push(("SLUICE_CRASH_AT".into(), format!("{point}:{pass}")));
        let started = self.start();
        self.options.env.pop();
        started
    }

    /// Starts the daemon without waiting for it.
    pub fn launch(&mut self) -> Result<(), WorldError> {
        self.write_config()?;
        let mut command = Command::new(&self.binary);
        command.args(["run", "--config"]).arg(self.config()).envs(self.options.env.iter().cloned());
        let name = format!("the edge of {}", self.site);
        self.daemon = Some(Daemon::start(&name, command, &self.log(), self.http)?);
        Ok(())
    }

    /// The running daemon.
    pub fn daemon(&mut self) -> Result<&mut Daemon, WorldError> {
        self.daemon.as_mut().ok_or_else(|| not_running("the edge"))
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) -> Result<Ended, WorldError> {
        self.daemon.take().ok_or_else(|| not_running("the edge"))?.terminate()
    }

    /// kill -9.
    pub fn kill(&mut self) -> Result<(), WorldError> {
        self.daemon.take().ok_or_else(|| not_running("the edge"))?.kill()
    }

    /// Waits for the end that a crash point brings.
    pub fn wait_crash(&mut self, limit: Duration) -> Result<Ended, WorldError> {
        let ended = self.daemon()?.wait_end(limit)?;
        self.daemon = None;
        Ok(ended)
    }

    /// Adds a volume over an image file.
    pub fn add_volume(&self, name: &str, image: &Path) -> Result<String, WorldError> {
        self.run("volume", &["add", name, "--source", &format!("file:{}", image.display())])
    }

    /// Captures a volume and waits until the generation is sealed at the gateway.
    pub fn capture(&self, volume: &str) -> Result<Captured, WorldError> {
        let said = self.run("capture", &[volume, "--wait", "--json"])?;
        let last = said.lines().rev().find(|line| line.starts_with('{')).unwrap_or_default();
        serde_json::from_str(last).map_err(|why| {
            let what = "`capture --wait --json`".into();
            WorldError::Answer { what, why: why.to_string(), text: said }
        })
    }

    /// A capture that runs while the test does something else.
    pub fn capture_in_background(&self, volume: &str) -> Command {
        let mut command = self.command("capture");
        command.args([volume, "--wait", "--json"]);
        command
    }

    /// What `status --json` says.
    pub fn status(&self) -> Result<serde_json::Value, WorldError> {
        let text = self.run("status", &["--json"])?;
        serde_json::from_str(&text).map_err(|why| WorldError::Answer {
            what: "`status --json`".into(),
            why: why.to_string(),
            text,
        })
    }

    /// A subcommand with this edge's configuration.
    pub fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg(subcommand).arg("--config").arg(self.config());
        command
    }

    /// Runs a subcommand and gives what it printed on its standard output.
    pub fn run(&self, subcommand: &str, args: &[&str]) -> Result<String, WorldError> {
        let mut command = Command::new(&self.binary);
        command.arg(subcommand).args(args).arg("--config").arg(self.config());
        run(command)
    }

    fn write_config(&self) -> Result<(), WorldError> {
        let rate = match self.options.rate.as_str() {
            "" => String::new(),
            rate => format!("rate = {rate:?}\n"),
        };
        // Many edges run at once, and one address is for one page: who tests the page says where it is.
        let page = if self.options.extra.contains("page = ") { "" } else { "page = \"off\"\n" };
        let text = format!(
            "state = {:?}\n{rate}{page}{}\n[capture]\n{}\n[http]\nlisten = \"{}\"\n",
            self.state(),
            self.options.extra,
            self.options.capture,
            self.http
        );
        std::fs::write(self.config(), text).doing(|| "writing the edge's configuration".into())
    }
}
