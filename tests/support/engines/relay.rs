//! A relay between client and server that can delay, drop and cut like a network. It has threads of its
//! own, which go on when a runtime does not.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;

/// Listens on a port and passes bytes to a server of the loopback interface, and back. Its
/// connections end with it.
pub struct Relay {
    port: u16,
    /// The socket that listens.
    door: TcpStream,
    state: Arc<RelayState>,
}

/// What is lost. Its connection is lost with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// A request: the server does not receive it.
    Request,
    /// The answer: the server receives the request.
    Response,
}

#[derive(Default)]
struct RelayState {
    shared: Mutex<RelayShared>,
    changed: Condvar,
}

#[derive(Default)]
struct RelayShared {
    mode: RelayMode,
    /// The port to which new connections lead.
    server: u16,
    /// What is to be lost next: the request with this word in it, or its answer.
    order: Option<(Loss, String)>,
    /// Bytes were dropped: the open connections are not usable any more.
    torn: bool,
    /// How long all that passes is kept back.
    delay: Duration,
    /// How many bytes of the clients were passed on.
    passed_there: u64,
    /// How many bytes of the server were passed on.
    passed_back: u64,
    open: Vec<TcpStream>,
}

/// What happens to the bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum RelayMode {
    #[default]
    Pass,
    /// They are kept back.
    Hold,
    /// They are dropped.
    Drop,
    /// Those of one side are dropped.
    DropAll(Loss),
    /// No connection is allowed.
    Closed,
}

impl Relay {
    /// A relay to this loopback port.
    pub fn new(server: u16) -> Self {
        Self::from(TcpListener::bind("127.0.0.1:0").expect("a free port"), server)
    }

