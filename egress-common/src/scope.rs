//! What the agent tells the kernel programs: one record for all, and one for each captured
//! network namespace.

use crate::{Addr, Port};

/// How many captured ports a scope can have.
pub const MAX_PORTS: usize = 16;

/// How many ports one destination prefix can tell apart.
pub const MAX_PREFIX_PORTS: usize = 10;

/// How many cgroups can be exempt.
pub const EXEMPT_CGROUPS: usize = 4;

/// How many name servers can be known.
pub const MAX_RESOLVERS: usize = 8;

/// What becomes of a connection that no rule speaks about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fallback {
    /// It goes where the application meant it to go.
    Pass,
    /// The application gets `EPERM`.
    Refuse,
}

impl Fallback {
    const PASS: u8 = 1;

    const fn to_byte(self) -> u8 {
        match self {
            Fallback::Pass => Fallback::PASS,
            Fallback::Refuse => 0,
        }
    }

    /// Refuses unless the byte says otherwise, so that a record of zeros is a closed one.
    const fn from_byte(byte: u8) -> Fallback {
        match byte {
            Fallback::PASS => Fallback::Pass,
            _ => Fallback::Refuse,
        }
    }
}

/// More captured ports than [`MAX_PORTS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyPorts;

impl core::fmt::Display for TooManyPorts {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "at most {MAX_PORTS} ports can be captured")
    }
}

impl core::error::Error for TooManyPorts {}

/// More name servers than [`MAX_RESOLVERS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyResolvers;

impl core::fmt::Display for TooManyResolvers {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "at most {MAX_RESOLVERS} name servers can be let through")
    }
}

impl core::error::Error for TooManyResolvers {}

/// How one captured network namespace is treated.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScopeConfig {
    listen_v4: Port,
    listen_v6: Port,
    other_ports: u8,
    strict: u8,
    zero: u16,
    /// Captured ports; what is not used is [`Port::NONE`].
    ports: [Port; MAX_PORTS],
}

const _: () = assert!(size_of::<ScopeConfig>() == 8 + 2 * MAX_PORTS);

impl ScopeConfig {
    /// A scope with the agent's listeners on `127.0.0.1` and, unless it is [`Port::NONE`], on
    /// `::1`. Everything but the captured ports is refused until
    /// [`with_other_ports`](Self::with_other_ports) says otherwise.
    pub const fn new(listen_v4: Port, listen_v6: Port) -> ScopeConfig {
        ScopeConfig {
            listen_v4,
            listen_v6,
            other_ports: Fallback::Refuse.to_byte(),
            strict: 0,
            zero: 0,
            ports: [Port::NONE; MAX_PORTS],
        }
    }

    /// Captures `ports`, given in the machine's byte order; port 0 is ignored.
    ///
    /// # Errors
    /// Fails when there are more than [`MAX_PORTS`].
    pub fn with_ports(mut self, ports: &[u16]) -> Result<ScopeConfig, TooManyPorts> {
        let slots = self.ports.get_mut(..ports.len()).ok_or(TooManyPorts)?;
        for (slot, port) in slots.iter_mut().zip(ports) {
            *slot = Port::from_host(*port);
        }
        Ok(self)
    }

    /// Says what becomes of TCP and UDP to ports that are not captured.
    pub const fn with_other_ports(mut self, other_ports: Fallback) -> ScopeConfig {
        self.other_ports = other_ports.to_byte();
        self
    }

    /// Says whether sockets that nothing judges are refused: raw ones, and those of protocols other
    /// than TCP, UDP and ping.
    pub const fn with_strict(mut self, strict: bool) -> ScopeConfig {
        self.strict = strict as u8;
        self
    }

    /// Whether sockets that nothing judges are refused.
    #[inline(always)]
    pub const fn strict(&self) -> bool {
        self.strict != 0
    }

    /// Whether `port` is captured.
    #[inline(always)]
    pub fn captures(&self, port: Port) -> bool {
        !port.is_none() && self.ports.contains(&port)
    }

