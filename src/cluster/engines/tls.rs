//! TLS of the engines' connections: whom to trust, and which certificate to present.

use super::connect::{ConnectError, invalid};
use super::file::open_regular;
use crate::Mutex;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// The options of TLS, the same for each engine.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct TlsOptions {
    pub(crate) enabled: bool,
    /// The authorities to trust. `None`: those that the system trusts.
    pub(crate) ca: Option<Pem>,
    /// The client's certificate chain; only together with its key.
    pub(crate) certificate: Option<Pem>,
    pub(crate) key: Option<Pem>,
    /// What the server's certificate has to be for. `None`: the host of the address.
    pub(crate) server_name: Option<String>,
    pub(crate) names: TlsOptionNames,
}

/// What the options of PEM files are called, for messages: as the URL has them.
#[derive(Clone, Copy)]
pub(crate) struct TlsOptionNames {
    pub(crate) ca: &'static str,
    pub(crate) certificate: &'static str,
    pub(crate) key: &'static str,
}

impl Default for TlsOptionNames {
    fn default() -> Self {
        Self { ca: "ca", certificate: "cert", key: "key" }
    }
}

/// All are equal: a name changes nothing about what an option means.
impl PartialEq for TlsOptionNames {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for TlsOptionNames {}

/// Certificates or a key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Pem {
    /// In a file that is still to be read.
    File(PathBuf),
    /// The text itself.
    Text(Vec<u8>),
}

impl Pem {
    /// The text. `option`: for the error.
    pub(crate) fn read(&self, option: &str) -> Result<Vec<u8>, ConnectError> {
        match self {
            Self::File(file) => {
                let mut text = vec![];
                let read = open_regular(file).and_then(|mut file| file.read_to_end(&mut text));
                read.map(|_| text).map_err(|why| self.unfit(option, why))
            }
            Self::Text(text) => Ok(text.clone()),
        }
    }

    /// The error that this cannot be used for `option`.
    fn unfit(&self, option: &str, why: impl std::fmt::Display) -> ConnectError {
        match self {
            Self::File(file) => invalid(format!("{option}={}: {why}", file.display())),
            Self::Text(_) => invalid(format!("{option}: {why}")),
        }
    }
}

impl TlsOptions {
    /// Checks that the options go together. `enable`: how TLS is turned on in a URL.
    pub(crate) fn check(&self, enable: &str) -> Result<(), ConnectError> {
        let TlsOptionNames { ca, certificate, key } = self.names;
        let set = [
            (ca, self.ca.is_some()),
            (certificate, self.certificate.is_some()),
            (key, self.key.is_some()),
            ("server_name", self.server_name.is_some()),
        ];
        if let Some((name, _)) = set.iter().find(|(_, is_set)| *is_set && !self.enabled) {
            return Err(invalid(format!("the option {name:?} needs {enable}")));
        }
        if self.certificate.is_some() != self.key.is_some() {
            return Err(invalid(format!(
                "{certificate:?} and {key:?} go together: both or neither"
            )));
        }
        Ok(())
    }

    /// Reads all texts.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Address`] if a file cannot be read.
    fn read(&self) -> Result<PemTexts, ConnectError> {
        let TlsOptionNames { ca, certificate, key } = self.names;
        let read = |pem: &Option<Pem>, option| pem.as_ref().map(|pem| pem.read(option)).transpose();
        Ok(PemTexts {
            ca: read(&self.ca, ca)?,
            certificate: read(&self.certificate, certificate)?,
            key: read(&self.key, key)?,
        })
    }

    /// Whether a text is in a file, which may be replaced.
    fn has_file(&self) -> bool {
        let all = [&self.ca, &self.certificate, &self.key];
        all.iter().any(|pem| matches!(pem, Some(Pem::File(_))))
    }
}

/// What the PEM files have in them.
#[derive(PartialEq, Eq)]
pub(crate) struct PemTexts {
    ca: Option<Vec<u8>>,
    certificate: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

/// The configuration of new connections, of which the files are read again for each. `C`: the client
/// library's, of which a clone is cheap.
pub(crate) struct TlsSource<C> {
    options: TlsOptions,
    make: fn(&TlsOptions, &PemTexts) -> Result<C, ConnectError>,
    last: Mutex<(Arc<PemTexts>, C)>,
}

impl<C: Clone + Send + 'static> TlsSource<C> {
    /// Reads the files for the first time.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Address`] if a file cannot be read, or does not hold what it should.
    pub(crate) fn new(
        options: TlsOptions,
        make: fn(&TlsOptions, &PemTexts) -> Result<C, ConnectError>,
    ) -> Result<Arc<Self>, ConnectError> {
        let texts = options.read()?;
        let config = make(&options, &texts)?;
        Ok(Arc::new(Self { options, make, last: Mutex::new((Arc::new(texts), config)) }))
    }

    /// The last configuration that could be made, and why the present files are of no use, if they are not: one
    /// of them may be replaced already, and the other not yet.
    ///
    /// It takes `limit` at most.
    pub(crate) async fn current(self: &Arc<Self>, limit: Duration) -> (C, Option<String>) {
        if !self.options.has_file() {
            return (self.last.lock().1.clone(), None);
        }
        let source = self.clone();
        let read = tokio::task::spawn_blocking(move || source.refresh());
        let trouble = match timeout(limit, read).await {
            Ok(Ok(Ok(config))) => return (config, None),
            Ok(Ok(Err(ConnectError::Address { why }))) => why,
            Ok(Ok(Err(other))) => other.to_string(),
            Ok(Err(_)) => "the runtime that was to read them has ended".to_owned(),
            Err(_) => format!("they could not be read in {limit:?}"),
        };
        let note = format!(
            "the present files of TLS are of no use ({trouble}), so their former content was used"
        );
        (self.last.lock().1.clone(), Some(note))
    }

