//! The next two days as a picture and in words, and a week of changes. Pure.

use super::facts::{Facts, PICTURE, TICK};
use super::say::{self, Clock};
use crate::line::{Cause, Stretch};
use jiff::{SignedDuration, Timestamp};
use look::{Language, Span, Strip, format};

/// Seconds of one step of the picture.
const STEP: i64 = 15 * 60;
/// Rows of the week at most.
const ROWS: usize = 60;

/// The picture: what may be sent, what was sent, what is expected to be.
pub(crate) fn strip(facts: &Facts) -> Strip {
    let steps = (PICTURE * 3600 / STEP) as u32;
    let step_of =
        |at: Timestamp| (at.as_second() - facts.begin.as_second()).div_euclid(STEP).clamp(0, steps.into()) as u32;
    let full = full_height(facts);
    let spans = facts.stretches.iter().map(|stretch| Span {
        from: step_of(stretch.from),
        // What ends within a step is seen to its end.
        to: step_of(stretch.until + SignedDuration::from_secs(STEP - 1)),
        height: mille(stretch.decided.bits.unwrap_or(full), full),
        barred: is_barred(stretch),
    });
    let mut sent = vec![0u64; steps as usize];
    for minute in &facts.sent {
        let at = (i64::from(minute.minute) * 60 - facts.begin.as_second()).div_euclid(STEP);
        if let Some(step) = usize::try_from(at).ok().and_then(|at| sent.get_mut(at)) {
            *step += u64::from(minute.sent);
        }
    }
    let now = step_of(facts.clock.now);
    sent.truncate(now as usize + 1);
    let sent = sent.into_iter().map(|bytes| mille(bytes * 8 / STEP as u64, full)).collect();
    Strip { steps, spans: spans.collect(), sent, forecast: forecast(facts, now, steps, full), now: Some(now) }
}

/// Until everything on its way has arrived, all that is allowed is expected to be used.
fn forecast(facts: &Facts, now: u32, steps: u32, full: u64) -> Vec<u16> {
    let arrives = facts.status.volumes.iter().filter_map(|volume| volume.arrives_at).max().unwrap_or(0);
    let begins = |step: u32| facts.begin + SignedDuration::from_secs(i64::from(step) * STEP);
    let allowed = |at: Timestamp| {
        let holds = facts.stretches.iter().find(|stretch| stretch.from <= at && at < stretch.until);
        holds.map_or(0, |stretch| mille(stretch.decided.bits.unwrap_or(full), full))
    };
    (now..steps).take_while(|step| begins(*step).as_second() < arrives).map(|step| allowed(begins(step))).collect()
}

fn full_height(facts: &Facts) -> u64 {
    let most = facts.stretches.iter().filter_map(|stretch| stretch.decided.bits).max();
    facts.carries.or(most).unwrap_or(1).max(1)
}

fn mille(bits: u64, full: u64) -> u16 {
    // Something that is there is seen.
    (u128::from(bits) * 1000 / u128::from(full)).clamp(u128::from(bits > 0), 1000) as u16
}

fn is_barred(stretch: &Stretch) -> bool {
    let is_meant = matches!(stretch.decided.cause, Cause::Blackout { .. } | Cause::Pause { .. } | Cause::Hold { .. });
    is_meant && !stretch.decided.is_open()
}

/// What stands below the picture, from left to right, evenly: days where they begin, hours else.
pub(crate) fn ticks(facts: &Facts, language: Language) -> Vec<String> {
    let at = |tick: i64| facts.clock.zone.to_datetime(facts.begin + SignedDuration::from_hours(tick * TICK));
    let label = |civil: jiff::civil::DateTime| match (civil.hour(), civil.minute()) {
        (0, 0) => format::weekday(civil.date().weekday(), language).to_owned(),
        (hour, 0) => format!("{hour:02}"),
        (hour, minute) => format!("{hour:02}:{minute:02}"),
    };
    (0..=PICTURE / TICK).map(|tick| label(at(tick))).collect()
}

/// What comes next, in a sentence.
pub(crate) fn next(facts: &Facts, language: Language) -> String {
    let mut ahead = facts.now_and_after();
    let Some(now) = ahead.next() else { return String::new() };
    let is_open = now.decided.is_open();
    let Some(change) = ahead.find(|stretch| stretch.decided.is_open() != is_open) else {
        let sentence = match is_open {
            true => language.of("The line stays open for the whole week.", "线路在未来一周内持续开放。"),
            false => language.of("The line does not open within a week.", "线路在一周内不会开放。"),
        };
        return sentence.to_owned();
    };
    let at = facts.clock.moment(change.from.as_second(), language);
    let in_words =
        format::duration(rough((change.from.as_second() - facts.clock.now.as_second()).max(0) as u64), language);
    let why = say::cause(&change.decided.cause, language);
    match is_open {
        true => {
            language.of(format!("Closes {at} (in {in_words}), {why}."), format!("{at} 关闭（{in_words}后），{why}。"))
        }
        false => {
            let rate = format::rate(change.decided.bits.unwrap_or(u64::MAX), language);
            language.of(
                format!("Opens {at} (in {in_words}) with {rate}, {why}."),
                format!("{at} 开放（{in_words}后），速率 {rate}，{why}。"),
            )
        }
    }
}

/// Minutes are fine enough for what is hours away.
fn rough(seconds: u64) -> u64 {
    if seconds > 120 { seconds.div_ceil(60) * 60 } else { seconds }
}

/// One change of the week.
pub(crate) struct Row {
    /// When it begins.
    pub(crate) at: String,
    /// The rate.
    pub(crate) rate: String,
    /// Whether data may be sent.
    pub(crate) is_open: bool,
    /// What decides so.
    pub(crate) why: String,
}

/// The changes of a week, the first one as it is now.
pub(crate) fn week(facts: &Facts, language: Language) -> Vec<Row> {
    let row = |(number, stretch): (usize, &Stretch)| Row {
        at: match number {
            0 => language.of("now", "现在").to_owned(),
            _ => moment_with_day(&facts.clock, stretch.from, language),
        },
        rate: format::rate(stretch.decided.bits.unwrap_or(u64::MAX), language),
        is_open: stretch.decided.is_open(),
        why: say::cause(&stretch.decided.cause, language),
    };
    facts.now_and_after().enumerate().take(ROWS).map(row).collect()
}

/// A week has a day of each name, today's twice: so with the date.
fn moment_with_day(clock: &Clock, at: Timestamp, language: Language) -> String {
    let civil = clock.zone.to_datetime(at);
    let day = format::weekday(civil.date().weekday(), language);
    format!("{day} {}", civil.strftime("%m-%d %H:%M"))
}
