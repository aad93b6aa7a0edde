//! Cinder's API v3: volumes, attachments, snapshots.

use super::keystone::{Ask, Keystone, Service, quoted};
use crate::error::TargetError;
use crate::http::{Client, Options};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The version that has all that is used here: attachments (3.27) and their completion (3.44). Of 2017, so every cloud in service has it.
const VERSION: (&str, &str) = ("openstack-api-version", "volume 3.44");
/// Entries of a page of a list.
const PAGE: usize = 200;
/// Entries of a list at most: far more than one volume's snapshots.
const MOST_LISTED: usize = 20_000;
/// How long a volume or snapshot may take to come about or go: drivers that copy take minutes.
const LONGEST_WORK: Duration = Duration::from_secs(1800);

/// Metadata, as Cinder keeps it: keys and values of 255 bytes at most.
pub(crate) type Metadata = BTreeMap<String, String>;

/// See the module's documentation.
pub(crate) struct Cinder {
    service: Service,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Volume {
    pub(crate) id: String,
    pub(crate) status: String,
    /// GiB.
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) metadata: Metadata,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) id: String,
    pub(crate) volume_id: String,
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) metadata: Metadata,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Attachment {
    pub(crate) id: String,
    /// The server it belongs to; ours belong to none.
    #[serde(default)]
    pub(crate) instance: Option<String>,
    #[serde(default)]
    pub(crate) connection_info: Value,
}

/// What may be made.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Limits {
    /// GiB; negative: no limit.
    pub(crate) max_total_volume_gigabytes: i64,
    pub(crate) total_gigabytes_used: i64,
    pub(crate) max_total_volumes: i64,
    pub(crate) total_volumes_used: i64,
    pub(crate) max_total_snapshots: i64,
    pub(crate) total_snapshots_used: i64,
}

/// What both kinds of things have.
pub(crate) trait Thing: DeserializeOwned {
    const ONE: &'static str;
    const MANY: &'static str;
    fn id(&self) -> &str;
    fn status(&self) -> &str;
}

impl Thing for Volume {
    const ONE: &'static str = "volume";
    const MANY: &'static str = "volumes";
    fn id(&self) -> &str {
        &self.id
    }
    fn status(&self) -> &str {
        &self.status
    }
}

impl Thing for Snapshot {
    const ONE: &'static str = "snapshot";
    const MANY: &'static str = "snapshots";
    fn id(&self) -> &str {
        &self.id
    }
    fn status(&self) -> &str {
        &self.status
    }
}

impl Cinder {
    pub(crate) fn new(
        keystone: &Arc<Keystone>,
        endpoint: Option<String>,
        options: &Options,
    ) -> Result<Cinder, TargetError> {
        let kinds: &[&str] = &["block-storage", "volumev3", "volume"];
        let service = Service::new("Cinder", keystone, (kinds, ""), endpoint, Some(VERSION), options)?;
        Ok(Cinder { service })
    }

    /// Where it is.
    pub(crate) fn address(&self) -> Result<String, TargetError> {
        self.service.address()
    }

    pub(crate) fn client(&self) -> &Client {
        self.service.client()
    }

    pub(crate) fn limits(&self) -> Result<Limits, TargetError> {
        #[derive(Deserialize)]
        struct Answer {
            limits: Absolute,
        }
        #[derive(Deserialize)]
        struct Absolute {
            absolute: Limits,
        }
        Ok(self.service.json::<Answer>(Ask::new("GET", "/limits"))?.limits.absolute)
    }

    /// Names of the kinds of volumes that may be made.
    pub(crate) fn types(&self) -> Result<Vec<String>, TargetError> {
        #[derive(Deserialize)]
        struct Answer {
            volume_types: Vec<Named>,
        }
        #[derive(Deserialize)]
        struct Named {
            name: String,
        }
        let answer: Answer = self.service.json(Ask::new("GET", "/types"))?;
        Ok(answer.volume_types.into_iter().map(|named| named.name).collect())
    }

    /// All volumes or snapshots with this entry in their metadata.
    pub(crate) fn tagged<T: Thing>(&self, key: &str, value: &str) -> Result<Vec<T>, TargetError> {
        let filter = quoted(&format!("{{'{key}':'{value}'}}"));
        let (mut all, mut marker) = (Vec::<T>::new(), String::new());
        loop {
            let path = format!("/{}/detail?limit={PAGE}&metadata={filter}{marker}", T::MANY);
            let mut page: BTreeMap<String, Value> = self.service.json(Ask::new("GET", &path))?;
            let wrong = |said: &str| self.service.wrong(&format!("GET /{}/detail", T::MANY), said);
            let items = page.remove(T::MANY).ok_or_else(|| wrong("no list"))?;
            let items: Vec<T> = serde_json::from_value(items).map_err(|error| wrong(&error.to_string()))?;
            // The link is followed by its meaning and not by its address, which may lead elsewhere.
            let has_more = page.contains_key(&format!("{}_links", T::MANY));
            let last = items.last().map(|last| quoted(last.id()));
            all.extend(items);
            match last {
                Some(last) if has_more && all.len() < MOST_LISTED => marker = format!("&marker={last}"),
                Some(_) if has_more => return Err(wrong("more entries than can be")),
                _ => return Ok(all),
            }
        }
    }

