//! The two judgements, as both hops make them: reads a ClientHello from a live stream,
//! within a size and a deadline, and asks the policy. The exact bytes that were read are
//! kept: they are what is judged and forwarded.

mod allowance;
mod flight;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::hello::{
    CLOSED_BEFORE_HELLO, ClientHello, Ech, FirstFlight, NotAHello, Parser, Progress, TOO_SLOW,
};
use crate::policy::{Admitted, Policy, Request, Verdict};
use crate::record::{Pending, Record};
use crate::refusal::{Class, Refusal};
use crate::tunnel::frame::ResetCode;
use crate::tunnel::raw::Raw;
use crate::tunnel::stream::{Transport, Tunnel};

pub use allowance::Allowance;
pub use flight::{Flight, FlightError};

use allowance::Taken;

/// The reason for which what waits is not taken.
pub const NO_ROOM: &str = "large_hello_limit";

/// Most hellos fit; a larger one grows the buffer once or twice.
const USUAL_HELLO: usize = 2048;

/// Where a ClientHello comes from.
pub trait Source {
    /// Appends what is there; 0 at the end of the stream.
    fn more(&mut self, into: &mut BytesMut) -> impl Future<Output = Result<usize, Refusal>> + Send;
}

impl Source for TcpStream {
    async fn more(&mut self, into: &mut BytesMut) -> Result<usize, Refusal> {
        into.reserve(USUAL_HELLO);
        match self.read_buf(into).await {
            // A client that resets without a word has left, like one that closes.
            Err(_) if into.is_empty() => Ok(0),
            Err(_) => Err(Refusal::new(Class::Malformed, "client_reset")),
            Ok(count) => Ok(count),
        }
    }
}

impl<T: Transport> Source for Tunnel<T> {
    async fn more(&mut self, into: &mut BytesMut) -> Result<usize, Refusal> {
        let read = self.read_data(into).await;
        read.map_err(|error| Refusal::new(Class::Internal, error.reason()))
    }
}

impl<T: Transport> Source for Raw<'_, T> {
    async fn more(&mut self, into: &mut BytesMut) -> Result<usize, Refusal> {
        let read = self.read_data(into).await;
        read.map_err(|error| Refusal::new(Class::Internal, error.reason()))
    }
}

/// A ClientHello and everything that was read with it.
pub struct Intake {
    /// What the hello says.
    pub hello: Box<ClientHello>,
    /// The exact bytes read so far that may be forwarded, as they are.
    pub bytes: BytesMut,
    /// May hold back some of what was read.
    flight: FirstFlight,
    /// For all of that.
    taken: Taken,
}

impl Intake {
    /// Asks the policy about the name that was read, for the workload in the record.
    pub fn judge(
        &self,
        policy: &Policy,
        port: u16,
        record: &mut Pending,
    ) -> Result<Admitted, Refusal> {
        let started = std::time::Instant::now();
        let verdict = policy.judge(&Request {
            name: &self.hello.server_name,
            port,
            workload: &record.workload,
        });
        record.timings.policy = Some(started.elapsed().into());
        match verdict {
            Verdict::Admitted(admitted) => {
                let audited = admitted.would_refuse();
                record.would_refuse = audited.map(|refusal| refusal.reason.clone());
                record.rule = audited
                    .and_then(|refusal| refusal.rule.clone())
                    .or_else(|| admitted.rule().cloned());
                Ok(admitted)
            }
            Verdict::Refused(refusal) => Err(refusal),
        }
    }

    /// What comes of the session before the rest is nobody's business, once the bytes are sent.
    pub fn into_flight(self) -> Flight {
        Flight::with(self.flight, self.taken)
    }

    /// Writes what the hello says into the record.
    fn describe(&self, record: &mut Record) {
        record.sni = Some(self.hello.server_name.to_string());
        record.alpn.clone_from(&self.hello.alpn);
        record.tls_versions = self
            .hello
            .versions
            .iter()
            .map(ToString::to_string)
            .collect();
        record.ech = Some(self.hello.ech == Ech::Outer);
        record.ja4 = Some(self.hello.ja4.clone());
    }
}

