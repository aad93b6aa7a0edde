//! What EBS, EC2 and S3 have in common: keys, places, signed requests.

pub(crate) mod sign;
pub(crate) use crate::credentials::Credentials;
use crate::error::TargetError;
use crate::http::{self, Client, MOST_ANSWER, Reply};
use sign::{Keys, Scope, ToSign, UNSIGNED};
use std::fmt;
use std::sync::Arc;
use ureq::http::{Request, Uri};
use zeroize::Zeroizing;

const ACCESS: &str = "AWS_ACCESS_KEY_ID";
const SECRET: &str = "AWS_SECRET_ACCESS_KEY";
const SESSION: &str = "AWS_SESSION_TOKEN";
const REGION: &str = "AWS_DEFAULT_REGION";

/// Who asks, and in which region.
#[derive(Clone)]
pub(crate) struct Account {
    keys: Arc<Keys>,
    pub(crate) region: String,
}

impl Account {
    /// Reads `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, perhaps `AWS_SESSION_TOKEN`, and `AWS_DEFAULT_REGION` where the settings name no region.
    pub(crate) fn read(credentials: &Credentials, region: Option<&str>) -> Result<Account, TargetError> {
        let vars = credentials.read(&[ACCESS, SECRET, SESSION, REGION])?;
        let keys = Keys {
            access: vars.must(ACCESS)?.to_owned(),
            secret: Zeroizing::new(vars.must(SECRET)?.to_owned()),
            session: vars.get(SESSION).map(|token| Zeroizing::new(token.to_owned())),
        };
        let region = match region {
            Some(region) => region.to_owned(),
            None => vars.must(REGION)?.to_owned(),
        };
        let is_name = !region.is_empty() && region.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if !is_name {
            let said = format!("`{region}` is no region; name one as `eu-central-1`");
            return Err(TargetError::Unfit(said));
        }
        Ok(Account { keys: Arc::new(keys), region })
    }

    /// Where a service is when the settings do not say otherwise.
    pub(crate) fn endpoint(&self, service: &str) -> String {
        let partition = if self.region.starts_with("cn-") { ".cn" } else { "" };
        format!("https://{service}.{}.amazonaws.com{partition}", self.region)
    }
}

/// One service of one region, ready to be asked.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) client: Client,
    account: Account,
    name: &'static str,
    /// `https://host:port`, without a slash at its end.
    base: String,
    host: String,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service({} at {})", self.name, self.base)
    }
}

/// A request.
pub(crate) struct Call<'a> {
    pub(crate) method: &'static str,
    /// Not yet encoded; begins with `/`.
    pub(crate) path: &'a str,
    pub(crate) query: &'a [(&'a str, &'a str)],
    /// Names in lower case.
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: &'a [u8],
    /// Whether the body is left out of the signature; then a checksum of it has to be among the headers.
    pub(crate) is_unsigned: bool,
    /// Statuses from 400 on that the caller wants to see.
    pub(crate) fine: &'a [u16],
    /// Bytes of an answer at most.
    pub(crate) most: u64,
}

impl<'a> Call<'a> {
    pub(crate) fn new(method: &'static str, path: &'a str) -> Call<'a> {
        Call {
            method,
            path,
            query: &[],
            headers: Vec::new(),
            body: &[],
            is_unsigned: false,
            fine: &[],
            most: MOST_ANSWER,
        }
    }
}

impl Service {
    /// `title` is its name in messages, `name` the one in signatures, `endpoint` an address of scheme, host and port.
    pub(crate) fn new(
        title: &str,
        name: &'static str,
        account: &Account,
        endpoint: &str,
        options: &http::Options,
    ) -> Result<Service, TargetError> {
        let refuse = || {
            TargetError::Unfit(format!(
                "`{endpoint}` is no address of a service; give it as `https://host` or `https://host:port`"
            ))
        };
        let base = endpoint.trim_end_matches('/');
        let uri: Uri = base.parse().map_err(|_| refuse())?;
        let is_address = matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.path_and_query().is_none_or(|path| path.as_str() == "/");
        let host = uri.authority().filter(|_| is_address).map(|host| host.as_str().to_owned()).ok_or_else(refuse)?;
        if host.contains('@') {
            return Err(refuse());
        }
        let client = Client::new(title, options)?.with_passing(says_not_now);
        Ok(Service { client, account: account.clone(), name, base: base.to_owned(), host })
    }

