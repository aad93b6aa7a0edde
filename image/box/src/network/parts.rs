//! The words of which a network is made. What does not parse is refused with an example of what does.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// Why a word is none of these.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PartError {
    #[error("a card is a MAC address as in 52:54:00:12:34:56")]
    Mac,
    #[error("a VLAN is a number from 1 to 4094")]
    Vlan,
    #[error("an address has its network's length behind it, as in 192.0.2.7/24 (or 192.0.2.7/255.255.255.0)")]
    Prefix,
    #[error("{0} names a whole network, not one box in it: the last number is another one")]
    NetworkItself(Prefix),
    #[error("{0} cannot be the address of a box")]
    NoHost(IpAddr),
    #[error("this is an address as in 192.0.2.1")]
    Ip,
    #[error("a time server is an address or a name, as in 192.0.2.123 or ntp.example.com")]
    TimeServer,
    #[error("the mode of a bond is active-backup or 802.3ad")]
    BondMode,
}

/// The address that a card was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mac([u8; 6]);

impl FromStr for Mac {
    type Err = PartError;

    fn from_str(text: &str) -> Result<Mac, PartError> {
        let mut mac = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut mac {
            let part =
                parts.next().filter(|part| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit()));
            *byte = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or(PartError::Mac)?;
        }
        if parts.next().is_some() { Err(PartError::Mac) } else { Ok(Mac(mac)) }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A tag of IEEE 802.1Q. 0 and 4095 are reserved there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct VlanId(u16);

impl VlanId {
    pub(crate) fn of(number: i64) -> Result<VlanId, PartError> {
        u16::try_from(number).ok().filter(|number| (1..=4094).contains(number)).map(VlanId).ok_or(PartError::Vlan)
    }
}

impl FromStr for VlanId {
    type Err = PartError;

    fn from_str(text: &str) -> Result<VlanId, PartError> {
        VlanId::of(text.parse().map_err(|_| PartError::Vlan)?)
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An address of one box, and how many of its first bits name the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    address: IpAddr,
    bits: u8,
}

impl Prefix {
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether `other` is in the same network. Routers of IPv6 are reached by link-local addresses as well.
    pub(crate) fn holds(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(_), IpAddr::V4(_)) => self.network(other) == self.network(self.address),
            (IpAddr::V6(_), IpAddr::V6(v6)) => {
                v6.is_unicast_link_local() || self.network(other) == self.network(self.address)
            }
            _ => false,
        }
    }

    fn width(&self) -> u32 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }

    /// The bits of `address` that name the network, as a number.
    fn network(&self, address: IpAddr) -> u128 {
        let host_bits = self.width() - u32::from(self.bits);
        number(address).checked_shr(host_bits).unwrap_or(0)
    }

    /// The bits that name the box.
    fn host(&self) -> u128 {
        let host_bits = self.width() - u32::from(self.bits);
        number(self.address) & 1u128.checked_shl(host_bits).map_or(u128::MAX, |bit| bit - 1)
    }

    fn check(self) -> Result<Prefix, PartError> {
        let ip = self.address;
        if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Err(PartError::NoHost(ip));
        }
        // In networks of one or two addresses each of them is a box.
        let host_bits = self.width() - u32::from(self.bits);
        let is_broadcast = ip.is_ipv4() && self.host() == (1 << host_bits.min(32)) - 1;
        if host_bits > 1 && (self.host() == 0 || is_broadcast) {
            return Err(PartError::NetworkItself(self));
        }
        Ok(self)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl FromStr for Prefix {
    type Err = PartError;

    fn from_str(text: &str) -> Result<Prefix, PartError> {
        let (address, bits) = text.split_once('/').ok_or(PartError::Prefix)?;
        let address: IpAddr = address.trim().parse().map_err(|_| PartError::Prefix)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match (bits.trim().parse::<u8>(), bits.trim().parse::<Ipv4Addr>()) {
            (Ok(bits), _) if (1..=most).contains(&bits) => bits,
            (_, Ok(mask)) if address.is_ipv4() => bits_of(mask).ok_or(PartError::Prefix)?,
            _ => return Err(PartError::Prefix),
        };
        Prefix { address, bits }.check()
    }
}

/// How many bits a netmask has, if its ones stand together at its beginning.
fn bits_of(mask: Ipv4Addr) -> Option<u8> {
    let ones = mask.to_bits().leading_ones();
    (ones > 0 && ones == mask.to_bits().count_ones()).then_some(ones as u8)
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// An address of another box.
pub(crate) fn ip(text: &str) -> Result<IpAddr, PartError> {
    text.parse().map_err(|_| PartError::Ip)
}

/// Addresses with spaces or commas between.
pub(crate) fn ips(text: &str) -> Result<Vec<IpAddr>, PartError> {
    words(text).map(ip).collect()
}

/// A server that gives the time: an address or a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TimeServer(String);

impl FromStr for TimeServer {
    type Err = PartError;

    fn from_str(text: &str) -> Result<TimeServer, PartError> {
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let looks_like_address = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let is_name = text.len() <= 253 && !looks_like_address && text.trim_end_matches('.').split('.').all(is_label);
        if is_name || text.parse::<IpAddr>().is_ok() { Ok(TimeServer(text.into())) } else { Err(PartError::TimeServer) }
    }
}

impl fmt::Display for TimeServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Time servers with spaces or commas between.
pub(crate) fn time_servers(text: &str) -> Result<Vec<TimeServer>, PartError> {
    words(text).map(str::parse).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([' ', ',', '\t']).filter(|word| !word.is_empty())
}

/// How several cards are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BondMode {
    /// One works, the other steps in: the switch needs to know nothing.
    ActiveBackup,
    /// Both work, by agreement with the switch (802.3ad).
    Lacp,
}

impl FromStr for BondMode {
    type Err = PartError;

    fn from_str(text: &str) -> Result<BondMode, PartError> {
        match text {
            "active-backup" => Ok(BondMode::ActiveBackup),
            "802.3ad" => Ok(BondMode::Lacp),
            _ => Err(PartError::BondMode),
        }
    }
}

impl fmt::Display for BondMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BondMode::ActiveBackup => "active-backup",
            BondMode::Lacp => "802.3ad",
        })
    }
}
