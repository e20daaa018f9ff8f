//! A host and the world outside it: two network namespaces with a veth pair, and sockets made inside them.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nftables::schema::Nftables;
use portcullis_agent::firewall::{Dropped, Kernel, Layers, drop_gate, lift_gate};
use portcullis_agent::host::facts::proof;
use portcullis_agent_core::compiled::CompiledRules;
use portcullis_agent_core::gate::{Gate, Local, Pass};
use portcullis_schemas::events::Level;
use portcullis_schemas::exclusion::{Direction, PortRange, Protocol};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub const HOST: [&str; 2] = ["10.99.0.2", "fd99::2"];
/// Excluded by [`gate`].
pub const FRIEND: [&str; 2] = ["10.99.0.1", "fd99::1"];
pub const STRANGER: [&str; 2] = ["10.99.0.3", "fd99::3"];
pub const AGENT_UID: u32 = 65534;
/// Long enough for a loaded machine; reached only when a test fails.
pub const SOON: Duration = Duration::from_secs(5);
/// How long silence is listened to.
pub const SILENCE: Duration = Duration::from_millis(300);

/// What passes in most of these tests.
pub fn gate() -> Gate {
    use Direction::{In, Out};
    use Protocol::{Icmp, Tcp, Udp};
    Gate {
        control: FRIEND.map(|ip| at(ip, 4222)).into(),
        agent_uid: AGENT_UID,
        resolvers: vec![],
        passes: vec![
            pass(Out, Tcp, 8000, 0),
            pass(Out, Udp, 5300, 0),
            pass(Out, Udp, crate::sniff::MARKER_PORT, 0),
            pass(In, Tcp, 0, 2200),
            pass(In, Udp, 0, 5301),
            pass(Out, Icmp, 0, 0),
        ],
        standing: vec![],
        netdev: None,
        proof: None,
    }
}

/// A pass with the friend; port 0 is any.
pub fn pass(direction: Direction, protocol: Protocol, remote: u16, local: u16) -> Pass {
    let ports = |port| if port == 0 { vec![] } else { vec![PortRange::one(port)] };
    Pass {
        name: format!("{direction:?}-{protocol:?}-{remote}-{local}"),
        direction,
        protocol,
        remotes: FRIEND.map(|ip| ip.parse::<IpAddr>().unwrap().into()).into(),
        remote_ports: ports(remote),
        local_ports: ports(local),
        icmp_types: vec![],
        local: Local::default(),
    }
}

pub fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// A gate as the kernel of this thread's namespace can hold it.
pub fn fitted(layers: Layers, gate: &Gate) -> Gate {
    Gate { netdev: layers.netdev().unwrap(), proof: layers.proves().then(|| gate.proof.unwrap_or_else(proof)), ..gate.clone() }
}

/// The host and the world outside.
pub struct Net {
    pub host: Namespace,
    pub outside: Namespace,
}

pub fn render(gate: &Gate) -> Nftables<'static> {
    CompiledRules::new(gate.clone()).whole()
}

impl Net {
    pub fn new() -> Self {
        let (host, outside) = (Namespace::new(), Namespace::new());
        host.link("eth0", "02:00:00:00:00:02", &outside, "eth0", "02:00:00:00:00:01");
        for ip in HOST {
            host.address("eth0", ip, &[]);
        }
        for ip in FRIEND {
            outside.address("eth0", ip, &[]);
        }
        // Deprecated: what the world outside begins, it begins as the friend.
        for ip in STRANGER {
            outside.address("eth0", ip, &["preferred_lft", "0"]);
        }
        Self { host, outside }
    }

    /// In all layers.
    pub fn isolate(&self, gate: &Gate) -> Dropped {
        self.isolate_at(Level::Full, gate)
    }

    pub fn isolate_at(&self, level: Level, gate: &Gate) -> Dropped {
        let drop = || {
            let kernel = Kernel::open().unwrap();
            let layers = Layers::probe(&kernel, level);
            assert_eq!(layers.level(), level, "this kernel lacks a hook");
            drop_gate(&kernel, &fitted(layers, gate), None)
        };
        let dropped = self.host.run(drop).unwrap();
        assert_eq!(dropped.check.as_ref().unwrap().differences, []);
        assert!(dropped.severed.errors.is_empty(), "{:?}", dropped.severed.errors);
        dropped
    }

    pub fn open(&self) {
        let lift = || {
            let kernel = Kernel::open().unwrap();
            lift_gate(&kernel, Layers::probe(&kernel, Level::Full))
        };
        assert!(self.host.run(lift).unwrap());
    }

    /// A connection from `from` to a listener in `to`: (the client's end, the server's).
    pub fn connected(&self, from: &Namespace, to: &Namespace, server: SocketAddr) -> (TcpStream, TcpStream) {
        let listener = to.listen(server);
        let client = from.connect(server).unwrap();
        let (server, _) = listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(SOON)).unwrap();
        }
        (client, server)
    }
}

