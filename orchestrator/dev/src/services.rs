//! What answers in the lab: TCP and UDP echo everywhere, DNS in the outside world.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::dns;
use crate::error::{Result, Tried};
use crate::keeper::KeeperHandle;
use crate::netns::{Netns, in_netns};
use crate::topology::{DNS_PORT, ECHO_PORT, OUTSIDE_V4, OUTSIDE_V6, RESOLVER_V4, RESOLVER_V6, Topology};

/// Makes all sockets, then serves them on the keeper's thread.
pub(crate) fn start(topology: &Topology, keeper: &KeeperHandle) -> Result<()> {
    let mut services = Vec::new();
    // An address for each: from a wildcard socket, a datagram would be answered from the first address of the device.
    let outside = [
        (OUTSIDE_V4.into(), Kind::Echo),
        (OUTSIDE_V6.into(), Kind::Echo),
        (RESOLVER_V4.into(), Kind::Dns),
        (RESOLVER_V6.into(), Kind::Dns),
    ];
    bind(&mut services, &topology.outside, &outside)?;
    let everything = [(Ipv6Addr::UNSPECIFIED.into(), Kind::Echo)];
    for host in &topology.hosts {
        bind(&mut services, &host.netns, &everything)?;
        bind(&mut services, &host.container, &everything)?;
    }
    let serve = move || services.into_iter().try_for_each(Service::serve);
    keeper.run(serve).and_then(|served| served).tried(|| "serve the lab's services".to_owned())
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Echo,
    Dns,
}

struct Service {
    kind: Kind,
    tcp: TcpListener,
    udp: UdpSocket,
}

fn bind(services: &mut Vec<Service>, netns: &Netns, wanted: &[(IpAddr, Kind)]) -> Result<()> {
    let made = in_netns(netns, || -> io::Result<Vec<Service>> {
        wanted.iter().map(|(address, kind)| Service::bind(*address, *kind)).collect()
    });
    let made = made.and_then(|made| made).tried(|| format!("open the services of {}", netns.name()))?;
    services.extend(made);
    Ok(())
}

impl Service {
    fn bind(address: IpAddr, kind: Kind) -> io::Result<Self> {
        let address = SocketAddr::new(
            address,
            match kind {
                Kind::Echo => ECHO_PORT,
                Kind::Dns => DNS_PORT,
            },
        );
        let tcp = TcpListener::bind(address)?;
        let udp = UdpSocket::bind(address)?;
        tcp.set_nonblocking(true)?;
        udp.set_nonblocking(true)?;
        Ok(Self { kind, tcp, udp })
    }

    fn serve(self) -> io::Result<()> {
        tokio::spawn(serve_tcp(tokio::net::TcpListener::from_std(self.tcp)?, self.kind));
        tokio::spawn(serve_udp(tokio::net::UdpSocket::from_std(self.udp)?, self.kind));
        Ok(())
    }
}

// An agent may destroy sockets of its host, ours among them: that is an error to live with, and not one to spin on.
const AFTER_ERROR: Duration = Duration::from_millis(50);

async fn serve_tcp(listener: tokio::net::TcpListener, kind: Kind) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(async move {
                    let served = match kind {
                        Kind::Echo => echo(stream).await,
                        Kind::Dns => dns_over_tcp(stream).await,
                    };
                    if let Err(error) = served {
                        tracing::trace!(%error, "client disconnected");
                    }
                });
            }
            Err(error) => {
                tracing::debug!(%error, ?kind, "connection not accepted");
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
    }
}

async fn serve_udp(socket: tokio::net::UdpSocket, kind: Kind) {
    let mut buffer = vec![0; 65_535];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, ?kind, "datagram not received");
                tokio::time::sleep(AFTER_ERROR).await;
                continue;
            }
        };
        let datagram = buffer.get(..length).unwrap_or_default();
        let answer = match kind {
            // Two echo services that were introduced to each other would never stop talking.
            Kind::Echo if from.port() == ECHO_PORT => None,
            Kind::Echo => Some(datagram.to_vec()),
            Kind::Dns => dns::answer(datagram),
        };
        if let Some(answer) = answer
            && let Err(error) = socket.send_to(&answer, from).await
        {
            tracing::trace!(%error, %from, "datagram not answered");
        }
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut from, mut to) = stream.split();
    tokio::io::copy(&mut from, &mut to).await?;
    Ok(())
}

async fn dns_over_tcp(mut stream: TcpStream) -> io::Result<()> {
    loop {
        let mut query = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut query).await?;
        let Some(answer) = dns::answer(&query) else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), answer.as_slice()].concat()).await?;
    }
}
