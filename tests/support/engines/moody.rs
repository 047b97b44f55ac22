//! A relay that is silent for a while.

use tokio::io::{AsyncReadExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// Silent to its second client, until that goes away.
pub async fn moody(server: u16) -> (u16, oneshot::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("it has one").port();
    let (gone, was_left) = oneshot::channel();
    tokio::spawn(async move {
        let relay = move |mut client: TcpStream| async move {
            let mut server = TcpStream::connect(("127.0.0.1", server)).await.expect("it runs");
            let _ = copy_bidirectional(&mut client, &mut server).await;
        };
        let (first, _) = listener.accept().await.expect("a client");
        let mut first = tokio::spawn(relay(first));
        let (mut second, _) = tokio::select! {
            second = listener.accept() => second.expect("a client"),
            _ = &mut first => listener.accept().await.expect("a client"),
        };
        first.abort();
        let _ = second.read_to_end(&mut vec![]).await;
        let _ = gone.send(());
        while let Ok((next, _)) = listener.accept().await {
            tokio::spawn(relay(next));
        }
    });
    (port, was_left)
}
