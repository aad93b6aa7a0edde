//! Accounts and API tokens: who they are, how they come in, and who may change them.

use super::password::{self, Weak};
use super::{Caller, Forbidden, Right, Role, Scope, Via};
use crate::catalogue::{Account, ApiToken, Catalogue, CatalogueError, check_name};
use data_encoding::{BASE32_NOPAD, HEXLOWER};
use dedupe::UnixMillis;
use std::time::Duration;
use subtle::ConstantTimeEq;

/// Start of each API token, so that scanners for leaked secrets find it.
const TOKEN_PREFIX: &str = "sluice";
/// Longest validity of an API token.
pub const MAX_TOKEN_DAYS: u32 = 825;
/// API tokens of one account at most.
const MAX_TOKENS: usize = 32;
/// Characters of a token's label at most.
const MAX_LABEL: usize = 100;
/// A token's last use is noted this often at most: each note is a commit.
const NOTE_USE_EVERY: Duration = Duration::from_secs(3600);

/// Why an account was not made or changed, or nobody was let in.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The catalogue.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// Not theirs to do.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The password is easily guessed.
    #[error(transparent)]
    Weak(#[from] Weak),
    /// There is one.
    #[error("there is an account `{0}` already: choose another name")]
    Exists(String),
    /// There is none.
    #[error("there is no account `{0}`; `sluice-gateway user list` lists those that there are")]
    None(String),
    /// There is no such API token.
    #[error("there is no API token `{0}` of this account")]
    NoToken(String),
    /// Nobody could administer the gateway any more.
    #[error("`{0}` is the last administrator of the whole gateway that can sign in: make another one first")]
    LastAdministrator(String),
    /// Name or password is wrong; which, is nobody's business.
    #[error("name or password is wrong")]
    Wrong,
    /// The present password is wrong.
    #[error("the present password is wrong")]
    WrongPresent,
    /// It cannot be more than its maker.
    #[error("an account of {0} cannot be given or made by {1}: rights are not made out of nothing")]
    Beyond(&'static str, &'static str),
    /// No label.
    #[error(
        "say what the token is for, in at most {MAX_LABEL} characters: whoever finds it in the list has to know whether it is still needed"
    )]
    Label,
    /// Too many.
    #[error("the account has {MAX_TOKENS} API tokens: take one back first")]
    TooMany,
    /// Validity.
    #[error("an API token is good for 1 to {MAX_TOKEN_DAYS} days")]
    Days,
}

/// A secret to be shown once. Never logged: it has no `Display` and no `Debug` that shows it.
pub struct Shown(String);

impl Shown {
    /// For whoever it is meant for.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shown(…)")
    }
}

/// What of an account is changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// Another role.
    pub role: Option<Role>,
    /// Whether it may sign in.
    pub disabled: Option<bool>,
}

/// Whoever has this name and password. Blocks for some hundredths of a second, also when there is no such account.
pub fn sign_in(catalogue: &Catalogue, name: &str, password: &str, now: UnixMillis) -> Result<Account, AccountError> {
    let account = catalogue.account(name)?;
    let right = password::matches(password, account.as_ref().map(|account| account.password.as_str()));
    let Some(account) = account.filter(|account| right && !account.disabled) else { return Err(AccountError::Wrong) };
    let noted = catalogue.change_account(&account.name, |there, _| {
        there.map(|there| Account { signed_in: Some(now), ..there }).ok_or(AccountError::Wrong)
    });
    noted?
}

/// Who an account is when it asks for something.
pub fn caller(account: &Account, via: Via) -> Caller {
    Caller { name: account.name.clone(), role: account.role, scope: account.scope, via }
}

/// Makes an account with a password that has to be changed when it first signs in.
pub fn create(
    catalogue: &Catalogue,
    by: &Caller,
    (name, role, scope): (&str, Role, Scope),
    now: UnixMillis,
) -> Result<(Account, Shown), AccountError> {
    check_name(name)?;
    may_manage(by, scope)?;
    let given = invented();
    let password = password::hash(given.reveal());
    let new = Account {
        name: name.to_owned(),
        role,
        scope,
        password,
        must_change: true,
        disabled: false,
        created: now,
        signed_in: None,
    };
    let made = catalogue.change_account(name, |there, _| match there {
        Some(_) => Err(AccountError::Exists(crate::text::printable(name))),
        None => Ok(new),
    })??;
    Ok((made, given))
}

