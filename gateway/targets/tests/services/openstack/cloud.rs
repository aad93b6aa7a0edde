//! The cloud that `tests/services/up openstack` starts, seen by its administrator: a project of its own for each test.

use serde_json::{Value, json};
use std::num::NonZeroU32;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use targets::credentials::{Credentials, Vars};
use targets::http::{Client, Options, Patience};
use targets::openstack::{OpenStack, OpenStackSettings};
use ureq::http::Request;

/// A project with an account that has the role `member` there.
pub(crate) struct Cloud {
    vars: Vars,
    client: Client,
    admin: String,
    pub(crate) project: String,
    pub(crate) user: String,
    token: String,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) settings: OpenStackSettings,
}

/// What a person's password is in these tests.
pub(crate) const PASSWORD: &str = "not-a-secret";

impl Cloud {
    /// `None`, with a word why, where no cloud is up.
    pub(crate) fn new() -> Option<Cloud> {
        let Some(path) = std::env::var_os("SLUICE_OPENSTACK") else {
            println!("skipped: no OpenStack; `tests/services/up openstack` starts one");
            return None;
        };
        let vars = Credentials::File(path.into()).read(&[]).unwrap();
        let client = Client::new("the tests' cloud", &Options::default()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let share = (vars.get("SHARE").unwrap().to_owned(), PathBuf::from(vars.get("SHARE_FOLDER").unwrap()));
        let settings = OpenStackSettings { shares: [share].into(), ..OpenStackSettings::default() };
        let mut cloud = Cloud {
            admin: String::new(),
            project: String::new(),
            user: String::new(),
            token: String::new(),
            vars,
            client,
            dir,
            settings,
        };
        cloud.admin = cloud.sign_in("ADMIN_USERNAME", "ADMIN_PASSWORD", "ADMIN_PROJECT_NAME");
        cloud.found();
        Some(cloud)
    }

    fn found(&mut self) {
        let name = dedupe::RunId::random().to_string();
        let made = |cloud: &Cloud, kind: &str, body: Value| {
            let url = cloud.keystone(&format!("/{kind}s"));
            let mut whole = json!({});
            whole[kind] = body;
            cloud.ask("POST", &url, &cloud.admin, &whole)[kind]["id"].as_str().unwrap().to_owned()
        };
        self.project = made(self, "project", json!({ "name": name, "domain_id": "default" }));
        self.user = made(self, "user", json!({ "name": name, "password": PASSWORD, "domain_id": "default" }));
        let roles = self.ask("GET", &self.keystone("/roles?name=member"), &self.admin, &Value::Null);
        let role = roles["roles"][0]["id"].as_str().unwrap();
        let grant = format!("/projects/{}/users/{}/roles/{role}", self.project, self.user);
        self.ask("PUT", &self.keystone(&grant), &self.admin, &Value::Null);
        self.token = self.token_of(&name, PASSWORD, &name);
        self.write_credentials(&format!("OS_USERNAME={name}\nOS_PASSWORD={PASSWORD}\nOS_PROJECT_NAME={name}\n"));
    }

    /// What targets read from now on.
    pub(crate) fn write_credentials(&self, lines: &str) {
        let text = format!("OS_AUTH_URL={}\nOS_REGION_NAME=RegionOne\n{lines}", self.keystone(""));
        let path = self.dir.path().join("openrc.new");
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        std::fs::rename(&path, self.openrc()).unwrap();
    }

    /// The file that they are in.
    pub(crate) fn openrc(&self) -> PathBuf {
        self.dir.path().join("openrc")
    }

    pub(crate) fn share(&self) -> &Path {
        self.settings.shares.values().next().unwrap()
    }

    /// A target, as a new process makes it.
    pub(crate) fn target(&self) -> OpenStack {
        self.target_with(&self.settings, 10)
    }

    /// The same with other settings and so many attempts for a request.
    pub(crate) fn target_with(&self, settings: &OpenStackSettings, attempts: u32) -> OpenStack {
        let first = Duration::from_millis(20);
        let patience = Patience { attempts, first, longest: Duration::from_secs(1), ..Patience::default() };
        let options = Options { patience, requests: NonZeroU32::new(200), ..Options::default() };
        OpenStack::new(settings, &Credentials::File(self.openrc()), &options).unwrap()
    }

    fn sign_in(&self, name: &str, password: &str, project: &str) -> String {
        let var = |name| self.vars.must(name).unwrap();
        self.token_of(var(name), var(password), var(project))
    }

    fn token_of(&self, name: &str, password: &str, project: &str) -> String {
        let domain = json!({ "id": "default" });
        let user = json!({ "name": name, "domain": domain, "password": password });
        let body = json!({ "auth": {
            "identity": { "methods": ["password"], "password": { "user": user } },
            "scope": { "project": { "name": project, "domain": domain } },
        }});
        let url = self.keystone("/auth/tokens");
        let reply = self.client.ask(&[], || {
            let request = Request::post(&url).header("content-type", "application/json");
            Ok(request.body(body.to_string().into_bytes()).unwrap())
        });
        reply.unwrap().header("x-subject-token").unwrap().to_owned()
    }

    /// An address at Keystone.
    pub(crate) fn keystone(&self, path: &str) -> String {
        format!("{}{path}", self.vars.get("OS_AUTH_URL").unwrap())
    }

    fn ask(&self, method: &str, url: &str, token: &str, body: &Value) -> Value {
        let reply = self.client.ask(&[404], || {
            let request = Request::builder().method(method).uri(url).header("x-auth-token", token);
            let request = request.header("content-type", "application/json");
            let request = request.header("openstack-api-version", "volume 3.44");
            let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
            Ok(request.body(body).unwrap())
        });
        serde_json::from_slice(&reply.unwrap().body).unwrap_or_default()
    }

    /// Asks Keystone as the administrator.
    pub(crate) fn as_admin(&self, method: &str, path: &str, body: &Value) -> Value {
        self.ask(method, &self.keystone(path), &self.admin, body)
    }

    /// Asks Keystone as the account.
    pub(crate) fn as_account(&self, method: &str, path: &str, body: &Value) -> Value {
        self.ask(method, &self.keystone(path), &self.token, body)
    }

    /// `host:port` of a service.
    pub(crate) fn upstream(&self, kind: &str) -> String {
        let catalog = self.as_account("GET", "/auth/catalog", &Value::Null);
        let services = catalog["catalog"].as_array().unwrap();
        let service = services.iter().find(|service| service["type"] == kind).unwrap();
        let url = service["endpoints"][0]["url"].as_str().unwrap();
        url.trim_start_matches("http://").split('/').next().unwrap().to_owned()
    }

    /// Asks Cinder about the project: as the account, or (quotas) as the administrator.
    pub(crate) fn cinder(&self, method: &str, path: &str, body: &Value) -> Value {
        let url = format!("http://{}/v3/{}{path}", self.upstream("volumev3"), self.project);
        self.ask(method, &url, &self.token, body)
    }

    /// Sets quotas of the project.
    pub(crate) fn set_quotas(&self, quotas: &Value) {
        let admin = self.as_admin("GET", "/projects?name=admin", &Value::Null);
        let admin = admin["projects"][0]["id"].as_str().unwrap();
        let url = format!("http://{}/v3/{admin}/os-quota-sets/{}", self.upstream("volumev3"), self.project);
        self.ask("PUT", &url, &self.admin, &json!({ "quota_set": quotas }));
    }

    /// Everything of the project in Cinder: volumes as `name status`, numbers of snapshots and attachments.
    pub(crate) fn volumes(&self) -> (Vec<String>, usize, usize) {
        let list =
            |path: &str, key: &str| self.cinder("GET", path, &Value::Null)[key].as_array().cloned().unwrap_or_default();
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let volumes = list("/volumes/detail", "volumes");
        let volumes =
            volumes.iter().map(|volume| format!("{} {}", text(volume, "name"), text(volume, "status"))).collect();
        (volumes, list("/snapshots/detail", "snapshots").len(), list("/attachments", "attachments").len())
    }

    /// Images of the project, hidden ones too, as `name status`.
    pub(crate) fn images(&self) -> Vec<String> {
        let base = format!("http://{}/v2/images?owner={}", self.upstream("image"), self.project);
        let mut all = Vec::new();
        for hidden in [false, true] {
            let found = self.ask("GET", &format!("{base}&os_hidden={hidden}"), &self.token, &Value::Null);
            let text = |image: &Value, key: &str| image[key].as_str().unwrap_or_default().to_owned();
            let images = found["images"].as_array().unwrap();
            all.extend(images.iter().map(|image| format!("{} {}", text(image, "name"), text(image, "status"))));
        }
        all
    }
}
