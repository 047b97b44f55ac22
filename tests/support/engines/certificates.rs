//! Certificates, made on the spot.

use super::process::Folder;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// An authority, and what it has signed. The files are gone with this value.
pub struct Certificates {
    /// The authority's certificate: a path.
    pub authority: String,
    /// For 127.0.0.1.
    pub server: Pair,
    pub client: Pair,
    _folder: Folder,
}

/// Paths of PEM files.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Certificates {
    /// All of them are valid.
    pub fn new() -> Self {
        Self::made(false)
    }

    /// The server's expired long ago.
    pub fn expired() -> Self {
        Self::made(true)
    }

    fn made(expired: bool) -> Self {
        let folder = Folder::new("certificates");
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let write = |name: &str, pem: String| {
            let path = folder.file(name);
            std::fs::write(&path, pem).expect("a file");
            path
        };
        let authority = write("authority.pem", issuer.pem());
        let pair = |name: &str, usage, expired: bool| {
            let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).expect("an address");
            params.extended_key_usages = usage;
            if expired {
                params.not_before = date_time_ymd(2001, 1, 1);
                params.not_after = date_time_ymd(2002, 1, 1);
            }
            let key = KeyPair::generate().expect("a key");
            let signed = params.signed_by(&key, &issuer).expect("a certificate");
            Pair {
                certificate: write(&format!("{name}.pem"), signed.pem()),
                key: write(&format!("{name}.key"), key.serialize_pem()),
            }
        };
        // etcd uses the server's certificate as a client, too, for its own gateway.
        let (server, client) =
            (ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth);
        Self {
            server: pair("server", vec![server, client.clone()], expired),
            client: pair("client", vec![client], false),
            authority,
            _folder: folder,
        }
    }
}
