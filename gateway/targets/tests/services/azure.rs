//! Page blobs against the vendor's emulator (Azurite).

use crate::contract::{self, Kept, Until, Volume, fill, noise};
use crate::faults::{Fault, Faults};
use crate::service;
use dedupe::ByteOffset;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use targets::azure::{Azure, AzureSettings};
use targets::http::{Options, Patience};
use targets::{Credentials, Point, Retry, Start, Target, TargetError, Work};
use ureq::http::Request;

/// The emulator, seen past the target: with a token, by plain requests.
struct Azurite {
    env: service::Env,
    endpoint: String,
    prefix: String,
}

/// `None` where it does not run: then the test is skipped.
fn azurite(test: &str) -> Option<Azurite> {
    let env = service::find("azurite")?;
    let connection = env.get("AZURE_STORAGE_CONNECTION_STRING");
    let endpoint = connection.split(';').find_map(|pair| pair.strip_prefix("BlobEndpoint=")).unwrap().to_owned();
    // Blobs outlive a test that fails; no two runs of it share any.
    Some(Azurite { env, endpoint, prefix: format!("{test}-{}/", dedupe::RunId::random()) })
}

impl Azurite {
    fn settings(&self) -> AzureSettings {
        let container = self.env.get("SLUICE_CONTAINER");
        AzureSettings { container, account: None, prefix: self.prefix.clone(), endpoint: None }
    }

    fn target(&self) -> Azure {
        Azure::new(&self.settings(), &Credentials::File(self.env.path.clone()), &Options::default()).unwrap()
    }

    /// The target behind a proxy, which asks so often.
    fn behind(&self, faults: &Faults, attempts: u32) -> Azure {
        let patience = Patience {
            attempts,
            first: Duration::from_millis(1),
            longest: Duration::from_millis(5),
            answer: Duration::from_secs(5),
            ..Patience::default()
        };
        let settings =
            AzureSettings { endpoint: Some(format!("{}/devstoreaccount1", faults.url())), ..self.settings() };
        let options = Options { patience, ..Options::default() };
        Azure::new(&settings, &Credentials::File(self.env.path.clone()), &options).unwrap()
    }

    fn proxy(&self) -> Faults {
        Faults::before(self.endpoint.strip_prefix("http://").unwrap().split('/').next().unwrap())
    }

    /// A plain request with the token. Answers status and body.
    fn ask(&self, method: &str, name: &str, query: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, Vec<u8>) {
        let (container, token) = (self.env.get("SLUICE_CONTAINER"), self.env.get("SLUICE_SAS"));
        let url = format!("{}/{container}{name}?{query}&{token}", self.endpoint);
        let request = Request::builder().method(method).uri(url).header("x-ms-version", "2019-07-07");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let mut reply = agent.run(request.body(body.to_vec()).unwrap()).unwrap();
        (reply.status().as_u16(), reply.body_mut().read_to_vec().unwrap())
    }

    fn blob(&self, target: &Azure, volume: &Volume) -> String {
        format!("/{}", target.name_of(&volume.image))
    }

    /// The bytes of a point, footer and all.
    fn download(&self, point: &Point) -> Vec<u8> {
        let (_, snapshot) = point.id.split_once("?snapshot=").unwrap();
        let name = point.id.split_once("/sluice/").unwrap().1.split_once('?').unwrap().0;
        let (status, bytes) = self.ask("GET", &format!("/{name}"), &format!("snapshot={snapshot}"), &[], &[]);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&bytes));
        bytes
    }

    /// What there is under the test's prefix.
    fn left(&self) -> usize {
        let query = format!("restype=container&comp=list&include=snapshots&prefix={}", self.prefix);
        let (status, list) = self.ask("GET", "", &query, &[], &[]);
        assert_eq!(status, 200);
        String::from_utf8(list).unwrap().matches("<Blob>").count()
    }
}

fn check(point: &Point, vhd: &[u8], volume: &Volume) {
    let bytes = volume.bytes(point.generation);
    assert!(vhd[..bytes.len()] == *bytes, "the point holds its generation");
    assert!(vhd[bytes.len()..vhd.len() - 512].iter().all(|byte| *byte == 0), "and zeroes behind it");
}

