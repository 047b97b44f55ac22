//! The engines over which the processes run, and notices that a stranger forges.

use super::support::process::ServerProcess;
use fastrand::Rng;
use tokio::runtime::Runtime;

/// An engine that the faults strike.
pub trait Target: Sized + Send + Sync {
    const NAME: &'static str;

    /// Starts it. `None`: it is not installed, skip the test.
    fn start(runtime: &Runtime) -> Option<Self>;

    /// Its servers, and their ports.
    fn servers(&self) -> Vec<(&ServerProcess, u16)>;

    /// The address for `lockword::cluster::connect`, with these ports instead of its own.
    fn address(&self, ports: &[u16]) -> String;

    /// Somebody who sends notices to all nodes. `None`: the engine has no notices of clients.
    fn forger(&self) -> Option<Box<dyn Forger + '_>>;
}

/// Somebody who sends notices, with no right to write to a register.
pub trait Forger {
    /// Sends a notice about this key. An error: the engine does not run now.
    fn forge(&mut self, forgery: Forgery, key: &str, rng: &mut Rng) -> Result<(), String>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgery {
    /// What no register can be.
    Garbage,
    /// A register that the key had before.
    Old,
    /// The present version, or a larger one, and a register without a holder.
    Free,
    /// That something has changed, and nothing else.
    Hint,
}

#[cfg(any(feature = "postgres", feature = "redis"))]
mod forging {
    use super::Forgery;
    use fastrand::Rng;
    use std::collections::VecDeque;

    /// A version and a value.
    pub type Register = (u64, Vec<u8>);

    /// The registers that keys had.
    #[derive(Default)]
    pub struct Past(VecDeque<(String, Register)>);

    impl Past {
        /// Notes what the key has now, and chooses what a notice says: a version and a value, each as it
        /// is sent. `None`: neither, which is a hint.
        pub fn forge(
            &mut self,
            forgery: Forgery,
            key: &str,
            now: Option<Register>,
            rng: &mut Rng,
        ) -> Option<(String, Vec<u8>)> {
            if let Some(register) = &now {
                self.0.push_back((key.to_owned(), register.clone()));
                if self.0.len() > 1000 {
                    self.0.pop_front();
                }
            }
            let (version, value) = match forgery {
                Forgery::Hint => return None,
                Forgery::Garbage => return Some(garbage(now, rng)),
                Forgery::Old => {
                    let of_key = self.0.iter().filter(|(of, _)| of == key);
                    let of_key: Vec<_> = of_key.map(|(_, register)| register).collect();
                    rng.choice(of_key)?.clone()
                }
                Forgery::Free => {
                    let (version, value) = now?;
                    let value = free(&value)?;
                    (if rng.bool() { version } else { (1 << 52) - 1 }, value)
                }
            };
            Some((version.to_string(), value))
        }
    }

    /// The same register, which nobody holds.
    fn free(value: &[u8]) -> Option<Vec<u8>> {
        let mut register: serde_json::Value = serde_json::from_slice(value).ok()?;
        register.as_object_mut()?.remove("holder");
        register["queue"] = serde_json::json!([]);
        Some(register.to_string().into_bytes())
    }

    fn garbage(now: Option<Register>, rng: &mut Rng) -> (String, Vec<u8>) {
        let present = now.map_or(1, |(version, _)| version);
        let versions = [present, present + 1, (1 << 52) - 1, u64::MAX, 0];
        let version = match rng.u8(..3) {
            0 => "x".to_owned(),
            _ => rng.choice(versions).expect("there are some").to_string(),
        };
        let length = if rng.u8(..10) == 0 { 3_000 } else { rng.usize(..60) };
        let value = match rng.u8(..3) {
            0 => br#"{"lockword":"9.0"}"#.to_vec(),
            _ => (0..length).map(|_| rng.u8(..)).collect(),
        };
        (version, value)
    }
}

#[cfg(feature = "etcd")]
mod etcd {
    use super::super::support::etcd::Cluster;
    use super::super::support::process::ServerProcess;
    use super::{Forger, Target};
    use tokio::runtime::Runtime;

    impl Target for Cluster {
        const NAME: &'static str = "etcd";

        fn start(_: &Runtime) -> Option<Self> {
            Cluster::start()
        }

        fn servers(&self) -> Vec<(&ServerProcess, u16)> {
            self.members.iter().map(|member| (&member.process, member.port)).collect()
        }

        fn address(&self, ports: &[u16]) -> String {
            let servers: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
            format!("etcd://{}", servers.join(","))
        }

        /// Who can send an event of etcd can write to the register.
        fn forger(&self) -> Option<Box<dyn Forger + '_>> {
            None
        }
    }
}

#[cfg(feature = "redis")]
mod redis {
    use super::super::record::mark;
    use super::super::support::process::ServerProcess;
    use super::super::support::redis::{RedisServer, RedisSetup};
    use super::forging::Past;
    use super::{Forger, Forgery, Target};
    use fastrand::Rng;
    use std::time::Duration;
    use tokio::runtime::Runtime;

    impl Target for RedisServer {
        const NAME: &'static str = "redis";

        fn start(_: &Runtime) -> Option<Self> {
            RedisServer::start_with(RedisSetup { durable: true, ..RedisSetup::default() })
        }

        fn servers(&self) -> Vec<(&ServerProcess, u16)> {
            vec![(&self.process, self.port)]
        }

        fn address(&self, ports: &[u16]) -> String {
            self.address_at(ports[0])
        }

