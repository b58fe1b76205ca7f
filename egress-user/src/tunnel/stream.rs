//! The tunnel on a live mTLS connection: whole frames in and out, one
//! application stream at a time.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncBufRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::frame::{
    self, Delivery, FrameError, FrameHeader, HEADER_LEN, Kind, MAX_DATA, Opened, Order, ResetCode,
    Role,
};
use super::header::{HeaderError, OpenHeader};
use super::raw::Raw;
use super::tls;
use crate::refusal::Refusal;

/// Prepares the TCP connection under a tunnel: frames are written whole and need not wait for
/// more, and a peer whose host is gone is noticed while nothing is sent, within 30 seconds.
///
/// # Errors
/// When the kernel refuses, which it does for a connection that is reset already.
pub fn tune(socket: &TcpStream) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    socket.set_nodelay(true)?;
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

/// What a tunnel runs over: a TLS stream that lends out what it decrypted.
pub trait Transport: AsyncBufRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncBufRead + AsyncWrite + Unpin + Send> Transport for T {}

/// Why a tunnel is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The connection under it broke.
    #[error("the tunnel broke")]
    Io(#[from] io::Error),
    /// The peer ended it in the middle of a stream.
    #[error("the peer closed the tunnel in the middle of a stream")]
    Lost,
    /// The peer ended it before anything came back, and said nothing else.
    #[error("the peer closed the connection before anything came back")]
    Unanswered,
    /// The peer gave up on the stream.
    #[error("the peer reset the stream: {}", .0.reason())]
    Reset(ResetCode),
    /// The peer sent what the protocol does not allow.
    #[error("the peer broke the tunnel protocol")]
    Frame(#[from] FrameError),
    /// The peer's OPEN cannot be read.
    #[error("the peer sent an OPEN that cannot be read")]
    Header(#[from] HeaderError),
}

impl TunnelError {
    /// Whether the connection itself is gone, and the peer did nothing wrong.
    pub fn is_loss(&self) -> bool {
        matches!(
            self,
            TunnelError::Io(_) | TunnelError::Lost | TunnelError::Unanswered
        )
    }

    /// The reason in records.
    pub fn reason(&self) -> &'static str {
        match self {
            TunnelError::Io(error) => tls_error(error).map_or("tunnel_lost", tls::handshake_reason),
            TunnelError::Lost => "tunnel_lost",
            TunnelError::Unanswered => "gateway_closed",
            TunnelError::Reset(code) => code.reason(),
            TunnelError::Frame(error) => error.reason(),
            TunnelError::Header(error) => error.reason(),
        }
    }
}

/// What rustls said, where it was rustls. In TLS 1.3 an agent whose certificate is refused
/// learns it here, after its own side of the handshake.
pub(crate) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// The gateway's answer to OPEN.
#[derive(Debug)]
pub enum Answer {
    /// The origin was dialled; data may flow.
    Opened(Opened),
    /// The gateway will not carry the stream.
    Refused(Refusal),
}

/// What an idle tunnel is good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Idle {
    /// Another stream.
    Usable,
    /// Nothing: the gateway asked for no further stream.
    Draining,
    /// Nothing: the peer has closed it, or has sent something unasked.
    Gone,
}

/// What arrives while a stream is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Incoming {
    /// Payload is waiting to be taken.
    Data,
    /// The peer has nothing more to send on this stream.
    Fin,
}

/// A tunnel with its place in the current frame and the current stream.
pub struct Tunnel<T> {
    transport: T,
    order: Order,
    header: [u8; HEADER_LEN],
    header_filled: usize,
    data_left: usize,
    resetting: bool,
    given_up: bool,
}

impl<T: Transport> Tunnel<T> {
    /// Takes over a connection whose handshake is done.
    pub fn new(transport: T, role: Role) -> Tunnel<T> {
        Tunnel {
            transport,
            order: Order::new(role),
            header: [0; HEADER_LEN],
            header_filled: 0,
            data_left: 0,
            resetting: false,
            given_up: false,
        }
    }

