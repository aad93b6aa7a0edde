//! Messages over QUIC streams, and why a connection ended.
//!
//! The first stream of every connection of an enrolled edge starts with one byte that says what the connection is for ([`Purpose`]):
//! control and data speak the same versions, so TLS cannot tell them apart.

use crate::frame::{self, DecodeError, Decoder, EncodeError, Message};
use crate::identity::{IdentityError, PeerIdentity};
use crate::version::{ENROL_ALPN, Unknown, Version};
use bytes::Bytes;
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use rustls::pki_types::CertificateDer;

/// Bytes that are taken from a stream at once: several datagrams, and small enough to hold for each of 256 streams.
const PIECE: usize = 16 << 10;

/// What a connection is for: the first byte of its first stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Messages, on this one stream.
    Control,
    /// Parcels; this stream joins the connection to its session.
    Data,
}

/// What TLS agreed on with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreed {
    /// A session of this version.
    Session(Version),
    /// An enrolment.
    Enrolment,
}

/// Why messages could not be exchanged.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The message to be sent breaks a limit.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// What came is no message.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The first byte of a connection is not one of [`Purpose`].
    #[error("the peer's first byte was {0:#04x}, which names no kind of connection")]
    Purpose(u8),
    /// The peer ended the stream where a message was due.
    #[error("the peer ended the stream where a message was due")]
    Finished,
    /// The peer gave the stream up.
    #[error("the peer gave the stream up (code {0})")]
    Stopped(u64),
    /// The connection is gone.
    #[error(transparent)]
    Ended(#[from] Ended),
}

/// Why a connection ended, or was never made.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Ended {
    /// No protocol version in common.
    #[error("the peer speaks no protocol version that this build speaks; upgrade the gateway first, then its edges")]
    NoCommonVersion,
    /// A certificate was refused, by this end or the other.
    #[error("{by} refused the certificate: {why}")]
    Certificate {
        /// Whose refusal it is.
        by: &'static str,
        /// Which check failed.
        why: String,
    },
    /// The other end closed it with one of our codes.
    #[error("the peer closed the connection: {why}")]
    Closed {
        /// Which.
        code: CloseCode,
        /// In words.
        why: String,
    },
    /// Nothing was heard for longer than the idle time-out.
    #[error("nothing was heard from the peer for too long")]
    TimedOut,
    /// The peer restarted and knows the connection no more.
    #[error("the peer restarted")]
    Reset,
    /// This end closed it.
    #[error("the connection was closed here")]
    Here,
    /// A fault of the transport.
    #[error("the connection failed: {0}")]
    Transport(String),
}

/// Application codes with which either end closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCode {
    /// The work is done, or the daemon stops; connect again when there is more.
    Done,
    /// The daemon stops and will be back.
    Stopping,
    /// The peer broke the protocol.
    Protocol,
    /// The site is revoked.
    Revoked,
    /// Another edge with the same identity is connected.
    Cloned,
    /// A newer connection of the same edge took its place.
    Replaced,
    /// A code that this build does not know.
    Other(u32),
}

/// Sends messages on a stream.
#[derive(Debug)]
pub struct FrameWriter {
    stream: SendStream,
}

/// Receives messages from a stream. [`FrameReader::next`] may be dropped at any time without losing a byte.
#[derive(Debug)]
pub struct FrameReader {
    stream: RecvStream,
    decoder: Decoder,
}

impl FrameWriter {
    /// Takes a stream over.
    pub fn new(stream: SendStream) -> Self {
        Self { stream }
    }

    /// Sends one message. Not cancel-safe: a dropped future may have sent a part of it.
    pub async fn send<M: Message>(&mut self, message: &M) -> Result<(), StreamError> {
        let frame = frame::encode(message)?;
        self.raw(&frame).await
    }

    /// Sends several messages at once, so that small ones share a packet. Not cancel-safe.
    pub async fn send_all<M: Message>(&mut self, messages: &[M]) -> Result<(), StreamError> {
        let mut frames = Vec::new();
        for message in messages {
            frames.extend(frame::encode(message)?);
        }
        self.raw(&frames).await
    }

    /// Sends bytes of a parcel.
    pub async fn raw(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        self.stream.write_all(bytes).await.map_err(|error| match error {
            quinn::WriteError::Stopped(code) => StreamError::Stopped(code.into_inner()),
            quinn::WriteError::ConnectionLost(error) => StreamError::Ended(ended(&error)),
            other => StreamError::Ended(Ended::Transport(other.to_string())),
        })
    }