    /// One volume or snapshot; `None`: it is gone.
    pub(crate) fn get<T: Thing>(&self, id: &str) -> Result<Option<T>, TargetError> {
        let path = format!("/{}/{}", T::MANY, quoted(id));
        let asked = self.service.json::<BTreeMap<String, Value>>(Ask::new("GET", &path));
        let mut answer = match asked {
            Err(error) if error.is_missing() => return Ok(None),
            asked => asked?,
        };
        let wrong = |said: &str| self.service.wrong(&format!("GET {path}"), said);
        let item = answer.remove(T::ONE).ok_or_else(|| wrong("something else"))?;
        serde_json::from_value(item).map(Some).map_err(|error| wrong(&error.to_string()))
    }

    /// Waits until it has this status. Another one than those on the way there ends it with what Cinder says of the reason.
    pub(crate) fn wait_for<T: Thing>(&self, id: &str, status: &str) -> Result<T, TargetError> {
        let what = format!("{} {id} to become {status}", T::ONE);
        self.client().wait_until(&what, LONGEST_WORK, || {
            let Some(found) = self.get::<T>(id)? else {
                return Err(TargetError::Conflict(format!(
                    "{} {id} is gone while it was waited for; look who removes things there, then run it again",
                    T::ONE
                )));
            };
            match found.status() {
                now if now == status => Ok(Some(found)),
                now if now.starts_with("error") => Err(self.failed::<T>(id, now)),
                _ => Ok(None),
            }
        })
    }

    /// Removes it and waits until it is gone. That it is gone already is fine.
    pub(crate) fn delete<T: Thing>(&self, id: &str) -> Result<(), TargetError> {
        let path = format!("/{}/{}", T::MANY, quoted(id));
        let is_going = || Ok(self.get::<T>(id)?.is_none_or(|found| found.status() == "deleting").then_some(()));
        self.client().make_once(is_going, |once| {
            self.service.ask_by(once, Ask::new("DELETE", &path).fine(&[404])).map(|_| ())
        })?;
        self.client().wait_until(&format!("{} {id} to be removed", T::ONE), LONGEST_WORK, || {
            match self.get::<T>(id)? {
                None => Ok(Some(())),
                Some(found) if found.status() == "deleting" => Ok(None),
                Some(found) if found.status().starts_with("error") => Err(self.failed::<T>(id, found.status())),
                Some(found) => Err(TargetError::Conflict(format!(
                    "Cinder does not remove {} {id}, it is `{}` again: something else still needs it, a volume that was made from it perhaps; remove that \
                     first",
                    T::ONE,
                    found.status()
                ))),
            }
        })
    }

    fn failed<T: Thing>(&self, id: &str, status: &str) -> TargetError {
        let why = self.messages(id).unwrap_or_default();
        TargetError::Conflict(format!(
            "{} {id} is in state `{status}`{}{why}; look at Cinder's log, have the state reset or remove it there, then run it again",
            T::ONE,
            if why.is_empty() { "" } else { ": " },
        ))
    }

    /// What Cinder tells users of what went wrong with something, if it does.
    fn messages(&self, id: &str) -> Option<String> {
        #[derive(Deserialize)]
        struct Answer {
            messages: Vec<Message>,
        }
        #[derive(Deserialize)]
        struct Message {
            user_message: String,
        }
        let path = format!("/messages?limit=1&sort=created_at:desc&resource_uuid={}", quoted(id));
        let answer: Answer = self.service.json(Ask::new("GET", &path)).ok()?;
        let message = answer.messages.into_iter().next()?.user_message;
        Some(message.chars().filter(|c| !c.is_control()).take(300).collect())
    }

    /// Makes an empty volume, or finds the one that an earlier attempt made.
    pub(crate) fn create_volume(
        &self,
        look: impl FnMut() -> Result<Option<Volume>, TargetError>,
        volume: &Value,
    ) -> Result<Volume, TargetError> {
        self.create(look, "/volumes", &json!({ "volume": volume }))
    }

    /// Begins a snapshot, or finds the one that an earlier attempt began.
    pub(crate) fn create_snapshot(
        &self,
        look: impl FnMut() -> Result<Option<Snapshot>, TargetError>,
        snapshot: &Value,
    ) -> Result<Snapshot, TargetError> {
        self.create(look, "/snapshots", &json!({ "snapshot": snapshot }))
    }

