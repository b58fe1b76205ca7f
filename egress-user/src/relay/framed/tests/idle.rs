//! Streams in which nothing moves, or one direction does not.

use super::*;

#[tokio::test(start_paused = true)]
async fn silence_ends_at_the_idle_limit() {
    let (mut agent, mut gateway) = tunnels().await;
    open_stream(&mut agent, &mut gateway).await;
    let (_client, captured) = sockets().await;
    let (_, carried) = spawn(captured, agent, Duration::from_secs(10))
        .await
        .unwrap();
    assert!(matches!(carried.result, Err(RelayError::Idle)));
}

/// What the client does with the download that the gateway sends it, while it goes on asking.
async fn downloading(reads: bool) -> Option<RelayError> {
    const PERIOD: Duration = Duration::from_secs(10);
    let (mut agent, mut gateway) = tunnels().await;
    open_stream(&mut agent, &mut gateway).await;
    let (client, captured) = sockets().await;
    // The kernel's clock does not stand still: an acknowledgement must not be waited for.
    client.set_nodelay(true).unwrap();
    let (mut client_in, mut client_out) = client.into_split();
    let mut carrying = spawn(captured, agent, PERIOD);
    let asking = async {
        loop {
            if client_out.write_all(b"more").await.is_err() {
                return std::future::pending().await;
            }
            tokio::time::sleep(PERIOD / 20).await;
        }
    };
    let (mut from_agent, mut to_agent) = tokio::io::split(gateway.transport());
    let answering = async {
        let frame = [&[2, 0, 32, 0][..], &[7; 32 * 256]].concat();
        while to_agent.write_all(&frame).await.is_ok() {
            tokio::time::sleep(PERIOD / 20).await;
        }
        std::future::pending().await
    };
    let discarding = async {
        let mut sink = [0; 4096];
        while from_agent
            .read(&mut sink)
            .await
            .is_ok_and(|count| count > 0)
        {}
        std::future::pending().await
    };
    let reading = async {
        let mut sink = vec![0; 1 << 20];
        while reads && client_in.read(&mut sink).await.is_ok_and(|count| count > 0) {}
        std::future::pending().await
    };
    // Ten periods are enough where it does not end.
    let limit = if reads { 10 * PERIOD } else { LONG };
    tokio::select! {
        ended = &mut carrying => ended.unwrap().1.result.err(),
        () = tokio::time::sleep(limit) => None,
        never = asking => never,
        never = answering => never,
        never = discarding => never,
        never = reading => never,
    }
}

#[tokio::test(start_paused = true)]
async fn one_direction_that_is_not_taken_ends_at_the_idle_limit() {
    let ended = downloading(false).await;
    assert!(matches!(ended, Some(RelayError::Idle)), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn directions_that_are_taken_go_on() {
    assert!(downloading(true).await.is_none());
}
