//! A small database as block storage sees it: a table of 8 KiB pages, and a log that repeats a whole page at its first change
//! of the day, at whatever byte offset the log has reached. That is what a replicator has to find again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::content::Writer;
use super::random::Random;

const PAGE: usize = 8192;
const HEADER: usize = 24;
const ROW: usize = 128;
const ROWS: usize = (PAGE - HEADER) / ROW;
/// Where a row keeps its balance, status and remark.
const BALANCE: usize = 16;
const STATUS: usize = 24;
const REMARK: usize = 72;

/// Table and log, by their places on the volume.
#[derive(Debug)]
pub(super) struct Database {
    table: u64,
    pages: u64,
    log: u64,
    log_len: u64,
    /// Bytes ever logged; the log's place is this modulo its length.
    logged: u64,
}

/// What a day's transactions did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Transactions {
    pub(super) pages: u64,
    pub(super) log_bytes: u64,
}

impl Database {
    /// A database over the byte ranges `table` and `log`, loaded with rows.
    pub(super) fn load(
        image: &File,
        writer: &Writer,
        random: &mut Random,
        table: std::ops::Range<u64>,
        log: std::ops::Range<u64>,
    ) -> io::Result<Self> {
        let pages = (table.end - table.start) / PAGE as u64;
        let database = Self { table: table.start, pages, log: log.start, log_len: log.end - log.start, logged: 0 };
        for number in 0..pages {
            image.write_all_at(&fresh_page(writer, random, number), database.place(number))?;
        }
        Ok(database)
    }

    /// Updates rows in `share` of the pages, hot ones more often, and logs every change.
    pub(super) fn trade(
        &mut self,
        image: &File,
        writer: &Writer,
        random: &mut Random,
        share: f64,
    ) -> io::Result<Transactions> {
        let updates = ((self.pages as f64 * share) as u64).max(1);
        let mut touched = std::collections::HashSet::new();
        let before = self.logged;
        for _ in 0..updates {
            let number = random.below(self.pages as usize) as u64;
            let mut page = vec![0; PAGE];
            image.read_exact_at(&mut page, self.place(number))?;
            let row = HEADER + random.below(ROWS) * ROW;
            update_row(&mut page[row..row + ROW], writer, random);
            page[..8].copy_from_slice(&self.logged.to_le_bytes());
            seal_page(&mut page);
            image.write_all_at(&page, self.place(number))?;
            let first = touched.insert(number);
            self.append(image, &record(number, if first { &page } else { &page[row..row + ROW] }))?;
        }
        Ok(Transactions { pages: touched.len() as u64, log_bytes: self.logged - before })
    }

    fn place(&self, page: u64) -> u64 {
        self.table + page * PAGE as u64
    }

    /// Appends to the log, which begins anew at its start when it is full.
    fn append(&mut self, image: &File, record: &[u8]) -> io::Result<()> {
        let at = self.logged % self.log_len;
        let fits = record.len().min((self.log_len - at) as usize);
        image.write_all_at(&record[..fits], self.log + at)?;
        image.write_all_at(&record[fits..], self.log)?;
        self.logged += record.len() as u64;
        Ok(())
    }
}

fn record(page: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(24 + body.len());
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&page.to_le_bytes());
    out.extend_from_slice(&checksum(body).to_le_bytes());
    out.extend_from_slice(body);
    out
}

fn fresh_page(writer: &Writer, random: &mut Random, number: u64) -> Vec<u8> {
    let mut page = vec![0; PAGE];
    page[8..16].copy_from_slice(&number.to_le_bytes());
    for row in 0..ROWS {
        let id = number * ROWS as u64 + row as u64;
        let at = HEADER + row * ROW;
        fill_row(&mut page[at..at + ROW], writer, random, id);
    }
    seal_page(&mut page);
    page
}

fn fill_row(row: &mut [u8], writer: &Writer, random: &mut Random, id: u64) {
    row[..8].copy_from_slice(&id.to_le_bytes());
    row[8..BALANCE].copy_from_slice(&(random.skewed(60_000) as u64).to_le_bytes());
    row[BALANCE..STATUS].copy_from_slice(&(random.below(10_000_000) as u64).to_le_bytes());
    let account = format!("open    DE{:020} {:010}", random.draw() % 1_000_000_000_000, random.below(1 << 31));
    put(&mut row[STATUS..REMARK], account.as_bytes());
    remark(&mut row[REMARK..], writer, random);
}

fn update_row(row: &mut [u8], writer: &Writer, random: &mut Random) {
    row[BALANCE..STATUS].copy_from_slice(&(random.below(10_000_000) as u64).to_le_bytes());
    put(&mut row[STATUS..STATUS + 8], random.pick(&[b"paid    ", b"held    ", b"booked  "]).as_slice());
    if random.below(3) == 0 {
        remark(&mut row[REMARK..], writer, random);
    }
}

fn remark(to: &mut [u8], writer: &Writer, random: &mut Random) {
    let mut text = Vec::new();
    writer.prose(random, &mut text, 8);
    to.fill(b' ');
    put(to, &text);
}

fn put(to: &mut [u8], from: &[u8]) {
    let len = from.len().min(to.len());
    to[..len].copy_from_slice(&from[..len]);
}

fn seal_page(page: &mut [u8]) {
    page[16..24].fill(0);
    let sum = checksum(page);
    page[16..24].copy_from_slice(&sum.to_le_bytes());
}

/// FNV-1a, 64 bits: stands for the checksum of a page, which changes whenever the page does.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