    /// The port of the listener on `127.0.0.1`.
    #[inline(always)]
    pub const fn listen_v4(&self) -> Port {
        self.listen_v4
    }

    /// The port of the listener on `::1`; [`Port::NONE`] where the namespace has no such address.
    #[inline(always)]
    pub const fn listen_v6(&self) -> Port {
        self.listen_v6
    }

    /// What becomes of TCP and UDP to ports that are not captured, and of other protocols.
    #[inline(always)]
    pub const fn other_ports(&self) -> Fallback {
        Fallback::from_byte(self.other_ports)
    }

    /// Whether the agent listens at this address and port.
    #[inline(always)]
    pub fn listens_at(&self, addr: Addr, port: Port) -> bool {
        !port.is_none()
            && ((addr == Addr::LOOPBACK_V4 && port == self.listen_v4)
                || (addr == Addr::LOOPBACK_V6 && port == self.listen_v6))
    }
}

/// What holds for every namespace.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Ids of cgroups that are never captured; what is not used is 0, which is no cgroup's id.
    exempt: [u64; EXEMPT_CGROUPS],
    /// Name servers; what is not used is the unspecified address, which never leaves the
    /// namespace.
    resolvers: [Addr; MAX_RESOLVERS],
    /// When the agent last said that it lives.
    beat: u64,
    /// How old that may be; 0 without limit.
    limit: u64,
    unregistered: u8,
    zero: [u8; 7],
}

const _: () = assert!(size_of::<Settings>() == 8 * EXEMPT_CGROUPS + 16 * MAX_RESOLVERS + 24);

impl Settings {
    /// Settings with these exempt cgroups (0: none) and this fate for connections of namespaces
    /// without a scope.
    pub const fn new(exempt: [u64; EXEMPT_CGROUPS], unregistered: Fallback) -> Settings {
        Settings {
            exempt,
            resolvers: [Addr::UNSPECIFIED; MAX_RESOLVERS],
            beat: 0,
            limit: 0,
            unregistered: unregistered.to_byte(),
            zero: [0; 7],
        }
    }

    /// Lets names be resolved at these servers where other ports are refused.
    ///
    /// # Errors
    /// Fails when there are more than [`MAX_RESOLVERS`].
    pub fn with_resolvers(mut self, resolvers: &[Addr]) -> Result<Settings, TooManyResolvers> {
        let slots = self.resolvers.get_mut(..resolvers.len());
        slots.ok_or(TooManyResolvers)?.copy_from_slice(resolvers);
        Ok(self)
    }

    /// Whether a name server is known at this address and port.
    #[inline(always)]
    pub fn resolves_at(&self, addr: Addr, port: Port) -> bool {
        port == Port::DNS && self.resolvers.contains(&addr)
    }

    /// Says that the agent lives at `now`, and for how long that is believed; both in nanoseconds,
    /// on the clock that starts with the machine (`CLOCK_MONOTONIC`). A limit of 0 is none.
    pub const fn with_heartbeat(mut self, now: u64, limit: u64) -> Settings {
        self.beat = now;
        self.limit = limit;
        self
    }

    /// Whether the agent has not been heard of for longer than it may be silent.
    #[inline(always)]
    pub const fn is_stale(&self, now: u64) -> bool {
        self.limit != 0 && now.saturating_sub(self.beat) > self.limit
    }

    /// Whether sockets of this cgroup are left alone.
    #[inline(always)]
    pub fn exempts(&self, cgroup: u64) -> bool {
        cgroup != 0 && self.exempt.contains(&cgroup)
    }

    /// What becomes of connections of namespaces without a scope.
    #[inline(always)]
    pub const fn unregistered(&self) -> Fallback {
        Fallback::from_byte(self.unregistered)
    }
}

