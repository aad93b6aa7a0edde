//! Glance's API v2: images.

use super::keystone::{Ask, Keystone, Service, quoted};
use crate::error::TargetError;
use crate::http::{Client, Options, Reply};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

/// Images of a page of a list.
const PAGE: usize = 100;
/// Images of a list at most.
const MOST_LISTED: usize = 20_000;
/// What a change of an image is sent as.
const PATCH: &str = "application/openstack-images-v2.1-json-patch";

/// See the module's documentation.
pub(crate) struct Glance {
    service: Service,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Image {
    pub(crate) id: String,
    pub(crate) status: String,
    /// Bytes, once it is uploaded.
    #[serde(default)]
    pub(crate) size: Option<u64>,
    /// All the rest, properties of ours among them.
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

impl Image {
    pub(crate) fn get(&self, key: &str) -> Option<String> {
        self.rest.get(key)?.as_str().map(str::to_owned)
    }
}

impl Glance {
    pub(crate) fn new(
        keystone: &Arc<Keystone>,
        endpoint: Option<String>,
        options: &Options,
    ) -> Result<Glance, TargetError> {
        let service = Service::new("Glance", keystone, (&["image"], "/v2"), endpoint, None, options)?;
        Ok(Glance { service })
    }

    pub(crate) fn address(&self) -> Result<String, TargetError> {
        self.service.address()
    }

    pub(crate) fn client(&self) -> &Client {
        self.service.client()
    }

    /// Own images, hidden ones too, with this property.
    pub(crate) fn tagged(&self, key: &str, value: &str) -> Result<Vec<Image>, TargetError> {
        let mut all = self.listed(key, value, false)?;
        all.extend(self.listed(key, value, true)?);
        all.retain(|image| image.get(key).as_deref() == Some(value));
        Ok(all)
    }

    fn listed(&self, key: &str, value: &str, hidden: bool) -> Result<Vec<Image>, TargetError> {
        #[derive(Deserialize)]
        struct Page {
            images: Vec<Image>,
            #[serde(default)]
            next: Option<String>,
        }
        let filter = format!("visibility=private&{}={}&os_hidden={hidden}", quoted(key), quoted(value));
        let (mut all, mut marker) = (Vec::new(), String::new());
        loop {
            let path = format!("/images?limit={PAGE}&{filter}{marker}");
            let page: Page = self.service.json(Ask::new("GET", &path))?;
            let last = page.images.last().map(|last| quoted(&last.id));
            all.extend(page.images);
            match (page.next, last) {
                (Some(_), Some(last)) if all.len() < MOST_LISTED => marker = format!("&marker={last}"),
                (Some(_), Some(_)) => return Err(self.service.wrong("GET /images", "more images than can be")),
                _ => return Ok(all),
            }
        }
    }

    pub(crate) fn get(&self, id: &str) -> Result<Option<Image>, TargetError> {
        match self.service.json(Ask::new("GET", &format!("/images/{}", quoted(id)))) {
            Err(error) if error.is_missing() => Ok(None),
            found => found.map(Some),
        }
    }

    /// Begins an image, or finds the one that an earlier attempt began.
    pub(crate) fn create(
        &self,
        look: impl FnMut() -> Result<Option<Image>, TargetError>,
        image: &Value,
    ) -> Result<Image, TargetError> {
        self.client().make_once(look, |once| self.service.json_by(once, Ask::new("POST", "/images").body(image)))
    }

    /// Uploads an image's bytes, in one attempt.
    pub(crate) fn upload(&self, id: &str, file: &File) -> Result<(), TargetError> {
        let path = format!("/images/{}/file", quoted(id));
        let ask = Ask { headers: &[("content-type", "application/octet-stream")], ..Ask::new("PUT", &path) };
        self.service.send_file(ask, file).map(|_| ())
    }

    /// Reads bytes of an image from Glance.
    pub(crate) fn read(&self, id: &str, at: u64, buffer: &mut [u8]) -> Result<(), TargetError> {
        if buffer.is_empty() {
            return Ok(());
        }
        let path = format!("/images/{}/file", quoted(id));
        let range = format!("bytes={at}-{}", at + buffer.len() as u64 - 1);
        let headers = [("range", range.as_str()), ("accept", "application/octet-stream")];
        // A service that does not know ranges begins to send the whole image, which is far too long an answer: then it says so here.
        let ask = Ask { headers: &headers, most: buffer.len() as u64, ..Ask::new("GET", &path) };
        let reply: Reply = self.service.ask(ask)?;
        if reply.status != 206 || reply.body.len() != buffer.len() {
            return Err(self.service.wrong(
                &format!("GET {path}"),
                &format!(
                    "status {} and {} bytes for a part of {} bytes; its store gives no parts of images, so none can be proved: use volumes",
                    reply.status,
                    reply.body.len(),
                    buffer.len()
                ),
            ));
        }
        buffer.copy_from_slice(&reply.body);
        Ok(())
    }

    /// Sets properties.
    pub(crate) fn set(&self, id: &str, properties: &[(&str, Value)]) -> Result<(), TargetError> {
        let changes: Vec<Value> = properties
            .iter()
            .map(|(key, value)| json!({ "op": "add", "path": format!("/{key}"), "value": value }))
            .collect();
        let (path, body) = (format!("/images/{}", quoted(id)), Value::from(changes));
        let ask = Ask { headers: &[("content-type", PATCH)], ..Ask::new("PATCH", &path).body(&body) };
        self.service.ask(ask).map(|_| ())
    }

    /// Removes an image; that it is gone already is fine.
    pub(crate) fn delete(&self, id: &str) -> Result<(), TargetError> {
        let path = format!("/images/{}", quoted(id));
        self.service.ask(Ask::new("DELETE", &path).fine(&[404])).map(|_| ())
    }
}