#[test]
fn page_blobs_fulfil_the_contract() {
    let Some(azurite) = azurite("contract") else { return };
    contract::holds(&|| Box::new(azurite.target()), 3 << 20);
    assert_eq!(azurite.left(), 0, "nothing is left behind");
}

#[test]
fn a_token_is_as_good_as_the_key_and_a_wrong_one_is_named_and_not_shown() {
    let Some(azurite) = azurite("token") else { return };
    let dir = tempfile::tempdir().unwrap();
    let with = |lines: String| {
        let credentials = service::private(dir.path(), &lines);
        let settings = AzureSettings { endpoint: Some(azurite.endpoint.clone()), ..azurite.settings() };
        Azure::new(&settings, &Credentials::File(credentials), &Options::default()).unwrap()
    };
    let account = "AZURE_STORAGE_ACCOUNT=devstoreaccount1\n";
    let token = format!("{account}AZURE_STORAGE_SAS_TOKEN='{}'\n", azurite.env.get("SLUICE_SAS"));
    let mut volume = Volume::new("data");
    let work = volume.generation(noise(1, 1 << 20));
    let (_, _, point) = fill(&with(token.clone()), &volume, &work, &Kept::default(), Until::Finished).unwrap();
    let point = point.unwrap();
    check(&point, &azurite.download(&point), &volume);
    assert!(!point.id.contains("sig="), "{}", point.id);

    let forged = token.replace("&sp=rwdlc", "&sp=rl");
    for (lines, secret) in [(forged, "sig="), (format!("{account}AZURE_STORAGE_KEY=c2x1aWNl\n"), "c2x1")] {
        let target = with(lines);
        let wrong = target.points(&volume.image).unwrap_err();
        assert!(wrong.is_credentials() && wrong.retry() == Retry::Never, "{wrong}");
        let checks = target.describe().unwrap().checks;
        let said = checks[0].wrong.clone().unwrap();
        assert!(said.contains("refused `GET /devstoreaccount1/sluice` with 403"), "{said}");
        assert!(![said, format!("{target:?} {wrong:?}")].iter().any(|text| text.contains(secret)), "{target:?}");
    }
}

#[test]
fn each_point_is_a_fixed_vhd_that_qemu_reads_whatever_the_volumes_size_becomes() {
    let Some(azurite) = azurite("vhd") else { return };
    let dir = tempfile::tempdir().unwrap();
    let target = azurite.target();
    let mut volume = Volume::new("data");
    let mut base: Option<Point> = None;
    // Whole MiB, grown within and over a MiB by odd bytes, shrunk into what was full before, grown again.
    for (seed, size) in
        [2 << 20, (2 << 20) + 1000, (5 << 20) + 7, (1 << 20) + 5, (3 << 20) + 4096].into_iter().enumerate()
    {
        let mut bytes: Vec<u8> = noise(seed as u64, size).into_iter().map(|byte| byte | 1).collect();
        for mib in 1..=size >> 20 {
            let end = size.min((mib << 20) + 4096);
            bytes[mib << 20..end].fill(0); // where the footer of a smaller disk was
        }
        let work = Work { base: base.clone(), ..volume.generation(bytes) };
        let (start, _, point) = fill(&target, &volume, &work, &Kept::default(), Until::Finished).unwrap();
        assert_eq!(start, base.map_or(Start::Zeroes, Start::Holds));
        base = point;
    }
    let points = target.points(&volume.image).unwrap();
    assert_eq!(points.len(), 5);
    for point in points {
        let vhd = azurite.download(&point);
        check(&point, &vhd, &volume);
        qemu_reads(dir.path(), &vhd, volume.bytes(point.generation));
    }
}

