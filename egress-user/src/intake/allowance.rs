//! How much memory the ClientHellos in hand, first and second ones, may take, beyond what nearly every one needs: a client
//! that goes on slowly, or never, holds what it has sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What each may take uncounted. The largest hello of a browser, with a post-quantum key share, is
/// two kilobytes; places for connections bound how many of these there are.
const UNCOUNTED: usize = 4 * 1024;

/// What all of a hop may take beyond that: a thousand of the largest, unfinished at the same time.
/// Each is in memory once: 200 unfinished hellos of 65,000 bytes took 13,196 KiB more of resident
/// memory, 66 KiB each; 200 that sent nothing took 6 KiB each, both ends of the socket included.
/// For the 16,384 places of an agent, each with its 4 KiB, that comes to some 220 MiB.
const WHOLE: usize = 64 * 1024 * 1024;

/// So many bytes and no more, or a part of those of others. Counted in bytes of hellos.
#[derive(Debug)]
pub struct Allowance {
    most: usize,
    taken: AtomicUsize,
    above: Option<Arc<Allowance>>,
}

impl Allowance {
    /// What a process may take.
    pub fn of_process() -> Arc<Allowance> {
        Allowance::of(WHOLE)
    }

    fn of(most: usize) -> Arc<Allowance> {
        Arc::new(Allowance {
            most,
            taken: AtomicUsize::new(0),
            above: None,
        })
    }

    /// For one of those who share it: at most one `divisor`th, and counted here too.
    pub fn part(self: &Arc<Self>, divisor: usize) -> Arc<Allowance> {
        Arc::new(Allowance {
            most: self.most / divisor.max(1),
            taken: AtomicUsize::new(0),
            above: Some(self.clone()),
        })
    }

    fn take(&self, bytes: usize) -> bool {
        let more = |taken: usize| {
            let sum = taken.checked_add(bytes);
            sum.filter(|sum| *sum <= self.most)
        };
        let order = Ordering::Relaxed;
        if self.taken.fetch_update(order, order, more).is_err() {
            return false;
        }
        let above = self.above.as_ref().is_none_or(|above| above.take(bytes));
        if !above {
            self.taken.fetch_sub(bytes, order);
        }
        above
    }

    fn give_back(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(above) = &self.above {
            above.give_back(bytes);
        }
    }
}

/// What one hello has taken, until it is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    from: Arc<Allowance>,
    bytes: usize,
}

impl Taken {
    pub(super) fn nothing(from: &Arc<Allowance>) -> Taken {
        Taken {
            from: from.clone(),
            bytes: 0,
        }
    }

    /// Takes what a hello of `len` bytes needs; false when that is not there.
    pub(super) fn cover(&mut self, len: usize) -> bool {
        let more = len.saturating_sub(UNCOUNTED).saturating_sub(self.bytes);
        let covered = more == 0 || self.from.take(more);
        if covered {
            self.bytes += more;
        }
        covered
    }

    /// Gives back what `len` bytes do not need.
    pub(super) fn keep(&mut self, len: usize) {
        let needed = len.saturating_sub(UNCOUNTED);
        if let Some(spare) = self.bytes.checked_sub(needed) {
            self.from.give_back(spare);
            self.bytes = needed;
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.from.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::BytesMut;
    use sha2::{Digest as _, Sha256};
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::connection_id::ConnectionId;
    use crate::hello::ServerName;
    use crate::intake::{Flight, FlightError, Source, read_hello};
    use crate::record::{Hop, Metrics, Pending, Recorder};
    use crate::refusal::Refusal;

    /// Reached only when something is broken.
    const DEADLINE: Duration = Duration::from_secs(60);

    const USUAL: &[u8] = include_bytes!("../../tests/hellos/chromium.bin");

    /// A hello with so much padding (RFC 7685), in records as long as they may be.
    fn large(len: usize) -> Vec<u8> {
        let u16_prefixed = |bytes: &[u8]| {
            let len = u16::try_from(bytes.len()).unwrap();
            [&len.to_be_bytes()[..], bytes].concat()
        };
        let name = u16_prefixed(&[&[0][..], &u16_prefixed(b"en.wikipedia.org")].concat());
        let padding = u16_prefixed(&vec![0; len]);
        let extensions = [&[0, 0][..], &u16_prefixed(&name), &[0, 21], &padding].concat();
        let fixed = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0]].concat();
        let body = [fixed, u16_prefixed(&extensions)].concat();
        let [_, a, b, c] = u32::try_from(body.len()).unwrap().to_be_bytes();
        let message = [&[1, a, b, c][..], &body].concat();
        let records = message.chunks(1 << 14);
        records
            .flat_map(|chunk| [&[22, 3, 1][..], &u16_prefixed(chunk)].concat())
            .collect()
    }

