//! S3-compatible stores: SeaweedFS and Ceph's RADOS gateway, both real servers.

use crate::contract::{self, Kept, Until, Volume, fill, noise};
use crate::crashes::{at_every_step, options};
use crate::ebs::credentials;
use crate::faults::{Fault, Faults};
use dedupe::ByteOffset;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Mutex;
use targets::s3::{S3, S3Settings};
use targets::{Retry, Start, Target, TargetError, Work};

const PART: usize = 8 << 20;

/// A real store that `tests/services/up` started.
struct Store {
    /// `host:port`.
    host: String,
    access: String,
    secret: String,
    bucket: String,
    prefix: String,
    /// Has boto3.
    python: String,
    client: Mutex<Option<Client>>,
}

/// A process that lists what a store holds.
struct Client {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.process.stdin.take()); // which ends it
        self.process.wait().unwrap();
    }
}

impl Store {
    /// Each test and each of its runs has a prefix of its own in one bucket.
    fn of(service: &str, prefix: &str) -> Option<Store> {
        let get = |name| crate::service::value(service, name);
        let url = get("S3_ENDPOINT")?;
        let host = url.strip_prefix("http://").unwrap().to_owned();
        let (access, secret, bucket) = (get("S3_ACCESS_KEY")?, get("S3_SECRET_KEY")?, get("S3_BUCKET")?);
        let prefix = format!("{prefix}/{}", dedupe::RunId::random());
        let (python, client) = (get("S3_PYTHON")?, Mutex::default());
        Some(Store { host, access, secret, bucket, prefix, python, client })
    }

    fn open(&self, url: &str, attempts: u32) -> S3 {
        let dir = tempfile::tempdir().unwrap();
        let settings = S3Settings {
            bucket: self.bucket.clone(),
            prefix: self.prefix.clone(),
            endpoint: Some(url.to_owned()),
            region: None,
            part_mib: 8,
        };
        S3::new(settings, &credentials(dir.path(), &self.access, &self.secret), options(attempts)).unwrap()
    }

    fn direct(&self) -> S3 {
        self.open(&format!("http://{}", self.host), 5)
    }

    /// Keys and uploads under the prefix, by a client that is not ours.
    fn all(&self) -> Vec<String> {
        let mut client = self.client.lock().unwrap();
        let client = client.get_or_insert_with(|| self.start_client());
        writeln!(client.process.stdin.as_mut().unwrap(), "{}/", self.prefix).unwrap();
        let lines = client.lines.by_ref().map(|line| line.unwrap());
        lines.take_while(|line| !line.is_empty()).collect()
    }

    /// It answers each line, a prefix, with what lies below it and an empty line.
    fn start_client(&self) -> Client {
        let Store { host, access, secret, bucket, python, .. } = self;
        let script = format!(
            "import sys, boto3, botocore.config as c\n\
             s = boto3.client('s3', endpoint_url='http://{host}', aws_access_key_id='{access}', aws_secret_access_key='{secret}', \
             region_name='us-east-1', config=c.Config(s3={{'addressing_style': 'path'}}))\n\
             for prefix in sys.stdin:\n  \
             where = dict(Bucket='{bucket}', Prefix=prefix.strip())\n  \
             for o in s.list_objects_v2(**where).get('Contents', []): print(o['Key'])\n  \
             for u in s.list_multipart_uploads(**where).get('Uploads', []): print('upload of', u['Key'])\n  \
             print(flush=True)"
        );
        let mut process = std::process::Command::new(python)
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Client { process, lines }
    }
}

fn holds_the_contract(variable: &str, prefix: &str) {
    let Some(store) = Store::of(variable, prefix) else { return };
    contract::holds(&|| Box::new(store.direct()), 4 * PART + 54_321);
    assert_eq!(store.all(), [] as [&str; 0], "nothing is left behind");
}

#[test]
fn seaweedfs_fulfils_the_contract() {
    holds_the_contract("s3", "contract");
}

#[test]
fn cephs_rados_gateway_fulfils_the_contract() {
    holds_the_contract("ceph", "contract");
}

#[test]
fn an_upload_that_is_killed_at_any_step_goes_on_or_goes_away() {
    let Some(store) = Store::of("s3", "killed") else { return };
    let left = |volume: &Volume| -> Vec<String> {
        let points = store.direct().points(&volume.image).unwrap();
        let is_of_point =
            |key: &String| points.iter().any(|point| *key == point.id || *key == format!("{}.json", point.id));
        store.all().into_iter().filter(|key| !is_of_point(key)).collect()
    };
    // Bytes of three parts are much: in a short run every second step has to do.
    let every = if std::env::var_os("SLUICE_LONG").is_some() { 1 } else { 2 };
    at_every_step(&store.host, (PART, every), &|url, attempts| Box::new(store.open(url, attempts)), &left);
}

