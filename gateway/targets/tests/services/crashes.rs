//! A run that is killed at every one of its steps: before a request reaches the service, and after it did but before the answer came.

use crate::contract::{Kept, Until, Volume, fill, noise};
use crate::faults::{Fault, Faults};
use std::time::Duration;
use targets::http::{Options, Patience};
use targets::{Target, Work};

/// Patience for tests: short pauses, and as many attempts as are asked for.
pub(crate) fn options(attempts: u32) -> Options {
    let patience = Patience {
        attempts,
        first: Duration::from_millis(2),
        longest: Duration::from_millis(20),
        answer: Duration::from_secs(60),
        connect: Duration::from_secs(5),
    };
    Options { patience, ..Options::default() }
}

/// Runs a delta over and over and kills it at its first, its second, its third request, until it comes through. Each time another process goes on with it,
/// or it is given up. In the delta a unit changes, one becomes zeroes, one stays as it is, and the last one is short; of its steps every `every`th is taken,
/// alternately by what happens to it. `open` makes the target at an address, with so many attempts; `left` says what the service holds for the volume that is no point.
pub(crate) fn at_every_step(
    upstream: &str,
    (unit, every): (usize, usize),
    open: &dyn Fn(&str, u32) -> Box<dyn Target>,
    left: &dyn Fn(&Volume) -> Vec<String>,
) {
    let direct = format!("http://{upstream}");
    let mut volume = Volume::new("killed");
    let size = 3 * unit + 100;
    let first = volume.generation(noise(1, size));
    let (.., base) = fill(&*open(&direct, 5), &volume, &first, &Kept::default(), Until::Finished).unwrap();
    let base = base.unwrap();
    for (from, fault) in [Fault::Cut, Fault::Lost(0)].into_iter().enumerate() {
        for step in (from % every..).step_by(every) {
            let is_given_up = step / every % 3 == 2;
            let mut bytes = volume.bytes(first.generation).to_vec();
            bytes[10] = bytes[10].wrapping_add(1);
            bytes[unit..2 * unit].fill(0);
            bytes[size - 1] = 1;
            let work = Work { base: Some(base.clone()), ..volume.generation(bytes) };
            let notes = Kept::default();
            let faults = Faults::before(upstream);
            faults.add("", "", (step, 1), fault.clone());
            let killed = fill(&*open(&faults.url(), 1), &volume, &work, &notes, Until::Finished);
            if faults.done().is_empty() {
                killed.unwrap();
                open(&direct, 5).remove(&open(&direct, 5).points(&volume.image).unwrap()[1]).unwrap();
                assert!(step > 10, "a run has more than {step} steps");
                break;
            }
            let at = format!("{fault:?} at step {step}: {:?}", faults.done());
            let open = || open(&direct, 5);
            assert!(open().points(&volume.image).unwrap().len() <= 2, "{at}");
            if is_given_up && killed.is_err() {
                open().abandon(&work, &notes).unwrap();
                open().abandon(&work, &notes).unwrap();
            } else {
                let (.., point) = fill(&*open(), &volume, &work, &notes, Until::Finished)
                    .unwrap_or_else(|error| panic!("{at}: {error}"));
                let points = open().points(&volume.image).unwrap();
                assert_eq!(points, [base.clone(), point.unwrap()], "{at}");
            }
            assert_eq!(left(&volume), [] as [&str; 0], "{at}");
            for point in open().points(&volume.image).unwrap().into_iter().filter(|point| *point != base) {
                open().remove(&point).unwrap();
            }
        }
    }
    open(&direct, 5).remove(&base).unwrap();
    assert_eq!(left(&volume), [] as [&str; 0]);
}
