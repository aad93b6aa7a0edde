//! What the line must not forget, in the journal: bytes claimed of each quota, the anchor of the clock, evidence minute by minute.

use crate::journal::{Journal, JournalError};
use redb::{ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use shaping::ledger::{LedgerKey, LedgerStore};
use shaping::policy::Period;
use wire::message::Minute;

type Bytes = &'static [u8];

/// By period and its first second: bytes claimed.
pub(crate) const QUOTAS: TableDefinition<Bytes, Bytes> = TableDefinition::new("quotas_1");
/// By hour since 1970 (big endian): its minutes.
pub(crate) const EVIDENCE: TableDefinition<Bytes, Bytes> = TableDefinition::new("evidence_1");
/// By name: the [`Anchor`], what the last line-test found, how far evidence has arrived, and what the site has paused or boosted.
pub(crate) const LINE: TableDefinition<Bytes, Bytes> = TableDefinition::new("line_1");

/// Minutes that evidence is kept for.
const KEPT_MINUTES: u32 = 400 * 24 * 60;

/// The time as the gateway told it, for a restart of the daemon: the counting clock goes on until the machine is started anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// Nanoseconds of Unix time.
    pub(super) time: i128,
    /// The counting clock then, in nanoseconds.
    pub(super) counted: u64,
    /// Which start of the machine it counts from.
    pub(super) boot: String,
}

impl LedgerStore for Journal {
    type Error = JournalError;

    fn load(&self, key: LedgerKey) -> Result<u64, JournalError> {
        Ok(self.read(QUOTAS, &key_bytes(key))?.unwrap_or(0))
    }

    fn save(&self, counts: &[(LedgerKey, u64)]) -> Result<(), JournalError> {
        let rows: Vec<_> = counts.iter().map(|(key, bytes)| (key_bytes(*key), *bytes)).collect();
        self.put_all(QUOTAS, &rows)
    }
}

fn key_bytes(key: LedgerKey) -> Vec<u8> {
    let (kind, anchor) = match key.period {
        Period::Day => (b'd', 0),
        Period::Week => (b'w', 0),
        Period::Month(day) => (b'm', day.unsigned_abs()),
        Period::Prepaid => (b'p', 0),
    };
    [[kind, anchor].as_slice(), &key.start.to_be_bytes()].concat()
}

impl Journal {
    pub(super) fn anchor(&self) -> Result<Option<Anchor>, JournalError> {
        self.read(LINE, b"anchor")
    }

    /// Bits per second that the last line-test found; 0: none was made.
    pub(super) fn tested(&self) -> Result<u64, JournalError> {
        Ok(self.read(LINE, b"tested")?.unwrap_or(0))
    }

    pub(super) fn set_tested(&self, bits: u64) -> Result<(), JournalError> {
        self.put_all(LINE, &[(b"tested".to_vec(), bits)])
    }

    pub(super) fn set_anchor(&self, anchor: &Anchor) -> Result<(), JournalError> {
        self.put_all(LINE, &[(b"anchor".to_vec(), anchor)])
    }

    /// Adds a minute to the evidence, and drops what is older than 400 days. A minute that is there already is added to: the clock went
    /// back.
    pub(super) fn add_minute(&self, minute: Minute) -> Result<(), JournalError> {
        let hour = (minute.minute / 60).to_be_bytes();
        let mut minutes: Vec<Minute> = self.read(EVIDENCE, &hour)?.unwrap_or_default();
        match minutes.iter_mut().find(|known| known.minute == minute.minute) {
            Some(known) => {
                known.sent = known.sent.saturating_add(minute.sent);
                known.received = known.received.saturating_add(minute.received);
                known.allowed = known.allowed.saturating_add(minute.allowed);
                known.peak = known.peak.max(minute.peak);
                known.reason = minute.reason;
            }
            None => minutes.push(minute),
        }
        let old = (minute.minute.saturating_sub(KEPT_MINUTES) / 60).to_be_bytes();
        self.commit(|write| {
            let mut table = write.open_table(EVIDENCE)?;
            let value = postcard::to_allocvec(&minutes).expect("plain data serialises");
            table.insert(hour.as_slice(), value.as_slice())?;
            let stale: Vec<Vec<u8>> = table
                .range::<&[u8]>(..old.as_slice())?
                .map(|row| Ok(row?.0.value().to_vec()))
                .collect::<Result<_, redb::Error>>()?;
            for key in stale {
                table.remove(key.as_slice())?;
            }
            Ok(())
        })
    }

    /// Minutes after `after`, oldest first, at most `most`.
    pub(super) fn minutes_after(&self, after: u32, most: usize) -> Result<Vec<Minute>, JournalError> {
        let hours: Vec<Vec<Minute>> = self.read_from(EVIDENCE, &(after / 60).to_be_bytes(), most / 60 + 2)?;
        let mut minutes: Vec<Minute> = hours.into_iter().flatten().filter(|minute| minute.minute > after).collect();
        minutes.sort_by_key(|minute| minute.minute);
        minutes.truncate(most);
        Ok(minutes)
    }

    /// The newest minute that the gateway has.
    pub(super) fn evidence_held(&self) -> Result<u32, JournalError> {
        Ok(self.read(LINE, b"held")?.unwrap_or(0))
    }

    pub(super) fn set_evidence_held(&self, minute: u32) -> Result<(), JournalError> {
        self.put_all(LINE, &[(b"held".to_vec(), minute)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_minutes_are_there_after_a_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool.redb");
        let minute = |minute| Minute { minute, sent: 10, received: 1, allowed: 100, peak: 10, reason: 7 };
        let key = |period, start| LedgerKey { period, start };
        let journal = Journal::open(&path).unwrap();
        journal.save(&[(key(Period::Day, 86_400), 5), (key(Period::Month(15), 0), 6)]).unwrap();
        for at in [1_000, 1_001, 1_061, 1_001] {
            journal.add_minute(minute(at)).unwrap();
        }
        journal.set_evidence_held(1_000).unwrap();
        drop(journal);
        let journal = Journal::open(&path).unwrap();
        let loaded = [key(Period::Day, 86_400), key(Period::Month(15), 0), key(Period::Month(1), 0)]
            .map(|key| journal.load(key).unwrap());
        assert_eq!(loaded, [5, 6, 0]);
        let after = journal.minutes_after(journal.evidence_held().unwrap(), 100).unwrap();
        assert_eq!(
            after.iter().map(|minute| (minute.minute, minute.sent)).collect::<Vec<_>>(),
            [(1_001, 20), (1_061, 10)]
        );
        assert_eq!(journal.minutes_after(0, 2).unwrap().len(), 2);
        journal.add_minute(minute(1_061 + KEPT_MINUTES + 60)).unwrap();
        assert_eq!(journal.minutes_after(0, 100).unwrap().len(), 1, "what is older than 400 days is dropped");
    }
}
