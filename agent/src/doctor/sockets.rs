//! What ends connections that stand when the gate drops.

use std::io;

use portcullis_agent_core::gate::Transport;

use super::Finding;
use crate::sockets;

pub(super) fn look() -> Vec<Finding> {
    vec![conntrack(sockets::conntrack_answers()), destroy([Transport::Tcp, Transport::Udp].map(sockets::can_destroy))]
}

fn conntrack(answers: io::Result<()>) -> Finding {
    match answers {
        Ok(()) => Finding::ok("conntrack", "answers over netlink: flows are ended"),
        Err(error) => Finding::warn(
            "conntrack",
            format!("does not answer over netlink ({error}): entries of severed and forwarded flows stay until they time out"),
            "run as root; modprobe nf_conntrack_netlink (CONFIG_NF_CT_NETLINK)",
        ),
    }
}

fn destroy(can: [io::Result<bool>; 2]) -> Finding {
    const CHECK: &str = "sock_diag";
    match can {
        [Ok(true), Ok(true)] => Finding::ok(CHECK, "TCP and UDP sockets are destroyed"),
        [Err(error), _] | [_, Err(error)] => Finding::unseen(CHECK, error),
        _ => Finding::warn(
            CHECK,
            "this kernel cannot destroy sockets: open connections are cut off, and local programs wait until they time out",
            "use a kernel with CONFIG_INET_DIAG_DESTROY",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    #[test]
    fn a_kernel_that_cannot_sever_is_named() {
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(conntrack(Ok(())).grade, Grade::Ok);
        assert_eq!(conntrack(Err(denied())).grade, Grade::Warn);
        assert_eq!(destroy([Ok(true), Ok(true)]).grade, Grade::Ok);
        assert!(destroy([Ok(true), Ok(false)]).remedy.unwrap().contains("INET_DIAG_DESTROY"));
        assert!(destroy([Ok(true), Err(denied())]).says.contains("cannot be looked at"));
    }
}
