//! Our server, asked by the clients that others use.

use crate::support::*;
use nbd::server::Limits;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::path::Path;

fn image_at(folder: &Path) -> (std::path::PathBuf, Vec<u8>) {
    let path = folder.join("disk");
    let bytes = image(&path, 1);
    (path, bytes)
}

#[test]
fn qemu_img_copies_compares_and_maps_what_is_served() {
    if !has("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = image_at(folder.path());
    let server = Server::unix("disk", Raw::open(&path, true));
    let (uri, copy) = (server.uri("disk"), folder.path().join("copy"));
    run(
        "qemu-img",
        &["convert", "-n", "-f", "raw", "-O", "raw", &uri, {
            std::fs::File::create(&copy).unwrap().set_len(std::fs::metadata(&path).unwrap().len()).unwrap();
            copy.to_str().unwrap()
        }],
    );
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap(), "the copy differs");
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri, path.to_str().unwrap()]);
    let served = run("qemu-img", &["map", "--output=json", "-f", "raw", &uri]);
    let extents = served.matches("\"zero\": true").count();
    assert!(extents >= 3, "holes are told as such: {served}");
}

#[test]
fn nbdinfo_and_nbdcopy_see_the_holes_of_a_file() {
    if !has("nbdinfo") || !has("nbdcopy") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = image_at(folder.path());
    let server = Server::unix("disk", Raw::open(&path, false));
    let uri = server.uri("disk");
    let map = run("nbdinfo", &["--json", "--map", &uri]);
    assert!(map.replace(' ', "").contains("\"offset\":2097152,\"length\":3145728,\"type\":3"), "{map}");
    let about = run("nbdinfo", &["--json", &uri]);
    for said in
        ["\"can_multi_conn\": true", "\"can_fua\": true", "\"can_df\": true", "\"block_size_maximum\": 33554432"]
    {
        assert!(about.contains(said), "{said} is missing from {about}");
    }
    assert!(run("nbdinfo", &["--list", "--json", &uri]).contains("\"export-name\": \"disk\""));
    let copy = folder.path().join("copy");
    run("nbdcopy", &["--connections=4", "--requests=64", &uri, copy.to_str().unwrap()]);
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap(), "the copy differs");
    // And back, over what is another file's.
    let target = folder.path().join("target");
    std::fs::write(&target, Random(2).bytes(std::fs::metadata(&path).unwrap().len() as usize)).unwrap();
    let server = Server::unix("", Raw::open(&target, false));
    run("nbdcopy", &["--connections=4", path.to_str().unwrap(), &server.uri("")]);
    assert!(std::fs::read(&target).unwrap() == std::fs::read(&path).unwrap(), "what was written differs");
}

#[test]
fn qemu_io_writes_zeroes_discards_and_flushes() {
    if !has("qemu-io") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, mut bytes) = image_at(folder.path());
    let server = Server::unix("disk", Raw::open(&path, false));
    let commands = [
        "write -P 7 4096 8192",
        "write -f -P 9 65536 512",
        "write -z 1048576 65536",
        "write -z -u 1179648 65536",
        "discard 1310720 65536",
        "flush",
        "read -P 7 4096 8192",
        "read -P 0 1048576 65536",
        "read 0 4M",
    ];
    let mut arguments = vec!["-f", "raw"];
    let uri = server.uri("disk");
    commands.iter().for_each(|command| arguments.extend(["-c", command]));
    arguments.push(&uri);
    let said = run("qemu-io", &arguments);
    assert!(!said.contains("failed"), "{said}");
    bytes[4096..12288].fill(7);
    bytes[65536..66048].fill(9);
    for at in [1048576, 1179648, 1310720] {
        bytes[at..at + 65536].fill(0);
    }
    assert!(std::fs::read(&path).unwrap() == bytes, "the file holds something else");
    // The reads above asked for no pattern where there are many bytes, so here they are compared.
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri, path.to_str().unwrap()]);
}

