//! Named points at which the process kills itself when a survival test tells it to.
//!
//! A crash point stands where dying matters: between a write and its commit, between a commit and its answer. Without the feature `crash-points`
//! (release binaries never have it) [`crash_point`] is empty and the environment is not looked at. With it, `SLUICE_CRASH_AT=name` kills at the
//! first pass of that point, `SLUICE_CRASH_AT=name:3` at the third pass of this process. SIGKILL, so that nothing gets a chance to tidy up:
//! no destructor, no flush, no handler, as with a pulled plug, except that the kernel's caches live on.

/// Dies here if the environment says so; see the module's documentation. Names are `component.step.place`, for example `gateway.ingest.after`.
#[inline]
pub fn crash_point(name: &str) {
    #[cfg(feature = "crash-points")]
    armed::pass(name);
    #[cfg(not(feature = "crash-points"))]
    let _ = name;
}

#[cfg(any(test, feature = "crash-points"))]
mod armed {
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Where to die.
    #[derive(Debug)]
    pub(super) struct Order {
        name: String,
        /// Passes that are left, the deadly one included.
        left: AtomicU32,
    }

    impl Order {
        /// From `name` or `name:pass`, passes counted from 1.
        pub(super) fn parse(text: &str) -> Result<Order, String> {
            let (name, pass) = match text.split_once(':') {
                None => (text, 1),
                Some((name, pass)) => (name, pass.parse().ok().filter(|pass| *pass > 0).ok_or_else(|| refusal(text))?),
            };
            if name.is_empty() {
                return Err(refusal(text));
            }
            Ok(Order { name: name.to_owned(), left: AtomicU32::new(pass) })
        }

        /// Whether this pass is the deadly one. True once at most, on whichever thread it falls.
        pub(super) fn is_due(&self, name: &str) -> bool {
            name == self.name
                && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) == Ok(1)
        }
    }

    fn refusal(text: &str) -> String {
        format!("SLUICE_CRASH_AT=`{text}` is not understood: expected `name` or `name:pass` with a pass from 1 on")
    }

    /// Counts a pass and dies if it is the one. The environment is read at the first pass and never again.
    #[cfg(feature = "crash-points")]
    pub(super) fn pass(name: &str) {
        static ORDER: std::sync::OnceLock<Option<Order>> = std::sync::OnceLock::new();
        let order = ORDER.get_or_init(|| {
            let text = std::env::var("SLUICE_CRASH_AT").ok()?;
            // A survival test that mistypes its order must not pass because nothing happened.
            Some(Order::parse(&text).unwrap_or_else(|why| panic!("{why}")))
        });
        if order.as_ref().is_some_and(|order| order.is_due(name)) {
            die();
        }
    }

    #[cfg(feature = "crash-points")]
    fn die() -> ! {
        let killed = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
        killed.expect("a process may always kill itself");
        // The signal is on its way to all threads; this one must not run on meanwhile.
        loop {
            std::thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::armed::Order;
    use super::crash_point;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};

    #[test]
    fn an_order_falls_due_once_at_the_pass_it_names() {
        let third = Order::parse("edge.spool.written:3").unwrap();
        let due: Vec<_> = (0..5).map(|_| third.is_due("edge.spool.written")).collect();
        assert_eq!(due, [false, false, true, false, false]);
        let first = Order::parse("edge.spool.written").unwrap();
        assert!(!first.is_due("edge.spool.committed"));
        assert!(first.is_due("edge.spool.written"));
    }

    #[test]
    fn an_order_that_is_not_understood_is_refused_by_name() {
        for wrong in ["", ":", ":2", "name:", "name:0", "name:-1", "name:x", "name:1:2", "name:99999999999"] {
            let why = Order::parse(wrong).unwrap_err();
            assert!(why.contains(&format!("`{wrong}`")), "{why}");
        }
    }

    /// The body of the child process; does nothing in an ordinary run, since nothing is ordered there.
    #[test]
    fn child() {
        for _ in 0..3 {
            crash_point("fault.test");
        }
    }

    /// Runs [`child`] in a process of its own.
    fn run_child(order: &str) -> ExitStatus {
        let this = std::env::current_exe().unwrap();
        let child = ["--exact", "fault::tests::child", "--test-threads=1"];
        Command::new(this).args(child).env("SLUICE_CRASH_AT", order).output().unwrap().status
    }

    #[test]
    fn the_process_dies_at_the_ordered_pass_and_only_with_the_feature() {
        const SIGKILL: i32 = 9;
        for order in ["fault.test", "fault.test:3"] {
            let expected = cfg!(feature = "crash-points").then_some(SIGKILL);
            assert_eq!(run_child(order).signal(), expected, "{order}");
        }
        for order in ["fault.test:4", "fault.other"] {
            assert!(run_child(order).success(), "{order}");
        }
    }
}
