//! A gateway with its state, its addresses and its command line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Daemon, Doing, Ended, WorldError, free_tcp, free_udp, must_crash, run};

/// How a gateway differs from the usual one.
#[derive(Clone, Debug)]
pub struct GatewayOptions {
    /// Its tenant.
    pub tenant: String,
    /// Its folder's name in the world.
    pub name: String,
    /// Where it listens for edges; `None`: a free port of the loopback.
    pub address: Option<SocketAddr>,
    /// What it tells edges to dial, in order; `None`: where it listens.
    pub announced: Option<Vec<String>>,
    /// Lines of TOML added to its configuration.
    pub extra: String,
    /// Lines of TOML under `[web]`; `None`: pages and API are not served.
    pub web: Option<String>,
    /// Environment of the daemon, such as `SLUICE_CRASH_AT`.
    pub env: Vec<(String, String)>,
}

impl Default for GatewayOptions {
    fn default() -> Self {
        Self {
            tenant: "bank".into(),
            name: "gateway".into(),
            address: None,
            announced: None,
            extra: String::new(),
            web: None,
            env: Vec::new(),
        }
    }
}

/// A gateway. Its daemon runs between [`Gateway::start`] and [`Gateway::stop`] or [`Gateway::kill`].
#[derive(Debug)]
pub struct Gateway {
    binary: PathBuf,
    folder: PathBuf,
    options: GatewayOptions,
    address: SocketAddr,
    announced: Vec<String>,
    http: SocketAddr,
    daemon: Option<Daemon>,
}

impl Gateway {
    /// Makes the state of a new gateway in `folder`.
    pub fn init(binary: &Path, folder: &Path, options: GatewayOptions) -> Result<Self, WorldError> {
        let address = options.address.map_or_else(free_udp, Ok)?;
        let announced = options.announced.clone().unwrap_or_else(|| vec![address.to_string()]);
        let http = free_tcp()?;
        let mut gateway = Self {
            binary: binary.to_path_buf(),
            folder: folder.to_path_buf(),
            options,
            address,
            announced,
            http,
            daemon: None,
        };
        std::fs::create_dir_all(folder).doing(|| format!("making {}", folder.display()))?;
        let mut init = gateway.bare_command();
        init.args(["init", "--tenant", &gateway.options.tenant, "--address", &gateway.announced[0], "--state"]);
        init.arg(gateway.state());
        run(init)?;
        gateway.write_config()?;
        Ok(gateway)
    }

    /// Where it listens for edges.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it serves `/metrics` and `/health`.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Its state directory.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("gateway.toml")
    }

    /// The log of all its runs.
    pub fn log(&self) -> PathBuf {
        self.folder.join("gateway.log")
    }

    /// What it does differently, to be changed between runs.
    pub fn options(&mut self) -> &mut GatewayOptions {
        &mut self.options
    }

    /// Starts the daemon and waits until it is ready.
    pub fn start(&mut self) -> Result<(), WorldError> {
        self.launch()?;
        self.daemon()?.wait_ready()
    }

    /// Starts the daemon, which is to crash at the `pass`-th time it comes by `point`, and waits until it is ready.
    pub fn start_to_crash(&mut self, point: &str, pass: u32) -> Result<(), WorldError> {
        self.launch_to_crash(point, pass)?;
        self.daemon()?.wait_ready()
    }

    /// The same without waiting: what it has to do at its start may bring it by the point before it is ready.
    pub fn launch_to_crash(&mut self, point: &str, pass: u32) -> Result<(), WorldError> {
        must_crash(&self.binary)?;
        self.options.env.push(("SLUICE_CRASH_AT".into(), format!("{point}:{pass}")));
        let launched = self.launch();
        self.options.env.pop();
        launched
    }

    /// Starts the daemon without waiting for it.
    pub fn launch(&mut self) -> Result<(), WorldError> {
        let mut command = Command::new(&self.binary);
        command.args(["run", "--config"]).arg(self.config()).envs(self.options.env.iter().cloned());
        self.daemon = Some(Daemon::start("the gateway", command, &self.log(), self.http)?);
        Ok(())
    }

    /// The running daemon.
    pub fn daemon(&mut self) -> Result<&mut Daemon, WorldError> {
        self.daemon.as_mut().ok_or_else(|| not_running("the gateway"))
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) -> Result<Ended, WorldError> {
        self.daemon.take().ok_or_else(|| not_running("the gateway"))?.terminate()
    }

    /// kill -9.
    pub fn kill(&mut self) -> Result<(), WorldError> {
        self.daemon.take().ok_or_else(|| not_running("the gateway"))?.kill()
    }

    /// Waits for the end that a crash point brings.
    pub fn wait_crash(&mut self, limit: Duration) -> Result<Ended, WorldError> {
        let ended = self.daemon()?.wait_end(limit)?;
        self.daemon = None;
        Ok(ended)
    }

    /// Takes another address from the next start on.
    pub fn listen_on(&mut self, address: SocketAddr) -> Result<(), WorldError> {
        self.address = address;
        self.write_config()
    }

    /// Tells edges these addresses from the next start on.
    pub fn announce(&mut self, addresses: &[String]) -> Result<(), WorldError> {
        self.announced = addresses.to_vec();
        self.write_config()
    }

    /// A one-time token for a new edge at `site`.
    pub fn token(&self, site: &str) -> Result<String, WorldError> {
        let mut command = self.command("token");
        command.args(["--tenant", &self.options.tenant, "--site", site]);
        Ok(run(command)?.trim().to_owned())
    }

    /// Rebuilds a generation (`latest` or a number) of `site/volume` at `to`, read back and verified.
    pub fn rehydrate(&self, volume: &str, generation: &str, to: &Path) -> Result<String, WorldError> {
        let mut command = self.command("rehydrate");
        command.args(["--volume", volume, "--generation", generation, "--to"]).arg(to);
        run(command)
    }

    /// A subcommand with this gateway's configuration.
    pub fn command(&self, subcommand: &str) -> Command {
        let mut command = self.bare_command();
        command.arg(subcommand).arg("--config").arg(self.config());
        command
    }

    /// Runs a subcommand and gives what it printed on its standard output.
    pub fn run(&self, subcommand: &str, args: &[&str]) -> Result<String, WorldError> {
        let mut command = self.command(subcommand);
        command.args(args);
        run(command)
    }

    fn bare_command(&self) -> Command {
        Command::new(&self.binary)
    }

    /// Writes the configuration anew; it holds from the next start on.
    pub fn write_config(&mut self) -> Result<(), WorldError> {
        let text = format!(
            "state = {:?}\nlisten = [\"{}\"]\naddresses = {:?}\nhttp = \"{}\"\n{}\n[web]\n{}\n",
            self.state(),
            self.address,
            self.announced,
            self.http,
            self.options.extra,
            self.options.web.as_deref().unwrap_or("listen = \"off\""),
        );
        std::fs::write(self.config(), text).doing(|| "writing the gateway's configuration".into())
    }
}

pub(super) fn not_running(name: &str) -> WorldError {
    WorldError::Answer { what: name.into(), why: "it is not running".into(), text: String::new() }
}
