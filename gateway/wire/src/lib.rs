//! The protocol between edge and gateway, as types and pure state machines: no socket, no clock, no file.
//!
//! * [`message`]: every message, its limits.

pub mod message;