    /// Whether no stream is open: the last one finished at both sides.
    pub fn is_idle(&self) -> bool {
        self.order.is_idle()
    }

    /// Whether a stream may be opened: no other one is, and the gateway takes streams.
    pub fn may_open(&self) -> bool {
        self.order.may_open() && !self.given_up
    }

    /// Whether the gateway asked for no further stream.
    pub fn is_draining(&self) -> bool {
        self.order.is_draining()
    }

    /// Whether the gateway does not take this agent at all.
    pub fn is_refused(&self) -> bool {
        self.order.is_refused()
    }

    /// Looks at an idle tunnel without waiting.
    pub fn look(&mut self) -> Idle {
        if self.may_open() {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            match self.poll_frame(&mut cx) {
                Poll::Pending => return Idle::Usable,
                Poll::Ready(Ok(Some(_))) if self.is_draining() => return Idle::Draining,
                Poll::Ready(_) => {}
            }
        } else if self.is_draining() {
            return Idle::Draining;
        }
        Idle::Gone
    }

    /// Waits until the gateway says that it takes this agent's streams, or that it does not.
    pub async fn ready(&mut self) -> Result<Result<(), Refusal>, TunnelError> {
        let (frame, _) = self.next_frame().await?.ok_or(TunnelError::Lost)?;
        let payload = self.payload(frame.payload_len()).await?;
        if self.order.is_refused() {
            return Ok(Err(frame::decode_refused(&payload)?));
        }
        Ok(Ok(()))
    }

    /// Tells the agent that its streams are taken.
    pub async fn send_ready(&mut self) -> Result<(), TunnelError> {
        self.send_frame(Kind::Ready, &[]).await
    }

    /// Opens a stream: OPEN and the first bytes leave together.
    pub async fn open(&mut self, header: &OpenHeader, first: &[u8]) -> Result<(), TunnelError> {
        let mut payload = BytesMut::with_capacity(frame::MAX_OPEN);
        header.encode(&mut payload)?;
        let frames = 1 + first.len().div_ceil(MAX_DATA);
        let mut out = BytesMut::with_capacity(payload.len() + first.len() + frames * HEADER_LEN);
        self.put(Kind::Open, &payload, &mut out)?;
        for chunk in first.chunks(MAX_DATA) {
            self.put(Kind::Data, chunk, &mut out)?;
        }
        self.send(&out).await
    }

    /// Waits for the gateway's answer to OPEN. A refused stream is over at both
    /// ends once this returns, and the tunnel is ready for the next.
    pub async fn answer(&mut self) -> Result<Answer, TunnelError> {
        loop {
            let (frame, _) = self.next_frame().await?.ok_or(TunnelError::Lost)?;
            let payload = self.payload(frame.payload_len()).await?;
            match frame.kind() {
                Kind::Opened => return Ok(Answer::Opened(Opened::decode(&payload)?)),
                Kind::Refused => {
                    let refusal = frame::decode_refused(&payload)?;
                    if !self.order.is_refused() {
                        self.send_frame(Kind::Fin, &[]).await?;
                    }
                    return Ok(Answer::Refused(refusal));
                }
                Kind::Reset => return Err(TunnelError::Reset(ResetCode::decode(&payload)?)),
                // The order of frames leaves no other to come here.
                Kind::Ready | Kind::Drain | Kind::Open | Kind::Data | Kind::Fin => {}
            }
        }
    }

    /// Waits for the next stream; `None` when the agent closed the idle tunnel.
    /// What the agent still sends of a stream that was refused is thrown away.
    pub async fn accept(&mut self) -> Result<Option<OpenHeader>, TunnelError> {
        loop {
            self.discard().await?;
            let Some((frame, delivery)) = self.next_frame().await? else {
                return Ok(None);
            };
            match (frame.kind(), delivery) {
                (Kind::Data, Delivery::Discard) => self.data_left = frame.payload_len(),
                (Kind::Open, _) => {
                    let payload = self.payload(frame.payload_len()).await?;
                    return Ok(Some(OpenHeader::decode(&payload)?));
                }
                _ => {
                    self.payload(frame.payload_len()).await?;
                }
            }
        }
    }

