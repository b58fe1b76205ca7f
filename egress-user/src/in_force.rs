//! The policy in force, and what becomes of open connections when it changes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::connection_id::ConnectionId;
use crate::policy::{Admitted, Policy, Request, Verdict};
use crate::workload::Workload;

/// The time over which connections that a new policy refuses are closed, unless told otherwise, so
/// that a reload is not a stampede of reconnects.
pub const SPREAD: Duration = Duration::from_secs(5);

/// Where a new policy is put into force.
#[derive(Clone)]
pub struct Enforcer(watch::Sender<Arc<Policy>>);

/// One reader's view. Changes since its last [`now`](Self::now) are not missed.
#[derive(Clone)]
pub struct InForce {
    policy: watch::Receiver<Arc<Policy>>,
    spread: Duration,
}

/// A connected pair. Connections that a later policy refuses are closed over the time `spread`.
pub fn channel(policy: Policy, spread: Duration) -> (Enforcer, InForce) {
    let (sender, policy) = watch::channel(Arc::new(policy));
    (Enforcer(sender), InForce { policy, spread })
}

impl Enforcer {
    /// Puts a policy into force; every open connection is judged by it again.
    pub fn replace(&self, policy: Policy) {
        self.0.send_replace(Arc::new(policy));
    }

    /// The policy in force.
    pub fn now(&self) -> Arc<Policy> {
        self.0.borrow().clone()
    }
}

impl InForce {
    /// The policy in force.
    pub fn now(&mut self) -> Arc<Policy> {
        self.policy.borrow_and_update().clone()
    }

    /// Resolves when a later policy refuses what was admitted, after this connection's
    /// share of the time over which such connections are closed. One that is refused
    /// by a policy that is replaced within that time is judged by the newest.
    pub async fn refuses(
        &mut self,
        admitted: &Admitted,
        workload: &Workload,
        connection: ConnectionId,
    ) {
        loop {
            if self.policy.changed().await.is_err() {
                // Nobody is left to change it.
                return std::future::pending().await;
            }
            if self.admits(admitted, workload) {
                continue;
            }
            tokio::time::sleep(share(self.spread, connection)).await;
            if !self.admits(admitted, workload) {
                return;
            }
        }
    }

    fn admits(&mut self, admitted: &Admitted, workload: &Workload) -> bool {
        let request = Request {
            name: admitted.name(),
            port: admitted.port(),
            workload,
        };
        matches!(self.now().judge(&request), Verdict::Admitted(_))
    }
}

/// Ids end in random bits, so that their shares are spread evenly.
fn share(spread: Duration, connection: ConnectionId) -> Duration {
    let [.., last] = connection.to_bytes();
    spread * u32::from(last) / 256
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hello::ServerName;
    use crate::policy::Flags;

    fn policy(allow: &str) -> Policy {
        let allow = [allow.to_owned()];
        let flags = Flags {
            allow: &allow,
            ..Flags::default()
        };
        Policy::from_flags(&flags).unwrap().policy
    }

    fn admitted(by: &Policy) -> Admitted {
        let verdict = by.judge(&Request {
            name: &ServerName::parse(b"en.wikipedia.org").unwrap(),
            port: 443,
            workload: &Workload::default(),
        });
        let Verdict::Admitted(admitted) = verdict else {
            panic!("refused");
        };
        admitted
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_policy_that_refuses_ends_a_connection() {
        let (enforcer, mut in_force) = channel(policy("*.wikipedia.org"), SPREAD);
        let admitted = admitted(&in_force.now());
        let id = ConnectionId::new();
        let waiting = tokio::spawn(async move {
            let workload = Workload::default();
            in_force.refuses(&admitted, &workload, id).await;
        });
        enforcer.replace(policy("en.wikipedia.org"));
        tokio::time::sleep(SPREAD * 2).await;
        assert!(!waiting.is_finished());
        enforcer.replace(policy("de.wikipedia.org"));
        waiting.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_between_judgement_and_relay_is_not_missed() {
        let (enforcer, mut in_force) = channel(policy("*.wikipedia.org"), SPREAD);
        let admitted = admitted(&in_force.now());
        enforcer.replace(policy("de.wikipedia.org"));
        let workload = Workload::default();
        in_force
            .refuses(&admitted, &workload, ConnectionId::new())
            .await;
    }
}
