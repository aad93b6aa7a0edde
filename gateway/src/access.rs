//! Who may do what: accounts and their roles, sessions and tokens, and what needs a second person.
//!
//! ```text
//!   Role, Right, Scope   what a role may do, and for whom
//!   Caller               who asks, however they came: everything that is asked of the gateway names one
//!   accounts             accounts, signing in, API tokens
//!   password             argon2id, and which passwords are taken
//!   sessions             who is signed in by a browser
//!   agreement            what the owner of a line has to agree to; pure
//! ```

pub mod accounts;
pub mod agreement;
pub mod password;
pub mod sessions;

use crate::catalogue::Tenant;
use dedupe::TenantId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What somebody may do. Variants are only ever added at the end: rows of all ages are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Looks, and changes nothing.
    Viewer,
    /// Steers lines and volumes, within what their owners agreed to.
    Operator,
    /// Speaks for the owner of a line: agrees to what operators ask for. Steers nothing.
    Approver,
    /// What an operator may, and accounts, tenants, revocation. Agrees to nothing.
    Administrator,
}

/// A kind of action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Right {
    /// To look.
    See,
    /// To steer lines and volumes.
    Operate,
    /// To agree for the owner of a line.
    Approve,
    /// To manage accounts, tenants and sites.
    Administer,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 4] = [Role::Viewer, Role::Operator, Role::Approver, Role::Administrator];

    /// Whether it has a right.
    pub fn has(self, right: Right) -> bool {
        match self {
            Role::Viewer => right == Right::See,
            Role::Operator => matches!(right, Right::See | Right::Operate),
            Role::Approver => matches!(right, Right::See | Right::Approve),
            Role::Administrator => matches!(right, Right::See | Right::Operate | Right::Administer),
        }
    }

    /// Whether it has every right that `other` has.
    pub fn covers(self, other: Role) -> bool {
        Right::ALL.into_iter().all(|right| self.has(right) || !other.has(right))
    }

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Approver => "approver",
            Role::Administrator => "administrator",
        }
    }

    /// The role of a word.
    pub fn from_word(word: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.word() == word)
    }
}

impl Right {
    /// All of them.
    pub const ALL: [Right; 4] = [Right::See, Right::Operate, Right::Approve, Right::Administer];
}

/// For whom somebody may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// For all tenants, and the gateway itself.
    Whole,
    /// For one tenant: nothing of any other is seen.
    Tenant(TenantId),
}

impl Scope {
    /// Whether it covers a tenant.
    pub fn covers(self, tenant: TenantId) -> bool {
        self == Scope::Whole || self == Scope::Tenant(tenant)
    }
}

/// How somebody came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// By a command on the gateway's machine, as a user who may open its state.
    CommandLine,
    /// Signed in, by a browser.
    Session,
    /// A program, by an API token.
    Token,
    /// The gateway itself, for a standing order that somebody gave.
    Order,
}

impl Via {
    /// Its word in the audit log.
    pub fn word(self) -> &'static str {
        match self {
            Via::CommandLine => "command-line",
            Via::Session => "session",
            Via::Token => "token",
            Via::Order => "order",
        }
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The account's name; of a command the login name of its user.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// For whom.
    pub scope: Scope,
    /// How they came.
    pub via: Via,
}

/// Somebody may not do what they ask for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{who} is {role} and may not {right}{whose}: ask an administrator for an account that may")]
pub struct Forbidden {
    who: String,
    role: &'static str,
    right: Right,
    whose: &'static str,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Right::See => "look at this",
            Right::Operate => "steer lines and volumes",
            Right::Approve => "agree for the owner of a line",
            Right::Administer => "manage accounts, tenants and sites",
        })
    }
}

impl Caller {
    /// Whoever runs a command on the gateway's machine and may open its state: nothing could be kept from them.
    pub fn command_line(name: impl Into<String>) -> Caller {
        Caller { name: name.into(), role: Role::Administrator, scope: Scope::Whole, via: Via::CommandLine }
    }

    /// Refuses what the role has no right to. `tenant`: whose it is; `None`: of the whole gateway.
    ///
    /// What belongs to a tenant out of scope must not come here: it is answered as if it did not exist.
    pub fn require(&self, right: Right, tenant: Option<TenantId>) -> Result<(), Forbidden> {
        let refuse =
            |whose| Err(Forbidden { who: crate::text::printable(&self.name), role: self.role.word(), right, whose });
        match (self.role.has(right), tenant) {
            (false, _) => refuse(""),
            (true, None) if self.scope != Scope::Whole => refuse(" of the whole gateway"),
            (true, Some(tenant)) if !self.scope.covers(tenant) => refuse(" of another tenant"),
            _ => Ok(()),
        }
    }

    /// Whether anything of this tenant may be seen.
    pub fn sees(&self, tenant: &Tenant) -> bool {
        self.scope.covers(tenant.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_has_its_rights_and_nobody_asks_and_agrees() {
        let rights = |role: Role| Right::ALL.into_iter().filter(|right| role.has(*right)).collect::<Vec<_>>();
        assert_eq!(rights(Role::Viewer), [Right::See]);
        assert_eq!(rights(Role::Operator), [Right::See, Right::Operate]);
        assert_eq!(rights(Role::Approver), [Right::See, Right::Approve]);
        assert_eq!(rights(Role::Administrator), [Right::See, Right::Operate, Right::Administer]);
        assert!(Role::Administrator.covers(Role::Operator) && !Role::Administrator.covers(Role::Approver));
        assert!(!Role::Operator.covers(Role::Administrator));
    }

    #[test]
    fn a_scope_holds_its_tenant_and_nothing_else() {
        let (ours, theirs) = (TenantId([1; 16]), TenantId([2; 16]));
        let caller =
            Caller { name: "li".into(), role: Role::Administrator, scope: Scope::Tenant(ours), via: Via::Token };
        assert_eq!(caller.require(Right::Administer, Some(ours)), Ok(()));
        let refused = |right, tenant| caller.require(right, tenant).unwrap_err().to_string();
        let ask = ": ask an administrator for an account that may";
        assert_eq!(
            refused(Right::See, Some(theirs)),
            format!("li is administrator and may not look at this of another tenant{ask}")
        );
        assert!(refused(Right::Administer, None).contains("of the whole gateway"));
        assert!(refused(Right::Approve, Some(ours)).contains("may not agree for the owner of a line:"));
        assert_eq!(Caller::command_line("root").require(Right::Administer, None), Ok(()));
    }
}
