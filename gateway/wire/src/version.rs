//! Versions of the protocol. A connection's version is agreed by ALPN, before the first message.
//!
//! Each end offers every version that it speaks, newest first; the newest common one holds. Both ends speak two versions back at least,
//! so gateways are upgraded first, then edges, and neither waits for the other. A peer without a common version is refused
//! in the TLS handshake, which [`crate::stream::Ended::NoCommonVersion`] makes readable.

use crate::message::{FromEdge, FromGateway};

/// A version of the protocol. Later ones compare greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// Everything but questions about marks.
    V1,
    /// Adds [`FromEdge::Ask`] and [`FromGateway::Answer`], and everything about policies, time, grants and evidence.
    V2,
    /// Adds [`FromEdge::Telemetry`].
    V3,
    /// Adds the way back: [`FromEdge::List`], [`FromEdge::Measure`], their answers, and [`crate::message::DataRequest::Fetch`].
    V4,
    /// Adds releases of the appliance's system: [`FromEdge::Appliance`], [`FromGateway::Release`], and [`crate::message::DataRequest::Part`].
    V5,
    /// Adds seeds by courier: [`FromEdge::Seeding`], [`FromGateway::Seeds`], [`FromGateway::Holding`] and [`FromGateway::Waits`].
    V6,
}

/// What this build speaks, newest first.
pub const SPOKEN: [Version; 6] = [Version::V6, Version::V5, Version::V4, Version::V3, Version::V2, Version::V1];

/// ALPN of the connection on which an edge without a certificate enrols.
pub const ENROL_ALPN: &[u8] = b"sluice-enrol/1";

/// The peer and this build have no version in common.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "protocol `{0}` is not spoken here (spoken: sluice/6, sluice/5, sluice/4, sluice/3, sluice/2, sluice/1); upgrade the gateway first, then its edges"
)]
pub struct Unknown(pub String);

/// A message was used in a session whose version does not have it.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{message} exists since version {since:?}, and this session speaks {version:?}")]
pub struct NotInVersion {
    /// The message.
    pub message: &'static str,
    /// Its first version.
    pub since: Version,
    /// The session's version.
    pub version: Version,
}

impl Version {
    /// The name under which TLS agrees on it.
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Version::V1 => b"sluice/1",
            Version::V2 => b"sluice/2",
            Version::V3 => b"sluice/3",
            Version::V4 => b"sluice/4",
            Version::V5 => b"sluice/5",
            Version::V6 => b"sluice/6",
        }
    }

    /// The version that TLS agreed on.
    pub fn from_alpn(alpn: &[u8]) -> Result<Version, Unknown> {
        let known = SPOKEN.into_iter().find(|version| version.alpn() == alpn);
        known.ok_or_else(|| Unknown(String::from_utf8_lossy(&alpn[..alpn.len().min(32)]).into_owned()))
    }

    /// Whether an edge may say this in a session of this version.
    pub fn allows(self, message: &FromEdge) -> Result<(), NotInVersion> {
        match message {
            FromEdge::Ask(_) if self < Version::V2 => {
                Err(NotInVersion { message: "a question about marks", since: Version::V2, version: self })
            }
            FromEdge::PolicyHeld { .. } | FromEdge::Evidence(_) if self < Version::V2 => {
                Err(NotInVersion { message: "word about policy or evidence", since: Version::V2, version: self })
            }
            FromEdge::Telemetry(_) if self < Version::V3 => {
                Err(NotInVersion { message: "telemetry", since: Version::V3, version: self })
            }
            FromEdge::List { .. } | FromEdge::Measure { .. } if self < Version::V4 => {
                Err(NotInVersion { message: "a question about restoring", since: Version::V4, version: self })
            }
            FromEdge::Appliance(_) if self < Version::V5 => {
                Err(NotInVersion { message: "word about the appliance's system", since: Version::V5, version: self })
            }
            FromEdge::Seeding(_) if self < Version::V6 => {
                Err(NotInVersion { message: "word about a seed", since: Version::V6, version: self })
            }
            _ => Ok(()),
        }
    }

    /// Whether a gateway may say this in a session of this version.
    pub fn allows_reply(self, message: &FromGateway) -> Result<(), NotInVersion> {
        match message {
            FromGateway::Answer(_) if self < Version::V2 => {
                Err(NotInVersion { message: "an answer about marks", since: Version::V2, version: self })
            }
            FromGateway::Policy(_)
            | FromGateway::Time { .. }
            | FromGateway::Grant { .. }
            | FromGateway::EvidenceHeld { .. }
                if self < Version::V2 =>
            {
                Err(NotInVersion { message: "policy, time, grant or evidence", since: Version::V2, version: self })
            }
            FromGateway::Listed { .. } | FromGateway::Measured { .. } if self < Version::V4 => {
                Err(NotInVersion { message: "an answer about restoring", since: Version::V4, version: self })
            }
            FromGateway::Release(_) if self < Version::V5 => {
                Err(NotInVersion { message: "an order about a release", since: Version::V5, version: self })
            }
            FromGateway::Holding { .. } | FromGateway::Waits { .. } | FromGateway::Seeds(_) if self < Version::V6 => {
                Err(NotInVersion { message: "an answer about seeds", since: Version::V6, version: self })
            }
            _ => Ok(()),
        }
    }
}

