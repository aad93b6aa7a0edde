//! Our own strict model of the EBS direct APIs and of the snapshots of EC2: neither AWS nor an emulator of all that AWS does, but the rules that are written
//! down in the EBS direct APIs Reference and the EBS User Guide, enforced to the letter. Where they leave room, it takes the less comfortable way: lists come
//! in short and in empty pages, completing takes a while and may be asked for once, and now and then it says that there were too many requests.

use crate::faults::{read_body, read_head};
use data_encoding::BASE64;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

const BLOCK: usize = 512 << 10;
/// Blocks and snapshots in one page of a list.
const PAGE: usize = 3;

/// A server of the model. Ends with the test's process.
pub(crate) struct Model {
    address: std::net::SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) snapshots: BTreeMap<String, Snapshot>,
    tokens: HashMap<String, (Value, String)>,
    /// Snapshots that an image needs.
    pub(crate) in_use: BTreeSet<String>,
    /// Every so many requests one is told to come back later.
    pub(crate) throttle_every: usize,
    requests: usize,
    made: u64,
    /// What was refused by a rule: the code and which rule.
    pub(crate) refused: Vec<String>,
    pub(crate) puts: usize,
    /// Whether a whole set was completed with its checksum.
    pub(crate) with_checksum: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Life {
    Pending,
    /// Asked to complete; so many more looks until it is.
    Completing(u32),
    Completed,
    Error,
}

pub(crate) struct Snapshot {
    gib: u64,
    pub(crate) life: Life,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) parent: Option<String>,
    pub(crate) encrypted: bool,
    /// What the parent held when this one began.
    inherited: BTreeMap<u32, Arc<Vec<u8>>>,
    pub(crate) put: BTreeMap<u32, Arc<Vec<u8>>>,
}

