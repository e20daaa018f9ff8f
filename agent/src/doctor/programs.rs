//! What sees or sends frames beside netfilter's hooks: AF_XDP sockets, XDP programs, filters of tc.

use std::fs;
use std::io;

use super::Finding;
use crate::links::{self, Link, NETLINK_ROUTE};
use crate::netlink::{Netlink, number, text, value};

const CHECK: &str = "xdp";
const FILTERS: &str = "tc";
/// How many sockets of each kind this network namespace has.
const PROTOCOLS: &str = "/proc/net/protocols";
/// include/uapi/linux/rtnetlink.h
const RTM_GETQDISC: u16 = 38;
const TCMSG: usize = 20;
const TCA_KIND: u16 = 1;
/// Where tc's filters on the way in and out are kept.
const HOLDERS: [&str; 2] = ["clsact", "ingress"];

pub(super) fn look() -> Vec<Finding> {
    let links = links::list();
    let protocols = fs::read_to_string(PROTOCOLS).map(|text| sockets(&text));
    let mut findings = match (&links, protocols) {
        (Ok(links), Ok(sockets)) => xdp(sockets, links),
        (Err(error), _) => vec![Finding::unseen(CHECK, error)],
        (_, Err(error)) => vec![Finding::unseen(CHECK, error)],
    };
    findings.push(match (holders(), links) {
        (Ok(holders), Ok(links)) => filters(&holders, &links),
        (Err(error), _) | (_, Err(error)) => Finding::unseen(FILTERS, error),
    });
    findings
}

/// The third field of the line of a protocol counts its sockets (net/core/sock.c, proto_seq_printf).
fn sockets(text: &str) -> u64 {
    let of = |line: &str| {
        let mut fields = line.split_whitespace();
        (fields.next()? == "XDP").then(|| fields.nth(1)?.parse().ok()).flatten()
    };
    text.lines().find_map(of).unwrap_or_default()
}

fn holders() -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    Netlink::open(NETLINK_ROUTE)?.dump(RTM_GETQDISC, &[0; TCMSG], |body| {
        let kind = body.get(TCMSG..).and_then(|rest| value(rest, TCA_KIND)).map(text).unwrap_or_default();
        if HOLDERS.contains(&kind.as_str()) {
            found.extend(body.get(4..).and_then(number));
        }
    })?;
    Ok(found)
}

fn xdp(sockets: u64, links: &[Link]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if sockets > 0 {
        findings.push(Finding::fail(
            CHECK,
            format!("{sockets} AF_XDP sockets are open: who holds one sends past every rule"),
            "end the programs that hold them (`ss --xdp -p` names them), or keep such hosts behind a switch that can isolate them",
        ));
    }
    let programs: Vec<_> = links.iter().filter(|link| link.has_xdp).map(|link| link.name.as_str()).collect();
    if !programs.is_empty() {
        findings.push(Finding::warn(
            CHECK,
            format!(
                "XDP programs are attached to {}: they see frames before every rule, and can send them back",
                programs.join(", ")
            ),
            "`ip link set DEVICE xdp off`, unless you know the program",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "no AF_XDP sockets and no XDP programs"));
    }
    findings
}

fn filters(holders: &[u32], links: &[Link]) -> Finding {
    let mut names: Vec<_> = links.iter().filter(|link| holders.contains(&link.index)).map(|link| link.name.as_str()).collect();
    names.dedup();
    match names.as_slice() {
        [] => Finding::ok(FILTERS, "no filters of tc on the way in or out"),
        names => Finding::warn(
            FILTERS,
            format!(
                "filters of tc may be attached to {}: on the way in they can send frames out past every rule",
                names.join(", ")
            ),
            "look at them with `tc filter show dev DEVICE ingress`; keep those that you know",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    const TEXT: &str = "protocol  size sockets  memory press maxhdr  slab module     cl co\n\
                        PACKET    1792      3      -1   NI       0   no   kernel      n  n\n\
                        XDP       1152      2      -1   NI       0   no   kernel      n  n\n";

    #[test]
    fn what_sends_past_the_rules_breaks_the_promise_and_what_only_sees_frames_is_warned_of() {
        assert_eq!((sockets(TEXT), sockets("protocol size sockets\n")), (2, 0));
        let link = |index, has_xdp| Link { index, name: format!("eth{index}"), has_xdp, ..Link::default() };
        let grades = |sockets, links: &[Link]| xdp(sockets, links).iter().map(|f| f.grade).collect::<Vec<_>>();
        assert_eq!(grades(0, &[link(2, false)]), [Grade::Ok]);
        assert_eq!(grades(2, &[link(2, false)]), [Grade::Fail]);
        assert_eq!(grades(1, &[link(2, true)]), [Grade::Fail, Grade::Warn]);
        assert_eq!(filters(&[], &[link(2, false)]).grade, Grade::Ok);
        assert!(filters(&[3, 3], &[link(2, false), link(3, false)]).says.contains("eth3"));
    }
}
