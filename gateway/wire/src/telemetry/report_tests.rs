//! Reports: what arrives is what was told, and no report is longer than it may be.

use super::*;
use crate::frame;
use crate::message::FromEdge;
use proptest::prelude::*;

fn lineage(number: u16) -> LineageId {
    let mut id = [7; 16];
    id[..2].copy_from_slice(&number.to_be_bytes());
    LineageId(id)
}

pub(crate) fn site() -> SiteFigures {
    SiteFigures {
        uptime: 86_400,
        allowed: 1_600_000,
        reason: 7,
        until: 1_795_800_000,
        sent_minute: 420,
        sent: 40_000_000,
        received: 3_000_000,
        over_minutes: 1,
        base_round_trip: 81_000,
        round_trip: 84_321,
        packets: 90_000,
        lost: 450,
        line_rate: 1_980_000,
        clock: 0,
        clock_skew: -1_200,
        policy: 12,
        quotas: vec![(12_000_000_000, 40_000_000_000), (5, 6)],
        backlog: 123_456_789,
        arrives: 1_795_830_000,
        spool: 33_000_000,
        spool_limit: 20_000_000_000,
        disk_free: 180_123_456_512,
        disk_size: 240_000_000_000,
        certificate_until: 1_803_500_000,
        volumes: 3,
    }
}

pub(crate) fn volume(number: u16) -> VolumeFigures {
    VolumeFigures {
        lineage: lineage(number),
        state: VolumeState::Sending,
        captured: 1_795_794_000,
        size: 500_000_000_000,
        changed: 1_234_567_168,
        raw: 900_000_000,
        coded: 120_000_000,
        left: 60_000_000,
        arrives: 1_795_820_000,
        deadline: 1_795_880_000,
        class: 1,
        weight: 10,
    }
}

fn volumes(count: u16) -> Vec<VolumeFigures> {
    (0..count).map(volume).collect()
}

/// Tells until nothing is left to be told; how many reports that took.
fn settle(teller: &mut Teller, hearer: &mut Hearer, site: &SiteFigures, volumes: &[VolumeFigures]) -> usize {
    for count in 0.. {
        let report = teller.tell(site, volumes);
        let written = postcard::to_stdvec(&report).unwrap();
        assert_eq!(report.size(), written.len(), "{report:?}");
        assert!(written.len() <= MAX_REPORT, "{} bytes", written.len());
        if report == Report::default() {
            return count;
        }
        hearer.hear(&postcard::from_bytes(&written).unwrap()).unwrap();
    }
    unreachable!()
}

#[test]
fn the_first_report_is_whole_and_the_next_ones_are_small() {
    let (mut teller, mut hearer) = (Teller::default(), Hearer::default());
    let (mut site, mut all) = (site(), volumes(3));
    assert_eq!(settle(&mut teller, &mut hearer, &site, &all), 1, "three volumes fit");
    assert_eq!(hearer.site(), site);
    assert_eq!(hearer.volumes().collect::<Vec<_>>(), all);
    // A minute later at rest.
    site.uptime += 60;
    (site.sent, site.received, site.sent_minute, site.packets) = (site.sent + 430, site.received + 210, 431, 90_009);
    (site.round_trip, site.disk_free, site.clock_skew) = (82_911, site.disk_free - 8192, -1_201);
    let report = teller.tell(&site, &all);
    assert!(report.size() <= 24, "{} bytes: {report:?}", report.size());
    hearer.hear(&report).unwrap();
    assert_eq!(hearer.site(), site);
    // At work, all three volumes move.
    for volume in &mut all {
        (volume.raw, volume.coded, volume.left) = (volume.raw + 40_000_000, volume.coded + 9_000_000, 51_000_000);
        volume.arrives += 42;
    }
    let report = teller.tell(&site, &all);
    assert!(report.size() <= 80, "{} bytes: {report:?}", report.size());
}

#[test]
fn many_volumes_are_told_in_turn_and_none_is_left_out_for_ever() {
    let (mut teller, mut hearer) = (Teller::default(), Hearer::default());
    let (mut site, mut all) = (site(), volumes(200));
    settle(&mut teller, &mut hearer, &site, &all);
    assert_eq!(hearer.volumes().collect::<Vec<_>>(), all);
    // All of them change all the time: each is heard of again within as many reports as it takes to tell all once.
    let mut heard = BTreeMap::new();
    for minute in 0..40 {
        site.uptime += 60;
        for volume in &mut all {
            volume.left += 1_000_000;
        }
        hearer.hear(&teller.tell(&site, &all)).unwrap();
        for volume in hearer.volumes() {
            if all.contains(&volume) {
                heard.insert(volume.lineage, minute);
            }
        }
    }
    assert_eq!(heard.len(), 200);
    assert!(heard.values().all(|minute| *minute >= 30), "{heard:?}");
}

#[test]
fn a_volume_that_is_gone_is_gone_and_its_number_is_used_again() {
    let (mut teller, mut hearer) = (Teller::default(), Hearer::default());
    let (site, mut all) = (site(), volumes(3));
    settle(&mut teller, &mut hearer, &site, &all);
    all.remove(1);
    all.push(volume(9));
    settle(&mut teller, &mut hearer, &site, &all);
    let mut told: Vec<_> = hearer.volumes().collect();
    told.sort_by_key(|volume| volume.lineage);
    assert_eq!(told, all);
    assert!(hearer.volumes.keys().all(|number| *number < 3), "{:?}", hearer.volumes.keys());
}

