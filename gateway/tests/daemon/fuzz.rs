//! Garbage for the API, made from its own description: whatever is sent, the gateway answers with something else than a failure of its own.

use crate::client::{Client, POLICY, world};
use serde_json::{Value, json};

/// Requests of one run; many more with `SLUICE_LONG`.
const REQUESTS: usize = 2500;
const LONG: usize = 60_000;

/// A generator that gives the same garbage each time (a linear congruence by Knuth, MMIX).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % below as u64) as usize
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.roll(all.len())]
    }

    fn text(&mut self) -> String {
        let nasty = [
            "",
            " ",
            "bank",
            "b1",
            "latest",
            "1",
            "-1",
            "0",
            "chief",
            "../../etc/passwd",
            "%00",
            "\u{0}",
            "\u{202e}abc",
            "'; DROP TABLE sites;--",
            "<script>alert(1)</script>",
            "9999999999999999999999",
            "2026-11",
            "2026-13",
            "07:30",
            "25:00",
            "é漢字🙂",
            "2 Mbit/s",
            "-5 %",
            "unlimited",
            "[line]",
            POLICY,
            "BEGIN:VCALENDAR\nEND:VCALENDAR",
            "{}",
            "null",
            "true",
            "1e400",
            "a/b",
            "\"",
            "\\",
            "\r\nX: y",
            "viewer",
            "administrator",
        ];
        match self.roll(8) {
            0 => "x".repeat(self.roll(5000)),
            1 => {
                (0..self.roll(40)).map(|_| char::from_u32(self.roll(0x11_0000) as u32).unwrap_or('\u{fffd}')).collect()
            }
            _ => (*self.pick(&nasty)).to_owned(),
        }
    }

    fn number(&mut self) -> Value {
        let edges = [
            json!(0),
            json!(1),
            json!(-1),
            json!(500),
            json!(501),
            json!(u64::MAX),
            json!(i64::MIN),
            json!(0.5),
            json!(1e300),
        ];
        self.pick(&edges).clone()
    }

    /// A value as the schema says, or now and then anything else.
    fn value(&mut self, schema: &Value, all: &Value, depth: usize) -> Value {
        if depth > 6 || self.roll(12) == 0 {
            let (text, number) = (self.text(), self.number());
            return self
                .pick(&[json!(text), number, json!(null), json!([]), json!({}), json!(true), json!([[[{}]]])])
                .clone();
        }
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.rsplit('/').next().unwrap_or_default();
            return self.value(&all["components"]["schemas"][name], all, depth + 1);
        }
        for choice in ["oneOf", "anyOf"] {
            if let Some(choices) = schema[choice].as_array().filter(|choices| !choices.is_empty()) {
                let chosen = self.pick(choices).clone();
                return self.value(&chosen, all, depth + 1);
            }
        }
        if let Some(parts) = schema["allOf"].as_array() {
            let mut whole = serde_json::Map::new();
            for part in parts {
                if let Value::Object(fields) = self.value(part, all, depth + 1) {
                    whole.extend(fields);
                }
            }
            return Value::Object(whole);
        }
        if let Some(words) = schema["enum"].as_array().filter(|words| !words.is_empty()) {
            return self.pick(words).clone();
        }
        let kind = schema["type"].as_str().map(str::to_owned).or_else(|| {
            let kinds = schema["type"].as_array()?.clone();
            self.pick(&kinds).as_str().map(str::to_owned)
        });
        match kind.as_deref() {
            Some("object") => {
                let mut object = serde_json::Map::new();
                for (name, field) in schema["properties"].as_object().into_iter().flatten() {
                    if self.roll(5) > 0 {
                        object.insert(name.clone(), self.value(field, all, depth + 1));
                    }
                }
                if self.roll(10) == 0 {
                    object.insert(self.text(), json!(1));
                }
                Value::Object(object)
            }
            Some("array") => (0..self.roll(4)).map(|_| self.value(&schema["items"], all, depth + 1)).collect(),
            Some("integer" | "number") => self.number(),
            Some("boolean") => json!(self.roll(2) == 0),
            Some("null") => Value::Null,
            _ => json!(self.text()),
        }
    }
}

fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// What must not be asked for here: it would end what asks, or fill the disk with tokens of sites.
fn is_left_out(operation: &str) -> bool {
    operation == "delete /session" || operation.ends_with("/events")
}

#[test]
fn whatever_is_asked_the_gateway_does_not_fail() {
    let (world, chief) = world();
    chief.post("/api/v1/tokens", &json!({ "tenant": "bank", "site": "b1" })).expect(200);
    let document: Value = chief.get("/api/v1/openapi.json").json();
    let mut operations: Vec<(String, String, Value)> = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if !is_left_out(&format!("{method} {path}")) {
                operations.push((method.clone(), path.clone(), operation.clone()));
            }
        }
    }
    // Many ask, so that none asks too often; by tokens, which no garbage signs out.
    let callers: Vec<Client> =
        (0..24).map(|number| chief.account(&world, &format!("caller-{number}"), "administrator", None)).collect();
    let mut dice = Dice(0x51_u64);
    let mut statuses = std::collections::BTreeMap::new();
    let requests = if std::env::var_os("SLUICE_LONG").is_some() { LONG } else { REQUESTS };
    for number in 0..requests {
        let (method, path, operation) = dice.pick(&operations).clone();
        let mut filled = path.clone();
        let mut query = String::new();
        let mut headers: Vec<(&str, String)> = Vec::new();
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap_or_default();
            let value = match dice.value(&parameter["schema"], &document, 0) {
                Value::String(text) => text,
                other => other.to_string(),
            };
            let value = match (name, dice.roll(3)) {
                ("tenant", 1..) => "bank".to_owned(),
                ("site", 1..) => "b1".to_owned(),
                _ => value,
            };
            match parameter["in"].as_str() {
                Some("path") => filled = filled.replace(&format!("{{{name}}}"), &escaped(&value)),
                Some("query") if dice.roll(4) > 0 => {
                    query += &format!("{}{name}={}", if query.is_empty() { '?' } else { '&' }, escaped(&value))
                }
                Some("header") if dice.roll(2) == 0 => {
                    let clean: String = value.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(300).collect();
                    headers.push((
                        if name == "If-Match" {
                            "if-match"
                        } else if name == "If-None-Match" {
                            "if-none-match"
                        } else {
                            "idempotency-key"
                        },
                        clean,
                    ));
                }
                _ => {}
            }
        }
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        let body = (!schema.is_null()).then(|| match dice.roll(20) {
            0 => "{".repeat(200),
            1 => dice.text(),
            _ => dice.value(schema, &document, 0).to_string(),
        });
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let asked = format!("{} /api/v1{filled}{query}", method.to_uppercase());
        let caller = &callers[number % callers.len()];
        let answer = caller.ask(&method.to_uppercase(), &format!("/api/v1{filled}{query}"), body.clone(), &headers);
        assert!(answer.status < 500, "request {number}, {asked} with {headers:?} and {body:?}: {answer:?}");
        if (400..500).contains(&answer.status) {
            answer.problem();
        }
        *statuses.entry(answer.status).or_insert(0) += 1;
    }
    println!("{statuses:?}");
    let throttled = statuses.get(&429).copied().unwrap_or(0);
    assert!(throttled < requests / 10, "{statuses:?}");
    assert!(statuses.get(&200).is_some_and(|count| *count > requests / 50), "garbage alone says little: {statuses:?}");
    assert!(chief.get("/api/v1/audit/check").expect(200).json()["entries"].as_u64().unwrap() > 1);
}
