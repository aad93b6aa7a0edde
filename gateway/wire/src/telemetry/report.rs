//! How figures travel: only what changed since they were told last in the session, as steps from the value before.
//!
//! The control stream loses nothing and keeps the order, so both ends know what was told: a session's first report has everything, the later ones
//! what moved. [`Teller`] is the edge's end, [`Hearer`] the gateway's; neither has a clock or a socket.

use super::{SiteFigures, VolumeFigures, VolumeState};
use crate::session::MAX_VOLUMES;
use dedupe::LineageId;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

/// Bytes of one report at most. With a status of today's length it shares a packet (1200 bytes), and a line of 16 kbit/s carries it in 0.15 s.
pub const MAX_REPORT: usize = 300;
/// Quotas that are told of; a policy has one for a day, a week, a month and in all.
pub const MAX_QUOTAS: usize = 8;
/// Words about volumes in one report: the shortest takes three bytes.
const MAX_WORDS: usize = MAX_REPORT / 3;
/// Numbers of [`SiteFigures`] before its quotas. Those that move all the time come first: their places are in the first bytes of a mask.
const SITE: usize = 24;
/// Numbers of a site in all.
const SITE_ALL: usize = SITE + 2 * MAX_QUOTAS;
/// Numbers of [`VolumeFigures`].
const VOLUME: usize = 11;

/// One report: what changed since the one before in this session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Of the site.
    pub site: Changes,
    /// Of its volumes.
    #[serde(deserialize_with = "few::<_, _, MAX_WORDS>")]
    pub volumes: Vec<VolumeWord>,
}

/// Which numbers of a row changed, and by how much.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Bit by bit the places that changed.
    pub mask: u64,
    /// For each of them the new value less the old one, wrapping.
    #[serde(deserialize_with = "few::<_, _, SITE_ALL>")]
    pub steps: Vec<i64>,
}

/// Word of one volume. Variants are only ever added at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeWord {
    /// From now on this number means this lineage; all its figures were 0.
    New {
        /// A number that is free in this session, below [`MAX_VOLUMES`].
        number: u16,
        /// The lineage.
        lineage: LineageId,
        /// Its figures.
        changes: Changes,
    },
    /// Its figures changed.
    Changed {
        /// Which.
        number: u16,
        /// How.
        changes: Changes,
    },
    /// It is replicated no more; its number is free.
    Gone {
        /// Which.
        number: u16,
    },
}

/// A report that does not follow from the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Mask and steps do not belong together.
    #[error("telemetry has {steps} steps for {places} places")]
    Steps {
        /// Bits of the mask.
        places: u32,
        /// Steps.
        steps: usize,
    },
    /// A place that no figure has.
    #[error("telemetry has a figure that this version of the protocol does not know")]
    Place,
    /// A number that was never given, or is taken.
    #[error("telemetry names volume {0}, which it did not introduce, or introduces it twice")]
    Number(u16),
}

impl Report {
    /// Bytes that it takes in its frame, without the frame's header and the message's variant.
    pub fn size(&self) -> usize {
        let words: usize = self.volumes.iter().map(VolumeWord::size).sum();
        self.site.size() + varint(self.volumes.len() as u64) + words
    }
}

impl Changes {
    /// From one row to another, as far as `room` bytes reach.
    fn between(old: &[u64], new: &[u64], room: usize) -> Changes {
        let mut changes = Changes::default();
        for (place, (old, new)) in old.iter().zip(new).enumerate() {
            if old == new {
                continue;
            }
            let (step, mask) = (new.wrapping_sub(*old) as i64, changes.mask | 1 << place);
            changes.steps.push(step);
            let before = std::mem::replace(&mut changes.mask, mask);
            if changes.size() > room {
                changes.steps.pop();
                changes.mask = before;
            }
        }
        changes
    }

