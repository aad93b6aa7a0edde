//! What a restore would do and cost: which generation, what of it is here, what has to come over the line, and when that will have come inside of the policy.

use super::Order;
use super::nearest_of;
use super::target::{self, TargetError};
use crate::daemon::Daemon;
use crate::pipeline::blocking;
use crate::text;
use dedupe::{BLOCK, BlockNumber, Generation, GenerationId, LineageId, Root, StoreError, UnixMillis};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use wire::message::Held;

/// Runs of evicted blocks that are listed at once while they are counted.
const COUNTED: usize = 4096;

/// Why a restore cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// There is no such volume.
    #[error(transparent)]
    Volume(#[from] crate::volumes::VolumesError),
    /// Numbers are the gateway's.
    #[error(
        "generation {0} is a number of the gateway's, and there is no session with one; give the id (`sluice-edge generations {1}`), or `latest`"
    )]
    NumberAlone(u64, String),
    /// There is no such generation.
    #[error(
        "there is no generation `{asked}` of `{volume}` {place}; `sluice-edge generations {volume} --remote` lists what there is"
    )]
    NoGeneration {
        /// What was asked for.
        asked: String,
        /// The volume.
        volume: String,
        /// Where was looked.
        place: &'static str,
    },
    /// The gateway would be needed.
    #[error("it has to be asked what the gateway holds: {0}")]
    NoGateway(String),
    /// The gateway is old.
    #[error("the gateway is of a version that gives nothing back: upgrade it first")]
    Old,
    /// The target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The local store.
    #[error("the local store: {0}")]
    Store(#[from] StoreError),
}

/// A generation of a volume, and which of the two ends has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// Its id.
    pub generation: String,
    /// Its number at the gateway.
    pub number: Option<u64>,
    /// Its number at this edge.
    pub number_here: Option<u64>,
    /// What its bytes hash to.
    pub root: String,
    /// Bytes of the volume.
    pub size: u64,
    /// When it was captured, Unix milliseconds.
    pub captured_at: u64,
}

/// What a restore would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The volume.
    pub volume: String,
    /// The generation.
    pub generation: String,
    /// Its number for people.
    pub number: u64,
    /// What its bytes hash to.
    pub root: String,
    /// When it was captured, Unix milliseconds.
    pub captured_at: u64,
    /// Bytes of the volume.
    pub size: u64,
    /// Where to.
    pub to: PathBuf,
    /// Whether that is a block device, which holds neither the old nor the new until it is done.
    pub is_device: bool,
    /// The generation here that is built on, if there is one.
    pub base: Option<String>,
    /// Bytes of the volume that have to be brought, at most.
    pub missing_bytes: u64,
    /// What that is expected to be on the line.
    pub line_bytes: u64,
    /// When it will have come inside of the policy, Unix seconds; absent: nothing has to come, or nobody can tell.
    pub arrives_at: Option<i64>,
    /// In how many windows that is.
    pub windows: Option<u32>,
    /// All of it for people.
    pub sentence: String,
    #[serde(skip, default = "nothing")]
    pub(super) lineage: LineageId,
    #[serde(skip, default = "none")]
    pub(super) id: GenerationId,
    #[serde(skip, default = "unproved")]
    pub(super) proof: Root,
}

fn nothing() -> LineageId {
    LineageId([0; 16])
}

fn none() -> GenerationId {
    GenerationId([0; 16])
}

fn unproved() -> Root {
    Root { scheme: dedupe::RootScheme::Blake3, hash: [0; 32] }
}

/// What both ends hold of a volume.
pub(crate) struct Both {
    pub(crate) lineage: LineageId,
    pub(crate) local: Vec<Generation>,
    /// What the gateway holds; `Err`: why that is not known.
    pub(crate) remote: Result<Vec<Held>, PlanError>,
}

/// The generation that was asked for.
#[derive(Clone, Copy)]
pub(crate) struct Chosen {
    pub(crate) id: GenerationId,
    pub(crate) number: u64,
    pub(crate) root: Root,
    pub(crate) size: u64,
    pub(crate) captured_at: UnixMillis,
    /// Whether it is here.
    pub(crate) is_here: bool,
}

