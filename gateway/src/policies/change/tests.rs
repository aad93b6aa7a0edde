//! Each change and each refusal.

use super::*;
use dedupe::UnixMillis;
use jiff::civil::date;
use shaping::Rate;

const NOW: &str = "2026-11-23T12:00:00Z"; // Monday, 20:00 in Shanghai
const PLAIN: &str = "# agreed with the line's owner\nzone = \"Asia/Shanghai\"\n\n[line]\nup = \"2 Mbit/s\"\n\n[grid]\n";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn author() -> Author {
    Author::new("li", "month end").unwrap()
}

fn row(document: &str, version: u64) -> PolicyRow {
    PolicyRow { version, made: UnixMillis(0), actor: "a".into(), reason: "r".into(), document: document.into() }
}

fn step(current: Option<&PolicyRow>, change: &Change) -> Result<(PolicyRow, Next), ChangeError> {
    let version = current.map_or(0, |row| row.version) + 1;
    let next = apply("b1", current, version, change, &author(), now())?;
    Ok((row(&next.document, version), next))
}

fn first() -> PolicyRow {
    step(None, &Change::Set { document: PLAIN.into(), expected: None }).unwrap().0
}

fn bend(bend: Bend, until: &str) -> Change {
    Change::Bend(Wanted { bend, from: None, until: Some(until.into()), seconds: None, volume: None })
}

fn policy(row: &PolicyRow) -> Policy {
    Policy::parse(&row.document).unwrap()
}

#[test]
fn a_document_is_kept_as_it_was_written_but_for_its_version() {
    let one = first();
    assert_eq!(one.document, PLAIN.replace("# agreed", "version = 1 # agreed"));
    let again = Change::Set { document: one.document.replace("version = 1", "version = 99"), expected: None };
    let (two, next) = step(Some(&one), &again).unwrap();
    assert_eq!((policy(&two).version, next.kept.len()), (2, 0));
    assert!(two.document.starts_with("version = 2 # agreed"), "{}", two.document);
}

#[test]
fn overrides_come_end_and_expire() {
    let boost = Bend::Boost { rate: "1 Mbit/s".parse().unwrap(), pierce: false };
    let (two, next) = step(Some(&first()), &bend(boost, "21:00")).unwrap();
    let added = policy(&two).overrides;
    assert_eq!((added[0].id, added[0].actor.as_str(), added[0].reason.as_str()), (2, "li", "month end"));
    assert_eq!((added[0].from, added[0].until.to_string()), (now(), "2026-11-23T13:00:00Z".into()));
    assert_eq!(
        next.what[0].to_string(),
        "override 2: boost 1 Mbit/s from 2026-11-23 12:00:00 UTC until 2026-11-23 13:00:00 UTC"
    );
    let (three, _) = step(Some(&two), &bend(Bend::Pause, "2026-11-24 08:00")).unwrap();
    assert_eq!(policy(&three).overrides.iter().map(|bend| bend.id).collect::<Vec<_>>(), [2, 3]);
    // An hour later the first has ended, and the next version has it no more.
    let later = now() + jiff::SignedDuration::from_hours(1);
    let next = apply("b1", Some(&three), 4, &Change::Hold, &author(), later).unwrap();
    assert_eq!(policy(&row(&next.document, 4)).overrides.iter().map(|bend| bend.id).collect::<Vec<_>>(), [3]);
    let (four, next) = step(Some(&three), &Change::EndOverride { id: 3 }).unwrap();
    assert_eq!(next.what, [LineChange::OverrideEnded { id: 3 }]);
    assert_eq!(policy(&four).overrides.iter().map(|bend| bend.id).collect::<Vec<_>>(), [2]);
    let (five, _) = step(Some(&four), &bend(Bend::Pause, "21:00")).unwrap();
    assert_eq!(policy(&five).overrides[1].id, 5, "no id is given twice");
}

