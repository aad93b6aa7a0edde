//! Everything that the page shows, gathered at one moment. The views are functions of it, and of nothing else.

use super::disks::{self, Disk};
use super::say::Clock;
use super::work::{Enrolling, Testing};
use super::{App, pin};
use crate::files;
use crate::line::{Bent, ClockView, Stretch};
use crate::link::{Packets, RoundTrips};
use crate::pipeline::blocking;
use crate::status::Status;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use shaping::Rate;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use wire::message::Minute;

/// Hours from one tick of the picture to the next. It begins with the tick before now.
pub(crate) const TICK: i64 = 6;
/// Hours of the picture: two days ahead, and what is behind since its first tick.
pub(crate) const PICTURE: i64 = 48 + TICK;
/// Days of the changes in words.
const WEEK: i64 = 7;

/// What is so.
pub(crate) struct Facts {
    /// Zone and time.
    pub(crate) clock: Clock,
    /// What the daemon says of itself.
    pub(crate) status: Status,
    /// What is sent now, bits per second.
    pub(crate) flow: u64,
    /// Round trips of the line, as far as they are known.
    pub(crate) round_trips: RoundTrips,
    /// Packets since the daemon's start.
    pub(crate) packets: Packets,
    /// Bits per second that the last line-test found, also before a restart; 0: none was made.
    pub(crate) tested: u64,
    /// Where the picture begins.
    pub(crate) begin: Timestamp,
    /// What may be sent from there to a week ahead.
    pub(crate) stretches: Vec<Stretch>,
    /// What was sent since there.
    pub(crate) sent: Vec<Minute>,
    /// What the line carries: full height of the picture, bits per second.
    pub(crate) carries: Option<u64>,
    /// What was paused or boosted here.
    pub(crate) bent: Option<Bent>,
    /// The most to which people here may boost.
    pub(crate) boost_limit: Option<Rate>,
    /// How the clock stands.
    pub(crate) time: ClockView,
    /// The policy's document.
    pub(crate) document: Option<String>,
    /// When it came here.
    pub(crate) policy_since: Option<Timestamp>,
    /// The box itself.
    pub(crate) own: Own,
    /// The line-test.
    pub(crate) testing: Testing,
    /// What an enrolment is at.
    pub(crate) enrolling: Enrolling,
    /// The disks that could be volumes; only looked for where a form shows them.
    pub(crate) disks: Vec<Disk>,
}

/// The box itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Own {
    /// Bytes free on the disk of the state directory, and its size.
    pub(crate) disk: Option<(u64, u64)>,
    /// Bytes that the spool may take.
    pub(crate) spool_limit: u64,
    /// When the certificate of this edge ends, Unix seconds.
    pub(crate) certificate_until: Option<i64>,
    /// Since when the daemon runs.
    pub(crate) uptime: Duration,
    /// The addresses of its gateways.
    pub(crate) addresses: Vec<String>,
}

impl Facts {
    /// Looks at everything.
    pub(crate) async fn gather(app: &Arc<App>) -> Facts {
        let line = app.daemon.link().line().clone();
        let (status, time) = (app.daemon.status(), line.clock());
        let (zone, now) = (line.zone().unwrap_or(TimeZone::UTC), time.now);
        let (begin, week) = (tick_before(now, &zone), now + SignedDuration::from_hours(24 * WEEK));
        let (stretches, asked) = (line.stretches(begin, week), line.clone());
        let shows_disks = !status_is_new(&status);
        let directory = app.daemon.config().state.clone();
        let (sent, disk, policy_since, disks) = blocking(move || {
            let sent = asked.sent_since(begin, (2 * TICK * 60) as usize);
            let disks = if shows_disks { disks::list() } else { Vec::new() };
            (sent, files::disk(&directory).ok(), modified(&directory.join("policy.json")), disks)
        })
        .await;
        let identity = app.daemon.link().identity();
        let bearer = identity.as_ref().and_then(|identity| identity.bearer().ok());
        let own = Own {
            disk,
            spool_limit: app.daemon.config().spool.0,
            certificate_until: bearer.map(|bearer| (bearer.valid_until.0 / 1000) as i64),
            uptime: app.daemon.uptime(),
            addresses: identity.map(|identity| identity.credentials().addresses).unwrap_or_default(),
        };
        Facts {
            clock: Clock { zone, now },
            flow: app.pulse.rate(),
            round_trips: app.daemon.link().round_trips(),
            packets: app.daemon.link().packets(),
            tested: line.tested(),
            begin,
            stretches,
            sent,
            carries: line.carries(),
            bent: line.bent_here(),
            boost_limit: line.boost_limit(),
            time,
            document: line.document(),
            policy_since,
            own,
            testing: app.work.testing(),
            enrolling: app.work.enrolling(),
            disks,
            status,
        }
    }

    /// Whether something waits to be sent.
    pub(crate) fn waits(&self) -> bool {
        self.status.volumes.iter().any(|volume| volume.sending.is_some())
    }

    /// What the line may be used for from now on; the first stretch is the one that holds now.
    pub(crate) fn now_and_after(&self) -> impl Iterator<Item = &Stretch> {
        self.stretches.iter().filter(|stretch| stretch.until > self.clock.now)
    }
}

/// The last quarter of a day that began, by the site's clocks.
fn tick_before(now: Timestamp, zone: &TimeZone) -> Timestamp {
    let civil = zone.to_datetime(now);
    let hour = i64::from(civil.hour()) / TICK * TICK;
    let begin = civil.date().at(hour as i8, 0, 0, 0);
    zone.to_timestamp(begin).unwrap_or(now).min(now)
}

/// There is nothing to be added before the edge is enrolled.
fn status_is_new(status: &Status) -> bool {
    status.site.is_none()
}

fn modified(path: &Path) -> Option<Timestamp> {
    let modified = std::fs::metadata(path).ok()?.modified().ok()?;
    let since = modified.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Timestamp::from_second(since.as_secs() as i64).ok()
}

/// The PIN that is kept, read anew: the command line may have made another.
pub(crate) async fn kept_pin(app: &Arc<App>) -> Result<Option<pin::KeptPin>, pin::PinError> {
    let directory = app.daemon.config().state.clone();
    blocking(move || pin::load(&directory)).await
}
