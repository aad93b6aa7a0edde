//! Messages to bytes and back. A frame is a `u32` length (little endian) and that many bytes of postcard.
//!
//! A length over [`MAX_FRAME`] is refused before a byte of it is stored, so a peer can make the receiver hold
//! at most one frame per stream.

use crate::message::{
    DataReply, DataRequest, EnrolReply, EnrolRequest, Fetch, FromEdge, FromGateway, MAX_ABSENT, MAX_FETCH, MAX_FETCHED,
    MAX_FRAME, MAX_MARKS, MAX_MINUTES, MAX_NAME, MAX_SLOTS, MAX_SPAN, MAX_TEST,
};
use crate::policy::MAX_DOCUMENT;
use crate::release::{Appliance, MAX_MANIFEST, MAX_PART, MAX_PARTS, MAX_VERSION, MAX_WHY, Stage};
use crate::telemetry::MAX_REPORT;
use serde::{Serialize, de::DeserializeOwned};

/// Bytes before each message that give its length.
pub const HEADER: usize = 4;
/// Entries of a list of addresses, certificates or generations at most: 64 generations are what [`FromGateway::Held`] may name.
pub const MAX_LIST: usize = 64;
/// Characters of a text for people at most.
pub const MAX_TEXT: usize = 4096;

/// A message that may cross the line in a frame.
pub trait Message: Serialize + DeserializeOwned {
    /// What it is called in errors.
    const NAME: &'static str;

    /// The first limit that the message breaks, in words.
    fn excess(&self) -> Option<&'static str>;
}

/// Why a message could not become a frame.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EncodeError {
    /// It is longer than [`MAX_FRAME`].
    #[error("a {name} of {len} bytes does not fit a frame of {MAX_FRAME} bytes")]
    TooLong {
        /// [`Message::NAME`].
        name: &'static str,
        /// Its length in bytes.
        len: usize,
    },
    /// It breaks a limit of its own.
    #[error("a {name} breaks a limit of the protocol: {what}")]
    Limit {
        /// [`Message::NAME`].
        name: &'static str,
        /// Which.
        what: &'static str,
    },
}

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The length in the header is over the limit.
    #[error("the peer announced a frame of {0} bytes; at most {MAX_FRAME} are allowed")]
    TooLong(u32),
    /// The bytes do not parse as a message of this kind.
    #[error("the peer sent bytes that are no {0}; it may speak a newer version of the protocol")]
    NotA(&'static str),
    /// The message parsed but breaks a limit.
    #[error("the peer sent a {name} that breaks a limit of the protocol: {what}")]
    Limit {
        /// [`Message::NAME`].
        name: &'static str,
        /// Which.
        what: &'static str,
    },
    /// The stream ended inside a frame.
    #[error("the stream ended {missing} bytes before the end of a frame")]
    Truncated {
        /// How many bytes are missing at least.
        missing: usize,
    },
}

/// The frame of a message.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, EncodeError> {
    if let Some(what) = message.excess() {
        return Err(EncodeError::Limit { name: M::NAME, what });
    }
    let mut frame = postcard::to_extend(message, vec![0; HEADER]).expect("memory takes any message");
    let len = frame.len() - HEADER;
    match u32::try_from(len) {
        Ok(header) if len <= MAX_FRAME => {
            frame[..HEADER].copy_from_slice(&header.to_le_bytes());
            Ok(frame)
        }
        _ => Err(EncodeError::TooLong { name: M::NAME, len }),
    }
}

/// A message from the body of its frame. Bytes left over are refused like missing ones.
pub fn decode<M: Message>(body: &[u8]) -> Result<M, DecodeError> {
    let (message, rest) = postcard::take_from_bytes::<M>(body).map_err(|_| DecodeError::NotA(M::NAME))?;
    if !rest.is_empty() {
        return Err(DecodeError::NotA(M::NAME));
    }
    match message.excess() {
        Some(what) => Err(DecodeError::Limit { name: M::NAME, what }),
        None => Ok(message),
    }
}

/// Cuts a stream of bytes into frames. Holds at most one frame and what came in the same piece behind it.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Start of the bytes that were not given out yet.
    at: usize,
}

