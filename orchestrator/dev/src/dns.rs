//! A DNS responder that knows one zone, `lab.test`, in which every name is the outside world.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::topology::{OUTSIDE_V4, OUTSIDE_V6};

const ZONE: [&[u8]; 2] = [b"lab", b"test"];
const TTL_S: u32 = 5;

/// The answer to a query; nothing to what is not even a query.
pub(crate) fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let header: [u8; HEADER] = query.get(..HEADER)?.try_into().ok()?;
    let [id_high, id_low, flags, _, ..] = header;
    if flags & RESPONSE != 0 {
        return None;
    }
    let question = Question::parse(query);
    let (code, records) = match &question {
        _ if flags & OPCODE != 0 => (Code::NotImplemented, None),
        None => (Code::FormatError, None),
        Some(question) if !question.in_zone => (Code::NoSuchName, None),
        Some(question) => (Code::NoError, question.address()),
    };
    let question = question.map(|question| question.bytes).unwrap_or_default();

    let mut reply = vec![id_high, id_low];
    reply.push(RESPONSE | AUTHORITATIVE | (flags & (OPCODE | RECURSION_DESIRED)));
    reply.push(RECURSION_AVAILABLE | code as u8);
    for count in [u16::from(!question.is_empty()), u16::from(records.is_some()), 0, 0] {
        reply.extend(count.to_be_bytes());
    }
    reply.extend(question);
    if let Some((kind, data)) = records {
        reply.extend(NAME_OF_QUESTION);
        reply.extend(kind.to_be_bytes());
        reply.extend(INTERNET.to_be_bytes());
        reply.extend(TTL_S.to_be_bytes());
        // An address has 4 or 16 bytes.
        reply.extend([0, data.len() as u8]);
        reply.extend(data);
    }
    Some(reply)
}

const HEADER: usize = 12;
const RESPONSE: u8 = 0x80;
const OPCODE: u8 = 0x78;
const AUTHORITATIVE: u8 = 0x04;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;
const NAME_OF_QUESTION: [u8; 2] = [0xc0, HEADER as u8];
const INTERNET: u16 = 1;
const A: u16 = 1;
const AAAA: u16 = 28;

#[derive(Clone, Copy)]
enum Code {
    NoError = 0,
    FormatError = 1,
    NoSuchName = 3,
    NotImplemented = 4,
}

struct Question<'a> {
    bytes: &'a [u8],
    in_zone: bool,
    kind: u16,
}

impl<'a> Question<'a> {
    /// The one question of a query, without compression: nobody compresses a first name.
    fn parse(query: &'a [u8]) -> Option<Self> {
        if query.get(4..6)? != [0, 1] {
            return None;
        }
        let mut labels: Vec<&[u8]> = Vec::new();
        let mut at = HEADER;
        loop {
            let length = usize::from(*query.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            if length > 63 || at - HEADER + length > 254 {
                return None;
            }
            labels.push(query.get(at..at + length)?);
            at += length;
        }
        let kind = u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?);
        let class = u16::from_be_bytes(query.get(at + 2..at + 4)?.try_into().ok()?);
        let zone = labels.len().checked_sub(ZONE.len()).and_then(|from| labels.get(from..));
        let in_zone = zone.is_some_and(|zone| zone.iter().zip(ZONE).all(|(ours, theirs)| ours.eq_ignore_ascii_case(theirs)));
        Some(Self { bytes: query.get(HEADER..at + 4)?, in_zone: in_zone && class == INTERNET, kind })
    }

    fn address(&self) -> Option<(u16, Vec<u8>)> {
        match self.kind {
            A => Some((A, Ipv4Addr::octets(&OUTSIDE_V4).to_vec())),
            AAAA => Some((AAAA, Ipv6Addr::octets(&OUTSIDE_V6).to_vec())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_zone_have_both_addresses() {
        let reply = answer(&query("www.lab.test", A)).unwrap();
        assert_eq!(reply[..4], [0xab, 0xcd, 0x85, 0x80]);
        assert_eq!(reply[4..12], [0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(reply[reply.len() - 4..], OUTSIDE_V4.octets());
        let reply = answer(&query("A.b.LAB.Test", AAAA)).unwrap();
        assert_eq!(reply[reply.len() - 16..], OUTSIDE_V6.octets());
    }

    #[test]
    fn other_types_are_empty_and_other_names_do_not_exist() {
        let reply = answer(&query("www.lab.test", 15)).unwrap();
        assert_eq!((reply[3] & 15, reply[7]), (0, 0));
        for name in ["example.org", "test", "notlab.test", "lab.test.org", ""] {
            let reply = answer(&query(name, A)).unwrap();
            assert_eq!((reply[3] & 15, reply[7]), (3, 0), "{name}");
        }
    }

    #[test]
    fn rubbish_never_panics_and_answers_are_not_answered() {
        let good = query("www.lab.test", A);
        for length in 0..good.len() {
            let reply = answer(&good[..length]);
            assert_eq!(reply.is_some(), length >= HEADER);
            assert!(reply.is_none_or(|reply| reply[3] & 15 == 1));
        }
        for at in 0..good.len() {
            for value in 0..=255 {
                let mut bad = good.clone();
                bad[at] = value;
                answer(&bad);
            }
        }
        assert!(answer(&answer(&good).unwrap()).is_none());
    }

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut query = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.').filter(|label| !label.is_empty()) {
            query.push(label.len() as u8);
            query.extend(label.as_bytes());
        }
        query.push(0);
        query.extend(kind.to_be_bytes());
        query.extend(INTERNET.to_be_bytes());
        query
    }
}
