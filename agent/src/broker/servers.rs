//! The NATS servers of this agent: names resolved while the network is there, and remembered for when it is not.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use async_nats::ServerAddr;
use portcullis_agent_core::record::{Broker, NameServer};

use crate::host::dns;

const PATIENCE: Duration = Duration::from_secs(5);
/// Of one name, as long as a connection stands.
const MOST_ADDRESSES: usize = 16;

#[derive(Clone, Debug)]
pub struct Server {
    address: ServerAddr,
}

/// Reads `URL[,URL]`.
pub fn parse(list: &str) -> anyhow::Result<Vec<Server>> {
    let mut servers = Vec::new();
    for text in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        // The URL may hold a password: it is not repeated here.
        let address: ServerAddr = text.parse().context("--nats holds what is no NATS URL; write nats://HOST:4222")?;
        if !matches!(address.scheme(), "nats" | "tls") || address.host().is_empty() {
            bail!("--nats takes nats://HOST:PORT and tls://HOST:PORT only");
        }
        if let Ok(IpAddr::V6(ip)) = address.host().parse()
            && ip.is_unicast_link_local()
        {
            bail!(
                "--nats names {ip}, which is an address on each link and needs a device that a URL cannot name; write a name or another address"
            );
        }
        servers.push(Server { address });
    }
    if servers.is_empty() {
        bail!("--nats names no server; write nats://HOST:4222");
    }
    Ok(servers)
}

impl Server {
    /// `host:port`, without what may be secret.
    pub fn name(&self) -> String {
        match self.address.host().parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, self.address.port()).to_string(),
            Err(_) => format!("{}:{}", self.address.host(), self.address.port()),
        }
    }

    /// Where it is, as far as its own text says.
    pub fn literal(&self) -> Option<SocketAddr> {
        let ip: IpAddr = self.address.host().parse().ok()?;
        Some(SocketAddr::new(ip.to_canonical(), self.address.port()))
    }

    /// By the way that the host's programs go, and where that leads nowhere, as when its stub is cut off, by asking name servers directly.
    async fn resolve(&self, name_servers: &[NameServer]) -> std::io::Result<Vec<SocketAddr>> {
        let asked = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((self.address.host(), self.address.port()))).await;
        let mut found: Vec<_> = match asked.map_err(std::io::Error::from).flatten() {
            Ok(found) => found.map(|a| SocketAddr::new(a.ip().to_canonical(), a.port())).collect(),
            Err(error) => {
                let (names, name_servers) = ([self.address.host().to_owned()].into(), name_servers.to_vec());
                let ask = move || dns::resolve(&names, &name_servers, PATIENCE);
                let answer = tokio::task::spawn_blocking(ask).await.unwrap_or_default();
                let found: Vec<_> = answer.into_values().flatten().map(|ip| SocketAddr::new(ip, self.address.port())).collect();
                if found.is_empty() {
                    return Err(error);
                }
                found
            }
        };
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}

/// What is known without asking anybody: literals, and what `remembered` says of the other names.
pub fn known(servers: &[Server], remembered: &[Broker]) -> Vec<Broker> {
    let of = |server: &Server| {
        let name = server.name();
        let addresses = match server.literal() {
            Some(address) => vec![address],
            None => remembered.iter().find(|broker| broker.name == name).map(|b| b.addresses.clone()).unwrap_or_default(),
        };
        Broker { name, addresses }
    };
    servers.iter().map(of).collect()
}

/// Asks for the names again. Where there is no answer, what was known stays; all of it also where `in_use`, since one of the addresses
/// carries a connection, and names with several addresses may answer with another one each time.
pub async fn resolve(servers: &[Server], remembered: &[Broker], in_use: bool, name_servers: &[NameServer]) -> Vec<Broker> {
    let mut brokers = known(servers, remembered);
    for (server, broker) in servers.iter().zip(&mut brokers).filter(|(server, _)| server.literal().is_none()) {
        match server.resolve(name_servers).await {
            Ok(found) if !found.is_empty() => broker.addresses = join(found, if in_use { &broker.addresses } else { &[] }),
            Ok(_) => tracing::warn!(broker = broker.name, "the broker's name has no address"),
            Err(error) => tracing::warn!(%error, broker = broker.name, "cannot resolve the broker's name"),
        }
    }
    brokers
}

/// What was found, and of what was known as much as there is room for.
fn join(found: Vec<SocketAddr>, known: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut all = found;
    for address in known {
        if all.len() < MOST_ADDRESSES && !all.contains(address) {
            all.push(*address);
        }
    }
    all.sort_unstable();
    all
}

pub fn has_names(servers: &[Server]) -> bool {
    servers.iter().any(|server| server.literal().is_none())
}

/// The list to connect with: as configured, then the remembered addresses of the names. Not for TLS, which wants the name.
pub fn addresses(servers: &[Server], brokers: &[Broker]) -> Vec<ServerAddr> {
    let mut list: Vec<ServerAddr> = servers.iter().map(|server| server.address.clone()).collect();
    let named = servers.iter().zip(brokers).filter(|(server, _)| server.literal().is_none() && !server.address.tls_required());
    for (server, broker) in named {
        for address in &broker.addresses {
            let mut url = server.address.clone().into_inner();
            if url.set_ip_host(address.ip()).is_ok() {
                list.extend(ServerAddr::from_url(url).ok());
            }
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_need_no_resolver_and_names_are_remembered() {
        let servers = parse("nats://10.0.0.1:4222, nats://[fd00::1]:4333,broker.example").unwrap();
        let remembered = [Broker { name: "broker.example:4222".into(), addresses: vec!["10.9.9.9:4222".parse().unwrap()] }];
        let found: Vec<_> = known(&servers, &remembered).into_iter().map(|b| (b.name, b.addresses)).collect();
        let of = |name: &str, address: &str| (name.to_owned(), vec![address.parse::<SocketAddr>().unwrap()]);
        let expected = [
            of("10.0.0.1:4222", "10.0.0.1:4222"),
            of("[fd00::1]:4333", "[fd00::1]:4333"),
            of("broker.example:4222", "10.9.9.9:4222"),
        ];
        assert_eq!(found, expected);
        let tried: Vec<_> = addresses(&servers, &known(&servers, &remembered)).iter().map(|a| a.host().to_owned()).collect();
        assert_eq!(tried, ["10.0.0.1", "fd00::1", "broker.example", "10.9.9.9"]);
    }

    #[test]
    fn a_name_that_answers_otherwise_each_time_keeps_what_is_in_use_in_bounds() {
        let address = |n: usize| SocketAddr::from(([10, 0, 0, n as u8], 4222));
        assert_eq!(join(vec![address(2)], &[address(1), address(2)]), [address(1), address(2)]);
        let many: Vec<_> = (0..40).map(address).collect();
        let all = join(vec![address(99)], &many);
        assert!(all.len() == MOST_ADDRESSES && all.contains(&address(99)), "{all:?}");
    }

    #[test]
    fn a_password_never_shows() {
        let servers = parse("nats://me:secret@broker.example:4222").unwrap();
        assert_eq!(servers[0].name(), "broker.example:4222");
        assert!(!parse("http://me:secret@x").unwrap_err().to_string().contains("secret"));
    }

    #[test]
    fn what_is_no_broker_is_refused() {
        for text in ["", ",", "http://x", "ws://x:80", "nats://", "nats://[fe80::1]:4222", "nats://[fe80::1%eth0]:4222"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
