//! One object that is being put together, read back and made a point.

use super::api::{Part, Parts};
use super::{Memory, PARALLEL, S3, Sibling, Source, put_notes, sibling};
use crate::error::TargetError;
use crate::tags;
use crate::target::{Filling, Notes, Point, Work};
use dedupe::{ByteOffset, UnixMillis};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

/// What the key of a run's object of zeroes ends in. It is there from the first part that has to be zeroes until the object is put together.
pub(crate) const ZEROES: &str = ".zeroes";
/// Bytes of an object of which a range may be copied, at least (Amazon S3: more than 5 MiB).
const LEAST_COPIED: u64 = (5 << 20) + 1;

/// See the module's documentation.
pub(crate) struct Open<'a> {
    s3: &'a S3,
    work: Work,
    notes: &'a dyn Notes,
    key: String,
    memory: Mutex<Memory>,
    /// Parts of the upload that are there.
    parts: Mutex<BTreeSet<u32>>,
    /// Whether the object of zeroes was put by this process.
    has_zeroes: Mutex<bool>,
    is_complete: AtomicBool,
    /// It was a point when it was opened.
    point: Option<Point>,
}

/// The key of the object of zeroes that belongs to an object.
pub(crate) fn zeroes(key: &str) -> String {
    format!("{key}{ZEROES}")
}

