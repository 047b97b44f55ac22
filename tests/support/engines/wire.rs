//! A relay that does to connections what networks do. It has threads of its own, which go on when a
//! runtime does not.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// Listens on a port and passes bytes to a server of the loopback interface, and back. Its
/// connections end with it.
pub struct Wire {
    port: u16,
    /// The one that listens.
    door: TcpStream,
    state: Arc<State>,
}

/// What is lost, and its connection with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// A request: the server does not get it.
    Request,
    /// The answer: the server gets the request.
    Response,
}

#[derive(Default)]
struct State {
    shared: Mutex<Shared>,
    changed: Condvar,
}

#[derive(Default)]
struct Shared {
    mode: Mode,
    /// Where new connections lead.
    server: u16,
    /// What is to be lost next: of a request with this word in it.
    order: Option<(Loss, &'static str)>,
    /// Bytes were dropped: what is open has holes in it.
    torn: bool,
    open: Vec<TcpStream>,
}

/// What becomes of the bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Pass,
    /// They stay where they are.
    Hold,
    /// They vanish.
    Drop,
    /// No connection lives.
    Closed,
}

impl Wire {
    /// A relay to this loopback port.
    pub fn new(server: u16) -> Self {
        Self::from(TcpListener::bind("127.0.0.1:0").expect("a free port"), server)
    }

    /// One that listens elsewhere.
    pub fn from(listener: TcpListener, server: u16) -> Self {
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Shared { server, ..Shared::default() };
        let state = Arc::new(State { shared: Mutex::new(shared), ..State::default() });
        // It has no more than the name of a stream: that is the way to shut it.
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

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Host and port.
    pub fn server(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on nothing comes through, and nobody is told.
    pub fn hold(&self) {
        self.state.set(Mode::Hold);
    }

    /// From now on all bytes vanish, and nobody is told.
    pub fn drop_all(&self) {
        self.state.set(Mode::Drop);
    }

    /// What was held goes through, and what follows. Connections that bytes of were dropped break.
    pub fn pass(&self) {
        self.state.set(Mode::Pass);
    }

    /// All connections break now. New ones are let through.
    pub fn cut(&self) {
        self.state.shared.lock().unwrap().cut();
    }

    /// The next bytes that a client sends are lost so.
    pub fn lose(&self, loss: Loss) {
        self.lose_with(loss, "");
    }

    /// The next ones with this word in them, which must come in one piece.
    pub fn lose_with(&self, loss: Loss, word: &'static str) {
        self.state.shared.lock().unwrap().order = Some((loss, word));
    }

    /// Whether a loss that was ordered is still to come.
    pub fn is_armed(&self) -> bool {
        self.state.shared.lock().unwrap().order.is_some()
    }

    /// New connections lead to this port from now on.
    pub fn lead_to(&self, server: u16) {
        self.state.shared.lock().unwrap().server = server;
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.state.set(Mode::Closed);
        self.cut();
        // The thread that accepts wakes up, and ends.
        let _ = self.door.shutdown(Shutdown::Both);
    }
}

impl Shared {
    fn cut(&mut self) {
        for stream in self.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl State {
    fn set(&self, mode: Mode) {
        let mut shared = self.shared.lock().unwrap();
        shared.mode = mode;
        if mode == Mode::Pass && std::mem::take(&mut shared.torn) {
            shared.cut();
        }
        self.changed.notify_all();
    }

    fn is_closed(&self) -> bool {
        self.shared.lock().unwrap().mode == Mode::Closed
    }

    /// Leads a client to the server.
    fn join(self: &Arc<Self>, client: TcpStream) {
        let port = self.shared.lock().unwrap().server;
        // Who is not let through is hung up on.
        let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { return };
        let clone = |stream: &TcpStream| stream.try_clone().expect("a second handle");
        for stream in [&client, &server] {
            let _ = stream.set_nodelay(true);
            self.shared.lock().unwrap().open.push(clone(stream));
        }
        if self.is_closed() {
            // All were cut before this one was there.
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

    /// Waits until something becomes of bytes. `Some`: whether they are passed on; `None`: the
    /// connection ends.
    fn judge(&self) -> Option<bool> {
        let held = |shared: &mut Shared| shared.mode == Mode::Hold;
        let mut shared = self.changed.wait_while(self.shared.lock().unwrap(), held).unwrap();
        shared.torn |= shared.mode == Mode::Drop;
        match shared.mode {
            Mode::Closed => None,
            mode => Some(mode != Mode::Drop),
        }
    }

    /// Passes a client's bytes on. `lost`: what the server says to them is to be lost. `None`: the
    /// connection ends.
    fn request(&self, to: &mut TcpStream, bytes: &[u8], lost: &Mutex<bool>) -> Option<()> {
        if !self.judge()? {
            return Some(());
        }
        // Until the request has been passed on there is no answer to it.
        let mut lost = lost.lock().unwrap();
        {
            let mut shared = self.shared.lock().unwrap();
            let has = |word: &str| {
                word.is_empty() || bytes.windows(word.len()).any(|found| found == word.as_bytes())
            };
            match shared.order {
                Some((Loss::Request, word)) if has(word) => {
                    shared.order = None;
                    return None;
                }
                Some((Loss::Response, word)) if has(word) => *lost = true,
                _ => {}
            }
        }
        to.write_all(bytes).ok()
    }

    /// Passes a server's bytes on.
    fn response(&self, to: &mut TcpStream, bytes: &[u8], lost: &Mutex<bool>) -> Option<()> {
        if !self.judge()? {
            return Some(());
        }
        if std::mem::take(&mut *lost.lock().unwrap()) {
            let order = &mut self.shared.lock().unwrap().order;
            // Unless one of another connection was lost before.
            if order.take_if(|(loss, _)| *loss == Loss::Response).is_some() {
                return None;
            }
        }
        to.write_all(bytes).ok()
    }
}

/// Passes on what comes, until one of both ends, or the connection is to end.
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
