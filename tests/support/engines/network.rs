//! Two network namespaces with a link between them that can be taken down; and the address of this machine.

use super::namespace::{Isolated, Namespace};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::sync::Arc;

/// The address of the near end. It is the same for all tests, since no other test can see it.
pub const NEAR: &str = "10.0.0.1";

pub struct NetworkLink {
    near: Arc<Namespace>,
    /// The namespace that has only the far end.
    pub far: Arc<Namespace>,
}

impl NetworkLink {
    /// `None`, and a line on standard error: the system does not permit it, skip the test.
    pub fn new() -> Option<Self> {
        match Self::connect() {
            Ok(link) => Some(link),
            Err(why) => {
                eprintln!("skipped: no network namespaces: {why}");
                None
            }
        }
    }

    fn connect() -> Result<Self, String> {
        let namespace =
            || Namespace::isolated(Isolated::Network).map_err(|error| error.to_string());
        let (near, far) = (namespace()?, namespace()?);
        let there = format!("{}/ns/net", far.proc());
        near.run_command(&format!("ip link add near type veth peer name far netns {there}"))?;
        near.run_command(&format!("ip address add {NEAR}/30 dev near"))?;
        near.run_command("ip link set near up")?;
        far.run_command("ip address add 10.0.0.2/30 dev far")?;
        far.run_command("ip link set far up")?;
        Ok(Self { near, far })
    }

    /// Listens at the near end.
    pub fn listener(&self) -> TcpListener {
        self.near.run(|| TcpListener::bind((NEAR, 0))).expect("the address is there")
    }

    /// Takes the link down. Nothing arrives any more, and the far end does not notice: it still has its
    /// address and route.
    pub fn take_down(&self) {
        self.near.run_command("ip link set near down").expect("it went up");
    }

    /// Brings the link up again.
    pub fn bring_up(&self) {
        self.near.run_command("ip link set near up").expect("it went up before");
    }
}

/// An address of this machine that is none of the loopback interface. `None`, and a line on standard error: it has
/// none, skip the test.
pub fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    // Nothing is sent. The address is one for documentation, to which the usual route leads.
    let address = socket.connect("198.51.100.1:9").and_then(|()| socket.local_addr());
    let address = address.ok().map(|address| address.ip()).filter(|own| !own.is_loopback());
    if address.is_none() {
        eprintln!("skipped: this machine has no address but that of the loopback interface");
    }
    address
}
