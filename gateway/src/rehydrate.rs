//! A generation to a target: plan, show, execute, prove.
//!
//! The target says what it holds; from that and the slab records follows what has to be written. Then the target is read back and its root compared, so that the
//! proof is about the place and not about our bookkeeping; a target that somebody else touched is found there and written anew.
//!
//! A run is a row of the catalogue from its first step to its proof. A crash at any moment is harmless: the same run goes on, from the last byte that it
//! knows to be durable, and what it left in a cloud is found by its id.

mod extents;
mod fill;
pub(crate) mod orders;
pub mod places;
mod readback;
pub mod runs;
pub(crate) mod standing;
mod statement;
pub(crate) mod tally;

pub use places::{Limits, Place, Proof, Where};
pub use readback::{root_of_generation, root_of_image};
pub use runs::{Found, Phase, Proven, Run, Standing, Trouble};

use crate::catalogue::{Catalogue, CatalogueError};
use crate::proofs::ProofError;
use crate::state::State;
use dedupe::{Content, Generation, GenerationId, Progress, Root, RunId, Store, StoreError, TenantId, UnixMillis, View};
use extents::{Extents, Scope};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::{Arc, Mutex};
use targets::{Filling, Image, Keeps, Notes, Point, Start, Target, TargetError, Work};

/// Why a generation could not be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RehydrateError {
    /// The target cannot be used, read or written.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// What is known of the run cannot be kept.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// What was proved cannot be stated.
    #[error(transparent)]
    Statement(#[from] ProofError),
    /// The store failed.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// A draft is asked for.
    #[error("generation {0} is not complete; only sealed generations can be rebuilt")]
    Draft(GenerationId),
    /// What was read back is something else, also after everything was written anew.
    #[error(
        "{target} reads back as {found} instead of {wanted}: it does not keep what is written to it, or something else writes to it"
    )]
    Unproved {
        /// The target.
        target: String,
        /// What it hashes to.
        found: String,
        /// What it should hash to.
        wanted: Root,
    },
    /// A point of this run that nothing here says was proved.
    #[error(
        "{0} holds a point of this run, and the catalogue, perhaps restored from a backup, does not know that it was proved: remove that point there, or give the run up, and run it again"
    )]
    Unknown(String),
    /// The same volume is on its way to the same target.
    #[error("a run of this volume to {0} is under way; wait for it, or stop it")]
    Busy(String),
    /// Asked to stop.
    #[error(
        "stopped; the target is incomplete. Run it again to go on where it stopped, or give the run up to clean the target"
    )]
    Cancelled,
}

impl RehydrateError {
    /// Whether trying again later can help without anybody doing something.
    pub fn passes(&self) -> bool {
        match self {
            RehydrateError::Target(error) => error.retry() == targets::Retry::Later,
            RehydrateError::Busy(_) | RehydrateError::Cancelled => true,
            _ => false,
        }
    }

    /// Whether the credentials are what is wrong.
    pub fn is_credentials(&self) -> bool {
        matches!(self, RehydrateError::Target(error) if error.is_credentials())
    }
}

/// What is going to be done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Plan {
    /// Where: the name of a target, or a path.
    pub target: String,
    /// The generation.
    #[serde(with = "crate::admin::as_text")]
    #[schema(value_type = String)]
    pub generation: GenerationId,
    /// Its number for people.
    pub number: u64,
    /// Size of the volume in bytes.
    pub size: u64,
    /// The generation that the target holds now, by number, when only what differs is written.
    pub from: Option<u64>,
    /// Why everything is written, when it is.
    pub whole_because: Option<String>,
    /// Bytes to write.
    pub data_bytes: u64,
    /// Bytes to make zero.
    pub zero_bytes: u64,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// What was planned.
    pub plan: Plan,
    /// What the target calls the point: a path, the id of a snapshot.
    pub point: String,
    /// What a person does to run a machine from it, one command a line.
    pub next_steps: Vec<String>,
    /// Bytes written, over all attempts of the run.
    pub written_bytes: u64,
    /// Bytes read back.
    pub verified_bytes: u64,
    /// Whether the target had been touched by somebody else and was written anew.
    pub repaired: bool,
    /// The root that was proved; unless all was read back, of what was compared only.
    pub root: String,
    /// How it was proved.
    pub proof: Proof,
    /// The number of the signed statement.
    pub statement: u64,
}