    /// Takes them over into `row`.
    fn apply(&self, row: &mut [u64]) -> Result<(), ReportError> {
        if self.mask.count_ones() as usize != self.steps.len() {
            return Err(ReportError::Steps { places: self.mask.count_ones(), steps: self.steps.len() });
        }
        if self.mask.checked_shr(row.len() as u32).is_some_and(|beyond| beyond != 0) {
            return Err(ReportError::Place);
        }
        let places = (0..row.len()).filter(|place| self.mask & 1 << place != 0);
        for (place, step) in places.zip(&self.steps) {
            row[place] = row[place].wrapping_add(*step as u64);
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.mask == 0
    }

    fn size(&self) -> usize {
        let steps: usize = self.steps.iter().map(|step| varint(zigzag(*step))).sum();
        varint(self.mask) + varint(self.steps.len() as u64) + steps
    }
}

impl VolumeWord {
    fn size(&self) -> usize {
        match self {
            VolumeWord::New { number, lineage, changes } => {
                1 + varint((*number).into()) + lineage.0.len() + changes.size()
            }
            VolumeWord::Changed { number, changes } => 1 + varint((*number).into()) + changes.size(),
            VolumeWord::Gone { number } => 1 + varint((*number).into()),
        }
    }
}

/// The edge's end: remembers what was told in this session.
#[derive(Debug)]
pub struct Teller {
    site: [u64; SITE_ALL],
    volumes: BTreeMap<LineageId, (u16, [u64; VOLUME])>,
    /// Whose turn it is, should not all fit: the first of these or behind it.
    turn: LineageId,
}

impl Default for Teller {
    fn default() -> Self {
        Teller { site: [0; SITE_ALL], volumes: BTreeMap::new(), turn: LineageId([0; 16]) }
    }
}

impl Teller {
    /// The next report: at most [`MAX_REPORT`] bytes. What finds no room in it comes with the next ones, each volume in its turn.
    pub fn tell(&mut self, site: &SiteFigures, volumes: &[VolumeFigures]) -> Report {
        // One byte for the count of words.
        let changes = Changes::between(&self.site, &site_row(site), MAX_REPORT - 1);
        changes.apply(&mut self.site).expect("the changes were made from this very row");
        let mut report = Report { site: changes, volumes: Vec::new() };
        self.tell_gone(volumes, &mut report);
        let rows: BTreeMap<LineageId, [u64; VOLUME]> =
            volumes.iter().map(|figures| (figures.lineage, volume_row(figures))).collect();
        let in_turn: Vec<(LineageId, [u64; VOLUME])> =
            rows.range(self.turn..).chain(rows.range(..self.turn)).map(|(lineage, row)| (*lineage, *row)).collect();
        for (lineage, row) in in_turn {
            if !self.tell_volume(lineage, &row, &mut report) {
                self.turn = lineage;
                break;
            }
        }
        report
    }

    fn tell_gone(&mut self, volumes: &[VolumeFigures], report: &mut Report) {
        let here: BTreeSet<LineageId> = volumes.iter().map(|figures| figures.lineage).collect();
        let gone: Vec<(LineageId, u16)> = self
            .volumes
            .iter()
            .filter(|(lineage, _)| !here.contains(lineage))
            .map(|(lineage, (number, _))| (*lineage, *number))
            .collect();
        for (lineage, number) in gone {
            if add(report, VolumeWord::Gone { number }) {
                self.volumes.remove(&lineage);
            }
        }
    }

    /// Whether there was room.
    fn tell_volume(&mut self, lineage: LineageId, row: &[u64; VOLUME], report: &mut Report) -> bool {
        let (number, old) = match self.volumes.get(&lineage) {
            Some((number, old)) => (*number, Some(*old)),
            None => match self.free_number() {
                Some(number) => (number, None),
                None => return true, // more than a session may have: never told
            },
        };
        let changes = Changes::between(&old.unwrap_or_default(), row, MAX_REPORT);
        let word = match old {
            Some(_) if changes.is_empty() => return true,
            Some(_) => VolumeWord::Changed { number, changes },
            None => VolumeWord::New { number, lineage, changes },
        };
        let fits = add(report, word);
        if fits {
            self.volumes.insert(lineage, (number, *row));
        }
        fits
    }

    fn free_number(&self) -> Option<u16> {
        let taken: BTreeSet<u16> = self.volumes.values().map(|(number, _)| *number).collect();
        (0..MAX_VOLUMES as u16).find(|number| !taken.contains(number))
    }
}

/// Adds a word if there is room for it.
fn add(report: &mut Report, word: VolumeWord) -> bool {
    report.volumes.push(word);
    let fits = report.size() <= MAX_REPORT && report.volumes.len() <= MAX_WORDS;
    if !fits {
        report.volumes.pop();
    }
    fits
}

/// The gateway's end: what the edge has told in this session.
#[derive(Debug)]
pub struct Hearer {
    site: [u64; SITE_ALL],
    volumes: BTreeMap<u16, (LineageId, [u64; VOLUME])>,
}

impl Default for Hearer {
    fn default() -> Self {
        Hearer { site: [0; SITE_ALL], volumes: BTreeMap::new() }
    }
}

impl Hearer {
    /// Takes a report in. After an error the session is over.
    pub fn hear(&mut self, report: &Report) -> Result<(), ReportError> {
        report.site.apply(&mut self.site)?;
        for word in &report.volumes {
            match word {
                VolumeWord::New { number, lineage, changes } => {
                    if usize::from(*number) >= MAX_VOLUMES || self.volumes.contains_key(number) {
                        return Err(ReportError::Number(*number));
                    }
                    let mut row = [0; VOLUME];
                    changes.apply(&mut row)?;
                    self.volumes.insert(*number, (*lineage, row));
                }
                VolumeWord::Changed { number, changes } => {
                    let (_, row) = self.volumes.get_mut(number).ok_or(ReportError::Number(*number))?;
                    changes.apply(row)?;
                }
                VolumeWord::Gone { number } => {
                    self.volumes.remove(number).ok_or(ReportError::Number(*number))?;
                }
            }
        }
        Ok(())
    }