/// Status, headers, body.
type Answer = (u16, Vec<(&'static str, String)>, Vec<u8>);
type Answered = Result<Answer, (u16, &'static str, String)>;

struct Asked {
    method: String,
    path: Vec<String>,
    query: HashMap<String, String>,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl Model {
    pub(crate) fn start() -> Model {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<Mutex<State>>::default();
        let known = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let known = known.clone();
                std::thread::spawn(move || drop(serve(client, &known)));
            }
        });
        Model { address, state }
    }

    /// `host:port`.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

fn serve(mut client: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let (head, rest) = read_head(&mut client)?;
    let text = String::from_utf8_lossy(&head).into_owned();
    let body = read_body(&mut client, &text, rest)?;
    let asked = parse(&text, body);
    let is_ec2 = asked.path.is_empty();
    let answer = state.lock().unwrap().answer(&asked).unwrap_or_else(|(status, code, said)| match is_ec2 {
        true => {
            let xml = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{code}</Code><Message>{said}</Message></Error></Errors></Response>"
            );
            (status, vec![], xml.into_bytes())
        }
        false => {
            (status, vec![("x-amzn-ErrorType", format!("{code}:http://internal/"))], json!({"Message": said}).to_string().into())
        }
    });
    let (status, headers, body) = answer;
    let mut head = format!("HTTP/1.1 {status} Model\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
    headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    client.write_all(format!("{head}\r\n").as_bytes())?;
    client.write_all(&body)
}

fn parse(head: &str, body: Vec<u8>) -> Asked {
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let (path, query) = words.next().map(|uri| uri.split_once('?').unwrap_or((uri, ""))).unwrap_or_default();
    let headers =
        lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let path = path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    Asked { method, path, query: pairs(query), headers: headers.collect(), body }
}

fn pairs(text: &str) -> HashMap<String, String> {
    let pair = |pair: &str| pair.split_once('=').map(|(name, value)| (decoded(name), decoded(value)));
    text.split('&').filter_map(pair).collect()
}

fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((byte, more)) = rest.split_first() {
        match (byte, more.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            _ => {
                bytes.push(*byte);
                rest = more;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn sum(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

impl State {
    fn refuse<T>(&mut self, status: u16, code: &'static str, said: &str) -> Result<T, (u16, &'static str, String)> {
        self.refused.push(format!("{code}: {said}"));
        Err((status, code, said.to_owned()))
    }

    fn invalid<T>(&mut self, said: &str) -> Result<T, (u16, &'static str, String)> {
        self.refuse(400, "ValidationException", said)
    }

    fn answer(&mut self, asked: &Asked) -> Answered {
        self.requests += 1;
        let is_ec2 = asked.path.is_empty();
        let service = if is_ec2 { "/ec2/aws4_request" } else { "/ebs/aws4_request" };
        let signed = asked.header("authorization").unwrap_or_default().to_owned();
        if !signed.starts_with("AWS4-HMAC-SHA256 Credential=") || !signed.contains(service) {
            return self.refuse(403, "AccessDeniedException", "not signed for this service");
        }
        if self.throttle_every > 0 && self.requests.is_multiple_of(self.throttle_every) {
            return Err(match (is_ec2, self.requests / self.throttle_every % 2) {
                (true, _) => (503, "RequestLimitExceeded", "Request limit exceeded.".into()),
                (_, 0) => (400, "ThrottlingException", "Rate exceeded".into()),
                _ => (400, "RequestThrottledException", "Rate exceeded".into()),
            });
        }
        let path: Vec<&str> = asked.path.iter().map(String::as_str).collect();
        match (asked.method.as_str(), path.as_slice()) {
            ("POST", []) => self.ec2(&pairs(&String::from_utf8_lossy(&asked.body))),
            ("POST", ["snapshots"]) => self.start_snapshot(&asked.body),
            ("POST", ["snapshots", "completion", id]) => self.complete(id, asked),
            ("PUT", ["snapshots", id, "blocks", block]) => self.put(id, block, asked, &signed),
            ("GET", ["snapshots", id, "blocks"]) => self.list(id, &asked.query),
            ("GET", ["snapshots", id, "blocks", block]) => self.get(id, block, &asked.query),
            _ => self.refuse(404, "UnknownOperationException", "no such operation"),
        }
    }

    fn start_snapshot(&mut self, body: &[u8]) -> Answered {
        let Ok(words) = serde_json::from_slice::<Value>(body) else { return self.invalid("no JSON") };
        const KNOWN: [&str; 8] = [
            "VolumeSize",
            "ClientToken",
            "Tags",
            "Description",
            "Timeout",
            "ParentSnapshotId",
            "Encrypted",
            "KmsKeyArn",
        ];
        if words.as_object().is_none_or(|words| words.keys().any(|key| !KNOWN.contains(&key.as_str()))) {
            return self.invalid("unknown parameter");
        }
        let Some(gib) = words["VolumeSize"].as_u64().filter(|gib| (1..=65536).contains(gib)) else {
            return self.invalid("VolumeSize has to be 1 to 65536");
        };
        let Some(token) = words["ClientToken"].as_str().filter(|token| token.len() <= 64 && token.is_ascii()) else {
            return self.invalid("ClientToken of more than 64 characters, or none: then nothing is idempotent");
        };
        if !(10..=4320).contains(&words["Timeout"].as_u64().unwrap_or(60)) {
            return self.invalid("Timeout has to be 10 to 4320");
        }
        let tag = |tag: &Value| {
            let (key, value) = (tag["Key"].as_str()?, tag["Value"].as_str()?);
            let fits = (1..=127).contains(&key.len()) && value.len() <= 255 && !key.starts_with("aws:");
            fits.then(|| (key.to_owned(), value.to_owned()))
        };
        let tags: Option<BTreeMap<_, _>> = words["Tags"].as_array().into_iter().flatten().map(tag).collect();
        let Some(tags) = tags.filter(|tags| tags.len() <= 50) else { return self.invalid("INVALID_TAG") };
        if let Some((before, id)) = self.tokens.get(token).cloned() {
            return match before == words {
                true => started(&id),
                false => self.refuse(409, "ConflictException", "the token was used with other parameters"),
            };
        }
        let parent = words["ParentSnapshotId"].as_str();
        if parent.is_some() && !words["Encrypted"].is_null() {
            return self.invalid("ParentSnapshotId and Encrypted");
        }
        let mut encrypted = words["Encrypted"].as_bool().unwrap_or(false);
        let mut inherited = BTreeMap::new();
        if let Some(parent) = parent {
            let Some(parent) = self.snapshots.get(parent) else {
                return self.refuse(404, "ResourceNotFoundException", "the parent does not exist");
            };
            if parent.life != Life::Completed || parent.gib > gib {
                return self.invalid("the parent is not completed, or is larger");
            }
            (inherited, encrypted) = (parent.blocks(), parent.encrypted);
        }
        self.made += 1;
        let id = format!("snap-{:017x}", self.made);
        let (put, life, parent) = (BTreeMap::new(), Life::Pending, parent.map(str::to_owned));
        self.snapshots.insert(id.clone(), Snapshot { gib, life, tags, parent, encrypted, inherited, put });
        self.tokens.insert(token.to_owned(), (words.clone(), id.clone()));
        started(&id)
    }

    fn put(&mut self, id: &str, block: &str, asked: &Asked, signed: &str) -> Answered {
        let Some(snapshot) = self.snapshots.get(id) else {
            return self.refuse(404, "ResourceNotFoundException", "the snapshot does not exist");
        };
        let (life, most) = (snapshot.life.clone(), snapshot.gib << 30 >> 19);
        if life != Life::Pending {
            return self.invalid("the snapshot is not pending");
        }
        let Some(block) = block.parse::<u32>().ok().filter(|block| u64::from(*block) < most) else {
            return self.invalid("INVALID_BLOCK: behind the volume's end");
        };
        if asked.header("x-amz-data-length") != Some("524288") || asked.body.len() != BLOCK {
            return self.invalid("the only supported size is 524288 bytes");
        }
        let said = asked.header("x-amz-checksum").unwrap_or_default();
        if asked.header("x-amz-checksum-algorithm") != Some("SHA256") || said != BASE64.encode(&sum(&asked.body)) {
            return self.invalid("the checksum is of other bytes");
        }
        if asked.header("x-amz-content-sha256") == Some("UNSIGNED-PAYLOAD") && !signed.contains(";x-amz-checksum;") {
            return self.refuse(403, "AccessDeniedException", "neither the block nor its checksum is signed");
        }
        let said = said.to_owned();
        self.puts += 1;
        let put = &mut self.snapshots.get_mut(id).unwrap().put;
        put.insert(block, Arc::new(asked.body.clone()));
        Ok((201, vec![("x-amz-Checksum", said), ("x-amz-Checksum-Algorithm", "SHA256".into())], vec![]))
    }

    fn complete(&mut self, id: &str, asked: &Asked) -> Answered {
        let Some(snapshot) = self.snapshots.get(id) else {
            return self.refuse(404, "ResourceNotFoundException", "the snapshot does not exist");
        };
        let (life, count) = (snapshot.life.clone(), snapshot.put.len().to_string());
        let sums: Vec<u8> = snapshot.put.values().flat_map(|bytes| sum(bytes)).collect();
        if life != Life::Pending {
            return self.invalid("the snapshot is not pending");
        }
        if asked.header("x-amz-changedblockscount") != Some(count.as_str()) {
            return self.invalid(&format!("ChangedBlocksCount is not {count}"));
        }
        if let Some(said) = asked.header("x-amz-checksum") {
            let how = (asked.header("x-amz-checksum-algorithm"), asked.header("x-amz-checksum-aggregation-method"));
            if how != (Some("SHA256"), Some("LINEAR")) || said != BASE64.encode(&sum(&sums)) {
                return self.invalid("the aggregated checksum is another");
            }
            self.with_checksum += 1;
        }
        self.snapshots.get_mut(id).unwrap().life = Life::Completing(2);
        Ok((202, vec![], json!({"Status": "pending"}).to_string().into()))
    }

    fn list(&mut self, id: &str, query: &HashMap<String, String>) -> Answered {
        let Some(snapshot) = self.snapshots.get(id) else {
            return self.refuse(404, "ResourceNotFoundException", "the snapshot does not exist");
        };
        let (life, blocks, gib) = (snapshot.life.clone(), snapshot.blocks(), snapshot.gib);
        if life != Life::Completed {
            return self.invalid("the snapshot is not completed");
        }
        if !query.get("maxResults").is_none_or(|most| (100..=10000).contains(&most.parse::<u32>().unwrap_or(0))) {
            return self.invalid("MaxResults has to be 100 to 10000");
        }
        // A token names the next block, and whether the page before it was an empty one.
        let token = query.get("pageToken").map(|token| BASE64.decode(token.as_bytes()).unwrap_or_default());
        let (from, is_empty) = match &token {
            Some(token) => (String::from_utf8_lossy(token).parse().unwrap_or(u32::MAX), false),
            None => (query.get("startingBlockIndex").map_or(Ok(0), |at| at.parse()).unwrap_or(u32::MAX), true),
        };
        let mut rest = blocks.keys().filter(|block| **block >= from);
        let most = if is_empty { 0 } else { PAGE };
        let page: Vec<Value> = rest
            .by_ref()
            .take(most)
            .map(|block| json!({"BlockIndex": block, "BlockToken": block_token(id, *block)}))
            .collect();
        let next = rest.next().map(|block| BASE64.encode(block.to_string().as_bytes()));
        let body = json!({"Blocks": page, "NextToken": next, "VolumeSize": gib, "BlockSize": BLOCK, "ExpiryTime": 1e9});
        Ok((200, vec![], body.to_string().into()))
    }

    fn get(&mut self, id: &str, block: &str, query: &HashMap<String, String>) -> Answered {
        let number = block.parse().unwrap_or(u32::MAX);
        let found = self.snapshots.get(id).filter(|snapshot| snapshot.life == Life::Completed);
        let Some(bytes) = found.and_then(|snapshot| snapshot.blocks().get(&number).cloned()) else {
            return self.refuse(404, "ResourceNotFoundException", "no such snapshot or block");
        };
        if query.get("blockToken") != Some(&block_token(id, number)) {
            return self.invalid("INVALID_BLOCK_TOKEN");
        }
        let headers = vec![
            ("x-amz-Data-Length", BLOCK.to_string()),
            ("x-amz-Checksum", BASE64.encode(&sum(&bytes))),
            ("x-amz-Checksum-Algorithm", "SHA256".into()),
        ];
        Ok((200, headers, bytes.to_vec()))
    }

    fn ec2(&mut self, words: &HashMap<String, String>) -> Answered {
        let word = |name: &str| words.get(name).cloned().unwrap_or_default();
        if word("Version") != "2016-11-15" {
            return self.refuse(400, "InvalidParameterValue", "Version");
        }
        match word("Action").as_str() {
            "DescribeSnapshots" => self.describe(words),
            "CreateTags" => {
                let id = word("ResourceId.1");
                let Some(snapshot) = self.snapshots.get_mut(&id) else {
                    return self.refuse(400, "InvalidSnapshot.NotFound", "no such snapshot");
                };
                for at in (1..).take_while(|at| words.contains_key(&format!("Tag.{at}.Key"))) {
                    snapshot.tags.insert(word(&format!("Tag.{at}.Key")), word(&format!("Tag.{at}.Value")));
                }
                Ok((200, vec![], b"<CreateTagsResponse><return>true</return></CreateTagsResponse>".to_vec()))
            }
            "DeleteSnapshot" => {
                let id = word("SnapshotId");
                if self.in_use.contains(&id) {
                    return self.refuse(400, "InvalidSnapshot.InUse", "an image needs it");
                }
                match self.snapshots.remove(&id) {
                    Some(_) => Ok((200, vec![], b"<DeleteSnapshotResponse/>".to_vec())),
                    None => self.refuse(400, "InvalidSnapshot.NotFound", "no such snapshot"),
                }
            }
            _ => self.refuse(400, "InvalidAction", "no such action"),
        }
    }

    fn describe(&mut self, words: &HashMap<String, String>) -> Answered {
        let most: usize = words.get("MaxResults").map_or(1000, |most| most.parse().unwrap_or(0));
        if !(5..=1000).contains(&most) || (words.contains_key("MaxResults") && words.contains_key("SnapshotId.1")) {
            return self.refuse(400, "InvalidParameterCombination", "MaxResults");
        }
        let by_id = words.get("SnapshotId.1");
        if by_id.is_some_and(|id| !self.snapshots.contains_key(id)) {
            return self.refuse(400, "InvalidSnapshot.NotFound", "no such snapshot");
        }
        let filters: Vec<(String, String)> = (1..)
            .map_while(|at| {
                Some((words.get(&format!("Filter.{at}.Name"))?, words.get(&format!("Filter.{at}.Value.1"))?))
            })
            .map(|(name, value)| (name.strip_prefix("tag:").unwrap_or("?").to_owned(), value.clone()))
            .collect();
        for (_, snapshot) in self.snapshots.iter_mut().filter(|(id, _)| by_id == Some(id)) {
            snapshot.life = match snapshot.life {
                Life::Completing(0) => Life::Completed,
                Life::Completing(left) => Life::Completing(left - 1),
                ref life => life.clone(),
            };
        }
        let fits = |snapshot: &Snapshot| filters.iter().all(|(name, value)| snapshot.tags.get(name) == Some(value));
        let after = words.get("NextToken");
        let mut found = self.snapshots.iter().filter(|(id, snapshot)| {
            by_id.is_none_or(|by| by == *id) && fits(snapshot) && after.is_none_or(|after| *id > after)
        });
        let mut items = String::new();
        let mut last = None;
        for (id, snapshot) in found.by_ref().take(PAGE) {
            let tag = |(key, value): (&String, &String)| format!("<item><key>{key}</key><value>{value}</value></item>");
            let tags: String = snapshot.tags.iter().map(tag).collect();
            let state = match snapshot.life {
                Life::Completed => "completed",
                Life::Error => "error",
                _ => "pending",
            };
            items +=
                &format!("<item><snapshotId>{id}</snapshotId><status>{state}</status><tagSet>{tags}</tagSet></item>");
            last = Some(id.clone());
        }
        let next = found.next().and(last).map(|id| format!("<nextToken>{id}</nextToken>")).unwrap_or_default();
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<DescribeSnapshotsResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><snapshotSet>{items}</snapshotSet>{next}</DescribeSnapshotsResponse>"
        );
        Ok((200, vec![], body.into_bytes()))
    }
}

impl Snapshot {
    fn blocks(&self) -> BTreeMap<u32, Arc<Vec<u8>>> {
        let mut blocks = self.inherited.clone();
        blocks.extend(self.put.iter().map(|(block, bytes)| (*block, bytes.clone())));
        blocks
    }
}

fn started(id: &str) -> Answered {
    Ok((201, vec![], json!({"SnapshotId": id, "Status": "pending", "BlockSize": BLOCK}).to_string().into()))
}

fn block_token(id: &str, block: u32) -> String {
    BASE64.encode(format!("{id}/{block}").as_bytes())
}
