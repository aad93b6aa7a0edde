//! Waiting that ends when the daemon does.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Told once that the work is to end; whoever waits on it is woken. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// Ends the work.
    pub fn stop(&self) {
        *self.0.0.lock().expect("the flag is only set") = true;
        self.0.1.notify_all();
    }

    /// Whether the work is to end.
    pub fn is_stopped(&self) -> bool {
        *self.0.0.lock().expect("the flag is only set")
    }

    /// Waits so long; `false`: the work is to end, now.
    #[must_use = "work that was told to end must not go on"]
    pub fn wait(&self, time: Duration) -> bool {
        let stopped = self.0.0.lock().expect("the flag is only set");
        let waited = self.0.1.wait_timeout_while(stopped, time, |stopped| !*stopped);
        !*waited.expect("the flag is only set").0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_woken_when_the_work_is_to_end() {
        let stop = Stop::default();
        assert!(stop.wait(Duration::from_millis(1)));
        let waiting = std::thread::spawn({
            let stop = stop.clone();
            move || stop.wait(Duration::from_secs(3600))
        });
        stop.stop();
        assert!(!waiting.join().unwrap() && stop.is_stopped());
    }
}