impl Decoder {
    /// Takes the next bytes of the stream. Refuses a frame that is announced too long, before storing any of it.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        if self.at > 0 {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        self.buffer.extend_from_slice(bytes);
        match self.announced() {
            Some(len) if len as usize > MAX_FRAME => {
                self.buffer = Vec::new();
                Err(DecodeError::TooLong(len))
            }
            _ => Ok(()),
        }
    }

    /// The next whole message, or `None` until more bytes have come.
    pub fn take<M: Message>(&mut self) -> Result<Option<M>, DecodeError> {
        let Some(len) = self.announced() else { return Ok(None) };
        if len as usize > MAX_FRAME {
            return Err(DecodeError::TooLong(len));
        }
        let (start, end) = (self.at + HEADER, self.at + HEADER + len as usize);
        let Some(body) = self.buffer.get(start..end) else { return Ok(None) };
        let message = decode(body)?;
        self.at = end;
        Ok(Some(message))
    }

    /// Takes out what came behind the last message: the first raw bytes of a parcel.
    pub fn take_rest(&mut self) -> Vec<u8> {
        let rest = self.buffer.split_off(self.at);
        *self = Self::default();
        rest
    }

    /// The stream has ended: fine between two frames, an error inside of one.
    pub fn finish(&self) -> Result<(), DecodeError> {
        let have = self.buffer.len() - self.at;
        let want = self.announced().map_or(HEADER, |len| HEADER + len as usize);
        match have {
            0 => Ok(()),
            _ => Err(DecodeError::Truncated { missing: want.saturating_sub(have) }),
        }
    }

    fn announced(&self) -> Option<u32> {
        let header = self.buffer.get(self.at..self.at + HEADER)?;
        Some(u32::from_le_bytes(header.try_into().expect("a header is four bytes")))
    }
}

fn long_text(text: &str) -> bool {
    text.len() > MAX_TEXT
}

fn long_list<T>(list: &[T]) -> bool {
    list.len() > MAX_LIST
}

fn addresses_excess(addresses: &[String]) -> Option<&'static str> {
    (long_list(addresses) || addresses.iter().any(|a| long_text(a))).then_some("too many addresses, or one too long")
}

impl Message for FromEdge {
    const NAME: &'static str = "message of an edge";

    fn excess(&self) -> Option<&'static str> {
        match self {
            FromEdge::Hello(hello) if long_text(&hello.software) => Some("software version too long"),
            FromEdge::Volume(volume) if volume.name.chars().count() > MAX_NAME => {
                Some("volume name over 100 characters")
            }
            FromEdge::Volume(volume) if volume.name.is_empty() => Some("empty volume name"),
            FromEdge::Ask(ask) if ask.marks.len() > MAX_MARKS => Some("more than 16,384 marks in a question"),
            FromEdge::Status(status) if long_text(&status.doing) => Some("status text too long"),
            FromEdge::PolicyHeld { refused: Some(why), .. } if long_text(why) => Some("refusal too long"),
            FromEdge::Evidence(minutes) if minutes.len() > MAX_MINUTES => Some("more than a day of evidence"),
            FromEdge::Telemetry(report) if report.size() > MAX_REPORT => Some("telemetry over 300 bytes"),
            FromEdge::Appliance(appliance) => appliance_excess(appliance),
            FromEdge::Seeding(seeding) => seeding.excess(),
            _ => None,
        }
    }
}

fn appliance_excess(appliance: &Appliance) -> Option<&'static str> {
    let versions = appliance.previous.iter().chain([&appliance.version]);
    if versions.into_iter().any(|version| version.len() > MAX_VERSION) {
        return Some("a version over 64 characters");
    }
    let failed = match &appliance.stage {
        Stage::Failed { why, .. } => Some(why),
        _ => None,
    };
    let whys = failed.into_iter().chain(appliance.last.iter().map(|trial| &trial.why));
    whys.into_iter().any(|why| why.chars().count() > MAX_WHY).then_some("a reason over 300 characters")
}

impl Message for FromGateway {
    const NAME: &'static str = "message of a gateway";

