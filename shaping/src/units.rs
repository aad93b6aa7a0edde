//! Rates as people write them and as the bucket uses them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A speed of the line in bits per second at IP level, between [`BitsPerSec::LEAST`] and [`BitsPerSec::MOST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BitsPerSec(u64);

/// What the line may be used for now. Ordered by what it lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Rate {
    /// Data sends nothing at all; control keeps its small reserve. Written `0`.
    Closed,
    /// At most this much, data and control together. Written `1.6 Mbit/s`.
    Limited(BitsPerSec),
    /// No limit of ours; ordinary congestion control decides. Written `unlimited`.
    Unlimited,
}

/// Why a text is not a rate. Every variant names the text and shows a right one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseRateError {
    /// The part before the unit is not a decimal number.
    #[error(
        "\"{0}\" is not a rate: it must begin with a number, as in \"1.6 Mbit/s\", \"256 kbit/s\", \"0\" or \"unlimited\""
    )]
    Number(String),
    /// There is no unit, or none that is known.
    #[error("\"{0}\" is not a rate: the unit must be bit/s, kbit/s, Mbit/s or Gbit/s, as in \"1.6 Mbit/s\"")]
    Unit(String),
    /// Slower than a session can live with.
    #[error("\"{0}\" is slower than {least}, the least rate that keeps a session alive: write \"0\" to close the line for data", least = BitsPerSec::LEAST)]
    TooSlow(String),
    /// Faster than anything this is meant for; most likely a slip of the unit.
    #[error("\"{0}\" is faster than {most}: write \"unlimited\" if no limit is meant", most = BitsPerSec::MOST)]
    TooFast(String),
}

/// Largest first, so that the first unit that divides well is the shortest text.
const UNITS: [(&str, u64); 4] = [("Gbit/s", 1_000_000_000), ("Mbit/s", 1_000_000), ("kbit/s", 1_000), ("bit/s", 1)];

impl BitsPerSec {
    /// One full datagram in 1.5 s: below this, QUIC's handshake and probe timers give up before a packet has left.
    pub const LEAST: BitsPerSec = BitsPerSec(8_000);
    /// Ten times the fastest network card in common use.
    pub const MOST: BitsPerSec = BitsPerSec(1_000_000_000_000);

    /// The rate of `bits` per second, moved to the nearest bound when it is outside of them.
    pub const fn new(bits: u64) -> Self {
        if bits < Self::LEAST.0 {
            Self::LEAST
        } else if bits > Self::MOST.0 {
            Self::MOST
        } else {
            BitsPerSec(bits)
        }
    }

    /// The rate of `kbit` thousand bits per second, within the bounds.
    pub const fn kbit(kbit: u64) -> Self {
        Self::new(kbit.saturating_mul(1_000))
    }

    /// Bits per second.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whole bytes per second.
    pub const fn bytes(self) -> u64 {
        self.0 / 8
    }

    /// `share` (0 to 1) of this rate, but never below the least.
    pub fn scaled(self, share: f64) -> Self {
        Self::new((self.0 as f64 * share.clamp(0.0, 1.0)) as u64)
    }
}

impl Rate {
    /// The limit, where there is one.
    pub fn limit(self) -> Option<BitsPerSec> {
        match self {
            Rate::Limited(limit) => Some(limit),
            Rate::Closed | Rate::Unlimited => None,
        }
    }

    /// Whether data may leave at all.
    pub fn is_open(self) -> bool {
        self != Rate::Closed
    }
}

impl From<BitsPerSec> for Rate {
    fn from(limit: BitsPerSec) -> Self {
        Rate::Limited(limit)
    }
}

impl fmt::Display for BitsPerSec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The largest unit that needs at most three decimals and a whole part: exact, and parsed back to the same value.
        let (name, unit) = UNITS
            .into_iter()
            .find(|(_, unit)| self.0 >= *unit && (*unit < 1_000 || self.0.is_multiple_of(unit / 1_000)))
            .unwrap_or(("bit/s", 1));
        let decimals = format!("{:03}", (self.0 % unit) * 1_000 / unit);
        match decimals.trim_end_matches('0') {
            "" => write!(f, "{} {name}", self.0 / unit),
            decimals => write!(f, "{}.{decimals} {name}", self.0 / unit),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rate::Closed => f.write_str("0"),
            Rate::Limited(limit) => limit.fmt(f),
            Rate::Unlimited => f.write_str("unlimited"),
        }
    }
}

impl FromStr for BitsPerSec {
    type Err = ParseRateError;

