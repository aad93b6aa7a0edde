//! The protocol between edge and gateway, as types and pure state machines; only [`stream`] and [`tls`] know the network.
//!
//! * [`message`]: every message, its limits.
//! * [`frame`]: messages to bytes and back, length-limited before anything is allocated.
//! * [`version`]: which messages a session may use, and how the two ends agree on it.
//! * [`identity`]: who is who: certificates that carry tenant and site, and the authority that signs them.
//! * [`token`]: the one-time invitation of a new edge.
//! * [`clock`]: the time by which certificates are judged.
//! * [`policy`]: the signed policy of a site.
//! * [`signed`]: what an edge signs for when there is no session: manifests of shipped media.
//! * [`statement`]: what the gateway states and signs for people who ask later: proofs.
//! * [`release`]: releases of the appliance's system: their signed manifest, and what is said about them.
//! * [`seeding`]: where a seed by courier is.
//! * [`telemetry`]: what an edge tells of itself.
//! * [`session`]: the gateway's half of a control session, as a pure state machine.
//! * [`tls`]: TLS configurations of both ends for QUIC.
//! * [`stream`]: messages over QUIC streams, and why a connection ended.
//! * [`fuzz`]: one entry per decoder for whoever throws garbage at it.

pub mod clock;
pub mod frame;
pub mod fuzz;
pub mod identity;
pub mod message;
pub mod policy;
pub mod release;
pub mod seeding;
pub mod session;
pub mod signed;
pub mod statement;
pub mod stream;
pub mod telemetry;
pub mod tls;
pub mod token;
pub mod version;