    /// The site as it was told last. Numbers beyond their type are its greatest.
    pub fn site(&self) -> SiteFigures {
        site_of(&self.site)
    }

    /// The volumes as they were told last.
    pub fn volumes(&self) -> impl Iterator<Item = VolumeFigures> + '_ {
        self.volumes.values().map(|(lineage, row)| volume_of(*lineage, row))
    }
}

fn site_row(figures: &SiteFigures) -> [u64; SITE_ALL] {
    let quotas = figures.quotas.len().min(MAX_QUOTAS);
    let mut row = [0; SITE_ALL];
    row[..SITE].copy_from_slice(&[
        figures.uptime.into(),
        figures.sent_minute.into(),
        figures.sent,
        figures.received,
        figures.packets,
        figures.round_trip.into(),
        figures.disk_free,
        i64::from(figures.clock_skew) as u64,
        figures.base_round_trip.into(),
        figures.lost,
        figures.allowed,
        figures.reason.into(),
        figures.until.into(),
        figures.backlog,
        figures.arrives.into(),
        figures.spool,
        figures.over_minutes.into(),
        figures.line_rate,
        figures.clock.into(),
        figures.policy,
        figures.spool_limit,
        figures.disk_size,
        figures.certificate_until.into(),
        u64::from(figures.volumes) << 8 | quotas as u64,
    ]);
    for (place, (used, limit)) in figures.quotas.iter().take(quotas).enumerate() {
        (row[SITE + 2 * place], row[SITE + 2 * place + 1]) = (*used, *limit);
    }
    row
}

fn site_of(row: &[u64; SITE_ALL]) -> SiteFigures {
    let quotas = usize::from(row[23] as u8).min(MAX_QUOTAS);
    SiteFigures {
        uptime: low(row[0]),
        sent_minute: low(row[1]),
        sent: row[2],
        received: row[3],
        packets: row[4],
        round_trip: low(row[5]),
        disk_free: row[6],
        clock_skew: (row[7] as i64).clamp(i32::MIN.into(), i32::MAX.into()) as i32,
        base_round_trip: low(row[8]),
        lost: row[9],
        allowed: row[10],
        reason: least(row[11]),
        until: low(row[12]),
        backlog: row[13],
        arrives: low(row[14]),
        spool: row[15],
        over_minutes: low(row[16]),
        line_rate: row[17],
        clock: least(row[18]),
        policy: row[19],
        spool_limit: row[20],
        disk_size: row[21],
        certificate_until: low(row[22]),
        volumes: u16::try_from(row[23] >> 8).unwrap_or(u16::MAX),
        quotas: (0..quotas).map(|place| (row[SITE + 2 * place], row[SITE + 2 * place + 1])).collect(),
    }
}

fn volume_row(figures: &VolumeFigures) -> [u64; VOLUME] {
    [
        figures.state.code().into(),
        figures.captured.into(),
        figures.size,
        figures.changed,
        figures.raw,
        figures.coded,
        figures.left,
        figures.arrives.into(),
        figures.deadline.into(),
        figures.class.into(),
        figures.weight.into(),
    ]
}

fn volume_of(lineage: LineageId, row: &[u64; VOLUME]) -> VolumeFigures {
    VolumeFigures {
        lineage,
        state: VolumeState::from_code(least(row[0])),
        captured: low(row[1]),
        size: row[2],
        changed: row[3],
        raw: row[4],
        coded: row[5],
        left: row[6],
        arrives: low(row[7]),
        deadline: low(row[8]),
        class: least(row[9]),
        weight: low(row[10]),
    }
}

fn low(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn least(number: u64) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

/// Bytes of a number as postcard writes it.
fn varint(number: u64) -> usize {
    (64 - number.leading_zeros() as usize).div_ceil(7).max(1)
}

/// As postcard writes a signed number.
fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

/// A list of at most `N` entries. A longer one is refused by its count, before there is room for any of it.
fn few<'de, D: Deserializer<'de>, T: Deserialize<'de>, const N: usize>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct Few<T, const N: usize>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for Few<T, N> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {N} entries")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Vec<T>, A::Error> {
            let too_long = |len| A::Error::invalid_length(len, &self);
            if let Some(len) = entries.size_hint().filter(|len| *len > N) {
                return Err(too_long(len));
            }
            let mut list = Vec::new();
            while let Some(entry) = entries.next_element()? {
                if list.len() == N {
                    return Err(too_long(N + 1));
                }
                list.push(entry);
            }
            Ok(list)
        }
    }
    deserializer.deserialize_seq(Few::<T, N>(PhantomData))
}

#[cfg(test)]
#[path = "report_tests.rs"]
pub(super) mod tests;
