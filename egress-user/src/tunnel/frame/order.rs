//! Which frame may follow which.
//!
//! The gateway's first frame is READY, or REFUSED if it does not take this agent at all: then nothing
//! follows, and what the agent has sent meanwhile is not answered. The agent need not wait for it: it
//! may open a stream at once, and learns of either before the stream's answer.
//!
//! A stream begins with OPEN. Each of its two directions then ends exactly once: with FIN when it is
//! complete, with RESET when it is cut off, the gateway's also with REFUSED as long as it has not
//! sent OPENED. OPENED comes before the gateway's first DATA and before its FIN. The stream is over
//! when both directions have ended, and only then may the agent send the next OPEN.
//!
//! A side that has cut off its direction discards what still arrives of the other until that ends
//! too. A side that sees the other's direction cut off sends no more DATA and ends its own. Because a
//! direction ends once, no frame of a past stream can be taken for one of the next; a side that wants
//! to cut off a stream after its own FIN closes the connection instead.
//!
//! DRAIN may come at any time, once. It can cross an OPEN, which the gateway then serves or refuses
//! as busy.

use std::fmt;

use super::{FrameError, Kind};

/// The two sides of a tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// Opens streams.
    Agent,
    /// Serves them.
    Gateway,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Agent => "agent",
            Role::Gateway => "gateway",
        })
    }
}

/// What to do with the payload of a frame that came in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Delivery {
    /// It is meant for this side.
    Deliver,
    /// It was on its way when this side cut the stream off. Read it and forget it.
    Discard,
}

/// The frames of one connection so far, as one side sees them.
///
/// Every frame is announced here: before it is sent, and after its header has been read.
#[derive(Clone, Debug)]
pub struct Order {
    role: Role,
    stream: Option<Stream>,
    greeting: Greeting,
    draining: bool,
}

/// The gateway's first frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Greeting {
    Owed,
    Ready,
    /// The whole connection is refused.
    Refused,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    agent: Half,
    gateway: Half,
    opened: bool,
}

/// One direction of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Half {
    Flowing,
    Finished,
    CutOff,
}

impl Order {
    /// The order of a new connection, seen from `role`.
    pub fn new(role: Role) -> Order {
        Order {
            role,
            stream: None,
            greeting: Greeting::Owed,
            draining: false,
        }
    }

    /// This side is about to send a frame.
    ///
    /// # Errors
    /// [`FrameError::Direction`] and [`FrameError::Order`]: the frame must not be sent.
    pub fn sent(&mut self, kind: Kind) -> Result<(), FrameError> {
        let from = self.role;
        let out_of_order = Err(FrameError::Order { kind, from });
        match (kind, self.stream) {
            (Kind::Open, _) if self.draining => out_of_order,
            (Kind::Data, Some(stream)) if stream.half(self.peer()) == Half::CutOff => out_of_order,
            _ => self.step(from, kind),
        }
    }

    /// This side has read a frame's header.
    ///
    /// # Errors
    /// [`FrameError::Direction`] and [`FrameError::Order`]: the connection must be closed.
    pub fn received(&mut self, kind: Kind) -> Result<Delivery, FrameError> {
        if self.is_refused() && self.role == Role::Gateway {
            return Ok(Delivery::Discard);
        }
        let cut_off = matches!(self.stream, Some(stream) if stream.half(self.role) == Half::CutOff);
        self.step(self.peer(), kind)?;
        Ok(if cut_off && kind != Kind::Drain {
            Delivery::Discard
        } else {
            Delivery::Deliver
        })
    }

    /// Whether no stream is open.
    pub fn is_idle(&self) -> bool {
        self.stream.is_none()
    }

    /// Whether the gateway has said that it takes streams.
    pub fn is_ready(&self) -> bool {
        self.greeting == Greeting::Ready
    }

    /// Whether the gateway refused the connection as a whole.
    pub fn is_refused(&self) -> bool {
        self.greeting == Greeting::Refused
    }

    /// Whether DRAIN was sent or received.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Whether this side may open a stream now.
    pub fn may_open(&self) -> bool {
        self.role == Role::Agent && self.is_idle() && !self.draining && !self.is_refused()
    }

    /// Whether this side's direction of the open stream has not ended: it still owes FIN, RESET or
    /// REFUSED.
    pub fn owes_end(&self) -> bool {
        matches!(self.stream, Some(stream) if stream.half(self.role) == Half::Flowing)
    }

    /// Whether the peer's direction of the open stream has not ended.
    pub fn awaits_end(&self) -> bool {
        matches!(self.stream, Some(stream) if stream.half(self.peer()) == Half::Flowing)
    }

    fn peer(&self) -> Role {
        match self.role {
            Role::Agent => Role::Gateway,
            Role::Gateway => Role::Agent,
        }
    }

    /// The rules that hold for a frame at both ends.
    fn step(&mut self, from: Role, kind: Kind) -> Result<(), FrameError> {
        if !may_send(from, kind) {
            return Err(FrameError::Direction { kind, from });
        }
        let in_order = match (self.stream.as_mut(), kind) {
            _ if self.greeting == Greeting::Refused => false,
            _ if self.greeting == Greeting::Owed && from == Role::Gateway => self.greet(kind),
            (_, Kind::Ready) => false,
            (_, Kind::Drain) => !std::mem::replace(&mut self.draining, true),
            (None, Kind::Open) => {
                self.stream = Some(Stream::NEW);
                true
            }
            (None, _) => false,
            (Some(stream), _) => stream.step(from, kind),
        };
        if !in_order {
            return Err(FrameError::Order { kind, from });
        }
        self.stream = self.stream.filter(|stream| !stream.is_over());
        Ok(())
    }

    /// Takes the gateway's first frame; false when it is no greeting.
    fn greet(&mut self, kind: Kind) -> bool {
        match kind {
            Kind::Ready => self.greeting = Greeting::Ready,
            Kind::Refused => {
                self.greeting = Greeting::Refused;
                self.stream = None;
            }
            _ => return false,
        }
        true
    }
}

fn may_send(from: Role, kind: Kind) -> bool {
    match kind {
        Kind::Open => from == Role::Agent,
        Kind::Refused | Kind::Opened | Kind::Drain | Kind::Ready => from == Role::Gateway,
        Kind::Data | Kind::Fin | Kind::Reset => true,
    }
}

impl Stream {
    const NEW: Stream = Stream {
        agent: Half::Flowing,
        gateway: Half::Flowing,
        opened: false,
    };

    fn half(self, role: Role) -> Half {
        match role {
            Role::Agent => self.agent,
            Role::Gateway => self.gateway,
        }
    }

    fn is_over(self) -> bool {
        self.agent != Half::Flowing && self.gateway != Half::Flowing
    }

    /// Takes a frame of the stream; false when it is out of order.
    fn step(&mut self, from: Role, kind: Kind) -> bool {
        let opened = self.opened || from == Role::Agent;
        let half = match from {
            Role::Agent => &mut self.agent,
            Role::Gateway => &mut self.gateway,
        };
        if *half != Half::Flowing {
            return false;
        }
        match kind {
            Kind::Data => return opened,
            Kind::Fin if opened => *half = Half::Finished,
            Kind::Reset => *half = Half::CutOff,
            Kind::Refused if !opened => *half = Half::CutOff,
            Kind::Opened if !opened => self.opened = true,
            Kind::Open | Kind::Drain | Kind::Ready | Kind::Fin | Kind::Refused | Kind::Opened => {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
