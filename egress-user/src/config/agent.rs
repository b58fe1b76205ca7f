//! Configuration of the agent.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use egress_common::{Fallback, PrefixRule};
use ipnet::IpNet;

use super::{Base, Common, Needs, destinations};
use crate::agent::scopes::ExistingAction;
use crate::document::{Map, Mistakes, Value};
use crate::endpoint::Zoned;
use crate::policy::{KnownWorkload, KnownWorkloads};
use crate::tunnel::header::{MAX_LABELS, MAX_LABELS_LEN, check_labels};
use crate::tunnel::identity::IdPattern;
use crate::tunnel::raw::{Protocol, RawOptions};

/// Longer than a healthy agent on a busy machine is ever late, shorter than people wait.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// The words for [`Fallback`].
const FALLBACKS: &[(&str, Fallback)] = &[("pass", Fallback::Pass), ("refuse", Fallback::Refuse)];

/// Reads `pass` or `refuse`.
///
/// # Errors
///
/// A sentence for any other word.
pub fn fallback(word: &str) -> Result<Fallback, String> {
    let known = FALLBACKS.iter().find(|(name, _)| *name == word);
    known
        .map(|(_, fallback)| *fallback)
        .ok_or_else(|| format!("`{word}` is neither pass nor refuse"))
}

/// The words for [`ExistingAction`].
const EXISTING: &[(&str, ExistingAction)] = &[
    ("keep", ExistingAction::Keep),
    ("close", ExistingAction::Close),
];

/// Reads `keep` or `close`.
///
/// # Errors
///
/// A sentence for any other word.
pub fn existing(word: &str) -> Result<ExistingAction, String> {
    let known = EXISTING.iter().find(|(name, _)| *name == word);
    known
        .map(|(_, action)| *action)
        .ok_or_else(|| format!("`{word}` is neither keep nor close"))
}

/// The word that [`fallback`] reads.
pub fn word_of(fallback: Fallback) -> &'static str {
    let known = FALLBACKS.iter().find(|(_, known)| *known == fallback);
    known.map_or("refuse", |(word, _)| word)
}

/// What the user wrote; everything may be absent.
#[derive(Clone, Debug, Default)]
pub struct AgentOptions {
    /// What both halves can be told.
    pub common: Common,
    /// Gateways to carry connections.
    pub gateways: Option<Vec<Zoned>>,
    /// The zone that the agent is in.
    pub zone: Option<String>,
    /// What gateways speak.
    pub protocol: Option<Protocol>,
    /// Who a gateway must be.
    pub gateway_id: Option<IdPattern>,
    /// What the processes of some cgroups are.
    pub workloads: Option<KnownWorkloads>,
    /// What to capture.
    pub capture: CaptureOptions,
}

/// What to capture; everything may be absent.
#[derive(Clone, Debug, Default)]
pub struct CaptureOptions {
    /// The cgroups whose processes are captured.
    pub cgroups: Option<Vec<PathBuf>>,
    /// Network namespaces to serve.
    pub namespaces: Option<Vec<PathBuf>>,
    /// Cgroups whose processes' network namespaces are served.
    pub discover: Option<Vec<PathBuf>>,
    /// Ports that are redirected.
    pub ports: Option<Vec<u16>>,
    /// What happens to other ports.
    pub other_ports: Option<Fallback>,
    /// What becomes of connections into destination prefixes.
    pub destinations: Option<Vec<(IpNet, PrefixRule)>>,
    /// Whether sockets that nothing redirects are refused.
    pub strict: Option<bool>,
    /// Whether the kernel is to ask at its security hooks too.
    pub security_hooks: Option<bool>,
    /// What becomes of connections from before the capture.
    pub existing: Option<ExistingAction>,
    /// Name servers that may be asked where other ports are refused.
    pub resolvers: Option<Vec<IpAddr>>,
    /// What happens in namespaces that are not served.
    pub unregistered: Option<Fallback>,
    /// Where the kernel's links are pinned.
    pub pin: Option<PathBuf>,
    /// The socket by which listeners go to a successor.
    pub handover: Option<PathBuf>,
    /// How long the agent may be silent before the kernel refuses.
    pub heartbeat: Option<Duration>,
}

/// What the agent needs.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// What both halves need.
    pub base: Base,
    /// Gateways to carry connections; at least one.
    pub gateways: Vec<Zoned>,
    /// The zone that the agent is in: gateways of it come first.
    pub zone: Option<String>,
    /// What gateways speak.
    pub protocol: Protocol,
    /// Who a gateway must be; every `/gateway/*` of the own trust domain when
    /// absent.
    pub gateway_id: Option<IdPattern>,
    /// What the processes of some cgroups are.
    pub workloads: KnownWorkloads,
    /// What to capture.
    pub capture: CaptureConfig,
}

