//! Does a trace keep to a rate? Exactly, over every interval, in one pass.

/// The most bytes by which any interval of the trace exceeds `bits_per_s` times its length, in bytes. `trace` is (nanoseconds, bytes) in
/// order of time; an interval begins with one packet and ends with another, both counted.
pub fn excess(trace: impl IntoIterator<Item = (u64, u64)>, bits_per_s: f64) -> f64 {
    excess_over(trace, &[(0, bits_per_s)])
}

/// The same where the rate changes: `rates` are (nanoseconds, bits per second), each from its moment on, in order of time.
///
/// With `s(k)` the bytes up to and including packet k and `a(t)` what was allowed up to t, the excess of the interval from i to j is
/// `(s(j) - a(t(j))) - (s(i-1) - a(t(i)))`, so it is enough to remember the least second term so far.
pub fn excess_over(trace: impl IntoIterator<Item = (u64, u64)>, rates: &[(u64, f64)]) -> f64 {
    let (mut sum, mut least, mut worst, mut before, mut allowed) = (0.0f64, f64::INFINITY, 0.0f64, None, 0.0f64);
    for (at, bytes) in trace {
        allowed += between(rates, before.replace(at).unwrap_or(at), at);
        least = least.min(sum - allowed);
        sum += bytes as f64;
        worst = worst.max(sum - allowed - least);
    }
    worst
}

/// Bytes that are allowed from one moment to another.
fn between(rates: &[(u64, f64)], from: u64, to: u64) -> f64 {
    let ends = rates.iter().skip(1).map(|(at, _)| *at).chain([u64::MAX]);
    let part = |((begins, rate), ends): (&(u64, f64), u64)| {
        to.min(ends).saturating_sub(from.max(*begins)) as f64 * 1e-9 * rate / 8.0
    };
    rates.iter().zip(ends).map(part).sum()
}

/// Bits per second of the packets with `from <= t < to` (nanoseconds).
pub fn rate_between(trace: &[(u64, u64)], from: u64, to: u64) -> f64 {
    let bytes: u64 = trace.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, bytes)| bytes).sum();
    bytes as f64 * 8e9 / (to.saturating_sub(from)).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, over all pairs.
    fn slow(trace: &[(u64, u64)], rate: f64) -> f64 {
        let mut worst = 0.0f64;
        for i in 0..trace.len() {
            let mut bytes = 0;
            for packet in &trace[i..] {
                bytes += packet.1;
                worst = worst.max(bytes as f64 - (packet.0 - trace[i].0) as f64 * 1e-9 * rate / 8.0);
            }
        }
        worst
    }

    #[test]
    fn one_pass_finds_what_all_pairs_find() {
        let mut random = 1u64;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        for _ in 0..50 {
            let mut at = 0;
            let trace: Vec<_> = (0..200)
                .map(|_| {
                    at += draw(20_000_000);
                    (at, 1 + draw(1_500))
                })
                .collect();
            let rate = 1e5 + draw(2_000_000) as f64;
            assert!((excess(trace.iter().copied(), rate) - slow(&trace, rate)).abs() < 1e-3);
        }
    }

    #[test]
    fn a_changing_rate_allows_what_it_did_at_the_time() {
        // 1000 bytes each 8 ms are 1 Mbit/s, and then 4 ms: twice that.
        let first = (0..100).map(|n| (n * 8_000_000, 1_000));
        let trace: Vec<_> = first.chain((1..=100).map(|n| (792_000_000 + n * 4_000_000, 1_000))).collect();
        let rates = [(0, 1e6), (792_000_000, 2e6)];
        assert!((excess_over(trace.iter().copied(), &rates) - 1_000.0).abs() < 1e-6);
        assert!(excess_over(trace.iter().copied(), &[(0, 1e6), (796_000_000, 2e6)]) > 1_400.0);
    }

    #[test]
    fn an_even_flow_exceeds_by_one_packet_and_a_burst_by_itself() {
        let even = (0..100).map(|n| (n * 8_000_000, 1_000));
        assert!((excess(even.clone(), 1e6) - 1_000.0).abs() < 1e-6);
        let burst = even.chain((0..5).map(|_| (800_000_000, 1_000)));
        assert!((excess(burst, 1e6) - 5_000.0).abs() < 1e-6);
        let trace: Vec<_> = (0..100).map(|n| (n * 8_000_000, 1_000)).collect();
        assert!((rate_between(&trace, 0, 800_000_000) - 1e6).abs() < 1.0);
    }
}