/// Makes the first account: an administrator of the whole gateway, while there is no other.
pub fn create_first(
    catalogue: &Catalogue,
    name: &str,
    password: &str,
    now: UnixMillis,
) -> Result<Account, AccountError> {
    check_name(name)?;
    password::check(password, name)?;
    let password = password::hash(password);
    catalogue.change_account(name, |_, all| match all.first() {
        Some(first) => Err(AccountError::Exists(crate::text::printable(&first.name))),
        None => Ok(Account {
            name: name.to_owned(),
            role: Role::Administrator,
            scope: Scope::Whole,
            password,
            must_change: false,
            disabled: false,
            created: now,
            signed_in: Some(now),
        }),
    })?
}

/// Changes role or access of an account.
pub fn change(catalogue: &Catalogue, by: &Caller, name: &str, patch: Patch) -> Result<Account, AccountError> {
    catalogue.change_account(name, |there, all| {
        let there = manageable(there, by, name)?;
        let changed = Account {
            role: patch.role.unwrap_or(there.role),
            disabled: patch.disabled.unwrap_or(there.disabled),
            ..there
        };
        match is_chief(&changed) || others_are_chiefs(all, name) {
            true => Ok(changed),
            false => Err(AccountError::LastAdministrator(crate::text::printable(name))),
        }
    })?
}

/// Removes an account with its tokens.
pub fn remove(catalogue: &Catalogue, by: &Caller, name: &str) -> Result<(), AccountError> {
    let all = catalogue.accounts()?;
    manageable(all.iter().find(|account| account.name == name).cloned(), by, name)?;
    if !others_are_chiefs(&all, name) {
        return Err(AccountError::LastAdministrator(crate::text::printable(name)));
    }
    catalogue.remove_account(name)?;
    Ok(())
}

/// Gives an account a new password that has to be changed when it next signs in.
pub fn reset_password(catalogue: &Catalogue, by: &Caller, name: &str) -> Result<Shown, AccountError> {
    let given = invented();
    let password = password::hash(given.reveal());
    catalogue.change_account(name, |there, _| {
        Ok::<_, AccountError>(Account { password, must_change: true, ..manageable(there, by, name)? })
    })??;
    Ok(given)
}

/// Changes one's own password. Blocks for some hundredths of a second.
pub fn change_password(catalogue: &Catalogue, name: &str, present: &str, new: &str) -> Result<(), AccountError> {
    let account = catalogue.account(name)?.ok_or_else(|| AccountError::None(crate::text::printable(name)))?;
    if !password::matches(present, Some(&account.password)) {
        return Err(AccountError::WrongPresent);
    }
    password::check(new, name)?;
    let password = password::hash(new);
    catalogue.change_account(name, |there, _| {
        let there = there.ok_or_else(|| AccountError::None(crate::text::printable(name)))?;
        Ok::<_, AccountError>(Account { password, must_change: false, ..there })
    })??;
    Ok(())
}

/// Makes an API token for an account.
pub fn make_token(
    catalogue: &Catalogue,
    account: &Account,
    (label, role, days): (&str, Role, u32),
    now: UnixMillis,
) -> Result<(ApiToken, Shown), AccountError> {
    let label: String = label.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if label.is_empty() || label.chars().count() > MAX_LABEL {
        return Err(AccountError::Label);
    }
    if !(1..=MAX_TOKEN_DAYS).contains(&days) {
        return Err(AccountError::Days);
    }
    if !account.role.covers(role) {
        return Err(AccountError::Beyond(role.word(), account.role.word()));
    }
    if catalogue.api_tokens()?.iter().filter(|token| token.account == account.name).count() >= MAX_TOKENS {
        return Err(AccountError::TooMany);
    }
    let (mut id, mut secret) = ([0; 8], [0; 32]);
    getrandom::fill(&mut id).expect("the operating system has a random source");
    getrandom::fill(&mut secret).expect("the operating system has a random source");
    let token = ApiToken {
        id,
        hash: token_hash(&secret),
        account: account.name.clone(),
        role,
        label,
        created: now,
        valid_until: UnixMillis(now.0 + u64::from(days) * 86_400_000),
        used: None,
    };
    catalogue.put_api_token(&token)?;
    let shown = format!("{TOKEN_PREFIX}_{}_{}", HEXLOWER.encode(&id), BASE32_NOPAD.encode(&secret).to_lowercase());
    Ok((token, Shown(shown)))
}