/// The lineage that a name, or the id of a lineage, stands for.
fn lineage_of(daemon: &Daemon, volume: &str) -> Result<LineageId, PlanError> {
    let found = daemon.disk().volumes().find(volume).map(|entry| entry.lineage);
    // A box that took another one's place knows none of its volumes by name.
    found.or_else(|error| volume.parse().map_err(|_| error.into()))
}

impl Both {
    /// Looks here, and asks the gateway while there is a session.
    pub(crate) async fn look(daemon: &Daemon, volume: &str) -> Result<Both, PlanError> {
        let lineage = lineage_of(daemon, volume)?;
        let disk = daemon.disk().clone();
        let mut local = blocking(move || disk.store.generations(lineage)).await?;
        local.retain(Generation::is_sealed);
        let session = daemon.link().sessions().borrow().clone();
        let remote = match session {
            None => {
                Err(PlanError::NoGateway("there is no session with a gateway; `sluice-edge status` says why".into()))
            }
            Some(session) if !session.gives_back() => Err(PlanError::Old),
            Some(session) => session.list(lineage).await.map_err(|error| PlanError::NoGateway(error.to_string())),
        };
        Ok(Both { lineage, local, remote })
    }

    /// All of them, newest first.
    pub(crate) fn all(&self) -> Vec<Known> {
        let remote = self.remote.as_deref().unwrap_or_default();
        let here = |id| self.local.iter().find(|known| known.id == id).map(|known| known.number);
        let mut all: Vec<Known> = remote
            .iter()
            .map(|held| Known {
                generation: held.generation.to_string(),
                number: Some(held.number),
                number_here: here(held.generation),
                root: held.root.to_string(),
                size: held.size.0,
                captured_at: held.captured_at.0,
            })
            .collect();
        for known in self.local.iter().filter(|known| remote.iter().all(|held| held.generation != known.id)) {
            let Some(sealed) = known.sealed else { continue };
            all.push(Known {
                generation: known.id.to_string(),
                number: None,
                number_here: Some(known.number),
                root: sealed.root.to_string(),
                size: known.size.0,
                captured_at: known.captured_at.0,
            });
        }
        all.sort_by_key(|known| std::cmp::Reverse(known.captured_at));
        all
    }

    /// The one that was asked for: `latest`, a number of the gateway's, or an id.
    pub(crate) fn choose(self, volume: &str, asked: &str) -> Result<(Chosen, Vec<Generation>, Vec<Held>), PlanError> {
        let unknown =
            |place| PlanError::NoGeneration { asked: asked.chars().take(64).collect(), volume: volume.into(), place };
        let (wanted, by_number) = match (asked, asked.parse::<u64>(), asked.parse::<GenerationId>()) {
            ("latest", ..) => {
                let newest = self.local.last().map(|known| known.id);
                (newest.or(self.remote.as_ref().ok().and_then(|held| held.first()).map(|held| held.generation)), None)
            }
            (_, _, Ok(id)) => (Some(id), None),
            (_, Ok(number), _) => (None, Some(number)),
            _ => return Err(unknown("here or at the gateway")),
        };
        let here = self.local.iter().find(|known| Some(known.id) == wanted);
        let remote = match (self.remote, here, by_number) {
            (Ok(held), ..) => held,
            (Err(_), Some(_), _) => Vec::new(), // all that is needed may be here
            (Err(PlanError::NoGateway(_)), None, Some(number)) => {
                return Err(PlanError::NumberAlone(number, volume.into()));
            }
            (Err(error), None, _) => return Err(error),
        };
        let held = remote.iter().find(|held| Some(held.generation) == wanted || Some(held.number) == by_number);
        let here = here.or(held.and_then(|held| self.local.iter().find(|known| known.id == held.generation)));
        let chosen = match (held, here) {
            (Some(held), here) => Chosen {
                id: held.generation,
                number: held.number,
                root: held.root,
                size: held.size.0,
                captured_at: held.captured_at,
                is_here: here.is_some(),
            },
            (None, Some(here)) => Chosen {
                id: here.id,
                number: here.number,
                root: here.sealed.ok_or_else(|| unknown("here"))?.root,
                size: here.size.0,
                captured_at: here.captured_at,
                is_here: true,
            },
            (None, None) => return Err(unknown("here or at the gateway")),
        };
        Ok((chosen, self.local, remote))
    }
}