    /// Appends what is there of the stream's data; 0 when the peer finished.
    pub async fn read_data(&mut self, into: &mut BytesMut) -> Result<usize, TunnelError> {
        match poll_fn(|cx| self.poll_incoming(cx)).await? {
            Incoming::Fin => Ok(0),
            Incoming::Data => {
                let taken = poll_fn(|cx| {
                    let chunk = ready!(self.poll_data(cx))?;
                    into.extend_from_slice(chunk);
                    Poll::Ready(Ok::<_, TunnelError>(chunk.len()))
                })
                .await?;
                self.consume(taken);
                Ok(taken)
            }
        }
    }

    /// Tells the agent that the origin was dialled.
    pub async fn send_opened(&mut self, opened: &Opened) -> Result<(), TunnelError> {
        self.order.sent(Kind::Opened)?;
        let mut out = BytesMut::new();
        opened.put(&mut out)?;
        self.send(&out).await
    }

    /// Tells the agent that the stream will not be carried, and why; before
    /// [`send_ready`](Self::send_ready), that none of its streams will be.
    pub async fn send_refused(&mut self, refusal: &Refusal) -> Result<(), TunnelError> {
        self.order.sent(Kind::Refused)?;
        let mut out = BytesMut::new();
        frame::put_refused(refusal, &mut out)?;
        self.send(&out).await
    }

    /// Tells the peer that the stream is given up, and why.
    pub async fn send_reset(&mut self, code: ResetCode) -> Result<(), TunnelError> {
        self.send_frame(Kind::Reset, &[code.code()]).await
    }

    /// Asks the agent to open no further stream here.
    pub async fn send_drain(&mut self) -> Result<(), TunnelError> {
        self.send_frame(Kind::Drain, &[]).await
    }

    /// Ends the TLS session in good order.
    pub async fn close(&mut self) -> Result<(), TunnelError> {
        Ok(self.transport.shutdown().await?)
    }

    /// Reads and throws away what the peer still sends, until it closes: closing over unread bytes
    /// would reset the connection, and could destroy the last words on their way.
    pub async fn outlast(&mut self) -> Result<(), TunnelError> {
        loop {
            let taken = poll_fn(|cx| {
                let chunk = ready!(Pin::new(&mut self.transport).poll_fill_buf(cx))?;
                Poll::Ready(Ok::<_, io::Error>(chunk.len()))
            })
            .await?;
            if taken == 0 {
                return Ok(());
            }
            Pin::new(&mut self.transport).consume(taken);
        }
    }

    /// Says that a frame was left unfinished: whatever came after it would be read as its payload.
    pub(crate) fn give_up(&mut self) {
        self.given_up = true;
    }