/// Who a token speaks for; `None`: it is no token, or a token that is good no more.
pub fn caller_of_token(catalogue: &Catalogue, text: &str, now: UnixMillis) -> Result<Option<Caller>, CatalogueError> {
    let Some((id, secret)) = parse_token(text) else { return Ok(None) };
    let Some(token) = catalogue.api_token(id)? else { return Ok(None) };
    let right: bool = token_hash(&secret).ct_eq(&token.hash).into();
    if !right || now > token.valid_until {
        return Ok(None);
    }
    let Some(account) = catalogue.account(&token.account)?.filter(|account| !account.disabled) else { return Ok(None) };
    if token.used.is_none_or(|used| now.0.saturating_sub(used.0) >= NOTE_USE_EVERY.as_millis() as u64) {
        catalogue.put_api_token(&crate::catalogue::ApiToken { used: Some(now), ..token.clone() })?;
    }
    // The account may have been given less since the token was made.
    let role = if account.role.covers(token.role) { token.role } else { account.role };
    Ok(Some(Caller { role, ..caller(&account, Via::Token) }))
}

fn parse_token(text: &str) -> Option<([u8; 8], [u8; 32])> {
    let (id, secret) = text.strip_prefix(TOKEN_PREFIX)?.strip_prefix('_')?.split_once('_')?;
    let fits = id.len() == 16 && secret.len() == 52;
    let id = fits.then(|| HEXLOWER.decode(id.as_bytes()).ok()).flatten()?;
    let secret = BASE32_NOPAD.decode(secret.to_uppercase().as_bytes()).ok()?;
    Some((id.try_into().ok()?, secret.try_into().ok()?))
}

fn token_hash(secret: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key("sluice 2026-11 API token", secret)
}

/// A password that nobody has thought of: a hundred random bits, in groups that can be read aloud.
fn invented() -> Shown {
    let mut bytes = [0; 13];
    getrandom::fill(&mut bytes).expect("the operating system has a random source");
    let text = BASE32_NOPAD.encode(&bytes).to_lowercase();
    let groups: Vec<&str> = [&text[..5], &text[5..10], &text[10..15], &text[15..20]].to_vec();
    Shown(groups.join("-"))
}

/// Whether somebody may manage accounts of this scope.
fn may_manage(by: &Caller, scope: Scope) -> Result<(), Forbidden> {
    by.require(
        Right::Administer,
        match scope {
            Scope::Whole => None,
            Scope::Tenant(tenant) => Some(tenant),
        },
    )
}

/// The account, if it is there for whoever asks: those of others are answered as if they did not exist.
fn manageable(there: Option<Account>, by: &Caller, name: &str) -> Result<Account, AccountError> {
    let there = there.filter(|account| by.scope == Scope::Whole || by.scope == account.scope);
    let there = there.ok_or_else(|| AccountError::None(crate::text::printable(name)))?;
    may_manage(by, there.scope)?;
    Ok(there)
}

fn is_chief(account: &Account) -> bool {
    account.role == Role::Administrator && account.scope == Scope::Whole && !account.disabled
}

