//! A relay between a client and a server that can lose what it relays.

use std::net::TcpListener as Bound;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What becomes of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// They go through.
    Open,
    /// They go nowhere, and nobody is told: a cable is cut.
    Cut,
}

/// What becomes of the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The connection ends before it is passed on.
    Request,
    /// It is passed on, and the connection ends before the answer.
    Answer,
}

/// Relays until it is dropped.
pub struct Relay {
    pub port: u16,
    manner: watch::Sender<Manner>,
    next: Arc<Mutex<Option<Loss>>>,
    task: JoinHandle<()>,
}

impl Relay {
    /// To the server at this port of the loopback interface.
    pub fn to(server: u16) -> Self {
        let bound = Bound::bind("127.0.0.1:0").expect("a free port");
        bound.set_nonblocking(true).expect("a socket of ours");
        let port = bound.local_addr().expect("it is bound").port();
        let listener = TcpListener::from_std(bound).expect("there is a runtime");
        let (manner, seen) = watch::channel(Manner::Open);
        let next = Arc::new(Mutex::new(None));
        let losses = next.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, server, seen.clone(), losses.clone()));
            }
        });
        Self { port, manner, next, task }
    }

    pub fn set(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }

    /// The next bytes that a client sends are lost so, with the connection.
    pub fn lose_next(&self, loss: Loss) {
        *self.next.lock().unwrap() = Some(loss);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The relays end with the channel.
        self.task.abort();
    }
}

async fn relay(
    client: TcpStream,
    server: u16,
    manner: watch::Receiver<Manner>,
    next: Arc<Mutex<Option<Loss>>>,
) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    let (quiet, muted) = watch::channel(false);
    let up = pass(from_client, to_server, manner.clone(), Some((next, quiet)), None);
    let down = pass(from_server, to_client, manner, None, Some(muted));
    tokio::select! { () = up => {}, () = down => {} }
}

/// What is to be lost next, and how to tell the other direction.
type Losing = (Arc<Mutex<Option<Loss>>>, watch::Sender<bool>);

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut manner: watch::Receiver<Manner>,
    loss: Option<Losing>,
    muted: Option<watch::Receiver<bool>>,
) {
    let mut bytes = vec![0; 1 << 16];
    loop {
        let Ok(count @ 1..) = from.read(&mut bytes).await else { return };
        if manner.wait_for(|manner| *manner == Manner::Open).await.is_err() {
            return;
        }
        if muted.as_ref().is_some_and(|muted| *muted.borrow()) {
            return;
        }
        let lost = loss.as_ref().and_then(|(next, _)| next.lock().unwrap().take());
        match (lost, &loss) {
            (Some(Loss::Request), _) => return,
            (Some(Loss::Answer), Some((_, quiet))) => _ = quiet.send(true),
            _ => {}
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