/// What to capture.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CaptureConfig {
    /// The cgroups whose processes are captured; at least one, and none in another.
    pub cgroups: Vec<PathBuf>,
    /// Network namespaces to serve. With `discover` empty too, the agent's own.
    pub namespaces: Vec<PathBuf>,
    /// Cgroups whose processes' network namespaces are served, as they come and go.
    pub discover: Vec<PathBuf>,
    /// Ports that are redirected.
    pub ports: Vec<u16>,
    /// What happens to other ports, and to other protocols than TCP and UDP.
    pub other_ports: Fallback,
    /// What becomes of connections into destination prefixes, before ports are looked at; the
    /// longest prefix decides.
    pub destinations: Vec<(IpNet, PrefixRule)>,
    /// Whether sockets that nothing redirects are refused.
    pub strict: bool,
    /// Whether the kernel is to ask at its security hooks too, where it does.
    pub security_hooks: bool,
    /// What becomes of connections to captured ports from before the capture.
    pub existing: ExistingAction,
    /// Name servers that may be asked where other ports are refused; those of the
    /// agent's machine when absent.
    pub resolvers: Option<Vec<IpAddr>>,
    /// What happens in namespaces that are not served.
    pub unregistered: Fallback,
    /// Where the kernel's links are pinned, so that they outlive the agent.
    pub pin: Option<PathBuf>,
    /// The socket by which listeners come from a predecessor and go to a successor.
    pub handover: Option<PathBuf>,
    /// How long the agent may be silent before the kernel refuses.
    pub heartbeat: Duration,
}

impl AgentConfig {
    /// Puts the file below the flags and checks that nothing is missing.
    ///
    /// # Errors
    ///
    /// Every mistake of the file, or everything that is missing.
    pub fn load(file: Option<&Path>, flags: AgentOptions) -> Result<AgentConfig, Mistakes> {
        let written = super::read_file(file, read)?;
        let below = match file {
            Some(file) => written.common.clone().below(file),
            None => Common::default(),
        };
        let mut needs = Needs::new(file);
        let base = flags.common.over(below).complete(&mut needs);
        let gateways = needs.value("gateways", flags.gateways.or(written.gateways));
        let capture = flags.capture.over(written.capture).complete(&mut needs);
        let config = base.zip(gateways).zip(capture);
        let config = config.map(|((base, gateways), capture)| AgentConfig {
            base,
            gateways,
            zone: flags.zone.or(written.zone),
            protocol: flags.protocol.or(written.protocol).unwrap_or_default(),
            gateway_id: flags.gateway_id.or(written.gateway_id),
            workloads: flags.workloads.or(written.workloads).unwrap_or_default(),
            capture,
        });
        needs.finish(config)
    }
}

/// Where the kernel's links are pinned, from a configuration that need not be
/// complete otherwise.
///
/// # Errors
///
/// Every mistake of the file.
pub fn pin(file: Option<&Path>, flags: AgentOptions) -> Result<Option<PathBuf>, Mistakes> {
    let written = super::read_file(file, read)?;
    Ok(flags.capture.over(written.capture).pin)
}

impl CaptureOptions {
    fn over(self, file: CaptureOptions) -> CaptureOptions {
        CaptureOptions {
            cgroups: self.cgroups.or(file.cgroups),
            namespaces: self.namespaces.or(file.namespaces),
            discover: self.discover.or(file.discover),
            ports: self.ports.or(file.ports),
            other_ports: self.other_ports.or(file.other_ports),
            destinations: self.destinations.or(file.destinations),
            strict: self.strict.or(file.strict),
            security_hooks: self.security_hooks.or(file.security_hooks),
            existing: self.existing.or(file.existing),
            resolvers: self.resolvers.or(file.resolvers),
            unregistered: self.unregistered.or(file.unregistered),
            pin: self.pin.or(file.pin),
            handover: self.handover.or(file.handover),
            heartbeat: self.heartbeat.or(file.heartbeat),
        }
    }