/// What becomes of connections into a destination prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PrefixAction {
    /// They are treated as if there were no prefix: an exception from a shorter one.
    Judge,
    /// TCP goes to the agent, as if the port were captured; what cannot is refused.
    Redirect,
    /// They pass.
    Pass,
    /// They are refused.
    Refuse,
}

impl PrefixAction {
    const JUDGE: u8 = 1;
    const PASS: u8 = 2;
    const REDIRECT: u8 = 3;

    const fn to_byte(self) -> u8 {
        match self {
            PrefixAction::Judge => PrefixAction::JUDGE,
            PrefixAction::Pass => PrefixAction::PASS,
            PrefixAction::Redirect => PrefixAction::REDIRECT,
            PrefixAction::Refuse => 0,
        }
    }

    /// Refuses unless the byte says otherwise.
    #[inline(always)]
    const fn from_byte(byte: u8) -> PrefixAction {
        match byte {
            PrefixAction::JUDGE => PrefixAction::Judge,
            PrefixAction::PASS => PrefixAction::Pass,
            PrefixAction::REDIRECT => PrefixAction::Redirect,
            _ => PrefixAction::Refuse,
        }
    }
}

/// More ports in one prefix than [`MAX_PREFIX_PORTS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyPrefixPorts;

impl core::fmt::Display for TooManyPrefixPorts {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "at most {MAX_PREFIX_PORTS} ports of one destination prefix can be told apart"
        )
    }
}

impl core::error::Error for TooManyPrefixPorts {}

/// What a destination prefix says of each port.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrefixRule {
    /// What is not used is [`Port::NONE`].
    ports: [Port; MAX_PREFIX_PORTS],
    actions: [u8; MAX_PREFIX_PORTS],
    rest: u8,
    zero: u8,
}

const _: () = assert!(size_of::<PrefixRule>() == 3 * MAX_PREFIX_PORTS + 2);

impl PrefixRule {
    /// The rule that does `rest` whatever the port, until [`with_port`](Self::with_port) says
    /// otherwise of one.
    pub const fn new(rest: PrefixAction) -> PrefixRule {
        PrefixRule {
            ports: [Port::NONE; MAX_PREFIX_PORTS],
            actions: [0; MAX_PREFIX_PORTS],
            rest: rest.to_byte(),
            zero: 0,
        }
    }

    /// Does `action` where the port, given in the machine's byte order, is this one. What was said
    /// of a port before stands; port 0 is ignored.
    ///
    /// # Errors
    /// Fails when there are more than [`MAX_PREFIX_PORTS`].
    pub fn with_port(
        mut self,
        port: u16,
        action: PrefixAction,
    ) -> Result<PrefixRule, TooManyPrefixPorts> {
        let port = Port::from_host(port);
        if port.is_none() || self.ports.contains(&port) {
            return Ok(self);
        }
        let free = self.ports.iter().position(|slot| slot.is_none());
        let free = free.ok_or(TooManyPrefixPorts)?;
        if let (Some(slot), Some(byte)) = (self.ports.get_mut(free), self.actions.get_mut(free)) {
            *slot = port;
            *byte = action.to_byte();
        }
        Ok(self)
    }

