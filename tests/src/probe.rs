//! Probes: what passes between two places, seen by asking.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use portcullis_dev::{ECHO_PORT, Netns};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a probe waits for an answer that may not come. On one machine an answer takes well under a millisecond.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// One way that traffic may take.
#[derive(Clone, Debug)]
pub struct Way {
    pub name: String,
    pub from: Netns,
    pub to: SocketAddr,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tcp,
    Udp,
}

impl Way {
    pub fn new(name: impl Into<String>, from: &Netns, to: impl Into<IpAddr>, kind: Kind) -> Self {
        Self { name: name.into(), from: from.clone(), to: SocketAddr::new(to.into(), ECHO_PORT), kind }
    }

    /// Does a new connection, or datagram, come back by this way?
    pub async fn open(&self) -> bool {
        let way = self.clone();
        let asked = tokio::task::spawn_blocking(move || match way.kind {
            Kind::Tcp => way.from.probe_tcp(way.to, PATIENCE),
            Kind::Udp => way.from.probe_udp(way.to, PATIENCE),
        });
        matches!(asked.await, Ok(Ok(())))
    }
}

/// Does a standing connection to an echo still answer?
pub async fn echoes(stream: &mut TcpStream, word: &[u8]) -> bool {
    let talk = async {
        stream.write_all(word).await?;
        let mut back = vec![0; word.len()];
        stream.read_exact(&mut back).await?;
        std::io::Result::Ok(back == word)
    };
    matches!(tokio::time::timeout(PATIENCE, talk).await, Ok(Ok(true)))
}
