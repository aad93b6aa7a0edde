//! Who we are to the cloud and where its services are: Keystone's API v3.

use crate::credentials::{Credentials, Vars};
use crate::error::TargetError;
use crate::http::{Client, MOST_ANSWER, Options, Reply};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use ureq::http::Request;
use zeroize::Zeroizing;

/// What the environment is asked for; the names that `openrc` files use.
const NAMES: &[&str] = &[
    "OS_AUTH_URL",
    "OS_APPLICATION_CREDENTIAL_ID",
    "OS_APPLICATION_CREDENTIAL_NAME",
    "OS_APPLICATION_CREDENTIAL_SECRET",
    "OS_CACERT",
    "OS_INTERFACE",
    "OS_PASSWORD",
    "OS_PROJECT_DOMAIN_ID",
    "OS_PROJECT_DOMAIN_NAME",
    "OS_PROJECT_ID",
    "OS_PROJECT_NAME",
    "OS_REGION_NAME",
    "OS_USERNAME",
    "OS_USER_DOMAIN_ID",
    "OS_USER_DOMAIN_NAME",
    "OS_USER_ID",
];
/// A token is renewed so long before it ends, or a quarter of its life before where that is shorter: longer than any request but an upload takes.
const MARGIN: Duration = Duration::from_secs(120);
/// A life that a token is believed to have at most.
const LONGEST_LIFE: Duration = Duration::from_secs(7 * 86400);

/// See the module's documentation.
pub(crate) struct Keystone {
    client: Client,
    credentials: Credentials,
    region: Option<String>,
    token: Mutex<Option<Arc<Token>>>,
}

/// What Keystone gave.
pub(crate) struct Token {
    secret: Zeroizing<String>,
    renew_at: Instant,
    project: String,
    catalog: Vec<Entry>,
    region: Option<String>,
    interface: String,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    interface: String,
    #[serde(default)]
    region_id: Option<String>,
    url: String,
}

impl Keystone {
    /// Asks nobody. `region` takes precedence over that of the credentials.
    pub(crate) fn new(
        credentials: &Credentials,
        region: Option<String>,
        options: &Options,
    ) -> Result<Keystone, TargetError> {
        Ok(Keystone {
            client: Client::new("Keystone", options)?,
            credentials: credentials.clone(),
            region,
            token: Mutex::new(None),
        })
    }

    /// A token that is good for a while.
    pub(crate) fn token(&self) -> Result<Arc<Token>, TargetError> {
        let mut held = self.token.lock().expect("nobody panics while holding it");
        match &*held {
            Some(token) if now() < token.renew_at => Ok(token.clone()),
            _ => {
                let token = Arc::new(self.authenticate()?);
                *held = Some(token.clone());
                Ok(token)
            }
        }
    }

    /// A service refused this token: the next one is a new one.
    pub(crate) fn forget(&self, token: &Arc<Token>) {
        let mut held = self.token.lock().expect("nobody panics while holding it");
        if held.as_ref().is_some_and(|held| Arc::ptr_eq(held, token)) {
            *held = None;
        }
    }

    /// Reads the credentials anew each time, so that new ones in their place are taken up.
    fn authenticate(&self) -> Result<Token, TargetError> {
        let vars = self.credentials.read(NAMES)?;
        let url = vars.must("OS_AUTH_URL")?.trim_end_matches('/');
        let url = if url.ends_with("/v3") { url.to_owned() } else { format!("{url}/v3") };
        let body = Zeroizing::new(request(&vars)?.to_string());
        let reply = self.client.ask(&[], || {
            Request::post(format!("{url}/auth/tokens"))
                .header("content-type", "application/json")
                .body(body.as_bytes().to_vec())
                .map_err(|error| not_an_address(&self.client, &error))
        })?;
        let said = |said: &str| answer(&self.client, "POST /v3/auth/tokens", said);
        let secret = reply.header("x-subject-token").ok_or_else(|| said("no token"))?.to_owned();
        #[derive(Deserialize)]
        struct Answer {
            token: Body,
        }
        #[derive(Deserialize)]
        struct Body {
            issued_at: String,
            expires_at: String,
            project: Option<Project>,
            #[serde(default)]
            catalog: Vec<Entry>,
        }
        #[derive(Deserialize)]
        struct Project {
            id: String,
        }
        let Answer { token } = parse(&self.client, "POST /v3/auth/tokens", &reply)?;
        let project = token.project.ok_or_else(|| said("a token without a project; name one by OS_PROJECT_NAME"))?;
        // By Keystone's own clock: ours may be off.
        let time = |text: &str| text.parse::<jiff::Timestamp>().map_err(|error| said(&error.to_string()));
        let life = time(&token.expires_at)?.duration_since(time(&token.issued_at)?).unsigned_abs().min(LONGEST_LIFE);
        Ok(Token {
            secret: Zeroizing::new(secret),
            renew_at: now() + life - MARGIN.min(life / 4),
            project: project.id,
            catalog: token.catalog,
            region: self.region.clone().or_else(|| vars.get("OS_REGION_NAME").map(str::to_owned)),
            interface: interface(vars.get("OS_INTERFACE").unwrap_or("public")),
        })
    }
}

