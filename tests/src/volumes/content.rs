//! What the files of a sample volume hold: prose, web pages, log lines, program code, packed documents.

use super::random::Random;

/// Draws content. The vocabulary is the same for every seed, as a language is; what is said with it is not.
#[derive(Debug)]
pub struct Writer {
    words: Vec<String>,
    /// Words that tend to follow each word, so that text compresses like prose and not like a word list.
    follow: Vec<[u16; 6]>,
    /// Byte sequences that programs are made of.
    code: Vec<Vec<u8>>,
}

const WORDS: usize = 3000;
const SEQUENCES: usize = 6000;
/// The vocabulary's own seed: a constant, so that branches share a language and their programs.
const VOCABULARY: u64 = 0x00c0_ffee;

impl Writer {
    /// A writer with the common vocabulary.
    pub fn new() -> Self {
        let mut random = Random::new(VOCABULARY, 1);
        let words = (0..WORDS).map(|_| word(&mut random)).collect();
        let follow = (0..WORDS).map(|_| std::array::from_fn(|_| random.skewed(WORDS) as u16)).collect();
        let code = (0..SEQUENCES)
            .map(|_| {
                let len = random.within(2..9);
                random.noise(len)
            })
            .collect();
        Self { words, follow, code }
    }

    /// Appends about `words` words of prose.
    pub fn prose(&self, random: &mut Random, out: &mut Vec<u8>, words: usize) {
        let mut word = random.skewed(WORDS);
        for _ in 0..words {
            out.extend_from_slice(self.words[word].as_bytes());
            out.push(b' ');
            word = if random.below(10) < 6 { *random.pick(&self.follow[word]) as usize } else { random.skewed(WORDS) };
        }
        out.pop();
    }

    /// A text of `len` bytes, one paragraph a line.
    pub fn text(&self, random: &mut Random, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 512);
        while out.len() < len {
            let words = random.within(8..50);
            self.prose(random, &mut out, words);
            out.extend_from_slice(b".\n");
        }
        out.truncate(len);
        out
    }

    /// A web page of `len` bytes.
    pub fn page(&self, random: &mut Random, len: usize) -> Vec<u8> {
        let mut out = b"<!DOCTYPE html>\n<html><head><meta charset=\"utf-8\"><title>".to_vec();
        self.prose(random, &mut out, 4);
        out.extend_from_slice(b"</title></head>\n<body>\n");
        while out.len() < len {
            out.extend_from_slice(format!("<div class=\"row\" id=\"r{}\"><p>", random.below(100_000)).as_bytes());
            self.prose(random, &mut out, 18);
            out.extend_from_slice(b"</p></div>\n");
        }
        out.truncate(len);
        out
    }

    /// One line of a system log at second `now`.
    pub fn log_line(&self, random: &mut Random, now: u64, out: &mut Vec<u8>) {
        let program = random.pick(&["sshd", "cron", "kernel", "teller", "postfix/smtpd", "atm-switch"]);
        let stamp = format!("{now} branch {program}[{}]: ", random.within(300..32_000));
        out.extend_from_slice(stamp.as_bytes());
        let words = random.within(5..14);
        self.prose(random, out, words);
        out.push(b'\n');
    }

    /// Program code of `len` bytes: shrinks to about half.
    pub fn program(&self, random: &mut Random, len: usize) -> Vec<u8> {
        let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        while out.len() < len {
            let sequence = random.skewed(SEQUENCES);
            out.extend_from_slice(&self.code[sequence]);
            if random.below(4) == 0 {
                out.extend_from_slice(&(random.skewed(1 << 16) as u32).to_le_bytes()); // an operand
            }
        }
        out.truncate(len);
        out
    }

    /// An office document of `len` bytes: packed already, nothing shrinks it.
    pub fn document(&self, random: &mut Random, len: usize) -> Vec<u8> {
        let mut out = b"PK\x03\x04\x14\0\0\0\x08\0mimetypeapplication/office".to_vec();
        out.extend_from_slice(&random.noise(len.saturating_sub(out.len())));
        out
    }
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

fn word(random: &mut Random) -> String {
    const ONSETS: [&str; 16] = ["b", "br", "c", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "st", "t", "v"];
    const RIMES: [&str; 12] = ["a", "an", "ar", "e", "el", "en", "er", "i", "in", "o", "or", "u"];
    let syllables = random.within(1..4);
    (0..syllables).map(|_| format!("{}{}", random.pick(&ONSETS), random.pick(&RIMES))).collect()
}