#[test]
fn a_new_document_ends_no_hold_and_no_override() {
    let (two, _) = step(Some(&first()), &Change::Hold).unwrap();
    let (three, _) = step(Some(&two), &bend(Bend::Pause, "21:00")).unwrap();
    let (four, next) = step(Some(&three), &Change::Set { document: PLAIN.into(), expected: None }).unwrap();
    assert_eq!(next.kept, ["the hold by li (month end)", "override 3: pause, by li (month end)"]);
    assert_eq!((policy(&four).hold.is_some(), policy(&four).overrides.len()), (true, 1));
    // A document that names them itself keeps its words.
    let (five, next) = step(Some(&four), &Change::Set { document: four.document.clone(), expected: None }).unwrap();
    assert_eq!((next.kept.len(), policy(&five).overrides.len()), (0, 1));
    assert_eq!(next.what, [LineChange::PolicySet], "it brought nothing new");
    let (six, _) = step(Some(&five), &Change::Release).unwrap();
    assert!(policy(&six).hold.is_none());
    // What a document brings along is noted too.
    let (_, next) =
        step(Some(&six), &Change::Set { document: four.document.replace("id = 3", "id = 4"), expected: None }).unwrap();
    assert_eq!(next.what.len(), 3, "{:?}", next.what);
    assert!(matches!(next.what[2], LineChange::OverrideAdded { id: 4, .. }) && next.what[1] == LineChange::Held);
}

#[test]
fn a_calendar_takes_the_place_of_what_was_known_of_its_dates() {
    let (one, _) = step(
        None,
        &Change::Set {
            document: format!("{PLAIN}\n[holidays]\noff = [\"2026-10-10 wrong\"]\nworking = [\"2026-10-01\"]\n"),
            expected: None,
        },
    )
    .unwrap();
    let days =
        Days { off: [(date(2026, 10, 1), "National Day".to_owned())].into(), working: [date(2026, 10, 10)].into() };
    let (two, next) = step(Some(&one), &Change::Holidays(days.clone())).unwrap();
    let holidays = policy(&two).holidays;
    assert_eq!((holidays.off, holidays.working), (days.off, days.working));
    assert_eq!(next.what[0].to_string(), "holidays imported: 1 days off, 1 make-up working days");
}

#[test]
fn every_refusal_says_what_is_wrong_and_what_to_do() {
    let one = first();
    let why = |current: Option<&PolicyRow>, change: &Change| step(current, change).unwrap_err().to_string();
    let cases = [
        (
            why(None, &Change::Hold),
            "site `b1` has no policy yet; `sluice-gateway policy set --site b1 --file FILE --reason TEXT` gives it one",
        ),
        (why(Some(&one), &Change::Release), "site `b1` is not held: there is nothing to release"),
        (
            why(Some(&one), &Change::EndOverride { id: 7 }),
            "site `b1` has no override 7 in force or to come; it has none",
        ),
        (
            why(Some(&one), &bend(Bend::Pause, "2026-11-23 19:00")),
            "the override would end at Mon 2026-11-23 19:00, which has passed: choose a later time",
        ),
        (
            why(Some(&one), &bend(Bend::Pause, "2027-11-23 19:00")),
            "the policy of site `b1` would not be valid: `until`: an override ends after it begins, and within 31 days",
        ),
        (
            why(Some(&one), &bend(Bend::Boost { rate: Rate::Closed, pierce: false }, "21:00")),
            "the policy of site `b1` would not be valid: `bend`: a boost to 0 is a pause: write \"pause\"",
        ),
    ];
    for (said, wanted) in cases {
        assert_eq!(said, wanted);
    }
    let (held, _) = step(Some(&one), &Change::Hold).unwrap();
    assert_eq!(
        why(Some(&held), &Change::Hold),
        "site `b1` is held already, by li (month end); `sluice-gateway release --site b1 --reason TEXT` ends that"
    );
    let endless = Wanted { bend: Bend::Pause, from: None, until: None, seconds: None, volume: None };
    assert!(why(Some(&one), &Change::Bend(endless)).contains("say when by --until, or how long by --for"));
    assert!(why(Some(&one), &bend(Bend::Pause, "soon")).contains("`soon` is no time"));
}

/// A document as its owner wrote it, with a word on every part that other changes touch.
const COMMENTED: &str = r#"# the line of branch 1
version = 1 # counted by the gateway
zone = "Asia/Shanghai"

[line] # rented from CT
up = "2 Mbit/s"   # see the contract

[grid]
mon-fri = "00:00 closed" # they work

[holidays] # by the State Council
off = [
  "2026-10-01 National Day", # agreed in May
]

# the auditors are here
[[overrides]]
id = 900
bend = "pause"
from = "2026-11-23T10:00:00Z"
until = "2026-11-24T10:00:00Z" # noon would do
actor = "wu"
reason = "audit"

[clock]
holdover = "7 days" # since the flood
# the end
"#;

