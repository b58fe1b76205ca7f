//! A name server that says what a test wants, by whatever it is asked.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{CNAME, SOA};
use hickory_resolver::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::ips;

/// What the server says to one question.
pub(crate) enum Say {
    /// These of the addresses that are of the family asked for, and for how many seconds.
    Addresses(&'static [&'static str], u32),
    /// The same, which by UDP is said to be too much.
    Much(&'static [&'static str]),
    Code(ResponseCode),
    /// That it is another name's, and for how many seconds.
    Alias(&'static str, u32),
    Nothing,
}

/// How a question came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum By {
    Udp,
    Tcp,
    Tls,
}

/// A server that answers as `say` wants it, which gets the name, and how many questions about
/// it and its type came before.
pub(crate) struct Liar {
    pub(crate) addr: SocketAddr,
    asked: Arc<Mutex<Vec<(String, RecordType)>>>,
    asked_by: Arc<Mutex<Vec<By>>>,
}

type SayIt = dyn Fn(&str, usize) -> Say + Send + Sync;

/// What it is at all of its sockets.
#[derive(Clone)]
struct Mind {
    say: Arc<SayIt>,
    asked: Arc<Mutex<Vec<(String, RecordType)>>>,
    asked_by: Arc<Mutex<Vec<By>>>,
}

impl Mind {
    fn answer(&self, by: By, question: &[u8]) -> Option<Vec<u8>> {
        let question = Message::from_vec(question).unwrap();
        let query = question.queries[0].clone();
        let entry = (query.name().to_ascii().to_lowercase(), query.query_type());
        self.asked_by.lock().unwrap().push(by);
        let before = {
            let mut log = self.asked.lock().unwrap();
            let before = log.iter().filter(|known| **known == entry).count();
            log.push(entry.clone());
            before
        };
        let said = (self.say)(entry.0.trim_end_matches('.'), before);
        Some(answer(&question, by, said)?.to_vec().unwrap())
    }

    /// Answers on a connection, each question and answer with its length before it
    /// (RFC 1035 §4.2.2).
    async fn converse(self, by: By, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        while let Ok(length) = stream.read_u16().await {
            let mut question = vec![0; length.into()];
            stream.read_exact(&mut question).await.unwrap();
            if let Some(answer) = self.answer(by, &question) {
                let length = u16::try_from(answer.len()).unwrap();
                let framed = [&length.to_be_bytes()[..], &answer].concat();
                stream.write_all(&framed).await.unwrap();
            }
        }
    }
}

impl Liar {
    /// By UDP, and by TCP on the same port.
    pub(crate) async fn new(say: impl Fn(&str, usize) -> Say + Send + Sync + 'static) -> Liar {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let (liar, mind) = Liar::minded(say, udp.local_addr().unwrap());
        let by_udp = mind.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (len, from) = udp.recv_from(&mut buffer).await.unwrap();
                if let Some(answer) = by_udp.answer(By::Udp, &buffer[..len]) {
                    udp.send_to(&answer, from).await.unwrap();
                }
            }
        });
        tokio::spawn(async move {
            loop {
                let (stream, _) = tcp.accept().await.unwrap();
                tokio::spawn(mind.clone().converse(By::Tcp, stream));
            }
        });
        liar
    }

    /// By TLS, with a certificate of this CA for this name.
    pub(crate) async fn by_tls(
        ca: &Ca,
        name: &str,
        say: impl Fn(&str, usize) -> Say + Send + Sync + 'static,
    ) -> Liar {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(ca.serving(name)));
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (liar, mind) = Liar::minded(say, tcp.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (stream, _) = tcp.accept().await.unwrap();
                let (acceptor, mind) = (acceptor.clone(), mind.clone());
                tokio::spawn(async move {
                    // Who does not trust it leaves.
                    if let Ok(stream) = acceptor.accept(stream).await {
                        mind.converse(By::Tls, stream).await;
                    }
                });
            }
        });
        liar
    }

    fn minded(
        say: impl Fn(&str, usize) -> Say + Send + Sync + 'static,
        addr: SocketAddr,
    ) -> (Liar, Mind) {
        let mind = Mind {
            say: Arc::new(say),
            asked: Arc::default(),
            asked_by: Arc::default(),
        };
        let (asked, asked_by) = (mind.asked.clone(), mind.asked_by.clone());
        let liar = Liar {
            addr,
            asked,
            asked_by,
        };
        (liar, mind)
    }

    pub(crate) fn asked(&self) -> Vec<(String, RecordType)> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn asked_by(&self) -> Vec<By> {
        self.asked_by.lock().unwrap().clone()
    }
}

/// Who signs the certificates of name servers.
pub(crate) struct Ca {
    issuer: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
    pub(crate) file: tempfile::NamedTempFile,
}

impl Ca {
    pub(crate) fn new() -> Ca {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let issuer = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), issuer.pem()).unwrap();
        Ca { issuer, file }
    }

    fn serving(&self, name: &str) -> rustls::ServerConfig {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        rustls::ServerConfig::builder_with_provider(provider.into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.into()], key)
            .unwrap()
    }
}

fn answer(question: &Message, by: By, say: Say) -> Option<Message> {
    let query = question.queries[0].clone();
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    answer.add_query(query.clone());
    let name = query.name().clone();
    let soa = SOA::new(name.clone(), name.clone(), 1, 60, 60, 60, 60);
    let authority = Record::from_rdata(name.clone(), 60, RData::SOA(soa));
    match say {
        Say::Nothing => return None,
        Say::Code(code) => {
            answer.metadata.response_code = code;
            if code == ResponseCode::NXDomain {
                answer.add_authority(authority);
            }
        }
        Say::Alias(target, ttl) => {
            let target = Name::from_ascii(target).unwrap();
            let alias = RData::CNAME(CNAME(target));
            answer.add_answer(Record::from_rdata(name, ttl, alias));
        }
        Say::Much(_) if by == By::Udp => answer.metadata.truncation = true,
        Say::Addresses(list, _) | Say::Much(list) => {
            let ttl = match say {
                Say::Addresses(_, ttl) => ttl,
                _ => 60,
            };
            let of_type = ips(list).into_iter().filter_map(|ip| match ip {
                IpAddr::V4(ip) => {
                    (query.query_type() == RecordType::A).then(|| RData::A(ip.into()))
                }
                IpAddr::V6(ip) => {
                    (query.query_type() == RecordType::AAAA).then(|| RData::AAAA(ip.into()))
                }
            });
            let records: Vec<_> = of_type
                .map(|data| {
                    let mut record = Record::from_rdata(name.clone(), ttl, data);
                    record.dns_class = DNSClass::IN;
                    record
                })
                .collect();
            if records.is_empty() {
                answer.add_authority(authority);
            }
            answer.add_answers(records);
        }
    }
    Some(answer)
}
