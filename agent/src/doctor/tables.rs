//! Tables of others in the kernel: those that may keep the broker away, and those that see frames where ours do.

use std::collections::BTreeSet;
use std::fs;

use netlink_sys::protocols::NETLINK_NETFILTER;
use portcullis_agent_core::ruleset::TABLE;

use super::Finding;
use crate::firewall::{exempting, family};
use crate::netlink::{Netlink, attributes, text, value};

const CHECK: &str = "tables";
/// include/uapi/linux/netfilter/nfnetlink.h, nf_tables.h
const NFNL_SUBSYS_NFTABLES: u16 = 10 << 8;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_GETFLOWTABLE: u16 = 23;
const NFGENMSG: usize = 4;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_FLOWTABLE_TABLE: u16 = 1;
const NFTA_FLOWTABLE_NAME: u16 = 2;
/// include/uapi/linux/netfilter.h
const FAMILY_NETDEV: &str = "netdev";
const FAMILIES_OF_PACKETS: [&str; 3] = ["inet", "ip", "ip6"];
const NF_INET_LOCAL_IN: u32 = 1;
const NF_INET_LOCAL_OUT: u32 = 3;
/// iptables' own tables, of this network namespace.
const LEGACY: [&str; 2] = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];

/// A base chain that is none of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub family: &'static str,
    pub table: String,
    pub name: String,
    pub hook: u32,
    pub drops: bool,
}

/// `reached`: whether the broker answers now; None where that is not known.
pub(super) fn look(reached: Option<bool>) -> Vec<Finding> {
    let mut chains = Vec::new();
    let listed = Netlink::open(NETLINK_NETFILTER).and_then(|mut netlink| {
        netlink.dump(NFNL_SUBSYS_NFTABLES | NFT_MSG_GETCHAIN, &[0; NFGENMSG], |body| chains.extend(chain(body)))
    });
    if let Err(error) = listed {
        return vec![Finding::unseen(CHECK, error)];
    }
    let mut bypasses = Bypasses::default();
    let listed = exempting().and_then(|untracked| {
        bypasses.untracked = untracked;
        Netlink::open(NETLINK_NETFILTER)?
            .dump(NFNL_SUBSYS_NFTABLES | NFT_MSG_GETFLOWTABLE, &[0; NFGENMSG], |body| bypasses.offloaded.extend(offloaded(body)))
    });
    if let Err(error) = listed {
        tracing::debug!(%error, "the rules of others cannot be listed");
    }
    let read = |path: &&str| fs::read_to_string(path).unwrap_or_default();
    let mut legacy: Vec<String> =
        LEGACY.iter().map(read).flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    legacy.sort_unstable();
    legacy.dedup();
    let mut findings = judge(&chains, &legacy, reached);
    findings.extend(judge_bypasses(&bypasses));
    findings
}

/// What others keep from conntrack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Bypasses {
    /// Chains with rules that exempt packets from it.
    untracked: BTreeSet<String>,
    /// Tables of flows that are forwarded before the chains are asked.
    offloaded: BTreeSet<String>,
}

fn offloaded(body: &[u8]) -> Option<String> {
    let (header, rest) = body.split_at_checked(NFGENMSG)?;
    let name = format!("{} {}", text(value(rest, NFTA_FLOWTABLE_TABLE)?), text(value(rest, NFTA_FLOWTABLE_NAME)?));
    Some(format!("{} {name}", family(header[0])?))
}

fn judge_bypasses(bypasses: &Bypasses) -> Vec<Finding> {
    let names = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(", ");
    let mut findings = Vec::new();
    if !bypasses.untracked.is_empty() {
        findings.push(Finding::warn(
            CHECK,
            format!(
                "rules exempt packets from conntrack ({}): exclusions pass these by address and port alone, in both directions, and no packet-too-big comes for them",
                names(&bypasses.untracked)
            ),
            "take the rules away, or keep them to ports that no exclusion names",
        ));
    }
    if !bypasses.offloaded.is_empty() {
        findings.push(Finding::warn(
            CHECK,
            format!(
                "flow tables forward packets before the chains are asked ({}): their flows end only as an isolation deletes their conntrack entries, which older kernels refuse",
                names(&bypasses.offloaded)
            ),
            "take the flow table away on hosts that are to be isolated whole",
        ));
    }
    findings
}

