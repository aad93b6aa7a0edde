//! What arrives of what is sent: payload of parcels in IP-level bytes, measured while the line is busy, for forecasts.

/// Payload of one measurement: against it the piece by which two looks may differ is below two per cent.
const SAMPLE: u64 = 4 << 20;
/// Weight of the newest measurement.
const WEIGHT: f64 = 0.25;
/// A measurement outside of this is of a line that does something else besides: a whole capture of another connection, or a meter begun anew.
const CREDIBLE: std::ops::RangeInclusive<f64> = 0.5..=1.0;

/// Learns the share. It has no clock and no meter: both figures are given to it.
#[derive(Debug, Default)]
pub(crate) struct Goodput {
    share: Option<f64>,
    /// Payload that only fills what is in hand on the way to the line, and is not to be counted.
    filling: u64,
    sample: Option<Sample>,
}

#[derive(Debug)]
struct Sample {
    payload: u64,
    /// IP bytes sent when it began.
    from: u64,
}

impl Goodput {
    /// What arrives, 0 to 1; `None`: not enough was sent yet.
    pub(crate) fn share(&self) -> Option<f64> {
        self.share
    }

    /// The line was idle; the next `in_hand` bytes of payload fill the way to it and are no measure.
    pub(crate) fn idle(&mut self, in_hand: u64) {
        (self.filling, self.sample) = (in_hand, None);
    }

    /// So much payload was handed over, and the meters have counted `ip` bytes by now.
    pub(crate) fn sent(&mut self, payload: u64, ip: u64) {
        if self.filling > 0 {
            self.filling = self.filling.saturating_sub(payload);
            return;
        }
        let Some(sample) = &mut self.sample else {
            self.sample = Some(Sample { payload: 0, from: ip });
            return;
        };
        sample.payload += payload;
        if sample.payload < SAMPLE {
            return;
        }
        let measured = sample.payload as f64 / ip.saturating_sub(sample.from).max(1) as f64;
        if CREDIBLE.contains(&measured) {
            self.share = Some(self.share.map_or(measured, |known| known + WEIGHT * (measured - known)));
        }
        self.sample = Some(Sample { payload: 0, from: ip });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line that sends `ip` bytes for each 64 KiB of payload.
    fn send(goodput: &mut Goodput, meter: &mut u64, payload: u64, ip: u64) {
        for _ in 0..payload.div_ceil(65_536) {
            *meter += ip;
            goodput.sent(65_536, *meter);
        }
    }

    #[test]
    fn the_share_is_measured_while_the_line_is_busy_and_follows_it() {
        let (mut goodput, mut meter) = (Goodput::default(), 1_000_000);
        send(&mut goodput, &mut meter, 3 << 20, 70_000);
        assert_eq!(goodput.share(), None, "too little to say");
        send(&mut goodput, &mut meter, 2 << 20, 70_000);
        let first = goodput.share().unwrap();
        assert!((first - 65_536.0 / 70_000.0).abs() < 1e-9, "{first}");
        send(&mut goodput, &mut meter, 40 << 20, 80_000);
        let later = goodput.share().unwrap();
        assert!((later - 65_536.0 / 80_000.0).abs() < 0.01, "{later}");
    }

    #[test]
    fn what_fills_the_way_and_what_was_sent_while_idle_is_no_measure() {
        let (mut goodput, mut meter) = (Goodput::default(), 0);
        goodput.idle(256 << 10);
        // Taken at once: nothing has left yet.
        send(&mut goodput, &mut meter, 256 << 10, 0);
        send(&mut goodput, &mut meter, 3 << 20, 70_000);
        goodput.idle(0);
        meter += 50_000_000; // signs of life of a long night
        send(&mut goodput, &mut meter, 5 << 20, 70_000);
        let share = goodput.share().unwrap();
        assert!((share - 65_536.0 / 70_000.0).abs() < 1e-9, "{share}");
        send(&mut goodput, &mut meter, 5 << 20, 1_000_000);
        assert_eq!(goodput.share(), Some(share), "not credible");
    }
}
