//! Asks the gateway for one part of a generation and brings it here, durably: a cut, a closed window or a restart costs what is in flight and no more.
//! What arrives lies in one file per restore ([`crate::arriving`]).

use crate::arriving::{Arriving, ReceiveError, Stopped};
use crate::link::{Link, Session};
use crate::pipeline::blocking;
use dedupe::{BlockNumber, GenerationId, IngestError, Store, Taken, Wanted};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{sleep, timeout};
use wire::message::{DataReply, DataRequest, Fetch, MAX_FETCHED, Refusal, Wait};
use wire::stream::{self, FrameReader, StreamError};

/// How long the gateway may take to its answer: it waits 20 s for a worker and codes 8 MiB.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// Waits after trouble that passes: this, doubling to the other.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The longest wait that a gateway may ask for.
const MOST_LATER: u32 = 600;
/// So often the same answer may come damaged before it is given up.
const MOST_DAMAGED: u32 = 3;

/// Why a part could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PullError {
    /// An old gateway.
    #[error("the gateway is of a version that gives nothing back: upgrade the gateway, then it goes on")]
    Old,
    /// There is no such generation.
    #[error(
        "the gateway holds no generation {0} of this site, or holds it no more; `sluice-edge generations` lists what there is"
    )]
    Unknown(GenerationId),
    /// What the answer builds on is missing, here or there: to be asked for without it.
    #[error("a base is missing: generation {0}")]
    NoBase(GenerationId),
    /// The gateway says no.
    #[error("the gateway refused: {0}")]
    Refused(Refusal),
    /// What comes is not what was asked for, again and again.
    #[error("what the gateway sends is damaged each time it is asked ({0}); look at its log, and scrub its store")]
    Damaged(&'static str),
    /// The local disk.
    #[error("cannot keep what arrives in {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The local store.
    #[error("the local store: {0}")]
    Store(#[from] dedupe::StoreError),
}

/// Where a part comes from, and where it is kept meanwhile.
pub(crate) struct Pull {
    pub(crate) link: Link,
    pub(crate) store: Arc<Store>,
    /// The file for what arrives.
    pub(crate) part: PathBuf,
    pub(crate) actor: String,
    pub(crate) priority: bool,
    /// Bytes of parcels that came over the line.
    pub(crate) fetched: Arc<AtomicU64>,
    /// What it waits for, for people.
    pub(crate) waits: Arc<std::sync::Mutex<Option<String>>>,
}

/// How one question ended.
enum Ended {
    /// The part is whole.
    Whole,
    /// Some of it came.
    Short,
    /// The gateway wants to be asked later.
    Later(Duration, Wait),
    /// Trouble that passes.
    Trouble(String),
}

impl Pull {
    /// The part that is wanted, and up to which block it goes. Waits as long as it takes; may be dropped at any time.
    pub(crate) async fn part(&self, wanted: &Wanted) -> Result<(Taken, BlockNumber), PullError> {
        let (mut wait, mut damaged) = (WAITS.0, 0);
        loop {
            let ended = match self.whole(wanted).await? {
                true => Ended::Whole,
                false => {
                    let session = self.session().await?;
                    let before = self.fetched.load(Ordering::Relaxed);
                    let ended = self.ask(&session, wanted).await?;
                    if self.fetched.load(Ordering::Relaxed) > before {
                        wait = WAITS.0; // it goes on
                    }
                    ended
                }
            };
            let pause = match ended {
                Ended::Whole => match self.take(wanted).await {
                    Ok(taken) => {
                        self.wait_for(None);
                        return Ok(taken);
                    }
                    Err(IngestError::MissingBase(id)) => return Err(PullError::NoBase(id)),
                    Err(IngestError::Damaged(why)) => {
                        self.discard().await?;
                        damaged += 1;
                        tracing::warn!(why, "a fetched parcel is damaged; it is fetched again");
                        if damaged == MOST_DAMAGED {
                            return Err(PullError::Damaged(why));
                        }
                        wait
                    }
                    Err(IngestError::Store(error)) => return Err(error.into()),
                    Err(IngestError::WrongNumber { .. }) => return Err(PullError::Damaged("it has a number")),
                },
                Ended::Short => WAITS.0,
                Ended::Later(after, why) => {
                    self.wait_for(Some(match why {
                        Wait::Closed => "nothing may come down now, by the policy".into(),
                        Wait::Busy => "the gateway answers others first".into(),
                    }));
                    after
                }
                Ended::Trouble(why) => {
                    tracing::info!(why, retry_in = ?wait, "a fetch broke off");
                    self.wait_for(Some(why));
                    let now = wait;
                    wait = (wait * 2).min(WAITS.1);
                    now
                }
            };
            sleep(pause).await;
        }
    }

    /// Forgets what arrived: it is in its place, or worth nothing.
    pub(crate) async fn discard(&self) -> Result<(), PullError> {
        let path = self.part.clone();
        blocking(move || match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(PullError::File { path, source }),
            _ => Ok(()),
        })
        .await
    }

    /// A session over which something may be asked now.
    pub(super) async fn session(&self) -> Result<Arc<Session>, PullError> {
        let mut sessions = self.link.sessions();
        loop {
            let line = self.link.line();
            if !line.standing().open {
                self.wait_for(Some(format!("the line is {}", line.standing().sentence)));
            }
            line.opened().await;
            let session = sessions.borrow_and_update().clone();
            match session {
                Some(session) if !session.gives_back() => return Err(PullError::Old),
                Some(session) if session.data().is_some() => {
                    self.wait_for(None);
                    return Ok(session);
                }
                _ => {
                    self.wait_for(Some("there is no session with a gateway".into()));
                    let _never_dropped_before_us = sessions.changed().await;
                }
            }
        }
    }

    async fn ask(&self, session: &Session, wanted: &Wanted) -> Result<Ended, PullError> {
        tokio::select! {
            ended = self.asked(session, wanted) => ended,
            () = session.ended() => Ok(Ended::Trouble("the session ended".into())),
        }
    }

    async fn asked(&self, session: &Session, wanted: &Wanted) -> Result<Ended, PullError> {
        let Some(data) = session.data() else { return Ok(Ended::Short) };
        let path = self.part.clone();
        let have = blocking(move || Arriving::find(&path, MAX_FETCHED)).await.map(|part| (part.hash, part.durable));
        let (mut writer, mut reader) = match stream::open_next(data).await {
            Ok(streams) => streams,
            Err(error) => return Ok(Ended::Trouble(error.to_string())),
        };
        let fetch = Fetch {
            wanted: wanted.clone(),
            have,
            priority: self.priority,
            actor: self.actor.chars().take(100).collect(),
        };
        if let Err(error) = writer.send(&DataRequest::Fetch(fetch)).await {
            return Ok(Ended::Trouble(error.to_string()));
        }
        writer.finish();
        match timeout(ANSWER_WITHIN, reader.expect()).await {
            Err(_) => Ok(Ended::Trouble("the gateway did not answer".into())),
            Ok(Err(StreamError::Stopped(_) | StreamError::Finished)) => {
                Ok(Ended::Trouble("the gateway gave the question up".into()))
            }
            Ok(Err(error)) => Ok(Ended::Trouble(error.to_string())),
            Ok(Ok(DataReply::Later { seconds, why })) => {
                Ok(Ended::Later(Duration::from_secs(seconds.clamp(1, MOST_LATER).into()), why))
            }
            Ok(Ok(DataReply::Refused(why))) => refused(wanted, why),
            Ok(Ok(DataReply::Fetched { len, hash, offset, until })) => {
                let known = have.filter(|(had, durable)| *had == hash && *durable == offset);
                if len > MAX_FETCHED || (offset > 0 && known.is_none()) {
                    return Err(PullError::Damaged("it goes on where nothing was"));
                }
                let part = Arriving { len, hash, durable: offset, note: until.0, question: question(wanted) };
                self.receive(part, reader).await
            }
            Ok(Ok(_)) => Ok(Ended::Trouble("the gateway gave an answer to something else".into())),
        }
    }

    /// Takes the bytes until they end.
    async fn receive(&self, part: Arriving, reader: FrameReader) -> Result<Ended, PullError> {
        let count = |bytes| {
            self.fetched.fetch_add(bytes, Ordering::Relaxed);
        };
        match part.receive(&self.part, reader, count).await {
            Ok(Stopped::Whole) => Ok(Ended::Whole),
            Ok(Stopped::Short) => Ok(Ended::Short),
            Ok(Stopped::Trouble(why)) => Ok(Ended::Trouble(why)),
            Err(ReceiveError::TooMuch) => Err(PullError::Damaged("more bytes came than the parcel has")),
            Err(ReceiveError::File(source)) => Err(PullError::File { path: self.part.clone(), source }),
        }
    }

    /// Whether the answer to this question is here whole.
    async fn whole(&self, wanted: &Wanted) -> Result<bool, PullError> {
        let (path, asked) = (self.part.clone(), question(wanted));
        let found = blocking(move || Arriving::find(&path, MAX_FETCHED)).await;
        Ok(found.is_some_and(|part| part.durable == part.len && part.question == asked))
    }

    async fn take(&self, wanted: &Wanted) -> Result<(Taken, BlockNumber), IngestError> {
        let (path, store, wanted) = (self.part.clone(), self.store.clone(), wanted.clone());
        blocking(move || {
            let part = Arriving::find(&path, MAX_FETCHED).ok_or(IngestError::Damaged("it is gone from the disk"))?;
            let bytes = part.read(&path).map_err(|_| IngestError::Damaged("it cannot be read back"))?;
            if *blake3::hash(&bytes).as_bytes() != part.hash {
                return Err(IngestError::Damaged("it hashes to something else"));
            }
            let until = BlockNumber(part.note);
            Ok((store.take(&wanted, until, &bytes)?, until))
        })
        .await
    }

    fn wait_for(&self, what: Option<String>) {
        *self.waits.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = what;
    }
}

