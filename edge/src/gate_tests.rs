use super::*;
use shaping::Rate;
use shaping::scheduler::PIECE;

const BULK: LineageId = LineageId([1; 16]);
const CRITICAL: LineageId = LineageId([2; 16]);
const OTHER: LineageId = LineageId([3; 16]);
const MORE: LineageId = LineageId([4; 16]);
const LOTS: u64 = 1 << 40;

fn of(class: VolumeClass) -> Terms {
    Terms { class, ..Terms::default() }
}

fn rows(bulk: Terms) -> Arc<VolumeTable> {
    let [critical, low] = [of(VolumeClass::Critical), of(VolumeClass::Bulk)];
    Arc::new(VolumeTable::made(&[("bulk", bulk), ("critical", critical), ("other", low), ("more", low)]))
}

/// A gate over a line without a limit, where these names are known.
fn gate() -> (Gate, watch::Sender<Arc<VolumeTable>>) {
    let gate = Gate::new(Shaper::new(Rate::Unlimited));
    for (volume, name) in [(BULK, "bulk"), (CRITICAL, "critical"), (OTHER, "other"), (MORE, "more")] {
        gate.admit(volume, name);
    }
    let tables = watch::Sender::new(rows(of(VolumeClass::Bulk)));
    tokio::spawn(gate.clone().follow(tables.subscribe(), CancellationToken::new()));
    (gate, tables)
}

/// Lets everything happen that can happen without a piece being written: all tasks share this thread, and each has few steps to take.
async fn quiet() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

async fn waits(future: impl Future) -> bool {
    tokio::select! {
        biased;
        _ = future => false,
        () = quiet() => true,
    }
}

#[tokio::test]
async fn a_class_that_comes_first_has_the_next_piece_and_the_other_goes_on_afterwards() {
    let (gate, _tables) = gate();
    quiet().await;
    let bulk = gate.board(BULK).await;
    assert!(matches!(bulk.next(LOTS).await, Turn::Send(bytes) if bytes > 0 && bytes <= PIECE));
    let critical = gate.board(CRITICAL).await;
    assert!(waits(critical.next(100_000)).await, "one piece is written at a time");
    let first = tokio::spawn(async move { (bulk.next(LOTS).await, bulk) });
    let Turn::Send(sent) = critical.next(100_000).await else { panic!("it comes first") };
    assert!(matches!(critical.next(100_000 - sent).await, Turn::Send(_)), "and again");
    quiet().await;
    assert!(!first.is_finished());
    assert_eq!(gate.share(BULK).waits, Some(Waits::Behind(VolumeClass::Critical)));
    assert_eq!(gate.share(CRITICAL).waits, None);
    drop(critical);
    assert!(matches!(first.await.unwrap().0, Turn::Send(_)));
}

#[tokio::test]
async fn a_hold_bites_with_the_next_piece_and_ends_when_it_is_lifted() {
    let (gate, tables) = gate();
    quiet().await;
    let bulk = gate.board(BULK).await;
    let other = gate.board(OTHER).await;
    assert!(matches!(bulk.next(LOTS).await, Turn::Send(_)));
    tables.send_replace(rows(Terms { barred: true, ..of(VolumeClass::Bulk) }));
    quiet().await;
    let held = tokio::spawn(async move { (bulk.next(LOTS).await, bulk) });
    for _ in 0..10 {
        assert!(matches!(other.next(LOTS).await, Turn::Send(_)), "the other goes on");
    }
    quiet().await;
    assert!(!held.is_finished());
    assert_eq!(gate.share(BULK).waits, Some(Waits::Barred));
    drop(other);
    tables.send_replace(rows(of(VolumeClass::Bulk)));
    assert!(matches!(held.await.unwrap().0, Turn::Send(_)));
}

#[tokio::test]
async fn berths_are_few_and_who_comes_first_gets_one_of_them() {
    let (gate, _tables) = gate();
    quiet().await;
    let mut berths = Vec::new();
    for volume in [BULK, OTHER, MORE] {
        berths.push(gate.board(volume).await);
    }
    assert!(waits(gate.board(BULK)).await, "all berths are taken, and it does not come first");
    let boarding = tokio::spawn({
        let gate = gate.clone();
        async move { gate.board(CRITICAL).await }
    });
    quiet().await;
    assert!(!boarding.is_finished());
    let last = berths.pop().unwrap();
    assert_eq!(last.next(LOTS).await, Turn::Leave, "the last one to come makes room");
    assert!(matches!(berths[0].next(LOTS).await, Turn::Send(_)), "the others stay");
    drop(last);
    boarding.await.unwrap();
}

#[tokio::test]
async fn a_parcel_that_is_given_up_while_it_writes_keeps_nobody_waiting() {
    let (gate, _tables) = gate();
    quiet().await;
    let (one, other) = (gate.board(BULK).await, gate.board(OTHER).await);
    assert!(matches!(one.next(LOTS).await, Turn::Send(_)));
    let next = tokio::spawn(async move { (other.next(LOTS).await, other) });
    quiet().await;
    assert!(!next.is_finished());
    drop(one);
    assert!(matches!(next.await.unwrap().0, Turn::Send(_)));
}

#[tokio::test]
async fn a_cap_is_waited_for_and_kept() {
    let (gate, tables) = gate();
    tables.send_replace(rows(Terms { cap: Some(BitsPerSec::kbit(8_000)), ..of(VolumeClass::Bulk) }));
    quiet().await;
    let (bulk, began, mut sent) = (gate.board(BULK).await, tokio::time::Instant::now(), 0);
    while sent < 1_000_000 {
        let Turn::Send(bytes) = bulk.next(LOTS).await else { panic!("nobody else comes") };
        sent += bytes;
    }
    // 8 Mbit/s at IP level, of which so much is payload; what was saved up before is a piece at most.
    let most = 1_000_000.0 * shaping::forecast::EFFICIENCY * began.elapsed().as_secs_f64() + 2.0 * PIECE as f64;
    assert!(sent as f64 <= most, "{sent} of {most}");
}
