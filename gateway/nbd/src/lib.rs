//! NBD, the protocol by which virtual machines and tools read and write block devices over a socket.
//!
//! * [`export`]: what can be served, as a trait.
//! * [`server`]: serves exports over Unix sockets and TCP, by TLS or plainly.
//! * [`client`]: reads and writes what another server exports, over one or several connections; an export itself.
//! * [`overlay`]: copy-on-write over an export that stays as it is.
//! * [`tls`]: TLS configurations of both ends.
//! * [`proto`]: the messages as bytes; everything else is built on it.

pub mod client;
pub mod export;
pub mod overlay;
pub mod proto;
pub mod server;
pub mod tls;

pub use client::{Address, Client, ClientError};
pub use export::{Errno, Export, Failure, Status};
pub use overlay::Overlay;
pub use server::{Exports, Limits, Listener, serve};