/// What a run is asked for with.
pub struct Asked<'a> {
    /// The store of the tenant.
    pub store: &'a Arc<Store>,
    /// Where runs are kept, and what signs what was proved.
    pub state: &'a State,
    /// Whose it is.
    pub tenant: TenantId,
    /// The volume.
    pub image: Image,
    /// The generation.
    pub generation: GenerationId,
    /// Where, in words.
    pub to: Where,
    /// The target itself.
    pub target: &'a dyn Target,
    /// How it is proved.
    pub proof: Proof,
    /// What it may use.
    pub limits: Limits,
    /// Who asks.
    pub by: String,
    /// When.
    pub now: UnixMillis,
    /// Whether the daemon goes on with it by itself after a restart.
    pub resumes: bool,
}

/// A generation on its way to a target.
pub struct Rehydration<'a> {
    asked: Asked<'a>,
    view: View,
    root: Root,
    run: Mutex<Run>,
    plan: Plan,
}

/// What is told while it is done.
pub struct Watch<'a> {
    /// Counts bytes of the phase, and those written; ends the work when it is cancelled.
    pub progress: &'a Progress,
    /// Is told what is being done whenever that changes.
    pub phase: &'a dyn Fn(&'static str),
    /// Whether it is the daemon that ends, when it is cancelled.
    pub is_ending: &'a (dyn Fn() -> bool + Sync),
}