/// Looks at everything that a restore depends on. Changes nothing.
pub(super) async fn plan(daemon: &Daemon, order: &Order) -> Result<Plan, PlanError> {
    let both = Both::look(daemon, &order.volume).await?;
    let lineage = both.lineage;
    let (chosen, local, remote) = both.choose(&order.volume, &order.generation)?;
    let base = match chosen.is_here {
        true => Some(chosen.id),
        false => nearest_of(&local, &remote, chosen.number),
    };
    let (evicted, disk) = (local.iter().find(|known| Some(known.id) == base).cloned(), daemon.disk().clone());
    let absent = blocking(move || evicted.map_or(Ok(0), |base| absent_blocks(&disk.store, &base))).await?;
    let mut missing = absent;
    let mut ratio = 1000;
    let session = daemon.link().sessions().borrow().clone();
    if let Some(session) = session.filter(|_| !chosen.is_here || absent > 0) {
        let measured =
            session.measure(chosen.id, base).await.map_err(|error| PlanError::NoGateway(error.to_string()))?;
        if let Some(measured) = measured {
            missing += measured.blocks;
            ratio = u64::from(measured.ratio.max(1));
        }
    }
    let missing_bytes = (missing * BLOCK as u64).min(chosen.size);
    let line_bytes = (missing_bytes as u128 * 1000 / u128::from(ratio)) as u64;
    check_target(daemon, order, chosen.size, if base.is_none() { missing_bytes } else { 0 }).await?;
    let comes = Some(line_bytes).filter(|bytes| *bytes > 0).and_then(|bytes| daemon.link().line().comes_down(bytes));
    let mut plan = Plan {
        volume: order.volume.clone(),
        generation: chosen.id.to_string(),
        number: chosen.number,
        root: chosen.root.to_string(),
        captured_at: chosen.captured_at.0,
        size: chosen.size,
        to: order.to.clone(),
        is_device: target::is_device(&order.to),
        base: base.map(|base| base.to_string()),
        missing_bytes,
        line_bytes,
        arrives_at: comes.map(|(at, _)| at.as_second()),
        windows: comes.map(|(_, windows)| windows),
        sentence: String::new(),
        lineage,
        id: chosen.id,
        proof: chosen.root,
    };
    plan.sentence = sentence(&plan, &|second| daemon.link().line().moment(second));
    Ok(plan)
}

fn absent_blocks(store: &dedupe::Store, base: &Generation) -> Result<u64, StoreError> {
    let (mut at, end, mut blocks) = (BlockNumber(0), BlockNumber(base.size.blocks()), 0);
    while at < end {
        let (runs, until) = store.absent(base, at, end, COUNTED)?;
        blocks += runs.iter().map(|run| run.count).sum::<u64>();
        at = until;
    }
    Ok(blocks)
}

async fn check_target(daemon: &Daemon, order: &Order, size: u64, data: u64) -> Result<(), PlanError> {
    let volumes: Vec<(String, PathBuf)> = daemon
        .all_volumes()
        .iter()
        .filter_map(|volume| Some((volume.entry.name.clone(), volume.entry.source.path()?.to_owned())))
        .collect();
    let (to, own, onto_source) = (order.to.clone(), order.volume.clone(), order.onto_source);
    let checked = blocking(move || {
        // Onto another volume's source never: nothing says that it is to be overwritten.
        let refused = volumes.iter().filter(|(name, _)| !(onto_source && *name == own));
        target::refuse_sources(&to, refused.map(|(name, path)| (name.as_str(), path.as_path())))?;
        let is_source = volumes.iter().any(|(_, path)| target::overlaps(&to, path));
        target::check(&to, size, data, is_source)
    });
    Ok(checked.await?)
}

