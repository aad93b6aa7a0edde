//! What can be said of a source before it is a volume: `volume test`.

use super::nbd::NbdSource;
use super::qemu::QemuSource;
use super::{Source, SourceConfig, SourceError, SourceSpec};
use dedupe::ByteOffset;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long bytes are read for the rate, about.
const READING: Duration = Duration::from_secs(3);
/// Bytes that are read for the rate at most.
const MOST: u64 = 1 << 30;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at: one word for programs.
    pub what: String,
    /// How it is.
    pub standing: Standing,
    /// What was found, and what to do where it is not good, for people.
    pub said: String,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// As it should be.
    Good,
    /// It works, at a cost that is said.
    Costly,
    /// It does not work.
    Unsupported,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let standing = match self.standing {
            Standing::Good => "good",
            Standing::Costly => "costly",
            Standing::Unsupported => "unsupported",
        };
        write!(f, "{:12} {:11} {}", self.what, standing, self.said)
    }
}

/// Looks at a source and reads a little of it. What does not work ends it: what would follow is not known. Blocks; `now` is the time since any moment.
pub fn ask(spec: &SourceSpec, config: &SourceConfig, now: impl Fn() -> Duration) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(error) = look(spec, config, now, &mut findings) {
        let what = if findings.is_empty() { "reachable" } else { "reading" };
        findings.push(finding(what, Standing::Unsupported, error.to_string()));
    }
    findings
}

fn finding(what: &str, standing: Standing, said: impl Into<String>) -> Finding {
    Finding { what: what.into(), standing, said: said.into() }
}

fn look(
    spec: &SourceSpec,
    config: &SourceConfig,
    now: impl Fn() -> Duration,
    findings: &mut Vec<Finding>,
) -> Result<(), SourceError> {
    let source: Box<dyn Source> = match spec {
        SourceSpec::Nbd(uri) => {
            let source = NbdSource::open(uri, &config.nbd)?;
            findings.push(finding("reachable", Standing::Good, "the server answers and has the export"));
            server(&source, findings)?;
            Box::new(source)
        }
        SourceSpec::Qemu(disk) => {
            let source = QemuSource::open(disk, &config.qemu)?;
            findings.push(finding(
                "reachable",
                Standing::Good,
                "the machine runs, and its disk can be held at a moment",
            ));
            findings.push(match source.keeps_bitmaps() {
                true => finding(
                    "bitmaps",
                    Standing::Good,
                    "the disk is qcow2: what changed is known even after the machine was off",
                ),
                false => finding(
                    "bitmaps",
                    Standing::Costly,
                    "the disk is not qcow2: when the machine was off, the next capture reads all of it",
                ),
            });
            Box::new(source)
        }
        spec => {
            let source = spec.open(config)?;
            findings.push(finding("reachable", Standing::Good, "it can be opened"));
            source
        }
    };
    let said = format!("{} bytes in blocks of {}", source.size().0, source.block_size());
    findings.push(finding("size", Standing::Good, said));
    findings.push(changes(&*source));
    findings.push(rate(&*source, now)?);
    Ok(())
}

fn server(source: &NbdSource, findings: &mut Vec<Finding>) -> Result<(), SourceError> {
    let offered = source.offered()?;
    findings.push(match offered.connections {
        1 => finding(
            "connections",
            Standing::Costly,
            "1: the server lets in no more (multi-conn, `--shared`); captures take longer",
        ),
        many => finding("connections", Standing::Good, format!("{many}")),
    });
    findings.push(match offered.tells_holes {
        true => finding("holes", Standing::Good, "base:allocation: holes are not read"),
        false => finding("holes", Standing::Costly, "the server has no base:allocation: holes are read as zeroes"),
    });
    findings.push(match offered.is_read_only {
        true => finding("read-only", Standing::Good, "nobody writes through this export"),
        false => finding(
            "read-only",
            Standing::Costly,
            "the export takes writes: what is written while it is captured is captured in part; export a snapshot",
        ),
    });
    Ok(())
}

fn changes(source: &dyn Source) -> Finding {
    let Some(tracker) = source.tracking() else {
        return finding("changes", Standing::Costly, "none are followed: every capture reads all of it");
    };
    match tracker.begin().and_then(|stamp| tracker.changed_since(&stamp).map(|changes| changes.bytes())) {
        Ok(bytes) => finding(
            "changes",
            Standing::Good,
            format!("the bitmap is there, with {bytes} bytes changed since it was made"),
        ),
        Err(why) => finding(
            "changes",
            Standing::Unsupported,
            format!("{why}; `qemu-img bitmap --add -g 32k`, or block-dirty-bitmap-add of a running QEMU, makes one"),
        ),
    }
}

/// Reads data from the beginning on, as a capture does.
fn rate(source: &dyn Source, now: impl Fn() -> Duration) -> Result<Finding, SourceError> {
    let (began, mut read, mut at) = (now(), 0u64, 0);
    let mut buffer = vec![0; source.at_once()];
    while read < MOST && now() - began < READING {
        let Some(data) = source.next_data(at..source.size().0)? else { break };
        // Whole blocks: next_data is as fine as the source tells it.
        let start = data.start / dedupe::LEAF as u64 * dedupe::LEAF as u64;
        let len =
            (source.size().0.min(data.end.next_multiple_of(dedupe::LEAF as u64)) - start).min(buffer.len() as u64);
        source.read_at(ByteOffset(start), &mut buffer[..len as usize])?;
        read += len;
        at = start + len;
    }
    let rate = read as f64 / 1e6 / (now() - began).as_secs_f64().max(1e-6);
    Ok(match read {
        0 => finding("rate", Standing::Good, "it holds no data yet"),
        _ => finding("rate", Standing::Good, format!("{rate:.0} MB/s over {:.0} MB by one reader", read as f64 / 1e6)),
    })
}