impl<'a> Rehydration<'a> {
    /// Looks at the target and decides what has to be written. Changes nothing there.
    pub fn plan(asked: Asked<'a>) -> Result<Rehydration<'a>, RehydrateError> {
        let view = asked.store.view(asked.generation)?;
        let generation = view.generation().clone();
        let root = generation.sealed.ok_or(RehydrateError::Draft(asked.generation))?.root;
        let open = open_run(&asked)?.filter(|run| run.work.generation == asked.generation);
        let is_new = open.is_none();
        let run = match open {
            Some(run) => run,
            None => new_run(&asked, &generation, root)?,
        };
        let start = asked.target.look(&run.work)?;
        let scope = scope_of(&asked, &generation, &start, &run, false)?;
        let shape = asked.target.shape();
        let held = match &scope {
            Scope::Delta { base, .. } => base.as_ref().map(|base| base.number),
            _ => None,
        };
        let whole_because = match (&scope, &start) {
            (Scope::Delta { .. }, _) => None,
            (Scope::Fresh, Start::Unknown(why)) | (Scope::Whole(why), _) => Some(why.clone()),
            (Scope::Fresh, _) => Some("the target is new".to_owned()),
        };
        let mut plan = Plan {
            target: asked.to.to_string(),
            generation: generation.id,
            number: generation.number,
            size: generation.size.0,
            from: held,
            whole_because,
            data_bytes: 0,
            zero_bytes: 0,
        };
        let is_fresh = matches!(scope, Scope::Fresh);
        let extents = Extents::new(asked.store, &view, scope, &shape);
        for stretch in extents.stretches()? {
            for (range, content) in extents.of(stretch)? {
                match content {
                    Content::Data => plan.data_bytes += range.end - range.start,
                    Content::Zero => plan.zero_bytes += range.end - range.start,
                }
            }
        }
        if is_fresh {
            plan.zero_bytes = plan.size - plan.data_bytes; // by being there
        }
        tracing::debug!(target = plan.target, is_new, from = plan.from, data = plan.data_bytes, "planned");
        Ok(Rehydration { asked, view, root, run: Mutex::new(run), plan })
    }

    /// What is going to be done.
    pub fn shown(&self) -> &Plan {
        &self.plan
    }

    /// Does it.
    ///
    /// # Errors
    /// The run stays open, so that doing it again goes on; [`RehydrateError::Unproved`] ends it and cleans the target.
    pub fn execute(self, watch: &Watch<'_>) -> Result<Done, RehydrateError> {
        let done = self.attempts(watch);
        if let Err(error) = &done {
            // A daemon that stops goes on with it when it starts.
            let rests = !matches!(error, RehydrateError::Cancelled) || !(watch.is_ending)();
            if rests && self.run().is_open() {
                self.change(|run| run.held = Some(error.to_string()))?;
            }
        }
        done
    }

    fn attempts(&self, watch: &Watch<'_>) -> Result<Done, RehydrateError> {
        self.clear_the_way()?;
        let mut done = self.attempt(watch, false);
        if let Err(RehydrateError::Unproved { .. }) = done {
            let was_all = matches!(self.run().found, Some(Found::Fresh | Found::Whole(_)));
            self.give_up("what was read back was something else")?;
            if !was_all {
                tracing::warn!(target = self.plan.target, "the target was touched since; it is written anew");
                let generation = self.view.generation();
                *self.run.lock().expect("no holder panics") = new_run(&self.asked, generation, self.root)?;
                done = self.attempt(watch, true);
                if let Err(RehydrateError::Unproved { .. }) = done {
                    self.give_up("what was read back was something else, also when all of it was written anew")?;
                }
            }
        }
        done
    }

    fn run(&self) -> Run {
        self.run.lock().expect("no holder panics").clone()
    }

    fn change(&self, change: impl FnOnce(&mut Run)) -> Result<(), RehydrateError> {
        let mut run = self.run.lock().expect("no holder panics");
        change(&mut run);
        Ok(self.asked.state.catalogue.put_run(&run)?)
    }

    /// Another run of this volume to this target that is not over makes way: what it left there is cleaned, or told by the target as what lies between.
    fn clear_the_way(&self) -> Result<(), RehydrateError> {
        match open_run(&self.asked)?.filter(|other| other.work.run != self.run().work.run) {
            None => Ok(()),
            Some(other) => {
                let why = format!("generation {} was asked for instead", self.plan.number);
                give_up(&self.asked.state.catalogue, self.asked.target, other, &why, self.asked.now)
            }
        }
    }

    fn give_up(&self, why: &str) -> Result<(), RehydrateError> {
        give_up(&self.asked.state.catalogue, self.asked.target, self.run(), why, self.asked.now)
    }

    fn notes(&self) -> impl Notes + '_ {
        RunNotes(self)
    }

    fn attempt(&self, watch: &Watch<'_>, anew: bool) -> Result<Done, RehydrateError> {
        self.change(|run| run.held = None)?;
        let (run, notes) = (self.run(), self.notes());
        (watch.phase)("preparing the target");
        let (start, filling) = self.asked.target.prepare(&run.work, &notes)?;
        if let Start::Finished(point) = start {
            return self.finished(point);
        }
        let generation = self.view.generation();
        let scope = scope_of(&self.asked, generation, &start, &run, anew)?;
        if start != Start::Resumed || run.found.is_none() {
            let found = Found::from(&scope);
            self.change(|run| (run.found, run.phase) = (Some(found), Phase::Writing { up_to: 0 }))?;
        }
        let shape = self.asked.target.shape();
        let extents = Extents::new(self.asked.store, &self.view, scope, &shape);
        if !matches!(self.run().phase, Phase::Proved { .. }) {
            (watch.phase)(if anew { "writing anew" } else { "writing" });
            fill::write(self, &*filling, &extents, watch.progress)?;
            filling.complete()?;
            self.change(|run| run.phase = Phase::Proving)?;
            (watch.phase)(tally::READING_BACK);
            let proven = self.prove(&*filling, &extents, watch.progress, anew)?;
            self.change(|run| run.phase = Phase::Proved { proven })?;
        }
        dedupe::crash_point("gateway.rehydrate.proved");
        (watch.phase)("making it a restorable point");
        let point = filling.finish(self.asked.state.now())?;
        dedupe::crash_point("gateway.rehydrate.finished");
        self.finished(point)
    }

