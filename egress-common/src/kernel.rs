//! What the programs read of the kernel's own structures, of which every kernel has another layout.

/// A member of a structure of the kernel's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Member {
    /// The `sock` of a `socket`.
    SocketSock,
    /// What kind a `socket` is (`SOCK_`).
    SocketKind,
    /// The namespace of a `sock`.
    SockNetns,
    /// The family of a `sock` (`AF_`).
    SockFamily,
    /// The cookie of a network namespace.
    NetnsCookie,
    /// The namespaces of a task.
    TaskNamespaces,
    /// The network namespace among them.
    NamespacesNetns,
}

impl Member {
    /// Every member, in the order of [`index`](Self::index).
    pub const ALL: [Member; 7] = [
        Member::SocketSock,
        Member::SocketKind,
        Member::SockNetns,
        Member::SockFamily,
        Member::NetnsCookie,
        Member::TaskNamespaces,
        Member::NamespacesNetns,
    ];

    /// Its place in the [constant](crate::maps::MEMBERS) that tells the programs the offsets.
    #[inline(always)]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The structure and the member, as the kernel's sources name them.
    pub const fn path(self) -> (&'static str, &'static str) {
        match self {
            Member::SocketSock => ("socket", "sk"),
            Member::SocketKind => ("socket", "type"),
            // A `sock` begins with a `sock_common`.
            Member::SockNetns => ("sock_common", "skc_net"),
            Member::SockFamily => ("sock_common", "skc_family"),
            Member::NetnsCookie => ("net", "net_cookie"),
            Member::TaskNamespaces => ("task_struct", "nsproxy"),
            Member::NamespacesNetns => ("nsproxy", "net_ns"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_stands_at_its_index() {
        for (index, member) in Member::ALL.into_iter().enumerate() {
            assert_eq!(member.index(), index);
        }
    }
}
