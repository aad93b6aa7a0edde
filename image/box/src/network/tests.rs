use super::parts::PartError;
use super::*;
use proptest::prelude::*;

fn network(cards: Cards) -> Network {
    Network { cards, vlan: None, address: Address::Dhcp, dns: Vec::new(), ntp: Vec::new() }
}

fn mac(last: u8) -> Mac {
    format!("52:54:00:12:34:{last:02x}").parse().unwrap()
}

fn fixed(address: &str, gateway: &str) -> Result<Address, NetworkError> {
    Address::of(Some(address.parse().unwrap()), Some(gateway.parse().unwrap()))
}

fn text_of<'a>(files: &'a [File], name: &str) -> &'a str {
    &files.iter().find(|file| file.name == name).unwrap_or_else(|| panic!("no {name} in {files:?}")).text
}

#[test]
fn one_card_with_an_address_is_one_file() {
    let mut network = network(Cards::One(mac(1)));
    network.address = fixed("192.0.2.7/24", "192.0.2.1").unwrap();
    network.dns = parts::ips("192.0.2.53, 192.0.2.54").unwrap();
    network.ntp = parts::time_servers("ntp.example.com 192.0.2.123").unwrap();
    let expected = "[Match]\nPermanentMACAddress=52:54:00:12:34:01\n[Link]\nRequiredForOnline=no\n[Network]\nLLMNR=no\n\
        MulticastDNS=no\nDHCP=no\nAddress=192.0.2.7/24\nGateway=192.0.2.1\nDNS=192.0.2.53 192.0.2.54\nNTP=ntp.example.com 192.0.2.123\n";
    assert_eq!(files(&[network]), [File { name: "10-site.network".into(), text: expected.into() }]);
}

#[test]
fn without_a_card_every_one_is_asked_for() {
    let files = files(&[network(Cards::Every)]);
    assert!(text_of(&files, "10-site.network").starts_with("[Match]\nType=ether\nKind=!*\n"));
    assert!(text_of(&files, "10-site.network").ends_with("DHCP=yes\n"));
}

#[test]
fn a_vlan_takes_the_address_and_its_card_has_none() {
    let mut network = network(Cards::One(mac(1)));
    network.vlan = Some("42".parse().unwrap());
    network.address = fixed("192.0.2.7/24", "192.0.2.1").unwrap();
    let files = files(&[network]);
    assert!(text_of(&files, "10-site-vlan.netdev").contains("Name=vlan42\nKind=vlan\n[VLAN]\nId=42\n"));
    let card = text_of(&files, "10-site.network");
    assert!(card.contains("PermanentMACAddress=") && card.contains("VLAN=vlan42") && !card.contains("Address=192"));
    assert!(text_of(&files, "10-site-vlan.network").contains("[Match]\nName=vlan42\n"));
    assert!(text_of(&files, "10-site-vlan.network").contains("Address=192.0.2.7/24"));
}

#[test]
fn a_bond_has_its_cards_its_mode_and_the_vlan_above_it() {
    let mut network = network(Cards::Bond { cards: vec![mac(1), mac(2)], mode: BondMode::Lacp });
    network.vlan = Some("7".parse().unwrap());
    let files = files(&[network]);
    assert!(text_of(&files, "10-site.netdev").contains("Name=bond1\nKind=bond\n[Bond]\nMode=802.3ad\n"));
    let cards = text_of(&files, "10-site-cards.network");
    assert_eq!(cards, "[Match]\nPermanentMACAddress=52:54:00:12:34:01 52:54:00:12:34:02\n[Network]\nBond=bond1\n");
    assert!(text_of(&files, "10-site.network").contains("[Match]\nName=bond1\n"));
    assert!(text_of(&files, "10-site.network").contains("VLAN=vlan7"));
}

#[test]
fn several_networks_have_files_of_their_own_names() {
    let files = files(&[network(Cards::One(mac(1))), network(Cards::One(mac(2)))]);
    let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["10-site.network", "10-site-2.network"]);
}

#[test]
fn what_cannot_be_together_is_refused() {
    let (one, two) = (network(Cards::One(mac(1))), network(Cards::One(mac(2))));
    assert_eq!(check_together(&[one.clone(), two.clone()]), Ok(()));
    assert_eq!(check_together(&[one.clone(), one.clone()]), Err((1, NetworkError::CardTwice(mac(1)))));
    let every = network(Cards::Every);
    assert_eq!(check_together(std::slice::from_ref(&every)), Ok(()));
    assert_eq!(check_together(&[one.clone(), every]), Err((1, NetworkError::EveryAmongOthers)));
    let tagged = |network: &Network| Network { vlan: Some("9".parse().unwrap()), ..network.clone() };
    let twice = NetworkError::VlanTwice("9".parse().unwrap());
    assert_eq!(check_together(&[tagged(&one), tagged(&two)]), Err((1, twice)));
    assert_eq!(check_together(&vec![two; MAX_NETWORKS + 1]), Err((MAX_NETWORKS, NetworkError::TooMany)));
}