    /// A relay that listens on this socket.
    pub fn from(listener: TcpListener, server: u16) -> Self {
        let port = listener.local_addr().expect("it is bound").port();
        let shared = RelayShared { server, ..RelayShared::default() };
        let state = Arc::new(RelayState { shared: Mutex::new(shared), ..RelayState::default() });
        // A listener is shut down by way of the type of a stream.
        let door = OwnedFd::from(listener.try_clone().expect("a second handle")).into();
        let accepting = state.clone();
        thread::spawn(move || {
            while !accepting.is_closed() {
                if let Ok((client, _)) = listener.accept() {
                    accepting.join(client);
                }
            }
        });
        Self { port, door, state }
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Host and port.
    pub fn server(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on all bytes are kept back, and neither side notices.
    pub fn hold(&self) {
        self.state.set(RelayMode::Hold);
    }

    /// From now on all bytes are dropped, and neither side notices.
    pub fn drop_all(&self) {
        self.state.set(RelayMode::Drop);
    }

    /// From now on all requests are dropped, or all answers, and neither side notices.
    pub fn silence(&self, side: Loss) {
        self.state.set(RelayMode::DropAll(side));
    }

    /// From now on all that passes takes this much longer in each direction.
    pub fn delay(&self, delay: Duration) {
        self.state.shared.lock().unwrap().delay = delay;
    }

    /// Passes on what was kept back, and what follows. Connections of which bytes were dropped break.
    pub fn pass(&self) {
        self.state.set(RelayMode::Pass);
    }

    /// Breaks all connections. New ones are passed on.
    pub fn cut(&self) {
        self.state.shared.lock().unwrap().cut();
    }

    /// Loses the next bytes that a client sends, or the answer to them.
    pub fn lose(&self, loss: Loss) {
        self.lose_with(loss, "");
    }

    /// Loses the next bytes with this word in them, which must come in one piece, or the answer.
    pub fn lose_with(&self, loss: Loss, word: &str) {
        self.state.shared.lock().unwrap().order = Some((loss, word.to_owned()));
    }

    /// Whether a loss that was requested has not happened yet.
    pub fn is_armed(&self) -> bool {
        self.state.shared.lock().unwrap().order.is_some()
    }

    /// How many bytes of the server it has passed on.
    pub fn passed_back(&self) -> u64 {
        self.state.shared.lock().unwrap().passed_back
    }

    /// How many bytes it has passed on, of both sides.
    pub fn passed(&self) -> u64 {
        let shared = self.state.shared.lock().unwrap();
        shared.passed_there + shared.passed_back
    }

    /// From now on new connections lead to this port.
    pub fn lead_to(&self, server: u16) {
        self.state.shared.lock().unwrap().server = server;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.set(RelayMode::Closed);
        self.cut();
        // The thread that accepts wakes up, and ends.
        let _ = self.door.shutdown(Shutdown::Both);
    }
}

impl RelayShared {
    fn cut(&mut self) {
        for stream in self.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl RelayState {
    fn set(&self, mode: RelayMode) {
        let mut shared = self.shared.lock().unwrap();
        shared.mode = mode;
        if mode == RelayMode::Pass && std::mem::take(&mut shared.torn) {
            shared.cut();
        }
        self.changed.notify_all();
    }

    fn is_closed(&self) -> bool {
        self.shared.lock().unwrap().mode == RelayMode::Closed
    }

    /// Connects a client with the server.
    fn join(self: &Arc<Self>, client: TcpStream) {
        let port = self.shared.lock().unwrap().server;
        // A client for which there is no server is disconnected.
        let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { return };
        let clone = |stream: &TcpStream| stream.try_clone().expect("a second handle");
        for stream in [&client, &server] {
            let _ = stream.set_nodelay(true);
            self.shared.lock().unwrap().open.push(clone(stream));
        }
        if self.is_closed() {
            // All others were cut before this one was added.
            return self.shared.lock().unwrap().cut();
        }
        let lost = Arc::new(Mutex::new(false));
        let there = (clone(&client), clone(&server), self.clone(), lost.clone());
        thread::spawn(move || {
            pump(there.0, there.1, |to, bytes| there.2.request(to, bytes, &there.3))
        });
        let back = (server, client, self.clone(), lost);
        thread::spawn(move || {
            pump(back.0, back.1, |to, bytes| back.2.response(to, bytes, &back.3))
        });
    }

    /// Waits while bytes of this side are kept back. `Some`: whether they are passed on; `None`: the
    /// connection ends.
    fn judge(&self, side: Loss) -> Option<bool> {
        let delay = self.shared.lock().unwrap().delay;
        if !delay.is_zero() {
            thread::sleep(delay);
        }
        let held = |shared: &mut RelayShared| shared.mode == RelayMode::Hold;
        let mut shared = self.changed.wait_while(self.shared.lock().unwrap(), held).unwrap();
        let is_dropped = [RelayMode::Drop, RelayMode::DropAll(side)].contains(&shared.mode);
        shared.torn |= is_dropped;
        (shared.mode != RelayMode::Closed).then_some(!is_dropped)
    }

    /// Passes a client's bytes on. `lost`: the answer to them is to be lost. `None`: the connection
    /// ends.
    fn request(&self, to: &mut TcpStream, bytes: &[u8], lost: &Mutex<bool>) -> Option<()> {
        if !self.judge(Loss::Request)? {
            return Some(());
        }
        // Until the request has been passed on there is no answer to it.
        let mut lost = lost.lock().unwrap();
        {
            let mut shared = self.shared.lock().unwrap();
            let has = |word: &str| {
                word.is_empty() || bytes.windows(word.len()).any(|found| found == word.as_bytes())
            };
            match &shared.order {
                Some((Loss::Request, word)) if has(word) => {
                    shared.order = None;
                    return None;
                }
                Some((Loss::Response, word)) if has(word) => *lost = true,
                _ => {}
            }
            shared.passed_there += bytes.len() as u64;
        }
        to.write_all(bytes).ok()
    }

    /// Passes a server's bytes on.
    fn response(&self, to: &mut TcpStream, bytes: &[u8], lost: &Mutex<bool>) -> Option<()> {
        if !self.judge(Loss::Response)? {
            return Some(());
        }
        if std::mem::take(&mut *lost.lock().unwrap()) {
            let order = &mut self.shared.lock().unwrap().order;
            // An answer of another connection may have been lost before.
            if order.take_if(|(loss, _)| *loss == Loss::Response).is_some() {
                return None;
            }
        }
        self.shared.lock().unwrap().passed_back += bytes.len() as u64;
        to.write_all(bytes).ok()
    }
}

/// Passes bytes on until one side ends, or the connection is to end.
fn pump(
    mut from: TcpStream,
    mut to: TcpStream,
    pass: impl Fn(&mut TcpStream, &[u8]) -> Option<()>,
) {
    let mut bytes = [0; 64 * 1024];
    while let Ok(number @ 1..) = from.read(&mut bytes) {
        if pass(&mut to, &bytes[..number]).is_none() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// Starts a relay to this loopback port that passes on nothing for its second client, until that client
/// goes away. Returns its port, and a receiver that completes then.
pub async fn silent_to_the_second_client(server: u16) -> (u16, oneshot::Receiver<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("it has one").port();
    let (gone, was_left) = oneshot::channel();
    tokio::spawn(async move {
        let relay = move |mut client: tokio::net::TcpStream| async move {
            let mut server =
                tokio::net::TcpStream::connect(("127.0.0.1", server)).await.expect("it runs");
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
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
