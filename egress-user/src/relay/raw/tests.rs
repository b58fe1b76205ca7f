use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::hello::ServerName;
use crate::intake::{Allowance, Flight};

const LONG: Duration = Duration::from_secs(3600);
const MEBIBYTE: usize = 1 << 20;

/// What stands behind a first handshake record, and waits for the server's answer.
const HELD: [u8; 9] = *b"\x16\x03\x03\x00\x04held";

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = TcpStream::connect(listener.local_addr().unwrap());
    let (here, there) = tokio::join!(here, listener.accept());
    (here.unwrap(), there.unwrap().0)
}

fn spawn(mut socket: TcpStream, wire: DuplexStream, client: End) -> JoinHandle<Carried> {
    let name = ServerName::parse(b"en.wikipedia.org").unwrap();
    let session = Session {
        client,
        flight: Flight::of(name, &Allowance::of_process()),
    };
    tokio::spawn(async move {
        let mut transport = BufReader::new(wire);
        let never = std::future::pending();
        carry(&mut socket, &mut transport, session, LONG, never).await
    })
}

/// client ⇄ agent ⇄ gateway ⇄ origin.
struct Path {
    client: TcpStream,
    origin: TcpStream,
    agent: JoinHandle<Carried>,
    gateway: JoinHandle<Carried>,
}

impl Path {
    async fn new() -> Path {
        let (near, far) = tokio::io::duplex(10_000);
        let (client, captured) = sockets().await;
        let (dialled, origin) = sockets().await;
        Path {
            client,
            origin,
            agent: spawn(captured, near, End::Socket),
            gateway: spawn(dialled, far, End::Tunnel),
        }
    }

    async fn ended(self) -> [Carried; 2] {
        [self.agent.await.unwrap(), self.gateway.await.unwrap()]
    }
}

/// A MiB each way, and the client ends first.
#[tokio::test]
async fn each_direction_ends_by_itself() {
    let mut path = Path::new().await;
    path.client.write_all(&HELD).await.unwrap();
    let no_retry = [22, 3, 3, 0, 1, 0];
    path.origin.write_all(&no_retry).await.unwrap();
    let question: Vec<u8> = (0..251_u8).cycle().take(MEBIBYTE).collect();
    let answer: Vec<u8> = question.iter().rev().copied().collect();

    let (mut client_in, mut client_out) = path.client.split();
    let asking = async {
        client_out.write_all(&question).await.unwrap();
        client_out.shutdown().await.unwrap();
    };
    let mut asked = Vec::new();
    let ((), count) = tokio::join!(asking, path.origin.read_to_end(&mut asked));
    count.unwrap();
    assert!(asked == [&HELD[..], &question].concat());

    let mut answered = Vec::new();
    let answering = async {
        path.origin.write_all(&answer).await.unwrap();
        path.origin.shutdown().await.unwrap();
    };
    let ((), count) = tokio::join!(answering, client_in.read_to_end(&mut answered));
    count.unwrap();
    assert!(answered == [&no_retry[..], &answer].concat());

    let [agent, gateway] = path.ended().await;
    assert!(agent.result.is_ok() && gateway.result.is_ok());
    assert_eq!(agent.first, Some(End::Socket));
    assert_eq!(gateway.first, Some(End::Tunnel));
    let counts = [(MEBIBYTE + 9) as u64, (MEBIBYTE + 6) as u64];
    assert_eq!([agent.from_socket, agent.from_tunnel], counts);
    assert_eq!([gateway.from_tunnel, gateway.from_socket], counts);
}

/// Both hops watch it, whichever end the client is at.
#[tokio::test]
async fn a_second_handshake_record_waits_for_the_server() {
    let mut path = Path::new().await;
    let early = b"\x17\x03\x03\x00\x05early";
    path.client.write_all(early).await.unwrap();
    path.client.write_all(&HELD).await.unwrap();
    let mut got = [0; 10];
    path.origin.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, early);
    path.origin.write_all(&[22, 3, 3, 0, 1, 0]).await.unwrap();
    let mut got = [0; HELD.len()];
    path.origin.read_exact(&mut got).await.unwrap();
    assert_eq!(got, HELD);
}

#[tokio::test]
async fn a_cut_keeps_the_counts() {
    let (mut client, mut captured) = sockets().await;
    let (near, far) = tokio::io::duplex(10_000);
    let mut transport = BufReader::new(near);
    let mut far = BufReader::new(far);
    let name = ServerName::parse(b"en.wikipedia.org").unwrap();
    let session = Session {
        client: End::Socket,
        flight: Flight::of(name, &Allowance::of_process()),
    };
    let (cut, told) = tokio::sync::oneshot::channel::<()>();
    let acting = async {
        client.write_all(b"\x17\x03\x03\x00\x01x").await.unwrap();
        let mut got = [0; 6];
        far.read_exact(&mut got).await.unwrap();
        drop(cut);
    };
    let interruption = async {
        let _ = told.await;
        RelayError::Drained
    };
    let carrying = carry(&mut captured, &mut transport, session, LONG, interruption);
    let (carried, ()) = tokio::join!(carrying, acting);
    assert!(matches!(carried.result, Err(RelayError::Drained)));
    assert_eq!((carried.from_socket, carried.from_tunnel), (6, 0));
}