#[test]
fn a_network_that_makes_no_sense_is_refused() {
    let vlan = Some("9".parse().unwrap());
    assert_eq!(Network { vlan, ..network(Cards::Every) }.check(), Err(NetworkError::VlanOnEvery));
    let bond = |cards: Vec<Mac>| network(Cards::Bond { cards, mode: BondMode::ActiveBackup }).check();
    assert_eq!(bond(vec![mac(1)]), Err(NetworkError::BondSize));
    assert_eq!(bond(vec![mac(1), mac(1)]), Err(NetworkError::CardTwice(mac(1))));
    assert_eq!(bond(vec![mac(1), mac(2)]), Ok(()));
}

#[test]
fn a_gateway_outside_of_the_network_is_refused() {
    assert!(matches!(fixed("192.0.2.7/24", "192.0.3.1"), Err(NetworkError::GatewayElsewhere { .. })));
    assert!(matches!(fixed("192.0.2.7/24", "2001:db8::1"), Err(NetworkError::GatewayElsewhere { .. })));
    assert!(matches!(fixed("192.0.2.7/24", "192.0.2.7"), Err(NetworkError::GatewayIsSelf(_))));
    assert!(fixed("2001:db8::7/64", "fe80::1").is_ok());
    assert_eq!(Address::of(None, Some("192.0.2.1".parse().unwrap())), Err(NetworkError::GatewayAlone));
}

#[test]
fn addresses_that_no_box_can_have_are_refused() {
    let refused = |text: &str| text.parse::<Prefix>().unwrap_err();
    for text in [
        "192.0.2.7",
        "192.0.2.7/33",
        "192.0.2.7/0",
        "192.0.2.300/24",
        "192.0.2.7/255.0.255.0",
        "",
        "/24",
        "fe80::1/129",
    ] {
        assert_eq!(refused(text), PartError::Prefix, "{text}");
    }
    for text in ["192.0.2.0/24", "192.0.2.255/24"] {
        assert!(matches!(refused(text), PartError::NetworkItself(_)), "{text}");
    }
    for text in ["0.0.0.0/8", "127.0.0.1/8", "224.0.0.1/24", "255.255.255.255/32", "::1/128"] {
        assert!(matches!(refused(text), PartError::NoHost(_)), "{text}");
    }
    assert_eq!("192.0.2.7/255.255.255.0".parse::<Prefix>().unwrap().to_string(), "192.0.2.7/24");
    for text in ["192.0.2.0/31", "192.0.2.1/32", "2001:db8::7/64", "10.255.255.254/8"] {
        assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
    }
}

#[test]
fn words_that_are_no_part_of_a_network_are_refused() {
    for text in ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "52:54:00:12:34:5g", "+2:54:00:12:34:56"] {
        assert_eq!(text.parse::<Mac>(), Err(PartError::Mac), "{text}");
    }
    assert_eq!("52-54-00-AB-34-56".parse::<Mac>().unwrap().to_string(), "52:54:00:ab:34:56");
    for text in ["", "0", "4095", "-1", "1.5", "99999999999999999999"] {
        assert_eq!(text.parse::<VlanId>(), Err(PartError::Vlan), "{text}");
    }
    for text in ["", "-x", "a..b", "1.2.3", "x y", "ntp_1", "[Network]"] {
        assert_eq!(text.parse::<TimeServer>(), Err(PartError::TimeServer), "{text}");
    }
}

#[test]
fn only_links_that_we_make_are_ours_to_take_away() {
    assert_eq!(link_of("[NetDev]\nName=bond1\nKind=bond\n"), Some("bond1"));
    assert_eq!(link_of("[NetDev]\nName=vlan42\nKind=vlan\n"), Some("vlan42"));
    for text in ["", "Name=eth0", "Name=bond", "Name=vlan4x"] {
        assert_eq!(link_of(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_a_part_panic_or_leave_its_line(text in "\\PC{0,40}") {
        let _ = text.parse::<Mac>();
        let _ = text.parse::<VlanId>();
        if let Ok(prefix) = text.parse::<Prefix>() {
            prop_assert!(prefix.holds(prefix.address()));
        }
        if let Ok(server) = text.parse::<TimeServer>() {
            prop_assert!(server.to_string().bytes().all(|byte| byte.is_ascii_graphic()));
        }
    }

    #[test]
    fn every_prefix_that_parses_is_read_back_as_itself(address in any::<u32>(), bits in 1u8..=32) {
        let text = format!("{}/{bits}", std::net::Ipv4Addr::from_bits(address));
        if let Ok(prefix) = text.parse::<Prefix>() {
            prop_assert_eq!(prefix.to_string(), text);
        }
    }
}
