//! One thread off the runtime that does one piece of work after the other.
//!
//! Parcels are planned and coded here and not on the runtime's pool of blocking threads: an allocator keeps freed memory with the thread that used it, and
//! with coding going round among a dozen threads an edge with a ceiling of 384 MiB came to 700.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc;
use tokio::sync::oneshot;

type Work = Box<dyn FnOnce() + Send>;

/// A handle on the thread, which ends when all handles are gone and its work is done.
#[derive(Clone, Debug)]
pub(crate) struct Worker(mpsc::Sender<Work>);

impl Worker {
    /// Starts a thread of this name.
    pub(crate) fn start(name: &str) -> io::Result<Worker> {
        let (sender, receiver) = mpsc::channel::<Work>();
        std::thread::Builder::new().name(name.into()).spawn(move || receiver.into_iter().for_each(|work| work()))?;
        Ok(Worker(sender))
    }

    /// Does `act` when all before it is done. A panic in it goes on here; the thread lives on. When the returned future is dropped, `act` is done nevertheless.
    pub(crate) async fn run<T: Send + 'static>(&self, act: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = oneshot::channel::<Result<T, Box<dyn Any + Send>>>();
        let work = move || drop(done.send(catch_unwind(AssertUnwindSafe(act))));
        self.0.send(Box::new(work)).expect("the thread outlives its handles");
        match result.await.expect("work that was taken is answered") {
            Ok(done) => done,
            Err(panic) => resume_unwind(panic),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[tokio::test]
    async fn all_work_is_done_on_one_thread_in_its_order_and_a_panic_ends_nothing() {
        let worker = Worker::start("test").unwrap();
        let first = worker.run(|| thread::current().id()).await;
        let other = worker.clone();
        let panicked = tokio::spawn(async move { other.run(|| panic!("once")).await }).await;
        assert!(panicked.is_err_and(|error| error.is_panic()));
        assert_eq!(worker.run(|| thread::current().id()).await, first);
        assert_ne!(first, thread::current().id());
    }
}
