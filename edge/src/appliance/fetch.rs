//! Brings the parts of a release here, one after the other, durably.
//!
//! In the folder lie `manifest`, `plan` (which release, coded against what, how many parts), `N` for each part that is whole and proved by its hash, and
//! `N.part` for the one that is coming.

use crate::arriving::{Arriving, ReceiveError, Stopped};
use crate::files;
use crate::link::{Link, Session};
use crate::pipeline::blocking;
use release::report;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{sleep, timeout};
use wire::message::{DataReply, DataRequest, Refusal};
use wire::release::{MAX_PART, MAX_PARTS, PartFollows, PartWanted, ReleaseId};
use wire::stream::{self, StreamError};

/// How long the gateway may take to its answer; parts that have to be made first are answered by `Later`.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// Waits after trouble that passes: this, doubling to the other.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The longest wait that a gateway may ask for.
const MOST_LATER: u32 = 600;
/// So often the same part may come damaged before it is given up.
const MOST_DAMAGED: u32 = 3;

/// What lies in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fetched {
    pub(crate) release: ReleaseId,
    pub(crate) base: Option<ReleaseId>,
    /// All parts are here.
    pub(crate) is_whole: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Plan {
    release: ReleaseId,
    base: Option<ReleaseId>,
    /// 0: the gateway has not said it yet.
    parts: u32,
    total: u64,
}

impl Fetched {
    /// What lies in this folder. Blocks.
    pub(crate) fn find(folder: &Path) -> Option<Fetched> {
        let plan: Plan = report::read(&folder.join("plan")).ok()??;
        let is_whole = plan.parts > 0 && (0..plan.parts).all(|number| folder.join(number.to_string()).exists());
        Some(Fetched { release: plan.release, base: plan.base, is_whole })
    }
}

/// How far a fetch is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// Bytes that are here, and bytes in all; 0: not known yet.
    pub(crate) fn now(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }
}

/// A release to be brought here.
pub(crate) struct Fetch {
    pub(crate) link: Link,
    pub(crate) folder: PathBuf,
    /// The manifest's file.
    pub(crate) manifest: String,
    pub(crate) release: ReleaseId,
    pub(crate) base: Option<ReleaseId>,
    pub(crate) progress: Arc<Progress>,
}

/// How one question ended.
enum Ended {
    /// The part is here.
    Here,
    /// It goes on, or is asked for again, after this.
    Again(Duration),
    /// Trouble that passes.
    Trouble(String),
    /// It was damaged.
    Damaged,
    /// The gateway does not have the base: all is fetched coded against nothing.
    NoBase,
}

impl Fetch {
    /// Goes on until all parts are here; may be dropped at any time. An error is for people, and does not pass by itself.
    pub(crate) async fn run(mut self) -> Result<Fetched, String> {
        let mut plan = self.begin().await.map_err(|error| self.at(&error))?;
        let mut number = 0;
        let (mut wait, mut damaged) = (WAITS.0, 0);
        while plan.parts == 0 || number < plan.parts {
            if plan.parts > 0 && self.has(number).await.map_err(|error| self.at(&error))? {
                number += 1;
                continue;
            }
            let before = self.progress.now().0;
            let ended = self.ask(number, &mut plan).await?;
            if self.progress.now().0 > before {
                wait = WAITS.0; // it goes on
            }
            match ended {
                Ended::Here => {
                    (number, damaged) = (number + 1, 0);
                }
                Ended::Again(after) => sleep(after).await,
                Ended::Trouble(why) => {
                    tracing::info!(why, retry_in = ?wait, "the fetch of a release broke off");
                    sleep(wait).await;
                    wait = (wait * 2).min(WAITS.1);
                }
                Ended::Damaged => {
                    damaged += 1;
                    if damaged == MOST_DAMAGED {
                        return Err("its parts arrive damaged each time; look at the gateway's log".into());
                    }
                    sleep(wait).await;
                }
                Ended::NoBase if self.base.is_none() => return Err("the gateway holds the release no more".into()),
                Ended::NoBase => {
                    tracing::info!("the gateway does not hold the running release: the other one is fetched whole");
                    self.base = None;
                    plan = self.begin().await.map_err(|error| self.at(&error))?;
                    number = 0;
                }
            }
        }
        Ok(Fetched { release: self.release, base: self.base, is_whole: true })
    }