/// The newest version that both lists of ALPN names have. TLS decides the same way; this is its rule in the open.
pub fn negotiate(ours: &[Version], theirs: &[&[u8]]) -> Result<Version, Unknown> {
    let mut common: Vec<Version> = ours.iter().copied().filter(|v| theirs.contains(&v.alpn())).collect();
    common.sort();
    common.pop().ok_or_else(|| {
        let offered: Vec<_> = theirs.iter().map(|alpn| String::from_utf8_lossy(alpn)).collect();
        Unknown(offered.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Answer, Ask, EdgeStatus};
    use crate::telemetry::Report;

    #[test]
    fn the_newest_common_version_holds() {
        assert_eq!(negotiate(&SPOKEN, &[b"sluice/1"]), Ok(Version::V1));
        assert_eq!(negotiate(&SPOKEN, &[b"sluice/7", b"sluice/2"]), Ok(Version::V2));
        assert_eq!(negotiate(&SPOKEN, &[b"sluice/2", b"sluice/3"]), Ok(Version::V3));
        assert_eq!(negotiate(&[Version::V1], &[b"sluice/2", b"sluice/1"]), Ok(Version::V1));
    }

    #[test]
    fn no_common_version_is_refused_by_name() {
        let refused = negotiate(&SPOKEN, &[b"sluice/8", b"sluice/7"]).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "protocol `sluice/8, sluice/7` is not spoken here (spoken: sluice/6, sluice/5, sluice/4, sluice/3, sluice/2, sluice/1); upgrade the gateway first, then its edges"
        );
        assert!(Version::from_alpn(b"h3").is_err());
    }

    #[test]
    fn version_1_has_no_questions() {
        let ask = FromEdge::Ask(Ask { id: 1, marks: vec![] });
        assert!(Version::V2.allows(&ask).is_ok());
        assert_eq!(
            Version::V1.allows(&ask).unwrap_err().to_string(),
            "a question about marks exists since version V2, and this session speaks V1"
        );
        assert!(Version::V1.allows(&FromEdge::Status(EdgeStatus::default())).is_ok());
        assert!(Version::V1.allows_reply(&FromGateway::Answer(Answer { id: 1, found: vec![] })).is_err());
    }

    #[test]
    fn telemetry_needs_version_3() {
        let telemetry = FromEdge::Telemetry(Report::default());
        assert!(Version::V3.allows(&telemetry).is_ok());
        assert_eq!(
            Version::V2.allows(&telemetry).unwrap_err().to_string(),
            "telemetry exists since version V3, and this session speaks V2"
        );
    }

    #[test]
    fn the_way_back_needs_version_4() {
        let list = FromEdge::List { id: 1, lineage: dedupe::LineageId([1; 16]), before: 0 };
        assert!(Version::V4.allows(&list).is_ok());
        assert_eq!(
            Version::V3.allows(&list).unwrap_err().to_string(),
            "a question about restoring exists since version V4, and this session speaks V3"
        );
        assert!(Version::V3.allows_reply(&FromGateway::Measured { id: 1, measured: None }).is_err());
    }

    #[test]
    fn releases_need_version_5() {
        let order = FromGateway::Release(None);
        assert!(Version::V5.allows_reply(&order).is_ok());
        assert_eq!(
            Version::V4.allows_reply(&order).unwrap_err().to_string(),
            "an order about a release exists since version V5, and this session speaks V4"
        );
    }

    #[test]
    fn seeds_need_version_6() {
        let waits = FromGateway::Waits { generation: dedupe::GenerationId([1; 16]) };
        assert!(Version::V6.allows_reply(&waits).is_ok());
        assert_eq!(
            Version::V5.allows_reply(&waits).unwrap_err().to_string(),
            "an answer about seeds exists since version V6, and this session speaks V5"
        );
    }
}