#[test]
fn what_does_not_follow_is_refused() {
    let mut hearer = Hearer::default();
    let changes = |mask, steps: &[i64]| Changes { mask, steps: steps.to_vec() };
    let of = |changes: &Changes| Report { site: changes.clone(), volumes: vec![] };
    assert_eq!(hearer.hear(&of(&changes(3, &[1]))), Err(ReportError::Steps { places: 2, steps: 1 }));
    assert_eq!(hearer.hear(&of(&changes(1 << 63, &[1]))), Err(ReportError::Place));
    let word = |word| Report { site: Changes::default(), volumes: vec![word] };
    let new = VolumeWord::New { number: 0, lineage: lineage(1), changes: Changes::default() };
    let unknown = VolumeWord::Changed { number: 0, changes: Changes::default() };
    assert_eq!(hearer.hear(&word(unknown)), Err(ReportError::Number(0)));
    hearer.hear(&word(new.clone())).unwrap();
    assert_eq!(hearer.hear(&word(new)), Err(ReportError::Number(0)));
    let high = VolumeWord::New { number: 1024, lineage: lineage(2), changes: Changes::default() };
    assert_eq!(hearer.hear(&word(high)), Err(ReportError::Number(1024)));
    assert_eq!(hearer.hear(&word(VolumeWord::Gone { number: 7 })), Err(ReportError::Number(7)));
    let beyond = VolumeWord::Changed { number: 0, changes: changes(1 << VOLUME, &[1]) };
    assert_eq!(hearer.hear(&word(beyond)), Err(ReportError::Place));
}

#[test]
fn a_list_that_claims_to_be_long_is_refused_by_its_count() {
    // A mask, and 2^60 steps that are not there.
    let mut bytes = vec![1];
    bytes.extend([0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10]);
    assert!(postcard::from_bytes::<Report>(&bytes).is_err());
    let long = Changes { mask: 0, steps: vec![0; SITE_ALL + 1] };
    let long = postcard::to_stdvec(&Report { site: long, volumes: vec![] }).unwrap();
    assert!(postcard::from_bytes::<Report>(&long).is_err());
}

#[test]
fn a_report_over_its_limit_is_refused_at_both_ends() {
    let new = |number: u16| {
        let changes = Changes { mask: 1, steps: vec![i64::MAX] };
        VolumeWord::New { number, lineage: lineage(number), changes }
    };
    let report = |words: u16| Report { site: Changes::default(), volumes: (0..words).map(new).collect() };
    let (fits, long) = (report(9), report(10));
    assert!(fits.size() <= MAX_REPORT && long.size() > MAX_REPORT, "{} {}", fits.size(), long.size());
    let frame = frame::encode(&FromEdge::Telemetry(fits.clone())).unwrap();
    assert_eq!(frame::decode(&frame[frame::HEADER..]), Ok(FromEdge::Telemetry(fits)));
    let why = frame::encode(&FromEdge::Telemetry(long.clone())).unwrap_err().to_string();
    assert!(why.contains("telemetry over 300 bytes"), "{why}");
    let body = postcard::to_stdvec(&FromEdge::Telemetry(long)).unwrap();
    let why = frame::decode::<FromEdge>(&body).unwrap_err().to_string();
    assert!(why.contains("telemetry over 300 bytes"), "{why}");
}

proptest! {
    #[test]
    fn any_figures_arrive_as_they_are(numbers in proptest::collection::vec(any::<u64>(), 60), count in 0..5usize) {
        let at = |place: usize| numbers[place];
        let odd = SiteFigures {
            uptime: at(0) as u32, allowed: at(1), reason: at(2) as u8, until: at(3) as u32, sent_minute: at(4) as u32,
            sent: at(5), received: at(6), over_minutes: at(7) as u32, base_round_trip: at(8) as u32,
            round_trip: at(9) as u32, packets: at(10), lost: at(11), line_rate: at(12), clock: at(13) as u8,
            clock_skew: at(14) as i32, policy: at(15),
            quotas: (0..at(16) as usize % (MAX_QUOTAS + 1)).map(|quota| (at(17 + quota), at(26 + quota))).collect(),
            backlog: at(34), arrives: at(35) as u32, spool: at(36), spool_limit: at(37), disk_free: at(38),
            disk_size: at(39), certificate_until: at(40) as u32, volumes: at(41) as u16,
        };
        let odd_volume = |number: usize| VolumeFigures {
            lineage: lineage(number as u16), state: VolumeState::from_code(at(42) as u8 % 9), captured: at(43) as u32,
            size: at(44), changed: at(45), raw: at(46), coded: at(47 + number), left: at(48), arrives: at(49) as u32,
            deadline: at(50) as u32, class: at(51) as u8, weight: at(52) as u32,
        };
        let all: Vec<_> = (0..count).map(odd_volume).collect();
        let (mut teller, mut hearer) = (Teller::default(), Hearer::default());
        settle(&mut teller, &mut hearer, &site(), &volumes(2));
        settle(&mut teller, &mut hearer, &odd, &all);
        prop_assert_eq!(hearer.site(), odd);
        let mut told: Vec<_> = hearer.volumes().collect();
        told.sort_by_key(|volume| volume.lineage);
        prop_assert_eq!(told, all);
    }
}