    fn at(&self, error: &io::Error) -> String {
        format!("{}: {error}", self.folder.display())
    }

    /// Goes on with what lies in the folder, or empties it.
    async fn begin(&self) -> io::Result<Plan> {
        let (folder, release, manifest) = (self.folder.clone(), self.release, self.manifest.clone());
        let base = self.base;
        let plan = blocking(move || {
            let known: Option<Plan> = report::read(&folder.join("plan")).ok().flatten();
            if let Some(plan) = known.filter(|plan| (plan.release, plan.base) == (release, base)) {
                return Ok(plan);
            }
            let plan = Plan { release, base, parts: 0, total: 0 };
            empty(&folder)?;
            files::write_whole(&folder.join("manifest"), &[manifest.as_bytes()])?;
            report::write(&folder.join("plan"), &plan)?;
            io::Result::Ok(plan)
        })
        .await?;
        self.progress.done.store(self.durable(&plan).await, Ordering::Relaxed);
        self.progress.total.store(plan.total, Ordering::Relaxed);
        Ok(plan)
    }

    /// Bytes of parts that are whole here.
    async fn durable(&self, plan: &Plan) -> u64 {
        let (folder, parts) = (self.folder.clone(), plan.parts);
        let len = move |number: u32| std::fs::metadata(folder.join(number.to_string())).map_or(0, |meta| meta.len());
        blocking(move || (0..parts).map(len).sum()).await
    }

    async fn has(&self, number: u32) -> io::Result<bool> {
        let path = self.folder.join(number.to_string());
        blocking(move || path.try_exists()).await
    }

    /// A session over which something may be asked now.
    async fn session(&self) -> Result<Arc<Session>, String> {
        let mut sessions = self.link.sessions();
        loop {
            self.link.line().opened().await;
            let session = sessions.borrow_and_update().clone();
            match session {
                Some(session) if !session.knows_releases() => {
                    return Err("the gateway is of a version that gives no releases: upgrade it first".into());
                }
                Some(session) if session.data().is_some() => return Ok(session),
                _ => {
                    let _never_dropped_before_us = sessions.changed().await;
                }
            }
        }
    }

    async fn ask(&mut self, number: u32, plan: &mut Plan) -> Result<Ended, String> {
        let session = self.session().await?;
        tokio::select! {
            ended = self.asked(&session, number, plan) => ended,
            () = session.ended() => Ok(Ended::Trouble("the session ended".into())),
        }
    }

    async fn asked(&self, session: &Session, number: u32, plan: &mut Plan) -> Result<Ended, String> {
        let Some(data) = session.data() else { return Ok(Ended::Again(WAITS.0)) };
        let path = self.folder.join(format!("{number}.part"));
        let found = path.clone();
        let have = blocking(move || Arriving::find(&found, MAX_PART)).await.map(|part| (part.hash, part.durable));
        let (mut writer, mut reader) = match stream::open_next(data).await {
            Ok(streams) => streams,
            Err(error) => return Ok(Ended::Trouble(error.to_string())),
        };
        let wanted = PartWanted { release: self.release, base: self.base, part: number, have };
        if let Err(error) = writer.send(&DataRequest::Part(wanted)).await {
            return Ok(Ended::Trouble(error.to_string()));
        }
        writer.finish();
        match timeout(ANSWER_WITHIN, reader.expect()).await {
            Err(_) => Ok(Ended::Trouble("the gateway did not answer".into())),
            Ok(Err(StreamError::Stopped(_) | StreamError::Finished)) => {
                Ok(Ended::Trouble("the gateway gave the question up".into()))
            }
            Ok(Err(error)) => Ok(Ended::Trouble(error.to_string())),
            Ok(Ok(DataReply::Later { seconds, .. })) => {
                Ok(Ended::Again(Duration::from_secs(seconds.clamp(1, MOST_LATER).into())))
            }
            Ok(Ok(DataReply::Refused(Refusal::MissingBase(_)))) => Ok(Ended::NoBase),
            Ok(Ok(DataReply::Refused(why))) if why.is_passing() => Ok(Ended::Trouble(why.to_string())),
            Ok(Ok(DataReply::Refused(why))) => Err(format!("the gateway refused: {why}")),
            Ok(Ok(DataReply::Part(follows))) => {
                let known = have.filter(|(had, durable)| *had == follows.hash && *durable == follows.offset);
                if (follows.offset > 0 && known.is_none()) || number >= follows.parts || follows.parts > MAX_PARTS {
                    return Err("the gateway gives parts that nobody asked for".into());
                }
                self.receive(number, follows, plan, reader).await
            }
            Ok(Ok(_)) => Ok(Ended::Trouble("the gateway gave an answer to something else".into())),
        }
    }

