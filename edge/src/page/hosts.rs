//! By which names a browser may ask for the page. A page elsewhere whose name is made to lead here (DNS rebinding) asks by its own, and gets nothing.

use std::net::IpAddr;

/// Whether a `Host` header names this box: an IP address, `localhost`, or one of the names of the configuration.
pub(crate) fn is_ours(host: &str, names: &[String]) -> bool {
    let Some(name) = name_of(host) else { return false };
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Whether a form comes from a page of this box: its `Origin`, where the browser sends one, is the host that it asks.
pub(crate) fn is_same_origin(origin: Option<&str>, host: &str) -> bool {
    match origin {
        None => true,
        Some(origin) => origin.split_once("://").is_some_and(|(_, from)| from.eq_ignore_ascii_case(host)),
    }
}

/// The host without its port.
fn name_of(host: &str) -> Option<&str> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => host.find(':').map_or((host, ""), |at| host.split_at(at)),
    };
    let is_port = |port: &str| port.is_empty() || port[1..].bytes().all(|byte| byte.is_ascii_digit());
    ((port.is_empty() || port.starts_with(':')) && is_port(port) && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_answered() {
        let names = ["box.branch.example".to_owned()];
        for ours in [
            "127.0.0.1",
            "127.0.0.1:9472",
            "[::1]:9472",
            "192.0.2.7",
            "localhost:9472",
            "LOCALHOST",
            "Box.branch.example:443",
        ] {
            assert!(is_ours(ours, &names), "{ours}");
        }
        for other in [
            "",
            "elsewhere.example",
            "127.0.0.1.elsewhere.example",
            "localhost.elsewhere.example",
            "[::1",
            "127.0.0.1:x",
            "[::1]x",
            ":80",
            "a:b:c",
        ] {
            assert!(!is_ours(other, &names), "{other}");
        }
        assert!(
            is_same_origin(None, "127.0.0.1:9472") && is_same_origin(Some("http://127.0.0.1:9472"), "127.0.0.1:9472")
        );
        for other in ["null", "http://elsewhere.example", "http://127.0.0.1:9473", ""] {
            assert!(!is_same_origin(Some(other), "127.0.0.1:9472"), "{other}");
        }
    }
}
