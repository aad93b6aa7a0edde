//! The questions that are asked of an S3-compatible store, buckets named in the path.

use crate::aws::{self, Call, Service, sign};
use crate::error::TargetError;
use crate::http::Reply;
use crate::xml;
use data_encoding::BASE64;
use md5::{Digest, Md5};
use roxmltree::Node;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;

/// Pages of one list at most, 1,000 things each: far more than there can be, so that a store that repeats itself ends in an error.
const MOST_PAGES: usize = 1000;

/// A bucket of a store.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) service: Service,
    pub(crate) bucket: String,
}

/// An object in a list.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) key: String,
    pub(crate) size: u64,
}

/// A part of an upload.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part {
    pub(crate) etag: String,
    pub(crate) size: u64,
}

/// Parts by their numbers, which begin at 1.
pub(crate) type Parts = BTreeMap<u32, Part>;

impl Api {
    fn path(&self, key: &str) -> String {
        format!("/{}/{key}", self.bucket)
    }

    /// Whether the bucket is there and may be listed.
    pub(crate) fn try_list(&self, prefix: &str) -> Result<(), TargetError> {
        let (path, query) = (format!("/{}", self.bucket), [("list-type", "2"), ("max-keys", "1"), ("prefix", prefix)]);
        let call = Call { query: &query, ..Call::new("GET", &path) };
        self.xml(&call, &self.service.ask(&call)?, "ListBucketResult", |_| Some(()))
    }

