//! Who asks: the account's key, which signs each request (Shared Key, HMAC-SHA256), or a token that was made with it (SAS).

use crate::credentials::Vars;
use crate::error::TargetError;
use ring::hmac;
use std::collections::BTreeMap;
use std::fmt;
use zeroize::Zeroizing;

/// Names in a file of credentials, as Azure's own command takes them.
pub(super) const NAMES: [&str; 4] =
    ["AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN"];
/// The public cloud's; others are named by the connection string or the settings.
const SUFFIX: &str = "core.windows.net";

/// A storage account and the way into it.
pub(super) struct Account {
    pub(super) name: String,
    /// `https://NAME.blob.…`, without a slash at its end.
    pub(super) endpoint: String,
    pub(super) way: Way,
}

/// How a request says who asks.
pub(super) enum Way {
    Key(hmac::Key),
    /// The token's query, without its question mark.
    Token(Zeroizing<String>),
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = if matches!(self.way, Way::Key(_)) { "key" } else { "token" };
        write!(f, "Account({} at {} by {way})", self.name, self.endpoint)
    }
}

impl Account {
    /// What credentials and settings say together.
    pub(super) fn of(vars: &Vars, name: Option<&str>, endpoint: Option<&str>) -> Result<Account, TargetError> {
        let connection = vars.get(NAMES[0]).map(connection_string).unwrap_or_default();
        let said = |field: &str| connection.get(field).map(|value| value.as_str());
        let name = match name.or(said("AccountName")).or(vars.get(NAMES[1])) {
            Some(name) => name.to_owned(),
            None => vars.must(NAMES[1])?.to_owned(),
        };
        let is_name =
            (3..=24).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !is_name {
            return Err(TargetError::Unfit(format!(
                "`{name}` is no name of a storage account: 3 to 24 small letters and digits; correct the target"
            )));
        }
        let endpoint = match endpoint.or(said("BlobEndpoint")) {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None => format!("https://{name}.blob.{}", said("EndpointSuffix").unwrap_or(SUFFIX)),
        };
        check_endpoint(&endpoint)?;
        let key = said("AccountKey").or(vars.get(NAMES[2]));
        let token = said("SharedAccessSignature").or(vars.get(NAMES[3]));
        let way = match (key, token) {
            (Some(key), _) => Way::Key(read_key(key)?),
            (None, Some(token)) => Way::Token(read_token(token)?),
            (None, None) => return Err(vars.must(NAMES[2]).err().unwrap_or_else(|| credentials("no key"))),
        };
        Ok(Account { name, endpoint, way })
    }
}

fn credentials(why: &str) -> TargetError {
    TargetError::Credentials { from: "the storage account".into(), why: why.into() }
}

fn read_key(key: &str) -> Result<hmac::Key, TargetError> {
    let bytes = data_encoding::BASE64
        .decode(key.as_bytes())
        .map(Zeroizing::new)
        .map_err(|_| credentials("the account's key is no Base64; copy it from the portal anew"))?;
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

fn read_token(token: &str) -> Result<Zeroizing<String>, TargetError> {
    let token = token.trim_start_matches('?');
    // It becomes a part of an address as it is.
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._~%&=:+/".contains(&b);
    if !token.bytes().all(fits) || !token.contains("sig=") {
        return Err(credentials("the SAS token is none: it is `sv=…&sig=…`; make a new one in the portal"));
    }
    Ok(Zeroizing::new(token.to_owned()))
}

/// Bytes of a volume and tokens go over TLS, or stay on this machine.
fn check_endpoint(endpoint: &str) -> Result<(), TargetError> {
    let uri = endpoint.parse::<ureq::http::Uri>().ok();
    let host = uri.as_ref().and_then(|uri| uri.host()).unwrap_or_default();
    let is_local = matches!(host, "127.0.0.1" | "localhost" | "[::1]");
    match uri.as_ref().and_then(|uri| uri.scheme_str()) {
        Some("https") if !host.is_empty() => Ok(()),
        Some("http") if is_local => Ok(()),
        _ => Err(TargetError::Unfit(format!("the endpoint {endpoint} is not `https://HOST`; name one that encrypts"))),
    }
}

/// `Name=Value;Name=Value`; values may have `=` in them.
fn connection_string(text: &str) -> BTreeMap<String, Zeroizing<String>> {
    let pairs = text.split(';').filter_map(|pair| pair.trim().split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), Zeroizing::new(value.to_owned()))).collect()
}

/// A request, as far as it is signed.
pub(super) struct Signed<'a> {
    pub(super) method: &'a str,
    /// With a slash in front, as it is in the address.
    pub(super) path: &'a str,
    /// Parameters, not escaped.
    pub(super) query: &'a [(&'a str, String)],
    /// Headers, their names in small letters.
    pub(super) headers: &'a [(String, String)],
    /// Bytes of the body.
    pub(super) len: usize,
}

