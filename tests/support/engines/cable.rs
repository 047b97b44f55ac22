//! Two network namespaces and a cable between them, which can be pulled out.

use super::namespace::{Namespace, Own};
use std::net::TcpListener;
use std::sync::Arc;

/// The address of the near end. No other test can see it, and so it may be the same for all.
pub const NEAR: &str = "10.0.0.1";

pub struct Cable {
    near: Arc<Namespace>,
    /// Where there is nothing but the other end.
    pub far: Arc<Namespace>,
}

impl Cable {
    /// `None`, and a line that says so: the system does not permit it, skip the test.
    pub fn new() -> Option<Self> {
        match Self::lay() {
            Ok(cable) => Some(cable),
            Err(why) => {
                eprintln!("skipped: no network namespaces: {why}");
                None
            }
        }
    }

    fn lay() -> Result<Self, String> {
        let namespace = || Namespace::apart(Own::Network).map_err(|error| error.to_string());
        let (near, far) = (namespace()?, namespace()?);
        let there = format!("{}/ns/net", far.proc());
        near.tell(&format!("ip link add near type veth peer name far netns {there}"))?;
        near.tell(&format!("ip address add {NEAR}/30 dev near"))?;
        near.tell("ip link set near up")?;
        far.tell("ip address add 10.0.0.2/30 dev far")?;
        far.tell("ip link set far up")?;
        Ok(Self { near, far })
    }

    /// Listens at the near end.
    pub fn listener(&self) -> TcpListener {
        self.near.run(|| TcpListener::bind((NEAR, 0))).expect("the address is there")
    }

    /// Nothing arrives any more, and nobody is told: the far end still has its address and route.
    pub fn pull(&self) {
        self.near.tell("ip link set near down").expect("it went up");
    }

    /// As it was.
    pub fn plug(&self) {
        self.near.tell("ip link set near up").expect("it went up before");
    }
}
