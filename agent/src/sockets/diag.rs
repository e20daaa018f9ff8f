//! TCP and UDP sockets, listed and destroyed over sock_diag.

use std::io;
use std::net::SocketAddr;

use netlink_packet_core::{Emitable, Parseable};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags};
use netlink_packet_sock_diag::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, SOCK_DESTROY, SOCK_DIAG_BY_FAMILY};
use portcullis_agent_core::gate::{Connection, Transport, plain};
use portcullis_agent_core::sever::{Socket, State};

use super::{SeverError, Severed};
use crate::netlink::{Netlink, attributes};

/// include/uapi/linux/netlink.h, include/net/tcp_states.h
const NETLINK_SOCK_DIAG: isize = 4;
const TCP_ESTABLISHED: u8 = 1;
const TCP_TIME_WAIT: u8 = 6;
const TCP_CLOSE: u8 = 7;
const TCP_LISTEN: u8 = 10;
const TCP_BOUND_INACTIVE: u8 = 13;

const TCPDIAG_GETSOCK: u16 = 18;
const INET_DIAG_REQ: usize = 60;
const INET_DIAG_REQ_STATES: usize = 52;
const INET_DIAG_MSG: usize = 72;
const INET_DIAG_CGROUP_ID: u16 = 21;

const ENOENT: i32 = 2;
const EOPNOTSUPP: i32 = 95;

/// The sockets of the calling thread's network namespace, each with what the kernel knows it by.
pub struct Sockets {
    netlink: Netlink,
    sockets: Vec<Socket>,
    keys: Vec<InetRequest>,
}

impl Sockets {
    pub fn list() -> io::Result<Self> {
        Self::in_states(StateFlags::all(), StateFlags::all())
    }

    /// Only what listens, and unconnected UDP sockets: for these alone the kernel need not walk its table of connections.
    pub fn listening() -> io::Result<Self> {
        Self::in_states(StateFlags::LISTEN, StateFlags::CLOSE)
    }

    fn in_states(tcp: StateFlags, udp: StateFlags) -> io::Result<Self> {
        let mut list = Self { netlink: Netlink::open(NETLINK_SOCK_DIAG)?, sockets: Vec::new(), keys: Vec::new() };
        // Each dump walks the kernel's whole table of connections, of all namespaces: the older request does it once for both families.
        let both = list.dump(Transport::Tcp, TCPDIAG_GETSOCK, &of_both_families(&tcp));
        if both.is_err() {
            (list.sockets, list.keys) = Default::default();
            list.of_each_family(Transport::Tcp, &tcp)?;
        }
        list.of_each_family(Transport::Udp, &udp)?;
        Ok(list)
    }

    fn of_each_family(&mut self, protocol: Transport, states: &StateFlags) -> io::Result<()> {
        for (family, id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            let wanted = request(family, number(protocol), states.clone(), id);
            self.dump(protocol, SOCK_DIAG_BY_FAMILY, &bytes(&wanted))?;
        }
        Ok(())
    }

    fn dump(&mut self, protocol: Transport, kind: u16, wanted: &[u8]) -> io::Result<()> {
        let (sockets, keys) = (&mut self.sockets, &mut self.keys);
        self.netlink.dump(kind, wanted, |body| {
            if let Ok(header) = InetResponseHeader::parse(body) {
                sockets.push(Socket { group: group(body), ..socket(protocol, &header) });
                keys.push(request(header.family, number(protocol), StateFlags::all(), header.socket_id));
            }
        })
    }

    pub fn as_slice(&self) -> &[Socket] {
        &self.sockets
    }