/// Ends a connection from its client, and comes back when the client's socket counts as closed (TIME_WAIT).
pub fn close((mut client, mut server): (TcpStream, TcpStream)) {
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    drop(server);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

/// A network namespace that goes when it is dropped, also when its test fails.
pub struct Namespace(String);

impl Namespace {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let namespace = Self(format!("pcfw-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        ip(&["netns", "add", &namespace.0]);
        // Addresses are there at once, and nothing is said about them.
        namespace.sysctl("net/ipv6/conf/default/accept_dad", "0");
        ip(&["-n", &namespace.0, "link", "set", "lo", "up"]);
        namespace
    }

    pub fn link(&self, name: &str, mac: &str, other: &Self, other_name: &str, other_mac: &str) {
        ip(&["link", "add", name, "address", mac, "netns", &self.0, "type", "veth"]
            .into_iter()
            .chain(["peer", "name", other_name, "address", other_mac, "netns", &other.0])
            .collect::<Vec<_>>());
        ip(&["-n", &self.0, "link", "set", name, "up"]);
        ip(&["-n", &other.0, "link", "set", other_name, "up"]);
    }

    /// Moves a device of another namespace into this one.
    pub fn take(&self, from: &Self, link: &str) {
        ip(&["-n", &from.0, "link", "set", link, "netns", &self.0]);
    }

    pub fn address(&self, link: &str, address: &str, more: &[&str]) {
        let (prefix, flags): (_, &[_]) = if address.contains(':') { ("64", &["nodad"]) } else { ("24", &[]) };
        ip(&[&["-n", &self.0, "addr", "add", &format!("{address}/{prefix}"), "dev", link], flags, more].concat());
    }

    pub fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", &self.0], arguments].concat());
    }

    pub fn sysctl(&self, name: &str, value: &str) {
        self.run(|| fs::write(format!("/proc/sys/{name}"), value).unwrap());
    }

    /// Runs `work` on a thread that has moved into the namespace; sockets made there stay there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.0)).unwrap();
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub fn sh(&self, script: &str) -> String {
        let output = self.run(|| Command::new("sh").args(["-ec", script]).output().unwrap());
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn listen(&self, address: SocketAddr) -> TcpListener {
        self.run(|| TcpListener::bind(address).unwrap())
    }

    pub fn connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        self.run(|| TcpStream::connect_timeout(&to, SOON))
    }

    pub fn udp(&self, address: SocketAddr) -> UdpSocket {
        let socket = self.run(|| {
            let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket = rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None).unwrap();
            // A socket of this port that was closed just now lives on in a program that a test beside this one is starting.
            sockopt::set_socket_reuseaddr(&socket, true).unwrap();
            rustix::net::bind(&socket, &address).unwrap();
            UdpSocket::from(socket)
        });
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket
    }

    /// Whether nothing comes to `socket` for a while.
    pub fn silent(socket: &UdpSocket) -> bool {
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        silent_with(|| socket.recv(&mut [0; 1]))
    }

    /// A raw socket of the family of `to`, connected to it, that can send echo requests and waits for `timeout`.
    pub fn raw_icmp(&self, to: SocketAddr, timeout: Duration) -> OwnedFd {
        let (family, protocol) = match to.is_ipv4() {
            true => (AddressFamily::INET, ipproto::ICMP),
            false => (AddressFamily::INET6, ipproto::ICMPV6),
        };
        let socket = self.run(|| rustix::net::socket(family, SocketType::RAW, Some(protocol)).unwrap());
        rustix::net::connect(&socket, &to).unwrap();
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(timeout)).unwrap();
        socket
    }

    /// Sends an echo request without waiting. What the kernel says about it does not matter.
    pub fn ping(&self, to: SocketAddr) {
        let _ = rustix::net::send(self.raw_icmp(to, SOON), echo_request(to), rustix::net::SendFlags::empty());
    }

    /// Whether an echo request is answered.
    pub fn pings(&self, to: SocketAddr, timeout: Duration) -> bool {
        let socket = self.raw_icmp(to, timeout);
        let _ = rustix::net::send(&socket, echo_request(to), rustix::net::SendFlags::empty());
        let mut buffer = [0; 128];
        loop {
            let (_, length) = match rustix::net::recv(&socket, &mut buffer[..], rustix::net::RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return false,
                Ok(received) => received,
            };
            // A raw IPv4 socket also gives the IP header.
            let (header, reply) = if to.is_ipv4() { (20, 0) } else { (0, 129) };
            if length > header && buffer[header] == reply {
                return true;
            }
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// Whether `receive` runs into its time-out; a signal is no answer.
pub fn silent_with(mut receive: impl FnMut() -> std::io::Result<usize>) -> bool {
    loop {
        match receive().map_err(|error| error.kind()) {
            Err(ErrorKind::Interrupted) => {}
            result => return result == Err(ErrorKind::WouldBlock),
        }
    }
}

/// The kernel fills in the checksum for ICMPv6 alone.
fn echo_request(to: SocketAddr) -> &'static [u8] {
    if to.is_ipv4() { &[8, 0, 0xf7, 0xfd, 0, 1, 0, 1] } else { &[128, 0, 0, 0, 0, 1, 0, 1] }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
