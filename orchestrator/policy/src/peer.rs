//! The other side of a connection as a policy writes it: a network, or a host's name.

use ipnet::IpNet;
use portcullis_schemas::address::{AddressError, network};
use portcullis_schemas::exclusion::DnsName;

use super::error::{At, Errors, did_you_mean, quoted};

#[derive(Debug)]
pub(super) enum Peer {
    Network(IpNet),
    Name(DnsName),
}

/// An address; a network without host bits, since those tell of a slip; or a name with a dot, since a lone word is one as often.
pub(super) fn peer(written: &str, what: &str, at: At, errors: &mut Errors) -> Option<Peer> {
    match (network(written), written.parse::<DnsName>()) {
        (Ok(net), _) if net == net.trunc() => Some(Peer::Network(net)),
        (Ok(net), _) => {
            errors.push(at, format!("{what} has {net}, an address inside a network; write {} or {}", net.trunc(), net.addr()));
            None
        }
        (Err(odd @ (AddressError::Zone(_) | AddressError::LeadingZeros(_))), _) => {
            errors.push(at, format!("{what}: {odd}"));
            None
        }
        (_, Ok(name)) if written.contains('.') => Some(Peer::Name(name)),
        _ => {
            let hint = if written.contains('*') {
                " (the addresses behind a * cannot be asked for: write each name)".to_owned()
            } else {
                did_you_mean(written, ["any"])
            };
            errors.push(
                at,
                format!(
                    "{what} has {}; write an address, a network or a name in full: 10.0.5.10, 10.0.5.0/24, \"2001:db8::/32\", siem.example.org{hint}",
                    quoted(written)
                ),
            );
            None
        }
    }
}
