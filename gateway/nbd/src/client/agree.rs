//! The client's half of the handshake.

use super::socket::{Incoming, Outgoing, start_tls};
use super::{ClientError, Options, Terms};
use crate::proto::{self, Contexts, Fields, Go, Malformed, handshake, info, option, reply};
use rustls::ClientConnection;
use std::io::Read;
use std::time::Instant;

/// Replies to one option that are listened to. Only lists have many, and this client asks for none.
const MOST_REPLIES: usize = 1000;

/// Greets, starts TLS if it is wanted, and asks for the export.
pub(super) fn agree(
    incoming: &mut Incoming,
    outgoing: &mut Outgoing,
    options: &Options,
    deadline: Instant,
) -> Result<Terms, ClientError> {
    let mut greeting = [0; 18];
    incoming.read_exact(&mut greeting)?;
    let flags = proto::parse_greeting(&greeting)?;
    if flags & handshake::FIXED == 0 {
        return Err(Malformed::Rule("it speaks an older NBD than fixed newstyle").into());
    }
    let flags = flags & (handshake::FIXED | handshake::NO_ZEROES);
    outgoing.send([&u32::from(flags).to_be_bytes(), &[]], deadline)?;
    let mut talk = Talk { incoming, outgoing, deadline };
    if let Some((config, name)) = &options.tls {
        talk.must("TLS", option::STARTTLS, &[])?;
        let refused = |error: &dyn ToString| ClientError::Refused { what: "TLS".into(), why: error.to_string() };
        let tls = ClientConnection::new(config.clone(), name.clone()).map_err(|error| refused(&error))?;
        start_tls(talk.incoming, talk.outgoing, tls, deadline).map_err(|error| refused(&error))?;
    }
    let structured = talk.ask(option::STRUCTURED_REPLY, &[])?.is_ok();
    let contexts = if structured { talk.contexts(options)? } else { Vec::new() };
    let mut terms = Terms { size: 0, abilities: 0, structured, blocks: (1, 4096, proto::PAYLOAD), contexts };
    talk.go(options, flags & handshake::NO_ZEROES != 0, &mut terms)?;
    Ok(terms)
}

struct Talk<'a> {
    incoming: &'a mut Incoming,
    outgoing: &'a mut Outgoing,
    deadline: Instant,
}

/// The kind and the data of each reply before the last.
type Replies = Vec<(u32, Vec<u8>)>;

/// A refusal: the kind of reply, and what it says.
type Refusal = (u32, String);

