//! The small languages of the command line: 2mbit, 40ms, 0.5%:4, 30s+5s, x/y.

use anyhow::{Context, Error, Result, bail, ensure};
use std::str::FromStr;
use std::time::Duration;

/// Bits per second on the line; 0 is unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rate(pub f64);

/// A length of time, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub u64);

/// Packets that the line loses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loss {
    /// The share of all packets, 0 to 1.
    pub share: f64,
    /// How many are lost in a row, in the mean; 1 is random loss.
    pub burst: f64,
}

/// A value for A>B and one for B>A: `x` for both or `x/y`.
#[derive(Debug, Clone)]
pub struct Pair<T>(pub T, pub T);

/// Something at or from a time (nanoseconds from the start): `60s=1mbit`, `30s+5s`.
#[derive(Debug, Clone, Copy)]
pub struct At<T>(pub u64, pub T);

impl Default for Loss {
    fn default() -> Self {
        Loss { share: 0.0, burst: 1.0 }
    }
}

impl Rate {
    /// So many million bits per second.
    pub fn mbit(mbit: f64) -> Rate {
        Rate(mbit * 1e6)
    }
}

impl From<Duration> for Span {
    fn from(time: Duration) -> Span {
        Span(time.as_nanos() as u64)
    }
}

impl<T> Pair<T> {
    /// The value for A>B (`forth`) or B>A.
    pub fn of(&self, forth: bool) -> &T {
        if forth { &self.0 } else { &self.1 }
    }
}

impl<T: FromStr<Err = Error>> FromStr for Pair<T> {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let (forth, back) = text.split_once('/').unwrap_or((text, text));
        Ok(Pair(forth.parse()?, back.parse()?))
    }
}

impl<T: FromStr<Err = Error>> FromStr for At<T> {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let (time, what) = text.split_once(['=', '+']).with_context(|| {
            format!("\"{text}\" needs a time and what happens then, as in \"60s=1mbit\" or \"30s+5s\"")
        })?;
        Ok(At(time.parse::<Span>()?.0, what.parse()?))
    }
}

fn with_unit(text: &str, units: &[(&str, f64)]) -> Result<f64> {
    let at = text.find(|c: char| c.is_alphabetic() || c == '%').unwrap_or(text.len());
    let names = || units.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let number: f64 =
        text[..at].parse().with_context(|| format!("\"{text}\" must be a number with one of the units {}", names()))?;
    ensure!(number.is_finite() && number >= 0.0, "\"{text}\" is negative or not finite");
    match units.iter().find(|(name, _)| *name == &text[at..]) {
        Some((_, factor)) => Ok(number * factor),
        None if number == 0.0 && at == text.len() => Ok(0.0),
        None => bail!("\"{text}\" needs one of the units {}", names()),
    }
}

impl FromStr for Rate {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        with_unit(text, &[("bit", 1.0), ("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9)]).map(Rate)
    }
}

impl FromStr for Span {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        with_unit(text, &[("us", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9)]).map(|ns| Span(ns as u64))
    }
}

impl FromStr for Loss {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let (share, burst) = text.split_once(':').unwrap_or((text, "1"));
        let share = with_unit(share, &[("%", 0.01)])?;
        let burst: f64 = burst.parse().with_context(|| format!("\"{text}\": the mean run must be a number"))?;
        ensure!(share <= 1.0 && burst >= 1.0, "\"{text}\": a share of 0% to 100% and runs of 1 or more are possible");
        Ok(Loss { share, burst })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_languages_are_read() -> Result<()> {
        assert_eq!("512kbit".parse::<Rate>()?, Rate(512e3));
        assert_eq!("1.5m".parse::<Span>()?, Span(90_000_000_000));
        assert_eq!("0".parse::<Span>()?, Span(0));
        assert_eq!("0.5%:4".parse::<Loss>()?, Loss { share: 0.005, burst: 4.0 });
        let pair: Pair<Rate> = "1mbit/6mbit".parse()?;
        assert_eq!((pair.of(true).0, pair.of(false).0), (1e6, 6e6));
        let At(time, span): At<Span> = "30s+5s".parse()?;
        assert_eq!((time, span), (30_000_000_000, Span(5_000_000_000)));
        Ok(())
    }

    #[test]
    fn what_is_wrong_is_named() {
        for wrong in ["5", "x", "-1mbit", "1furlong", ""] {
            let said = wrong.parse::<Rate>().expect_err(wrong).to_string();
            assert!(said.contains(&format!("\"{wrong}\"")), "{said}");
        }
        assert!("200%".parse::<Loss>().is_err());
        assert!("30s".parse::<At<Span>>().is_err());
    }
}
