//! The messages of NBD as bytes: encoded and decoded here, sent and received elsewhere.
//!
//! Numbers are those of the protocol's document (`doc/proto.md` of the project NetworkBlockDevice/nbd). Everything is big-endian. Nothing here
//! allocates more than it was given: who reads a length off a socket checks it against the limits below before making room.

/// First word of a greeting ("NBDMAGIC").
pub const GREETING: u64 = 0x4e42_444d_4147_4943;
/// Second word of a greeting and first of each option ("IHAVEOPT").
pub const OPTION: u64 = 0x4948_4156_454f_5054;
/// First word of each reply to an option.
pub const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
/// First word of a request.
pub const REQUEST: u32 = 0x2560_9513;
/// First word of a simple reply.
pub const SIMPLE_REPLY: u32 = 0x6744_6698;
/// First word of a chunk of a structured reply.
pub const CHUNK: u32 = 0x668e_33ef;

/// Longest payload of a read or a write, in bytes: what the protocol tells clients to expect of any server, and what all common ones take.
pub const PAYLOAD: u32 = 32 << 20;
/// Longest text (export, context, message), in bytes: the protocol's bound.
pub const TEXT: usize = 4096;
/// Longest data of an option or of a reply to one, in bytes: room for a name and a dozen contexts of the longest kind.
pub const OPTION_DATA: u32 = 64 << 10;
/// Most extents in one answer about the state of a range. One MiB of payload; servers in use send an eighth of it at most.
pub const EXTENTS: u32 = 128 << 10;

/// Flags of both sides' first words.
pub mod handshake {
    /// The server speaks fixed newstyle; the same bit says it of a client.
    pub const FIXED: u16 = 1;
    /// The 124 zeroes after an export's size may be left out; the same bit asks for it.
    pub const NO_ZEROES: u16 = 2;
}

/// What a client may ask for before it reads and writes.
pub mod option {
    #![allow(missing_docs, reason = "the names are the protocol's")]
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Kinds of replies to options.
pub mod reply {
    #![allow(missing_docs, reason = "the names are the protocol's")]
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    /// Set in each kind that is an error.
    pub const ERROR: u32 = 1 << 31;
    pub const UNSUPPORTED: u32 = ERROR | 1;
    pub const INVALID: u32 = ERROR | 3;
    pub const TLS_REQUIRED: u32 = ERROR | 5;
    pub const UNKNOWN: u32 = ERROR | 6;
    pub const TOO_BIG: u32 = ERROR | 9;
}

/// Kinds of information about an export.
pub mod info {
    #![allow(missing_docs, reason = "the names are the protocol's")]
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const BLOCK_SIZE: u16 = 3;
}

/// What an export can do.
pub mod can {
    #![allow(missing_docs, reason = "the names are the protocol's")]
    pub const HAS_FLAGS: u16 = 1;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const FLUSH: u16 = 1 << 2;
    pub const FUA: u16 = 1 << 3;
    pub const TRIM: u16 = 1 << 5;
    pub const WRITE_ZEROES: u16 = 1 << 6;
    pub const DF: u16 = 1 << 7;
    pub const MULTI_CONN: u16 = 1 << 8;
}

/// Requests.
pub mod command {
    #![allow(missing_docs, reason = "the names are the protocol's")]
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of requests.
pub mod flag {
    #![allow(missing_docs, reason = "the names are the protocol's")]
    pub const FUA: u16 = 1;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
}

/// Kinds of chunks, and the flag of the last one.
pub mod chunk {
    #![allow(missing_docs, reason = "the names are the protocol's")]
    pub const DONE: u16 = 1;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    /// Set in each kind that is an error.
    pub const ERROR: u16 = 1 << 15;
    pub const ERROR_PLAIN: u16 = ERROR | 1;
}

/// The context that says what is allocated.
pub const ALLOCATION: &str = "base:allocation";

/// What came is not NBD, or breaks its rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The first word is another one.
    #[error("{what} begins with {found:#x} and not as NBD has it: the other end speaks something else")]
    Magic {
        /// The message that was expected.
        what: &'static str,
        /// What came.
        found: u64,
    },
    /// Lengths within a message contradict its own.
    #[error("{0} does not fit into its length")]
    Length(&'static str),
    /// More than is taken.
    #[error("{what} of {len} bytes: at most {most} are taken")]
    TooLong {
        /// The message.
        what: &'static str,
        /// What it says of itself.
        len: u64,
        /// The limit, bytes.
        most: u64,
    },
    /// A text that is none.
    #[error("{0} is not UTF-8 or holds a zero byte")]
    Text(&'static str),
    /// Anything else that no sane peer does.
    #[error("{0}")]
    Rule(&'static str),
}

/// Reads fields off the front of a message.
#[derive(Debug)]
pub struct Fields<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Fields of the message `bytes`, which errors call `what`.
    pub fn of(what: &'static str, bytes: &'a [u8]) -> Fields<'a> {
        Fields { what, rest: bytes }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed::Length(self.what))?;
        self.rest = rest;
        Ok(*head)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// The next `len` bytes as text, at most [`TEXT`].
    pub fn text(&mut self, len: usize) -> Result<&'a str, Malformed> {
        if len > TEXT {
            return Err(Malformed::TooLong { what: self.what, len: len as u64, most: TEXT as u64 });
        }
        let (head, rest) = self.rest.split_at_checked(len).ok_or(Malformed::Length(self.what))?;
        self.rest = rest;
        match std::str::from_utf8(head) {
            Ok(text) if !text.contains('\0') => Ok(text),
            _ => Err(Malformed::Text(self.what)),
        }
    }

