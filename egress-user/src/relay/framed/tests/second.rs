//! A second ClientHello that is large, or does not end.

use sha2::{Digest as _, Sha256};

use super::*;

/// The beginning of one of 65,000 bytes, as far as its first record goes.
fn beginning() -> Vec<u8> {
    let record = [&[22, 3, 1, 0x3e, 0x80][..], &[1, 0, 0xfd, 0xe8]].concat();
    [record, vec![0; 16_000 - 4]].concat()
}

/// Of a client whose server has asked for a second hello.
fn asked_again(allowance: &Arc<Allowance>) -> Session {
    let name = ServerName::parse(b"en.wikipedia.org").unwrap();
    let mut flight = Flight::of(name, allowance);
    let digest = Sha256::digest(b"HelloRetryRequest");
    let retry = [&[22, 3, 3, 0, 38, 2, 0, 0, 34, 3, 3][..], &digest].concat();
    flight.server_sent(&retry).unwrap();
    Session {
        client: End::Socket,
        flight,
    }
}

async fn carried(session: Session) -> Carried {
    let (mut agent, mut gateway) = tunnels().await;
    open_stream(&mut agent, &mut gateway).await;
    let (mut client, captured) = sockets().await;
    client.write_all(&beginning()).await.unwrap();
    let (_, carried) = spawn_session(captured, agent, session, LONG).await.unwrap();
    carried
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_end_is_not_waited_for_as_long_as_an_idle_stream() {
    let started = tokio::time::Instant::now();
    let carried = carried(asked_again(&Allowance::of_process())).await;
    assert!(matches!(carried.result, Err(RelayError::Idle)));
    assert!(started.elapsed() < LONG / 2);
    assert_eq!(carried.from_socket, 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_large_takes_of_what_there_is() {
    let nothing = Allowance::of_process().part(usize::MAX);
    let carried = carried(asked_again(&nothing)).await;
    assert!(matches!(carried.result, Err(RelayError::NoRoom)));
    assert_eq!(carried.from_socket, 0);
}
