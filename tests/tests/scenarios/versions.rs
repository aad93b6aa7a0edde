//! Edges of other versions: the one before works, one that nobody knows is refused with words.

use super::branch::{Branch, SITE};
use anyhow::{Context, Result, ensure};
use sluice_edge::identity::Identity;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use wire::clock::{KnownTime, machine_time};
use wire::message::{FromEdge, FromGateway, Hello};
use wire::stream::{self, Ended, Purpose, ended};
use wire::tls::{self, EdgeIdentity};
use wire::version::Version;

/// Connects to the branch's gateway as its edge, speaking these protocol names only.
async fn dial(branch: &Branch, alpn: &[&[u8]]) -> Result<quinn::Connection, Ended> {
    let identity = Identity::load(&branch.edge.state()).expect("the edge is enrolled");
    let credentials = identity.credentials();
    let key = std::fs::read_to_string(branch.edge.state().join("identity.key")).expect("the edge has a key");
    let key = wire::identity::Key::from_pem(&key).expect("it is one");
    let shown =
        EdgeIdentity { key: &key, certificate: &credentials.certificate, authorities: &credentials.authorities };
    let time = Arc::new(KnownTime::new(machine_time()));
    let names = alpn.iter().map(|name| name.to_vec()).collect();
    let config = tls::edge_with_alpn(&shown, names, time).expect("its certificates are good");
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let endpoint = quinn::Endpoint::client(any).expect("a socket of the loopback");
    let connecting =
        endpoint.connect_with(config, branch.gateway.address(), tls::server_name()).expect("it is an address");
    connecting.await.map_err(|error| ended(&error))
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}

#[test]
fn an_edge_of_the_version_before_is_welcome() -> Result<()> {
    let mut branch = Branch::seeded()?;
    branch.edge.stop()?;
    runtime()?.block_on(async {
        let connection = dial(&branch, &[Version::V1.alpn()]).await?;
        let (mut say, mut hear) = stream::open(&connection, Purpose::Control).await?;
        let hello = Hello { software: "0.0.9".into(), instance: 9, now: machine_time() };
        say.send(&FromEdge::Hello(hello)).await?;
        let answer: FromGateway = hear.expect().await?;
        ensure!(matches!(answer, FromGateway::Welcome(_)), "{answer:?}");
        Ok(())
    })
}

#[test]
fn an_edge_of_an_unknown_version_is_refused_with_words() -> Result<()> {
    let branch = Branch::seeded()?;
    let refused = runtime()?.block_on(dial(&branch, &[b"sluice/9"])).err().context("nobody speaks that")?;
    ensure!(matches!(refused, Ended::NoCommonVersion), "{refused}");
    ensure!(refused.to_string().contains("version"), "{refused}");
    ensure!(branch.gateway.run("sites", &[])?.contains(SITE), "the gateway goes on");
    Ok(())
}
