//! What is remembered of names beyond the cache: an old answer for when no server answers, the
//! address that worked last, and who is asking at this moment.

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::NAMES;
use crate::refusal::{Class, Refusal};

/// How long an answer may serve after it was last good while no server answers. Long enough for a
/// server to be started again; the name's owner may have moved it meanwhile.
const STALE_FOR: Duration = Duration::from_secs(3600);

/// How long servers are waited for when there is an old answer (RFC 8767 §5).
const STALE_AFTER: Duration = Duration::from_millis(1800);

type Asked = Result<Vec<IpAddr>, Refusal>;

/// What is remembered.
#[derive(Default)]
pub(super) struct Memory {
    known: Mutex<HashMap<Box<str>, Known>>,
    asking: Mutex<HashMap<Box<str>, Arc<OnceCell<Asked>>>>,
}

struct Known {
    ips: Vec<IpAddr>,
    since: Instant,
    worked: Option<IpAddr>,
}

/// Addresses of a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) ips: Vec<IpAddr>,
    /// Whether it is an old one, because no server answered.
    pub(super) stale: bool,
}

impl Memory {
    /// Asks about a name, together with whoever does so at the same time; falls back on an old
    /// answer when servers fail or are late, never when they say that there is none.
    pub(super) async fn answer<F>(
        &self,
        name: &str,
        ask: impl FnOnce() -> F,
    ) -> Result<Answer, Refusal>
    where
        F: Future<Output = Asked>,
    {
        let old = self.old(name);
        let asked = self.ask_together(name, ask);
        let asked = match old {
            None => asked.await,
            Some(_) => tokio::time::timeout(STALE_AFTER, asked)
                .await
                .unwrap_or_else(|_| Err(Refusal::new(Class::Unreachable, "dns_timeout"))),
        };
        match (asked, old) {
            (Ok(ips), _) => {
                self.learn(name, &ips);
                Ok(Answer { ips, stale: false })
            }
            (Err(refusal), Some(ips)) if refusal.class == Class::Unreachable => {
                Ok(Answer { ips, stale: true })
            }
            (Err(refusal), _) => {
                if refusal.class == Class::UnknownName {
                    lock(&self.known).remove(name);
                }
                Err(refusal)
            }
        }
    }

    /// Notes that a connection to this address of the name came about.
    pub(super) fn worked(&self, name: &str, ip: IpAddr) {
        if let Some(known) = lock(&self.known).get_mut(name) {
            known.worked = Some(ip);
        }
    }

    /// The address that worked last.
    pub(super) fn last_good(&self, name: &str) -> Option<IpAddr> {
        lock(&self.known).get(name)?.worked
    }

    fn old(&self, name: &str) -> Option<Vec<IpAddr>> {
        let known = lock(&self.known);
        let known = known.get(name)?;
        (known.since.elapsed() < STALE_FOR).then(|| known.ips.clone())
    }

    fn learn(&self, name: &str, ips: &[IpAddr]) {
        let mut table = lock(&self.known);
        let now = Instant::now();
        if let Some(known) = table.get_mut(name) {
            known.since = now;
            known.ips = ips.to_vec();
            return;
        }
        if u64::try_from(table.len()).is_ok_and(|len| len >= NAMES) {
            table.retain(|_, known| known.since.elapsed() < STALE_FOR);
            // Still full: any one makes room, and is asked for again when it is wanted.
            let any = table.keys().next().cloned();
            any.map(|any| table.remove(&any));
        }
        let known = Known {
            ips: ips.to_vec(),
            since: now,
            worked: None,
        };
        table.insert(name.into(), known);
    }

    /// The first to ask asks; if it gives up, the next one does.
    async fn ask_together<F>(&self, name: &str, ask: impl FnOnce() -> F) -> Asked
    where
        F: Future<Output = Asked>,
    {
        let cell = lock(&self.asking).entry(name.into()).or_default().clone();
        let _leave = Leave {
            asking: &self.asking,
            name,
            cell: &cell,
        };
        cell.get_or_init(ask).await.clone()
    }
}

/// The last to leave, and whoever has the answer, clears the table.
struct Leave<'a> {
    asking: &'a Mutex<HashMap<Box<str>, Arc<OnceCell<Asked>>>>,
    name: &'a str,
    cell: &'a Arc<OnceCell<Asked>>,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let mut asking = lock(self.asking);
        let is_mine = asking
            .get(self.name)
            .is_some_and(|cell| Arc::ptr_eq(cell, self.cell));
        // Two: the table's and this one's.
        let is_last = Arc::strong_count(self.cell) <= 2;
        if is_mine && (is_last || self.cell.initialized()) {
            asking.remove(self.name);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn failed() -> Asked {
        Err(Refusal::new(Class::Unreachable, "dns_failed"))
    }

    fn answer(ips: &[IpAddr], stale: bool) -> Result<Answer, Refusal> {
        let ips = ips.to_vec();
        Ok(Answer { ips, stale })
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_answer_serves_while_servers_fail_and_not_for_ever() {
        let memory = Memory::default();
        let good = || async { Ok(vec![ip(1)]) };
        assert_eq!(memory.answer("a", good).await, answer(&[ip(1)], false));
        let down = || async { failed() };
        assert_eq!(memory.answer("a", down).await, answer(&[ip(1)], true));
        let silent = || std::future::pending();
        assert_eq!(memory.answer("a", silent).await, answer(&[ip(1)], true));
        assert!(memory.answer("b", down).await.is_err());
        tokio::time::advance(STALE_FOR).await;
        assert!(memory.answer("a", down).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_gone_is_gone() {
        let memory = Memory::default();
        let good = || async { Ok(vec![ip(1)]) };
        memory.answer("a", good).await.unwrap();
        let gone = || async { Err(Refusal::new(Class::UnknownName, "name_not_found")) };
        assert!(memory.answer("a", gone).await.is_err());
        assert!(memory.answer("a", || async { failed() }).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_at_the_same_time_asks_once() {
        let memory = Memory::default();
        let asked = AtomicUsize::new(0);
        let ask = || async {
            asked.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(vec![ip(1)])
        };
        let both = tokio::join!(memory.answer("a", ask), memory.answer("a", ask));
        assert_eq!(both.0, answer(&[ip(1)], false));
        assert_eq!(both.1, answer(&[ip(1)], false));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        memory.answer("a", ask).await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        assert!(lock(&memory.asking).is_empty());

        // Who gives up leaves it to the next, and nothing behind.
        let short = tokio::time::timeout(Duration::from_millis(10), memory.answer("b", ask));
        let both = tokio::join!(short, memory.answer("b", ask));
        assert!(both.0.is_err() && both.1.is_ok());
        let alone = memory.answer("c", ask);
        assert!(
            tokio::time::timeout(Duration::from_millis(10), alone)
                .await
                .is_err()
        );
        assert!(lock(&memory.asking).is_empty());
    }
}
