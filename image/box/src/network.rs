//! What a site wants of its network, and the files of systemd-networkd that say so. Nothing else makes such files.

pub(crate) mod parts;

pub(crate) use parts::{BondMode, Mac, Prefix, TimeServer, VlanId};

use std::collections::BTreeSet;
use std::net::IpAddr;

/// What the names of all files here begin with: files of other names in networkd's folder are not ours and stay.
pub(crate) const PREFIX: &str = "10-site";
/// More than any server has cards, and files that a person can still read.
pub(crate) const MAX_NETWORKS: usize = 16;
/// Name servers and time servers of one network, each. systemd-resolved asks a few at most.
pub(crate) const MAX_SERVERS: usize = 8;

/// One way into the site's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) cards: Cards,
    pub(crate) vlan: Option<VlanId>,
    pub(crate) address: Address,
    pub(crate) dns: Vec<IpAddr>,
    pub(crate) ntp: Vec<TimeServer>,
}

/// What the network is reached by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cards {
    /// Whatever card has a link, each by itself.
    Every,
    One(Mac),
    /// Several cards as one.
    Bond {
        cards: Vec<Mac>,
        mode: BondMode,
    },
}

/// Where addresses come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Dhcp,
    Static { address: Prefix, gateway: Option<IpAddr> },
}

/// A file for networkd's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// Why networks cannot be had together, or one not in itself.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error("a VLAN needs a card (or a bond): say which card the VLAN is on")]
    VlanOnEvery,
    #[error("a bond has two to eight cards")]
    BondSize,
    #[error("the card {0} stands there twice: each card is in one network only")]
    CardTwice(Mac),
    #[error("VLAN {0} stands there twice: give each VLAN once")]
    VlanTwice(VlanId),
    #[error("with several networks each has to say which card it is on")]
    EveryAmongOthers,
    #[error("gateway without address: give the address too, or neither (then both come by DHCP)")]
    GatewayAlone,
    #[error("the gateway {gateway} is not in the network of {address}: one of the two is mistyped")]
    GatewayElsewhere { gateway: IpAddr, address: Prefix },
    #[error("the gateway cannot be the box's own address {0}")]
    GatewayIsSelf(IpAddr),
    #[error("at most {MAX_SERVERS} servers of one kind")]
    TooManyServers,
    #[error("at most {MAX_NETWORKS} networks")]
    TooMany,
}

impl Address {
    /// From what was given: nothing at all is DHCP.
    pub(crate) fn of(address: Option<Prefix>, gateway: Option<IpAddr>) -> Result<Address, NetworkError> {
        let Some(address) = address else {
            return if gateway.is_some() { Err(NetworkError::GatewayAlone) } else { Ok(Address::Dhcp) };
        };
        match gateway {
            Some(own) if own == address.address() => Err(NetworkError::GatewayIsSelf(own)),
            Some(gateway) if !address.holds(gateway) => Err(NetworkError::GatewayElsewhere { gateway, address }),
            _ => Ok(Address::Static { address, gateway }),
        }
    }
}