fn qemu_reads(dir: &Path, vhd: &[u8], volume: &[u8]) {
    let (disk, raw) = (dir.join("disk.vhd"), dir.join("raw"));
    std::fs::write(&disk, vhd).unwrap();
    let mut padded = volume.to_vec();
    padded.resize(volume.len().next_multiple_of(1 << 20), 0);
    std::fs::write(&raw, &padded).unwrap();
    let info = Command::new("qemu-img").args(["info", "--output=json", "-f", "vpc"]).arg(&disk).output();
    let Ok(info) = info else { return println!("skipped: qemu-img is not installed") };
    let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!(info["virtual-size"], padded.len());
    let compare =
        Command::new("qemu-img").args(["compare", "-f", "vpc", "-F", "raw"]).args([&disk, &raw]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&compare.stdout), "Images are identical.\n");
    assert_eq!(vhd.len(), padded.len() + 512, "a managed disk is made of a fixed VHD only");
}

fn remove_all(target: &Azure, volume: &Volume) {
    target.points(&volume.image).unwrap().iter().for_each(|point| target.remove(point).unwrap());
}

/// How a run is cut off at one of its requests.
const CUTS: [Fault; 2] = [Fault::Cut, Fault::Lost(0)];

/// A volume with a first point, and the run that makes the second.
fn second(azurite: &Azurite, with_first: bool) -> (Volume, Work, usize) {
    let mut volume = Volume::new("data");
    let first = volume.generation(noise(1, 32 << 10));
    let mut work = first.clone();
    let mut points = 0;
    if with_first {
        let (_, _, point) = fill(&azurite.target(), &volume, &first, &Kept::default(), Until::Finished).unwrap();
        let mut bytes = volume.bytes(first.generation).to_vec();
        bytes[5000..5010].fill(7);
        bytes[20_000..20_010].fill(7);
        bytes.resize((1 << 20) + 4096, 0); // into the next MiB: the footer moves
        work = Work { base: point, ..volume.generation(bytes) };
        points = 1;
    }
    (volume, work, points)
}

#[test]
fn a_run_that_is_killed_at_any_request_goes_on_and_makes_one_point() {
    let Some(azurite) = azurite("killed") else { return };
    for (with_first, fault) in [(true, &CUTS[0]), (true, &CUTS[1]), (false, &CUTS[0]), (false, &CUTS[1])] {
        for request in 0.. {
            let (volume, work, before) = second(&azurite, with_first);
            let (faults, notes) = (azurite.proxy(), Kept::default());
            faults.add("", "", (request, 1), fault.clone());
            let killed = fill(&azurite.behind(&faults, 1), &volume, &work, &notes, Until::Finished);
            if faults.done().is_empty() {
                assert!(killed.is_ok() && request > 10, "{killed:?} after {request} requests");
                remove_all(&azurite.target(), &volume);
                break; // there are no more requests in a run
            }
            // What a killed run left is no point, unless its very last step was done.
            for point in azurite.target().points(&volume.image).unwrap() {
                check(&point, &azurite.download(&point), &volume);
            }
            let (_, _, point) = fill(&azurite.target(), &volume, &work, &notes, Until::Finished).unwrap();
            let point = point.unwrap();
            check(&point, &azurite.download(&point), &volume);
            let points = azurite.target().points(&volume.image).unwrap();
            assert_eq!(points.len(), before + 1, "request {request}, {fault:?}: {points:?}");
            remove_all(&azurite.target(), &volume);
            assert_eq!(azurite.left(), 0, "request {request}, {fault:?}");
        }
    }
}

#[test]
fn a_run_that_is_killed_at_any_request_can_be_given_up_and_the_next_one_is_right() {
    let Some(azurite) = azurite("given-up") else { return };
    for (with_first, fault) in [(true, &CUTS[0]), (true, &CUTS[1]), (false, &CUTS[0]), (false, &CUTS[1])] {
        for request in 0.. {
            let (mut volume, work, before) = second(&azurite, with_first);
            let (faults, notes) = (azurite.proxy(), Kept::default());
            faults.add("", "", (request, 1), fault.clone());
            let killed = fill(&azurite.behind(&faults, 1), &volume, &work, &notes, Until::Finished);
            if faults.done().is_empty() {
                remove_all(&azurite.target(), &volume);
                break;
            }
            let is_point = |point: &Point| point.generation == work.generation;
            let finished = azurite.target().points(&volume.image).unwrap().iter().any(is_point);
            azurite.target().abandon(&work, &notes).unwrap();
            azurite.target().abandon(&work, &notes).unwrap();
            let points = azurite.target().points(&volume.image).unwrap();
            assert_eq!(points.len(), before + usize::from(finished), "request {request}, {fault:?}, {killed:?}");
            if points.is_empty() {
                assert_eq!(azurite.left(), 0, "request {request}, {fault:?}");
            }
            let next = volume.generation(noise(3, 40 << 10));
            let (_, _, point) = fill(&azurite.target(), &volume, &next, &Kept::default(), Until::Finished).unwrap();
            let point = point.unwrap();
            check(&point, &azurite.download(&point), &volume);
            remove_all(&azurite.target(), &volume);
            assert_eq!(azurite.left(), 0, "request {request}, {fault:?}");
        }
    }
}