    /// Objects whose keys begin with `prefix`.
    pub(crate) fn list(&self, prefix: &str) -> Result<Vec<Listed>, TargetError> {
        let path = format!("/{}", self.bucket);
        let mut found = Vec::new();
        let mut token: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let mut query = vec![("list-type", "2"), ("prefix", prefix)];
            query.extend(token.as_deref().map(|token| ("continuation-token", token)));
            let call = Call { query: &query, ..Call::new("GET", &path) };
            let (page, next) = self.xml(&call, &self.service.ask(&call)?, "ListBucketResult", |root| {
                let page: Option<Vec<Listed>> = xml::children(root, "Contents")
                    .map(|item| {
                        let size = xml::text(item, "Size")?.parse().ok()?;
                        Some(Listed { key: xml::text(item, "Key")?.to_owned(), size })
                    })
                    .collect();
                Some((page?, next_of(root, "NextContinuationToken")))
            })?;
            // A store that knows no prefixes must not make us take others' objects for ours.
            found.extend(page.into_iter().filter(|object| object.key.starts_with(prefix)));
            match next {
                Some(next) => token = Some(next),
                None => return Ok(found),
            }
        }
        Err(self.service.answer(&Call::new("GET", &path), format!("more than {MOST_PAGES} pages")))
    }

    /// Uploads that are under way, keys and ids, whose keys begin with `prefix`.
    pub(crate) fn uploads(&self, prefix: &str) -> Result<Vec<(String, String)>, TargetError> {
        let path = format!("/{}", self.bucket);
        let mut found = Vec::new();
        let mut markers: Option<(String, String)> = None;
        for _ in 0..MOST_PAGES {
            let mut query = vec![("uploads", ""), ("prefix", prefix)];
            if let Some((key, upload)) = &markers {
                query.extend([("key-marker", key.as_str()), ("upload-id-marker", upload)]);
            }
            let call = Call { query: &query, ..Call::new("GET", &path) };
            let (page, next) = self.xml(&call, &self.service.ask(&call)?, "ListMultipartUploadsResult", |root| {
                let page: Option<Vec<(String, String)>> = xml::children(root, "Upload")
                    .map(|item| Some((xml::text(item, "Key")?.to_owned(), xml::text(item, "UploadId")?.to_owned())))
                    .collect();
                let upload = xml::text(root, "NextUploadIdMarker").unwrap_or_default().to_owned();
                Some((page?, next_of(root, "NextKeyMarker").map(|key| (key, upload))))
            })?;
            found.extend(page.into_iter().filter(|(key, _)| key.starts_with(prefix)));
            match next {
                Some(next) => markers = Some(next),
                None => return Ok(found),
            }
        }
        Err(self.service.answer(&Call::new("GET", &path), format!("more than {MOST_PAGES} pages")))
    }

    /// Begins an upload.
    pub(crate) fn create(&self, key: &str) -> Result<String, TargetError> {
        let path = self.path(key);
        let headers = vec![("content-type", "application/octet-stream".into())];
        let call = Call { query: &[("uploads", "")], headers, ..Call::new("POST", &path) };
        self.xml(&call, &self.service.ask(&call)?, "InitiateMultipartUploadResult", |root| {
            xml::text(root, "UploadId").filter(|id| !id.is_empty() && id.len() <= 1024).map(str::to_owned)
        })
    }

    /// Parts of an upload; `None`: there is no such upload.
    pub(crate) fn parts(&self, key: &str, upload: &str) -> Result<Option<Parts>, TargetError> {
        let path = self.path(key);
        let mut found = Parts::new();
        let mut marker: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let mut query = vec![("uploadId", upload), ("max-parts", "1000")];
            query.extend(marker.as_deref().map(|marker| ("part-number-marker", marker)));
            let call = Call { query: &query, fine: &[404], ..Call::new("GET", &path) };
            let reply = self.service.ask(&call)?;
            if reply.status == 404 {
                return match aws::error_code(&reply).as_deref() {
                    Some("NoSuchUpload" | "NoSuchKey") => Ok(None),
                    _ => Err(self.service.refused(&call, &reply)),
                };
            }
            let (page, next) = self.xml(&call, &reply, "ListPartsResult", |root| {
                let page: Option<Parts> = xml::children(root, "Part")
                    .map(|item| {
                        let (etag, size) =
                            (xml::text(item, "ETag")?.to_owned(), xml::text(item, "Size")?.parse().ok()?);
                        Some((xml::text(item, "PartNumber")?.parse().ok()?, Part { etag, size }))
                    })
                    .collect();
                Some((page?, next_of(root, "NextPartNumberMarker")))
            })?;
            found.extend(page);
            match next {
                Some(next) => marker = Some(next),
                None => return Ok(Some(found)),
            }
        }
        Err(self.service.answer(&Call::new("GET", &path), format!("more than {MOST_PAGES} pages")))
    }

    /// Puts a part. What arrives as something else is refused: by Amazon S3 for its SHA-256, which is signed, by SeaweedFS, which does not compare that, for
    /// its MD5. That nobody swaps bytes on purpose is what TLS and the proof by reading back are for.
    pub(crate) fn put_part(&self, key: &str, upload: &str, number: u32, bytes: &[u8]) -> Result<(), TargetError> {
        let (path, number) = (self.path(key), number.to_string());
        let query = [("partNumber", number.as_str()), ("uploadId", upload)];
        let headers = vec![("content-md5", BASE64.encode(&Md5::digest(bytes)))];
        let call = Call { query: &query, headers, body: bytes, ..Call::new("PUT", &path) };
        self.service.ask(&call).map(drop)
    }

    /// Makes a part from a range of another object, within the store.
    pub(crate) fn copy_part(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        from: &str,
        range: Range<u64>,
    ) -> Result<(), TargetError> {
        let (path, number) = (self.path(key), number.to_string());
        let headers = vec![
            ("x-amz-copy-source", sign::encode(&self.path(from), true)),
            ("x-amz-copy-source-range", format!("bytes={}-{}", range.start, range.end - 1)),
        ];
        let query = [("partNumber", number.as_str()), ("uploadId", upload)];
        let call = Call { query: &query, headers, ..Call::new("PUT", &path) };
        // The status comes before the copy is made: only the body says what became of it.
        self.xml(&call, &self.service.ask(&call)?, "CopyPartResult", |root| xml::text(root, "ETag").map(drop))
    }

    /// Puts the object together. `false`: there is no such upload, as there is none when that was asked before.
    pub(crate) fn complete(&self, key: &str, upload: &str, parts: &Parts) -> Result<bool, TargetError> {
        let path = self.path(key);
        let mut body = String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
        for (number, part) in parts {
            let etag = part.etag.trim_matches('"');
            let etag: String = etag.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
            let _never_fails =
                write!(body, "<Part><PartNumber>{number}</PartNumber><ETag>&quot;{etag}&quot;</ETag></Part>");
        }
        body += "</CompleteMultipartUpload>";
        let headers = vec![("content-type", "application/xml".into())];
        let query = [("uploadId", upload)];
        let call = Call { query: &query, headers, body: body.as_bytes(), fine: &[404], ..Call::new("POST", &path) };
        let reply = self.service.ask(&call)?;
        if reply.status == 404 && aws::error_code(&reply).as_deref() == Some("NoSuchUpload") {
            return Ok(false);
        }
        if reply.status == 404 {
            return Err(self.service.refused(&call, &reply));
        }
        self.xml(&call, &reply, "CompleteMultipartUploadResult", |_| Some(true))
    }

    /// Gives an upload up. That it is gone already is no error.
    pub(crate) fn abort(&self, key: &str, upload: &str) -> Result<(), TargetError> {
        let path = self.path(key);
        let call = Call { query: &[("uploadId", upload)], fine: &[404], ..Call::new("DELETE", &path) };
        self.service.ask(&call).map(drop)
    }

    /// Deletes an object. That it is gone already is no error.
    pub(crate) fn delete(&self, key: &str) -> Result<(), TargetError> {
        let path = self.path(key);
        let call = Call { fine: &[404], ..Call::new("DELETE", &path) };
        self.service.ask(&call).map(drop)
    }

    /// Puts a whole object at once.
    pub(crate) fn put(&self, key: &str, kind: &str, bytes: &[u8]) -> Result<(), TargetError> {
        let path = self.path(key);
        let headers = vec![("content-type", kind.to_owned())];
        let call = Call { headers, body: bytes, ..Call::new("PUT", &path) };
        self.service.ask(&call).map(drop)
    }

    /// A whole small object, if there is one.
    pub(crate) fn get_small(&self, key: &str, most: u64) -> Result<Option<Vec<u8>>, TargetError> {
        let path = self.path(key);
        let call = Call { fine: &[404], most, ..Call::new("GET", &path) };
        let reply = self.service.ask(&call)?;
        Ok((reply.status != 404).then_some(reply.body))
    }

    /// Reads bytes of an object.
    pub(crate) fn read(&self, key: &str, at: u64, buffer: &mut [u8]) -> Result<(), TargetError> {
        let Some(last) = (buffer.len() as u64).checked_sub(1) else { return Ok(()) };
        let path = self.path(key);
        let headers = vec![("range", format!("bytes={at}-{}", at + last))];
        // An error's words may be longer than what was asked for.
        let call = Call { headers, most: (buffer.len() as u64).max(64 << 10), ..Call::new("GET", &path) };
        let reply = self.service.ask(&call)?;
        let is_whole_object = reply.status == 200 && at == 0;
        if reply.body.len() != buffer.len() || !(reply.status == 206 || is_whole_object) {
            let said = format!(
                "{} bytes with status {} where {} were asked for",
                reply.body.len(),
                reply.status,
                buffer.len()
            );
            return Err(self.service.answer(&call, said));
        }
        buffer.copy_from_slice(&reply.body);
        Ok(())
    }

    /// Reads an answer whose root has this name. Some come with a good status and an error in them.
    fn xml<T>(
        &self,
        call: &Call<'_>,
        reply: &Reply,
        name: &str,
        take: impl FnOnce(Node<'_, '_>) -> Option<T>,
    ) -> Result<T, TargetError> {
        if xml::error_code(&reply.body).is_some() {
            // Such errors come late, of servers inside: they pass.
            let (status, headers, body) = (500, reply.headers.clone(), reply.body.clone());
            return Err(self.service.refused(call, &Reply { status, headers, body, attempt: reply.attempt }));
        }
        let asked = format!("{} {}", call.method, call.path);
        xml::read(self.service.client.service(), &asked, &reply.body, |root| {
            take(root).filter(|_| root.tag_name().name() == name)
        })
    }
}

/// Where the next page begins, if there is one.
fn next_of(root: Node<'_, '_>, name: &'static str) -> Option<String> {
    let is_cut = xml::text(root, "IsTruncated").is_some_and(|text| text.trim() == "true");
    xml::text(root, name).filter(|next| is_cut && !next.is_empty()).map(str::to_owned)
}
