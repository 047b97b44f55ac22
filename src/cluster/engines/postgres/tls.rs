//! Whom to trust, and as whom to come.

use super::address::wrong;
use crate::cluster::ConnectError;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Default)]
pub(super) struct Options {
    pub(super) wanted: bool,
    /// The system's, unless it is set.
    pub(super) authority: Option<PathBuf>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

/// # Errors
///
/// [`ConnectError::Address`] if a file cannot be read, or if the options contradict each other.
pub(super) fn config(options: &Options) -> Result<ClientConfig, ConnectError> {
    let files = [&options.authority, &options.certificate, &options.key];
    if !options.wanted && files.iter().any(|file| file.is_some()) {
        return Err(wrong("sslrootcert, sslcert and sslkey need sslmode=verify-full"));
    }
    let mut roots = RootCertStore::empty();
    if let Some(file) = &options.authority {
        for certificate in certificates("sslrootcert", file)? {
            roots.add(certificate).map_err(|why| unfit("sslrootcert", file, &why))?;
        }
    } else if options.wanted {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|why| wrong(why.to_string()))?
        .with_root_certificates(roots);
    match (&options.certificate, &options.key) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(certificate), Some(key)) => {
            let own = certificates("sslcert", certificate)?;
            let secret =
                PrivateKeyDer::from_pem_file(key).map_err(|why| unfit("sslkey", key, &why))?;
            builder.with_client_auth_cert(own, secret).map_err(|why| unfit("sslkey", key, &why))
        }
        _ => Err(wrong("sslcert and sslkey go together")),
    }
}

fn certificates(option: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let all = CertificateDer::pem_file_iter(file).map_err(|why| unfit(option, file, &why))?;
    let all: Vec<_> = all.collect::<Result<_, _>>().map_err(|why| unfit(option, file, &why))?;
    match all.is_empty() {
        true => Err(unfit(option, file, &"there is no certificate in it")),
        false => Ok(all),
    }
}

fn unfit(option: &str, file: &Path, why: &dyn std::fmt::Display) -> ConnectError {
    wrong(format!("{option}: {}: {why}", file.display()))
}
