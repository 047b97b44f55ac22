//! Sentinels, which know where the primary is.

use super::builder::RedisConfig;
use super::commands::{self, RedisConnectError};
use super::socket::{RedisAddress, client_failed, first_success, open_client, sentinel_login};
use crate::cluster::ConnectError;
use crate::cluster::engines::credentials::{Credentials, LoginSource};
use ::redis::{AsyncConnectionConfig, Value, cmd};
use futures_util::future::{Either, select};
use std::pin::pin;
use tokio::time::Instant;

/// The sentinels, and the name by which they know the primary and its replicas.
#[derive(Clone)]
pub(super) struct Sentinels {
    pub(super) service: String,
    pub(super) addresses: Vec<RedisAddress>,
    pub(super) login: LoginSource,
}

impl Sentinels {
    /// Asks the sentinel at `config.address` where the primary is.
    pub(super) async fn primary(
        &self,
        config: &RedisConfig,
    ) -> Result<RedisAddress, RedisConnectError> {
        let ask = |credentials| self.ask_for_primary(config, credentials);
        let end = Instant::now() + config.connect_timeout;
        self.login.log_in(end, RedisConnectError::is_denied, ask).await.map_err(|failed| {
            RedisConnectError { error: self.login.explain(failed.error), ..failed }
        })
    }

    async fn ask_for_primary(
        &self,
        config: &RedisConfig,
        credentials: Credentials,
    ) -> Result<RedisAddress, RedisConnectError> {
        let name = format!("the sentinel {}", config.address);
        let server = || name.clone();
        let name = &*name;
        let places = config.address.resolve().await;
        let places = places.map_err(|error| commands::socket_failed(error, server()))?;
        let options = || AsyncConnectionConfig::new().set_response_timeout(Some(config.timeout));
        let login = &sentinel_login(credentials);
        let ask = |place| async move {
            let (mut client, driver) = open_client(config, &place, login, options(), name).await?;
            let command = cmd("SENTINEL").arg("get-master-addr-by-name").arg(&self.service).clone();
            // The connection is for this question only.
            let response = pin!(command.query_async::<Value>(&mut client));
            let response = match select(response, pin!(driver)).await {
                Either::Left((response, _)) => response,
                // It may have ended with the response.
                Either::Right(((), response)) => response.await,
            };
            let response = response.map_err(|error| client_failed(error, config, name))?;
            commands::primary(&response).ok_or_else(|| RedisConnectError {
                error: ConnectError::Unsuitable {
                    server: server(),
                    why: format!(
                        "it knows no primary of the name {:?}, which the path of the address is",
                        self.service
                    ),
                },
                // It may learn it.
                is_transient: true,
            })
        };
        first_success(places.into_iter().map(ask)).await
    }
}
