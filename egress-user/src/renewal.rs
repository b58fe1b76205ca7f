//! Takes new certificates from where they come from, files or a Workload API, and watches the time that
//! those in use have left. Good ones are put into use at once; bad ones change nothing, are explained in
//! the log, and raise an alarm in the metrics.

mod source;

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::UnixTime;

use crate::record::Metrics;
use crate::tunnel::identity::{Moment, SpiffeId, TrustDomain};
use crate::tunnel::tls::{ConfigError, Credentials, End, Renewer, Validity};

pub use self::source::{Followed, LoadError, Source};

/// The part of a certificate's lifetime at whose beginning a warning comes, as one part of so many:
/// whoever renews at half or two thirds of it has failed by then.
const WARNED_PART: u32 = 5;

/// How an end of a tunnel is made of credentials.
pub type Build<C> = Box<dyn Fn(&Credentials) -> Result<End<C>, ConfigError> + Send>;

/// Why new certificates are not put into use.
#[derive(Debug, thiserror::Error)]
enum NotUsed {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "the certificate is one of trust domain {new}, and this process serves {old}: \
         start it again to move it there"
    )]
    TrustDomain { new: TrustDomain, old: TrustDomain },
}

/// Follows the certificates of one end of a tunnel.
pub struct Renewal<C> {
    followed: Followed,
    build: Build<C>,
    renewer: Renewer<C>,
    /// Who this process is.
    id: SpiffeId,
    validity: Validity,
    said: TimeLeft,
    /// Why the newest certificates are not in use, if they are not.
    failing: Option<String>,
    metrics: Arc<Metrics>,
}

impl<C> Renewal<C> {
    /// Follows what `credentials` came from.
    pub fn new(
        followed: Followed,
        credentials: &Credentials,
        build: Build<C>,
        renewer: Renewer<C>,
        metrics: Arc<Metrics>,
    ) -> Renewal<C> {
        let renewal = Renewal {
            followed,
            build,
            renewer,
            id: credentials.id().clone(),
            validity: credentials.validity(),
            said: TimeLeft::Enough,
            failing: None,
            metrics,
        };
        renewal.show(credentials);
        renewal
    }

    /// Follows as long as the process lives. Blocks its thread.
    pub fn run(mut self) {
        loop {
            self.remind(UnixTime::now());
            if let Some(loaded) = self.followed.next() {
                self.renew(loaded);
            }
        }
    }

    fn renew(&mut self, loaded: Result<Credentials, LoadError>) {
        match self.check(loaded) {
            Ok((credentials, end)) => {
                self.renewer.replace(end);
                self.validity = credentials.validity();
                self.said = TimeLeft::Enough;
                self.failing = None;
                self.show(&credentials);
                self.metrics.credentials_reload_failed(false);
                self.be(credentials.id());
                tracing::info!(id = %self.id, valid_until = %self.validity.until, "certificates in use");
            }
            Err(fault) => {
                // While a Workload API is away each attempt fails, for a reason that was said.
                let fault = fault.to_string();
                if self.failing.as_ref() != Some(&fault) {
                    tracing::warn!("the certificates in use stay:\n{fault}");
                }
                self.failing = Some(fault);
                self.metrics.credentials_reload_failed(true);
            }
        }
    }

    /// Another identity is no mistake, and is not passed over in silence either: others have rules
    /// for the one from before.
    fn be(&mut self, id: &SpiffeId) {
        if *id != self.id {
            tracing::warn!("this process is {id} from now on, and was {}", self.id);
            self.id = id.clone();
        }
    }

    fn check(
        &self,
        loaded: Result<Credentials, LoadError>,
    ) -> Result<(Credentials, End<C>), NotUsed> {
        let credentials = loaded?;
        let new = credentials.id().trust_domain();
        if new != self.id.trust_domain() {
            return Err(NotUsed::TrustDomain {
                new: new.clone(),
                old: self.id.trust_domain().clone(),
            });
        }
        for warning in credentials.warnings() {
            tracing::warn!("{warning}");
        }
        let end = (self.build)(&credentials)?;
        Ok((credentials, end))
    }

    fn show(&self, credentials: &Credentials) {
        let seconds = Moment::unix_seconds;
        self.metrics.credentials_in_use(&[
            ("certificate", Some(seconds(credentials.validity().until))),
            ("bundle", Some(seconds(credentials.bundle_valid_until()))),
            ("crl", credentials.crl_valid_until().map(seconds)),
        ]);
    }

    /// Says once that the own certificate ends soon, and once that it has ended.
    fn remind(&mut self, now: UnixTime) {
        let left = TimeLeft::of(self.validity, now);
        if left == self.said {
            return;
        }
        self.said = left;
        let certificate = self.followed.certificate();
        let until = self.validity.until;
        match left {
            TimeLeft::Enough => {}
            TimeLeft::Little => tracing::warn!(
                "the certificate {certificate} ends at {until} and was not renewed yet"
            ),
            TimeLeft::Over => tracing::warn!(
                "the certificate {certificate} has ended at {until}: no peer takes it any more"
            ),
        }
    }
}

/// How much time a certificate has left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum TimeLeft {
    Enough,
    Little,
    Over,
}

impl TimeLeft {
    fn of(validity: Validity, now: UnixTime) -> TimeLeft {
        let (from, until) = (validity.from.unix_time(), validity.until.unix_time());
        let lifetime = Duration::from_secs(until.as_secs().saturating_sub(from.as_secs()));
        let left = Duration::from_secs(until.as_secs().saturating_sub(now.as_secs()));
        if validity.until.is_before(now) {
            TimeLeft::Over
        } else if left < lifetime / WARNED_PART {
            TimeLeft::Little
        } else {
            TimeLeft::Enough
        }
    }
}

#[cfg(test)]
mod tests;