fn chain(body: &[u8]) -> Option<Chain> {
    let (header, rest) = body.split_at_checked(NFGENMSG)?;
    let family = family(header[0])?;
    let big = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    let table = text(value(rest, NFTA_CHAIN_TABLE)?);
    let hook = attributes(value(rest, NFTA_CHAIN_HOOK)?).find(|(kind, _, _)| *kind == NFTA_HOOK_HOOKNUM)?.1;
    (table != TABLE).then_some(Chain {
        family,
        table,
        name: text(value(rest, NFTA_CHAIN_NAME)?),
        hook: big(hook)?,
        drops: value(rest, NFTA_CHAIN_POLICY).and_then(big) == Some(0),
    })
}

fn judge(chains: &[Chain], legacy: &[String], reached: Option<bool>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let names = |wanted: &dyn Fn(&&Chain) -> bool| {
        let mut names: Vec<_> =
            chains.iter().filter(wanted).map(|chain| format!("{} {} {}", chain.family, chain.table, chain.name)).collect();
        names.dedup();
        names.join(", ")
    };
    let on_devices = names(&|chain| chain.family == FAMILY_NETDEV);
    if !on_devices.is_empty() {
        findings.push(Finding::warn(
            CHECK,
            format!("other programs filter frames on devices: {on_devices}; such a chain can hand a frame to another device (fwd, dup)"),
            "look at it with `nft list ruleset netdev`; take away what sends frames on",
        ));
    }
    let dropping = |chain: &&Chain| {
        chain.drops && FAMILIES_OF_PACKETS.contains(&chain.family) && [NF_INET_LOCAL_IN, NF_INET_LOCAL_OUT].contains(&chain.hook)
    };
    let dropping = names(&dropping);
    if !dropping.is_empty() && reached == Some(false) {
        findings.push(Finding::warn(
            CHECK,
            format!("the broker does not answer, and these drop what they do not name: {dropping}"),
            "let the agent's connection to the broker out, and the answers to it in",
        ));
    }
    let mut tables: Vec<_> = chains.iter().map(|chain| format!("{} {}", chain.family, chain.table)).collect();
    tables.extend(legacy.iter().map(|table| format!("iptables {table}")));
    tables.sort_unstable();
    tables.dedup();
    findings.push(match tables.as_slice() {
        [] => Finding::ok(CHECK, "no rules of others in the kernel"),
        tables => Finding::ok(
            CHECK,
            format!("rules of others in the kernel: {}; none of them passes what ours drop", tables.join(", ")),
        ),
    });
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    fn chain(family: &'static str, hook: u32, drops: bool) -> Chain {
        Chain { family, table: "t".into(), name: "c".into(), hook, drops }
    }

    #[test]
    fn foreign_chains_are_judged_by_what_they_can_do_to_us() {
        let grades = |chains: &[Chain], reached| judge(chains, &[], reached).iter().map(|f| f.grade).collect::<Vec<_>>();
        assert_eq!(grades(&[], Some(false)), [Grade::Ok]);
        assert_eq!(grades(&[chain("netdev", 0, false)], Some(true)), [Grade::Warn, Grade::Ok]);
        let drops = [chain("ip", NF_INET_LOCAL_OUT, true)];
        assert_eq!(grades(&drops, Some(true)), [Grade::Ok]);
        assert_eq!(grades(&drops, None), [Grade::Ok]);
        assert_eq!(grades(&drops, Some(false)), [Grade::Warn, Grade::Ok]);
        // Forwarded packets and bridged frames are not the agent's.
        assert_eq!(grades(&[chain("inet", 2, true), chain("bridge", NF_INET_LOCAL_OUT, true)], Some(false)), [Grade::Ok]);
    }

    #[test]
    fn what_is_kept_from_conntrack_is_warned_of() {
        assert_eq!(judge_bypasses(&Bypasses::default()), []);
        let bypasses = Bypasses { untracked: ["ip raw PREROUTING".into()].into(), offloaded: ["inet x f".into()].into() };
        let findings = judge_bypasses(&bypasses);
        assert_eq!(findings.iter().map(|finding| finding.grade).collect::<Vec<_>>(), [Grade::Warn, Grade::Warn]);
        assert!(findings[0].says.contains("(ip raw PREROUTING)") && findings[1].says.contains("(inet x f)"), "{findings:?}");
    }

    #[test]
    fn each_table_is_named_once() {
        let findings = judge(&[chain("ip", 1, false), chain("ip", 3, false)], &["filter".into()], None);
        assert!(findings[0].says.contains(": ip t, iptables filter;"), "{findings:?}");
    }
}