impl<'a> Open<'a> {
    fn new(s3: &'a S3, work: &Work, notes: &'a dyn Notes, memory: Memory) -> Open<'a> {
        Open {
            s3,
            work: work.clone(),
            notes,
            key: s3.key(work),
            memory: Mutex::new(memory),
            parts: Mutex::default(),
            has_zeroes: Mutex::default(),
            is_complete: AtomicBool::new(false),
            point: None,
        }
    }

    /// A run that begins.
    pub(crate) fn begun(
        s3: &'a S3,
        work: &Work,
        notes: &'a dyn Notes,
        memory: Memory,
    ) -> Result<Open<'a>, TargetError> {
        let open = Open::new(s3, work, notes, memory);
        open.upload()?;
        Ok(open)
    }

    /// A run that goes on: with its upload, or with the object that it put together.
    pub(crate) fn resumed(
        s3: &'a S3,
        work: &Work,
        notes: &'a dyn Notes,
        mut memory: Memory,
        is_open: bool,
        is_whole: bool,
    ) -> Result<Open<'a>, TargetError> {
        if is_whole {
            memory.source = Some(Source { key: s3.key(work), size: work.size.0 });
        }
        let mut open = Open::new(s3, work, notes, memory);
        open.is_complete = AtomicBool::new(!is_open);
        if is_open {
            let there: BTreeSet<u32> = open.listed()?.unwrap_or_default().into_keys().collect();
            *open.parts() = there;
        }
        Ok(open)
    }

    /// One that is a point already.
    pub(crate) fn finished(
        s3: &'a S3,
        work: &Work,
        notes: &'a dyn Notes,
        memory: Memory,
        point: &Point,
    ) -> Result<Open<'a>, TargetError> {
        let open = Open::new(s3, work, notes, memory);
        let (key, is_complete) = (point.id.clone(), AtomicBool::new(true));
        Ok(Open { key, is_complete, point: Some(point.clone()), ..open })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("nobody panics while holding it")
    }

    fn parts(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.parts.lock().expect("nobody panics while holding it")
    }

    fn is_complete(&self) -> bool {
        self.is_complete.load(Ordering::Acquire)
    }

    /// The upload, which is begun when there is none: at first, or on top of the object that was put together before.
    fn upload(&self) -> Result<String, TargetError> {
        if self.point.is_some() {
            return Err(TargetError::Conflict(format!("{} is a point; nothing more is written to it", self.key)));
        }
        let mut memory = self.memory();
        if let Some(upload) = &memory.upload {
            return Ok(upload.clone());
        }
        let upload = self.s3.api.create(&self.key)?;
        memory.upload = Some(upload.clone());
        put_notes(self.notes, &memory)?;
        self.is_complete.store(false, Ordering::Release);
        Ok(upload)
    }

    fn listed(&self) -> Result<Option<Parts>, TargetError> {
        let upload = self.upload()?;
        self.s3.api.parts(&self.key, &upload)
    }

    /// The bytes of a part; parts are counted from 1.
    fn range(&self, number: u32) -> Range<u64> {
        let start = u64::from(number - 1) * self.s3.part();
        start..(start + self.s3.part()).min(self.work.size.0)
    }

    fn numbers(&self, range: &Range<u64>) -> Range<u32> {
        let number = |at: u64| at as u32 + 1;
        number(range.start / self.s3.part())..number(range.end.min(self.work.size.0).div_ceil(self.s3.part()))
    }

    fn put(&self, number: u32, bytes: &[u8]) -> Result<(), TargetError> {
        self.s3.api.put_part(&self.key, &self.upload()?, number, bytes)?;
        self.parts().insert(number);
        Ok(())
    }

    fn copy(&self, number: u32, from: &str, range: Range<u64>) -> Result<(), TargetError> {
        self.s3.api.copy_part(&self.key, &self.upload()?, number, from, range)?;
        self.parts().insert(number);
        Ok(())
    }

    /// Makes a part of zeroes: copied within the store from an object that is put once.
    fn put_zeroes(&self, number: u32) -> Result<(), TargetError> {
        let range = self.range(number);
        let from = zeroes(&self.key);
        {
            let mut has_zeroes = self.has_zeroes.lock().expect("nobody panics while holding it");
            if !*has_zeroes {
                self.s3.api.put(&from, "application/octet-stream", &vec![0; self.s3.part() as usize])?;
                *has_zeroes = true;
            }
        }
        self.copy(number, &from, 0..range.end - range.start)
    }

    /// Makes a part that was not applied: what the source holds there, and zeroes behind its end.
    fn inherit(&self, number: u32, source: Option<&Source>) -> Result<(), TargetError> {
        let range = self.range(number);
        match source {
            Some(source) if source.size >= range.end && source.size >= LEAST_COPIED => {
                self.copy(number, &source.key, range)
            }
            Some(source) if source.size > range.start => {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                let held = (source.size.min(range.end) - range.start) as usize;
                self.s3.api.read(&source.key, range.start, &mut bytes[..held])?;
                self.put(number, &bytes)
            }
            _ => self.put_zeroes(number),
        }
    }

    /// Makes all parts that were not applied, several at once.
    fn inherit_all(&self, numbers: &[u32]) -> Result<(), TargetError> {
        let source = self.memory().source.clone();
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
        std::thread::scope(|scope| {
            for _ in 0..PARALLEL.min(numbers.len()) {
                scope.spawn(|| {
                    while let Some(number) = numbers.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = self.inherit(*number, source.as_ref()) {
                            next.store(numbers.len(), Ordering::Relaxed); // the others need not go on
                            failed.lock().expect("nobody panics while holding it").get_or_insert(error);
                        }
                    }
                });
            }
        });
        failed.into_inner().expect("nobody panicked while holding it").map_or(Ok(()), Err)
    }

    /// All parts as the store lists them, none missing and none of a wrong size.
    fn whole(&self, mut listed: Parts) -> Result<Parts, TargetError> {
        let all = self.numbers(&(0..self.work.size.0));
        let is_right = |number: &u32, part: &Part| {
            let range = self.range(*number);
            part.size == range.end - range.start
        };
        listed.retain(|number, _| all.contains(number));
        match listed.iter().find(|(number, part)| !is_right(number, part)) {
            Some((number, part)) => Err(TargetError::Conflict(format!(
                "part {number} of {} has {} bytes there; give the run up and begin anew",
                self.key, part.size
            ))),
            None => Ok(listed),
        }
    }

    /// Whether the object lies there with the right size.
    fn is_there(&self) -> Result<bool, TargetError> {
        let listed = self.s3.api.list(&self.key)?;
        Ok(listed.iter().any(|object| object.key == self.key && object.size == self.work.size.0))
    }

    fn put_together(&self) -> Result<(), TargetError> {
        let upload = self.upload()?;
        let Some(listed) = self.s3.api.parts(&self.key, &upload)? else {
            return match self.memory().is_completing && self.is_there()? {
                true => Ok(()), // the answer was lost
                false => Err(self.gone()),
            };
        };
        let there = self.whole(listed)?;
        let missing: Vec<u32> =
            self.numbers(&(0..self.work.size.0)).filter(|number| !there.contains_key(number)).collect();
        self.inherit_all(&missing)?;
        let all = self.whole(self.s3.api.parts(&self.key, &upload)?.ok_or_else(|| self.gone())?)?;
        if all.len() != self.numbers(&(0..self.work.size.0)).len() {
            return Err(TargetError::Conflict(format!(
                "{} lacks parts that were put; give the run up and begin anew",
                self.key
            )));
        }
        {
            let mut memory = self.memory();
            memory.is_completing = true;
            put_notes(self.notes, &memory)?;
        }
        let is_heard = self.s3.api.complete(&self.key, &upload, &all)?;
        match is_heard || self.is_there()? {
            true => Ok(()),
            false => Err(self.gone()),
        }
    }

    fn gone(&self) -> TargetError {
        TargetError::Conflict(format!("the upload of {} is gone; give the run up and begin anew", self.key))
    }
}

