//! The credentials in use, and whether a peer that was let in may stay when they change or time
//! passes.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{CommonState, HandshakeKind};
use tokio::sync::watch;

use super::{End, PeerError, handshake_reason, peer_identity};
use crate::tunnel::identity::{Certificate, Moment, SpiffeId};

/// How often the clock is asked whether a certificate has ended: it may be set while we wait.
const LOOK: Duration = Duration::from_secs(30);

/// Where renewed credentials are put into use.
#[derive(Debug)]
pub struct Renewer<C>(watch::Sender<Arc<End<C>>>);

/// The credentials in use.
#[derive(Debug)]
pub struct InUse<C>(watch::Receiver<Arc<End<C>>>);

impl<C> Clone for InUse<C> {
    fn clone(&self) -> InUse<C> {
        InUse(self.0.clone())
    }
}

/// A connected pair.
pub fn in_use<C>(end: End<C>) -> (Renewer<C>, InUse<C>) {
    let (sender, receiver) = watch::channel(Arc::new(end));
    (Renewer(sender), InUse(receiver))
}

impl<C> Renewer<C> {
    /// Puts credentials into use: for new handshakes, and for judging the peers of tunnels that are
    /// there already.
    pub fn replace(&self, end: End<C>) {
        self.0.send_replace(Arc::new(end));
    }
}

impl<C> InUse<C> {
    /// The credentials for one handshake. A later change of them is not missed by the peer that
    /// comes of it.
    pub fn now(&self) -> Handshake<C> {
        let mut ends = self.0.clone();
        let end = ends.borrow_and_update().clone();
        Handshake { end, ends }
    }
}

/// The credentials of one handshake.
#[derive(Debug)]
pub struct Handshake<C> {
    end: Arc<End<C>>,
    ends: watch::Receiver<Arc<End<C>>>,
}

impl<C> Handshake<C> {
    /// The rustls configuration.
    pub fn config(&self) -> Arc<C> {
        self.end.config()
    }

    /// Who the peer is, by the certificates that it showed in the handshake. Where it showed them in an
    /// earlier one, which was resumed, they are judged as if it did so now.
    ///
    /// # Errors
    /// Those of [`peer_identity`], and [`PeerError::NoMore`].
    pub fn peer(self, session: &CommonState) -> Result<Peer<C>, PeerError> {
        let certificates = session.peer_certificates().unwrap_or_default();
        let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        self.shown(certificates, resumed)
    }

    fn shown(
        self,
        certificates: &[CertificateDer<'_>],
        resumed: bool,
    ) -> Result<Peer<C>, PeerError> {
        let id = peer_identity(certificates)?;
        if let (true, Some((leaf, intermediates))) = (resumed, certificates.split_first()) {
            let judged = self.end.judge.judge(leaf, intermediates, UnixTime::now());
            judged.map_err(|error| PeerError::NoMore(handshake_reason(&error)))?;
        }
        let mut until = self.end.until;
        for der in certificates {
            until = until.min(Certificate::parse(der)?.not_after());
        }
        Ok(Peer {
            id,
            chain: certificates
                .iter()
                .map(|der| der.clone().into_owned())
                .collect(),
            until,
            ends: self.ends,
        })
    }
}

/// Who is at the other end of a tunnel, and whether it may stay there.
#[derive(Debug)]
pub struct Peer<C> {
    id: SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    /// The first end of a certificate of either side.
    until: Moment,
    ends: watch::Receiver<Arc<End<C>>>,
}

/// Why a peer shall begin nothing more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// A certificate of the handshake has ended. What was begun before may go on.
    Expired,
    /// As [`Peer::rejected`] says.
    Rejected(&'static str),
}

impl<C> Peer<C> {
    /// The peer's SPIFFE ID.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Whether the credentials of the handshake are still those in use, and every certificate of it
    /// is valid.
    pub fn is_current(&self) -> bool {
        // An error says that nobody is left to change them.
        !self.ends.has_changed().unwrap_or_default() && !self.until.is_before(UnixTime::now())
    }

    /// Resolves when the peer shall begin nothing more.
    pub async fn ended(&mut self) -> Ended {
        let until = self.until;
        tokio::select! {
            () = expired(until) => Ended::Expired,
            reason = self.rejected() => Ended::Rejected(reason),
        }
    }

    /// Resolves, with the reason, when the credentials in use do not vouch for the peer any more: it
    /// is revoked, its CA has left the bundle, or it is not one to be trusted. That its certificate
    /// has ended meanwhile is not such a reason.
    pub async fn rejected(&mut self) -> &'static str {
        loop {
            if self.ends.changed().await.is_err() {
                // Nobody is left to change them.
                return std::future::pending().await;
            }
            if let Err(reason) = self.judge() {
                return reason;
            }
        }
    }

    fn judge(&mut self) -> Result<(), &'static str> {
        let end = self.ends.borrow_and_update().clone();
        let (leaf, intermediates) = self.chain.split_first().ok_or("no_peer_certificate")?;
        let now = UnixTime::now().min(self.until.unix_time());
        let judged = end.judge.judge(leaf, intermediates, now);
        judged.map_err(|error| handshake_reason(&error))
    }
}

async fn expired(until: Moment) {
    loop {
        let now = UnixTime::now();
        if until.is_before(now) {
            return;
        }
        let left = until.unix_time().as_secs().saturating_sub(now.as_secs());
        tokio::time::sleep(Duration::from_secs(left + 1).min(LOOK)).await;
    }
}

#[cfg(test)]
mod tests;
