//! The edge under test: its real decisions and its real bucket, with everything around them simulated.

use super::oracle::{Clock, Oracle};
use super::plan::Month;
use dedupe::SiteId;
use jiff::{SignedDuration, Timestamp};
use shaping::lab::{DATAGRAM, Rows};
use shaping::policy::{Bend, Control};
use shaping::{BitsPerSec, Bucket, Class, Rate, Readiness};
use sluice_edge::line::{Anchor, Clocks, Crossed, Held, Kept, LocalRecord, State};
use std::time::{Duration, Instant};
use wire::policy::{PolicyKey, SignedPolicy};

const SITE: SiteId = SiteId([7; 16]);
/// What control keeps while data is closed: the shaper's default.
const RESERVE: BitsPerSec = BitsPerSec::kbit(16);
/// IP bytes of a sign of life with what belongs to it, up and down.
const SIGN_OF_LIFE: (u64, u64) = (150, 120);
/// Crystals of the machine's successive starts, in millionths: a cheap one is off by 100.
const CRYSTALS: [i64; 4] = [40, -75, 12, 90];
/// A datagram that begins within this of a change would be an error of the simulation's rounding.
const ROUNDING: Duration = Duration::from_nanos(5);

pub(super) struct Site {
    from: Timestamp,
    base: Instant,
    key: PolicyKey,
    // The machine.
    up: Duration,
    booted: Duration,
    boots: usize,
    machine_off: SignedDuration,
    // What a restart finds.
    rows: Rows,
    signed: Option<SignedPolicy>,
    local: Vec<LocalRecord>,
    anchor: Option<(Anchor, usize, (Timestamp, Duration))>,
    // The daemon.
    state: State,
    bucket: Bucket,
    asked: Rate,
    silent: bool,
    budget: Option<u64>,
    crossed: Crossed,
    until: Option<Timestamp>,
    // By the simulation's own count.
    told: Option<(Timestamp, Duration)>,
    block: u64,
    backlog: u64,
    offered: u64,
    kept: u64,
    sent_known: u64,
    moved: Duration,
}

impl Site {
    #[allow(clippy::disallowed_methods, reason = "any instant will do as the beginning of virtual time")]
    pub(super) fn new(from: Timestamp) -> Site {
        let base = Instant::now();
        let key = PolicyKey::read(&PolicyKey::generate()).expect("it was just made");
        let clocks = Clocks { counted: Duration::ZERO, machine: from };
        let mut site = Site {
            from,
            base,
            key,
            up: Duration::ZERO,
            booted: Duration::ZERO,
            boots: 0,
            machine_off: SignedDuration::ZERO,
            rows: Rows::default(),
            signed: None,
            local: Vec::new(),
            anchor: None,
            state: State::resume(Kept::default(), None, String::new(), clocks),
            bucket: Bucket::new(Rate::Closed, RESERVE, base),
            asked: Rate::Closed,
            silent: false,
            budget: None,
            crossed: Crossed::default(),
            until: None,
            told: None,
            block: 0,
            backlog: 0,
            offered: 0,
            kept: 0,
            sent_known: 0,
            moved: Duration::ZERO,
        };
        site.start(Duration::ZERO);
        site
    }

    // --- what happens to it

    /// So many bytes wait, in whole datagrams: then what left and what waits add up.
    pub(super) fn offer(&mut self, bytes: u64) {
        let bytes = bytes.next_multiple_of(DATAGRAM);
        self.backlog += bytes;
        self.offered += bytes;
    }

    pub(super) fn backlog(&self) -> u64 {
        self.backlog
    }

    pub(super) fn offered(&self) -> u64 {
        self.offered
    }

    pub(super) fn take_policy(&mut self, at: Duration, month: &Month) {
        let signed = self.key.sign(SITE, month.document());
        let held = self.state.accept(signed.clone(), SITE, self.clocks(at)).expect("the plan's policies are valid");
        self.state.put(held);
        self.signed = Some(signed);
        // What is left of a claim by the policy before may be larger.
        self.block = self.block.max(month.rules.up.bytes() * 5).max(64 << 10);
    }

    /// People at the site pause (`None`) or boost.
    pub(super) fn bend(&mut self, at: Duration, boost: Option<u64>, lasts: Duration, oracle: &mut Oracle) {
        let bend = match boost {
            Some(bits) => Bend::Boost { rate: BitsPerSec::new(bits).into(), pierce: false },
            None => Bend::Pause,
        };
        if self.is_up(at) {
            self.local = vec![self.state.bend(bend, lasts, self.clocks(at))];
            oracle.bend(boost, lasts, &self.clock(at), self.clocks(at).machine);
        }
    }

