use super::*;
use axum::body::Body;
use axum::http::Request;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tower::ServiceExt;

struct Running {
    address: SocketAddr,
    certificates: watch::Sender<Arc<ServerConfig>>,
    trusted: CertificateDer<'static>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<io::Result<()>>,
}

fn certificate() -> (Arc<ServerConfig>, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) =
        (made.cert.der().clone(), PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap());
    let config =
        ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
    (Arc::new(config), certificate)
}

fn router() -> Router {
    Router::new()
        .route("/", get(|language: Language| async move { language.name() }))
        .route(
            "/panic",
            get(|| async {
                if true {
                    panic!("a fault of a handler")
                }
            }),
        )
        .route("/kept", get(|| async { [(header::CACHE_CONTROL, "max-age=5")] }))
        .merge(assets(&[Asset::style()]))
        .merge(languages())
}

async fn start(tls: bool) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (config, trusted) = certificate();
    let (certificates, config) = watch::channel(config);
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move { drop(stopped.await) };
    let served = tokio::spawn(serve(listener, router(), tls.then_some(config), shutdown));
    Running { address, certificates, trusted, stop, served }
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

async fn ask_tls(address: SocketAddr, trusted: &CertificateDer<'static>) -> io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    Ok(ask(TlsConnector::from(Arc::new(client)).connect(name, tcp).await?, "/").await)
}

#[tokio::test]
async fn silent_clients_keep_nobody_out_and_a_stop_ends_them() {
    let running = start(true).await;
    let mut silent = Vec::new();
    // More than there are places for handshakes.
    for _ in 0..HANDSHAKES + 10 {
        silent.push(TcpStream::connect(running.address).await.unwrap());
    }
    let answer = ask_tls(running.address, &running.trusted).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("strict-transport-security: max-age="), "{answer}");
    running.stop.send(()).unwrap();
    running.served.await.unwrap().unwrap();
    let read = silent.last_mut().unwrap().read(&mut [0; 8]).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

#[tokio::test]
async fn a_certificate_is_replaced_while_it_is_served() {
    let running = start(true).await;
    assert!(ask_tls(running.address, &running.trusted).await.is_ok());
    let (config, trusted) = certificate();
    running.certificates.send(config).unwrap();
    assert!(ask_tls(running.address, &running.trusted).await.is_err(), "the old one is shown no more");
    assert!(ask_tls(running.address, &trusted).await.is_ok());
}

#[tokio::test]
async fn who_forgets_the_s_of_https_is_told() {
    let running = start(true).await;
    let answer = ask(TcpStream::connect(running.address).await.unwrap(), "/").await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("write https://"), "{answer}");
}

#[tokio::test]
async fn every_answer_has_the_headers_that_browsers_keep_to() {
    let running = start(false).await;
    for (path, status, kept) in [
        ("/", "200", "no-store"),
        ("/nowhere", "404", "no-store"),
        ("/panic", "500", "no-store"),
        ("/kept", "200", "max-age=5"),
        (Asset::style().path.as_str(), "200", asset::KEEP),
    ] {
        let answer = ask(TcpStream::connect(running.address).await.unwrap(), path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        assert!(answer.contains(&format!("cache-control: {kept}\r\n")), "{path}: {answer}");
        assert!(!answer.contains("strict-transport-security"), "nothing is promised on a plain connection");
        for (name, value) in HEADERS {
            assert!(answer.contains(&format!("{name}: {value}\r\n")), "{path}: {name} in {answer}");
        }
    }
}

#[tokio::test]
async fn a_language_is_chosen_and_the_way_back_leads_nowhere_else() {
    let get = |uri: String| async move {
        let request = Request::get(uri).header("accept-language", "zh-CN").body(Body::empty()).unwrap();
        let answer = router().oneshot(request).await.unwrap();
        let of = |name| answer.headers().get(name).map(|value: &HeaderValue| value.to_str().unwrap().to_owned());
        (answer.status(), of(header::LOCATION), of(header::SET_COOKIE))
    };
    let (status, location, cookie) = get(language_path(Language::English, "/volumes?a=1&b=%2e")).await;
    assert_eq!((status, location.as_deref()), (StatusCode::SEE_OTHER, Some("/volumes?a=1&b=%2e")));
    let cookie = cookie.unwrap();
    assert!(cookie.starts_with("sluice-language=en;"), "{cookie}");
    for elsewhere in ["//elsewhere.example/", "https://elsewhere.example/", "/\\elsewhere.example", "", "/a\r\nb: c"] {
        let (_, location, _) = get(language_path(Language::Chinese, elsewhere)).await;
        assert_eq!(location.as_deref(), Some("/"), "{elsewhere}");
    }
    assert_eq!(get("/language/tlh".into()).await.0, StatusCode::NOT_FOUND);

    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT_LANGUAGE, HeaderValue::from_static("zh"));
    assert_eq!(language(&headers), Language::Chinese);
    headers.insert(header::COOKIE, HeaderValue::from_static("sluice-language=en"));
    assert_eq!(language(&headers), Language::English);
}
