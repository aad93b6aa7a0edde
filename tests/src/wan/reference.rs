//! The figures to compare with: R and the peers, measured on the same images by `tests/peers/measure-peers.sh`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Bytes by volume, step and peer.
#[derive(Clone, Debug, Default)]
pub struct Reference {
    rows: BTreeMap<(String, String), BTreeMap<String, u64>>,
}

/// The peer that is no program but the yardstick.
const R: &str = "R";

impl Reference {
    /// Measures what `results` does not hold yet for these folders, then reads it.
    pub fn measure(results: &Path, folders: &[PathBuf]) -> Result<Self> {
        run(results, &[], folders)?;
        Self::read(results)
    }

    /// Reads a results file. Columns are found by their names; of two rows for one step, the later one holds.
    pub fn read(results: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(results).with_context(|| format!("reading {}", results.display()))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        let heading: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
        let column = |name: &str| heading.iter().position(|column| *column == name);
        let mut reference = Self::default();
        let (Some(volume), Some(step), Some(peer), Some(bytes)) =
            (column("volume"), column("step"), column("peer"), column("bytes"))
        else {
            return reference;
        };
        for line in lines {
            let cells: Vec<&str> = line.split(',').collect();
            let cell = |at: usize| cells.get(at).copied().unwrap_or_default().trim().to_owned();
            if let Ok(figure) = cell(bytes).parse()
                && cell(step) != "all"
            {
                reference.rows.entry((cell(volume), cell(step))).or_default().insert(cell(peer), figure);
            }
        }
        reference
    }

    /// R of a step: the payload of one frame with the whole old image in its window.
    pub fn r(&self, volume: &str, step: &str) -> Option<u64> {
        self.peers(volume, step)?.get(R).copied()
    }

    /// The best real peer of a step, and its bytes.
    pub fn best_peer(&self, volume: &str, step: &str) -> Option<(&str, u64)> {
        let real = self.peers(volume, step)?.iter().filter(|(peer, bytes)| is_real(peer) && **bytes > 0);
        real.min_by_key(|(_, bytes)| **bytes).map(|(peer, bytes)| (peer.as_str(), *bytes))
    }

    fn peers(&self, volume: &str, step: &str) -> Option<&BTreeMap<String, u64>> {
        self.rows.get(&(volume.to_owned(), step.to_owned()))
    }
}

fn run(results: &Path, options: &[&str], folders: &[PathBuf]) -> Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/measure-peers.sh");
    let status = Command::new(&script)
        .args(options)
        .arg(results)
        .args(folders)
        .status()
        .with_context(|| format!("starting {}", script.display()))?;
    ensure!(
        status.success(),
        "{} ended with {status}; what it measured so far is in {}",
        script.display(),
        results.display()
    );
    Ok(())
}

/// CPU seconds that each peer takes to look through an image that it holds already. `work` is an empty folder.
pub fn cpu_of_unchanged(work: &Path, image: &Path) -> Result<BTreeMap<String, f64>> {
    let (folder, results) = (work.join("twice"), work.join("results.csv"));
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let image = std::path::absolute(image)?;
    for name in ["g0.img", "g1.img"] {
        std::os::unix::fs::symlink(&image, folder.join(name)).with_context(|| format!("linking {name}"))?;
    }
    run(&results, &["--peers", "restic,borg-buzhash,casync-64k"], &[folder])?;
    let text = std::fs::read_to_string(&results).with_context(|| format!("reading {}", results.display()))?;
    let mut lines = text.lines();
    let heading: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let column = |name: &str| {
        heading.iter().position(|column| *column == name).with_context(|| format!("{}: no {name}", results.display()))
    };
    let (step, peer, cpu) = (column("step")?, column("peer")?, column("cpu_s")?);
    lines
        .map(|line| line.split(',').collect::<Vec<&str>>())
        .filter(|cells| cells.get(step) == Some(&"g0-g1"))
        .map(|cells| {
            let seconds = cells.get(cpu).and_then(|cell| cell.parse().ok());
            Ok((cells[peer].to_owned(), seconds.with_context(|| format!("{}: no seconds", results.display()))?))
        })
        .collect()
}

/// Programs that people use, at their best settings; models and yardsticks are none.
fn is_real(peer: &str) -> bool {
    ["restic", "borg", "casync", "rsync"].iter().any(|name| peer.starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_real_peer_is_found_and_r_is_none() {
        let text = "volume,images,step,peer,bytes,note\nv,1,seed,restic,200,\nv,1,g0-g1,R,5,\nv,1,g0-g1,restic,30,old\n\
                    v,1,g0-g1,restic,20,\nv,1,g0-g1,rsync-4k-zstd19,10,\nv,1,g0-g1,floor,1,\nv,1,all,R,0,\n";
        let reference = Reference::parse(text);
        assert_eq!(reference.r("v", "g0-g1"), Some(5));
        assert_eq!(reference.best_peer("v", "g0-g1"), Some(("rsync-4k-zstd19", 10)));
        assert_eq!(reference.best_peer("v", "seed"), Some(("restic", 200)));
        assert_eq!(reference.best_peer("w", "seed"), None);
    }
}
