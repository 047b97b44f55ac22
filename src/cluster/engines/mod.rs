//! The engines, each with its own builder and URL, and [`connect`] for all of them.
//!
//! | engine | promise | a release wakes |
//! |---|---|---|
//! | [`Memory`] | linearizable, within this process | every node that waits |
//! | `Dir` (on Unix) | linearizable while the machine runs; lossy across a loss of power | every node that waits |
//! | `etcd` | linearizable | every node that waits |
//! | `postgres` | linearizable; lossy if a failover can reach a replica that lags, or with `unlogged=true` | the next node |
//! | `redis` | lossy: a failover or a restart can lose a grant | the next node |
//!
//! # Rights per prefix
//!
//! A user of etcd, PostgreSQL or Redis can have rights on the locks of a prefix of keys, and on no others: [`grants()`]
//! has the commands that give them, and each page says what such a user can still do, and what it cannot. A directory
//! has the rights that the system gives.

pub(crate) mod connect;
#[cfg(any(feature = "redis", feature = "postgres", feature = "etcd"))]
pub(crate) mod credentials;
#[cfg(unix)]
pub mod dir;
#[cfg(feature = "etcd")]
pub mod etcd;
#[cfg(any(feature = "redis", feature = "postgres", feature = "etcd", feature = "sealed"))]
mod file;
mod grants;
#[cfg(any(feature = "redis", feature = "postgres"))]
mod hint;
mod memory;
#[cfg(any(feature = "redis", feature = "postgres", feature = "etcd"))]
pub(crate) mod options;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(any(feature = "redis", feature = "postgres", feature = "etcd"))]
mod prefix;
#[cfg(feature = "redis")]
pub mod redis;
mod spelling;
#[cfg(any(feature = "redis", feature = "postgres", feature = "etcd"))]
pub(crate) mod tls;

pub use connect::{ConnectError, connect, connect_on};
#[cfg(any(feature = "redis", feature = "postgres", feature = "etcd"))]
pub use credentials::Credentials;
#[cfg(unix)]
pub use dir::Dir;
#[cfg(feature = "sealed")]
pub(in crate::cluster) use file::open_regular;
pub use grants::{Grants, GrantsError, grants};
pub use memory::Memory;