    async fn receive(
        &self,
        number: u32,
        follows: PartFollows,
        plan: &mut Plan,
        reader: stream::FrameReader,
    ) -> Result<Ended, String> {
        if (plan.parts, plan.total) != (follows.parts, follows.total) {
            self.agree(plan, follows).await.map_err(|error| self.at(&error))?;
        }
        let path = self.folder.join(format!("{number}.part"));
        let part = Arriving {
            len: follows.len,
            hash: follows.hash,
            durable: follows.offset,
            note: number.into(),
            question: *blake3::hash(&[self.release.0, self.base.unwrap_or(ReleaseId([0; 32])).0].concat()).as_bytes(),
        };
        let before: u64 = self.durable(plan).await;
        self.progress.done.store(before + follows.offset, Ordering::Relaxed);
        let count = |bytes| {
            self.progress.done.fetch_add(bytes, Ordering::Relaxed);
        };
        match part.receive(&path, reader, count).await {
            Ok(Stopped::Whole) => self.keep(number, path).await.map_err(|error| self.at(&error)),
            Ok(Stopped::Short) => Ok(Ended::Again(WAITS.0)),
            Ok(Stopped::Trouble(why)) => Ok(Ended::Trouble(why)),
            Err(ReceiveError::TooMuch) => Ok(Ended::Damaged),
            Err(ReceiveError::File(error)) => Err(self.at(&error)),
        }
    }

    /// What the gateway says of the parts; if it says another thing than before, what is here is worth nothing.
    async fn agree(&self, plan: &mut Plan, follows: PartFollows) -> io::Result<()> {
        let next = Plan { parts: follows.parts, total: follows.total, ..plan.clone() };
        let (folder, was, written) = (self.folder.clone(), plan.clone(), next.clone());
        blocking(move || {
            for number in 0..was.parts {
                remove(&folder.join(number.to_string()))?;
            }
            report::write(&folder.join("plan"), &written)
        })
        .await?;
        self.progress.total.store(next.total, Ordering::Relaxed);
        *plan = next;
        Ok(())
    }

    /// Gives a part that came whole its name, if it is what was announced.
    async fn keep(&self, number: u32, path: PathBuf) -> io::Result<Ended> {
        let folder = self.folder.clone();
        blocking(move || {
            let whole = Arriving::find(&path, MAX_PART).filter(|part| part.durable == part.len);
            let part = whole.ok_or(io::ErrorKind::NotFound)?;
            let bytes = part.read(&path)?;
            let fits = *blake3::hash(&bytes).as_bytes() == part.hash;
            if fits {
                files::write_whole(&folder.join(number.to_string()), &[&bytes])?;
            }
            remove(&path)?;
            Ok(if fits { Ended::Here } else { Ended::Damaged })
        })
        .await
    }
}

/// An empty folder of this name, but for what is remembered of orders.
fn empty(folder: &Path) -> io::Result<()> {
    files::private_directory(folder)?;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if !path.ends_with("handed") && !path.ends_with("failed") {
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