        fn forger(&self) -> Option<Box<dyn Forger + '_>> {
            Some(Box::new(Publisher { server: self, client: None, past: Past::default() }))
        }
    }

    struct Publisher<'a> {
        server: &'a RedisServer,
        client: Option<::redis::Connection>,
        past: Past,
    }

    impl Publisher<'_> {
        fn connect(&self) -> ::redis::RedisResult<::redis::Connection> {
            let limit = Duration::from_millis(500);
            let client = ::redis::Client::open(self.server.address())?;
            let client = client.get_connection_with_timeout(limit)?;
            client.set_read_timeout(Some(limit))?;
            Ok(client)
        }

        fn publish(
            &mut self,
            forgery: Forgery,
            key: &str,
            rng: &mut Rng,
        ) -> ::redis::RedisResult<()> {
            if self.client.is_none() {
                self.client = Some(self.connect()?);
            }
            let client = self.client.as_mut().expect("it is connected");
            let mut look = ::redis::cmd("HMGET");
            look.arg(format!("{{lockword}}:{key}")).arg("version").arg("value");
            let (version, value): (Option<u64>, Option<Vec<u8>>) = look.query(client)?;
            let payload = match self.past.forge(forgery, key, version.zip(value), rng) {
                Some((version, value)) => {
                    [format!("{key} {version} ").into_bytes(), value].concat()
                }
                // Of the key itself, and of its hash.
                None if rng.bool() => key.as_bytes().to_vec(),
                None => mark(key.as_bytes()).into_bytes(),
            };
            ::redis::cmd("PUBLISH").arg("{lockword}:#all").arg(payload).exec(client)
        }
    }

    impl Forger for Publisher<'_> {
        fn forge(&mut self, forgery: Forgery, key: &str, rng: &mut Rng) -> Result<(), String> {
            let done = self.publish(forgery, key, rng);
            if done.is_err() {
                self.client = None;
            }
            done.map_err(|error| error.to_string())
        }
    }
}

#[cfg(feature = "postgres")]
mod postgres {
    use super::super::record::mark;
    use super::super::support::engine::Engine;
    use super::super::support::postgres::PostgresServer;
    use super::super::support::process::ServerProcess;
    use super::forging::Past;
    use super::{Forger, Forgery, Target};
    use fastrand::Rng;
    use std::time::Duration;
    use tokio::runtime::Runtime;
    use tokio_postgres::{Client, NoTls};

    pub struct Postgres {
        server: PostgresServer,
        /// Where the forger's connections live.
        runtime: Runtime,
    }

    impl Target for Postgres {
        const NAME: &'static str = "postgres";

        fn start(runtime: &Runtime) -> Option<Self> {
            let server = runtime.block_on(<PostgresServer as Engine>::start())?;
            let runtime = Runtime::new().expect("threads can be started");
            runtime.block_on(async {
                let role = "CREATE ROLE stranger LOGIN";
                server.client().await.batch_execute(role).await.expect("it runs");
            });
            Some(Self { server, runtime })
        }

        fn servers(&self) -> Vec<(&ServerProcess, u16)> {
            vec![(&self.server.process, self.server.port)]
        }

        fn address(&self, ports: &[u16]) -> String {
            self.server.address_at(ports[0], "")
        }

        fn forger(&self) -> Option<Box<dyn Forger + '_>> {
            Some(Box::new(Notifier { target: self, clients: None, past: Past::default() }))
        }
    }

    /// A role without any right but to connect; and one that may read, to know what to forge.
    struct Notifier<'a> {
        target: &'a Postgres,
        clients: Option<[Client; 2]>,
        past: Past,
    }

    impl Notifier<'_> {
        async fn connect(&self, role: &str) -> Result<Client, tokio_postgres::Error> {
            let port = self.target.server.port;
            let address = format!("postgres://{role}@127.0.0.1:{port}/postgres?connect_timeout=1");
            let (client, wire) = tokio_postgres::connect(&address, NoTls).await?;
            tokio::spawn(wire);
            Ok(client)
        }

        async fn notify(
            &mut self,
            forgery: Forgery,
            key: &str,
            rng: &mut Rng,
        ) -> Result<(), tokio_postgres::Error> {
            if self.clients.is_none() {
                let reader = self.connect("postgres").await?;
                self.clients = Some([reader, self.connect("stranger").await?]);
            }
            let [reader, stranger] = self.clients.as_ref().expect("they are connected");
            let sql = "SELECT version, value FROM public.lockword WHERE key = $1";
            let now = reader.query_opt(sql, &[&key]).await?;
            let now = now.map(|row| (row.get::<_, i64>(0) as u64, row.get(1)));
            let payload = match self.past.forge(forgery, key, now, rng) {
                Some((version, value)) => {
                    let digits: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
                    format!("{key} {version} {digits}")
                }
                // Of the key itself, and of its hash.
                None if rng.bool() => key.to_owned(),
                None => mark(key.as_bytes()),
            };
            let sql = "SELECT pg_notify('public.lockword', $1)";
            stranger.execute(sql, &[&payload]).await.map(drop)
        }
    }

    impl Forger for Notifier<'_> {
        fn forge(&mut self, forgery: Forgery, key: &str, rng: &mut Rng) -> Result<(), String> {
            let target = self.target;
            let limit = Duration::from_secs(1);
            let done = target.runtime.block_on(async {
                tokio::time::timeout(limit, self.notify(forgery, key, rng)).await
            });
            let done = done.map_err(|_| "no answer".to_owned());
            let done = done.and_then(|done| done.map_err(|error| error.to_string()));
            if done.is_err() {
                self.clients = None;
            }
            done
        }
    }
}

#[cfg(feature = "postgres")]
pub use postgres::Postgres;
