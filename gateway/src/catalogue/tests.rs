//! Tokens, certificates, names, and the catalogue's copy.

use super::*;
use wire::token::Token;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn catalogue() -> (Catalogue, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Catalogue::create(&dir.path().join("catalogue.redb")).unwrap(), dir)
}

fn token() -> Token {
    Token::random(vec!["gw:1".into()], [0; 32])
}

fn certificate(number: u8) -> NewCertificate {
    NewCertificate { certificate: vec![number], serial: Serial([number; 16]), valid_until: UnixMillis(NOW.0 + 9000) }
}

fn enrol(
    catalogue: &Catalogue,
    token: &Token,
    key: u8,
    number: u8,
    now: UnixMillis,
) -> Result<Enrolled, CatalogueError> {
    let sign = |_: &Site| Ok::<_, std::convert::Infallible>(certificate(number));
    catalogue.enrol(&token.id, &token.secret, [key; 32], now, sign).map(|signed| signed.unwrap())
}

#[test]
fn a_token_works_once_and_the_same_request_again() {
    let (catalogue, _dir) = catalogue();
    let tenant = catalogue.tenant("bank", NOW).unwrap();
    let token = token();
    let site = catalogue.add_token(&tenant, "b1", &token, UnixMillis(NOW.0 + 10), NOW).unwrap();
    assert_eq!(enrol(&catalogue, &token, 1, 1, NOW).unwrap().certificate, [1]);
    assert!(catalogue.accepts(site.id, Serial([1; 16])).unwrap());
    let again = enrol(&catalogue, &token, 1, 2, NOW).unwrap();
    assert_eq!(again.certificate, [1], "the answer was lost, the certificate is the same");
    let other = enrol(&catalogue, &token, 2, 3, NOW).unwrap_err();
    assert_eq!(other.to_string(), "the token is not valid: it is used already");
}

#[test]
fn expired_unknown_and_forged_tokens_are_refused() {
    let (catalogue, _dir) = catalogue();
    let tenant = catalogue.tenant("bank", NOW).unwrap();
    let good = token();
    catalogue.add_token(&tenant, "b1", &good, UnixMillis(NOW.0 + 10), NOW).unwrap();
    let late = enrol(&catalogue, &good, 1, 1, UnixMillis(NOW.0 + 11)).unwrap_err();
    assert!(matches!(late, CatalogueError::Token("expired")));
    assert!(matches!(enrol(&catalogue, &token(), 1, 1, NOW).unwrap_err(), CatalogueError::Token("unknown")));
    let forged = Token { secret: Secret::new([7; 32]), ..good.clone() };
    assert!(matches!(
        enrol(&catalogue, &forged, 1, 1, NOW).unwrap_err(),
        CatalogueError::Token("presented with a wrong secret")
    ));
    assert!(enrol(&catalogue, &good, 1, 1, NOW).is_ok(), "and the good one still works");
}

#[test]
fn enrolling_again_or_revoking_ends_the_certificates_before() {
    let (catalogue, _dir) = catalogue();
    let tenant = catalogue.tenant("bank", NOW).unwrap();
    let (first, second) = (token(), token());
    let site = catalogue.add_token(&tenant, "b1", &first, UnixMillis(NOW.0 + 10), NOW).unwrap();
    enrol(&catalogue, &first, 1, 1, NOW).unwrap();
    let same = catalogue.add_token(&tenant, "b1", &second, UnixMillis(NOW.0 + 10), NOW).unwrap();
    assert_eq!(same.id, site.id);
    assert!(catalogue.accepts(site.id, Serial([1; 16])).unwrap(), "a token alone changes nothing");
    enrol(&catalogue, &second, 2, 2, NOW).unwrap();
    assert!(!catalogue.accepts(site.id, Serial([1; 16])).unwrap());
    catalogue.add_certificate(site.id, &certificate(3)).unwrap();
    assert!(
        catalogue.accepts(site.id, Serial([2; 16])).unwrap() && catalogue.accepts(site.id, Serial([3; 16])).unwrap()
    );
    assert!(!catalogue.accepts(SiteId([9; 16]), Serial([3; 16])).unwrap(), "a certificate is its site's alone");
    catalogue.revoke(site.id, NOW).unwrap();
    for serial in [2, 3] {
        assert!(!catalogue.accepts(site.id, Serial([serial; 16])).unwrap());
    }
}

#[test]
fn names_are_checked_and_found() {
    let (catalogue, _dir) = catalogue();
    let (bank, other) = (catalogue.tenant("bank", NOW).unwrap(), catalogue.tenant("other", NOW).unwrap());
    assert_eq!(catalogue.tenant("bank", NOW).unwrap().id, bank.id);
    for tenant in [&bank, &other] {
        catalogue.add_token(tenant, "b1", &token(), NOW, NOW).unwrap();
    }
    assert!(matches!(catalogue.find_site("b1"), Err(CatalogueError::Ambiguous(_))));
    assert_eq!(catalogue.find_site("other/b1").unwrap().tenant, other.id);
    assert!(matches!(catalogue.find_site("b2"), Err(CatalogueError::NoSite(_))));
    for wrong in ["", "a/b", "a b", "a\x1b[2J", &"x".repeat(101)] {
        assert!(catalogue.tenant(wrong, NOW).is_err(), "{wrong:?}");
    }
}

#[test]
fn the_copy_is_the_catalogue_and_old_rows_are_tidied() {
    let (catalogue, dir) = catalogue();
    let tenant = catalogue.tenant("bank", NOW).unwrap();
    let token = token();
    catalogue.add_token(&tenant, "b1", &token, UnixMillis(NOW.0 + 10), NOW).unwrap();
    catalogue.set_addresses(&["gw:1".into()]).unwrap();
    let path = dir.path().join("copy.redb");
    catalogue.copy_to(&path).unwrap();
    let copy = Catalogue::open(&path).unwrap();
    assert_eq!(copy.sites().unwrap(), catalogue.sites().unwrap());
    assert_eq!(copy.addresses().unwrap(), ["gw:1"]);
    assert!(enrol(&copy, &token, 1, 1, NOW).is_ok());
    assert_eq!(catalogue.tidy(UnixMillis(NOW.0 + 10)).unwrap(), 0);
    assert_eq!(catalogue.tidy(UnixMillis(NOW.0 + 11)).unwrap(), 1);
}

#[test]
fn a_second_gateway_is_refused() {
    let (_catalogue, dir) = catalogue();
    let path = dir.path().join("catalogue.redb");
    let refused = Catalogue::open(&path).unwrap_err().to_string();
    assert!(refused.ends_with("is in use: another gateway runs on this state directory"), "{refused}");
    let none = Catalogue::open(&dir.path().join("none.redb")).unwrap_err().to_string();
    assert!(none.contains("`sluice-gateway init` makes one"), "{none}");
}