    /// The connection as one without frames, which it is from now on.
    pub fn raw(&mut self) -> Raw<'_, T> {
        self.given_up = true;
        Raw::new(&mut self.transport)
    }

    /// The connection underneath, for the relay to write to.
    pub(crate) fn transport(&mut self) -> Pin<&mut T> {
        Pin::new(&mut self.transport)
    }

    /// Notes that a frame of this kind is about to be written by the relay.
    pub(crate) fn sending(&mut self, kind: Kind) -> Result<(), FrameError> {
        self.order.sent(kind)
    }

    /// What comes next of the open stream.
    pub(crate) fn poll_incoming(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Incoming, TunnelError>> {
        loop {
            if self.data_left > 0 {
                return Poll::Ready(Ok(Incoming::Data));
            }
            if self.resetting {
                let chunk = ready!(Pin::new(&mut self.transport).poll_fill_buf(cx))?;
                let code = ResetCode::decode(chunk.get(..1).ok_or(TunnelError::Lost)?)?;
                return Poll::Ready(Err(TunnelError::Reset(code)));
            }
            let (frame, _) = ready!(self.poll_frame(cx))?.ok_or(TunnelError::Lost)?;
            match frame.kind() {
                Kind::Data => self.data_left = frame.payload_len(),
                Kind::Fin => return Poll::Ready(Ok(Incoming::Fin)),
                Kind::Reset => self.resetting = true,
                // The order of frames leaves no other to come here.
                Kind::Ready | Kind::Drain | Kind::Open | Kind::Opened | Kind::Refused => {}
            }
        }
    }

    /// The part of the current DATA frame that is already decrypted; never empty.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<&[u8], TunnelError>> {
        let limit = self.data_left;
        let chunk = ready!(Pin::new(&mut self.transport).poll_fill_buf(cx))?;
        let chunk = chunk.get(..limit).unwrap_or(chunk);
        if chunk.is_empty() {
            return Poll::Ready(Err(TunnelError::Lost));
        }
        Poll::Ready(Ok(chunk))
    }

    /// Takes `count` bytes off the current DATA frame.
    pub(crate) fn consume(&mut self, count: usize) {
        self.data_left = self.data_left.saturating_sub(count);
        Pin::new(&mut self.transport).consume(count);
    }

    async fn next_frame(&mut self) -> Result<Option<(FrameHeader, Delivery)>, TunnelError> {
        poll_fn(|cx| self.poll_frame(cx)).await
    }

    /// The next frame's header; `None` when the peer closed between two frames
    /// with no stream open.
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<(FrameHeader, Delivery)>, TunnelError>> {
        while let Some(missing) = self.header.get_mut(self.header_filled..)
            && !missing.is_empty()
        {
            let chunk = ready!(Pin::new(&mut self.transport).poll_fill_buf(cx))?;
            if chunk.is_empty() {
                let clean = self.header_filled == 0 && self.order.is_idle();
                return Poll::Ready(if clean {
                    Ok(None)
                } else {
                    Err(TunnelError::Lost)
                });
            }
            let mut taken = 0;
            for (to, from) in missing.iter_mut().zip(chunk) {
                *to = *from;
                taken += 1;
            }
            self.header_filled += taken;
            Pin::new(&mut self.transport).consume(taken);
        }
        self.header_filled = 0;
        let frame = FrameHeader::parse(&self.header)?;
        let delivery = self.order.received(frame.kind())?;
        Poll::Ready(Ok(Some((frame, delivery))))
    }

    /// A control frame's payload; its length was checked with its header.
    async fn payload(&mut self, len: usize) -> Result<Vec<u8>, TunnelError> {
        let mut payload = Vec::with_capacity(len);
        while payload.len() < len {
            let taken = poll_fn(|cx| {
                let chunk = ready!(Pin::new(&mut self.transport).poll_fill_buf(cx))?;
                let missing = len - payload.len();
                let chunk = chunk.get(..missing).unwrap_or(chunk);
                payload.extend_from_slice(chunk);
                Poll::Ready(Ok::<_, io::Error>(chunk.len()))
            })
            .await?;
            if taken == 0 {
                return Err(TunnelError::Lost);
            }
            Pin::new(&mut self.transport).consume(taken);
        }
        Ok(payload)
    }

    /// Throws away what is left of the current DATA frame.
    async fn discard(&mut self) -> Result<(), TunnelError> {
        while self.data_left > 0 {
            let taken = poll_fn(|cx| self.poll_data(cx).map_ok(<[u8]>::len)).await?;
            self.consume(taken);
        }
        Ok(())
    }

    fn put(&mut self, kind: Kind, payload: &[u8], out: &mut BytesMut) -> Result<(), FrameError> {
        self.order.sent(kind)?;
        frame::put(kind, payload, out)
    }

    async fn send_frame(&mut self, kind: Kind, payload: &[u8]) -> Result<(), TunnelError> {
        let mut out = BytesMut::with_capacity(HEADER_LEN + payload.len());
        self.put(kind, payload, &mut out)?;
        self.send(&out).await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), TunnelError> {
        if self.given_up {
            return Err(TunnelError::Lost);
        }
        self.transport.write_all(bytes).await?;
        Ok(self.transport.flush().await?)
    }
}