#[test]
fn finishing_again_after_a_lost_answer_makes_the_same_point() {
    let Some(azurite) = azurite("again") else { return };
    let (mut volume, work, _) = second(&azurite, false);
    let (faults, notes) = (azurite.proxy(), Kept::default());
    let target = azurite.behind(&faults, 1);
    fill(&target, &volume, &work, &notes, Until::Completed).unwrap();
    let (_, filling) = target.prepare(&work, &notes).unwrap();
    filling.complete().unwrap();
    faults.add("GET", "comp=list", (1, 1), Fault::Cut); // the look after the snapshot
    filling.finish(work.captured).unwrap_err();
    let point = filling.finish(work.captured).unwrap();
    let next = volume.generation(noise(2, 32 << 10));
    assert_eq!(target.look(&next).unwrap(), Start::Holds(point));
    remove_all(&azurite.target(), &volume);
    assert_eq!(azurite.left(), 0);
}

#[test]
fn what_passes_is_asked_again_and_makes_nothing_twice() {
    let Some(azurite) = azurite("passing") else { return };
    let faults = azurite.proxy();
    let ill = [
        Fault::Status(429, "Retry-After: 0\r\n"),
        Fault::Status(503, ""),
        Fault::Status(500, ""),
        Fault::Cut,
        Fault::Lost(0),
        Fault::Lost(40),
        Fault::Slow(Duration::from_secs(6)),
    ];
    let kinds = ["comp=list", "comp=lease", "comp=metadata", "comp=page", "comp=snapshot", "comp=properties", ".vhd"];
    for (at, fault) in ill.into_iter().enumerate() {
        let (volume, work, _) = second(&azurite, true);
        for kind in if at < 6 { &kinds[..] } else { &kinds[4..5] } {
            faults.add("", kind, (0, 1), fault.clone());
        }
        let target = azurite.behind(&faults, 4);
        let (_, _, point) = fill(&target, &volume, &work, &Kept::default(), Until::Finished).unwrap();
        let point = Point {
            id: point.unwrap().id.replace(&faults.url(), azurite.endpoint.split("/dev").next().unwrap()),
            ..work.point(String::new(), work.captured)
        };
        check(&point, &azurite.download(&point), &volume);
        let points = azurite.target().points(&volume.image).unwrap();
        assert_eq!(points.len(), 2, "{fault:?}");
        assert_eq!(azurite.left(), 3, "{fault:?}: the blob and its two snapshots");
        points.iter().for_each(|point| azurite.target().remove(point).unwrap());
    }
    assert!(faults.done().len() >= 6 * kinds.len() - 2, "{:?}", faults.done());
    assert_eq!(azurite.left(), 0, "no second snapshot is left");
}

#[test]
fn a_service_that_says_no_is_asked_once_and_says_what_to_do() {
    let Some(azurite) = azurite("no") else { return };
    let (volume, work, _) = second(&azurite, true);
    let no = [
        (401, "the credentials are wrong or expired"),
        (403, "lack this right"),
        (409, "something else is working on it there"),
        (412, "taken over by somebody else while it was filled; look who writes it"),
    ];
    for (status, next) in no {
        let faults = azurite.proxy();
        faults.add("PUT", "comp=page", (0, 1), Fault::Status(status, ""));
        let refused = fill(&azurite.behind(&faults, 4), &volume, &work, &Kept::default(), Until::Finished).unwrap_err();
        assert_eq!((faults.done().len(), refused.retry()), (1, Retry::Never), "{refused}");
        assert!(refused.to_string().contains(next), "{refused}");
        assert_eq!(refused.is_credentials(), matches!(status, 401 | 403));
    }
}