    fn finished(&self, point: Point) -> Result<Done, RehydrateError> {
        let proven = match self.run().phase {
            Phase::Proved { proven } => proven,
            // The target says so, and we did not write down that it was proved: the catalogue was restored from a backup. Nothing is stated that is not known.
            _ => return Err(RehydrateError::Unknown(self.plan.target.clone())),
        };
        let catalogue = &self.asked.state.catalogue;
        let mut run = self.run();
        let kind = self.asked.target.shape().kind;
        let statement = statement::of(self.asked.state, &run, kind, &point, &proven)?;
        run.ended = Some(self.asked.state.now());
        let number = catalogue.finish_run(run, point.clone(), proven.clone(), statement)?;
        catalogue.tidy_runs()?;
        Ok(Done {
            plan: self.plan.clone(),
            next_steps: self.asked.target.next_steps(&point),
            point: point.id,
            written_bytes: self.run().written,
            verified_bytes: proven.bytes,
            repaired: proven.repaired,
            root: self.root.to_string(),
            proof: proven.method,
            statement: number,
        })
    }

    fn unproved(&self, found: String) -> RehydrateError {
        RehydrateError::Unproved { target: self.plan.target.clone(), found, wanted: self.root }
    }

    fn prove(
        &self,
        filling: &dyn Filling,
        extents: &Extents,
        progress: &Progress,
        anew: bool,
    ) -> Result<Proven, RehydrateError> {
        let method = self.asked.proof;
        let parallel = self.asked.target.shape().parallel;
        let bytes = match method {
            Proof::All => match readback::whole(filling, self.view.size(), parallel, progress)? {
                Some(found) if found == self.root => self.plan.size,
                Some(found) => return Err(self.unproved(found.to_string())),
                None => return Err(RehydrateError::Cancelled),
            },
            Proof::Changed | Proof::Sample(_) => {
                let share = if let Proof::Sample(share) = method { share } else { 0 };
                readback::parts(filling, &self.view, extents, share, progress)?
                    .map_err(|at| self.unproved(format!("something else at byte {at}")))?
            }
        };
        Ok(Proven { method, bytes, repaired: anew })
    }
}

struct RunNotes<'a, 'b>(&'a Rehydration<'b>);

impl Notes for RunNotes<'_, '_> {
    fn get(&self) -> Option<String> {
        self.0.run().notes
    }

    fn put(&self, notes: &str) -> Result<(), TargetError> {
        let kept = self.0.change(|run| run.notes = Some(notes.to_owned()));
        kept.map_err(|error| TargetError::Unfit(error.to_string()))
    }
}

/// Notes of a run that nobody works on.
struct Kept<'a> {
    catalogue: &'a Catalogue,
    run: Mutex<Run>,
}

impl Notes for Kept<'_> {
    fn get(&self) -> Option<String> {
        self.run.lock().expect("no holder panics").notes.clone()
    }

    fn put(&self, notes: &str) -> Result<(), TargetError> {
        let mut run = self.run.lock().expect("no holder panics");
        run.notes = Some(notes.to_owned());
        self.catalogue.put_run(&run).map_err(|error| TargetError::Unfit(error.to_string()))
    }
}

/// Ends a run without a point, and cleans its target of it.
pub fn give_up(
    catalogue: &Catalogue,
    target: &dyn Target,
    run: Run,
    why: &str,
    now: UnixMillis,
) -> Result<(), RehydrateError> {
    let work = run.work.clone();
    let kept = Kept { catalogue, run: Mutex::new(run) };
    target.abandon(&work, &kept)?;
    let run = kept.run.into_inner().expect("no holder panicked");
    Ok(catalogue.put_run(&Run { ended: Some(now), phase: Phase::GivenUp { why: why.to_owned() }, ..run })?)
}

/// The run of this volume to this target that is not over.
fn open_run(asked: &Asked<'_>) -> Result<Option<Run>, RehydrateError> {
    let same = |run: &Run| {
        run.is_open()
            && run.tenant == asked.tenant
            && run.to == asked.to
            && run.work.image.lineage == asked.image.lineage
    };
    Ok(asked.state.catalogue.runs()?.into_iter().find(same))
}

