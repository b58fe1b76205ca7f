//! Reads the certificate files again when they change, and watches the time that certificates have
//! left. Good files are put into use at once; bad ones change nothing, are explained in the log, and
//! raise an alarm in the metrics.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::UnixTime;

use crate::record::Metrics;
use crate::tunnel::identity::{Moment, TrustDomain};
use crate::tunnel::tls::{
    ConfigError, CredentialFiles, Credentials, CredentialsFaults, End, Renewer, Validity,
};
use crate::watched::{State, Watched};

/// The part of a certificate's lifetime at whose beginning a warning comes, as one part of so many:
/// whoever renews at half or two thirds of it has failed by then.
const WARNED_PART: u32 = 5;

/// How an end of a tunnel is made of credentials.
pub type Build<C> = Box<dyn Fn(&Credentials) -> Result<End<C>, ConfigError> + Send>;

/// Why renewed files are not put into use.
#[derive(Debug, thiserror::Error)]
enum NotUsed {
    #[error(transparent)]
    Faults(#[from] CredentialsFaults),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "the certificate is one of trust domain {new}, and this process serves {old}: \
         start it again to move it there"
    )]
    TrustDomain { new: TrustDomain, old: TrustDomain },
}

/// Follows the certificate files of one end of a tunnel.
pub struct Renewal<C> {
    files: CredentialFiles,
    watched: Watched,
    build: Build<C>,
    renewer: Renewer<C>,
    trust_domain: TrustDomain,
    validity: Validity,
    said: TimeLeft,
    metrics: Arc<Metrics>,
}

impl<C> Renewal<C> {
    /// Follows the files from the state in which `credentials` were read of them.
    ///
    /// # Errors
    /// As [`Watched::new`].
    pub fn new(
        files: CredentialFiles,
        seen: State,
        credentials: &Credentials,
        build: Build<C>,
        renewer: Renewer<C>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Renewal<C>> {
        let renewal = Renewal {
            watched: Watched::new(files.paths(), seen)?,
            files,
            build,
            renewer,
            trust_domain: credentials.id().trust_domain().clone(),
            validity: credentials.validity(),
            said: TimeLeft::Enough,
            metrics,
        };
        renewal.show(credentials);
        Ok(renewal)
    }

    /// Follows the files as long as the process lives. Blocks its thread.
    pub fn run(mut self) {
        loop {
            self.remind(UnixTime::now());
            self.watched.wait();
            if self.watched.changed(Instant::now()) {
                self.renew(UnixTime::now());
            }
        }
    }

    fn renew(&mut self, now: UnixTime) {
        let read = self.read(now);
        if !self.watched.stands() {
            return;
        }
        match read {
            Ok((credentials, end)) => {
                self.renewer.replace(end);
                self.validity = credentials.validity();
                self.said = TimeLeft::Enough;
                self.show(&credentials);
                self.metrics.credentials_reload_failed(false);
                tracing::info!(valid_until = %self.validity.until, "certificates in use");
            }
            Err(fault) => {
                tracing::warn!("the certificates in use stay, because of their files:\n{fault}");
                self.metrics.credentials_reload_failed(true);
            }
        }
    }

    fn read(&self, now: UnixTime) -> Result<(Credentials, End<C>), NotUsed> {
        let credentials = Credentials::load(&self.files, now)?;
        let new = credentials.id().trust_domain();
        if *new != self.trust_domain {
            return Err(NotUsed::TrustDomain {
                new: new.clone(),
                old: self.trust_domain.clone(),
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
        let certificate = self.files.certificate.display();
        let until = self.validity.until;
        match left {
            TimeLeft::Enough => {}
            TimeLeft::Little => tracing::warn!(
                "the certificate in {certificate} ends at {until} and was not renewed yet"
            ),
            TimeLeft::Over => tracing::warn!(
                "the certificate in {certificate} has ended at {until}: no peer takes it any more"
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
