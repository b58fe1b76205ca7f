//! One agent after the other, without a refused connection.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;

use crate::admin::{Admin, Readiness};
use crate::agent::Agent;
use crate::agent::capture::Capture;
use crate::agent::handover::{HandoverError, Inherited, Offer, Succeeded};
use crate::config::agent::CaptureConfig;
use crate::record::Metrics;

/// What an agent that runs already hands over, if there is one.
pub(super) async fn inherit(config: &CaptureConfig) -> anyhow::Result<Option<Inherited>> {
    let Some(path) = config.handover.clone() else {
        return Ok(None);
    };
    let asked = tokio::task::spawn_blocking(move || Inherited::ask(&path)).await?;
    let inherited = match asked {
        // One that hangs must not keep the next one from its work.
        Err(error @ HandoverError::Socket { .. }) => {
            tracing::warn!("{:#}", anyhow::Error::new(error));
            None
        }
        asked => asked?,
    };
    if inherited.is_some() {
        tracing::info!("taking over from the agent that runs");
    }
    Ok(inherited)
}

/// Waits for the next agent from now on.
pub(super) fn offer(
    config: &CaptureConfig,
    agent: &Agent,
    capture: Arc<Mutex<Capture>>,
) -> anyhow::Result<Succeeded> {
    let (Some(path), Some(pins)) = (&config.handover, config.pin.clone()) else {
        return Ok(Succeeded::never());
    };
    let reclaim = move || {
        let mut capture = capture.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = capture.reclaim(&pins) {
            let error = anyhow::Error::new(error);
            tracing::error!(
                "the kernel programs cannot be put back in place, and captured connections are \
                 refused; start the agent anew: {error:#}"
            );
        }
    };
    Offer::bind(path)?
        .start(agent.listening(), reclaim)
        .context("cannot start a thread")
}

/// Binds the admin address; where a predecessor is about to leave it, as soon as it has.
pub(super) async fn bind_admin(
    addr: SocketAddr,
    metrics: &Arc<Metrics>,
    readiness: &Readiness,
    succeeds: bool,
) -> anyhow::Result<Admin> {
    const TRIES: u32 = 100;
    const PAUSE: Duration = Duration::from_millis(50);

    let mut tries = if succeeds { TRIES } else { 0 };
    loop {
        match Admin::bind(addr, metrics.clone(), readiness.clone()).await {
            Err(_) if tries > 0 => tokio::time::sleep(PAUSE).await,
            bound => return Ok(bound?),
        }
        tries -= 1;
    }
}