#[test]
fn nbdkit_serves_on_what_it_reads_from_us() {
    if !has("nbdkit") || !has("nbdcopy") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = image_at(folder.path());
    let server = Server::unix("disk", Raw::open(&path, false));
    let from = format!("uri={}", server.uri("disk"));
    let between = Theirs::start("nbdkit", &["-f", "-U", "{}", "nbd", &from]).unwrap();
    let nbd::Address::Unix(socket) = between.address() else { unreachable!() };
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let copy = folder.path().join("copy");
    run("nbdcopy", &[&uri, copy.to_str().unwrap()]);
    assert!(std::fs::read(&copy).unwrap() == bytes, "the copy differs");
}

#[test]
fn nbd_client_lists_the_exports() {
    if !has("nbd-client") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = image_at(folder.path());
    let server = Server::start("first", Raw::open(&path, false), true, None, Limits::default());
    server.exports.put("second", Raw::open(&path, true));
    let listed = run("nbd-client", &["-l", "127.0.0.1", &server.port.to_string()]);
    assert!(listed.contains("first") && listed.contains("second"), "{listed}");
    server.exports.remove("second");
    assert!(!run("nbd-client", &["-l", "127.0.0.1", &server.port.to_string()]).contains("second"));
}

/// An authority, and what it issued to a server called localhost and to a client, as PEM files in `folder` under the names that QEMU and libnbd expect.
pub(crate) struct Certificates {
    pub(crate) authority: CertificateDer<'static>,
    pub(crate) server: nbd::tls::Identity,
    pub(crate) client: nbd::tls::Identity,
}

pub(crate) fn certificates(folder: &Path) -> Certificates {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::DigitalSignature];
    params.distinguished_name.push(rcgen::DnType::CommonName, "authority");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(folder.join("ca-cert.pem"), authority.pem()).unwrap();
    let issue = |name: &str, role: &str, usage| {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        std::fs::write(folder.join(format!("{role}-cert.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{role}-key.pem")), key.serialize_pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        (vec![certificate.der().clone()], key)
    };
    Certificates {
        authority: authority.der().clone(),
        server: issue("localhost", "server", rcgen::ExtendedKeyUsagePurpose::ServerAuth),
        client: issue("client", "client", rcgen::ExtendedKeyUsagePurpose::ClientAuth),
    }
}

#[test]
fn with_tls_required_nbdinfo_and_qemu_img_have_to_use_it_and_show_a_certificate() {
    if !has("nbdinfo") || !has("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = image_at(folder.path());
    let made = certificates(folder.path());
    let tls = nbd::tls::server(made.server, Some(&[made.authority])).unwrap();
    let server = Server::start("disk", Raw::open(&path, false), true, Some(tls), Limits::default());
    let (plain, folder) = (server.uri("disk"), folder.path().to_str().unwrap());
    let (good, said) = try_run("nbdinfo", &[&plain]);
    assert!(!good && !said.contains("8389120"), "it is told nothing of the export: {said}");
    let secure = plain.replace("nbd://", "nbds://") + "?tls-certificates=" + folder;
    assert!(run("nbdinfo", &[&secure]).contains("protocol: newstyle-fixed with TLS"));
    let credentials = format!("tls-creds-x509,id=tls,dir={folder},endpoint=client");
    let options = format!(
        "driver=raw,file.driver=nbd,file.host=localhost,file.port={},file.export=disk,file.tls-creds=tls",
        server.port
    );
    let copy = Path::new(folder).join("copy");
    run(
        "qemu-img",
        &["convert", "--object", &credentials, "--image-opts", &options, "-O", "raw", copy.to_str().unwrap()],
    );
    let copied = std::fs::read(&copy).unwrap();
    assert!(copied == std::fs::read(&path).unwrap(), "the copy differs");
    // Without a certificate: the authority alone lets nobody in.
    let stranger = tempfile::tempdir().unwrap();
    std::fs::copy(Path::new(folder).join("ca-cert.pem"), stranger.path().join("ca-cert.pem")).unwrap();
    let uri = plain.replace("nbd://", "nbds://") + "?tls-certificates=" + stranger.path().to_str().unwrap();
    assert!(!try_run("nbdinfo", &[&uri]).0, "whoever shows no certificate is refused");
}