#[test]
fn only_parts_that_changed_go_over_the_line() {
    let Some(store) = Store::of("s3", "delta") else { return };
    let mut volume = Volume::new("data");
    // Parts: bytes, a hole, bytes, bytes, a short one.
    let mut bytes = noise(1, 4 * PART + 1000);
    bytes[PART..2 * PART].fill(0);
    let first = volume.generation(bytes.clone());
    let counted = Faults::before(&store.host);
    let (.., base) = fill(&store.open(&counted.url(), 1), &volume, &first, &Kept::default(), Until::Finished).unwrap();
    // The third becomes zeroes, the first changes; the volume grows by less than a part.
    bytes[7] ^= 1;
    bytes[2 * PART..3 * PART].fill(0);
    bytes.resize(4 * PART + 5000, 0);
    let second = Work { base: base.clone(), ..volume.generation(bytes) };
    let (start, written, point) = fill(&store.direct(), &volume, &second, &Kept::default(), Until::Finished).unwrap();
    assert_eq!((start, written), (Start::Holds(base.clone().unwrap()), 2), "one part with bytes, one of zeroes");
    let point = point.unwrap();
    let points = store.direct().points(&volume.image).unwrap();
    assert_eq!(points, [base.clone().unwrap(), point.clone()]);
    let keys = store.all();
    assert_eq!(keys.len(), 4, "two objects with what says what they are: {keys:?}");
    // The object is the volume's bytes and nothing else: whoever has the key can restore it without us.
    assert!(
        point.id.starts_with(&format!("{}/branch-07.data.", store.prefix))
            && point.id.ends_with(&format!("/2-{}.raw", second.generation))
    );
    // A base may go once another was made of it.
    store.direct().remove(&base.unwrap()).unwrap();
    let target = store.direct();
    let notes = Kept::default();
    let (start, filling) = target.prepare(&second, &notes).unwrap();
    assert_eq!(start, Start::Finished(point.clone()));
    let mut piece = vec![1; 5000];
    filling.read(ByteOffset(4 * PART as u64), &mut piece).unwrap();
    assert_eq!(piece, volume.bytes(second.generation)[4 * PART..]);
    drop(filling);
    store.direct().remove(&point).unwrap();
    assert_eq!(store.all(), [] as [&str; 0]);
}

#[test]
fn what_dead_runs_left_is_removed_by_the_next() {
    let Some(store) = Store::of("s3", "dead") else { return };
    let mut volume = Volume::new("data");
    // One dead in the middle of its upload, one after it put its object together; the notes of both are lost.
    let (first, second) = (volume.generation(noise(1, PART + 1)), volume.generation(noise(2, PART + 1)));
    fill(&store.direct(), &volume, &first, &Kept::default(), Until::Applied(1)).unwrap();
    let uploads = store.all();
    assert_eq!(uploads.len(), 1, "{uploads:?}");
    assert!(uploads[0].starts_with("upload of "), "{uploads:?}");
    fill(&store.direct(), &volume, &second, &Kept::default(), Until::Completed).unwrap();
    assert_eq!(store.all().len(), 1, "the upload of the dead is gone: {:?}", store.all());
    assert_eq!(store.direct().points(&volume.image).unwrap(), [], "an object without its word is no point");
    let third = volume.generation(noise(3, PART + 1));
    let (start, _, point) = fill(&store.direct(), &volume, &third, &Kept::default(), Until::Finished).unwrap();
    let point = point.unwrap();
    assert_eq!((start, store.all()), (Start::Zeroes, vec![point.id.clone(), format!("{}.json", point.id)]));
    store.direct().remove(&point).unwrap();
}

