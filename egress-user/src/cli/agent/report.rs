//! What `egress agent --check` says.

use std::path::PathBuf;

use super::{targets, trusted};
use crate::agent::capture::{self, CaptureError};
use crate::agent::discovery::Targets;
use crate::agent::scopes::ExistingAction;
use crate::cgroup::Cgroup2;
use crate::cli::check::Report;
use crate::cli::common;
use crate::config::agent::{AgentConfig, CaptureConfig, word_of};
use crate::dns::{self, Failure};
use crate::document::Mistakes;
use crate::endpoint::Zoned;
use crate::netns::Netns;
use crate::resolvers;
use crate::tunnel::tls;

/// What the configuration amounts to.
pub(super) fn report(config: Result<AgentConfig, Mistakes>) -> Report {
    let config = match config {
        Ok(config) => config,
        Err(mistakes) => return Report::of_mistakes(&mistakes),
    };
    let mut report = Report::default();
    report_gateways(&mut report, &config.gateways);
    report_zone(&mut report, &config);
    report.set("protocol", &config.protocol);
    if let Some(credentials) = report.base(&config.base) {
        let ends = trusted(config.gateway_id.as_ref(), &credentials)
            .map_err(anyhow::Error::from)
            .and_then(|trusted| {
                report.list("gateway_id", &trusted, "none");
                Ok(tls::agent_end(&credentials, &trusted)?)
            });
        if let Err(error) = ends {
            report.fault(crate::cli::sentence(&error));
        }
        let id = credentials.id();
        if !id.path().starts_with("/agent/") {
            report.warn(format_args!(
                "{id} is not below /agent/: gateways refuse it unless their `agents` name it"
            ));
        }
    }
    report_capture(&mut report, &config.capture);
    look_at(&mut report, &config.capture);
    report.list("workloads", config.workloads.iter(), "none by name");
    report
}

/// As the agent looks them up. That a gateway has no address at this moment is no mistake of the
/// configuration; that its name can never have one is.
fn report_gateways(report: &mut Report, gateways: &[Zoned]) {
    let runtime = match common::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return report.fault(error),
    };
    let mut shown = Vec::with_capacity(gateways.len());
    for gateway in gateways {
        match runtime.block_on(dns::resolve(&gateway.endpoint.host)) {
            Ok(found) => {
                let ips: Vec<String> = found.ips.iter().map(ToString::to_string).collect();
                shown.push(format!("{gateway}, now at {}", ips.join(" and ")));
            }
            Err(failure) => {
                match failure {
                    Failure::NoName => report.fault(format_args!(
                        "gateway {gateway} can never be resolved: {failure}"
                    )),
                    _ => report.warn(format_args!(
                        "gateway {gateway} cannot be resolved now: {failure}"
                    )),
                }
                shown.push(gateway.to_string());
            }
        }
    }
    report.list("gateways", shown, "none");
}

fn report_zone(report: &mut Report, config: &AgentConfig) {
    report.set("zone", config.zone.as_deref().unwrap_or("none"));
    let mut zones = config
        .gateways
        .iter()
        .filter_map(|gateway| gateway.zone.as_ref());
    match &config.zone {
        Some(own) if !zones.any(|zone| zone == own) => report.warn(format_args!(
            "no gateway is in the agent's zone, {own}: all count the same"
        )),
        None if zones.next().is_some() => report.warn(
            "gateways have a zone and the agent has none: all count the same; set `zone` or --zone",
        ),
        _ => {}
    }
}

fn report_capture(report: &mut Report, capture: &CaptureConfig) {
    let paths = |paths: &[PathBuf]| -> Vec<String> {
        paths
            .iter()
            .map(|path| path.display().to_string())
            .collect()
    };
    let Targets {
        namespaces,
        cgroups,
    } = targets(capture);
    report.list("capture.cgroup", paths(&capture.cgroups), "none");
    report.list("capture.namespaces", paths(&namespaces), "none by name");
    report.list("capture.discover", paths(&cgroups), "none");
    report.list("capture.ports", &capture.ports, "none");
    report.set("capture.other_ports", word_of(capture.other_ports));
    let prefixes = capture.destinations.iter().map(|(prefix, _)| prefix);
    report.list("capture.destinations", prefixes, "none");
    report.set("capture.strict", capture.strict);
    let existing = match capture.existing {
        ExistingAction::Keep => "keep",
        ExistingAction::Close => "close",
    };
    report.set("capture.existing", existing);
    match &capture.resolvers {
        Some(resolvers) => report.list("capture.resolvers", resolvers, "none"),
        None => match resolvers::of_the_system() {
            Ok(resolvers) => report.list("capture.resolvers", resolvers, "none"),
            Err(error) => report.fault(crate::cli::sentence(&error)),
        },
    }
    report.set("capture.unregistered", word_of(capture.unregistered));
    let pin = capture.pin.as_ref().map(|pin| pin.display().to_string());
    report.set("capture.pin", pin.as_deref().unwrap_or("none"));
    let handover = capture
        .handover
        .as_ref()
        .map(|path| path.display().to_string());
    report.set("capture.handover", handover.as_deref().unwrap_or("none"));
    report.set("capture.heartbeat", format_args!("{:?}", capture.heartbeat));
}

/// Looks at what the configuration names on this machine. What is not there yet may come; what is
/// something else stays wrong.
fn look_at(report: &mut Report, capture: &CaptureConfig) {
    if let Err(error) = Cgroup2::find() {
        report.warn(crate::cli::sentence(&error.into()));
    }
    for path in &capture.cgroups {
        match capture::check_cgroup(path) {
            Ok(()) => {}
            Err(error @ CaptureError::NotCgroup2 { .. }) => report.fault(error),
            Err(error) => report.warn(format_args!(
                "{error}: the agent does not start before it is there; systemd makes that of a \
                 slice when the slice is started"
            )),
        }
    }
    let targets = targets(capture);
    for path in targets.fixed() {
        if let Err(error) = Netns::at(path) {
            report.warn(format_args!(
                "{error}: the agent does not start before it is there"
            ));
        }
    }
    for path in targets
        .cgroups
        .iter()
        .filter(|path| !path.to_string_lossy().contains('*'))
    {
        if !path.exists() {
            report.warn(format_args!("nothing is at {} now", path.display()));
        }
    }
    if let Some(Err(error)) = capture.pin.as_deref().map(capture::check_pins) {
        report.warn(error);
    }
}