    /// Where it is.
    pub(crate) fn place(&self) -> &str {
        &self.base
    }

    /// Asks, signed anew for each attempt.
    pub(crate) fn ask(&self, call: &Call<'_>) -> Result<Reply, TargetError> {
        let path = sign::encode(call.path, true);
        let query = sign::query(call.query);
        let payload = if call.is_unsigned { UNSIGNED.to_owned() } else { sign::sha256_hex(call.body) };
        let question = if query.is_empty() { String::new() } else { format!("?{query}") };
        let url = format!("{}{path}{question}", self.base);
        self.client.ask_for(call.fine, call.most, || {
            let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
            let mut headers: Vec<(String, String)> = vec![
                ("host".into(), self.host.clone()),
                ("x-amz-content-sha256".into(), payload.clone()),
                ("x-amz-date".into(), time.clone()),
            ];
            headers.extend(call.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
            headers.extend(
                self.account.keys.session.as_ref().map(|token| ("x-amz-security-token".to_owned(), token.to_string())),
            );
            let scope = Scope { region: &self.account.region, service: self.name, time: &time };
            let request =
                ToSign { method: call.method, path: &path, query: &query, headers: &headers, payload: &payload };
            let authorization = sign::authorization(&self.account.keys, &scope, &request);
            let mut builder = Request::builder().method(call.method).uri(&url).header("authorization", authorization);
            for (name, value) in &headers {
                builder = builder.header(name, value);
            }
            builder
                .body(call.body.to_vec())
                .map_err(|error| self.answer(call, format!("a request that cannot be made: {error}")))
        })
    }

    /// An answer that cannot be used.
    pub(crate) fn answer(&self, call: &Call<'_>, said: String) -> TargetError {
        let asked = format!("{} {}", call.method, call.path);
        TargetError::Answer { service: self.client.service().to_owned(), asked, said }
    }

    /// A refusal of a reply that the caller looked at.
    pub(crate) fn refused(&self, call: &Call<'_>, reply: &Reply) -> TargetError {
        let text = String::from_utf8_lossy(&reply.body[..reply.body.len().min(1024)]).into_owned();
        let said: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect();
        let asked = format!("{} {}", call.method, call.path);
        TargetError::Refused { service: self.client.service().to_owned(), asked, status: reply.status, said }
    }
}

/// Answers by which AWS says "not now" with a status that means "no" elsewhere (EBS direct APIs: `RequestThrottledException` and the others with 400; EC2 and
/// S3: their codes with 503 mostly, with 400 where an upload was too slow).
fn says_not_now(reply: &Reply) -> bool {
    const CODES: [&str; 9] = [
        "ThrottlingException",
        "RequestThrottledException",
        "ConcurrentLimitExceededException",
        "RequestLimitExceeded",
        "Throttling",
        "RequestThrottled",
        "SlowDown",
        "RequestTimeout",
        "OperationAborted",
    ];
    matches!(reply.status, 400 | 402 | 403 | 409)
        && error_code(reply).is_some_and(|code| CODES.contains(&code.as_str()))
}

/// The code of an error, wherever it stands.
pub(crate) fn error_code(reply: &Reply) -> Option<String> {
    let by_header = reply.header("x-amzn-errortype").map(str::to_owned);
    let code = by_header.or_else(|| {
        let json: serde_json::Value = serde_json::from_slice(&reply.body).ok()?;
        ["__type", "code", "Code"].iter().find_map(|name| json.get(name)?.as_str().map(str::to_owned))
    });
    let code = code.or_else(|| crate::xml::error_code(&reply.body))?;
    // `com.amazonaws.ebs#ConflictException:http://…`
    let code = code.split(':').next().unwrap_or_default();
    Some(code.rsplit('#').next().unwrap_or_default().to_owned())
}