fn sentence(plan: &Plan, moment: &dyn Fn(i64) -> String) -> String {
    let what = format!("Generation {} of {} ({})", plan.number, plan.volume, text::bytes(plan.size));
    let line = match (plan.line_bytes, plan.arrives_at, plan.windows) {
        (0, ..) => "all of it is here, and nothing has to come over the line".into(),
        (bytes, Some(at), Some(windows)) => format!(
            "about {} have to come over the line for {} that are not here, expected by {}, in {windows} window{}",
            text::bytes(bytes),
            text::bytes(plan.missing_bytes),
            moment(at),
            if windows == 1 { "" } else { "s" }
        ),
        (bytes, ..) => format!(
            "about {} have to come over the line for {} that are not here",
            text::bytes(bytes),
            text::bytes(plan.missing_bytes)
        ),
    };
    let target = match plan.is_device {
        true => format!("{} is incomplete until it is done", plan.to.display()),
        false => format!("{} gets its name when it is whole and proved", plan.to.display()),
    };
    format!("{what}: {line}. {target}.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use dedupe::{ByteCount, GenerationStats, RootScheme, Sealed, SlabNumber};

    fn root(byte: u8) -> Root {
        Root { scheme: RootScheme::Blake3, hash: [byte; 32] }
    }

    fn here(byte: u8, number: u64) -> Generation {
        Generation {
            id: GenerationId([byte; 16]),
            lineage: LineageId([9; 16]),
            number,
            parent: None,
            size: ByteCount(4096),
            captured_at: UnixMillis(u64::from(byte)),
            sealed: Some(Sealed { root: root(byte), at: UnixMillis(1) }),
            stats: GenerationStats::default(),
            source: Vec::new(),
            scanned: SlabNumber(0),
        }
    }

    fn there(byte: u8, number: u64) -> Held {
        Held {
            generation: GenerationId([byte; 16]),
            number,
            root: root(byte),
            size: ByteCount(4096),
            captured_at: UnixMillis(u64::from(byte)),
        }
    }

    fn both(remote: Result<Vec<Held>, PlanError>) -> Both {
        Both { lineage: LineageId([9; 16]), local: vec![here(5, 40), here(6, 41), here(8, 43)], remote }
    }

    #[test]
    fn numbers_are_the_gateways_and_ids_are_both() {
        let remote = || Ok(vec![there(6, 12), there(5, 11), there(3, 10), there(1, 9)]);
        let choose = |asked: &str| both(remote()).choose("disk", asked).map(|(chosen, ..)| chosen);
        let chosen = choose("latest").unwrap();
        assert_eq!(
            (chosen.id, chosen.number, chosen.is_here),
            (GenerationId([8; 16]), 43, true),
            "newer than the gateway's"
        );
        let chosen = choose("11").unwrap();
        assert_eq!((chosen.id, chosen.is_here), (GenerationId([5; 16]), true));
        let chosen = choose("9").unwrap();
        assert_eq!((chosen.id, chosen.is_here, chosen.root), (GenerationId([1; 16]), false, root(1)));
        assert_eq!(choose(&GenerationId([3; 16]).to_string()).unwrap().number, 10);
        for bad in ["40", "x", "", &GenerationId([7; 16]).to_string()] {
            assert!(matches!(choose(bad), Err(PlanError::NoGeneration { .. })), "{bad}");
        }
        assert_eq!(nearest_of(&both(remote()).local, &remote().unwrap(), 9), Some(GenerationId([5; 16])));
        assert_eq!(nearest_of(&[], &remote().unwrap(), 9), None);
    }

    #[test]
    fn without_a_gateway_what_is_here_can_be_had_by_id() {
        let silent = || Err(PlanError::NoGateway("cut".into()));
        let choose = |asked: &str| both(silent()).choose("disk", asked).map(|(chosen, ..)| chosen);
        assert_eq!(choose("latest").unwrap().id, GenerationId([8; 16]));
        assert_eq!(choose(&GenerationId([5; 16]).to_string()).unwrap().number, 40);
        assert!(matches!(choose("40"), Err(PlanError::NumberAlone(40, _))));
        assert!(matches!(choose(&GenerationId([1; 16]).to_string()), Err(PlanError::NoGateway(_))));
        assert!(matches!(both(Err(PlanError::Old)).choose("disk", "9"), Err(PlanError::Old)));
    }

    #[test]
    fn the_list_has_both_ends() {
        let all = both(Ok(vec![there(6, 12), there(1, 9)])).all();
        let numbers: Vec<_> = all.iter().map(|known| (known.number, known.number_here)).collect();
        assert_eq!(numbers, [(None, Some(43)), (Some(12), Some(41)), (None, Some(40)), (Some(9), None)]);
    }
}