/// What a refusal means for the question.
fn refused(wanted: &Wanted, why: Refusal) -> Result<Ended, PullError> {
    match why {
        Refusal::MissingBase(id) if id == wanted.generation => Err(PullError::Unknown(id)),
        Refusal::MissingBase(id) => Err(PullError::NoBase(id)),
        why if why.is_passing() => Ok(Ended::Trouble(why.to_string())),
        why => Err(PullError::Refused(why)),
    }
}

/// Names a question.
fn question(wanted: &Wanted) -> [u8; 32] {
    *blake3::hash(&postcard::to_allocvec(wanted).expect("plain data serialises")).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_question_has_another_name() {
        let wanted = Wanted {
            generation: GenerationId([1; 16]),
            base: None,
            start: BlockNumber(0),
            end: BlockNumber(1),
            absent: Vec::new(),
            held: Vec::new(),
            most: 1,
        };
        assert_eq!(question(&wanted), question(&wanted.clone()));
        assert_ne!(question(&wanted), question(&Wanted { base: Some(GenerationId([2; 16])), ..wanted.clone() }));
        let unknown = refused(&wanted, Refusal::MissingBase(wanted.generation));
        assert!(matches!(unknown, Err(PullError::Unknown(_))));
        assert!(matches!(refused(&wanted, Refusal::MissingBase(GenerationId([2; 16]))), Err(PullError::NoBase(_))));
        assert!(matches!(refused(&wanted, Refusal::Internal("x".into())), Ok(Ended::Trouble(_))));
        assert!(matches!(refused(&wanted, Refusal::Protocol("x".into())), Err(PullError::Refused(_))));
    }
}
