//! The emulated line: a bottleneck with a queue, loss, outages, delay, jitter, reordering, at an exact rate.
//!
//! ```text
//!   units     the small languages of the command line: 2mbit, 40ms, 0.5%:4, 30s+5s, x/y
//!   link      LinkSpec, Link      pure: what becomes of a packet that arrives now, and when it is delivered
//!   tun       Wan                 one line between two network namespaces, by a TUN device in each; all traffic shares it
//!   lab       Lab                 two namespaces with a Wan between them, gone when dropped
//!   relay     Relay               the same link in front of a UDP port of this process, where namespaces may not be made
//!   capture   Capture             packets with kernel timestamps, as they leave a namespace
//!   conform   excess              the most by which any interval of a trace exceeds a rate
//! ```
//!
//! Departure times are computed on a virtual clock, not by timers: the rate is exact however late the process is woken, only the instants
//! of delivery carry wake-up jitter.
#![allow(clippy::disallowed_methods, reason = "the line runs beside real daemons, in real time")]

mod capture;
mod conform;
mod lab;
mod link;
mod relay;
mod sys;
mod tun;
mod units;

pub use capture::{Capture, Captured};
pub use conform::{excess, excess_over, rate_between};
pub use lab::{BRANCH_ADDR, CENTRE_ADDR, Lab, Unavailable};
pub use link::{Count, Fate, Link, LinkSpec, LinkStats};
pub use relay::{Relay, RelayReading};
pub use tun::{Wan, WanSpec};
pub use units::{At, Loss, Pair, Rate, Span};