#[test]
fn two_runs_do_not_fill_one_blob_and_who_lost_its_lease_stops() {
    let Some(azurite) = azurite("lease") else { return };
    let target = azurite.target();
    let mut volume = Volume::new("data");
    let (first, second) = (volume.generation(noise(1, 1 << 20)), volume.generation(noise(2, 1 << 20)));
    let (notes, others) = (Kept::default(), Kept::default());
    let (_, filling) = target.prepare(&first, &notes).unwrap();
    filling.apply(ByteOffset(0), &volume.bytes(first.generation)[..4096]).unwrap();
    let busy = target.prepare(&second, &others).err().unwrap();
    assert!(matches!(busy, TargetError::Busy(_)) && busy.retry() == Retry::Later, "{busy}");
    // The first one's process is long dead: its lease ends by itself after a minute. The test does not wait for that.
    let blob = azurite.blob(&target, &volume);
    let broken = [("x-ms-lease-action", "break"), ("x-ms-lease-break-period", "0")];
    assert_eq!(azurite.ask("PUT", &blob, "comp=lease", &broken, &[]).0, 202);
    let (start, taken) = target.prepare(&second, &others).unwrap();
    assert_eq!(start, Start::Between { base: None, others: vec![first.generation] });
    // It was not dead.
    let lost = filling.apply(ByteOffset(0), &[1; 4096]).unwrap_err();
    assert!(matches!(lost, TargetError::Conflict(_)), "{lost}");
    drop((filling, taken));
    let (start, _, point) = fill(&target, &volume, &second, &others, Until::Finished).unwrap();
    assert_eq!(start, Start::Resumed);
    let point = point.unwrap();
    check(&point, &azurite.download(&point), &volume);
    target.remove(&point).unwrap();
}

#[test]
fn a_blob_that_somebody_touched_or_that_is_none_of_ours_is_not_believed() {
    let Some(azurite) = azurite("touched") else { return };
    let target = azurite.target();
    let (volume, work, _) = second(&azurite, true);
    let blob = azurite.blob(&target, &volume);
    let page = [("x-ms-page-write", "update"), ("x-ms-range", "bytes=1024-1535")];
    assert_eq!(azurite.ask("PUT", &blob, "comp=page", &page, &[9; 512]).0, 201);
    let Start::Unknown(why) = target.look(&work).unwrap() else { panic!("it is taken for true") };
    assert_eq!(why, "the blob was touched since it was last written");
    let (start, _, point) = fill(&target, &volume, &work, &Kept::default(), Until::Finished).unwrap();
    assert_eq!(start, Start::Zeroes, "it is emptied");
    let point = point.unwrap();
    check(&point, &azurite.download(&point), &volume);

    let mut other = Volume::new("other");
    let work = other.generation(noise(2, 1 << 20));
    let blob = azurite.blob(&target, &other);
    let foreign = [("x-ms-blob-type", "PageBlob"), ("x-ms-blob-content-length", "1024")];
    assert_eq!(azurite.ask("PUT", &blob, "", &foreign, &[]).0, 201);
    let refused = fill(&target, &other, &work, &Kept::default(), Until::Finished).unwrap_err().to_string();
    assert!(refused.contains("nothing says that it is ours; remove or rename it"), "{refused}");
    target.abandon(&work, &Kept::default()).unwrap();
    assert_eq!(azurite.ask("HEAD", &blob, "", &[], &[]).0, 200, "it is left alone");
}

