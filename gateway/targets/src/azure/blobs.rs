//! The few requests to Azure's blob service that a target needs, each safe to repeat.

use super::sign::{Account, Signed, Way};
use crate::crc64;
use crate::error::TargetError;
use crate::http::{Client, MOST_ANSWER, Reply};
use crate::xml;
use roxmltree::Node;
use std::collections::BTreeMap;
use std::ops::Range;
use ureq::http::Request;

/// The version of the interface. Old enough for Azure Stack Hub, new enough for CRC-64.
const VERSION: &str = "2019-07-07";
/// Bytes of one Put Page at most, which is the service's limit.
pub(super) const MOST: usize = 4 << 20;
/// Blobs and snapshots of one name at most that are listed: a target keeps far fewer.
const MOST_LISTED: usize = 20_000;

/// One container.
#[derive(Debug)]
pub(super) struct Blobs {
    client: Client,
    account: Account,
    container: String,
}

/// One blob, or a snapshot of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Listed {
    /// `None`: the blob itself.
    pub(super) snapshot: Option<String>,
    pub(super) etag: String,
    pub(super) len: u64,
    pub(super) is_page_blob: bool,
    pub(super) metadata: BTreeMap<String, String>,
}

/// A blob of one name as it is found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) blob: Option<Listed>,
    /// Oldest first.
    pub(super) snapshots: Vec<Listed>,
}

