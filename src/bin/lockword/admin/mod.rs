//! What operators use: `status`, `list`, `watch`, `top`, `break`, `sweep` and `grants`.
//!
//! [`view`] is what all of them show of a lock, as text and as JSON.

mod break_lock;
mod grants;
mod list;
mod status;
mod sweep;
mod top;
mod view;
mod watch;

pub use break_lock::break_lock;
pub use grants::grants;
pub use list::list;
pub use status::status;
pub use sweep::sweep;
pub use top::top;
pub use view::{age, left};
pub use watch::watch;

use crate::engine::Engine;
use crate::lock_args::EngineArgs;
use crate::{CliError, ExitOutcome, exit};
use lockword::cluster::audit::Audit;
use lockword::cluster::layers::SealError;
use lockword::cluster::{Key, Label, Node, TransportError};
use std::error::Error;
use std::time::Duration;
use tokio::runtime::Builder;

/// An operator's node, and the engine that it is over.
struct Desk {
    engine: Engine,
    node: Node,
}

/// Connects, and runs `work`. What that does goes into the trail.
fn at_desk(
    args: &EngineArgs,
    audit: Option<&Audit>,
    work: impl AsyncFnOnce(&Desk) -> Result<ExitOutcome, CliError>,
) -> Result<ExitOutcome, CliError> {
    let failed = |why: String| CliError::with(exit::UNREACHABLE, why);
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|why| failed(why.to_string()))?;
    runtime.block_on(async {
        let engine = Engine::connect(args).await?;
        let user = ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
        let label = Label::of_this_process(user.as_deref(), "lockword");
        let node = Node::builder(engine.transport.clone()).label(label.to_string());
        let node = audit.into_iter().fold(node, |node, audit| node.observer(audit.clone()));
        let node = node.build().map_err(|why| failed(why.to_string()))?;
        work(&Desk { engine, node }).await
    })
}

fn key(name: &str) -> Result<Key, CliError> {
    Key::new(name).map_err(|why| CliError::with(exit::USAGE, why.to_string()))
}

impl Desk {
    /// The keys with this prefix. An engine that cannot list has at most the one of this name.
    async fn keys(&self, prefix: &str) -> Result<Vec<Key>, CliError> {
        let listed = self.node.list(prefix).await;
        // A register that the keys do not open: the engine can list.
        let is_of_seal =
            listed.as_ref().err().and_then(Error::source).is_some_and(|why| why.is::<SealError>());
        match listed {
            Ok(keys) => Ok(keys),
            Err(TransportError::Unsupported(_)) if !prefix.is_empty() && !is_of_seal => {
                Ok(vec![key(prefix)?])
            }
            Err(error) => Err(crate::engine::request_failed(&error)),
        }
    }
}

/// The longest that a holder is watched by default.
const LONGEST_WATCH: Duration = Duration::from_secs(10);
