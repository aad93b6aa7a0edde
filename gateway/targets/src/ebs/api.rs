//! The questions: EBS direct APIs (JSON and headers) and what of EC2 snapshots need (forms and XML).

use super::BLOCK;
use super::written::Sum;
use crate::aws::{self, Call, Service, sign};
use crate::error::TargetError;
use crate::http::Reply;
use crate::xml;
use data_encoding::BASE64;
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;

/// The version of EC2's API that the forms are written for.
const EC2_VERSION: &str = "2016-11-15";
/// Pages of one list at most: far more than there can be, so that a service that repeats itself ends in an error.
const MOST_PAGES: usize = 10_000;
/// How often a block that came damaged is asked for.
const READS: usize = 3;
const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";
const SUM: &str = "x-amz-checksum";
const SUM_ALGORITHM: &str = "x-amz-checksum-algorithm";

/// Both services.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) ebs: Service,
    pub(crate) ec2: Service,
}

/// A snapshot as EC2 describes it.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) id: String,
    pub(crate) state: String,
    pub(crate) tags: BTreeMap<String, String>,
}

impl Found {
    pub(crate) fn tag(&self, name: &str) -> Option<String> {
        self.tags.get(name).cloned()
    }
}

/// What is started.
pub(crate) struct Begin<'a> {
    pub(crate) token: &'a str,
    pub(crate) gib: u64,
    pub(crate) parent: Option<&'a str>,
    pub(crate) tags: &'a [(&'a str, String)],
    pub(crate) description: &'a str,
    pub(crate) encrypted: bool,
    pub(crate) kms_key: Option<&'a str>,
    pub(crate) minutes: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Started {
    snapshot_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    #[serde(default)]
    blocks: Vec<Block>,
    next_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Block {
    block_index: u32,
    block_token: String,
}

impl Api {
    /// Starts a snapshot; the same token with the same words gives the same snapshot. `None`: the token was used with other words.
    pub(crate) fn start(&self, begin: &Begin<'_>) -> Result<Option<String>, TargetError> {
        let tags: Vec<_> = begin.tags.iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect();
        let mut words = json!({
            "VolumeSize": begin.gib, "ClientToken": begin.token, "Tags": tags, "Description": begin.description,
            "Timeout": begin.minutes,
        });
        // A child is encrypted as its parent is; to say so as well is refused.
        match begin.parent {
            Some(parent) => words["ParentSnapshotId"] = json!(parent),
            None if begin.encrypted => {
                words["Encrypted"] = json!(true);
                begin.kms_key.iter().for_each(|key| words["KmsKeyArn"] = json!(key));
            }
            None => {}
        }
        let body = words.to_string();
        let call = Call {
            headers: vec![("content-type", "application/json".into())],
            body: body.as_bytes(),
            fine: &[409],
            ..Call::new("POST", "/snapshots")
        };
        let reply = self.ebs.ask(&call)?;
        if reply.status == 409 {
            return match aws::error_code(&reply).as_deref() {
                Some("ConflictException") => Ok(None),
                _ => Err(self.ebs.refused(&call, &reply)),
            };
        }
        let started: Started = self.json(&call, &reply)?;
        if !is_id(&started.snapshot_id) {
            return Err(self.ebs.answer(&call, "a snapshot without a name as snapshots have it".into()));
        }
        Ok(Some(started.snapshot_id))
    }

    /// Puts one whole block and returns its checksum, which the service has compared.
    pub(crate) fn put(&self, snapshot: &str, block: u32, bytes: &[u8]) -> Result<Sum, TargetError> {
        let sum = sum(bytes);
        let path = format!("/snapshots/{snapshot}/blocks/{block}");
        let headers = vec![
            ("content-type", "application/octet-stream".into()),
            ("x-amz-data-length", BLOCK.to_string()),
            (SUM, BASE64.encode(&sum)),
            (SUM_ALGORITHM, "SHA256".into()),
        ];
        // As AWS describes it, the block is not signed and its checksum is.
        let call = Call { headers, body: bytes, is_unsigned: true, ..Call::new("PUT", &path) };
        let reply = self.ebs.ask(&call)?;
        match reply.header(SUM) {
            Some(said) if said != BASE64.encode(&sum) => {
                Err(self.ebs.answer(&call, "the checksum of other bytes".into()))
            }
            _ => Ok(sum),
        }
    }

    /// Asks for the snapshot to be completed. `Some`: it was refused, as it is when AWS heard that before. That it was refused the very first time
    /// (`is_first`) is an error.
    pub(crate) fn complete(
        &self,
        snapshot: &str,
        count: u64,
        aggregate: Option<Sum>,
        is_first: bool,
    ) -> Result<Option<TargetError>, TargetError> {
        let path = format!("/snapshots/completion/{snapshot}");
        let mut headers = vec![("x-amz-changedblockscount", count.to_string())];
        if let Some(sum) = aggregate {
            headers.push((SUM, BASE64.encode(&sum)));
            headers.push((SUM_ALGORITHM, "SHA256".into()));
            headers.push(("x-amz-checksum-aggregation-method", "LINEAR".into()));
        }
        let call = Call { headers, fine: &[400], ..Call::new("POST", &path) };
        let reply = self.ebs.ask(&call)?;
        match (reply.status == 400).then(|| self.ebs.refused(&call, &reply)) {
            Some(refused) if is_first && reply.attempt == 1 => Err(refused),
            refused => Ok(refused),
        }
    }

    /// The blocks that a completed snapshot holds in `blocks`, with the tokens by which they are read.
    pub(crate) fn list(
        &self,
        snapshot: &str,
        blocks: std::ops::Range<u32>,
    ) -> Result<BTreeMap<u32, String>, TargetError> {
        let path = format!("/snapshots/{snapshot}/blocks");
        let start = blocks.start.to_string();
        let mut found = BTreeMap::new();
        let mut token: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let mut query = vec![("maxResults", "1000")];
            match &token {
                Some(token) => query.push(("pageToken", token)),
                None => query.push(("startingBlockIndex", &start)),
            }
            let call = Call { query: &query, ..Call::new("GET", &path) };
            let page: Listed = self.json(&call, &self.ebs.ask(&call)?)?;
            let is_behind = page.blocks.last().is_some_and(|block| block.block_index >= blocks.end);
            let inside = page.blocks.into_iter().filter(|block| blocks.contains(&block.block_index));
            found.extend(inside.map(|block| (block.block_index, block.block_token)));
            match page.next_token.filter(|token| !token.is_empty()) {
                Some(next) if !is_behind => token = Some(next),
                _ => return Ok(found),
            }
        }
        Err(self.ebs.answer(&Call::new("GET", &path), format!("more than {MOST_PAGES} pages")))
    }

    /// Reads one block and compares its checksum.
    pub(crate) fn get(&self, snapshot: &str, block: u32, token: &str) -> Result<Vec<u8>, TargetError> {
        let path = format!("/snapshots/{snapshot}/blocks/{block}");
        let query = [("blockToken", token)];
        let call = Call { query: &query, most: 2 * BLOCK as u64, ..Call::new("GET", &path) };
        for _ in 0..READS {
            let reply = self.ebs.ask(&call)?;
            let said = reply.header(SUM).and_then(|sum| BASE64.decode(sum.as_bytes()).ok());
            if reply.body.len() == BLOCK && said.is_some_and(|said| said == sum(&reply.body)) {
                return Ok(reply.body);
            }
        }
        Err(self.ebs.answer(
            &call,
            format!("{READS} times bytes that do not fit their checksum; read it again, then make it anew"),
        ))
    }

    /// Snapshots of this account that have all these tags.
    pub(crate) fn find(&self, tags: &[(&str, &str)]) -> Result<Vec<Found>, TargetError> {
        let names: Vec<(String, String)> = (1..)
            .zip(tags)
            .flat_map(|(at, (key, value))| {
                [
                    (format!("Filter.{at}.Name"), format!("tag:{key}")),
                    (format!("Filter.{at}.Value.1"), (*value).to_owned()),
                ]
            })
            .collect();
        let mut words: Vec<(&str, &str)> = vec![("Owner.1", "self"), ("MaxResults", "1000")];
        words.extend(names.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        self.describe(&words)
    }

    /// One snapshot by its name, if there is one.
    pub(crate) fn look(&self, snapshot: &str) -> Result<Option<Found>, TargetError> {
        let (call, body) = (Call::new("POST", "/"), form("DescribeSnapshots", &[("SnapshotId.1", snapshot)]));
        let call = Call { headers: vec![("content-type", FORM.into())], body: body.as_bytes(), fine: &[400], ..call };
        let reply = self.ec2.ask(&call)?;
        if reply.status == 400 {
            return match aws::error_code(&reply).as_deref() {
                Some("InvalidSnapshot.NotFound") => Ok(None),
                _ => Err(self.ec2.refused(&call, &reply)),
            };
        }
        Ok(self.snapshots(&call, &reply)?.0.into_iter().find(|found| found.id == snapshot))
    }

    /// Whether the account may be asked at all: one page, whatever is on it.
    pub(crate) fn try_ec2(&self) -> Result<(), TargetError> {
        let body = form("DescribeSnapshots", &[("Owner.1", "self"), ("MaxResults", "5")]);
        let call =
            Call { headers: vec![("content-type", FORM.into())], body: body.as_bytes(), ..Call::new("POST", "/") };
        self.ec2.ask(&call).and_then(|reply| self.snapshots(&call, &reply)).map(drop)
    }

    /// Whether the EBS direct APIs may be asked: a snapshot that is never there is either not found or not to be asked about.
    pub(crate) fn try_ebs(&self) -> Result<(), TargetError> {
        let call = Call { fine: &[400, 404], ..Call::new("GET", "/snapshots/snap-00000000000000000/blocks") };
        let reply = self.ebs.ask(&call)?;
        match aws::error_code(&reply).as_deref() {
            Some("ResourceNotFoundException" | "ValidationException") => Ok(()),
            _ => Err(self.ebs.refused(&call, &reply)),
        }
    }

    /// Sets tags, those that are there already too.
    pub(crate) fn tag(&self, snapshot: &str, tags: &[(&str, String)]) -> Result<(), TargetError> {
        let names: Vec<(String, &str)> = (1..)
            .zip(tags)
            .flat_map(|(at, (key, value))| {
                [(format!("Tag.{at}.Key"), *key), (format!("Tag.{at}.Value"), value.as_str())]
            })
            .collect();
        let mut words = vec![("ResourceId.1", snapshot)];
        words.extend(names.iter().map(|(name, value)| (name.as_str(), *value)));
        let body = form("CreateTags", &words);
        let call =
            Call { headers: vec![("content-type", FORM.into())], body: body.as_bytes(), ..Call::new("POST", "/") };
        self.ec2.ask(&call).map(drop)
    }

    /// Deletes a snapshot, pending or completed. That it is gone already is no error.
    pub(crate) fn delete(&self, snapshot: &str) -> Result<(), TargetError> {
        let body = form("DeleteSnapshot", &[("SnapshotId", snapshot)]);
        let call = Call {
            headers: vec![("content-type", FORM.into())],
            body: body.as_bytes(),
            fine: &[400],
            ..Call::new("POST", "/")
        };
        let reply = self.ec2.ask(&call)?;
        match aws::error_code(&reply).as_deref() {
            _ if reply.status != 400 => Ok(()),
            Some("InvalidSnapshot.NotFound") => Ok(()),
            Some("InvalidSnapshot.InUse") => {
                let said =
                    format!("{snapshot} is needed by an image (AMI): deregister that first, then remove it again");
                Err(TargetError::Conflict(said))
            }
            _ => Err(self.ec2.refused(&call, &reply)),
        }
    }

    fn describe(&self, words: &[(&str, &str)]) -> Result<Vec<Found>, TargetError> {
        let mut found = Vec::new();
        let mut token: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let mut words = words.to_vec();
            words.extend(token.as_deref().map(|token| ("NextToken", token)));
            let body = form("DescribeSnapshots", &words);
            let call =
                Call { headers: vec![("content-type", FORM.into())], body: body.as_bytes(), ..Call::new("POST", "/") };
            let reply = self.ec2.ask(&call)?;
            let (page, next) = self.snapshots(&call, &reply)?;
            found.extend(page);
            match next {
                Some(next) => token = Some(next),
                None => return Ok(found),
            }
        }
        Err(self.ec2.answer(&Call::new("POST", "/"), format!("more than {MOST_PAGES} pages")))
    }

    fn snapshots(&self, call: &Call<'_>, reply: &Reply) -> Result<(Vec<Found>, Option<String>), TargetError> {
        let asked = format!("{} {}", call.method, call.path);
        xml::read(self.ec2.client.service(), &asked, &reply.body, |root| {
            let mut found = Vec::new();
            for item in xml::children(root, "snapshotSet").flat_map(|set| xml::children(set, "item")) {
                let tags = xml::children(item, "tagSet").flat_map(|set| xml::children(set, "item")).filter_map(|tag| {
                    Some((xml::text(tag, "key")?.to_owned(), xml::text(tag, "value").unwrap_or_default().to_owned()))
                });
                let id = xml::text(item, "snapshotId").filter(|id| is_id(id))?.to_owned();
                found.push(Found { id, state: xml::text(item, "status")?.to_owned(), tags: tags.collect() });
            }
            let next = xml::text(root, "nextToken").filter(|token| !token.is_empty()).map(str::to_owned);
            Some((found, next))
        })
    }

    fn json<T: serde::de::DeserializeOwned>(&self, call: &Call<'_>, reply: &Reply) -> Result<T, TargetError> {
        serde_json::from_slice(&reply.body)
            .map_err(|error| self.ebs.answer(call, format!("JSON with a fault: {error}")))
    }
}

/// Whether a text is the name of a snapshot.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() <= 64
        && text
            .strip_prefix("snap-")
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

pub(crate) fn sum(bytes: &[u8]) -> Sum {
    digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn form(action: &str, words: &[(&str, &str)]) -> String {
    let mut all = vec![("Action", action), ("Version", EC2_VERSION)];
    all.extend_from_slice(words);
    sign::query(&all)
}