#[derive(Default)]
struct Ask<'a> {
    method: &'a str,
    name: &'a str,
    query: Vec<(&'a str, String)>,
    headers: Vec<(&'static str, String)>,
    metadata: &'a [(String, String)],
    body: &'a [u8],
    fine: &'a [u16],
}

impl Blobs {
    pub(super) fn new(client: Client, account: Account, container: &str) -> Blobs {
        Blobs { client, account, container: container.to_owned() }
    }

    /// The address of the container, or of a blob in it.
    pub(super) fn address(&self, name: &str) -> String {
        let slash = if name.is_empty() { "" } else { "/" };
        format!("{}/{}{slash}{name}", self.account.endpoint, self.container)
    }

    pub(super) fn container(&self) -> &str {
        &self.container
    }

    pub(super) fn account(&self) -> &str {
        &self.account.name
    }

    fn ask(&self, ask: &Ask<'_>) -> Result<Reply, TargetError> {
        self.client.ask_for(ask.fine, MOST_ANSWER, || self.request(ask)).map_err(|error| match error {
            TargetError::Refused { status: 412, said, .. } => TargetError::Conflict(format!(
                "{} was changed or taken over by somebody else while it was filled; look who writes it, then run it again ({said})",
                self.address(ask.name)
            )),
            error => error,
        })
    }

    fn request(&self, ask: &Ask<'_>) -> Result<Request<Vec<u8>>, TargetError> {
        let headers = ask.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        let metadata = ask.metadata.iter().map(|(name, value)| (format!("x-ms-meta-{name}"), value.clone()));
        let mut headers: Vec<(String, String)> = headers.chain(metadata).collect();
        headers.push(("x-ms-version".into(), VERSION.into()));
        headers.push(("x-ms-date".into(), date()));
        if !ask.body.is_empty() {
            headers.push(("content-type".into(), "application/octet-stream".into()));
        }
        let address = self.address(ask.name);
        let mut query: Vec<String> =
            ask.query.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        match &self.account.way {
            Way::Token(token) => query.push(token.to_string()),
            Way::Key(key) => {
                let uri = address.parse::<ureq::http::Uri>().map_err(|error| self.odd(ask, &error.to_string()))?;
                let (path, len) = (uri.path(), ask.body.len());
                let signed = Signed { method: ask.method, path, query: &ask.query, headers: &headers, len };
                headers.push(("authorization".into(), signed.authorization(&self.account.name, key)));
            }
        }
        let question = if query.is_empty() { "" } else { "?" };
        let address = format!("{address}{question}{}", query.join("&"));
        let request =
            headers.iter().fold(Request::builder().method(ask.method).uri(address), |request, (name, value)| {
                request.header(name, value)
            });
        request.body(ask.body.to_vec()).map_err(|error| self.odd(ask, &error.to_string()))
    }

    fn odd(&self, ask: &Ask<'_>, said: &str) -> TargetError {
        let asked = format!("{} {}", ask.method, ask.name);
        TargetError::Answer { service: self.client.service().to_owned(), asked, said: said.to_owned() }
    }

    /// Whether the container can be listed.
    pub(super) fn check(&self) -> Result<(), TargetError> {
        let query = vec![("restype", "container".into()), ("comp", "list".into()), ("maxresults", "1".into())];
        self.ask(&Ask { method: "GET", query, ..Ask::default() }).map(|_| ())
    }

    /// A blob and its snapshots.
    pub(super) fn find(&self, name: &str) -> Result<Found, TargetError> {
        let mut found = Found::default();
        let mut marker = String::new();
        loop {
            let mut query = vec![("restype", "container".into()), ("comp", "list".into())];
            query.extend([("include", "metadata,snapshots".into()), ("prefix", name.to_owned())]);
            if !marker.is_empty() {
                query.push(("marker", marker));
            }
            let ask = Ask { method: "GET", query, ..Ask::default() };
            let (blobs, next) = self.read_xml(&ask, |root| {
                let blobs = xml::children(root, "Blobs").flat_map(|blobs| xml::children(blobs, "Blob"));
                // The name is the beginning of others.
                let ours = blobs.filter(|blob| xml::text(*blob, "Name") == Some(name));
                let blobs: Option<Vec<Listed>> = ours.map(listed).collect();
                Some((blobs?, xml::text(root, "NextMarker").unwrap_or_default().to_owned()))
            })?;
            for listed in blobs {
                match listed.snapshot {
                    None => found.blob = Some(listed),
                    Some(_) => found.snapshots.push(listed),
                }
            }
            marker = next;
            if marker.is_empty() {
                found.snapshots.sort_by(|a, b| a.snapshot.cmp(&b.snapshot));
                return Ok(found);
            }
            if found.snapshots.len() > MOST_LISTED {
                return Err(self.odd(&ask, &format!("more than {MOST_LISTED} snapshots; remove some")));
            }
        }
    }

    fn read_xml<T>(&self, ask: &Ask<'_>, take: impl FnOnce(Node<'_, '_>) -> Option<T>) -> Result<T, TargetError> {
        let reply = self.ask(ask)?;
        xml::read(self.client.service(), &format!("{} {}", ask.method, ask.name), &reply.body, take)
    }

    /// Makes an empty page blob; `false`: there is one already.
    pub(super) fn create(&self, name: &str, len: u64, metadata: &[(String, String)]) -> Result<bool, TargetError> {
        let mut headers = vec![("x-ms-blob-type", "PageBlob".into()), ("x-ms-blob-content-length", len.to_string())];
        headers.push(("if-none-match", "*".into()));
        let reply = self.ask(&Ask { method: "PUT", name, headers, metadata, fine: &[409], ..Ask::default() })?;
        Ok(reply.status != 409)
    }

    /// Replaces a blob's metadata. Answers its new ETag.
    pub(super) fn set_metadata(
        &self,
        name: &str,
        lease: &str,
        metadata: &[(String, String)],
    ) -> Result<String, TargetError> {
        let query = vec![("comp", "metadata".into())];
        let headers = vec![("x-ms-lease-id", lease.to_owned())];
        let reply = self.ask(&Ask { method: "PUT", name, query, headers, metadata, ..Ask::default() })?;
        Ok(reply.header("etag").unwrap_or_default().to_owned())
    }

    pub(super) fn resize(&self, name: &str, lease: &str, len: u64) -> Result<(), TargetError> {
        let query = vec![("comp", "properties".into())];
        let headers = vec![("x-ms-lease-id", lease.to_owned()), ("x-ms-blob-content-length", len.to_string())];
        self.ask(&Ask { method: "PUT", name, query, headers, ..Ask::default() }).map(|_| ())
    }

    /// Writes pages, which the service compares with their sum.
    pub(super) fn put(&self, name: &str, lease: &str, at: u64, bytes: &[u8]) -> Result<(), TargetError> {
        let sum = data_encoding::BASE64.encode(&crc64::of(bytes).to_le_bytes());
        let mut headers = page_headers(lease, "update", &(at..at + bytes.len() as u64));
        headers.push(("x-ms-content-crc64", sum));
        let query = vec![("comp", "page".into())];
        self.ask(&Ask { method: "PUT", name, query, headers, body: bytes, ..Ask::default() }).map(|_| ())
    }

    /// Makes pages read as zeroes and take no room.
    pub(super) fn clear(&self, name: &str, lease: &str, range: &Range<u64>) -> Result<(), TargetError> {
        let headers = page_headers(lease, "clear", range);
        let query = vec![("comp", "page".into())];
        self.ask(&Ask { method: "PUT", name, query, headers, ..Ask::default() }).map(|_| ())
    }

    /// Reads at most [`MOST`] bytes.
    pub(super) fn get(&self, name: &str, at: u64, buffer: &mut [u8]) -> Result<(), TargetError> {
        let headers = vec![("x-ms-range", bytes_header(&(at..at + buffer.len() as u64)))];
        let ask = Ask { method: "GET", name, headers, ..Ask::default() };
        let reply = self.ask(&ask)?;
        if reply.body.len() != buffer.len() {
            return Err(self.odd(&ask, &format!("{} bytes instead of {}", reply.body.len(), buffer.len())));
        }
        buffer.copy_from_slice(&reply.body);
        Ok(())
    }

    /// Ranges with pages in them, within one range, in order.
    pub(super) fn ranges(&self, name: &str, within: &Range<u64>) -> Result<Vec<Range<u64>>, TargetError> {
        let query = vec![("comp", "pagelist".into())];
        let headers = vec![("x-ms-range", bytes_header(within))];
        let ask = Ask { method: "GET", name, query, headers, ..Ask::default() };
        self.read_xml(&ask, |root| {
            let number = |node, name| xml::text(node, name)?.trim().parse::<u64>().ok();
            let range = |node| Some(number(node, "Start")?..number(node, "End")?.checked_add(1)?);
            xml::children(root, "PageRange").map(range).collect()
        })
    }

    /// Makes a snapshot of a blob that is still as `etag` says. Asked twice it makes two: the caller looks before and after.
    pub(super) fn snapshot(&self, name: &str, lease: &str, etag: &str) -> Result<(), TargetError> {
        let headers = vec![("x-ms-lease-id", lease.to_owned()), ("if-match", etag.to_owned())];
        let query = vec![("comp", "snapshot".into())];
        self.ask(&Ask { method: "PUT", name, query, headers, ..Ask::default() }).map(|_| ())
    }

    /// Removes a snapshot; that it is gone is fine.
    pub(super) fn remove_snapshot(&self, name: &str, snapshot: &str) -> Result<(), TargetError> {
        let query = vec![("snapshot", snapshot.to_owned())];
        self.ask(&Ask { method: "DELETE", name, query, fine: &[404], ..Ask::default() }).map(|_| ())
    }

    /// Removes a blob that has no snapshots and is still as `etag` says. `false`: it has, it is not, or somebody works on it.
    pub(super) fn remove(&self, name: &str, lease: Option<&str>, etag: &str) -> Result<bool, TargetError> {
        let mut headers = vec![("if-match", etag.to_owned())];
        headers.extend(lease.map(|lease| ("x-ms-lease-id", lease.to_owned())));
        let reply = self.ask(&Ask { method: "DELETE", name, headers, fine: &[404, 409, 412], ..Ask::default() })?;
        Ok(!matches!(reply.status, 409 | 412))
    }

    /// Takes or keeps the lease; `false`: somebody else has it.
    pub(super) fn lease(&self, name: &str, lease: &str, seconds: u64) -> Result<bool, TargetError> {
        let mut headers = vec![("x-ms-lease-action", "acquire".into()), ("x-ms-proposed-lease-id", lease.to_owned())];
        headers.push(("x-ms-lease-duration", seconds.to_string()));
        let query = vec![("comp", "lease".into())];
        let reply = self.ask(&Ask { method: "PUT", name, query, headers, fine: &[409], ..Ask::default() })?;
        Ok(reply.status != 409)
    }

    /// Gives the lease back, if we have it.
    pub(super) fn release(&self, name: &str, lease: &str) -> Result<(), TargetError> {
        let headers = vec![("x-ms-lease-action", "release".into()), ("x-ms-lease-id", lease.to_owned())];
        let query = vec![("comp", "lease".into())];
        self.ask(&Ask { method: "PUT", name, query, headers, fine: &[404, 409, 412], ..Ask::default() }).map(|_| ())
    }
}

fn page_headers(lease: &str, what: &str, range: &Range<u64>) -> Vec<(&'static str, String)> {
    vec![("x-ms-lease-id", lease.to_owned()), ("x-ms-page-write", what.to_owned()), ("x-ms-range", bytes_header(range))]
}

fn bytes_header(range: &Range<u64>) -> String {
    format!("bytes={}-{}", range.start, range.end - 1)
}

fn listed(blob: Node<'_, '_>) -> Option<Listed> {
    let properties = xml::children(blob, "Properties").next()?;
    let metadata = xml::children(blob, "Metadata").flat_map(|metadata| metadata.children()).filter(Node::is_element);
    let text = |node: Node<'_, '_>| node.text().unwrap_or_default().to_owned();
    Some(Listed {
        snapshot: xml::text(blob, "Snapshot").filter(|text| !text.is_empty()).map(str::to_owned),
        etag: quoted(xml::text(properties, "Etag")?),
        len: xml::text(properties, "Content-Length")?.parse().ok()?,
        is_page_blob: xml::text(properties, "BlobType") == Some("PageBlob"),
        metadata: metadata.map(|entry| (entry.tag_name().name().to_ascii_lowercase(), text(entry))).collect(),
    })
}

/// Lists give ETags without their quotation marks, headers with them.
fn quoted(etag: &str) -> String {
    format!("\"{}\"", etag.trim_matches('"'))
}

/// A value in an address's query.
fn escaped(value: &str) -> String {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    value.bytes().map(|b| if fits(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// Now, as HTTP writes it. The service refuses requests whose moment is a quarter of an hour off.
#[allow(clippy::disallowed_methods, reason = "a signed request says when it was made")]
fn date() -> String {
    http_date(jiff::Timestamp::now())
}

fn http_date(moment: jiff::Timestamp) -> String {
    moment.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_queries_are_written_as_http_wants_them() {
        let moment = jiff::Timestamp::from_millisecond(1_435_361_952_999).unwrap();
        assert_eq!(http_date(moment), "Fri, 26 Jun 2015 23:39:12 GMT");
        assert_eq!(escaped("2011-03-09T01:42:34.9360000Z a&b=ü"), "2011-03-09T01%3A42%3A34.9360000Z%20a%26b%3D%C3%BC");
        assert_eq!(quoted("0x8D"), quoted("\"0x8D\""));
    }
}
