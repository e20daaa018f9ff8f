//! What sees or sends frames beside netfilter's hooks: AF_XDP sockets, and programs on network devices.

use super::Finding;
use crate::watch::af_xdp;
use crate::watch::programs::{self, Listed};

const SOCKETS: &str = "xdp";
const PROGRAMS: &str = "tc";
/// How many programs a finding names.
const SHOWN: usize = 6;

pub(super) fn look() -> [Finding; 2] {
    let programs = match programs::list() {
        Ok(Listed { unseen: Some(error), programs }) if programs.is_empty() => Finding::unseen(PROGRAMS, format!("tcx: {error}")),
        Ok(Listed { programs, .. }) => attached(&programs.into_iter().map(|program| program.what).collect::<Vec<_>>()),
        Err(error) => Finding::unseen(PROGRAMS, error),
    };
    [af_xdp::open().map_or_else(|error| Finding::unseen(SOCKETS, error), sockets), programs]
}

fn sockets(open: u64) -> Finding {
    match open {
        0 => Finding::ok(SOCKETS, "no AF_XDP sockets are open"),
        open => Finding::fail(
            SOCKETS,
            format!("{open} AF_XDP socket(s) are open: frames that they send pass no rule; opening one takes CAP_NET_RAW alone"),
            "end the programs that hold them (`ss --xdp -p` names them, on kernels with CONFIG_XDP_SOCKETS_DIAG), or keep such hosts behind a switch that can isolate them",
        ),
    }
}

fn attached(programs: &[String]) -> Finding {
    let more = programs.len().saturating_sub(SHOWN);
    let and = if more > 0 { format!("; and {more} more") } else { String::new() };
    match &programs[..programs.len() - more] {
        [] => Finding::ok(PROGRAMS, "no XDP or tcx programs and no filters of tc on the way in or out"),
        named => Finding::warn(
            PROGRAMS,
            format!(
                "these see frames before every rule, can send them out past the rules, and stay attached while the host is isolated: {}{and}",
                named.join("; ")
            ),
            "look at them with `bpftool net` and `tc filter show dev DEVICE ingress`; remove those that you do not know",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    #[test]
    fn what_sends_past_the_rules_breaks_the_promise_and_what_only_sees_frames_is_warned_of() {
        assert_eq!([sockets(0).grade, sockets(2).grade], [Grade::Ok, Grade::Fail]);
        assert_eq!(attached(&[]).grade, Grade::Ok);
        let names: Vec<String> = (0..8).map(|n| format!("XDP program {n} on eth{n}")).collect();
        let found = attached(&names);
        assert!(found.grade == Grade::Warn && found.says.contains("eth5") && found.says.ends_with("and 2 more"), "{found:?}");
    }
}
