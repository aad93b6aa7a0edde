//! AWS Signature Version 4, for requests whose headers carry the signature.
//!
//! Of our own and not of a crate: what is signed here is two hashes and a text (IAM User Guide, "Create a signed AWS API request"), and the maintained crate
//! (`aws-sigv4`) brings 58 others with it, a second implementation of SHA-256 among them. AWS' published examples are the tests.

use ring::{digest, hmac};
use std::fmt::Write;
use zeroize::Zeroizing;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What stands in for a body's hash where the body is not signed: over TLS, with a checksum of its own among the signed headers.
pub(crate) const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// Who asks. Shows no secret: it has no `Debug`.
pub(crate) struct Keys {
    pub(crate) access: String,
    pub(crate) secret: Zeroizing<String>,
    pub(crate) session: Option<Zeroizing<String>>,
}

/// A request as it is signed.
pub(crate) struct ToSign<'a> {
    pub(crate) method: &'a str,
    /// Encoded as it is sent.
    pub(crate) path: &'a str,
    /// Encoded and sorted as it is sent, without `?`.
    pub(crate) query: &'a str,
    /// Names in lower case; all of them are signed. `host` and `x-amz-date` have to be among them.
    pub(crate) headers: &'a [(String, String)],
    /// SHA-256 of the body in hexadecimal, or [`UNSIGNED`].
    pub(crate) payload: &'a str,
}

/// Where and when a signature is valid.
pub(crate) struct Scope<'a> {
    pub(crate) region: &'a str,
    /// `s3`, `ec2`, `ebs`.
    pub(crate) service: &'a str,
    /// `YYYYMMDDThhmmssZ`, as in the header `x-amz-date`.
    pub(crate) time: &'a str,
}

/// The header `authorization`.
pub(crate) fn authorization(keys: &Keys, scope: &Scope<'_>, request: &ToSign<'_>) -> String {
    let mut headers: Vec<(&str, String)> =
        request.headers.iter().map(|(name, value)| (name.as_str(), folded(value))).collect();
    headers.sort_unstable();
    let signed = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let mut text = format!("{}\n{}\n{}\n", request.method, request.path, request.query);
    for (name, value) in &headers {
        let _never_fails = writeln!(text, "{name}:{value}");
    }
    let _never_fails = write!(text, "\n{signed}\n{}", request.payload);
    let date = scope.time.get(..8).unwrap_or_default();
    let Scope { region, service, time } = scope;
    let place = format!("{date}/{region}/{service}/aws4_request");
    let to_sign = format!("{ALGORITHM}\n{time}\n{place}\n{}", sha256_hex(text.as_bytes()));
    let secret = Zeroizing::new(format!("AWS4{}", keys.secret.as_str()));
    let key = [date, region, service, "aws4_request"]
        .iter()
        .fold(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), |key, part| {
            hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref())
        });
    let signature = data_encoding::HEXLOWER.encode(hmac::sign(&key, to_sign.as_bytes()).as_ref());
    format!("{ALGORITHM} Credential={}/{place}, SignedHeaders={signed}, Signature={signature}", keys.access)
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// Encodes a text for a path or a query: all but `A-Za-z0-9-._~`, and `/` where it is left alone.
pub(crate) fn encode(text: &str, is_path: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte as char),
            b'/' if is_path => encoded.push('/'),
            _ => {
                let _never_fails = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

/// A query as it is sent and signed: encoded, then sorted.
pub(crate) fn query(pairs: &[(&str, &str)]) -> String {
    let mut pairs: Vec<(String, String)> =
        pairs.iter().map(|(name, value)| (encode(name, false), encode(value, false))).collect();
    pairs.sort_unstable();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// Spaces at the ends go, several in a row become one.
fn folded(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn keys(access: &str, secret: &str) -> Keys {
        Keys { access: access.into(), secret: Zeroizing::new(secret.into()), session: None }
    }

    fn signature(
        keys: &Keys,
        scope: &Scope<'_>,
        request: &[&str; 3],
        headers: &[(&str, &str)],
        payload: &str,
    ) -> String {
        let headers: Vec<(String, String)> =
            headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let [method, path, query] = *request;
        let header = authorization(keys, scope, &ToSign { method, path, query, headers: &headers, payload });
        header.rsplit_once("Signature=").unwrap().1.to_owned()
    }

    /// From AWS' test suite for Signature Version 4, and the example of the IAM User Guide.
    #[test]
    fn awss_published_signatures_come_out() {
        let keys = keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        let scope = |service| Scope { region: "us-east-1", service, time: "20150830T123600Z" };
        let headers = [("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z")];
        let vanilla = signature(&keys, &scope("service"), &["GET", "/", ""], &headers, EMPTY);
        assert_eq!(vanilla, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31");
        let sorted = query(&[("Param2", "value2"), ("Param1", "value1")]);
        let ordered = signature(&keys, &scope("service"), &["GET", "/", &sorted], &headers, EMPTY);
        assert_eq!(ordered, "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500");
        let headers = [
            ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
            ("host", "iam.amazonaws.com"),
            ("x-amz-date", "20150830T123600Z"),
        ];
        let query = query(&[("Version", "2010-05-08"), ("Action", "ListUsers")]);
        let users = signature(&keys, &scope("iam"), &["GET", "/", &query], &headers, EMPTY);
        assert_eq!(users, "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7");
    }

    /// From the Amazon S3 API Reference, "Signature calculations for the Authorization header".
    #[test]
    fn the_published_signatures_of_s3_come_out() {
        let keys = keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        let scope = Scope { region: "us-east-1", service: "s3", time: "20130524T000000Z" };
        let host = ("host", "examplebucket.s3.amazonaws.com");
        let date = ("x-amz-date", "20130524T000000Z");
        let empty = ("x-amz-content-sha256", EMPTY);
        let ranged = [host, ("range", "bytes=0-9"), empty, date];
        let got = signature(&keys, &scope, &["GET", "/test.txt", ""], &ranged, EMPTY);
        assert_eq!(got, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
        let body = sha256_hex(b"Welcome to Amazon S3.");
        let put = [
            ("date", "Fri, 24 May 2013 00:00:00 GMT"),
            host,
            ("x-amz-content-sha256", body.as_str()),
            date,
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ];
        let got = signature(&keys, &scope, &["PUT", &encode("/test$file.text", true), ""], &put, &body);
        assert_eq!(got, "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
        let list = query(&[("prefix", "J"), ("max-keys", "2")]);
        let got = signature(&keys, &scope, &["GET", "/", &list], &[host, empty, date], EMPTY);
        assert_eq!(got, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
        let lifecycle = query(&[("lifecycle", "")]);
        let got = signature(&keys, &scope, &["GET", "/", &lifecycle], &[host, empty, date], EMPTY);
        assert_eq!(got, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
    }

    #[test]
    fn paths_keep_their_slashes_and_queries_do_not() {
        assert_eq!(encode("a/b c+ü~", true), "a/b%20c%2B%C3%BC~");
        assert_eq!(query(&[("uploads", ""), ("prefix", "a/b")]), "prefix=a%2Fb&uploads=");
    }
}
