//! wanem: one emulated WAN line between two network namespaces. See `lab::line`.

use anyhow::{Context, Result};
use clap::Parser;
use lab::line::{At, LinkSpec, Loss, Pair, Rate, Span, Wan, WanSpec};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use std::os::fd::AsFd;
use std::time::Duration;

/// Emulate one WAN line between two network namespaces. `x/y` sets A>B / B>A apart.
#[derive(Parser, Debug)]
struct Args {
    /// network namespace at side A (`ip netns add …`), gets 10.99.0.1 and fd99::1
    #[arg(long)]
    a: String,
    /// network namespace at side B, gets 10.99.0.2 and fd99::2
    #[arg(long)]
    b: String,
    /// line rate in IP bytes: 2mbit, 512kbit/6mbit; 0 = unlimited
    #[arg(long, default_value = "0")]
    rate: Pair<Rate>,
    /// one-way delay
    #[arg(long, default_value = "0")]
    delay: Pair<Span>,
    /// uniform jitter of +- this much; order is kept
    #[arg(long, default_value = "0")]
    jitter: Pair<Span>,
    /// loss on the line: 0.5% (random) or 0.5%:4 (runs of 4 packets in the mean)
    #[arg(long, default_value = "0")]
    loss: Pair<Loss>,
    /// share of packets held back by max(jitter, 10 ms), so that later ones overtake
    #[arg(long, default_value = "0")]
    reorder: Pair<Loss>,
    /// drop-tail queue before the line, as time at line rate
    #[arg(long, default_value = "200ms")]
    queue: Pair<Span>,
    /// framing bytes per packet on the line (Ethernet 38, PPPoE/ATM about 40)
    #[arg(long, default_value_t = 0)]
    overhead: usize,
    /// outage START+LENGTH, e.g. 30s+5s; may be repeated
    #[arg(long)]
    outage: Vec<At<Span>>,
    /// new rate TIME=RATE, e.g. 60s=1mbit; may be repeated, in order of time
    #[arg(long)]
    rate_at: Vec<At<Pair<Rate>>>,
    /// MTU of both devices
    #[arg(long, default_value_t = 1500)]
    mtu: u32,
    /// stop after this long (else SIGINT/SIGTERM)
    #[arg(long = "for")]
    run_for: Option<Span>,
    /// the same seed makes the same losses
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// write the statistics (JSON) here instead of stdout
    #[arg(long)]
    stats: Option<String>,
    /// write one CSV line per packet
    #[arg(long)]
    trace: Option<String>,
}

impl Args {
    fn link(&self, forth: bool) -> LinkSpec {
        LinkSpec {
            rate: *self.rate.of(forth),
            delay: *self.delay.of(forth),
            jitter: *self.jitter.of(forth),
            loss: *self.loss.of(forth),
            reorder: self.reorder.of(forth).share,
            corrupt: 0.0,
            queue: *self.queue.of(forth),
            overhead: self.overhead,
            mtu: self.mtu as usize,
            outages: self.outage.clone(),
            rate_at: self.rate_at.iter().map(|At(time, rate)| At(*time, *rate.of(forth))).collect(),
        }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    // Blocked before the line's threads start, so that only the wait below sees them.
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block().context("block SIGINT and SIGTERM")?;
    let wan = Wan::start(WanSpec {
        a: args.a.clone(),
        b: args.b.clone(),
        forth: args.link(true),
        back: args.link(false),
        mtu: args.mtu,
        seed: args.seed,
        trace: args.trace.is_some(),
    })?;
    eprintln!("wanem: {} 10.99.0.1 <-> 10.99.0.2 {}", args.a, args.b);
    wait(&signals, args.run_for)?;
    let report = wan.report();
    match &args.stats {
        Some(path) => std::fs::write(path, report.to_string()).with_context(|| format!("write {path}"))?,
        None => println!("{report:#}"),
    }
    if let Some(path) = &args.trace {
        std::fs::write(path, wan.trace()).with_context(|| format!("write {path}"))?;
    }
    Ok(())
}

/// Until one of the signals, or for so long.
fn wait(signals: &SigSet, time: Option<Span>) -> Result<()> {
    let signals = SignalFd::new(signals).context("wait for signals")?;
    let timeout = match time {
        None => PollTimeout::NONE,
        Some(Span(ns)) => PollTimeout::try_from(Duration::from_nanos(ns)).context("--for: at most 24 days")?,
    };
    poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], timeout).context("wait")?;
    Ok(())
}
