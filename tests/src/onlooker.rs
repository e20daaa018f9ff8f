//! An onlooker at a host's kernel: who changed nftables there, and when. It sees what an agent hears, and times it by itself.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use portcullis_dev::Netns;
use portcullis_dev::in_netns;
use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

/// include/uapi/linux/netfilter/nfnetlink.h, nf_tables.h
const GROUP_NFTABLES: u32 = 1 << 6;
const NEWGEN: u16 = 10 << 8 | 15;
const GEN_PROC_PID: u16 = 2;

pub struct Onlooker(OwnedFd);

impl Onlooker {
    /// Looks on from now.
    pub fn new(netns: &Netns) -> io::Result<Self> {
        let open = || {
            let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))?;
            set_socket_recv_buffer_size_force(&socket, 32 << 20)?;
            set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(5)))?;
            bind(&socket, &SocketAddrNetlink::new(0, GROUP_NFTABLES))?;
            Ok::<_, Errno>(socket)
        };
        Ok(Self(in_netns(netns, open)??))
    }

    /// From the next transaction of somebody else than `agent` until the next one of `agent`. To be asked before it is done, on a thread of
    /// its own: the times are those at which it is read.
    pub fn answered(&self, agent: u32) -> io::Result<Duration> {
        let mut done = None;
        loop {
            let mut buffer = [0; 65536];
            let (_, length) = match recv(&self.0, &mut buffer[..], RecvFlags::empty()) {
                Err(Errno::INTR) => continue,
                received => received?,
            };
            for thread in generations(&buffer[..length]) {
                let is_agents = Path::new(&format!("/proc/{agent}/task/{thread}")).exists();
                match done {
                    None if !is_agents => done = Some(Instant::now()),
                    Some(since) if is_agents => return Ok(since.elapsed()),
                    _ => {}
                }
            }
        }
    }
}

/// The threads whose transactions end in this datagram: the kernel names one, and not its process.
fn generations(mut bytes: &[u8]) -> Vec<u32> {
    let mut found = Vec::new();
    while let Some(length) = bytes.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize).filter(|length| *length >= 20)
    {
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        let mut rest = bytes.get(20..length).unwrap_or_default();
        while let (NEWGEN, Some(&[a, b, c, d])) = (kind, rest.first_chunk()) {
            let size = usize::from(u16::from_ne_bytes([a, b]));
            if u16::from_ne_bytes([c, d]) == GEN_PROC_PID
                && let Some(pid) = rest.get(4..8).and_then(|pid| pid.first_chunk())
            {
                found.push(u32::from_be_bytes(*pid));
            }
            rest = rest.get(size.max(4).next_multiple_of(4)..).unwrap_or_default();
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}
