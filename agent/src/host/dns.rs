//! Asks name servers directly: while a host is isolated, a stub on it may not reach anybody, and this agent may.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use portcullis_agent_core::record::NameServer;
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, TYPE};

use crate::host::devices;

const PORT: u16 = 53;
/// Name servers that are asked; the C library takes three as well (resolv.conf(5)).
const MOST_SERVERS: usize = 3;
/// Addresses of one name that are taken.
const MOST_ADDRESSES: usize = 16;

/// The addresses of those names that somebody answered for in time. Blocks for at most `patience`.
///
/// All servers are asked at once, and for each question the first one that has addresses counts.
pub fn resolve(names: &BTreeSet<String>, servers: &[NameServer], patience: Duration) -> BTreeMap<String, Vec<IpAddr>> {
    ask(names, &servers.iter().filter_map(address).take(MOST_SERVERS).collect::<Vec<_>>(), patience)
}

/// None where its device is not there.
fn address(server: &NameServer) -> Option<SocketAddr> {
    match (server.address, &server.device) {
        (IpAddr::V6(address), Some(device)) => {
            let named = || devices::list().ok()?.into_iter().find(|known| known.name == *device).map(|known| known.index);
            let index = device.parse().ok().or_else(named)?;
            Some(SocketAddrV6::new(address, PORT, 0, index).into())
        }
        (address, _) => Some(SocketAddr::new(address, PORT)),
    }
}

/// Whether an answer is from that server. One that is named without its device may be on any.
fn is_from(server: &SocketAddr, from: &SocketAddr) -> bool {
    let scope = |address: &SocketAddr| if let SocketAddr::V6(v6) = address { v6.scope_id() } else { 0 };
    (server.ip(), server.port()) == (from.ip(), from.port()) && [0, scope(from)].contains(&scope(server))
}

fn ask(names: &BTreeSet<String>, servers: &[SocketAddr], patience: Duration) -> BTreeMap<String, Vec<IpAddr>> {
    let until = Instant::now() + patience;
    let mut questions: Vec<Asked> =
        names.iter().flat_map(|name| [TYPE::A, TYPE::AAAA].map(|kind| Asked::new(name, kind))).collect();
    let mut sockets = Vec::new();
    for any in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
        let of_family: Vec<SocketAddr> = servers.iter().filter(|server| server.is_ipv4() == any.is_ipv4()).copied().collect();
        match of_family.is_empty() {
            true => {}
            false => sockets.extend(send(any, &of_family, &questions).map(|socket| (socket, of_family)).ok()),
        }
    }
    let mut found: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
    // Each socket in turn, for a short time: there are two at most.
    let slice = if sockets.len() > 1 { Duration::from_millis(5) } else { patience };
    while questions.iter().any(|question| !question.answered) && !sockets.is_empty() {
        let rest = until.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            break;
        }
        for (socket, servers) in &sockets {
            let mut buffer = [0; 4096];
            let _ = socket.set_read_timeout(Some(slice.min(rest).max(Duration::from_millis(1))));
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            if !servers.iter().any(|server| is_from(server, &from)) {
                continue;
            }
            for question in questions.iter_mut().filter(|question| !question.answered) {
                if let Some(addresses) = question.answer(&buffer[..length]) {
                    question.answered = true;
                    found.entry(question.name.clone()).or_default().extend(addresses);
                }
            }
        }
    }
    found.into_iter().map(|(name, addresses)| (name, addresses.into_iter().take(MOST_ADDRESSES).collect())).collect()
}

fn send(any: IpAddr, servers: &[SocketAddr], questions: &[Asked]) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((any, 0))?;
    for server in servers {
        for question in questions {
            if let Some(body) = question.encode() {
                // One server that cannot be reached does not keep from the others.
                let _ = socket.send_to(&body, server);
            }
        }
    }
    Ok(socket)
}

struct Asked {
    id: u16,
    name: String,
    kind: TYPE,
    answered: bool,
}

impl Asked {
    fn new(name: &str, kind: TYPE) -> Self {
        // Keyed anew each time by the operating system's randomness: an answer has to be guessed with it and the port.
        let id = RandomState::new().build_hasher().finish() as u16;
        Self { id, name: name.to_owned(), kind, answered: false }
    }