    /// A text with its length in front.
    pub fn counted_text(&mut self) -> Result<&'a str, Malformed> {
        let len = self.u32()?;
        self.text(len as usize)
    }

    /// What is left.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Refuses anything that is left.
    pub fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::Length(self.what)) }
    }
}

fn magic(what: &'static str, found: u64, expected: u64) -> Result<(), Malformed> {
    if found == expected { Ok(()) } else { Err(Malformed::Magic { what, found }) }
}

/// Appends a text with its length in front.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u32).to_be_bytes());
    out.extend(text.as_bytes());
}

/// What a server says first: 18 bytes.
pub fn greeting(flags: u16) -> Vec<u8> {
    [&GREETING.to_be_bytes()[..], &OPTION.to_be_bytes(), &flags.to_be_bytes()].concat()
}

/// The flags of a greeting. Only newstyle is understood.
pub fn parse_greeting(bytes: &[u8; 18]) -> Result<u16, Malformed> {
    let mut fields = Fields::of("a greeting", bytes);
    magic("a greeting", fields.u64()?, GREETING)?;
    magic("the second word of a greeting", fields.u64()?, OPTION)?;
    fields.u16()
}

/// An option as a client sends it.
pub fn option(kind: u32, data: &[u8]) -> Vec<u8> {
    [&OPTION.to_be_bytes()[..], &kind.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data].concat()
}

/// Kind and length of an option, of which data follow. At most [`OPTION_DATA`].
pub fn parse_option(bytes: &[u8; 16]) -> Result<(u32, u32), Malformed> {
    let mut fields = Fields::of("an option", bytes);
    magic("an option", fields.u64()?, OPTION)?;
    let (kind, len) = (fields.u32()?, fields.u32()?);
    if len > OPTION_DATA {
        return Err(Malformed::TooLong { what: "an option", len: len.into(), most: OPTION_DATA.into() });
    }
    Ok((kind, len))
}

/// A reply to an option.
pub fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let len = (data.len() as u32).to_be_bytes();
    [&OPTION_REPLY.to_be_bytes()[..], &option.to_be_bytes(), &kind.to_be_bytes(), &len, data].concat()
}

/// Kind and length of a reply to `option`, of which data follow. At most [`OPTION_DATA`].
pub fn parse_option_reply(bytes: &[u8; 20], option: u32) -> Result<(u32, u32), Malformed> {
    let mut fields = Fields::of("a reply to an option", bytes);
    magic("a reply to an option", fields.u64()?, OPTION_REPLY)?;
    if fields.u32()? != option {
        return Err(Malformed::Rule("the server replied to an option that was not the last one"));
    }
    let (kind, len) = (fields.u32()?, fields.u32()?);
    if len > OPTION_DATA {
        return Err(Malformed::TooLong { what: "a reply to an option", len: len.into(), most: OPTION_DATA.into() });
    }
    Ok((kind, len))
}

/// The data of `INFO` and `GO`: which export, and what is to be told beside its size.
#[derive(Debug, PartialEq, Eq)]
pub struct Go<'a> {
    /// The export.
    pub name: &'a str,
    /// Kinds of [`info`].
    pub infos: Vec<u16>,
}

impl<'a> Go<'a> {
    /// Decodes it.
    pub fn parse(data: &'a [u8]) -> Result<Go<'a>, Malformed> {
        let mut fields = Fields::of("the data of GO", data);
        let name = fields.counted_text()?;
        let count = fields.u16()?;
        let infos = (0..count).map(|_| fields.u16()).collect::<Result<_, _>>()?;
        fields.end()?;
        Ok(Go { name, infos })
    }

    /// Encodes it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_text(&mut out, self.name);
        out.extend((self.infos.len() as u16).to_be_bytes());
        self.infos.iter().for_each(|info| out.extend(info.to_be_bytes()));
        out
    }
}

