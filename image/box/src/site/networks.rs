//! `[network]`, or several `[[network]]`, of a site's file.

use crate::network::{Address, BondMode, Cards, Mac, Network, NetworkError, VlanId, parts};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::str::FromStr;
use toml::Spanned;

/// Networks, each sound in itself, and where they stand.
#[derive(Default)]
pub(super) struct Networks {
    list: Vec<Network>,
    places: Vec<usize>,
}

impl Networks {
    pub(super) fn list(&self) -> &[Network] {
        &self.list
    }

    /// Where in the text a network begins.
    pub(super) fn place(&self, at: usize) -> usize {
        self.places.get(at).copied().unwrap_or(0)
    }
}

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Networks, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Networks;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table [network], or several [[network]]")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Networks, A::Error> {
                let network = Network::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Networks { list: vec![network], places: vec![0] })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Networks, A::Error> {
                let many: Vec<Spanned<Network>> = Deserialize::deserialize(SeqAccessDeserializer::new(seq))?;
                let places = many.iter().map(|network| network.span().start).collect();
                Ok(Networks { list: many.into_iter().map(Spanned::into_inner).collect(), places })
            }
        }

        from.deserialize_any(OneOrMany)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNetwork {
    card: Option<Word<Mac>>,
    bond: Option<Vec<Word<Mac>>>,
    mode: Option<Word<BondMode>>,
    vlan: Option<Number>,
    address: Option<Word<parts::Prefix>>,
    gateway: Option<Ip>,
    dns: Option<Words<std::net::IpAddr>>,
    ntp: Option<Words<parts::TimeServer>>,
}

/// A text that parses.
struct Word<T>(T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map(Word).map_err(de::Error::custom)
    }
}

struct Number(VlanId);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        VlanId::of(i64::deserialize(from)?).map(Number).map_err(de::Error::custom)
    }
}

struct Ip(std::net::IpAddr);

impl<'de> Deserialize<'de> for Ip {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        parts::ip(&String::deserialize(from)?).map(Ip).map_err(de::Error::custom)
    }
}

/// One or more, with spaces between.
struct Words<T>(Vec<T>);

impl<'de> Deserialize<'de> for Words<std::net::IpAddr> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        parts::ips(&String::deserialize(from)?).map(Words).map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Words<parts::TimeServer> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        parts::time_servers(&String::deserialize(from)?).map(Words).map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Network, D::Error> {
        RawNetwork::deserialize(from)?.network().map_err(de::Error::custom)
    }
}

/// Why the parts do not make a network.
#[derive(Debug, thiserror::Error)]
enum PartsError {
    #[error("write either card (one) or bond (several as one)")]
    CardAndBond,
    #[error("mode is that of a bond, and there is no bond")]
    ModeAlone,
    #[error(transparent)]
    Network(#[from] NetworkError),
}

impl RawNetwork {
    fn network(self) -> Result<Network, PartsError> {
        let mode = self.mode.map(|mode| mode.0);
        let cards = match (self.card, self.bond) {
            (Some(_), Some(_)) => return Err(PartsError::CardAndBond),
            (_, None) if mode.is_some() => return Err(PartsError::ModeAlone),
            (Some(card), None) => Cards::One(card.0),
            (None, None) => Cards::Every,
            (None, Some(bond)) => Cards::Bond {
                cards: bond.into_iter().map(|card| card.0).collect(),
                mode: mode.unwrap_or(BondMode::ActiveBackup),
            },
        };
        let network = Network {
            cards,
            vlan: self.vlan.map(|vlan| vlan.0),
            address: Address::of(self.address.map(|address| address.0), self.gateway.map(|gateway| gateway.0))?,
            dns: self.dns.map(|dns| dns.0).unwrap_or_default(),
            ntp: self.ntp.map(|ntp| ntp.0).unwrap_or_default(),
        };
        network.check()?;
        Ok(network)
    }
}
