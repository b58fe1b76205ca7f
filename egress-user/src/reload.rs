//! Reads the policy file again when it changes. A good file is put into force at once; a
//! bad one changes nothing, says why, and raises an alarm in the metrics.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::config;
use crate::document::Mistakes;
use crate::in_force::Enforcer;
use crate::policy::Policy;
use crate::record::Metrics;
use crate::watched::{State, Watched};

/// Follows one policy file.
pub struct Reloader {
    path: PathBuf,
    enforcer: Enforcer,
    metrics: Arc<Metrics>,
    watched: Watched,
}

impl Reloader {
    /// Follows the file from the state in which it was read.
    ///
    /// # Errors
    /// As [`Watched::new`].
    pub fn new(
        path: PathBuf,
        seen: State,
        enforcer: Enforcer,
        metrics: Arc<Metrics>,
    ) -> io::Result<Reloader> {
        metrics.policy_in_force(&enforcer.now().digest().to_string());
        Ok(Reloader {
            watched: Watched::new(vec![path.clone()], seen)?,
            path,
            enforcer,
            metrics,
        })
    }

    /// Follows the file as long as the process lives: also a draining one obeys. Blocks its thread.
    pub fn run(mut self) {
        loop {
            self.watched.wait();
            let now = Instant::now();
            if self.watched.changed(now) {
                self.reload();
            } else if let Some(held) = self.watched.held(now) {
                tracing::warn!("the policy stays as it was: {held}");
                self.metrics.policy_reload_failed(true);
            }
        }
    }

    fn reload(&self) {
        let read = read(&self.path);
        if !self.watched.stands() {
            return;
        }
        match read {
            Ok(policy) if policy.digest() == self.enforcer.now().digest() => {
                self.metrics.policy_reload_failed(false);
            }
            Ok(policy) => {
                let digest = policy.digest().to_string();
                tracing::info!(%digest, rules = policy.rule_count(), "policy in force");
                self.enforcer.replace(policy);
                self.metrics.policy_in_force(&digest);
                self.metrics.policy_reload_failed(false);
            }
            Err(mistakes) => {
                tracing::warn!("the policy stays as it was, because of its file:\n{mistakes}");
                self.metrics.policy_reload_failed(true);
            }
        }
    }
}

fn read(path: &Path) -> Result<Policy, Mistakes> {
    let text = config::read_text(path)?;
    let loaded = Policy::parse(&text, &path.display().to_string())?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded.policy)
}
