//! The messages of `FetchX509SVID` (`workload.proto` of the SPIFFE Workload API standard), as far as
//! they are read.

use prost::Message;

use crate::tunnel::tls::CredentialDer;
use crate::workload_api::{Socket, WorkloadApiError};

#[derive(Clone, PartialEq, Message)]
pub(super) struct X509SvidRequest {}

/// Not to be printed: it has private keys in it.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct X509SvidResponse {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<X509Svid>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    crl: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct X509Svid {
    #[prost(bytes = "vec", tag = "2")]
    x509_svid: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    x509_svid_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    bundle: Vec<u8>,
}

impl X509SvidResponse {
    /// The default identity, which is the first.
    pub(super) fn into_credentials(
        self,
        socket: &Socket,
    ) -> Result<CredentialDer, WorkloadApiError> {
        let incomplete = |what| WorkloadApiError::Incomplete {
            socket: socket.clone(),
            what,
        };
        let svid = self.svids.into_iter().next();
        let svid = svid.ok_or_else(|| incomplete("identity"))?;
        for (field, what) in [
            (&svid.x509_svid, "certificate"),
            (&svid.x509_svid_key, "private key"),
            (&svid.bundle, "trust bundle"),
        ] {
            if field.is_empty() {
                return Err(incomplete(what));
            }
        }
        Ok(CredentialDer {
            giver: socket.to_string(),
            certificates: svid.x509_svid,
            key: svid.x509_svid_key,
            trust_bundle: svid.bundle,
            crl: self.crl.concat(),
        })
    }
}
