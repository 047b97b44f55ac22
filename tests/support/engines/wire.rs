//! A relay that does to connections what networks do.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// Listens on a loopback port and passes bytes to a server and back. Its connections end with it.
pub struct Wire {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    shared: Mutex<Shared>,
    changed: Condvar,
}

#[derive(Default)]
struct Shared {
    mode: Mode,
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
    /// The next ones of the server are dropped, and all connections cut. Then `Pass`.
    CutAtAnswer,
    /// The next ones of a client are dropped, and all connections cut. Then `Pass`.
    CutAtRequest,
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
        let state = Arc::new(State::default());
        let shared = state.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.mode() == Mode::Closed {
                    return;
                }
                // Who is not let through is hung up on.
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let clone = |stream: &TcpStream| stream.try_clone().expect("a second handle");
                for stream in [&client, &server] {
                    let _ = stream.set_nodelay(true);
                    shared.shared.lock().unwrap().open.push(clone(stream));
                }
                let there = (clone(&client), clone(&server), shared.clone());
                thread::spawn(move || pump(there.0, there.1, &there.2, Mode::CutAtRequest));
                let back = (server, client, shared.clone());
                thread::spawn(move || pump(back.0, back.1, &back.2, Mode::CutAtAnswer));
            }
        });
        Self { port, state }
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

    /// The next bytes of the server do not arrive; all connections break instead.
    pub fn cut_at_answer(&self) {
        self.state.set(Mode::CutAtAnswer);
    }

    /// The next bytes of a client do not arrive; all connections break instead.
    pub fn cut_at_request(&self) {
        self.state.set(Mode::CutAtRequest);
    }

    /// Whether a cut that was ordered is still to come.
    pub fn is_armed(&self) -> bool {
        matches!(self.state.mode(), Mode::CutAtAnswer | Mode::CutAtRequest)
    }
}

enum Fate {
    Pass,
    Vanish,
}

impl Shared {
    fn cut(&mut self) {
        for stream in self.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl State {
    fn mode(&self) -> Mode {
        self.shared.lock().unwrap().mode
    }

    fn set(&self, mode: Mode) {
        let mut shared = self.shared.lock().unwrap();
        shared.mode = mode;
        if mode == Mode::Pass && std::mem::take(&mut shared.torn) {
            shared.cut();
        }
        self.changed.notify_all();
    }

    /// What becomes of some bytes, after they have waited for that: `None`: the connection ends.
    fn judge(&self, cut_at: Mode) -> Option<Fate> {
        let held = |shared: &mut Shared| shared.mode == Mode::Hold;
        let mut shared = self.changed.wait_while(self.shared.lock().unwrap(), held).unwrap();
        if shared.mode == cut_at {
            shared.mode = Mode::Pass;
            shared.cut();
            return None;
        }
        match shared.mode {
            Mode::Closed => None,
            Mode::Drop => {
                shared.torn = true;
                Some(Fate::Vanish)
            }
            _ => Some(Fate::Pass),
        }
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, state: &State, cut_at: Mode) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(number @ 1..) = from.read(&mut bytes) {
        match state.judge(cut_at) {
            None => break,
            Some(Fate::Vanish) => {}
            Some(Fate::Pass) if to.write_all(&bytes[..number]).is_ok() => {}
            Some(Fate::Pass) => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.state.set(Mode::Closed);
        self.cut();
        // Its listener's thread wakes up, and ends.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}