    fn complete(self, needs: &mut Needs) -> Option<CaptureConfig> {
        if self.handover.is_some() && self.pin.is_none() {
            needs.mistake::<()>(
                "`handover` takes `pin`: without pins to replace, the programs of the agent before \
                 stay attached beside the next one's until it has drained",
            );
        }
        for (inner, outer) in nested(self.cgroups.as_deref().unwrap_or_default()) {
            needs.mistake::<()>(&format!(
                "the cgroup {} lies in {}, which is captured as a whole: name one of them",
                inner.display(),
                outer.display()
            ));
        }
        Some(CaptureConfig {
            cgroups: needs.value("capture.cgroup", self.cgroups)?,
            namespaces: self.namespaces.unwrap_or_default(),
            discover: self.discover.unwrap_or_default(),
            ports: self.ports.unwrap_or_else(|| vec![443]),
            other_ports: self.other_ports.unwrap_or(Fallback::Refuse),
            destinations: self.destinations.unwrap_or_default(),
            strict: self.strict.unwrap_or(false),
            security_hooks: self.security_hooks.unwrap_or(true),
            existing: self.existing.unwrap_or_default(),
            resolvers: self.resolvers,
            unregistered: self.unregistered.unwrap_or(Fallback::Refuse),
            pin: self.pin,
            handover: self.handover,
            heartbeat: self.heartbeat.unwrap_or(HEARTBEAT),
        })
    }
}

/// Each path that lies in another or is named twice, with that other.
fn nested(paths: &[PathBuf]) -> impl Iterator<Item = (&PathBuf, &PathBuf)> {
    paths.iter().enumerate().flat_map(move |(at, inner)| {
        let holds = move |(other, outer): &(usize, &PathBuf)| {
            *other != at && inner.starts_with(outer) && (inner != *outer || *other < at)
        };
        let others = paths.iter().enumerate().filter(holds);
        others.map(move |(_, outer)| (inner, outer))
    })
}

fn read(map: &Map<'_>) -> Option<AgentOptions> {
    Some(AgentOptions {
        common: Common::read(map),
        gateways: map.optional("gateways", |value| value.non_empty_list(gateway)),
        zone: map.optional("zone", Value::string),
        protocol: read_protocol(map),
        gateway_id: map.optional("gateway_id", |value| value.parse(str::parse)),
        workloads: map.optional("workloads", read_workloads),
        capture: map
            .optional("capture", |value| value.map(read_capture))
            .unwrap_or_default(),
    })
}

/// What no gateway could be told is not taken for known here.
fn read_workloads(value: Value<'_>) -> Option<KnownWorkloads> {
    let known = KnownWorkloads::read(value)?;
    let too_many = known
        .iter()
        .filter_map(KnownWorkload::labels)
        .any(|labels| check_labels(labels).is_err());
    if too_many {
        return value.mistake(format!(
            "an entry of `workloads` has too many labels: a workload has at most {MAX_LABELS}, in \
             {MAX_LABELS_LEN} bytes with three for each"
        ));
    }
    Some(known)
}

/// An address alone, or with the zone that it is in.
fn gateway(value: Value<'_>) -> Option<Zoned> {
    if !value.is_map() {
        return value.parse(str::parse);
    }
    value.map(|map| {
        let endpoint = map.required("address", |value| value.parse(str::parse));
        let zone = map.optional("zone", Value::string);
        let endpoint = endpoint?;
        Some(Zoned { endpoint, zone })
    })
}

/// `protocol`, and how raw is spoken where it is.
fn read_protocol(map: &Map<'_>) -> Option<Protocol> {
    let words = [("egress/1", false), ("raw", true)];
    let is_raw = map.or("protocol", false, |value| value.one_of(&words));
    let proxy_header = map.or("proxy_header", false, Value::boolean);
    let alpn = map.optional("alpn", |value| value.parse(str::parse));
    if !is_raw && (map.has("proxy_header") || map.has("alpn")) {
        map.mistake::<()>("`proxy_header` and `alpn` mean something only with `protocol: raw`");
    }
    is_raw.then_some(Protocol::Raw(RawOptions { alpn, proxy_header }))
}

fn read_capture(map: &Map<'_>) -> Option<CaptureOptions> {
    Some(CaptureOptions {
        cgroups: map.optional("cgroup", |value| value.one_or_more(Value::path)),
        namespaces: map.optional("namespaces", |value| value.list(Value::path)),
        discover: map.optional("discover", |value| value.list(Value::path)),
        ports: map.optional("ports", |value| value.non_empty_list(Value::port)),
        other_ports: map.optional("other_ports", |value| value.one_of(FALLBACKS)),
        destinations: map.optional("destinations", destinations::read),
        strict: map.optional("strict", Value::boolean),
        security_hooks: map.optional("security_hooks", Value::boolean),
        existing: map.optional("existing", |value| value.one_of(EXISTING)),
        resolvers: map.optional("resolvers", |value| value.list(Value::ip_addr)),
        unregistered: map.optional("unregistered", |value| value.one_of(FALLBACKS)),
        pin: map.optional("pin", Value::path),
        handover: map.optional("handover", Value::path),
        heartbeat: map.optional("heartbeat", |value| {
            value.duration(Duration::from_secs(1)..=Duration::from_secs(60))
        }),
    })
}

#[cfg(test)]
mod tests;