#[test]
fn a_bad_day_of_s3_is_survived_or_said() {
    let Some(store) = Store::of("s3", "bad-day") else { return };
    let mut volume = Volume::new("data");
    let first = volume.generation(noise(1, 2 * PART + 5));
    let faults = Faults::before(&store.host);
    for (method, path, fault) in [
        ("POST", "uploads=", Fault::Status(503, "Retry-After: 0\r\n")),
        ("PUT", "partNumber=1", Fault::Lost(10)),
        ("PUT", "partNumber=2", Fault::Status(500, "")),
        ("PUT", "partNumber=3", Fault::Cut),
        ("POST", "uploadId=", Fault::Lost(0)),
        ("GET", ".raw", Fault::Cut),
        ("PUT", ".json", Fault::Lost(0)),
    ] {
        faults.add(method, path, (0, 1), fault);
    }
    let target = store.open(&faults.url(), 6);
    let (.., point) = fill(&target, &volume, &first, &Kept::default(), Until::Finished).unwrap();
    assert_eq!(faults.done().len(), 7, "{:?}", faults.done());
    // A byte that is wrong on its way back is there for the engine's proof to find: `read` gives what came.
    let notes = Kept::default();
    let faults = Faults::before(&store.host);
    let target = store.open(&faults.url(), 2);
    let (_, filling) = target.prepare(&first, &notes).unwrap();
    faults.add("GET", ".raw", (0, 1), Fault::Corrupt);
    let mut piece = vec![0; 1000];
    filling.read(ByteOffset(0), &mut piece).unwrap();
    assert_ne!(piece, volume.bytes(first.generation)[..1000]);
    // An answer that is no range is refused.
    let behind = filling.read(ByteOffset(3 * PART as u64), &mut piece).unwrap_err();
    assert!(behind.to_string().contains("416"), "{behind}");
    drop(filling);
    let second = volume.generation(noise(2, PART));
    for (status, todo) in
        [(401, "put new ones"), (403, "lack this right"), (409, "something else"), (429, "--requests")]
    {
        let faults = Faults::before(&store.host);
        faults.add("PUT", "partNumber", (0, 100), Fault::Status(status, ""));
        let notes = Kept::default();
        let no = fill(&store.open(&faults.url(), 2), &volume, &second, &notes, Until::Finished).unwrap_err();
        assert!(no.to_string().starts_with("S3 refused `PUT /") && no.to_string().contains(todo), "{no}");
        assert_eq!(no.retry(), if status == 429 { Retry::Later } else { Retry::Never });
        store.direct().abandon(&second, &notes).unwrap();
    }
    store.direct().remove(&point.unwrap()).unwrap();
    assert_eq!(store.all(), [] as [&str; 0]);
}

#[test]
fn a_part_that_is_damaged_on_its_way_is_refused_by_the_store() {
    let Some(store) = Store::of("s3", "damaged") else { return };
    let mut volume = Volume::new("data");
    let work = volume.generation(noise(1, PART));
    let faults = Faults::before(&store.host);
    faults.add("PUT", "partNumber", (0, 1), Fault::Garble);
    let notes = Kept::default();
    let refused = fill(&store.open(&faults.url(), 2), &volume, &work, &notes, Until::Finished).unwrap_err();
    assert!(refused.to_string().contains("with 400: "), "{refused}");
    store.direct().abandon(&work, &notes).unwrap();
    assert_eq!(store.all(), [] as [&str; 0]);
}

#[test]
fn wrong_keys_are_said_by_the_description() {
    let Some(store) = Store::of("s3", "keys") else { return };
    let wrong = Store { secret: "wrong".into(), ..store };
    let checks = wrong.direct().describe().unwrap().checks;
    assert!(checks[0].wrong.as_ref().unwrap().contains("403"), "{checks:?}");
}

#[test]
fn a_volume_that_is_too_large_names_the_setting_and_settings_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let keys = credentials(dir.path(), "a", "b");
    let settings =
        |text: &str| -> Result<S3, TargetError> { S3::new(serde_json::from_str(text).unwrap(), &keys, options(1)) };
    let target = settings("{\"bucket\": \"b\", \"endpoint\": \"http://127.0.0.1:1\"}").unwrap();
    assert_eq!(target.shape().unit, 16 << 20);
    let mut volume = Volume::new("data");
    let mut work = volume.generation(vec![0; 10]);
    work.size = dedupe::ByteCount((10_000 << 24) + 1);
    let large = target.look(&work).unwrap_err().to_string();
    assert!(large.ends_with("more than 10000 parts of 16 MiB; set a larger `part_mib` on the target"), "{large}");
    for (text, why) in [
        ("{\"bucket\": \"a/b\"}", "is no bucket's name"),
        ("{\"bucket\": \"b\", \"prefix\": \"../c\"}", "is no prefix"),
        ("{\"bucket\": \"b\", \"prefix\": \"c/\"}", "is no prefix"),
        ("{\"bucket\": \"b\", \"part_mib\": 4}", "a power of two from 8 to 512"),
        ("{\"bucket\": \"b\", \"part_mib\": 20}", "a power of two from 8 to 512"),
    ] {
        let said = settings(text).unwrap_err().to_string();
        assert!(said.contains(why), "{text}: {said}");
    }
    assert!(serde_json::from_str::<S3Settings>("{\"bucket\": \"b\", \"buckett\": 1}").is_err());
}