impl Talk<'_> {
    /// One option and all replies to it.
    fn ask(&mut self, option: u32, data: &[u8]) -> Result<Result<Replies, Refusal>, ClientError> {
        self.outgoing.send([&proto::option(option, data), &[]], self.deadline)?;
        let mut replies = Vec::new();
        while replies.len() < MOST_REPLIES {
            let mut head = [0; 20];
            self.incoming.read_exact(&mut head)?;
            let (kind, len) = proto::parse_option_reply(&head, option)?;
            let mut data = vec![0; len as usize];
            self.incoming.read_exact(&mut data)?;
            if kind == reply::ACK {
                return Ok(Ok(replies));
            }
            if kind & reply::ERROR != 0 {
                return Ok(Err((kind, said(kind, &data))));
            }
            replies.push((kind, data));
        }
        Err(Malformed::Rule("it does not stop replying").into())
    }

    fn must(&mut self, what: &str, option: u32, data: &[u8]) -> Result<Replies, ClientError> {
        self.ask(option, data)?.map_err(|(_, why)| ClientError::Refused { what: what.to_owned(), why })
    }

    fn contexts(&mut self, options: &Options) -> Result<Vec<(u32, String)>, ClientError> {
        if options.contexts.is_empty() {
            return Ok(Vec::new());
        }
        let queries = options.contexts.iter().map(String::as_str).collect();
        let data = Contexts { name: &options.export, queries }.encode();
        // A server without contexts, or without these, serves all the same; one without the export says so again when it is asked for.
        let Ok(replies) = self.ask(option::SET_META_CONTEXT, &data)? else { return Ok(Vec::new()) };
        let mut contexts = Vec::new();
        for (_, data) in replies.iter().filter(|(kind, _)| *kind == reply::META_CONTEXT) {
            let mut fields = Fields::of("a context", data);
            let id = fields.u32()?;
            let name = Fields::of("the name of a context", fields.rest()).text(data.len() - 4)?.to_owned();
            if options.contexts.contains(&name) {
                contexts.push((id, name));
            }
        }
        Ok(contexts)
    }

    fn go(&mut self, options: &Options, no_zeroes: bool, terms: &mut Terms) -> Result<(), ClientError> {
        let data = Go { name: &options.export, infos: vec![info::BLOCK_SIZE] }.encode();
        let replies = match self.ask(option::GO, &data)? {
            Ok(replies) => replies,
            Err((reply::UNSUPPORTED, _)) => return self.export_name(options, no_zeroes, terms),
            Err((_, why)) => {
                return Err(ClientError::Refused { what: format!("the export {:?}", options.export), why });
            }
        };
        let mut told = false;
        for (_, data) in replies.iter().filter(|(kind, _)| *kind == reply::INFO) {
            let mut fields = Fields::of("information about an export", data);
            match fields.u16()? {
                info::EXPORT => {
                    (terms.size, terms.abilities, told) = (fields.u64()?, fields.u16()?, true);
                    fields.end()?;
                }
                info::BLOCK_SIZE => {
                    terms.blocks = (fields.u32()?, fields.u32()?, fields.u32()?);
                    fields.end()?;
                }
                _ => {}
            }
        }
        if !told {
            return Err(Malformed::Rule("it agrees to an export and does not tell its size").into());
        }
        check(terms)
    }

    /// For servers before GO, which hang up in place of refusing.
    fn export_name(&mut self, options: &Options, no_zeroes: bool, terms: &mut Terms) -> Result<(), ClientError> {
        self.outgoing.send([&proto::option(option::EXPORT_NAME, options.export.as_bytes()), &[]], self.deadline)?;
        let mut data = vec![0; if no_zeroes { 10 } else { 134 }];
        self.incoming.read_exact(&mut data)?;
        let mut fields = Fields::of("information about an export", &data);
        (terms.size, terms.abilities) = (fields.u64()?, fields.u16()?);
        check(terms)
    }
}

/// Refuses terms with which no arithmetic is safe, or no piece possible.
fn check(terms: &Terms) -> Result<(), ClientError> {
    let (smallest, preferred, longest) = terms.blocks;
    if terms.size > i64::MAX as u64 {
        return Err(Malformed::Rule("it says that an export is larger than 2^63 bytes").into());
    }
    // 64 KiB and 1 MiB are what the protocol sets as bounds of the two.
    let fits = smallest.is_power_of_two() && smallest <= 64 << 10 && preferred.is_power_of_two();
    if !fits || longest < 1 << 20 {
        return Err(Malformed::Rule("its block sizes are none").into());
    }
    Ok(())
}

fn said(kind: u32, data: &[u8]) -> String {
    let reason = match kind {
        reply::UNSUPPORTED => "it does not know this option",
        reply::TLS_REQUIRED => "it requires TLS",
        reply::UNKNOWN => "it has no such export",
        reply::INVALID => "it calls the request invalid",
        _ => "no reason that this client knows",
    };
    match printable(data) {
        text if text.is_empty() => format!("{reason} (reply {kind:#x})"),
        text => format!("{reason}: {text:?}"),
    }
}

/// What a server says, as far as it is worth printing.
pub(super) fn printable(data: &[u8]) -> String {
    String::from_utf8_lossy(&data[..data.len().min(300)]).chars().filter(|c| !c.is_control()).collect()
}