    fn excess(&self) -> Option<&'static str> {
        match self {
            FromGateway::Welcome(welcome) => addresses_excess(&welcome.addresses),
            FromGateway::Addresses(addresses) => addresses_excess(addresses),
            FromGateway::Held { sealed, .. } if long_list(sealed) => Some("more than 64 generations"),
            FromGateway::Holding { sealed, promised, .. } if long_list(sealed) || long_list(promised) => {
                Some("more than 64 generations")
            }
            FromGateway::Seeds(known) if long_list(&known.seeds) => Some("more than 64 seeds"),
            FromGateway::Certificate { authorities, .. } if long_list(authorities) => Some("more than 64 authorities"),
            FromGateway::Answer(answer) if answer.found.len() > MAX_MARKS => Some("more answers than marks"),
            FromGateway::Policy(policy) if policy.document.len() > MAX_DOCUMENT => Some("policy over 64 KiB"),
            FromGateway::Policy(policy) if policy.signature.len() > 64 => Some("signature over 64 bytes"),
            FromGateway::Listed { generations, .. } if long_list(generations) => Some("more than 64 generations"),
            FromGateway::Release(Some(order)) if order.manifest.len() > MAX_MANIFEST => Some("manifest over 16 KiB"),
            _ => None,
        }
    }
}

impl Message for DataRequest {
    const NAME: &'static str = "data request";

    fn excess(&self) -> Option<&'static str> {
        match self {
            DataRequest::Test { len } if *len > MAX_TEST => Some("more than 16 MiB of padding"),
            DataRequest::Fetch(fetch) => fetch_excess(fetch),
            DataRequest::Part(wanted) if wanted.part >= MAX_PARTS => Some("a part behind all parts"),
            _ => None,
        }
    }
}

fn fetch_excess(fetch: &Fetch) -> Option<&'static str> {
    let wanted = &fetch.wanted;
    let span = wanted.end.0.checked_sub(wanted.start.0);
    if span.is_none_or(|span| span == 0 || span > MAX_SPAN) {
        return Some("a fetch of no blocks, or of more than 16 GiB");
    }
    if wanted.most == 0 || wanted.most > MAX_FETCH {
        return Some("a fetch of no new blocks, or of more than 8 MiB");
    }
    if wanted.absent.len() > MAX_ABSENT || long_list(&wanted.held) {
        return Some("too many absent runs or held generations in a fetch");
    }
    (fetch.actor.chars().count() > MAX_NAME).then_some("a name over 100 characters")
}

impl Message for DataReply {
    const NAME: &'static str = "data reply";

    fn excess(&self) -> Option<&'static str> {
        match self {
            DataReply::Tested { arrived } if arrived.len() > MAX_SLOTS => Some("more than 20 s of slots"),
            DataReply::Fetched { len, .. } if *len > MAX_FETCHED => Some("a fetched parcel over 9 MiB"),
            DataReply::Fetched { len, offset, .. } if offset > len => {
                Some("a fetched parcel that begins behind its end")
            }
            DataReply::Part(part) if part.len > MAX_PART || part.parts == 0 || part.parts > MAX_PARTS => {
                Some("a part, or a number of parts, that no release has")
            }
            DataReply::Part(part) if part.offset > part.len || part.len > part.total => {
                Some("a part that begins behind its end, or is longer than all")
            }
            _ => None,
        }
    }
}

impl Message for EnrolRequest {
    const NAME: &'static str = "request for enrolment";

    fn excess(&self) -> Option<&'static str> {
        (self.request.len() > MAX_TEXT).then_some("certificate request over 4096 bytes")
    }
}

impl Message for EnrolReply {
    const NAME: &'static str = "answer to an enrolment";