    /// Nothing follows.
    pub fn finish(&mut self) {
        let _already_closed = self.stream.finish();
    }

    /// Finishes and waits until the peer has everything, or the connection is gone.
    pub async fn finish_and_wait(mut self) {
        self.finish();
        let _gone = self.stream.stopped().await;
    }

    /// The stream itself, for priorities.
    pub fn stream(&mut self) -> &mut SendStream {
        &mut self.stream
    }
}

impl FrameReader {
    /// Takes a stream over.
    pub fn new(stream: RecvStream) -> Self {
        Self { stream, decoder: Decoder::default() }
    }

    /// The next message; `None` when the peer finished the stream between two messages. Cancel-safe.
    pub async fn next<M: Message>(&mut self) -> Result<Option<M>, StreamError> {
        loop {
            if let Some(message) = self.decoder.take()? {
                return Ok(Some(message));
            }
            match self.piece().await? {
                Some(bytes) => self.decoder.push(&bytes)?,
                None => {
                    self.decoder.finish()?;
                    return Ok(None);
                }
            }
        }
    }

    /// The next message, where one is due. Cancel-safe.
    pub async fn expect<M: Message>(&mut self) -> Result<M, StreamError> {
        self.next().await?.ok_or(StreamError::Finished)
    }

    /// The next bytes behind the last message, at most 16 KiB; `None` at the end of the stream. Cancel-safe.
    pub async fn raw(&mut self) -> Result<Option<Bytes>, StreamError> {
        let rest = self.decoder.take_rest();
        if rest.is_empty() { self.piece().await } else { Ok(Some(rest.into())) }
    }

    /// The next bytes in the order in which they arrive, each once, at most 16 KiB; `None` at the end. After it only this may be called. Cancel-safe.
    pub async fn raw_as_it_comes(&mut self) -> Result<Option<Bytes>, StreamError> {
        let rest = self.decoder.take_rest();
        if rest.is_empty() { self.chunk(false).await } else { Ok(Some(rest.into())) }
    }

    /// Tells the peer that nothing more of this stream is wanted.
    pub fn stop(&mut self) {
        let _already_ended = self.stream.stop(VarInt::from_u32(CloseCode::Protocol.number()));
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, StreamError> {
        self.chunk(true).await
    }

    async fn chunk(&mut self, in_order: bool) -> Result<Option<Bytes>, StreamError> {
        let chunk = self.stream.read_chunk(PIECE, in_order).await.map_err(|error| match error {
            quinn::ReadError::Reset(code) => StreamError::Stopped(code.into_inner()),
            quinn::ReadError::ConnectionLost(error) => StreamError::Ended(ended(&error)),
            other => StreamError::Ended(Ended::Transport(other.to_string())),
        })?;
        Ok(chunk.map(|chunk| chunk.bytes))
    }
}

/// Opens a connection's first stream and says what the connection is for.
pub async fn open(connection: &Connection, purpose: Purpose) -> Result<(FrameWriter, FrameReader), StreamError> {
    let (send, recv) = connection.open_bi().await.map_err(|error| ended(&error))?;
    let mut writer = FrameWriter::new(send);
    writer.raw(&[purpose.byte()]).await?;
    Ok((writer, FrameReader::new(recv)))
}

/// Accepts a connection's first stream.
pub async fn accept(connection: &Connection) -> Result<(Purpose, FrameWriter, FrameReader), StreamError> {
    let (send, mut recv) = connection.accept_bi().await.map_err(|error| ended(&error))?;
    let mut first = [0];
    recv.read_exact(&mut first).await.map_err(|error| match error {
        quinn::ReadExactError::FinishedEarly(_) => StreamError::Finished,
        quinn::ReadExactError::ReadError(quinn::ReadError::ConnectionLost(error)) => StreamError::Ended(ended(&error)),
        quinn::ReadExactError::ReadError(other) => StreamError::Ended(Ended::Transport(other.to_string())),
    })?;
    let purpose = Purpose::from_byte(first[0]).ok_or(StreamError::Purpose(first[0]))?;
    Ok((purpose, FrameWriter::new(send), FrameReader::new(recv)))
}

/// Opens a further stream: one parcel on a data connection.
pub async fn open_next(connection: &Connection) -> Result<(FrameWriter, FrameReader), StreamError> {
    let (send, recv) = connection.open_bi().await.map_err(|error| ended(&error))?;
    Ok((FrameWriter::new(send), FrameReader::new(recv)))
}

/// Accepts a further stream.
pub async fn accept_next(connection: &Connection) -> Result<(FrameWriter, FrameReader), StreamError> {
    let (send, recv) = connection.accept_bi().await.map_err(|error| ended(&error))?;
    Ok((FrameWriter::new(send), FrameReader::new(recv)))
}

/// Closes a connection with a code and words for the other end.
pub fn close(connection: &Connection, code: CloseCode, why: &str) {
    // A reason travels in one datagram: 200 bytes leave room in the smallest.
    let end = why.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= 200).last().unwrap_or(0);
    connection.close(VarInt::from_u32(code.number()), &why.as_bytes()[..end]);
}

