//! Documents read as drafts and written again.

use super::*;
use crate::policies::document;

/// Every kind of entry, with comments and spelling of its author's own.
const AUTHORS: &str = r#"# agreed with the owner of the line in May
version = 7 # counted
zone = 'Asia/Shanghai' # all times are its

[line] # leased
up = "2Mbit/s" # measured
cap = "80%"

[profiles]
# by day a trickle
trickle = "256 kbit/s" # not more
night = { up = "80 %", down = "50%" }
spare = "10 %"

[grid]
mon-fri = "00:00 night 7:30 closed 19:30 night" # branch hours
"sat,sun" = """00:00 trickle""" # nobody is there

[holidays] # by the State Council
as = "sun"
off = [
  "2026-10-01..2026-10-07 National Day", # the long one
]
working = ["2026-10-10"]

# once a year
[[exceptions]]
name = "stock taking"
when = "2026-12-19..2026-12-20" # a weekend
hours = "8:00-20:00"
profile = "closed"

[[exceptions]]
name = "year end"
when = "12-31"
profile = "spare" # a little

[[blackouts]] # by the bank
name = "month end"
when = "last business day of month -1..+2"

[[quotas]]
period = "month"
limit = "40 GB" # prepaid in part
soft = "90 % trickle"

[[volumes]]
name = "db"
class = "critical" # first

[clock]
untrusted = "trickle" # better than nothing

[local]
boost = "90 %"
# the end
"#;

/// Documents of other tests and of the design page.
fn documents() -> Vec<String> {
    let page = include_str!("../../../../docs/design/policy.md");
    let (_, rest) = page.split_once("```toml\n").unwrap();
    let (shown, _) = rest.split_once("```").unwrap();
    vec![
        AUTHORS.to_owned(),
        shown.to_owned(),
        "zone = \"UTC\"\n[line]\nup = \"2 Mbit/s\"\n".to_owned(),
        "version = 1\nzone = \"UTC\"\nline = { up = \"2 Mbit/s\", down = \"4 Mbit/s\", courtesy = \"off\" }\nprofiles = { a = \"1 %\" }\ngrid = { all = \"00:00 a\" }\n".to_owned(),
        "zone = \"UTC\"\r\nprofiles.a.up = \"5 %\"\r\nprofiles.a.down = \"6 %\"\r\n[line]\r\nup = \"2 Mbit/s\"\r\n[grid]\r\nfri-mon = \"00:00 a\"\r\n".to_owned(),
        "zone = \"UTC\"\nexceptions = [{ name = \"x\", when = \"mon\", profile = \"closed\" }]\n[line]\nup = \"1 Mbit/s\"\n".to_owned(),
    ]
}

/// As it is, however it was reached: places and earlier names are how, not what.
fn canonical(draft: &Draft) -> Draft {
    let mut draft = draft.clone();
    let names: Vec<String> = draft.profiles.iter().map(|profile| profile.name.clone()).collect();
    draft.profiles[1..].sort_by(|a, b| a.name.cmp(&b.name));
    draft.profiles.iter_mut().for_each(|profile| profile.was = None);
    for cell in draft.grid.iter_mut().flatten() {
        let name = &names[usize::from(*cell)];
        *cell = draft.profiles.iter().position(|profile| profile.name == *name).unwrap() as u8;
    }
    draft.exceptions.iter_mut().enumerate().for_each(|(at, rule)| rule.was = Some(at));
    draft.blackouts.iter_mut().enumerate().for_each(|(at, rule)| rule.was = Some(at));
    draft
}

