//! One entry per decoder, for whoever throws garbage at it. None may panic, hang or allocate beyond its input and the limits of
//! [`crate::frame`]; what decodes must encode to bytes that decode to the same again.

use crate::frame::{self, Decoder, Message};
use crate::identity::PeerIdentity;
use crate::message::{DataReply, DataRequest, EnrolReply, EnrolRequest, FromEdge, FromGateway};
use crate::statement::Statement;
use crate::telemetry::{Hearer, MAX_REPORT, Teller};
use crate::token::Token;
use std::fmt::Debug;

/// A stream of frames, cut at places that its first byte chooses.
pub fn frames(input: &[u8]) {
    let step = usize::from(input.first().copied().unwrap_or(0)) + 1;
    let mut decoder = Decoder::default();
    for piece in input.chunks(step) {
        if decoder.push(piece).is_err() {
            return;
        }
        while let Some(message) = decoder.take::<FromEdge>().unwrap_or(None) {
            again(&message);
        }
    }
    let _ended_well = decoder.finish();
}

/// The body of each kind of message.
pub fn messages(input: &[u8]) {
    body::<FromEdge>(input);
    body::<FromGateway>(input);
    body::<DataRequest>(input);
    body::<DataReply>(input);
    body::<EnrolRequest>(input);
    body::<EnrolReply>(input);
}

/// Telemetry: a row of reports, each behind its length (one byte), as one session hears them.
pub fn telemetry(input: &[u8]) {
    let (mut hearer, mut rest) = (Hearer::default(), input);
    while let Some((len, behind)) = rest.split_first() {
        let (body, next) = behind.split_at(usize::from(*len).min(behind.len()));
        rest = next;
        let Ok(report) = frame::decode::<FromEdge>(body) else { continue };
        if let FromEdge::Telemetry(report) = &report
            && hearer.hear(report).is_err()
        {
            return;
        }
        // What was heard can be told again.
        let (volumes, mut teller, mut again) =
            (hearer.volumes().collect::<Vec<_>>(), Teller::default(), Hearer::default());
        let told = teller.tell(&hearer.site(), &volumes);
        assert!(told.size() <= MAX_REPORT && again.hear(&told).is_ok(), "{told:?}");
    }
}

/// A token as text.
pub fn token(input: &[u8]) {
    if let Ok(token) = String::from_utf8_lossy(input).parse::<Token>() {
        assert!(token.reveal().parse::<Token>().is_ok(), "a token that was read prints as one");
    }
}

/// A statement's file.
pub fn statement(input: &[u8]) {
    if let Ok(statement) = Statement::read(&String::from_utf8_lossy(input)) {
        assert_eq!(Statement::read(&statement.to_json()), Ok(statement), "a statement that was read prints as itself");
    }
}

/// A peer's certificate.
pub fn certificate(input: &[u8]) {
    let _refused = PeerIdentity::from_certificate(input);
}

fn body<M: Message + PartialEq + Debug>(input: &[u8]) {
    if let Ok(message) = frame::decode::<M>(input) {
        again(&message);
    }
}

fn again<M: Message + PartialEq + Debug>(message: &M) {
    // Numbers may be written longer than needed, so a message that fitted can only get shorter.
    let frame = frame::encode(message).expect("what was decoded is within its limits");
    assert_eq!(frame::decode::<M>(&frame[frame::HEADER..]).as_ref(), Ok(message));
}