    struct Client {
        _socket: TcpStream,
        outcome: tokio::task::JoinHandle<String>,
    }

    impl Client {
        /// Sends the bytes, which are read within `from`.
        async fn sends(bytes: &[u8], from: &Arc<Allowance>) -> Client {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let connecting = TcpStream::connect(listener.local_addr().unwrap());
            let (mut socket, accepted) = tokio::try_join!(connecting, listener.accept()).unwrap();
            let (mut accepted, from) = (accepted.0, from.clone());
            let outcome = tokio::spawn(async move {
                let recorder = Recorder::silent(Arc::new(Metrics::default()));
                let mut record = Pending::open(&recorder, Hop::Agent, ConnectionId::new());
                match read_hello(&mut accepted, &from, DEADLINE * 60, &mut record).await {
                    Ok(intake) => intake.hello.server_name.to_string(),
                    Err(error) => error.refusal().reason.into_owned(),
                }
            });
            // A reader that refuses resets the connection before it took everything.
            let _ = socket.write_all(bytes).await;
            Client {
                _socket: socket,
                outcome,
            }
        }

        async fn outcome(self) -> String {
            let outcome = tokio::time::timeout(DEADLINE, self.outcome).await;
            outcome.unwrap().unwrap()
        }
    }

    /// T4: large hellos that never end take what their own scope may have. Usual hellos need nothing
    /// of it, and other scopes have a part of their own.
    #[tokio::test]
    async fn large_hellos_without_an_end_take_a_bounded_part() {
        let whole = Allowance::of(1024 * 1024);
        let [scope, other] = [(); 2].map(|()| whole.part(4));
        let hello = large(60_000);
        let unfinished = hello.get(..60_000).unwrap();
        let each = unfinished.len() - UNCOUNTED;
        let mut held = Vec::new();
        let reached = async {
            for count in 1..=scope.most / each {
                held.push(Client::sends(unfinished, &scope).await);
                while scope.taken.load(Ordering::Relaxed) < count * each {
                    tokio::task::yield_now().await;
                }
            }
        };
        tokio::time::timeout(DEADLINE, reached).await.unwrap();
        assert_eq!(held.len(), 4);
        for _ in 0..20 {
            let refused = Client::sends(unfinished, &scope).await;
            assert_eq!(refused.outcome().await, "large_hello_limit");
        }
        assert_eq!(whole.taken.load(Ordering::Relaxed), 4 * each);
        let usual = Client::sends(USUAL, &scope).await.outcome().await;
        assert_ne!(usual, "large_hello_limit");
        assert!(usual.contains('.'), "{usual}");
        let large = Client::sends(&hello, &other).await.outcome().await;
        assert_eq!(large, "en.wikipedia.org");
        assert!(held.iter().all(|client| !client.outcome.is_finished()));
        // What ends gives its bytes back.
        for client in held {
            client.outcome.abort();
            assert!(client.outcome.await.unwrap_err().is_cancelled());
        }
        assert_eq!(whole.taken.load(Ordering::Relaxed), 0);
        let large = Client::sends(&hello, &scope).await.outcome().await;
        assert_eq!(large, "en.wikipedia.org");
    }