#[allow(clippy::disallowed_methods, reason = "a token's age is counted here, by the clock that nobody sets")]
fn now() -> Instant {
    Instant::now()
}

/// `publicURL` is the older name of `public`.
fn interface(name: &str) -> String {
    name.trim_end_matches("URL").to_owned()
}

/// What Keystone is asked, as the credentials are: an application credential, or a user with a password in a project.
fn request(vars: &Vars) -> Result<Value, TargetError> {
    let named = |id: &str, name: &str| -> Option<Value> {
        let by_id = vars.get(id).map(|id| json!({ "id": id }));
        by_id.or_else(|| vars.get(name).map(|name| json!({ "name": name })))
    };
    let user = || -> Result<Value, TargetError> {
        if let Some(id) = vars.get("OS_USER_ID") {
            return Ok(json!({ "id": id }));
        }
        let domain = named("OS_USER_DOMAIN_ID", "OS_USER_DOMAIN_NAME").unwrap_or_else(|| json!({ "id": "default" }));
        Ok(json!({ "name": vars.must("OS_USERNAME")?, "domain": domain }))
    };
    if vars.get("OS_APPLICATION_CREDENTIAL_SECRET").is_some() {
        let mut credential = json!({ "secret": vars.must("OS_APPLICATION_CREDENTIAL_SECRET")? });
        match vars.get("OS_APPLICATION_CREDENTIAL_ID") {
            Some(id) => credential["id"] = id.into(),
            None => {
                credential["name"] = vars.must("OS_APPLICATION_CREDENTIAL_NAME")?.into();
                credential["user"] = user()?;
            }
        }
        // It knows its project: a scope besides is refused.
        let identity = json!({ "methods": ["application_credential"], "application_credential": credential });
        return Ok(json!({ "auth": { "identity": identity } }));
    }
    let mut user = user()?;
    user["password"] = vars.must("OS_PASSWORD")?.into();
    let project = match vars.get("OS_PROJECT_ID") {
        Some(id) => json!({ "id": id }),
        None => {
            let domain = named("OS_PROJECT_DOMAIN_ID", "OS_PROJECT_DOMAIN_NAME");
            let domain = domain.unwrap_or_else(|| json!({ "id": "default" }));
            json!({ "name": vars.must("OS_PROJECT_NAME")?, "domain": domain })
        }
    };
    let identity = json!({ "methods": ["password"], "password": { "user": user } });
    Ok(json!({ "auth": { "identity": identity, "scope": { "project": project } } }))
}

impl Token {
    /// Where the first service of these kinds is.
    fn endpoint(&self, kinds: &[&str]) -> Result<String, String> {
        let services = kinds.iter().filter_map(|kind| self.catalog.iter().find(|entry| entry.kind == *kind));
        let all: Vec<&Endpoint> = services.flat_map(|entry| &entry.endpoints).collect();
        let fits = |endpoint: &&&Endpoint| {
            endpoint.interface == self.interface
                && self.region.as_ref().is_none_or(|region| endpoint.region_id.as_ref() == Some(region))
        };
        if let Some(found) = all.iter().find(fits) {
            return Ok(found.url.trim_end_matches('/').to_owned());
        }
        let here: Vec<String> = all
            .iter()
            .take(10)
            .map(|endpoint| {
                format!("{} in {}", endpoint.interface, endpoint.region_id.as_deref().unwrap_or("no region"))
            })
            .collect();
        Err(format!(
            "its catalog has no {} endpoint of `{}`{}; it has {}; name the right interface and region, or the endpoint itself",
            self.interface,
            kinds[0],
            self.region.as_ref().map_or(String::new(), |region| format!(" in region {region}")),
            if here.is_empty() { "none".to_owned() } else { here.join(", ") },
        ))
    }
}

/// One service of the cloud, asked with our token.
pub(crate) struct Service {
    client: Client,
    keystone: Arc<Keystone>,
    kinds: &'static [&'static str],
    /// Its address where the catalog's is not to be used; `{project}` stands for the project's id.
    endpoint: Option<String>,
    /// What comes behind the address, if it is not there.
    suffix: &'static str,
    /// Header and value that pin the API's version.
    version: Option<(&'static str, &'static str)>,
}

/// One question.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) method: &'static str,
    /// From the service's address on, with its query.
    pub(crate) path: &'a str,
    pub(crate) body: Option<&'a Value>,
    /// Headers besides.
    pub(crate) headers: &'a [(&'static str, &'a str)],
    /// Statuses of 400 and more that are answers.
    pub(crate) fine: &'a [u16],
    /// Bytes of the answer at most.
    pub(crate) most: u64,
}

