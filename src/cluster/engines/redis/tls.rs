//! The bytes between client and server, encrypted or not.

use crate::cluster::ConnectError;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Whom to trust, and what to show.
#[derive(Clone)]
pub(super) struct Tls(Arc<ClientConfig>);

impl Tls {
    /// With the authorities in the file `ca`, or else those that the system trusts; and with the
    /// certificate and the key in these files, if any. All are PEM.
    pub(super) fn read(
        ca: Option<String>,
        cert: Option<String>,
        key: Option<String>,
    ) -> Result<Self, ConnectError> {
        let mut roots = RootCertStore::empty();
        if let Some(file) = ca {
            for authority in certificates(&file)? {
                roots.add(authority).map_err(|why| unreadable(&file, why))?;
            }
        } else {
            // What cannot be read of the system's is not trusted, that is all.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        // Not the process's default, which may be missing, or not the only one.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().map_err(bad)?;
        let builder = builder.with_root_certificates(roots);
        let config = match (cert, key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let chain = certificates(&cert)?;
                let key_in =
                    PrivateKeyDer::from_pem_file(&key).map_err(|why| unreadable(&key, why))?;
                builder.with_client_auth_cert(chain, key_in).map_err(bad)?
            }
            _ => return Err(bad("\"cert\" and \"key\" are needed both, or neither")),
        };
        Ok(Self(Arc::new(config)))
    }
}

fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let all = CertificateDer::pem_file_iter(file).map_err(|why| unreadable(file, why))?;
    let all: Vec<_> = all.collect::<Result<_, _>>().map_err(|why| unreadable(file, why))?;
    if all.is_empty() { Err(unreadable(file, "there is no certificate in it")) } else { Ok(all) }
}

fn unreadable(file: &str, why: impl std::fmt::Display) -> ConnectError {
    bad(format!("{file}: {why}"))
}

fn bad(why: impl std::fmt::Display) -> ConnectError {
    ConnectError::Address { why: why.to_string() }
}

/// A connection, encrypted or not.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// Connects to `host`, and makes sure it is that one if this is to be encrypted.
pub(super) async fn open(host: &str, port: u16, tls: Option<&Tls>) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let Some(Tls(config)) = tls else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    Ok(Box::new(TlsConnector::from(config.clone()).connect(name, stream).await?))
}

/// Whether this is about a certificate: the server's, or ours.
pub(super) fn is_distrust(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
        || speaks_of_distrust(&error.to_string())
}

/// The same by the text of an error: a server that does not trust us says so after it has let us in.
pub(super) fn speaks_of_distrust(text: &str) -> bool {
    let wake_next = text.split_once("fatal alert: ").map_or("", |(_, wake_next)| wake_next);
    let wake_next: String = wake_next.chars().filter(char::is_ascii_alphabetic).collect();
    wake_next.contains("Certificate") || wake_next == "UnknownCA" || wake_next == "AccessDenied"
}
