//! The line: rates, the token bucket that counts every IP byte, and the shaped UDP socket under quinn.
//!
//! ```text
//!   units     BitsPerSec, Rate                      what people write: "1.6 Mbit/s", "0", "unlimited"
//!   policy    Policy, decide, Allowance             pure: what the line may be used for now, why, and until when
//!   clock     TrustedClock                          pure: how far the time is known
//!   ledger    Ledger                                pure: quotas, claimed durably before they are spent
//!   forecast  Outlook                               pure: when what waits will have crossed, and what would help
//!   scheduler Scheduler                             pure: which volume hands the next piece to the line
//!   grants    share                                 pure: the gateway's own line among its edges
//!   bucket    Bucket                                pure: may this datagram leave now, and if not, when
//!   breaker   Breaker                               pure: heavy loss for seconds halves the rate, calm gives it back
//!   courtesy  Courtesy                              pure: the queue before the line says what others leave of it
//!   round_trips                                     pure: from a datagram's departure to its acknowledgement, and nothing else
//!   meter     Meter, MeterReading                   IP-level bytes and datagrams, both ways
//!   shaper    Shaper                                the handle: one line, shared by the data and the control socket
//!   downlink  Peer, accept                          which line each of the gateway's connections draws on
//!   socket    ShapedSocket, bind, endpoint          quinn's socket traits; no other file knows them
//!   window    LineWindow                            the congestion window over a shaped line
//!   lab       Rules, Oracle, kills, ...             for tests and benchmarks alone: slow oracles and simulations
//!   transport edge_data_transport, ...              quinn's transport parameters per role, with the reason for each
//! ```
//!
//! Everything is counted at IP level: payload, UDP and IP headers, acknowledgements, retransmissions, handshakes, control, and an optional
//! overhead per packet for what the line itself adds. Rates are bits per second.
//!
//! A daemon makes one [`Shaper`], binds its sockets with [`bind`] and gives them to [`endpoint`]:
//!
//! ```no_run
//! # fn main() -> std::io::Result<()> {
//! let shaper = shaping::Shaper::new("1.6 Mbit/s".parse().expect("a literal rate"));
//! let socket = shaping::bind("[::]:0".parse().expect("a literal address"), shaping::Role::Data, &shaper)?;
//! let endpoint = shaping::endpoint(socket, shaping::endpoint_config(), None)?;
//! # Ok(()) }
//! ```

mod breaker;
mod bucket;
mod clock;
mod courtesy;
mod downlink;
pub mod forecast;
pub mod grants;
#[cfg(any(test, feature = "lab"))]
pub mod lab;
pub mod ledger;
mod meter;
pub mod policy;
mod round_trips;
pub mod scheduler;
mod shaper;
mod socket;
mod transport;
mod units;
mod window;

pub use breaker::Breaker;
pub use bucket::{Bucket, Class, Depth, Readiness};
pub use clock::TrustedClock;
pub use courtesy::{Courtesy, RoundTrip};
pub use downlink::{Peer, accept};
pub use meter::{Meter, MeterReading, header_bytes};
pub use shaper::{Departure, Shaper, ShaperOptions};
pub use socket::{Role, ShapedSocket, bind, endpoint};
pub use transport::{
    GATEWAY_WINDOW, NEWCOMER_WINDOW, edge_control_transport, edge_data_transport, endpoint_config, gateway_transport,
    largest_datagram, send_window,
};
pub use units::{BitsPerSec, ParseRateError, Rate};