impl Filling for Open<'_> {
    fn apply(&self, at: ByteOffset, bytes: &[u8]) -> Result<(), TargetError> {
        let part = self.s3.part();
        let first = (at.0 / part) as u32 + 1;
        (first..).zip(bytes.chunks(part as usize)).try_for_each(|(number, bytes)| self.put(number, bytes))
    }

    fn zero(&self, range: Range<u64>) -> Result<(), TargetError> {
        let has_source = self.is_complete() || self.memory().source.is_some();
        for number in self.numbers(&range) {
            // What is not there in the end is zeroes where there is no source.
            if has_source || self.parts().contains(&number) {
                self.put_zeroes(number)?;
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), TargetError> {
        Ok(()) // a part that was answered is durable, and the upload is in the notes
    }

    fn complete(&self) -> Result<(), TargetError> {
        if self.is_complete() {
            return Ok(());
        }
        self.put_together()?;
        self.s3.api.delete(&zeroes(&self.key))?;
        *self.has_zeroes.lock().expect("nobody panics while holding it") = false;
        let mut memory = self.memory();
        memory.upload = None;
        memory.source = Some(Source { key: self.key.clone(), size: self.work.size.0 });
        put_notes(self.notes, &memory)?;
        self.is_complete.store(true, Ordering::Release);
        Ok(())
    }

    fn read(&self, at: ByteOffset, buffer: &mut [u8]) -> Result<(), TargetError> {
        self.s3.api.read(&self.key, at.0, buffer)
    }

    fn finish(&self, now: UnixMillis) -> Result<Point, TargetError> {
        if let Some(point) = &self.point {
            return Ok(point.clone());
        }
        if !self.is_complete() {
            return Err(TargetError::Conflict(format!("{} is not put together, so it can be no point", self.key)));
        }
        let point = self.work.point(self.key.clone(), now);
        let mut tags = tags::of_point(&self.work.image, &point);
        tags.push((tags::RUN, self.work.run.to_string()));
        let tags = tags.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let text = serde_json::to_vec_pretty(&Sibling { version: super::NOTES, tags }).expect("texts are always JSON");
        self.s3.api.put(&sibling(&self.key), "application/json", &text)?;
        Ok(point)
    }
}