    fn encode(&self) -> Option<Vec<u8>> {
        let mut packet = Packet::new_query(self.id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new(&self.name).ok()?;
        packet.questions.push(Question::new(name, QTYPE::TYPE(self.kind), QCLASS::CLASS(CLASS::IN), false));
        packet.build_bytes_vec().ok()
    }

    /// The addresses, if this is the answer to the question and has any.
    fn answer(&self, bytes: &[u8]) -> Option<Vec<IpAddr>> {
        let packet = Packet::parse(bytes).ok()?;
        let question = packet.questions.first()?;
        let same = question.qname.to_string().eq_ignore_ascii_case(&self.name) && question.qtype == QTYPE::TYPE(self.kind);
        if packet.id() != self.id || !packet.has_flags(PacketFlag::RESPONSE) || !same {
            return None;
        }
        let address = |data: &RData<'_>| match data {
            RData::A(a) => Some(IpAddr::from(Ipv4Addr::from_bits(a.address))),
            RData::AAAA(a) => Some(IpAddr::from(Ipv6Addr::from_bits(a.address))),
            _ => None,
        };
        let found: Vec<IpAddr> = packet.answers.iter().filter_map(|record| address(&record.rdata)).collect();
        (!found.is_empty()).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::{A, AAAA};

    use super::*;

    #[test]
    fn each_name_gets_its_addresses_and_a_silent_server_keeps_nobody() {
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (server, address) = server(|query| vec![answer(query, query.id())]);
        let names = ["a.example", "none.example"].map(str::to_owned).into();
        let found = ask(&names, &[silent.local_addr().unwrap(), address], Duration::from_millis(300));
        drop(server);
        let expected = ["10.0.0.7", "fd00::7"].map(|ip| ip.parse().unwrap());
        assert_eq!(found, [("a.example".to_owned(), expected.into())].into());
    }

    #[test]
    fn an_answer_with_another_id_or_to_another_question_is_none() {
        let question = Asked::new("a.example", TYPE::A);
        let query = |name: &str| {
            let mut packet = Packet::new_query(question.id);
            packet.questions.push(Question::new(
                Name::new(name).unwrap().into_owned(),
                QTYPE::TYPE(TYPE::A),
                QCLASS::CLASS(CLASS::IN),
                false,
            ));
            packet
        };
        assert!(question.answer(&answer(&query("A.example"), question.id)).is_some());
        assert_eq!(question.answer(&answer(&query("a.example"), question.id.wrapping_add(1))), None);
        assert_eq!(question.answer(&answer(&query("b.example"), question.id)), None);
        assert_eq!(question.answer(&query("a.example").build_bytes_vec().unwrap()), None);
        assert_eq!(question.answer(b"rubbish"), None);
    }

    fn server(reply: impl Fn(&Packet<'_>) -> Vec<Vec<u8>> + Send + 'static) -> (std::thread::JoinHandle<()>, SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let address = socket.local_addr().unwrap();
        let run = move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                for body in reply(&Packet::parse(&buffer[..length]).unwrap()) {
                    socket.send_to(&body, from).unwrap();
                }
            }
        };
        (std::thread::spawn(run), address)
    }

    /// What a server says of a name: nothing of those that begin with `none`.
    fn answer(query: &Packet<'_>, id: u16) -> Vec<u8> {
        let mut packet = Packet::new_reply(id);
        let question = query.questions[0].clone();
        let data = match question.qtype {
            QTYPE::TYPE(TYPE::A) => RData::A(A::from("10.0.0.7".parse::<Ipv4Addr>().unwrap())),
            _ => RData::AAAA(AAAA::from("fd00::7".parse::<Ipv6Addr>().unwrap())),
        };
        if !question.qname.to_string().starts_with("none") {
            packet.answers.push(ResourceRecord::new(question.qname.clone(), CLASS::IN, 5, data));
        }
        packet.questions.push(question);
        packet.build_bytes_vec().unwrap()
    }
}