#[track_caller]
fn write(document: &str, edit: impl FnOnce(&mut Draft)) -> String {
    let mut draft = Draft::read(document).unwrap();
    edit(&mut draft);
    let text = draft.written(document).unwrap();
    let read = Draft::read(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
    assert_eq!(read, canonical(&draft), "\n{text}");
    // What is no part of a schedule says what it said.
    let rest = |text: &str| {
        let policy = Policy::parse(&numbered(text, 1).0).unwrap();
        let quotas: Vec<_> = policy.quotas.iter().map(|quota| (quota.period, quota.limit, quota.even)).collect();
        format!("{:?}{:?}{:?}{:?}", policy.volumes, quotas, policy.local_boost, policy.clock_holdover)
    };
    assert_eq!(rest(&text), rest(document));
    text
}

#[track_caller]
fn lines(before: &str, after: &str) -> (Vec<String>, Vec<String>) {
    let only = |one: &str, other: &str| {
        let there: Vec<&str> = other.lines().collect();
        one.lines().filter(|line| !line.is_empty() && !there.contains(line)).map(str::to_owned).collect()
    };
    (only(before, after), only(after, before))
}

#[test]
fn what_is_not_changed_stays_to_the_byte() {
    for document in documents() {
        assert_eq!(write(&document, |_| {}), document);
    }
}

#[test]
fn painting_a_day_changes_its_line_alone() {
    let text = write(AUTHORS, |draft| draft.grid[2] = draft.grid[6].clone());
    let (gone, new) = lines(AUTHORS, &text);
    assert_eq!(gone, ["mon-fri = \"00:00 night 7:30 closed 19:30 night\" # branch hours"]);
    assert_eq!(
        new,
        ["\"mon-tue, thu-fri\" = \"00:00 night 7:30 closed 19:30 night\" # branch hours", "wed = \"00:00 trickle\""]
    );
    let text = write(AUTHORS, |draft| draft.grid[5..].iter_mut().for_each(|row| row[..8].fill(0)));
    let (gone, new) = lines(AUTHORS, &text);
    assert_eq!(gone, ["\"sat,sun\" = \"\"\"00:00 trickle\"\"\" # nobody is there"]);
    assert_eq!(new, ["\"sat,sun\" = \"02:00 trickle\" # nobody is there"]);
    let text = write(AUTHORS, |draft| draft.grid.iter_mut().for_each(|row| row.fill(0)));
    assert_eq!(text.matches("00:00 closed").count(), 2, "{text}");
}

#[test]
fn profiles_come_change_and_go() {
    let text = write(AUTHORS, |draft| {
        draft.profiles[1].up = "90 %".into();
        draft.profiles.push(ProfileDraft { name: "full".into(), up: "100 %".into(), down: "100 %".into(), was: None });
        draft.grid[0][0] = draft.profiles.len() as u8 - 1;
    });
    assert!(
        text.contains("night = { up = \"90 %\", down = \"50 %\" }\n") && text.contains("full = \"100 %\""),
        "{text}"
    );
    assert!(text.contains("trickle = \"256 kbit/s\" # not more"), "{text}");
    let text = write(AUTHORS, |draft| {
        draft.exceptions.pop();
        draft.profiles.remove(2); // `spare`: the numbers behind it move up
        draft.grid.iter_mut().flatten().filter(|cell| **cell == 3).for_each(|cell| *cell = 2);
    });
    assert!(!text.contains("spare"), "{text}");
}

#[test]
fn a_renamed_profile_is_renamed_wherever_it_is_named() {
    let text = write(AUTHORS, |draft| {
        let at = draft.profiles.iter().position(|profile| profile.name == "trickle").unwrap();
        draft.profiles[at].was = Some("trickle".into());
        draft.profiles[at].name = "slow".into();
    });
    assert!(text.contains("# by day a trickle\nslow = \"256 kbit/s\" # not more"), "{text}");
    assert!(
        text.contains("soft = \"90 % slow\"") && text.contains("untrusted = \"slow\" # better than nothing"),
        "{text}"
    );
    // Names may be swapped.
    let text = write(AUTHORS, |draft| {
        let of = |draft: &Draft, name: &str| draft.profiles.iter().position(|profile| profile.name == name).unwrap();
        let (night, slow) = (of(draft, "night"), of(draft, "trickle"));
        draft.profiles[night].name = "trickle".into();
        draft.profiles[night].was = Some("night".into());
        draft.profiles[slow].name = "night".into();
        draft.profiles[slow].was = Some("trickle".into());
    });
    assert!(text.contains("night = \"256 kbit/s\" # not more") && text.contains("soft = \"90 % night\""), "{text}");
}

#[test]
fn rules_keep_what_is_written_around_them() {
    let text = write(AUTHORS, |draft| {
        draft.exceptions[0].hours = "00:00-24:00".into();
        draft.exceptions.push(ExceptionDraft {
            was: None,
            name: "audit \"B\"".into(),
            when: "second tuesday".into(),
            hours: "20:00-06:00".into(),
            profile: "spare".into(),
        });
        draft.blackouts[0].kind = "silent".into();
    });
    let (gone, new) = lines(AUTHORS, &text);
    assert_eq!(gone, ["hours = \"8:00-20:00\""]);
    assert_eq!(
        new,
        [
            "hours = \"00:00-24:00\"",
            "name = 'audit \"B\"'",
            "when = \"second tuesday\"",
            "hours = \"20:00-06:00\"",
            "profile = \"spare\"",
            "kind = \"silent\""
        ]
    );
    let text = write(AUTHORS, |draft| drop(draft.exceptions.remove(0)));
    assert!(!text.contains("stock taking") && text.contains("profile = \"spare\" # a little"), "{text}");
    let text = write(AUTHORS, |draft| {
        draft.exceptions.clear();
        draft.blackouts.clear();
    });
    assert!(!text.contains("[[exceptions]]") && !text.contains("[[blackouts]]"), "{text}");
}

#[test]
fn days_off_and_their_rows_change_in_their_lists() {
    let text = write(AUTHORS, |draft| {
        let spring =
            |from: &str, to: &str| OffDraft { from: from.into(), to: to.into(), name: "Spring Festival".into() };
        draft.holidays.off.push(spring("2027-02-05", "2027-02-11"));
        draft.holidays.working.push("2027-02-14".into());
        draft.holidays.row = None;
        draft.holidays.working_as = "tue".into();
    });
    assert!(
        text.contains(
            "  \"2026-10-01..2026-10-07 National Day\", # the long one\n  \"2027-02-05..2027-02-11 Spring Festival\",\n"
        ),
        "{text}"
    );
    assert!(
        text.contains("working = [\"2026-10-10\", \"2027-02-14\"]") && text.contains("working_as = \"tue\""),
        "{text}"
    );
    for document in documents() {
        write(&document, |draft| {
            draft.holidays.off.clear();
            draft.holidays.working.clear();
        });
    }
}

#[test]
fn every_document_takes_every_kind_of_edit() {
    for document in documents() {
        write(&document, |draft| {
            draft.zone = "Europe/Berlin".into();
            draft.line.up = "4 Mbit/s".into();
            draft.profiles.push(ProfileDraft { name: "n3w".into(), up: "5 %".into(), down: "6 %".into(), was: None });
            let number = draft.profiles.len() as u8 - 1;
            draft.grid[1][3..90].fill(number);
            draft.grid[6].fill(number);
            draft.holidays.off.push(OffDraft {
                from: "2027-05-01".into(),
                to: "2027-05-05".into(),
                name: "May".into(),
            });
            draft.holidays.working.push("2027-05-08".into());
            let (name, when, hours) = ("e".to_owned(), "2027-06-01".to_owned(), "00:00-24:00".to_owned());
            let profile = "n3w".into();
            draft.exceptions.push(ExceptionDraft { was: None, name, when, hours, profile });
            let (name, when, hours) = ("b".to_owned(), "day 1..3".to_owned(), "22:00-02:00".to_owned());
            draft.blackouts.push(BlackoutDraft { was: None, name, when, hours, kind: "data".into() });
        });
    }
}

#[test]
fn a_wrong_value_is_written_where_its_line_can_be_named() {
    let mut draft = Draft::read(AUTHORS).unwrap();
    draft.profiles[1].up = "much".into();
    let text = draft.written(AUTHORS).unwrap();
    let error = document::parse(&text, 7, jiff::Timestamp::UNIX_EPOCH).unwrap_err().to_string();
    assert!(error.starts_with("line 12: `night`: "), "{error}");
    assert!(text.contains("# branch hours"), "{text}");
}

#[test]
fn what_is_no_draft_is_refused() {
    let refused = |edit: &dyn Fn(&mut Draft)| {
        let mut draft = Draft::read(AUTHORS).unwrap();
        edit(&mut draft);
        draft.written(AUTHORS).unwrap_err().to_string()
    };
    assert_eq!(refused(&|draft| drop(draft.grid.pop())), "`grid` has seven rows, Monday first, of 96 cells each");
    assert_eq!(
        refused(&|draft| draft.grid[0][0] = 9),
        "a cell of `grid` is 9, and there are 4 profiles, counted from 0"
    );
    assert!(refused(&|draft| drop(draft.profiles.remove(0))).starts_with("the first of `profiles` is `closed`"));
    assert_eq!(
        refused(&|draft| draft.profiles[2].name = "night".into()),
        "two profiles are called `night`: rename one"
    );
    assert!(refused(&|draft| draft.holidays.working.push("soon".into())).starts_with("`soon` is no date"));
    let long = |draft: &mut Draft| draft.holidays.off[0].to = "2027-10-01".into();
    assert!(refused(&long).ends_with("they begin before they end, and last at most 60 days"));
    let many = |draft: &mut Draft| {
        draft.profiles.extend((0..32).map(|at| ProfileDraft {
            name: format!("p{at}"),
            up: "1 %".into(),
            down: "1 %".into(),
            was: None,
        }))
    };
    assert_eq!(refused(&many), "36 `profiles` are more than the 32 that are taken");
}

#[test]
fn another_site_keeps_its_line_and_what_its_quotas_name() {
    let own = "version = 3\nzone = \"Europe/Berlin\"\n[line]\nup = \"8 Mbit/s\" # fibre\n[profiles]\nnight = \"10 %\"\nslow = \"1 %\"\nold = \"2 %\"\n\
        [grid]\nall = \"00:00 old\"\n[[exceptions]]\nname = \"year end\" # theirs\nwhen = \"12-30\"\nprofile = \"closed\"\n\
        [[quotas]]\nperiod = \"day\"\nlimit = \"5 GB\"\nsoft = \"90 % slow\"\n";
    let template = Draft::read(AUTHORS).unwrap();
    let text = template.applied(own).unwrap();
    let draft = Draft::read(&text).unwrap();
    assert_eq!(
        (draft.zone.as_str(), draft.line.up.as_str(), draft.line.cap.as_str()),
        ("Europe/Berlin", "8 Mbit/s", "100 %")
    );
    let names: Vec<&str> = draft.profiles.iter().map(|profile| profile.name.as_str()).collect();
    assert_eq!(names, ["closed", "night", "slow", "spare", "trickle"]);
    assert_eq!(
        (0..7).map(|day| draft.names(day)).collect::<Vec<_>>(),
        (0..7).map(|day| template.names(day)).collect::<Vec<_>>()
    );
    assert_eq!((&draft.holidays, draft.exceptions.len()), (&template.holidays, 2));
    assert!(text.contains("# fibre") && text.contains("# theirs") && text.contains("soft = \"90 % slow\""), "{text}");
}