    pub(super) fn move_machine_clock(&mut self, hours: i64) {
        self.machine_off = SignedDuration::from_hours(hours);
    }

    /// kill -9 or a power cut. Returns what was claimed and not spent, and how many bytes of evidence may be lost with it at most.
    pub(super) fn kill(&mut self) -> (u64, u64) {
        let lost = self.budget.map_or(0, |budget| budget.saturating_sub(self.crossed.sent));
        (lost, self.block / 5 * 61 + 10 * DATAGRAM)
    }

    /// A clean stop. Returns how many bytes of evidence may be lost with it at most: those since the last look.
    pub(super) fn stop(&mut self) -> u64 {
        let (closed, minute) = self.state.close(self.crossed, &self.rows);
        closed.unwrap_or_else(|never| match never {});
        self.kept += minute.map_or(0, |minute| u64::from(minute.sent));
        self.block / 5 + 10 * DATAGRAM
    }

    /// The machine starts at `up`, its own clock off by so many hours.
    pub(super) fn boot(&mut self, up: Duration, machine: i64) {
        (self.up, self.booted, self.boots) = (up, up, self.boots + 1);
        self.machine_off = SignedDuration::from_hours(machine);
        self.start(up);
    }

    /// The daemon starts, from what was kept.
    pub(super) fn start(&mut self, at: Duration) {
        let anchor = self.anchor.as_ref().filter(|(_, boot, _)| *boot == self.boots);
        self.told = anchor.map(|(_, _, told)| *told);
        let clocks = self.clocks(at);
        let held = self.signed.clone().map(|signed| Held::accept(signed, SITE, None, clocks.machine));
        let kept = Kept {
            anchor: self.anchor.as_ref().map(|(anchor, ..)| anchor.clone()),
            local: self.local.clone(),
            held: held.map(|held| held.expect("it was accepted before")),
            fault: None,
        };
        self.state = State::resume(kept, None, format!("boot {}", self.boots), clocks);
        self.state.go_live();
        self.bucket = Bucket::new(Rate::Closed, RESERVE, self.instant(at));
        (self.asked, self.silent, self.budget) = (Rate::Closed, false, None);
        self.crossed = Crossed::default();
    }

    // --- its clocks

    pub(super) fn is_up(&self, at: Duration) -> bool {
        at >= self.up
    }

    pub(super) fn up_from(&self, at: Duration) -> Duration {
        self.up.max(at)
    }

    /// The trusted time, by the simulation's own count.
    pub(super) fn trusted(&self, at: Duration) -> Option<Timestamp> {
        let (time, counted) = self.told?;
        Some(time + SignedDuration::try_from(self.counted(at).saturating_sub(counted)).expect("within years"))
    }

    pub(super) fn clock(&self, at: Duration) -> Clock {
        let counted = self.counted(at);
        Clock { trusted: self.trusted(at), counted, told: self.told.map(|(_, counted)| counted) }
    }

    /// The next beginning of a minute of the trusted time.
    pub(super) fn next_minute(&self, at: Duration) -> Duration {
        let Some(now) = self.trusted(at) else { return at + Duration::from_secs(60) };
        let into = now.as_nanosecond().rem_euclid(60_000_000_000) as u64;
        self.later(at, Duration::from_nanos(60_000_000_000 - into))
    }

    /// When the answer of the last look ends.
    pub(super) fn change_at(&self, at: Duration) -> Duration {
        let left = self.until.zip(self.trusted(at)).map(|(until, now)| until.duration_since(now));
        left.and_then(|left| Duration::try_from(left).ok()).map_or(Duration::MAX, |left| self.later(at, left))
    }

    /// The moment at which the counting clock has gone on by so much.
    fn later(&self, at: Duration, counted: Duration) -> Duration {
        let nanos = counted.as_nanos() * 1_000_000;
        at + Duration::from_nanos((nanos / (1_000_000 + self.crystal()) as u128) as u64 + 2)
    }

    fn crystal(&self) -> i64 {
        CRYSTALS[self.boots % CRYSTALS.len()]
    }

    fn counted(&self, at: Duration) -> Duration {
        let since = at.saturating_sub(self.booted).as_nanos() as i128;
        Duration::from_nanos((since + since * i128::from(self.crystal()) / 1_000_000) as u64)
    }

    fn clocks(&self, at: Duration) -> Clocks {
        let machine = self.real(at).saturating_add(self.machine_off).expect("within jiff's time");
        Clocks { counted: self.counted(at), machine }
    }

