//! A relay between a client and a server that can swallow what it should pass on.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A relay to a port of this machine. It ends when this is dropped.
pub struct Proxy {
    port: u16,
    orders: Arc<Orders>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Orders {
    lose_answer: AtomicBool,
    word: Mutex<&'static str>,
    cut: AtomicBool,
    to: AtomicU16,
}

impl Proxy {
    /// A relay to this port.
    pub async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let orders = Arc::new(Orders::default());
        orders.to.store(to, SeqCst);
        let for_task = orders.clone();
        let task = tokio::spawn(async move {
            let mut relays = tokio::task::JoinSet::new();
            loop {
                let Ok((client, _)) = listener.accept().await else { return };
                let to = SocketAddr::from(([127, 0, 0, 1], for_task.to.load(SeqCst)));
                relays.spawn(relay(client, to, for_task.clone()));
            }
        });
        Self { port, orders, task }
    }

    /// Where clients connect.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The answer to the next request with this word in it is swallowed, and its connection closed.
    /// The request must come in one piece.
    pub fn lose_next_answer(&self, word: &'static str) {
        *self.orders.word.lock().unwrap() = word;
        self.orders.lose_answer.store(true, SeqCst);
    }

    /// Whether [`Proxy::lose_next_answer`] is still to be obeyed.
    pub fn has_lost_answer(&self) -> bool {
        !self.orders.lose_answer.load(SeqCst)
    }

    /// New connections lead to this port from now on.
    pub fn lead_to(&self, port: u16) {
        self.orders.to.store(port, SeqCst);
    }

    /// Swallows everything from now on, or no longer. Nobody is told.
    pub fn cut(&self, cut: bool) {
        self.orders.cut.store(cut, SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(mut client: TcpStream, to: SocketAddr, orders: Arc<Orders>) {
    let Ok(mut server) = TcpStream::connect(to).await else { return };
    let mut lose = false;
    let (mut from_client, mut from_server) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let Ok(count @ 1..) = read else { return };
                if orders.cut.load(SeqCst) { continue }
                if orders.lose_answer.load(SeqCst) {
                    let word = *orders.word.lock().unwrap();
                    let mut words = from_client[..count].windows(word.len());
                    lose |= words.any(|found| found == word.as_bytes());
                }
                if server.write_all(&from_client[..count]).await.is_err() { return }
            }
            read = server.read(&mut from_server) => {
                let Ok(count @ 1..) = read else { return };
                if orders.cut.load(SeqCst) { continue }
                if lose && orders.lose_answer.swap(false, SeqCst) { return }
                lose = false;
                if client.write_all(&from_server[..count]).await.is_err() { return }
            }
        }
    }
}
