//! Datagrams of unconnected sockets: they pass or are refused.

use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::debug;
use core::net::Ipv6Addr;
use egress_common::{Refuse, Verdict};

use crate::{ALLOW, DENY, judge::judge, maps::count, sockaddr::Family};

#[inline(always)]
pub(crate) fn sendmsg<F: Family>(ctx: &SockAddrContext) -> i32 {
    let judged = judge(ctx, F::read(ctx));
    let verdict = match judged.verdict {
        Verdict::Pass(why) => Verdict::Pass(why),
        // A datagram has no stream to redirect.
        Verdict::Redirect(_) => Verdict::Refuse(Refuse::Udp),
        Verdict::Refuse(why) => Verdict::Refuse(why),
    };
    count(verdict.counter());
    match verdict {
        Verdict::Pass(_) => ALLOW,
        Verdict::Redirect(_) | Verdict::Refuse(_) => {
            judged.tell(ctx, verdict.counter());
            debug!(
                ctx,
                "refuse datagram to {:i} port {} as counter {}",
                Ipv6Addr::from(judged.attempt.dst),
                judged.attempt.port.to_host(),
                verdict.counter().index()
            );
            DENY
        }
    }
}