#[test]
fn a_point_in_the_middle_is_removed_and_the_newest_and_the_next_run_is_right() {
    let Some(azurite) = azurite("middle") else { return };
    let target = azurite.target();
    let mut volume = Volume::new("data");
    for seed in 0..4 {
        let work = volume.generation(noise(seed, 1 << 20));
        fill(&target, &volume, &work, &Kept::default(), Until::Finished).unwrap();
    }
    let points = target.points(&volume.image).unwrap();
    target.remove(&points[1]).unwrap();
    target.remove(&points[3]).unwrap();
    let left = target.points(&volume.image).unwrap();
    assert_eq!(left, [points[0].clone(), points[2].clone()]);
    let work = volume.generation(noise(9, 1 << 20));
    let (start, _, point) = fill(&target, &volume, &work, &Kept::default(), Until::Finished).unwrap();
    let others = vec![points[3].generation];
    assert_eq!(start, Start::Between { base: Some(points[2].clone()), others });
    for point in left.into_iter().chain(point) {
        check(&point, &azurite.download(&point), &volume);
        target.remove(&point).unwrap();
    }
    assert_eq!(azurite.left(), 0);
}

#[test]
fn zeroes_take_no_room_and_need_not_be_read() {
    let Some(azurite) = azurite("holes") else { return };
    let target = azurite.target();
    let mut volume = Volume::new("data");
    let mut bytes = vec![0; 8 << 20];
    bytes[1 << 20..][..4096].fill(1);
    let work = volume.generation(bytes);
    let notes = Kept::default();
    let (_, filling) = target.prepare(&work, &notes).unwrap();
    filling.apply(ByteOffset(1 << 20), &[1; 4096]).unwrap();
    filling.apply(ByteOffset(2 << 20), &[1; 4096]).unwrap();
    assert!(!filling.is_hole(2 << 20..3 << 20) && filling.is_hole(3 << 20..4 << 20));
    filling.apply(ByteOffset(3 << 20), &[1; 4096]).unwrap();
    assert!(!filling.is_hole(3 << 20..4 << 20), "what was asked before does not hold any more");
    filling.zero(3 << 20..(3 << 20) + 4096).unwrap();
    filling.zero(2 << 20..3 << 20).unwrap();
    filling.complete().unwrap();
    let holes: Vec<bool> = (0..8).map(|mib| filling.is_hole(mib << 20..(mib + 1) << 20)).collect();
    assert_eq!(holes, [true, false, true, true, true, true, true, true]);
    filling.finish(work.captured).unwrap();
    target.points(&volume.image).unwrap().iter().for_each(|point| target.remove(point).unwrap());
}

#[test]
fn a_person_is_told_how_a_disk_is_made_of_a_point() {
    let settings = r#"{"container": "disks", "prefix": "dr/"}"#;
    let settings: AzureSettings = serde_json::from_str(settings).unwrap();
    assert!(serde_json::from_str::<AzureSettings>(r#"{"container": "disks", "key": "secret"}"#).is_err());
    let dir = tempfile::tempdir().unwrap();
    let path = service::private(dir.path(), "AZURE_STORAGE_ACCOUNT=bank1\nAZURE_STORAGE_KEY=c2x1aWNl\n");
    let target = Azure::new(&settings, &Credentials::File(path), &Options::default()).unwrap();
    let mut volume = Volume::new("data");
    let work = volume.generation(vec![0; 4096]);
    let point = work.point(
        format!("https://bank1.blob.core.windows.net/disks/{}?snapshot=T", target.name_of(&volume.image)),
        work.captured,
    );
    let steps = target.next_steps(&point);
    let disk = format!("sluice-1-{}", &work.generation.to_string()[..8]);
    assert_eq!(
        steps[0],
        format!(
            "az storage blob copy start --destination-blob dr/disks/{disk}.vhd --destination-container disks --account-name bank1 --source-uri '{}'",
            point.id
        )
    );
    assert!(steps[1].starts_with(&format!("az disk create --resource-group GROUP --name {disk} --source 'https://bank1.blob.core.windows.net/disks/dr/disks/{disk}.vhd'")));
    let foreign =
        target.remove(&Point { id: "https://bank2.example/x?snapshot=T".into(), ..point }).unwrap_err().to_string();
    assert!(
        foreign.contains("is no snapshot in https://bank1.blob.core.windows.net/disks; name the target that has it"),
        "{foreign}"
    );
}