/// What TLS agreed on.
pub fn agreed(connection: &Connection) -> Result<Agreed, Unknown> {
    let data =
        connection.handshake_data().and_then(|data| data.downcast::<quinn::crypto::rustls::HandshakeData>().ok());
    match data.and_then(|data| data.protocol).as_deref() {
        Some(ENROL_ALPN) => Ok(Agreed::Enrolment),
        Some(alpn) => Version::from_alpn(alpn).map(Agreed::Session),
        None => Err(Unknown("none".into())),
    }
}

/// Who the peer is, from its verified certificate; `None` when it showed none.
pub fn peer(connection: &Connection) -> Result<Option<PeerIdentity>, IdentityError> {
    let chain = connection.peer_identity().and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
    match chain.as_deref().and_then(|chain| chain.first()) {
        Some(certificate) => PeerIdentity::from_certificate(certificate).map(Some),
        None => Ok(None),
    }
}

/// Why a connection ended, in our words.
pub fn ended(error: &ConnectionError) -> Ended {
    match error {
        ConnectionError::ApplicationClosed(close) => Ended::Closed {
            code: CloseCode::from_number(close.error_code.into_inner()),
            why: String::from_utf8_lossy(&close.reason).into_owned(),
        },
        ConnectionError::TransportError(error) => tls_failure("this end", u64::from(error.code), &error.reason),
        ConnectionError::ConnectionClosed(close) => {
            tls_failure("the peer", u64::from(close.error_code), &String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::VersionMismatch => Ended::NoCommonVersion,
        ConnectionError::TimedOut => Ended::TimedOut,
        ConnectionError::Reset => Ended::Reset,
        ConnectionError::LocallyClosed => Ended::Here,
        ConnectionError::CidsExhausted => Ended::Transport(error.to_string()),
    }
}

/// QUIC codes 0x100 to 0x1ff carry a TLS alert in their low byte (RFC 9001, section 4.8; alerts: RFC 8446, section 6).
fn tls_failure(by: &'static str, code: u64, reason: &str) -> Ended {
    let why = match code {
        0x178 => return Ended::NoCommonVersion,
        0x12a => "it is not valid",
        0x12b => "its kind is not supported",
        0x12c => "it was revoked",
        0x12d => "it has expired by the clock of the end that refused it; compare the clocks of both machines",
        0x12e => "it could not be judged",
        0x130 => "it was signed by an authority that is not trusted",
        0x133 => "its signature is wrong",
        0x174 => "there is none",
        _ => return Ended::Transport(format!("code {code:#x} {reason}")),
    };
    Ended::Certificate { by, why: why.into() }
}

impl Purpose {
    fn byte(self) -> u8 {
        match self {
            Purpose::Control => b'c',
            Purpose::Data => b'd',
        }
    }

    fn from_byte(byte: u8) -> Option<Purpose> {
        [Purpose::Control, Purpose::Data].into_iter().find(|purpose| purpose.byte() == byte)
    }
}

impl CloseCode {
    /// The number on the wire.
    pub fn number(self) -> u32 {
        match self {
            CloseCode::Done => 0,
            CloseCode::Stopping => 1,
            CloseCode::Protocol => 2,
            CloseCode::Revoked => 3,
            CloseCode::Cloned => 4,
            CloseCode::Replaced => 5,
            CloseCode::Other(number) => number,
        }
    }

    fn from_number(number: u64) -> CloseCode {
        let known = [Self::Done, Self::Stopping, Self::Protocol, Self::Revoked, Self::Cloned, Self::Replaced];
        let other = CloseCode::Other(u32::try_from(number).unwrap_or(u32::MAX));
        known.into_iter().find(|code| u64::from(code.number()) == number).unwrap_or(other)
    }
}