/// Why there is no hello.
#[derive(Debug)]
pub enum IntakeError {
    /// The client left without a word.
    ClosedBeforeHello,
    /// The client left in the middle of its hello.
    ClosedInHello,
    /// The hello is larger than most, and too many such are in hand.
    NoRoom,
    /// The deadline passed.
    TooSlow,
    /// The stream broke.
    Broken(Refusal),
    /// The bytes are not an acceptable hello.
    Refused(NotAHello),
}

impl IntakeError {
    /// The refusal to record and to send back.
    pub fn refusal(&self) -> Refusal {
        match self {
            IntakeError::ClosedBeforeHello => Refusal::new(Class::Malformed, CLOSED_BEFORE_HELLO),
            IntakeError::ClosedInHello => Refusal::new(Class::Malformed, "closed_in_hello"),
            // Somewhere else there may be room.
            IntakeError::NoRoom => Refusal::new(Class::Busy, NO_ROOM),
            IntakeError::TooSlow => Refusal::new(Class::Malformed, TOO_SLOW),
            IntakeError::Broken(refusal) => refusal.clone(),
            IntakeError::Refused(not) => Refusal::new(not.class(), not.reason()),
        }
    }

    /// Writes the name that was refused into the record, where there was one.
    fn describe(&self, record: &mut Record) {
        if let IntakeError::Refused(not) = self {
            record.sni_raw = not.raw_name().map(ToString::to_string);
        }
    }
}

/// Reads until the hello is whole, the bytes prove that they are none, what is taken of `allowance`
/// is too much, or `limit` is over. The record says what was read.
pub async fn read_hello(
    source: &mut impl Source,
    allowance: &Arc<Allowance>,
    limit: Duration,
    record: &mut Pending,
) -> Result<Intake, IntakeError> {
    let taken = Taken::nothing(allowance);
    let intake = read(source, taken, Instant::now() + limit).await;
    record.timings.hello = Some(record.started().elapsed().into());
    match &intake {
        Ok(intake) => intake.describe(record),
        Err(error) => error.describe(record),
    }
    intake
}

async fn read(
    source: &mut impl Source,
    mut taken: Taken,
    deadline: Instant,
) -> Result<Intake, IntakeError> {
    let mut bytes = BytesMut::with_capacity(USUAL_HELLO);
    let mut parser = Parser::new();
    loop {
        let more = tokio::time::timeout_at(deadline, source.more(&mut bytes)).await;
        match more.map_err(|_| IntakeError::TooSlow)? {
            Ok(0) if bytes.is_empty() => return Err(IntakeError::ClosedBeforeHello),
            Ok(0) => return Err(IntakeError::ClosedInHello),
            Err(error) => return Err(IntakeError::Broken(error)),
            Ok(_) => {}
        }
        if !taken.cover(bytes.len()) {
            return Err(IntakeError::NoRoom);
        }
        // Never NeedMore once MAX_HELLO bytes are there, which bounds the buffer.
        match parser.advance(&bytes) {
            Progress::Hello(hello) => return whole(hello, (bytes, taken), parser.end()),
            Progress::Not(not) => return Err(IntakeError::Refused(not)),
            Progress::NeedMore => {}
        }
    }
}

/// Behind the hello, which ends at `end`, early data may stand, or what must wait.
fn whole(
    hello: Box<ClientHello>,
    (mut bytes, taken): (BytesMut, Taken),
    end: usize,
) -> Result<Intake, IntakeError> {
    let rest = bytes.split_off(end.min(bytes.len()));
    let mut flight = FirstFlight::of(hello.server_name.clone());
    flight.client_sent(&rest).map_err(|_| {
        let reason = ResetCode::NameChangedOnRetry.reason();
        IntakeError::Broken(Refusal::new(Class::Malformed, reason))
    })?;
    bytes.unsplit(flight.admitted().split());
    Ok(Intake {
        hello,
        bytes,
        flight,
        taken,
    })
}
