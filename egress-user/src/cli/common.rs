//! Flags that several subcommands share.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::values;
use crate::config::{self, Base, Common};
use crate::descriptors;
use crate::drain::Drainer;
use crate::in_force::{self, InForce};
use crate::policy::Policy;
use crate::record::{LogFormat, Metrics, Recorder};
use crate::reload::Reloader;
use crate::renewal::{Build, Followed, Renewal};
use crate::tunnel::tls::{self, Credentials, InUse};
use crate::watched::State;
use crate::workload_api::{SOCKET_VARIABLE, Socket};

/// Flags over the configuration file; each is also a variable.
#[derive(Args)]
pub(super) struct CommonArgs {
    /// Policy document (YAML); the same file for agent and gateway
    #[arg(long, env = "EGRESS_POLICY", value_name = "FILE")]
    policy: Option<PathBuf>,

    /// Certificate chain with the SPIFFE ID of this process (PEM)
    #[arg(long, env = "EGRESS_CERTIFICATE", value_name = "FILE")]
    certificate: Option<PathBuf>,

    /// Private key of the certificate (PEM)
    #[arg(long, env = "EGRESS_KEY", value_name = "FILE")]
    key: Option<PathBuf>,

    /// Certificates of the CAs that vouch for the other half (PEM)
    #[arg(long, env = "EGRESS_BUNDLE", value_name = "FILE")]
    bundle: Option<PathBuf>,

    /// Revocation lists of those CAs (PEM); what they list is refused, and cut off when it is
    /// connected [default: none]
    #[arg(long, env = "EGRESS_CRL", value_name = "FILE")]
    crl: Option<PathBuf>,

    /// SPIFFE Workload API that gives certificate, key, bundle and revocation lists instead of files
    /// [default: what SPIFFE_ENDPOINT_SOCKET says, where no file is named]
    #[arg(long, env = "EGRESS_WORKLOAD_API", value_name = "unix:///SOCKET")]
    workload_api: Option<Socket>,

    /// Where records go: a file that is appended to, or - for standard output [default: -]
    #[arg(long, env = "EGRESS_LOG", value_name = "FILE|-")]
    log: Option<PathBuf>,

    /// Form of the records: json or text [default: json]
    #[arg(long, env = "EGRESS_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<LogFormat>,

    /// Address for /metrics, /healthz and /readyz [default: none]
    #[arg(long, env = "EGRESS_ADMIN", value_name = "ADDR:PORT", value_parser = values::listening)]
    admin: Option<SocketAddr>,

    /// Seconds that live connections get at the end [default: 25]
    #[arg(long, env = "EGRESS_DRAIN", value_name = "SECONDS", value_parser = seconds)]
    drain: Option<Duration>,

    /// Seconds over which connections that a new policy refuses are closed [default: 5]
    #[arg(long, env = "EGRESS_SPREAD", value_name = "SECONDS", value_parser = seconds)]
    spread: Option<Duration>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let bare = text.strip_suffix('s').unwrap_or(text);
    bare.parse::<u32>()
        .map(|seconds| Duration::from_secs(seconds.into()))
        .map_err(|_| format!("`{text}` is not a number of seconds"))
}

impl From<CommonArgs> for Common {
    fn from(args: CommonArgs) -> Common {
        Common {
            policy: args.policy,
            certificate: args.certificate,
            key: args.key,
            bundle: args.bundle,
            crl: args.crl,
            workload_api: args.workload_api,
            endpoint_socket: std::env::var(SOCKET_VARIABLE).ok(),
            log: args.log,
            log_format: args.log_format,
            admin: args.admin,
            drain: args.drain,
            spread: args.spread,
        }
    }
}

/// What both halves load before they start.
pub(super) struct Loaded {
    pub(super) policy: InForce,
    pub(super) reloader: Reloader,
    pub(super) credentials: Credentials,
    pub(super) followed: Followed,
    pub(super) recorder: Recorder,
    pub(super) metrics: Arc<Metrics>,
}

/// How long a Workload API is waited for at the start: it may start at the same time, and an entry
/// for a new workload reaches a SPIRE agent within some seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Loads what the configuration names. Blocks its thread, which is none of an async runtime.
pub(super) fn load(base: &Base) -> anyhow::Result<Loaded> {
    // Before it is read: what changes later is a change.
    let seen = State::of(std::slice::from_ref(&base.policy));
    let policy = load_policy(base)?;
    let (credentials, followed) = base.tls.load(PATIENCE)?;
    for warning in credentials.warnings() {
        tracing::warn!("{warning}");
    }
    tracing::info!(id = %credentials.id(), valid_until = %credentials.validity().until, "credentials loaded");
    let metrics = Arc::new(Metrics::default());
    let recorder = Recorder::open(&base.log, base.log_format, metrics.clone())?;
    let (enforcer, in_force) = in_force::channel(policy, base.spread);
    let reloader = Reloader::new(base.policy.clone(), seen, enforcer, metrics.clone())
        .context("cannot watch the policy file")?;
    Ok(Loaded {
        policy: in_force,
        reloader,
        credentials,
        followed,
        recorder,
        metrics,
    })
}

/// Puts the credentials into use, and follows what they come from on a thread of its own.
pub(super) fn use_credentials<C: Send + Sync + 'static>(
    credentials: &Credentials,
    followed: Followed,
    build: Build<C>,
    metrics: Arc<Metrics>,
) -> anyhow::Result<InUse<C>> {
    let (renewer, in_use) = tls::in_use(build(credentials)?);
    let renewal = Renewal::new(followed, credentials, build, renewer, metrics);
    std::thread::Builder::new()
        .name("certificates".to_owned())
        .spawn(move || renewal.run())
        .context("cannot start a thread")?;
    Ok(in_use)
}

/// Follows the policy file on a thread of its own.
pub(super) fn follow(reloader: Reloader) -> anyhow::Result<()> {
    std::thread::Builder::new()
        .name("policy".to_owned())
        .spawn(move || reloader.run())
        .context("cannot start a thread")?;
    Ok(())
}

fn load_policy(base: &Base) -> anyhow::Result<Policy> {
    let text = config::read_text(&base.policy)?;
    let loaded = Policy::parse(&text, &base.policy.display().to_string())?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!(
        digest = %loaded.policy.digest(),
        rules = loaded.policy.rule_count(),
        "policy loaded"
    );
    Ok(loaded.policy)
}

/// The async runtime of a process, which may open as many files as the administrator allows.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    descriptors::raise();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")
}

/// The signals that ask a process to end. From the moment that they are listened for, they do not
/// end it by themselves.
pub(super) struct EndSignals {
    term: Signal,
    interrupt: Signal,
}

impl EndSignals {
    pub(super) fn listen() -> anyhow::Result<EndSignals> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(EndSignals {
            term: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }
}

/// Waits for the request to end, then for the work.
pub(super) async fn until_told(
    signals: EndSignals,
    drainer: Drainer,
    grace: Duration,
    succeeded: impl Future<Output = ()>,
) {
    let EndSignals {
        mut term,
        mut interrupt,
    } = signals;
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
        () = succeeded => tracing::info!("another agent has taken over"),
    }
    tracing::info!(grace = ?grace, "draining");
    let deadline = async {
        tokio::select! {
            () = tokio::time::sleep(grace) => {}
            // Whoever asks twice does not want to wait.
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let ended = drainer.drain_until(deadline).await;
    if ended {
        tracing::info!("ended, every connection to its own end");
    } else {
        tracing::info!("ended, live connections were cut");
    }
}