impl Network {
    /// Whether it makes sense in itself.
    pub(crate) fn check(&self) -> Result<(), NetworkError> {
        match &self.cards {
            Cards::Every if self.vlan.is_some() => return Err(NetworkError::VlanOnEvery),
            Cards::Bond { cards, .. } if !(2..=8).contains(&cards.len()) => return Err(NetworkError::BondSize),
            _ => {}
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.macs().iter().find(|&&mac| !seen.insert(mac)) {
            return Err(NetworkError::CardTwice(*twice));
        }
        if self.dns.len() > MAX_SERVERS || self.ntp.len() > MAX_SERVERS {
            return Err(NetworkError::TooManyServers);
        }
        Ok(())
    }

    fn macs(&self) -> &[Mac] {
        match &self.cards {
            Cards::Every => &[],
            Cards::One(mac) => std::slice::from_ref(mac),
            Cards::Bond { cards, .. } => cards,
        }
    }
}

/// Whether they can be had together; each must have been checked by itself. The error names the one that is too much.
pub(crate) fn check_together(networks: &[Network]) -> Result<(), (usize, NetworkError)> {
    if networks.len() > MAX_NETWORKS {
        return Err((MAX_NETWORKS, NetworkError::TooMany));
    }
    let (mut cards, mut vlans) = (BTreeSet::new(), BTreeSet::new());
    for (at, network) in networks.iter().enumerate() {
        if network.cards == Cards::Every && networks.len() > 1 {
            return Err((at, NetworkError::EveryAmongOthers));
        }
        if let Some(twice) = network.macs().iter().find(|&&mac| !cards.insert(mac)) {
            return Err((at, NetworkError::CardTwice(*twice)));
        }
        if let Some(vlan) = network.vlan.filter(|&vlan| !vlans.insert(vlan)) {
            return Err((at, NetworkError::VlanTwice(vlan)));
        }
    }
    Ok(())
}

/// networkd's files for networks that were checked.
pub(crate) fn files(networks: &[Network]) -> Vec<File> {
    networks.iter().enumerate().flat_map(|(at, network)| files_of(network, at)).collect()
}

fn files_of(network: &Network, at: usize) -> Vec<File> {
    let base = if at == 0 { PREFIX.to_owned() } else { format!("{PREFIX}-{}", at + 1) };
    let mut files = Vec::new();
    let mut put = |part: &str, text: String| files.push(File { name: format!("{base}{part}"), text });
    let lower = match &network.cards {
        Cards::Every => "Type=ether\nKind=!*\n".to_owned(),
        Cards::One(mac) => format!("PermanentMACAddress={mac}\n"),
        Cards::Bond { cards, mode } => {
            let name = format!("bond{}", at + 1);
            put(".netdev", bond(&name, *mode));
            let macs: Vec<_> = cards.iter().map(Mac::to_string).collect();
            put("-cards.network", format!("[Match]\nPermanentMACAddress={}\n[Network]\nBond={name}\n", macs.join(" ")));
            format!("Name={name}\n")
        }
    };
    let Some(vlan) = network.vlan else {
        put(".network", format!("[Match]\n{lower}{}", addressing(network)));
        return files;
    };
    put("-vlan.netdev", format!("[NetDev]\nName=vlan{vlan}\nKind=vlan\n[VLAN]\nId={vlan}\n"));
    // The card itself has no address: what comes untagged is none of this box's.
    put(
        ".network",
        format!(
            "[Match]\n{lower}[Link]\nRequiredForOnline=no\n[Network]\nVLAN=vlan{vlan}\nDHCP=no\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
        ),
    );
    put("-vlan.network", format!("[Match]\nName=vlan{vlan}\n{}", addressing(network)));
    files
}

fn bond(name: &str, mode: BondMode) -> String {
    let mut text = format!("[NetDev]\nName={name}\nKind=bond\n[Bond]\nMode={mode}\nMIIMonitorSec=100ms\n");
    if mode == BondMode::Lacp {
        text += "TransmitHashPolicy=layer3+4\n";
    }
    text
}

fn addressing(network: &Network) -> String {
    let mut text = String::from("[Link]\nRequiredForOnline=no\n[Network]\nLLMNR=no\nMulticastDNS=no\n");
    match &network.address {
        Address::Dhcp => text += "DHCP=yes\n",
        Address::Static { address, gateway } => {
            text += &format!("DHCP=no\nAddress={address}\n");
            if let Some(gateway) = gateway {
                text += &format!("Gateway={gateway}\n");
            }
        }
    }
    text += &servers("DNS", &network.dns);
    text += &servers("NTP", &network.ntp);
    text
}

fn servers<T: ToString>(key: &str, servers: &[T]) -> String {
    if servers.is_empty() {
        return String::new();
    }
    let servers: Vec<_> = servers.iter().map(T::to_string).collect();
    format!("{key}={}\n", servers.join(" "))
}

/// The names of links that a `.netdev` file of ours makes: networkd does not take them away when the file goes.
pub(crate) fn link_of(netdev: &str) -> Option<&str> {
    let name = netdev.lines().find_map(|line| line.strip_prefix("Name="))?;
    let is_ours = ["bond", "vlan"].iter().any(|kind| {
        name.strip_prefix(kind)
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    });
    is_ours.then_some(name)
}

#[cfg(test)]
mod tests;