fn new_run(asked: &Asked<'_>, generation: &Generation, root: Root) -> Result<Run, RehydrateError> {
    let work = Work {
        run: RunId::random(),
        image: asked.image.clone(),
        generation: generation.id,
        number: generation.number,
        captured: generation.captured_at,
        root,
        size: generation.size,
        base: base_for(asked, generation)?,
    };
    Ok(Run {
        work,
        tenant: asked.tenant,
        to: asked.to.clone(),
        proof: asked.proof,
        by: asked.by.clone(),
        begun: asked.now,
        found: None,
        phase: Phase::Writing { up_to: 0 },
        notes: None,
        written: 0,
        resumes: asked.resumes,
        held: None,
        ended: None,
    })
}

/// The newest point of the target whose generation the store still has.
fn base_for(asked: &Asked<'_>, generation: &Generation) -> Result<Option<Point>, RehydrateError> {
    for point in asked.target.points(&asked.image)?.into_iter().rev() {
        let known = asked.store.generation(point.generation)?.filter(|known| known.lineage == generation.lineage);
        if known.is_some_and(|known| known.sealed.is_some_and(|sealed| sealed.root == point.root)) {
            return Ok(Some(point));
        }
    }
    Ok(None)
}

fn scope_of(
    asked: &Asked<'_>,
    generation: &Generation,
    start: &Start,
    run: &Run,
    anew: bool,
) -> Result<Scope, RehydrateError> {
    if anew {
        return Ok(match start {
            Start::Zeroes => Scope::Fresh,
            _ => Scope::Whole("what was read back was something else".into()),
        });
    }
    match (start, &run.found) {
        (Start::Resumed, Some(found)) => found.scope(asked.store),
        _ => Scope::of(asked.store, generation, start),
    }
}

impl Found {
    fn from(scope: &Scope) -> Found {
        match scope {
            Scope::Fresh => Found::Fresh,
            Scope::Whole(why) => Found::Whole(why.clone()),
            Scope::Delta { base, others } => Found::Delta {
                base: base.as_ref().map(|base| base.id),
                others: others.iter().map(|other| other.id).collect(),
            },
        }
    }

    /// Generations that were forgotten since leave no other way than all of it.
    fn scope(&self, store: &Store) -> Result<Scope, RehydrateError> {
        let (base, others) = match self {
            Found::Fresh => return Ok(Scope::Fresh),
            Found::Whole(why) => return Ok(Scope::Whole(why.clone())),
            Found::Delta { base, others } => (base, others),
        };
        let known = |id: &GenerationId| store.generation(*id);
        let base = base.as_ref().map(known).transpose()?;
        let others: Vec<Option<Generation>> = others.iter().map(known).collect::<Result<_, _>>()?;
        match (base, others.into_iter().collect::<Option<Vec<_>>>()) {
            (Some(None), _) | (_, None) => {
                Ok(Scope::Whole("a generation that the run built on is kept no more".into()))
            }
            (base, Some(others)) => Ok(Scope::Delta { base: base.flatten(), others }),
        }
    }
}

/// Removes the oldest points of a volume beyond `keep` from a target. `held` says which must stay whatever their number: those under a lock.
/// Returns how many went.
pub fn retire_points(
    target: &dyn Target,
    image: &Image,
    keep: usize,
    held: &dyn Fn(&Point) -> bool,
) -> Result<usize, RehydrateError> {
    if target.shape().keeps == Keeps::One {
        return Ok(0);
    }
    let points = target.points(image)?;
    let old = points.iter().take(points.len().saturating_sub(keep.max(1))).filter(|point| !held(point));
    let mut gone = 0;
    for point in old {
        target.remove(point)?;
        gone += 1;
    }
    Ok(gone)
}

/// Where a file or device of the gateway's machine is opened as a target.
pub fn target_at(path: &Path, state: &Path) -> Box<dyn Target> {
    Box::new(targets::raw::Raw::exact(path, &places::records_in(state)))
}