impl Signed<'_> {
    /// The value of `Authorization`.
    pub(super) fn authorization(&self, account: &str, key: &hmac::Key) -> String {
        let mac = hmac::sign(key, self.text(account).as_bytes());
        format!("SharedKey {account}:{}", data_encoding::BASE64.encode(mac.as_ref()))
    }

    /// What is signed. Source: "Authorize with Shared Key", REST API of Azure Storage, for versions from 2015-02-21 on.
    fn text(&self, account: &str) -> String {
        let header = |name: &str| self.headers.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value);
        let len = if self.len == 0 { String::new() } else { self.len.to_string() };
        let mut text = format!("{}\n", self.method);
        for name in ["content-encoding", "content-language"] {
            text += &format!("{}\n", header(name));
        }
        text += &format!("{len}\n");
        let names = ["content-md5", "content-type", "date", "if-modified-since", "if-match", "if-none-match"];
        for name in names.into_iter().chain(["if-unmodified-since", "range"]) {
            text += &format!("{}\n", header(name));
        }
        let ours: BTreeMap<_, _> = self.headers.iter().filter(|(name, _)| name.starts_with("x-ms-")).cloned().collect();
        for (name, value) in ours {
            text += &format!("{name}:{}\n", value.trim());
        }
        text += &format!("/{account}{}", self.path);
        let query: BTreeMap<_, _> = self.query.iter().cloned().collect();
        for (name, value) in query {
            text += &format!("\n{name}:{value}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Credentials;
    use std::os::unix::fs::PermissionsExt;

    fn read(lines: &str) -> Result<Account, TargetError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("azure");
        std::fs::write(&path, lines).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        Account::of(&Credentials::File(path).read(&NAMES).unwrap(), None, None)
    }

    /// The example of the page "Authorize with Shared Key".
    #[test]
    fn what_is_signed_is_what_the_vendors_page_shows() {
        let request = Signed {
            method: "GET",
            path: "/mycontainer",
            query: &[("restype", "container".into()), ("timeout", "20".into()), ("comp", "metadata".into())],
            headers: &[
                ("x-ms-version".into(), "2015-02-21".into()),
                ("x-ms-date".into(), "Fri, 26 Jun 2015 23:39:12 GMT".into()),
            ],
            len: 0,
        };
        let expected = "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n/myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20";
        assert_eq!(request.text("myaccount"), expected);
    }

    /// Worked out with `openssl dgst -sha256 -mac HMAC` over the text above.
    #[test]
    fn a_signature_is_the_one_that_another_program_makes() {
        let key = read_key("c2x1aWNl").unwrap();
        let request =
            Signed { method: "PUT", path: "/c/b", query: &[], headers: &[("if-match".into(), "x".into())], len: 512 };
        assert_eq!(request.text("acc"), "PUT\n\n\n512\n\n\n\n\nx\n\n\n\n/acc/c/b");
        assert_eq!(request.authorization("acc", &key), "SharedKey acc:84skvO+k0uhKx8z0Ln+NwH+8t96pZZLTSC73aBojkOU=");
    }

    #[test]
    fn an_account_is_read_from_a_connection_string_or_from_names() {
        let whole = read(
            "AZURE_STORAGE_CONNECTION_STRING='DefaultEndpointsProtocol=https;AccountName=bank1;AccountKey=c2x1aWNl==;EndpointSuffix=core.chinacloudapi.cn'\n",
        );
        let wrong = whole.unwrap_err().to_string();
        assert!(wrong.contains("no Base64") && !wrong.contains("c2x1"), "{wrong}");
        let whole = read("AZURE_STORAGE_CONNECTION_STRING=AccountName=bank1;AccountKey=c2x1aWNl;EndpointSuffix=core.chinacloudapi.cn\n").unwrap();
        assert_eq!(format!("{whole:?}"), "Account(bank1 at https://bank1.blob.core.chinacloudapi.cn by key)");
        let named = read("AZURE_STORAGE_ACCOUNT=bank1\nAZURE_STORAGE_SAS_TOKEN='?sv=2019-07-07&sig=a%2Bb'\n").unwrap();
        assert_eq!(format!("{named:?}"), "Account(bank1 at https://bank1.blob.core.windows.net by token)");
        assert!(matches!(&named.way, Way::Token(token) if token.as_str() == "sv=2019-07-07&sig=a%2Bb"));
        let nothing = read("AZURE_STORAGE_ACCOUNT=bank1\n").unwrap_err().to_string();
        assert!(nothing.contains("`AZURE_STORAGE_KEY` is missing"), "{nothing}");
    }

    #[test]
    fn what_does_not_encrypt_is_for_this_machine_only() {
        assert!(check_endpoint("https://x.blob.core.windows.net").is_ok());
        assert!(check_endpoint("http://127.0.0.1:10000/devstoreaccount1").is_ok());
        for wrong in ["http://bank.example", "ftp://x", "", "https://", "127.0.0.1:1", "http://127.0.0.1.example"] {
            assert!(check_endpoint(wrong).is_err(), "{wrong}");
        }
    }
}
