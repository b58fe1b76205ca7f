use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::gateway::dial::dial;
use std::sync::Arc;

const V4: &str = "203.0.113.10:443";
const V6: &str = "[2001:db8::10]:8443";
const EARLY: &[u8] = b"the origin's first words";

/// What a proxy hears, and what it says to that.
type Exchange = (Vec<u8>, Vec<u8>);

/// A proxy that follows a script: it compares what it hears, and says its answers in two pieces, of
/// which the first has `split` bytes.
async fn proxy(script: Vec<Exchange>, split: usize) -> (Endpoint, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let played = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        for (hears, says) in script {
            let mut heard = vec![0; hears.len()];
            socket.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, hears, "{:?}", String::from_utf8_lossy(&heard));
            let (first, second) = says.split_at(split.min(says.len()));
            socket.write_all(first).await.unwrap();
            // Others run: the first piece is looked at alone.
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            // Who has read enough may be gone.
            let _ = socket.write_all(second).await;
        }
        let _ = socket.shutdown().await;
        let _ = socket.read_to_end(&mut Vec::new()).await;
    });
    let endpoint = Endpoint {
        host: addr.ip().to_string(),
        port: addr.port(),
    };
    (endpoint, played)
}

fn upstream(protocol: Protocol, endpoint: Endpoint, credentials: Option<&str>) -> Upstream {
    let credentials = credentials.map(|text| Credentials::parse(text).unwrap());
    Upstream::new(Proxy { protocol, endpoint }, credentials).unwrap()
}

/// The origin's first words, which must all be there; or why there is no connection.
async fn through(upstream: &Upstream, origin: &str) -> Result<Vec<u8>, ProxyError> {
    let origin = OriginAddr::new(origin.parse().unwrap());
    let mut socket = upstream.dial(origin).await?;
    let mut words = Vec::new();
    socket.read_to_end(&mut words).await?;
    Ok(words)
}

fn request(origin: &str, more: &str) -> Vec<u8> {
    format!("CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\n{more}\r\n").into_bytes()
}

async fn connect_reason(answer: &[u8]) -> &'static str {
    let script = vec![(request(V4, ""), answer.to_vec())];
    let (endpoint, _played) = proxy(script, answer.len()).await;
    let upstream = upstream(Protocol::Connect, endpoint, None);
    through(&upstream, V4).await.unwrap_err().reason()
}

#[tokio::test]
async fn connect_by_address_and_nothing_is_lost_at_any_split() {
    let head = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 Connection established\r\n\
                Via: 1.1 proxy\r\nContent-Length: 7\r\n\r\n";
    for split in 0..=head.len() + 3 {
        let script = vec![(request(V4, ""), [head.as_bytes(), EARLY].concat())];
        let (endpoint, played) = proxy(script, split).await;
        let upstream = upstream(Protocol::Connect, endpoint, None);
        assert_eq!(through(&upstream, V4).await.unwrap(), EARLY, "{split}");
        played.await.unwrap();
    }
}

#[tokio::test]
async fn connect_with_credentials_to_ipv6() {
    let credentials = "Proxy-Authorization: Basic YW5uOnNlOmNyZXQ=\r\n";
    let script = vec![(
        request(V6, credentials),
        b"HTTP/1.0 200 OK\r\n\r\n".to_vec(),
    )];
    let (endpoint, played) = proxy(script, 0).await;
    let upstream = upstream(Protocol::Connect, endpoint, Some("ann:se:cret"));
    assert_eq!(through(&upstream, V6).await.unwrap(), b"");
    played.await.unwrap();
    assert!(!format!("{upstream:?}").contains("cret"), "{upstream:?}");
}

#[tokio::test]
async fn what_an_http_proxy_may_say_instead() {
    let cases: &[(&[u8], &str)] = &[
        (
            b"HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic\r\n\r\n",
            "proxy_auth",
        ),
        (b"HTTP/1.1 403 No\r\n\r\n<html>", "proxy_refused"),
        (
            b"HTTP/1.1 302 There\r\nLocation: /\r\n\r\n",
            "proxy_refused",
        ),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "proxy_failed"),
        (b"HTTP/1.1 504 Gateway Timeout\r\n\r\n", "connect_timeout"),
        (b"HTTP/1.1 200 OK\r\n", "proxy_lost"),
        (b"", "proxy_lost"),
        (b"SSH-2.0-OpenSSH\r\n", "proxy_protocol"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "proxy_protocol"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "proxy_lost"),
    ];
    for (answer, reason) in cases {
        let said = String::from_utf8_lossy(answer);
        assert_eq!(connect_reason(answer).await, *reason, "{said}");
    }
    let endless = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; 64 * 1024]].concat();
    assert_eq!(connect_reason(&endless).await, "proxy_protocol");
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(2000);
    assert_eq!(connect_reason(&interim).await, "proxy_protocol");
}

