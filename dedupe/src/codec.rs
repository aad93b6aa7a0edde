//! One parcel's payload: one zstd frame with a reference prefix.
//!
//! `ZSTD_CCtx_refPrefix` with long-distance matching, not a dictionary: the long-distance matcher does not search dictionaries
//! (measured: 9.9 MB instead of 2.1 on a file-server step).

use crate::id::BLOCK;
use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter, compress_bound, get_error_name};

/// How hard the encoder tries. Rungs of a ladder, cheapest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// Level 3: when even level 9 cannot keep the line busy.
    Quick,
    /// Level 9: 1-4 % larger than level 12 for half the time.
    Light,
    /// Level 12: the level of the reference.
    Normal,
    /// Level 16 with a deep search: 5-25 % smaller than level 12 at ten times its time.
    Thorough,
}

impl Effort {
    /// All, cheapest first.
    pub const LADDER: [Effort; 4] = [Effort::Quick, Effort::Light, Effort::Normal, Effort::Thorough];
}

/// Memory that long-distance matching and the match finder may take.
#[derive(Clone, Copy, Debug)]
pub struct CodecMemory {
    /// log2 of the long-distance table's entries, of 8 bytes each.
    pub long_log: u32,
    /// log2 of the match finder's chain entries, of 4 bytes each, at [`Effort::Thorough`]; 0: there is no room, and Thorough is Normal.
    pub chain_log: u32,
}

/// Shortest long-distance match in bytes: below 24 more bytes go into the finder's noise than it gains; 48 measured best with
/// prefixes that are chosen.
const LONG_MIN_MATCH: u32 = 48;
/// One position in 2^4 goes into the long-distance table.
const LONG_RATE_LOG: u32 = 4;

/// zstd's word for what went wrong.
#[derive(Debug, thiserror::Error)]
#[error("zstd: {0}")]
pub struct CodecError(&'static str);

fn check(result: Result<usize, usize>) -> Result<usize, CodecError> {
    result.map_err(|code| CodecError(get_error_name(code)))
}

/// Codes `buffer[start..]` with `buffer[..start]` as its prefix. One buffer, because zstd is faster when prefix and data adjoin.
pub fn encode(buffer: &[u8], start: usize, effort: Effort, memory: CodecMemory) -> Result<Vec<u8>, CodecError> {
    let (prefix, fresh) = buffer.split_at(start);
    let mut context = CCtx::create();
    let level = match effort {
        Effort::Quick => 3,
        Effort::Light => 9,
        // Without the large chain table level 16 can come out worse than level 12.
        Effort::Thorough if memory.chain_log > 0 => 16,
        Effort::Normal | Effort::Thorough => 12,
    };
    let window_log = (usize::BITS - buffer.len().leading_zeros()).clamp(10, 30);
    // The table must hold what is sampled: at 8 times over, output tripled. More than that is memory for nothing.
    let long_log = (window_log.saturating_sub(LONG_RATE_LOG) + 1).clamp(12, memory.long_log);
    let mut parameters = vec![
        CParameter::CompressionLevel(level),
        CParameter::WindowLog(window_log),
        CParameter::ContentSizeFlag(true),
        CParameter::EnableLongDistanceMatching(true),
        CParameter::LdmMinMatch(LONG_MIN_MATCH),
        CParameter::LdmHashLog(long_log),
        CParameter::LdmHashRateLog(LONG_RATE_LOG),
    ];
    if level == 16 {
        parameters.push(CParameter::ChainLog(memory.chain_log.min(window_log + 1)));
        parameters.push(CParameter::TargetLength(4096));
    }
    for parameter in parameters {
        check(context.set_parameter(parameter))?;
    }
    check(context.ref_prefix(prefix))?;
    let mut coded = Vec::with_capacity(compress_bound(fresh.len()));
    check(context.compress2(&mut coded, fresh))?;
    coded.shrink_to_fit();
    Ok(coded)
}

/// Decodes exactly `len` bytes with the same prefix into `fresh`, from its beginning; allocates no more than that.
pub fn decode(prefix: &[u8], coded: &[u8], len: usize, fresh: &mut Vec<u8>) -> Result<(), CodecError> {
    debug_assert!(len.is_multiple_of(BLOCK));
    let mut context = DCtx::create();
    check(context.set_parameter(DParameter::WindowLogMax(31)))?;
    check(context.ref_prefix(prefix))?;
    fresh.clear();
    fresh.reserve_exact(len);
    check(context.decompress(fresh, coded))?;
    match fresh.len() == len {
        true => Ok(()),
        false => Err(CodecError("the frame is shorter than its header says")),
    }
}