impl<'a> Ask<'a> {
    pub(crate) fn new(method: &'static str, path: &'a str) -> Ask<'a> {
        Ask { method, path, body: None, headers: &[], fine: &[], most: MOST_ANSWER }
    }

    pub(crate) fn body(self, body: &'a Value) -> Ask<'a> {
        Ask { body: Some(body), ..self }
    }

    pub(crate) fn fine(self, fine: &'a [u16]) -> Ask<'a> {
        Ask { fine, ..self }
    }
}

impl Service {
    pub(crate) fn new(
        name: &str,
        keystone: &Arc<Keystone>,
        (kinds, suffix): (&'static [&'static str], &'static str),
        endpoint: Option<String>,
        version: Option<(&'static str, &'static str)>,
        options: &Options,
    ) -> Result<Service, TargetError> {
        let client = Client::new(name, options)?;
        Ok(Service { client, keystone: keystone.clone(), kinds, endpoint, suffix, version })
    }

    /// What it is asked through.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Its address, as the catalog or the settings say.
    pub(crate) fn address(&self) -> Result<String, TargetError> {
        let token = self.keystone.token()?;
        let found = match &self.endpoint {
            Some(given) => given.trim_end_matches('/').replace("{project}", &token.project),
            None => token.endpoint(self.kinds).map_err(|said| answer(&self.keystone.client, "catalog", &said))?,
        };
        Ok(if found.ends_with(self.suffix) { found } else { found + self.suffix })
    }

    /// Asks, with a new token once when this one is refused.
    pub(crate) fn ask(&self, ask: Ask<'_>) -> Result<Reply, TargetError> {
        self.ask_by(&self.client, ask)
    }

    /// The same by a client with other patience.
    pub(crate) fn ask_by(&self, client: &Client, ask: Ask<'_>) -> Result<Reply, TargetError> {
        self.with_token(|| {
            client.ask_for(ask.fine, ask.most, || {
                let body = ask.body.map_or(Vec::new(), |body| body.to_string().into_bytes());
                self.request(&ask)?.body(body).map_err(|error| not_an_address(&self.client, &error))
            })
        })
    }

    /// Sends a file, in one attempt.
    pub(crate) fn send_file(&self, ask: Ask<'_>, file: &std::fs::File) -> Result<Reply, TargetError> {
        let request = self.request(&ask)?.body(()).map_err(|error| not_an_address(&self.client, &error))?;
        self.client.send_file(ask.fine, request, file)
    }

    fn request(&self, ask: &Ask<'_>) -> Result<ureq::http::request::Builder, TargetError> {
        let token = self.keystone.token()?;
        let mut request = Request::builder()
            .method(ask.method)
            .uri(format!("{}{}", self.address()?, ask.path))
            .header("x-auth-token", token.secret.as_str())
            .header("accept", "application/json");
        if ask.body.is_some() && !ask.headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in self.version.iter().copied().chain(ask.headers.iter().copied()) {
            request = request.header(name, value);
        }
        Ok(request)
    }

    fn with_token(&self, ask: impl Fn() -> Result<Reply, TargetError>) -> Result<Reply, TargetError> {
        let token = self.keystone.token()?;
        match ask() {
            Err(TargetError::Refused { status: 401, .. }) => {
                // Revoked, or the cloud's keys were changed: a new one may do.
                self.keystone.forget(&token);
                ask()
            }
            asked => asked,
        }
    }

    /// Asks and reads JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self, ask: Ask<'_>) -> Result<T, TargetError> {
        self.json_by(&self.client, ask)
    }

    /// The same by a client with other patience.
    pub(crate) fn json_by<T: DeserializeOwned>(&self, client: &Client, ask: Ask<'_>) -> Result<T, TargetError> {
        let reply = self.ask_by(client, ask)?;
        parse(client, &format!("{} {}", ask.method, ask.path), &reply)
    }

    /// An answer that cannot be right.
    pub(crate) fn wrong(&self, asked: &str, said: &str) -> TargetError {
        answer(&self.client, asked, said)
    }
}

fn parse<T: DeserializeOwned>(client: &Client, asked: &str, reply: &Reply) -> Result<T, TargetError> {
    serde_json::from_slice(&reply.body).map_err(|error| answer(client, asked, &error.to_string()))
}

fn answer(client: &Client, asked: &str, said: &str) -> TargetError {
    TargetError::Answer { service: client.service().to_owned(), asked: asked.to_owned(), said: said.to_owned() }
}

fn not_an_address(client: &Client, error: &ureq::http::Error) -> TargetError {
    TargetError::Unfit(format!("the address of {} is none: {error}; correct it", client.service()))
}

/// A value in a query: everything but letters, digits and `-._~` as `%XX` (RFC 3986).
pub(crate) fn quoted(value: &str) -> String {
    let quote = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    value.bytes().map(quote).collect()
}
