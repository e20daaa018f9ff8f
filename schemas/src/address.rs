//! Addresses and networks in one spelling: as packets carry them.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Deserializer};

/// A text is no address and no network, or could be taken for several; the text is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// `fe80::1%eth0`
    #[error("{0:?} has a zone, which means something on one host only; write the address alone")]
    Zone(String),
    /// `010.0.0.1`
    #[error("{0:?} has leading zeros, which some programs read as octal; write plain decimal numbers")]
    LeadingZeros(String),
    /// Anything else.
    #[error("{0:?} is no address or network; write 10.0.5.10, 10.0.5.0/24 or 2001:db8::/32")]
    Other(String),
}

/// An address, or the network of one in CIDR form. An IPv4 address written as IPv6 (`::ffff:10.0.0.1`, RFC 4291, 2.5.5.2) is the IPv4 address: no
/// packet carries the other form. Host bits stay, for whoever wants to refuse them.
pub fn network(text: &str) -> Result<IpNet, AddressError> {
    if text.contains('%') {
        return Err(AddressError::Zone(text.to_owned()));
    }
    if has_leading_zeros(text) {
        return Err(AddressError::LeadingZeros(text.to_owned()));
    }
    let found = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    found.map(plain_network).map_err(|_| AddressError::Other(text.to_owned()))
}

/// Whether it is an IPv4 address or network that has such an octet. The parser of networks takes them as decimal.
fn has_leading_zeros(text: &str) -> bool {
    let address = text.split('/').next().unwrap_or(text);
    let digits = |octet: &str| !octet.is_empty() && octet.bytes().all(|byte| byte.is_ascii_digit());
    address.split('.').all(digits) && address.split('.').any(|octet| octet.len() > 1 && octet.starts_with('0'))
}

/// A network of IPv4 addresses written as IPv6 as the network of IPv4 that it is.
pub fn plain_network(net: IpNet) -> IpNet {
    const BEFORE_V4: u8 = 96;
    let IpNet::V6(v6) = net else { return net };
    let plain = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(BEFORE_V4));
    plain.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(net, IpNet::V4)
}

/// Networks of the wire, which have a length each.
pub(crate) fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let nets = Vec::<IpNet>::deserialize(deserializer)?;
    Ok(nets.into_iter().map(plain_network).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_written_as_ipv6_is_the_ipv4_address() {
        let cases = [
            ("10.0.5.10", "10.0.5.10/32"),
            ("::ffff:10.213.0.250", "10.213.0.250/32"),
            ("::FFFF:0AD5:00FA", "10.213.0.250/32"),
            ("::ffff:10.213.0.0/120", "10.213.0.0/24"),
            ("::ffff:0.0.0.0/96", "0.0.0.0/0"),
            ("::ffff:10.213.0.7/120", "10.213.0.7/24"),
            // Larger than all of IPv4, and so what it says.
            ("::ffff:0:0/95", "::ffff:0.0.0.0/95"),
            ("::/0", "::/0"),
            ("2001:DB8::0:1", "2001:db8::1/128"),
            // Of other prefixes the packets are IPv6.
            ("64:ff9b::10.0.0.1", "64:ff9b::a00:1/128"),
            ("2002:a00:1::/48", "2002:a00:1::/48"),
            ("::10.0.0.1", "::10.0.0.1/128"),
        ];
        for (written, expected) in cases {
            let expected: IpNet = expected.parse().expect(expected);
            assert_eq!(network(written), Ok(expected), "{written}");
        }
    }

    #[test]
    fn spellings_with_two_meanings_are_refused_by_their_name() {
        let of = |text: &str| network(text).expect_err(text);
        assert_eq!(of("fe80::1%eth0"), AddressError::Zone("fe80::1%eth0".into()));
        for text in ["010.0.0.1", "10.0.0.010", "10.01.0.0/16"] {
            assert_eq!(of(text), AddressError::LeadingZeros(text.into()));
        }
        for text in
            ["", "10.0.0", "10.0.0.256", "10.0.0.0/33", "1", "0x0a.0.0.1", "[::1]", " 10.0.0.1", "siem.example.org", "::/129"]
        {
            assert_eq!(of(text), AddressError::Other(text.into()));
        }
    }
}