    /// As large as first ones, and as long unfinished.
    #[test]
    fn second_hellos_without_an_end_take_a_bounded_part() {
        let whole = Allowance::of(1024 * 1024);
        let scope = whole.part(4);
        let name = || ServerName::parse(b"en.wikipedia.org").unwrap();
        let digest = Sha256::digest(b"HelloRetryRequest");
        let retry = [&[22, 3, 3, 0, 38, 2, 0, 0, 34, 3, 3][..], &digest].concat();
        let asked_again = || {
            let mut flight = Flight::of(name(), &scope);
            flight.server_sent(&retry).unwrap();
            flight
        };
        let hello = large(60_000);
        let (unfinished, end) = hello.split_at(60_000);
        let mut held: Vec<Flight> = (0..4).map(|_| asked_again()).collect();
        for flight in &mut held {
            flight.client_sent(unfinished).unwrap();
        }
        let each = unfinished.len() - UNCOUNTED;
        assert_eq!(whole.taken.load(Ordering::Relaxed), 4 * each);
        let refused = asked_again().client_sent(unfinished);
        assert_eq!(refused, Err(FlightError::NoRoom));
        // Usual ones need nothing, and what may go on is the relay's.
        let usual = large(1000);
        let mut flight = asked_again();
        flight.client_sent(&usual).unwrap();
        flight.client_sent(&[0; 60_000]).unwrap();
        assert_eq!(flight.admitted().len(), usual.len() + 60_000);
        for flight in &mut held {
            flight.client_sent(end).unwrap();
            assert_eq!(flight.admitted().split(), hello);
        }
        assert_eq!(whole.taken.load(Ordering::Relaxed), 0);
    }

    /// Gives everything at once.
    struct AtOnce(Vec<u8>);

    impl Source for AtOnce {
        async fn more(&mut self, into: &mut BytesMut) -> Result<usize, Refusal> {
            into.extend_from_slice(&self.0);
            Ok(self.0.len())
        }
    }

    /// What came behind the first hello counts until the server answers, the hello itself until it is
    /// sent.
    #[tokio::test]
    async fn what_waits_behind_a_hello_counts_until_the_server_answers() {
        let whole = Allowance::of(1024 * 1024);
        let taken = || whole.taken.load(Ordering::Relaxed);
        let ahead = [&[22, 3, 3, 0x2e, 0xe0][..], &[0; 12_000]].concat();
        let mut source = AtOnce([large(10_000), ahead.clone()].concat());
        let recorder = Recorder::silent(Arc::new(Metrics::default()));
        let mut record = Pending::open(&recorder, Hop::Agent, ConnectionId::new());
        let intake = read_hello(&mut source, &whole, DEADLINE, &mut record).await;
        assert_eq!(taken(), source.0.len() - UNCOUNTED);
        let mut flight = intake.unwrap().into_flight();
        assert_eq!(taken(), ahead.len() - UNCOUNTED);
        flight.server_sent(b"no retry").unwrap();
        assert_eq!(taken(), 0);
        assert_eq!(flight.admitted().split(), ahead);
    }

    #[test]
    fn a_part_that_has_room_is_bounded_by_the_whole() {
        let whole = Allowance::of(100);
        let parts = [(); 3].map(|()| whole.part(2));
        let mut taken = parts.each_ref().map(Taken::nothing);
        let covered = taken.each_mut().map(|taken| taken.cover(UNCOUNTED + 40));
        assert_eq!(covered, [true, true, false]);
        let [_, _, last] = &parts;
        assert_eq!(last.taken.load(Ordering::Relaxed), 0);
        assert!(taken[2].cover(UNCOUNTED + 20));
        drop(taken);
        assert_eq!(whole.taken.load(Ordering::Relaxed), 0);
    }
}