/// Whether the gateway keeps an administrator without this account, or never had one.
fn others_are_chiefs(all: &[Account], name: &str) -> bool {
    let mut chiefs = all.iter().filter(|account| is_chief(account));
    chiefs.all(|chief| chief.name != name) || all.iter().any(|account| is_chief(account) && account.name != name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dedupe::TenantId;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
    const GOOD: &str = "the river is high tonight";

    fn catalogue() -> (Catalogue, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Catalogue::create(&dir.path().join("catalogue.redb")).unwrap(), dir)
    }

    fn root() -> Caller {
        Caller::command_line("root")
    }

    #[test]
    fn somebody_signs_in_with_the_right_password_only() {
        let (catalogue, _dir) = catalogue();
        let (made, given) = create(&catalogue, &root(), ("li", Role::Operator, Scope::Whole), NOW).unwrap();
        assert!(made.must_change && !made.password.contains(given.reveal()));
        assert!(matches!(sign_in(&catalogue, "li", GOOD, NOW), Err(AccountError::Wrong)));
        assert!(matches!(sign_in(&catalogue, "wang", given.reveal(), NOW), Err(AccountError::Wrong)));
        let signed = sign_in(&catalogue, "li", given.reveal(), NOW).unwrap();
        assert!(signed.must_change && signed.signed_in == Some(NOW));
        assert!(matches!(change_password(&catalogue, "li", "x", GOOD), Err(AccountError::WrongPresent)));
        assert!(matches!(change_password(&catalogue, "li", given.reveal(), "short"), Err(AccountError::Weak(_))));
        change_password(&catalogue, "li", given.reveal(), GOOD).unwrap();
        assert!(!sign_in(&catalogue, "li", GOOD, NOW).unwrap().must_change);
        change(&catalogue, &root(), "li", Patch { disabled: Some(true), ..Patch::default() }).unwrap();
        assert!(matches!(sign_in(&catalogue, "li", GOOD, NOW), Err(AccountError::Wrong)));
    }

    #[test]
    fn the_last_administrator_stays_and_tenants_manage_their_own() {
        let (catalogue, _dir) = catalogue();
        create_first(&catalogue, "chief", GOOD, NOW).unwrap();
        assert!(matches!(create_first(&catalogue, "second", GOOD, NOW), Err(AccountError::Exists(_))));
        let down = Patch { role: Some(Role::Viewer), disabled: None };
        let said = change(&catalogue, &root(), "chief", down).unwrap_err().to_string();
        assert!(said.contains("the last administrator"), "{said}");
        assert!(matches!(remove(&catalogue, &root(), "chief"), Err(AccountError::LastAdministrator(_))));
        let (ours, theirs) = (Scope::Tenant(TenantId([1; 16])), Scope::Tenant(TenantId([2; 16])));
        let (of_ours, _) = create(&catalogue, &root(), ("ours", Role::Administrator, ours), NOW).unwrap();
        create(&catalogue, &root(), ("theirs", Role::Viewer, theirs), NOW).unwrap();
        let by = caller(&of_ours, Via::Session);
        assert!(matches!(
            create(&catalogue, &by, ("x", Role::Viewer, Scope::Whole), NOW),
            Err(AccountError::Forbidden(_))
        ));
        assert!(matches!(create(&catalogue, &by, ("x", Role::Viewer, theirs), NOW), Err(AccountError::Forbidden(_))));
        for name in ["chief", "theirs"] {
            assert!(matches!(remove(&catalogue, &by, name), Err(AccountError::None(_))), "{name} is not seen");
            assert!(matches!(reset_password(&catalogue, &by, name), Err(AccountError::None(_))), "{name} is not seen");
        }
        create(&catalogue, &by, ("mine", Role::Operator, ours), NOW).unwrap();
        remove(&catalogue, &by, "mine").unwrap();
        let (operator, _) = create(&catalogue, &root(), ("op", Role::Operator, ours), NOW).unwrap();
        let refused = remove(&catalogue, &caller(&operator, Via::Session), "ours").unwrap_err();
        assert!(matches!(refused, AccountError::Forbidden(_)), "{refused}");
    }

    #[test]
    fn a_token_speaks_for_its_account_while_both_are_good() {
        let (catalogue, _dir) = catalogue();
        let (account, _) = create(&catalogue, &root(), ("li", Role::Operator, Scope::Whole), NOW).unwrap();
        let make = |role, days| make_token(&catalogue, &account, ("dashboards", role, days), NOW);
        assert!(matches!(make(Role::Administrator, 1), Err(AccountError::Beyond(..))));
        assert!(matches!(make(Role::Viewer, 0), Err(AccountError::Days)));
        let (token, shown) = make(Role::Viewer, 30).unwrap();
        let who = |text: &str, at: u64| caller_of_token(&catalogue, text, UnixMillis(NOW.0 + at)).unwrap();
        let caller = who(shown.reveal(), 0).unwrap();
        assert_eq!((caller.name.as_str(), caller.role, caller.via), ("li", Role::Viewer, Via::Token));
        let mut wrong = shown.reveal().to_owned();
        let last = if wrong.ends_with('a') { 'e' } else { 'a' };
        wrong.replace_range(wrong.len() - 10..wrong.len() - 9, &last.to_string());
        for bad in [wrong.as_str(), "", "sluice__", "sluice_00_aa", &shown.reveal()[7..], "sluice_é_é"] {
            assert_eq!(who(bad, 0), None, "{bad}");
        }
        assert_eq!(who(shown.reveal(), 31 * 86_400_000), None, "expired");
        assert_eq!(catalogue.api_token(token.id).unwrap().unwrap().used, Some(NOW));
        change(&catalogue, &root(), "li", Patch { disabled: Some(true), role: None }).unwrap();
        assert_eq!(who(shown.reveal(), 0), None, "the account is disabled");
        catalogue.remove_account("li").unwrap();
        assert_eq!(catalogue.api_tokens().unwrap(), []);
    }
}