const OFFER: &[u8] = &[5, 1, 0];
const ASK_V4: &[u8] = &[5, 1, 0, 1, 203, 0, 113, 10, 1, 187];

#[tokio::test]
async fn socks_by_address_and_nothing_is_lost_at_any_split() {
    let bound: [&[u8]; 3] = [
        &[5, 0, 0, 1, 10, 0, 0, 1, 0, 80],
        &[
            5, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 80,
        ],
        &[5, 0, 0, 3, 2, b'a', b'b', 0, 80],
    ];
    for answer in bound {
        for split in 0..answer.len() + 3 {
            let script = vec![
                (OFFER.to_vec(), vec![5, 0]),
                (ASK_V4.to_vec(), [answer, EARLY].concat()),
            ];
            let (endpoint, played) = proxy(script, split).await;
            let upstream = upstream(Protocol::Socks5, endpoint, None);
            assert_eq!(through(&upstream, V4).await.unwrap(), EARLY, "{split}");
            played.await.unwrap();
        }
    }
}

#[tokio::test]
async fn socks_with_credentials_to_ipv6() {
    let mut ask = vec![5, 1, 0, 4, 0x20, 0x01, 0x0d, 0xb8];
    ask.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0x20, 0xfb]);
    let script = vec![
        (vec![5, 2, 0, 2], vec![5, 2]),
        (b"\x01\x03ann\x06secret".to_vec(), vec![1, 0]),
        (ask, vec![5, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
    ];
    let (endpoint, played) = proxy(script, 0).await;
    let upstream = upstream(Protocol::Socks5, endpoint, Some("ann:secret"));
    assert_eq!(through(&upstream, V6).await.unwrap(), b"");
    played.await.unwrap();
}

#[tokio::test]
async fn what_a_socks_proxy_may_say_instead() {
    let offered = |says: &[u8]| vec![(OFFER.to_vec(), says.to_vec())];
    let asked = |says: &[u8]| {
        let mut script = offered(&[5, 0]);
        script.push((ASK_V4.to_vec(), says.to_vec()));
        script
    };
    let cases = [
        (offered(&[5, 0xff]), "proxy_auth"),
        (offered(&[5, 2]), "proxy_protocol"),
        (offered(&[4, 0]), "proxy_protocol"),
        (offered(b"HT"), "proxy_protocol"),
        (offered(&[5]), "proxy_lost"),
        (asked(&[5, 1, 0, 1]), "proxy_failed"),
        (asked(&[5, 2, 0, 1]), "proxy_refused"),
        (asked(&[5, 4, 0, 1]), "no_route"),
        (asked(&[5, 5, 0, 1]), "connect_refused"),
        (asked(&[5, 6, 0, 1]), "connect_timeout"),
        (asked(&[5, 8, 0, 1]), "proxy_refused"),
        (asked(&[5, 0, 0, 9]), "proxy_protocol"),
        (asked(&[5, 0, 0, 1, 10]), "proxy_lost"),
    ];
    for (script, reason) in cases {
        let (endpoint, _played) = proxy(script.clone(), usize::MAX).await;
        let upstream = upstream(Protocol::Socks5, endpoint, None);
        let error = through(&upstream, V4).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{script:?}");
    }
    let script = vec![
        (vec![5, 2, 0, 2], vec![5, 2]),
        (b"\x01\x03ann\x05wrong".to_vec(), vec![1, 1]),
    ];
    let (endpoint, _played) = proxy(script, 0).await;
    let upstream = upstream(Protocol::Socks5, endpoint, Some("ann:wrong"));
    let error = through(&upstream, V4).await.unwrap_err();
    assert_eq!(error.reason(), "proxy_auth");
}

/// The refusal as the room gives it on, by a proxy that answers nothing, and by one that is not
/// there.
#[tokio::test]
async fn silence_and_absence() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let endpoint = Endpoint {
        host: addr.ip().to_string(),
        port: addr.port(),
    };
    let origin = [OriginAddr::new(V4.parse().unwrap())];
    for protocol in [Protocol::Connect, Protocol::Socks5] {
        let route = Some(Arc::new(upstream(protocol, endpoint.clone(), None)));
        let soon = Instant::now() + Duration::from_millis(20);
        let Err(refusal) = dial(&origin, soon, 0, &route).await else {
            panic!("dialled");
        };
        assert_eq!(refusal.reason, "proxy_timeout");
    }
    // Nobody listens there, and nobody else gets the port.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let endpoint = Endpoint {
        port: socket.local_addr().unwrap().port(),
        ..endpoint
    };
    let route = Some(Arc::new(upstream(Protocol::Connect, endpoint, None)));
    let later = Instant::now() + Duration::from_secs(60);
    let Err(refusal) = dial(&origin, later, 0, &route).await else {
        panic!("dialled");
    };
    assert_eq!(refusal.reason, "proxy_unreachable");
}
