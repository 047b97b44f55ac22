//! How a connection to a server is opened: the client library opens the next one by this as well, when one has
//! broken.

use crate::Mutex;
use crate::cluster::engines::options::check_plaintext;
use crate::cluster::engines::tls::RustlsSource;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tonic::transport::Uri;
use tower_service::Service;

/// Opens connections to one server. A clone opens the same.
#[derive(Clone)]
pub(super) struct EtcdConnector {
    tcp: HttpConnector,
    tls: Option<EtcdTls>,
    /// Host and port, for messages.
    server: String,
    /// A password goes to addresses of the loopback interface only.
    guards_password: bool,
    note: Arc<Mutex<Option<String>>>,
    connect_timeout: Duration,
}

/// Where the configuration of TLS comes from.
#[derive(Clone)]
pub(super) struct EtcdTls {
    pub(super) source: Arc<RustlsSource>,
    /// What is expected in the certificate.
    pub(super) name: ServerName<'static>,
}

/// A socket, encrypted or not.
pub(super) trait EtcdStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> EtcdStream for T {}

impl EtcdConnector {
    /// `guards_password`: a connection that is not encrypted is opened to addresses of the loopback interface only.
    pub(super) fn new(
        server: String,
        tls: Option<EtcdTls>,
        guards_password: bool,
        connect_timeout: Duration,
    ) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(connect_timeout));
        Self { tcp, tls, server, guards_password, note: Arc::default(), connect_timeout }
    }

    /// Why the files of TLS were of no use to the last connection, if they were not. The server may say only later
    /// that it does not trust what it was shown.
    pub(super) fn note(&self) -> Option<String> {
        self.note.lock().clone()
    }
}

impl Service<Uri> for EtcdConnector {
    type Response = TokioIo<Box<dyn EtcdStream>>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (this, opening) = (self.clone(), self.tcp.call(uri));
        async move {
            let stream = opening.await?.into_inner();
            let Some(tls) = this.tls else {
                if this.guards_password {
                    check_plaintext(stream.peer_addr()?.ip(), &this.server, "etcds://")?;
                }
                return Ok(TokioIo::new(Box::new(stream) as Box<dyn EtcdStream>));
            };
            let (config, note) = tls.source.current(this.connect_timeout / 2).await;
            *this.note.lock() = note;
            let stream = TlsConnector::from(config).connect(tls.name, stream).await?;
            if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                return Err(io::Error::other("the server speaks TLS, but not HTTP/2").into());
            }
            Ok(TokioIo::new(Box::new(stream) as Box<dyn EtcdStream>))
        }
        .boxed()
    }
}
