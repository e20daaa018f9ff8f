//! Sees every frame that leaves the host, from the other end of its cable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, eth, netdevice, sockopt};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::net::{FRIEND, Namespace, Net, SOON, at};

/// UDP to the friend on this port passes by every gate of these tests.
pub const MARKER_PORT: u16 = 9;

const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OUTSIDE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

pub struct Sniffer(OwnedFd);

impl Sniffer {
    pub fn new(outside: &Namespace) -> Self {
        let socket = outside.run(|| {
            let socket =
                rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::empty(), Some(eth::ALL)).unwrap();
            assert!(netdevice::name_to_index(&socket, "eth0").unwrap() > 0);
            socket
        });
        sockopt::set_socket_recv_buffer_size_force(&socket, 64 << 20).unwrap();
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(SOON)).unwrap();
        Self(socket)
    }

    /// What left the host until now, as `tcp 10.99.0.3:80`: protocol and destination. ARP and what the IPv6 link needs is left
    /// out. Last datagrams show that the sniffer has seen all that went before them.
    pub fn seen(&self, net: &Net) -> Vec<String> {
        self.seen_where(net, |from| from == HOST_MAC)
    }

    /// The same of all that came by the cable, whoever sent it.
    pub fn seen_of_all(&self, net: &Net) -> Vec<String> {
        self.seen_where(net, |from| from != OUTSIDE_MAC)
    }

    /// The same where another namespace has the host's device.
    pub fn seen_from(&self, sender: &Namespace) -> Vec<String> {
        self.seen_until(sender, |from| from == HOST_MAC)
    }

    fn seen_where(&self, net: &Net, wanted: impl Fn([u8; 6]) -> bool) -> Vec<String> {
        self.seen_until(&net.host, wanted)
    }

    fn seen_until(&self, sender: &Namespace, wanted: impl Fn([u8; 6]) -> bool) -> Vec<String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let marker = format!("portcullis marker {}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut left = on_each_processor(|| {
            sender.udp(at("0.0.0.0", 0)).send_to(marker.as_bytes(), at(FRIEND[0], MARKER_PORT)).unwrap();
        });
        let mut list = Vec::new();
        let mut buffer = vec![0; 65536];
        loop {
            let (_, length) = rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty()).expect("the marker arrives");
            let frame = &buffer[..length];
            if is_marker(frame) && frame.ends_with(marker.as_bytes()) {
                left -= 1;
                if left == 0 {
                    return list;
                }
                continue;
            }
            if let Some(row) = frame.windows(4).position(|part| part == b"row ").filter(|_| is_marker(frame)) {
                list.push(String::from_utf8_lossy(&frame[row..]).into_owned());
                continue;
            }
            if frame[6..].first_chunk().is_some_and(|from| wanted(*from)) {
                list.extend(describe(frame));
            }
        }
    }
}

/// A cable between namespaces has a queue for each processor, and keeps the order of each queue only. How many there are.
fn on_each_processor(work: impl Fn()) -> usize {
    let all = sched_getaffinity(None).unwrap();
    let processors: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|processor| all.is_set(*processor)).collect();
    for processor in &processors {
        let mut one = CpuSet::new();
        one.set(*processor);
        sched_setaffinity(None, &one).unwrap();
        work();
    }
    sched_setaffinity(None, &all).unwrap();
    processors.len()
}

/// UDP over IPv4 to the port of markers.
fn is_marker(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[8, 0]) && frame.get(36..38) == Some(&MARKER_PORT.to_be_bytes())
}

fn describe(frame: &[u8]) -> Option<String> {
    match u16::from_be_bytes([frame[12], frame[13]]) {
        0x0806 if frame.len() > 64 => Some("long arp".to_owned()),
        // What ARP for IPv4 on Ethernet begins with, and who sends it, twice.
        0x0806 => (frame[14..20] != [0, 1, 8, 0, 6, 4] || frame[22..28] != frame[6..12]).then(|| "no arp".to_owned()),
        0x0800 => {
            let packet = &frame[14..];
            let to = Ipv4Addr::from(*packet[16..].first_chunk::<4>().unwrap());
            Some(transport(packet[9], to.into(), &packet[usize::from(packet[0] & 15) * 4..]))
        }
        0x86dd => {
            let packet = &frame[14..];
            let to = Ipv6Addr::from(*packet[24..].first_chunk::<16>().unwrap());
            let (protocol, payload) = match packet[6] {
                // MLD comes with a hop-by-hop header.
                0 => (packet[40], &packet[40 + (usize::from(packet[41]) + 1) * 8..]),
                protocol => (protocol, &packet[40..]),
            };
            let of_the_link = protocol == 58 && [131, 132, 133, 135, 136, 143].contains(&payload[0]);
            (!of_the_link).then(|| transport(protocol, to.into(), payload))
        }
        other => Some(format!("ethertype {other:04x}")),
    }
}

fn transport(protocol: u8, to: IpAddr, payload: &[u8]) -> String {
    let port = || u16::from_be_bytes([payload[2], payload[3]]);
    match protocol {
        1 | 58 => format!("icmp-{} {to}", payload[0]),
        6 => format!("tcp {}", std::net::SocketAddr::new(to, port())),
        17 => format!("udp {}", std::net::SocketAddr::new(to, port())),
        other => format!("protocol {other} {to}"),
    }
}
