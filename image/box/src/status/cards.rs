//! The cards of this box and the links above them: what the kernel says.

use crate::files::words_of;
use crate::network::Mac;
use crate::run::Place;
use nix::ifaddrs::getifaddrs;
use std::fs;
use std::net::IpAddr;

/// More than any server has; a machine of tests may have thousands of links.
const MOST: usize = 64;

/// A card, or a bond or VLAN on cards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Card {
    pub(crate) name: String,
    /// The address that it was made with, also while it is in a bond.
    pub(crate) mac: String,
    pub(crate) has_link: bool,
    /// Whether it is a device, and not made of others.
    pub(crate) is_real: bool,
    pub(crate) addresses: Vec<(IpAddr, u8)>,
}

impl Card {
    /// Its address as a word of a network.
    pub(crate) fn mac(&self) -> Option<Mac> {
        self.mac.parse().ok()
    }
}

/// All of them, real ones first.
pub(crate) fn cards(place: &Place) -> Vec<Card> {
    let folder = place.path("/sys/class/net");
    let Ok(entries) = fs::read_dir(&folder) else { return Vec::new() };
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    let addresses = addresses();
    let mut cards: Vec<Card> = names.into_iter().filter_map(|name| card(place, name, &addresses)).take(MOST).collect();
    cards.sort_by_key(|card| !card.is_real);
    cards
}

fn card(place: &Place, name: String, addresses: &[(String, IpAddr, u8)]) -> Option<Card> {
    let folder = place.path("/sys/class/net").join(&name);
    let is_real = folder.join("device").exists();
    let is_made = ["bond", "vlan"].iter().any(|kind| name.starts_with(kind));
    if !is_real && !is_made {
        return None;
    }
    let own = words_of(&folder.join("bonding_slave/perm_hwaddr"), 64);
    Some(Card {
        mac: own.or_else(|| words_of(&folder.join("address"), 64)).unwrap_or_default(),
        has_link: words_of(&folder.join("carrier"), 8).as_deref() == Some("1"),
        is_real,
        addresses: addresses.iter().filter(|(of, ..)| *of == name).map(|&(_, ip, bits)| (ip, bits)).collect(),
        name,
    })
}

/// Addresses that others can use.
fn addresses() -> Vec<(String, IpAddr, u8)> {
    let Ok(all) = getifaddrs() else { return Vec::new() };
    all.filter_map(|found| {
        let (address, mask) = (ip(&found.address?)?, ip(&found.netmask?)?);
        let bits = match mask {
            IpAddr::V4(mask) => mask.to_bits().count_ones(),
            IpAddr::V6(mask) => mask.to_bits().count_ones(),
        };
        let is_local = match address {
            IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
        };
        (!is_local).then_some((found.interface_name, address, bits as u8))
    })
    .collect()
}

fn ip(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}