    /// Reads the files. A configuration stays as long as they do, with the sessions that it has.
    fn refresh(&self) -> Result<C, ConnectError> {
        let texts = self.options.read()?;
        let (known, config) = self.last.lock().clone();
        if *known == texts {
            return Ok(config);
        }
        let config = (self.make)(&self.options, &texts)?;
        *self.last.lock() = (Arc::new(texts), config.clone());
        Ok(config)
    }
}

mod rustls_config {
    use super::{Pem, PemTexts, TlsOptionNames, TlsOptions, TlsSource};
    use crate::cluster::ConnectError;
    use crate::cluster::engines::connect::invalid;
    use rustls::pki_types::pem::{self, PemObject};
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ClientConfig, RootCertStore};
    use std::sync::Arc;

    /// Configurations of rustls.
    pub(crate) type RustlsSource = TlsSource<Arc<ClientConfig>>;

    impl TlsOptions {
        /// The configurations of rustls; reads the files. Without TLS they trust nobody.
        ///
        /// # Errors
        ///
        /// [`ConnectError::Address`] if a file cannot be read, or if it does not hold what it should.
        #[cfg(any(feature = "redis", feature = "postgres"))]
        pub(crate) fn rustls(self) -> Result<Arc<RustlsSource>, ConnectError> {
            TlsSource::new(self, config)
        }

        /// The same for HTTP/2.
        #[cfg(feature = "etcd")]
        pub(crate) fn rustls_for_http2(self) -> Result<Arc<RustlsSource>, ConnectError> {
            TlsSource::new(self, |options, texts| {
                let mut config = config(options, texts)?;
                Arc::make_mut(&mut config).alpn_protocols = vec![b"h2".to_vec()];
                Ok(config)
            })
        }
    }

    fn config(options: &TlsOptions, texts: &PemTexts) -> Result<Arc<ClientConfig>, ConnectError> {
        let names = options.names;
        let TlsOptionNames { ca: ca_name, certificate: certificate_name, key: key_name } = names;
        let mut roots = RootCertStore::empty();
        if let Some((ca, text)) = options.ca.as_ref().zip(texts.ca.as_deref()) {
            for authority in certificates(ca, text, ca_name)? {
                roots.add(authority).map_err(|why| ca.unfit(ca_name, why))?;
            }
        } else if options.enabled {
            // Those of the system that cannot be read are not trusted.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        // The process's default provider may be missing, and another crate may have chosen it.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|why| invalid(why.to_string()))?
            .with_root_certificates(roots);
        let certificate = options.certificate.as_ref().zip(texts.certificate.as_deref());
        let key = options.key.as_ref().zip(texts.key.as_deref());
        let Some(((certificate, chain), (key, secret))) = certificate.zip(key) else {
            return Ok(Arc::new(builder.with_no_client_auth()));
        };
        let chain = certificates(certificate, chain, certificate_name)?;
        let secret = PrivateKeyDer::from_pem_slice(secret);
        let secret = secret.map_err(|why| key.unfit(key_name, pem_error(&why)))?;
        // This also finds that the two do not fit together.
        let config = builder.with_client_auth_cert(chain, secret);
        Ok(Arc::new(config.map_err(|why| key.unfit(key_name, why))?))
    }

    fn certificates(
        pem: &Pem,
        text: &[u8],
        option: &str,
    ) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
        let all = all.map_err(|why| pem.unfit(option, pem_error(&why)))?;
        if all.is_empty() {
            return Err(pem.unfit(option, "there is no certificate in it"));
        }
        Ok(all)
    }

    /// What is wrong with a PEM text. The library's own message may repeat a line of it, which can have
    /// a whole private key.
    fn pem_error(error: &pem::Error) -> &'static str {
        match error {
            pem::Error::NoItemsFound => "there is no private key in it",
            _ => {
                "it is no PEM text: BEGIN and END need a line of their own, and base64 is between them"
            }
        }
    }
}
pub(crate) use rustls_config::RustlsSource;

#[cfg(test)]
mod tests {
    use super::{Pem, TlsOptions};

    fn text() -> Option<Pem> {
        Some(Pem::Text(b"no PEM".to_vec()))
    }

    #[test]
    fn options_of_tls_go_together() {
        let plain = TlsOptions { server_name: Some("a".to_owned()), ..TlsOptions::default() };
        let said = plain.check("x://").unwrap_err().to_string();
        assert!(said.contains("\"server_name\" needs x://"), "{said}");
        let half = TlsOptions { enabled: true, key: text(), ..TlsOptions::default() };
        assert!(half.check("x://").unwrap_err().to_string().contains("go together"));
        let whole = TlsOptions { certificate: text(), ..half };
        assert!(whole.check("x://").is_ok());
    }

    #[test]
    fn a_file_that_is_not_there_is_named_with_its_option() {
        let missing = Pem::File("/no/such/file".into());
        let said = missing.read("ca").unwrap_err().to_string();
        assert!(said.contains("ca=/no/such/file: "), "{said}");
    }

    #[test]
    fn what_is_no_certificate_and_no_key_is_refused() {
        let ca = TlsOptions { enabled: true, ca: text(), ..TlsOptions::default() };
        let said = ca.rustls().map(drop).unwrap_err().to_string();
        assert!(said.contains("ca: there is no certificate in it"), "{said}");
        let key =
            TlsOptions { enabled: true, certificate: text(), key: text(), ..TlsOptions::default() };
        let said = key.rustls().map(drop).unwrap_err().to_string();
        assert!(said.contains("cert: there is no certificate in it"), "{said}");
        assert!(TlsOptions::default().rustls().is_ok());
    }
}