    fn excess(&self) -> Option<&'static str> {
        match self {
            EnrolReply::Enrolled { authorities, .. } if long_list(authorities) => Some("more than 64 authorities"),
            EnrolReply::Enrolled { addresses, .. } => addresses_excess(addresses),
            EnrolReply::Refused { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Ask, EdgeStatus, VolumeOffer};
    use crate::seeding::{MAX_NOTE, SeedState, Seeding};
    use dedupe::{ByteCount, GenerationId, Kind, LineageId, Mark, Root, RootScheme, SeedId, UnixMillis};

    fn status(doing: &str) -> FromEdge {
        FromEdge::Status(EdgeStatus { doing: doing.into(), ..EdgeStatus::default() })
    }

    #[test]
    fn frames_survive_any_cut_of_the_stream() {
        let messages = [status("a"), status(&"b".repeat(300)), status("")];
        let stream: Vec<u8> = messages.iter().flat_map(|m| encode(m).unwrap()).collect();
        for step in 1..stream.len() {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for piece in stream.chunks(step) {
                decoder.push(piece).unwrap();
                while let Some(message) = decoder.take::<FromEdge>().unwrap() {
                    seen.push(message);
                }
            }
            assert_eq!(seen, messages, "in steps of {step}");
            assert_eq!(decoder.finish(), Ok(()));
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_by_its_header() {
        let mut decoder = Decoder::default();
        let refused = decoder.push(&(MAX_FRAME as u32 + 1).to_le_bytes());
        assert_eq!(refused, Err(DecodeError::TooLong(MAX_FRAME as u32 + 1)));
        assert_eq!(decoder.buffer.capacity(), 0, "nothing of it is kept");
    }

    #[test]
    fn a_long_frame_behind_a_good_one_is_refused_too() {
        let mut stream = encode(&status("good")).unwrap();
        stream.extend_from_slice(&u32::MAX.to_le_bytes());
        let mut decoder = Decoder::default();
        decoder.push(&stream).unwrap();
        assert_eq!(decoder.take::<FromEdge>(), Ok(Some(status("good"))));
        assert_eq!(decoder.take::<FromEdge>(), Err(DecodeError::TooLong(u32::MAX)));
    }

    #[test]
    fn a_stream_that_ends_inside_a_frame_says_so() {
        let frame = encode(&status("cut")).unwrap();
        for len in 1..frame.len() {
            let mut decoder = Decoder::default();
            decoder.push(&frame[..len]).unwrap();
            assert_eq!(decoder.take::<FromEdge>(), Ok(None));
            assert!(matches!(decoder.finish(), Err(DecodeError::Truncated { missing: 1.. })), "at {len}");
        }
    }

    #[test]
    fn bytes_behind_the_last_message_are_given_back() {
        let mut stream = encode(&status("then")).unwrap();
        stream.extend_from_slice(b"raw bytes of a parcel");
        let mut decoder = Decoder::default();
        decoder.push(&stream).unwrap();
        decoder.take::<FromEdge>().unwrap();
        assert_eq!(decoder.take_rest(), b"raw bytes of a parcel");
        assert_eq!(decoder.finish(), Ok(()));
    }

    #[test]
    fn limits_hold_on_both_ways() {
        let volume = |name: &str| {
            FromEdge::Volume(VolumeOffer { lineage: LineageId([1; 16]), kind: Kind::Volume, name: name.into() })
        };
        let ask = |count| FromEdge::Ask(Ask { id: 1, marks: vec![Mark([7; 6]); count] });
        assert!(encode(&volume(&"é".repeat(MAX_NAME))).is_ok());
        assert!(encode(&ask(MAX_MARKS)).is_ok());
        let seeding = |volume: &str, note: usize| {
            FromEdge::Seeding(Seeding {
                seed: SeedId([1; 16]),
                lineage: LineageId([1; 16]),
                volume: volume.into(),
                generation: GenerationId([2; 16]),
                root: Root { scheme: RootScheme::Blake3, hash: [3; 32] },
                size: ByteCount(512),
                captured_at: UnixMillis(1),
                state: SeedState::Exported,
                at: UnixMillis(1),
                way: None,
                note: "é".repeat(note),
            })
        };
        assert!(encode(&seeding(&"é".repeat(MAX_NAME), MAX_NOTE)).is_ok());
        let seeds = [seeding("", 0), seeding(&"é".repeat(MAX_NAME + 1), 0), seeding("v", MAX_NOTE + 1)];
        let others = [volume(&"é".repeat(MAX_NAME + 1)), volume(""), ask(MAX_MARKS + 1)];
        for broken in others.into_iter().chain(seeds) {
            assert!(matches!(encode(&broken), Err(EncodeError::Limit { .. })));
            let body = postcard::to_extend(&broken, Vec::new()).unwrap();
            assert!(matches!(decode::<FromEdge>(&body), Err(DecodeError::Limit { .. })));
        }
    }

    #[test]
    fn bytes_left_over_and_unknown_variants_are_refused() {
        let frame = encode(&status("x")).unwrap();
        let mut longer = frame[HEADER..].to_vec();
        longer.push(0);
        assert_eq!(decode::<FromEdge>(&longer), Err(DecodeError::NotA("message of an edge")));
        assert_eq!(decode::<FromEdge>(&[99]), Err(DecodeError::NotA("message of an edge")));
        assert_eq!(decode::<FromEdge>(&[]), Err(DecodeError::NotA("message of an edge")));
    }
}
