//! Last words to a client: an alert that reaches it, or a reset it cannot miss.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long the client may take to read the alert and close.
const LINGER: Duration = Duration::from_secs(1);

/// What the client may still send meanwhile. It is read and thrown away,
/// because closing over unread bytes resets the connection and can destroy the
/// alert on its way.
const LINGER_BYTES: u64 = 64 * 1024;

/// Sends `words`, then closes in good order.
pub(crate) async fn say(mut socket: TcpStream, words: &[u8]) {
    let farewell = async {
        socket.write_all(words).await?;
        socket.shutdown().await?;
        tokio::io::copy(
            &mut (&mut socket).take(LINGER_BYTES),
            &mut tokio::io::sink(),
        )
        .await
    };
    // Whatever fails here, the connection ends and its record is written already.
    let _ = tokio::time::timeout(LINGER, farewell).await;
}

/// Closes so that the other side sees an error and not a clean end.
pub(crate) fn reset(socket: TcpStream) {
    // Without the option the close is merely a clean one.
    let _ = socket.set_zero_linger();
    drop(socket);
}