    pub(super) fn destroy(&mut self, indices: &[usize], severed: &mut Severed) {
        let bodies: Vec<Vec<u8>> = indices.iter().map(|index| bytes(&self.keys[*index])).collect();
        let (sockets, mut unsupported) = (&self.sockets, false);
        let asked = self.netlink.ask_all(SOCK_DESTROY, &bodies, |number, outcome| {
            let socket = &sockets[indices[number]];
            match outcome {
                Ok(()) => severed.sockets_killed += 1,
                Err(error) if error.raw_os_error() == Some(ENOENT) => {}
                // Older kernels also say so of a socket that is nobody's any more and only waits in FIN_WAIT2.
                Err(error) if error.raw_os_error() == Some(EOPNOTSUPP) => unsupported |= socket.inode != 0,
                Err(error) => {
                    let connection = Connection::new(socket.protocol, socket.local, socket.remote);
                    severed.errors.push(SeverError::Destroy(connection, error));
                }
            }
        });
        severed.errors.extend(unsupported.then_some(SeverError::DestroyUnsupported));
        severed.errors.extend(asked.err().map(SeverError::DestroySockets));
    }
}

/// Whether this kernel destroys sockets of a protocol when it is asked to. No socket has the one that is named.
pub(crate) fn can_destroy(protocol: Transport) -> io::Result<bool> {
    // Cookies count from 1: not even a socket without an address is meant.
    let nobody = SocketId { cookie: [0; 8], ..SocketId::new_v4() };
    match Netlink::open(NETLINK_SOCK_DIAG)?
        .ask(SOCK_DESTROY, &bytes(&request(AF_INET, number(protocol), StateFlags::all(), nobody)))
    {
        Err(error) if error.raw_os_error() == Some(EOPNOTSUPP) => Ok(false),
        Err(error) if error.raw_os_error() == Some(ENOENT) => Ok(true),
        done => done.map(|()| true),
    }
}

fn socket(protocol: Transport, header: &InetResponseHeader) -> Socket {
    let id = &header.socket_id;
    let state = match (protocol, header.state) {
        (Transport::Tcp, TCP_LISTEN) | (Transport::Udp, TCP_CLOSE) => State::Listening,
        (Transport::Tcp, TCP_TIME_WAIT | TCP_CLOSE | TCP_BOUND_INACTIVE) => State::Idle,
        (Transport::Tcp, _) | (Transport::Udp, TCP_ESTABLISHED) => State::Connected,
        (Transport::Udp, _) => State::Idle,
    };
    Socket {
        protocol,
        state,
        local: plain(SocketAddr::new(id.source_address, id.source_port)),
        remote: plain(SocketAddr::new(id.destination_address, id.destination_port)),
        uid: header.uid,
        group: None,
        inode: header.inode,
        interface: id.interface_id,
    }
}

/// INET_DIAG_CGROUP_ID, which follows the fixed part of an answer (kernel 5.9 and later; include/uapi/linux/inet_diag.h).
fn group(body: &[u8]) -> Option<u64> {
    let (_, value, _) = attributes(body.get(INET_DIAG_MSG..)?).find(|(kind, _, _)| *kind == INET_DIAG_CGROUP_ID)?;
    value.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
}

fn number(protocol: Transport) -> u8 {
    match protocol {
        Transport::Tcp => IPPROTO_TCP,
        Transport::Udp => IPPROTO_UDP,
    }
}

/// `inet_diag_req` of include/uapi/linux/inet_diag.h: its family is not asked (inet_diag_dump_compat), and 0 in all of its id is any socket.
fn of_both_families(states: &StateFlags) -> Vec<u8> {
    let mut bytes = vec![0; INET_DIAG_REQ];
    bytes[INET_DIAG_REQ_STATES..][..4].copy_from_slice(&states.bits().to_ne_bytes());
    bytes
}

fn request(family: u8, protocol: u8, states: StateFlags, socket_id: SocketId) -> InetRequest {
    InetRequest { family, protocol, extensions: ExtensionFlags::empty(), states, socket_id }
}

fn bytes(request: &InetRequest) -> Vec<u8> {
    let mut bytes = vec![0; request.buffer_len()];
    request.emit(&mut bytes);
    bytes
}