/// The data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
#[derive(Debug, PartialEq, Eq)]
pub struct Contexts<'a> {
    /// The export.
    pub name: &'a str,
    /// Names of contexts, or beginnings of names.
    pub queries: Vec<&'a str>,
}

impl<'a> Contexts<'a> {
    /// Decodes it.
    pub fn parse(data: &'a [u8]) -> Result<Contexts<'a>, Malformed> {
        let mut fields = Fields::of("a list of contexts", data);
        let name = fields.counted_text()?;
        let count = fields.u32()?;
        // Each query has at least its length, so a count that lies ends with the data.
        let queries = (0..count).map(|_| fields.counted_text()).collect::<Result<_, _>>()?;
        fields.end()?;
        Ok(Contexts { name, queries })
    }

    /// Encodes it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_text(&mut out, self.name);
        out.extend((self.queries.len() as u32).to_be_bytes());
        self.queries.iter().for_each(|query| put_text(&mut out, query));
        out
    }
}

/// A request, without the payload of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Of [`flag`].
    pub flags: u16,
    /// Of [`command`].
    pub command: u16,
    /// The client's number of it.
    pub cookie: u64,
    /// Byte on the export.
    pub at: u64,
    /// Bytes.
    pub len: u32,
}

impl Request {
    /// Bytes of an encoded one.
    pub const SIZE: usize = 28;

    /// Decodes it.
    pub fn parse(bytes: &[u8; Request::SIZE]) -> Result<Request, Malformed> {
        let mut fields = Fields::of("a request", bytes);
        magic("a request", fields.u32()?.into(), REQUEST.into())?;
        Ok(Request {
            flags: fields.u16()?,
            command: fields.u16()?,
            cookie: fields.u64()?,
            at: fields.u64()?,
            len: fields.u32()?,
        })
    }

    /// Encodes it.
    pub fn encode(&self) -> [u8; Request::SIZE] {
        let mut out = [0; Request::SIZE];
        out[..4].copy_from_slice(&REQUEST.to_be_bytes());
        out[4..6].copy_from_slice(&self.flags.to_be_bytes());
        out[6..8].copy_from_slice(&self.command.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out[16..24].copy_from_slice(&self.at.to_be_bytes());
        out[24..].copy_from_slice(&self.len.to_be_bytes());
        out
    }
}

/// Bytes of a simple reply's head.
pub const SIMPLE_HEAD: usize = 16;
/// Bytes of a chunk's head.
pub const CHUNK_HEAD: usize = 20;

/// The head of a simple reply. Its payload follows when `errno` is 0 and it answers a read.
pub fn simple_head(cookie: u64, errno: u32) -> [u8; SIMPLE_HEAD] {
    let mut out = [0; SIMPLE_HEAD];
    out[..4].copy_from_slice(&SIMPLE_REPLY.to_be_bytes());
    out[4..8].copy_from_slice(&errno.to_be_bytes());
    out[8..].copy_from_slice(&cookie.to_be_bytes());
    out
}

/// The head of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHead {
    /// [`chunk::DONE`] or 0.
    pub flags: u16,
    /// Of [`chunk`].
    pub kind: u16,
    /// The request's.
    pub cookie: u64,
    /// Bytes that follow.
    pub len: u32,
}

impl ChunkHead {
    /// Encodes it.
    pub fn encode(&self) -> [u8; CHUNK_HEAD] {
        let mut out = [0; CHUNK_HEAD];
        out[..4].copy_from_slice(&CHUNK.to_be_bytes());
        out[4..6].copy_from_slice(&self.flags.to_be_bytes());
        out[6..8].copy_from_slice(&self.kind.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out[16..].copy_from_slice(&self.len.to_be_bytes());
        out
    }
}

/// What the server sends once requests go back and forth.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// A simple one: cookie and error (0: none).
    Simple(u64, u32),
    /// A chunk of a structured one.
    Chunk(ChunkHead),
}

impl Reply {
    /// How many bytes follow the first four, which are `word`.
    pub fn tail(word: u32) -> Result<usize, Malformed> {
        match word {
            SIMPLE_REPLY => Ok(SIMPLE_HEAD - 4),
            CHUNK => Ok(CHUNK_HEAD - 4),
            _ => Err(Malformed::Magic { what: "a reply", found: word.into() }),
        }
    }

    /// Decodes the bytes after `word`, [`tail`](Reply::tail) of them.
    pub fn parse(word: u32, tail: &[u8]) -> Result<Reply, Malformed> {
        let mut fields = Fields::of("a reply", tail);
        if word == SIMPLE_REPLY {
            let errno = fields.u32()?;
            return Ok(Reply::Simple(fields.u64()?, errno));
        }
        let (flags, kind) = (fields.u16()?, fields.u16()?);
        Ok(Reply::Chunk(ChunkHead { flags, kind, cookie: fields.u64()?, len: fields.u32()? }))
    }
}
