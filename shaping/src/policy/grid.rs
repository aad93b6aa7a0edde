//! The weekly grid: which profile holds in each quarter of an hour of the week, and its text form.

use std::fmt::Write as _;

/// Minutes of one cell.
pub const CELL_MINUTES: usize = 15;
/// Cells of one day.
pub const CELLS_PER_DAY: usize = 24 * 60 / CELL_MINUTES;
/// Days of the grid, Monday first.
pub const DAYS: usize = 7;
/// Names of the days as the text form writes them.
pub const DAY_NAMES: [&str; DAYS] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Number of a profile in its policy. 0 is always `closed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProfileNumber(pub u8);

impl ProfileNumber {
    /// The profile that every policy has: nothing is sent.
    pub const CLOSED: ProfileNumber = ProfileNumber(0);
}

/// 7 × 96 cells of a quarter of an hour. A cell that nobody painted is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    cells: [[ProfileNumber; CELLS_PER_DAY]; DAYS],
}

/// What is wrong with a day's text. The caller knows line and field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GridError {
    /// The days are none.
    #[error("\"{0}\" names no days: write \"mon\", \"mon-fri\", \"sat, sun\" or \"all\"")]
    Days(String),
    /// A time is none, or not on a quarter of an hour.
    #[error("\"{0}\" is no time: write hours and minutes on a quarter of an hour, as in \"19:30\"")]
    Time(String),
    /// A time without a profile behind it.
    #[error("after {0} the name of a profile must follow, as in \"{0} night\"")]
    Alone(String),
    /// Not among the profiles.
    #[error("there is no profile \"{0}\": add it to [profiles], or use one of {1}")]
    Profile(String, String),
    /// Times must grow.
    #[error("{0} does not come after {1}: times of a day must grow")]
    Order(String, String),
    /// Two texts paint the same day.
    #[error("{0} is painted twice: each day may be named once")]
    Twice(&'static str),
}

impl Default for Grid {
    fn default() -> Self {
        Grid { cells: [[ProfileNumber::CLOSED; CELLS_PER_DAY]; DAYS] }
    }
}

impl Grid {
    /// The profile of a cell. `day` counts from Monday, `minute` from midnight.
    ///
    /// # Panics
    /// When `day` is not below 7 or `minute` not below 1440.
    pub fn at(&self, day: usize, minute: usize) -> ProfileNumber {
        self.cells[day][minute / CELL_MINUTES]
    }

    /// Paints cells `from..to` of a day.
    ///
    /// # Panics
    /// When `day` is not below 7 or `to` above 96.
    pub fn paint(&mut self, day: usize, cells: std::ops::Range<usize>, profile: ProfileNumber) {
        self.cells[day][cells].fill(profile);
    }

    /// Paints whole days from their text, `00:00 night 06:00 closed 19:30 night`: from each time on its profile holds, before the first
    /// time it is closed. `number_of` finds a profile, `names` lists them for an error.
    pub(crate) fn paint_text(
        &mut self,
        days: &[usize],
        text: &str,
        number_of: impl Fn(&str) -> Option<ProfileNumber>,
        names: impl Fn() -> String,
    ) -> Result<(), GridError> {
        let mut words = text.split([' ', ',', ';', '\n', '\t']).filter(|word| !word.is_empty());
        let (mut row, mut last) = ([ProfileNumber::CLOSED; CELLS_PER_DAY], None::<(usize, &str)>);
        while let Some(time) = words.next() {
            let cell =
                cell_of(time).filter(|cell| *cell < CELLS_PER_DAY).ok_or_else(|| GridError::Time(time.into()))?;
            let name = words.next().ok_or_else(|| GridError::Alone(time.into()))?;
            let profile = number_of(name).ok_or_else(|| GridError::Profile(name.into(), names()))?;
            if let Some((_, said)) = last.filter(|(before, _)| *before >= cell) {
                return Err(GridError::Order(time.into(), said.into()));
            }
            row[cell..].fill(profile);
            last = Some((cell, time));
        }
        days.iter().for_each(|day| self.cells[*day] = row);
        Ok(())
    }

    /// The text of a day, as [`Grid::paint_text`] reads it.
    pub(crate) fn day_text<'a>(&self, day: usize, name_of: impl Fn(ProfileNumber) -> &'a str) -> String {
        let mut text = String::new();
        let mut before = ProfileNumber::CLOSED;
        for (cell, profile) in self.cells[day].iter().enumerate() {
            if *profile != before {
                let space = if text.is_empty() { "" } else { " " };
                write!(text, "{space}{} {}", time_text(cell * CELL_MINUTES), name_of(*profile))
                    .expect("writing to a string does not fail");
                before = *profile;
            }
        }
        text
    }

    /// Days that look alike, in runs: what one line of the text form names.
    pub(crate) fn alike(&self) -> Vec<std::ops::Range<usize>> {
        let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
        for day in 0..DAYS {
            match runs.last_mut() {
                Some(run) if self.cells[run.start] == self.cells[day] => run.end = day + 1,
                _ => runs.push(day..day + 1),
            }
        }
        runs
    }
}

/// The days that `mon`, `mon-fri`, `sat, sun` or `all` name, ascending. A range may run over Sunday: `fri-mon`.
pub fn days_of(text: &str) -> Result<Vec<usize>, GridError> {
    let wrong = || GridError::Days(text.into());
    let number = |name: &str| DAY_NAMES.iter().position(|day| name.trim().eq_ignore_ascii_case(day)).ok_or_else(wrong);
    let mut days = Vec::new();
    for part in text.split(',') {
        if part.trim().eq_ignore_ascii_case("all") {
            days.extend(0..DAYS);
        } else if let Some((first, last)) = part.split_once('-') {
            let (first, last) = (number(first)?, number(last)?);
            days.extend((0..=(last + DAYS - first) % DAYS).map(|step| (first + step) % DAYS));
        } else {
            days.push(number(part)?);
        }
    }
    days.sort_unstable();
    match days.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(GridError::Twice(DAY_NAMES[pair[0]])),
        None => Ok(days),
    }
}

/// How a run of days is named.
pub(crate) fn days_text(run: std::ops::Range<usize>) -> String {
    match run.len() {
        DAYS => "all".into(),
        1 => DAY_NAMES[run.start].into(),
        _ => format!("{}-{}", DAY_NAMES[run.start], DAY_NAMES[run.end - 1]),
    }
}

/// The cell that begins at a time; 96 for `24:00`. `None` when it is no time on a quarter of an hour.
pub(crate) fn cell_of(time: &str) -> Option<usize> {
    let (hours, minutes) = time.split_once(':')?;
    let two = |text: &str| (text.len() <= 2 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?;
    let (hours, minutes): (usize, usize) = (two(hours)?, two(minutes)?);
    let whole = hours * 60 + minutes;
    (minutes < 60 && whole <= 24 * 60 && whole.is_multiple_of(CELL_MINUTES)).then_some(whole / CELL_MINUTES)
}

/// A time of day as `19:30`.
pub fn time_text(minute: usize) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}