    /// What the gateway's clock shows.
    fn real(&self, at: Duration) -> Timestamp {
        self.from + SignedDuration::try_from(at).expect("within a year")
    }

    fn instant(&self, at: Duration) -> Instant {
        self.base + at
    }

    // --- what it does

    /// Looks, as `Line::look` does: closing comes before the budget is raised for control, opening after it. Returns when it wants to look again.
    pub(super) fn look(&mut self, at: Duration) -> Duration {
        let (clocks, now) = (self.clocks(at), self.instant(at));
        let look = self.state.look(clocks, self.crossed, self.asked, &self.rows);
        look.claimed.unwrap_or_else(|never| match never {});
        self.silent = look.allowed.control == Control::Silent;
        self.budget = look.budget;
        if self.asked != look.allowed.up {
            self.asked = look.allowed.up;
            self.bucket.set_rate(now, self.asked);
        }
        self.kept += look.minute.map_or(0, |minute| u64::from(minute.sent));
        if let Some(anchor) = look.anchor {
            let told = (self.trusted(at).expect("there is no anchor without a time"), clocks.counted);
            self.anchor = Some((anchor, self.boots, told));
            self.state.anchored(clocks.counted);
        }
        self.until = look.allowed.until;
        look.wait
    }

    pub(super) fn is_open(&self) -> bool {
        self.asked.is_open()
    }

    /// Sends data whenever it may, from `at` to `end`; the IP bytes that left.
    pub(super) fn send(&mut self, at: Duration, end: Duration, oracle: &mut Oracle) -> u64 {
        let (mut now, stop) = (self.instant(at), self.instant(end.saturating_sub(ROUNDING)));
        let mut sent = 0;
        while self.backlog > 0 && !self.is_stopped() && now < stop {
            match self.bucket.readiness(now, Class::Data) {
                Readiness::Now => {
                    assert!(self.bucket.take(now, Class::Data, DATAGRAM), "it was ready");
                    self.crossed.sent += DATAGRAM;
                    self.backlog = self.backlog.saturating_sub(DATAGRAM);
                    sent += DATAGRAM;
                }
                Readiness::At(later) => now = later,
                Readiness::Never => break,
            }
        }
        self.count(at, sent, 0, oracle);
        sent
    }

    /// A sign of life, if control may; a gateway that is there answers with the time, and grants what it does. IP bytes up; 0: it could not leave.
    pub(super) fn control(&mut self, at: Duration, reachable: bool, grant: Option<u64>, oracle: &mut Oracle) -> u64 {
        let (up, down) = SIGN_OF_LIFE;
        let now = self.instant(at);
        if self.is_stopped() || !self.bucket.take(now, Class::Control, up) {
            return 0;
        }
        let down = if reachable { down } else { 0 };
        self.crossed.sent += up;
        self.crossed.received += down;
        self.count(at, up, down, oracle);
        if reachable {
            self.answered(at, grant, oracle);
        }
        up + down
    }

    fn answered(&mut self, at: Duration, grant: Option<u64>, oracle: &mut Oracle) {
        let (time, counted) = (self.real(at), self.counted(at));
        if let Some(was) = self.trusted(at) {
            oracle.moved(was, time, self.block);
        }
        let moved = self.state.told(time, counted);
        self.moved = self.moved.max(moved.unsigned_abs());
        self.told = Some((time, counted));
        if let Some(bits) = grant {
            const LASTS: Duration = Duration::from_secs(90);
            self.state.granted(bits, LASTS, counted);
            oracle.granted(bits, time + SignedDuration::try_from(LASTS).expect("short"));
        }
    }

    fn count(&mut self, at: Duration, sent: u64, received: u64, oracle: &mut Oracle) {
        let trusted = self.trusted(at);
        self.sent_known += if trusted.is_some() { sent } else { 0 };
        oracle.count(trusted, sent + received);
    }

    /// As the shaper has it.
    fn is_stopped(&self) -> bool {
        self.silent || self.budget.is_some_and(|budget| self.crossed.sent >= budget)
    }

    // --- for the figures

    /// The most by which the gateway's time moved the edge's.
    pub(super) fn moved(&self) -> Duration {
        self.moved
    }

    /// Bytes of a claim at most.
    pub(super) fn block(&self) -> u64 {
        self.block
    }

    /// Bytes in the evidence, and bytes sent while the time was known.
    pub(super) fn evidence(&mut self) -> (u64, u64) {
        let _whole = self.stop();
        (self.kept, self.sent_known)
    }
}