    /// What the rule does to connections to `port`.
    #[inline(always)]
    pub fn action(&self, port: Port) -> PrefixAction {
        let mut byte = self.rest;
        for (slot, action) in self.ports.iter().zip(self.actions) {
            if !port.is_none() && *slot == port {
                byte = action;
            }
        }
        PrefixAction::from_byte(byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_bounded_and_zero_is_none() {
        let scope = ScopeConfig::new(Port::from_host(1), Port::NONE);
        let full: [u16; MAX_PORTS] = core::array::from_fn(|n| u16::try_from(n).unwrap());
        let scope_full = scope.with_ports(&full).unwrap();
        assert!(scope_full.captures(Port::from_host(15)));
        assert!(!scope_full.captures(Port::from_host(16)));
        assert!(!scope_full.captures(Port::NONE));
        assert!(!scope.captures(Port::NONE));
        assert_eq!(scope.with_ports(&[1; MAX_PORTS + 1]), Err(TooManyPorts));
    }

    #[test]
    fn an_unknown_byte_refuses() {
        let mut settings = Settings::new([0; EXEMPT_CGROUPS], Fallback::Pass);
        assert_eq!(settings.unregistered(), Fallback::Pass);
        settings.unregistered = 7;
        assert_eq!(settings.unregistered(), Fallback::Refuse);
        let mut unknown = PrefixRule::new(PrefixAction::Pass);
        unknown.rest = 200;
        assert_eq!(unknown.action(Port::DNS), PrefixAction::Refuse);
    }

    #[test]
    fn a_prefix_tells_ports_apart() {
        let rule = PrefixRule::new(PrefixAction::Judge)
            .with_port(443, PrefixAction::Pass)
            .and_then(|rule| rule.with_port(443, PrefixAction::Refuse))
            .and_then(|rule| rule.with_port(8443, PrefixAction::Redirect))
            .and_then(|rule| rule.with_port(0, PrefixAction::Pass))
            .unwrap();
        let action = |port| rule.action(Port::from_host(port));
        assert_eq!(action(443), PrefixAction::Pass, "the first word stands");
        assert_eq!(action(8443), PrefixAction::Redirect);
        assert_eq!(action(80), PrefixAction::Judge);
        assert_eq!(rule.action(Port::NONE), PrefixAction::Judge);
        let full = (1..=10).try_fold(PrefixRule::new(PrefixAction::Refuse), |rule, port| {
            rule.with_port(port, PrefixAction::Pass)
        });
        let full = full.unwrap();
        assert_eq!(full.action(Port::from_host(10)), PrefixAction::Pass);
        let more = full.with_port(11, PrefixAction::Pass);
        assert_eq!(more, Err(TooManyPrefixPorts));
    }

    #[test]
    fn cgroup_zero_is_never_exempt() {
        let settings = Settings::new([0, 9, 0, 0], Fallback::Refuse);
        assert!(settings.exempts(9));
        assert!(!settings.exempts(0));
    }

    #[test]
    fn a_heartbeat_is_believed_for_its_limit() {
        let settings = Settings::new([0; EXEMPT_CGROUPS], Fallback::Refuse);
        assert!(!settings.is_stale(u64::MAX));
        let settings = settings.with_heartbeat(1000, 10);
        assert!(!settings.is_stale(1010));
        assert!(settings.is_stale(1011));
        // Another processor may have read its clock a little earlier.
        assert!(!settings.is_stale(0));
    }

    #[test]
    fn only_known_name_servers_resolve() {
        let server = Addr::from_be_v4(7);
        let settings = Settings::new([0; EXEMPT_CGROUPS], Fallback::Refuse);
        let settings = settings.with_resolvers(&[server]).unwrap();
        assert!(settings.resolves_at(server, Port::DNS));
        assert!(!settings.resolves_at(server, Port::from_host(54)));
        assert!(!settings.resolves_at(Addr::from_be_v4(8), Port::DNS));
        let many = [server; MAX_RESOLVERS + 1];
        assert_eq!(settings.with_resolvers(&many), Err(TooManyResolvers));
    }

    #[test]
    fn listeners_are_told_from_other_loopback_ports() {
        let scope = ScopeConfig::new(Port::from_host(1001), Port::from_host(1002));
        assert!(scope.listens_at(Addr::LOOPBACK_V4, Port::from_host(1001)));
        assert!(scope.listens_at(Addr::LOOPBACK_V6, Port::from_host(1002)));
        assert!(!scope.listens_at(Addr::LOOPBACK_V4, Port::from_host(1002)));
        assert!(!scope.listens_at(Addr::from_be_v4(0), Port::from_host(1001)));
        let no_v6 = ScopeConfig::new(Port::from_host(1001), Port::NONE);
        assert!(!no_v6.listens_at(Addr::LOOPBACK_V6, Port::NONE));
    }
}