#[test]
fn comments_survive_every_kind_of_change() {
    let (one, _) = step(None, &Change::Set { document: COMMENTED.into(), expected: None }).unwrap();
    let words: Vec<&str> = COMMENTED.lines().filter_map(|line| line.split_once('#').map(|(_, word)| word)).collect();
    let holidays = Change::Holidays(Days {
        off: [(date(2027, 1, 1), "New Year".to_owned())].into(),
        working: [date(2026, 12, 26)].into(),
    });
    let (held, _) = step(Some(&one), &Change::Hold).unwrap();
    let (bent, _) = step(Some(&one), &bend(Bend::Pause, "21:00")).unwrap();
    let changes = [
        ("override add", &one, bend(Bend::Boost { rate: "1 Mbit/s".parse().unwrap(), pierce: true }, "21:00")),
        ("override end", &bent, Change::EndOverride { id: 901 }),
        ("hold", &one, Change::Hold),
        ("release", &held, Change::Release),
        ("holidays", &one, holidays),
        ("schedule", &held, Change::Schedule(Box::new(Draft::read(COMMENTED).unwrap()))),
        // What stays in force although it is not named is added to the new text too.
        ("set", &held, Change::Set { document: COMMENTED.into(), expected: None }),
    ];
    for (what, from, change) in changes {
        let (row, _) = step(Some(from), &change).unwrap();
        for word in &words {
            assert!(row.document.contains(word), "{what} lost `#{word}`:\n{}", row.document);
        }
        assert!(row.document.contains(&format!("version = {} # counted", row.version)), "{what}:\n{}", row.document);
    }
    // A pause that has ended goes with the comments on it, and nothing else does.
    let days_later = now() + jiff::SignedDuration::from_hours(48);
    let next = apply("b1", Some(&one), 2, &Change::Hold, &author(), days_later).unwrap();
    let lost: Vec<&&str> = words.iter().filter(|word| !next.document.contains(**word)).collect();
    assert_eq!(lost, [&" the auditors are here", &" noon would do"]);
}

#[test]
fn a_document_that_was_written_for_another_version_is_refused() {
    let one = first();
    let set = |expected| Change::Set { document: PLAIN.into(), expected: Some(expected) };
    assert!(step(Some(&one), &set(1)).is_ok());
    let said = step(Some(&one), &set(0)).unwrap_err().to_string();
    assert_eq!(
        said,
        "the policy of site `b1` is at version 1 by now, and this was written for version 0: look at what changed, and save again"
    );
    assert!(step(None, &set(0)).is_ok());
}

#[test]
fn a_schedule_takes_the_place_of_the_one_before_and_of_nothing_else() {
    let (held, _) = step(Some(&first()), &Change::Hold).unwrap();
    let (bent, _) = step(Some(&held), &bend(Bend::Pause, "21:00")).unwrap();
    let mut draft = Draft::read(&PLAIN.replace("2 Mbit/s", "9 Mbit/s").replace("Asia/Shanghai", "UTC")).unwrap();
    draft.profiles.push(crate::policies::draft::ProfileDraft {
        name: "night".into(),
        up: "50 %".into(),
        down: "50 %".into(),
        was: None,
    });
    draft.grid[0][0] = 1;
    let (row, next) = step(Some(&bent), &Change::Schedule(Box::new(draft.clone()))).unwrap();
    assert_eq!((next.what[0].to_string().as_str(), next.kept.len()), ("schedule set", 0));
    let new = policy(&row);
    assert_eq!(
        (new.version, new.line.up.to_string(), new.zone.iana_name()),
        (4, "2 Mbit/s".into(), Some("Asia/Shanghai"))
    );
    assert!(new.hold.is_some() && new.overrides.len() == 1 && row.document.contains("# agreed with the line's owner"));
    assert_eq!(new.profile(new.grid.at(0, 0)).name, "night");
    // Whoever has none has no line that a schedule could be of.
    let none = step(None, &Change::Schedule(Box::new(draft.clone()))).unwrap_err();
    assert!(matches!(none, ChangeError::NoPolicy(_)), "{none}");
    // Nobody has seen the text that would come out: the site is named.
    draft.profiles[1].up = "much".into();
    let wrong = step(Some(&row), &Change::Schedule(Box::new(draft))).unwrap_err().to_string();
    assert!(wrong.starts_with("the policy of site `b1` would not be valid: `night`: "), "{wrong}");
}