    fn create<T: Thing>(
        &self,
        look: impl FnMut() -> Result<Option<T>, TargetError>,
        path: &str,
        body: &Value,
    ) -> Result<T, TargetError> {
        self.client().make_once(look, |once| {
            let mut made: BTreeMap<String, Value> =
                self.service.json_by(once, Ask::new("POST", path).body(body)).map_err(by_quota)?;
            let wrong = |said: &str| self.service.wrong(&format!("POST {path}"), said);
            let item = made.remove(T::ONE).ok_or_else(|| wrong("something else"))?;
            serde_json::from_value(item).map_err(|error| wrong(&error.to_string()))
        })
    }

    /// Makes a volume larger, GiB, and waits for it.
    pub(crate) fn extend(&self, id: &str, size: u64) -> Result<Volume, TargetError> {
        let body = json!({ "os-extend": { "new_size": size } });
        let path = format!("/volumes/{}/action", quoted(id));
        let look = || {
            let volume = self.get::<Volume>(id)?;
            Ok(volume.filter(|volume| volume.size >= size || volume.status == "extending").map(|_| ()))
        };
        self.client().make_once(look, |once| {
            self.service.ask_by(once, Ask::new("POST", &path).body(&body)).map(|_| ()).map_err(by_quota)
        })?;
        self.wait_for::<Volume>(id, "available")
    }

    /// Replaces all metadata of a volume, at once.
    pub(crate) fn put_metadata(&self, id: &str, metadata: &Metadata) -> Result<(), TargetError> {
        let body = json!({ "metadata": metadata });
        let path = format!("/volumes/{}/metadata", quoted(id));
        self.service.ask(Ask::new("PUT", &path).body(&body)).map(|_| ())
    }

    pub(crate) fn rename(&self, id: &str, name: &str) -> Result<(), TargetError> {
        let body = json!({ "volume": { "name": name } });
        let path = format!("/volumes/{}", quoted(id));
        self.service.ask(Ask::new("PUT", &path).body(&body)).map(|_| ())
    }

    pub(crate) fn attachments(&self, volume: &str) -> Result<Vec<Attachment>, TargetError> {
        #[derive(Deserialize)]
        struct Answer {
            attachments: Vec<Attachment>,
        }
        let path = format!("/attachments?volume_id={}", quoted(volume));
        Ok(self.service.json::<Answer>(Ask::new("GET", &path))?.attachments)
    }

    /// One attachment, with what it says of the way to the bytes.
    pub(crate) fn attachment(&self, id: &str) -> Result<Attachment, TargetError> {
        let path = format!("/attachments/{}", quoted(id));
        Ok(self.service.json::<One>(Ask::new("GET", &path))?.attachment)
    }

    /// Attaches a volume to this machine, which Cinder knows as no server. Whether an attempt whose answer was lost did it is told by `attachments`:
    /// a volume has one at most.
    pub(crate) fn attach(&self, volume: &str, connector: &Value) -> Result<Attachment, TargetError> {
        let body = json!({ "attachment": { "volume_uuid": volume, "connector": connector } });
        let clear = || {
            self.detach_ours(volume)?;
            Ok(None)
        };
        let attachment = self.client().make_once(clear, |once| {
            self.service.json_by::<One>(once, Ask::new("POST", "/attachments").body(&body)).map(|one| one.attachment)
        })?;
        let path = format!("/attachments/{}/action", quoted(&attachment.id));
        let done = self.service.ask(Ask::new("POST", &path).body(&json!({ "os-complete": {} })));
        if let Err(error) = done {
            return Err(self.detach(&attachment.id).err().unwrap_or(error));
        }
        Ok(attachment)
    }

    /// Removes what attaches a volume of ours to no server, and waits until it is free. Attached to a server: somebody uses it.
    pub(crate) fn detach_ours(&self, volume: &str) -> Result<(), TargetError> {
        let attachments = self.attachments(volume)?;
        if let Some(server) = attachments.iter().find_map(|attachment| attachment.instance.as_ref()) {
            return Err(TargetError::Conflict(format!(
                "volume {volume} is attached to server {server}; detach it there, and start servers from volumes that are made from a snapshot"
            )));
        }
        for attachment in &attachments {
            self.detach(&attachment.id)?;
        }
        self.wait_for::<Volume>(volume, "available").map(|_| ())
    }

    /// Removes an attachment; that it is gone already is fine.
    pub(crate) fn detach(&self, id: &str) -> Result<(), TargetError> {
        let path = format!("/attachments/{}", quoted(id));
        self.service.ask(Ask::new("DELETE", &path).fine(&[404])).map(|_| ())
    }
}

#[derive(Deserialize)]
struct One {
    attachment: Attachment,
}

/// Cinder's word for a quota that is used up is 413, its own words have the numbers.
fn by_quota(error: TargetError) -> TargetError {
    match error {
        TargetError::Refused { status: 413, said, .. } => TargetError::Conflict(format!(
            "a quota of the OpenStack project is used up: {said}; have it raised, or remove points that are not needed, then run it again"
        )),
        error => error,
    }
}
