//! A named network namespace, and how to make sockets and start programs in it.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::enter::enter_on_exec;

pub(crate) const DIRECTORY: &str = "/run/netns";

/// A network namespace under `/run/netns`. The handle is a name: it keeps nothing alive.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Netns {
    name: String,
}

/// Runs `work` on a fresh thread inside the namespace and waits for it. A socket made there stays there for ever, also
/// when it is used from elsewhere; threads are never sent back, so no thread of a pool is ever left in a namespace.
pub fn in_netns<T: Send>(netns: &Netns, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let file = File::open(netns.path())?;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(netns.name.clone()).spawn_scoped(scope, move || -> io::Result<T> {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl Netns {
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from(DIRECTORY).join(&self.name)
    }

    /// A command that will run inside; turn it into tokio's with `.into()`.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        // A name with a NUL in it names no namespace: the empty path then fails when the command is spawned.
        let path = CString::new(self.path().into_os_string().into_encoded_bytes()).unwrap_or_default();
        enter_on_exec(&mut command, path);
        command
    }

    /// A blocking listener; set it non-blocking before it goes to tokio.
    pub fn tcp_listener(&self, address: impl Into<SocketAddr>) -> io::Result<TcpListener> {
        let address = address.into();
        in_netns(self, || TcpListener::bind(address))?
    }

    /// A blocking socket; set it non-blocking before it goes to tokio.
    pub fn udp_socket(&self, address: impl Into<SocketAddr>) -> io::Result<UdpSocket> {
        let address = address.into();
        in_netns(self, || UdpSocket::bind(address))?
    }

    /// A blocking connection; see [`Netns::connect`] for the one that waits without a thread.
    pub fn tcp_connect(&self, to: impl Into<SocketAddr>, timeout: Duration) -> io::Result<TcpStream> {
        let to = to.into();
        in_netns(self, || TcpStream::connect_timeout(&to, timeout))?
    }

    /// A tokio connection.
    pub async fn connect(&self, to: impl Into<SocketAddr>, timeout: Duration) -> io::Result<tokio::net::TcpStream> {
        let to = to.into();
        let socket =
            in_netns(self, || if to.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() })??;
        tokio::time::timeout(timeout, socket.connect(to)).await?
    }

    /// Proves that an echo service over TCP answers; blocks.
    pub fn probe_tcp(&self, to: impl Into<SocketAddr>, timeout: Duration) -> io::Result<()> {
        let mut stream = self.tcp_connect(to, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.write_all(PROBE)?;
        let mut answer = [0; PROBE.len()];
        stream.read_exact(&mut answer)?;
        same(&answer)
    }

    /// Proves that an echo service over UDP answers to one datagram; blocks.
    pub fn probe_udp(&self, to: impl Into<SocketAddr>, timeout: Duration) -> io::Result<()> {
        let to = to.into();
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = self.udp_socket((any, 0))?;
        socket.set_read_timeout(Some(timeout))?;
        socket.connect(to)?;
        socket.send(PROBE)?;
        let mut answer = [0; 64];
        let length = socket.recv(&mut answer)?;
        same(answer.get(..length).unwrap_or_default())
    }
}

const PROBE: &[u8] = b"portcullis";

fn same(answer: &[u8]) -> io::Result<()> {
    if answer == PROBE { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is not what was sent")) }
}
