//! What server and client agree on before the first request: options in, replies out, no socket.

use super::{Agreed, Entry, Exports};
use crate::export::Export;
use crate::proto::{self, ALLOCATION, Contexts, Go, Malformed, can, handshake, info, option, reply};

/// The server's half of the handshake.
pub(super) struct Haggle {
    exports: Exports,
    /// TLS is required and has not begun.
    insecure: bool,
    tls: bool,
    no_zeroes: bool,
    structured: bool,
    /// The export for which `base:allocation` was set.
    allocation_of: Option<String>,
}

/// What follows once the replies are sent.
pub(super) enum Then {
    /// The next option.
    More,
    /// Hanging up.
    Close,
    /// TLS, then the next option.
    StartTls,
    /// Requests.
    Go(Agreed),
}

/// The number under which `base:allocation` goes in answers about the state of a range.
pub(super) const ALLOCATION_ID: u32 = 1;

impl Haggle {
    pub(super) fn new(exports: Exports, tls: bool) -> Haggle {
        Haggle { exports, insecure: tls, tls, no_zeroes: false, structured: false, allocation_of: None }
    }

    pub(super) fn greeting() -> Vec<u8> {
        proto::greeting(handshake::FIXED | handshake::NO_ZEROES)
    }

    /// The client's answer to the greeting.
    pub(super) fn client_flags(&mut self, flags: u32) -> Result<(), Malformed> {
        let (fixed, no_zeroes) = (u32::from(handshake::FIXED), u32::from(handshake::NO_ZEROES));
        if flags & fixed == 0 || flags & !(fixed | no_zeroes) != 0 {
            return Err(Malformed::Rule(
                "the client does not speak fixed newstyle, or something that this server does not know",
            ));
        }
        self.no_zeroes = flags & no_zeroes != 0;
        Ok(())
    }

    /// One option: the bytes to send, and what comes next.
    pub(super) fn answer(&mut self, option: u32, data: &[u8]) -> (Vec<u8>, Then) {
        let only = |kind, message: &str| (proto::option_reply(option, kind, message.as_bytes()), Then::More);
        match option {
            option::ABORT => (proto::option_reply(option, reply::ACK, &[]), Then::Close),
            option::STARTTLS => self.start_tls(data),
            // It has no way to refuse but hanging up.
            option::EXPORT_NAME if self.insecure => (Vec::new(), Then::Close),
            _ if self.insecure => only(reply::TLS_REQUIRED, "this server speaks TLS only: start with STARTTLS"),
            option::EXPORT_NAME => self.export_name(data),
            option::LIST if data.is_empty() => (self.list(), Then::More),
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                only(reply::ACK, "")
            }
            option::LIST | option::STRUCTURED_REPLY => only(reply::INVALID, "this option takes no data"),
            option::INFO | option::GO => match Go::parse(data) {
                Ok(go) => self.go(option, &go),
                Err(error) => only(reply::INVALID, &error.to_string()),
            },
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => match Contexts::parse(data) {
                Ok(contexts) => (self.contexts(option, &contexts), Then::More),
                Err(error) => only(reply::INVALID, &error.to_string()),
            },
            _ => only(reply::UNSUPPORTED, "this server does not know this option"),
        }
    }

    fn start_tls(&mut self, data: &[u8]) -> (Vec<u8>, Then) {
        let refuse =
            |kind, message: &str| (proto::option_reply(option::STARTTLS, kind, message.as_bytes()), Then::More);
        if !self.tls {
            return refuse(reply::UNSUPPORTED, "this server has no TLS");
        }
        if !self.insecure || !data.is_empty() {
            return refuse(reply::INVALID, "TLS has begun, or STARTTLS came with data");
        }
        self.insecure = false;
        // Nothing that was agreed on in the open stays agreed on.
        (self.structured, self.allocation_of) = (false, None);
        (proto::option_reply(option::STARTTLS, reply::ACK, &[]), Then::StartTls)
    }

    fn list(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for name in self.exports.names() {
            let mut data = Vec::new();
            proto::put_text(&mut data, &name);
            out.extend(proto::option_reply(option::LIST, reply::SERVER, &data));
        }
        out.extend(proto::option_reply(option::LIST, reply::ACK, &[]));
        out
    }

    fn export_name(&self, data: &[u8]) -> (Vec<u8>, Then) {
        let name = proto::Fields::of("the name of an export", data).text(data.len());
        let Some((name, entry)) = name.ok().and_then(|name| Some((name, self.exports.find(name)?))) else {
            return (Vec::new(), Then::Close);
        };
        let mut out = entry.export.size().to_be_bytes().to_vec();
        out.extend(self.abilities(&*entry.export).to_be_bytes());
        if !self.no_zeroes {
            out.extend([0; 124]);
        }
        (out, Then::Go(self.agreed(name, entry)))
    }

    fn go(&self, option: u32, go: &Go<'_>) -> (Vec<u8>, Then) {
        let Some(entry) = self.exports.find(go.name) else {
            return (self.unknown(option), Then::More);
        };
        let mut out = Vec::new();
        let mut tell = |kind: u16, data: &[u8]| {
            out.extend(proto::option_reply(option, reply::INFO, &[&kind.to_be_bytes(), data].concat()));
        };
        let size = entry.export.size().to_be_bytes();
        tell(info::EXPORT, &[&size[..], &self.abilities(&*entry.export).to_be_bytes()].concat());
        if go.infos.contains(&info::NAME) {
            tell(info::NAME, go.name.as_bytes());
        }
        let preferred = entry.export.block().clamp(512, proto::PAYLOAD).next_power_of_two();
        tell(info::BLOCK_SIZE, &[1, preferred, proto::PAYLOAD].map(u32::to_be_bytes).concat());
        out.extend(proto::option_reply(option, reply::ACK, &[]));
        let then = if option == option::GO { Then::Go(self.agreed(go.name, entry)) } else { Then::More };
        (out, then)
    }

    fn contexts(&mut self, option: u32, asked: &Contexts<'_>) -> Vec<u8> {
        let setting = option == option::SET_META_CONTEXT;
        if setting {
            self.allocation_of = None;
        }
        if !self.structured {
            return proto::option_reply(option, reply::INVALID, b"contexts need structured replies");
        }
        if self.exports.find(asked.name).is_none() {
            return self.unknown(option);
        }
        let everything = !setting && (asked.queries.is_empty() || asked.queries.contains(&"base:"));
        let mut out = Vec::new();
        if everything || asked.queries.contains(&ALLOCATION) {
            let id = if setting { ALLOCATION_ID } else { 0 };
            let data = [&id.to_be_bytes()[..], ALLOCATION.as_bytes()].concat();
            out.extend(proto::option_reply(option, reply::META_CONTEXT, &data));
            if setting {
                self.allocation_of = Some(asked.name.to_owned());
            }
        }
        out.extend(proto::option_reply(option, reply::ACK, &[]));
        out
    }

    fn unknown(&self, option: u32) -> Vec<u8> {
        proto::option_reply(option, reply::UNKNOWN, b"this server has no export of this name")
    }

    fn abilities(&self, export: &dyn Export) -> u16 {
        let always = can::HAS_FLAGS | can::FLUSH | can::FUA | can::MULTI_CONN;
        let df = if self.structured { can::DF } else { 0 };
        let change = if export.is_read_only() { can::READ_ONLY } else { can::TRIM | can::WRITE_ZEROES };
        always | df | change
    }

    fn agreed(&self, name: &str, entry: Entry) -> Agreed {
        let allocation = self.allocation_of.as_deref() == Some(name);
        Agreed { entry, structured: self.structured, allocation }
    }
}