    fn from_str(text: &str) -> Result<Self, ParseRateError> {
        let trimmed = text.trim();
        let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = (&trimmed[..end], trimmed[end..].trim());
        let number: f64 = number.parse().map_err(|_| ParseRateError::Number(text.to_owned()))?;
        let (_, factor) =
            UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| ParseRateError::Unit(text.to_owned()))?;
        let bits = (number * *factor as f64).round();
        if bits > Self::MOST.0 as f64 {
            return Err(ParseRateError::TooFast(text.to_owned()));
        }
        if bits < Self::LEAST.0 as f64 {
            return Err(ParseRateError::TooSlow(text.to_owned()));
        }
        Ok(BitsPerSec(bits as u64))
    }
}

impl FromStr for Rate {
    type Err = ParseRateError;

    fn from_str(text: &str) -> Result<Self, ParseRateError> {
        match text.trim() {
            "0" => Ok(Rate::Closed),
            "unlimited" => Ok(Rate::Unlimited),
            limit => limit.parse().map(Rate::Limited).map_err(|e| e.naming(text)),
        }
    }
}

impl ParseRateError {
    /// The same error about the text as it was given, before it was trimmed.
    fn naming(self, text: &str) -> Self {
        let text = text.to_owned();
        match self {
            ParseRateError::Number(_) => ParseRateError::Number(text),
            ParseRateError::Unit(_) => ParseRateError::Unit(text),
            ParseRateError::TooSlow(_) => ParseRateError::TooSlow(text),
            ParseRateError::TooFast(_) => ParseRateError::TooFast(text),
        }
    }
}

impl TryFrom<String> for BitsPerSec {
    type Error = ParseRateError;
    fn try_from(text: String) -> Result<Self, ParseRateError> {
        text.parse()
    }
}

impl From<BitsPerSec> for String {
    fn from(rate: BitsPerSec) -> String {
        rate.to_string()
    }
}

impl TryFrom<String> for Rate {
    type Error = ParseRateError;
    fn try_from(text: String) -> Result<Self, ParseRateError> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> String {
        rate.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    #[test]
    fn rates_are_written_as_people_write_them() {
        assert_eq!(rate("1.6 Mbit/s"), Rate::Limited(BitsPerSec(1_600_000)));
        assert_eq!(rate("256kbit/s"), Rate::Limited(BitsPerSec(256_000)));
        assert_eq!(rate(" 1 Gbit/s "), Rate::Limited(BitsPerSec(1_000_000_000)));
        assert_eq!(rate("9600 bit/s"), Rate::Limited(BitsPerSec(9_600)));
        assert_eq!(rate("0"), Rate::Closed);
        assert_eq!(rate("unlimited"), Rate::Unlimited);
    }

    #[test]
    fn texts_are_short_and_exact() {
        for text in ["1.6 Mbit/s", "256 kbit/s", "9.6 kbit/s", "1234567 bit/s", "1.234 Gbit/s", "0", "unlimited"] {
            let shown = rate(text).to_string();
            assert_eq!(rate(&shown), rate(text));
            if text != "1234567 bit/s" {
                assert_eq!(shown, text);
            }
        }
        assert_eq!(rate("1234567 bit/s").to_string(), "1234.567 kbit/s");
    }

    #[test]
    fn a_wrong_rate_is_named_and_a_right_one_shown() {
        let said = |text: &str| text.parse::<Rate>().unwrap_err().to_string();
        insta_like(&said("fast"), &["\"fast\"", "1.6 Mbit/s"]);
        insta_like(&said("1.6"), &["\"1.6\"", "Mbit/s"]);
        insta_like(&said("2 MB/s"), &["\"2 MB/s\"", "Mbit/s"]);
        insta_like(&said("1.6 mbps"), &["\"1.6 mbps\"", "Mbit/s"]);
        insta_like(&said("-1 Mbit/s"), &["\"-1 Mbit/s\"", "number"]);
        insta_like(&said("1.2.3 Mbit/s"), &["\"1.2.3 Mbit/s\"", "number"]);
        insta_like(&said("100 bit/s"), &["\"100 bit/s\"", "8 kbit/s", "\"0\""]);
        insta_like(&said("9000 Gbit/s"), &["\"9000 Gbit/s\"", "unlimited"]);
        insta_like(&said(""), &["\"\"", "number"]);
    }

    fn insta_like(said: &str, parts: &[&str]) {
        for part in parts {
            assert!(said.contains(part), "{said} should name {part}");
        }
    }

    proptest! {
        #[test]
        fn every_rate_survives_its_text(bits in BitsPerSec::LEAST.0..=BitsPerSec::MOST.0) {
            let rate = Rate::Limited(BitsPerSec(bits));
            prop_assert_eq!(rate.to_string().parse::<Rate>().unwrap(), rate);
        }

        #[test]
        fn no_text_panics(text in ".{0,24}") {
            let _ = text.parse::<Rate>();
        }
    }
}
