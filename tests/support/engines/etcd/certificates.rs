//! Certificates, made on the spot.

use super::super::process::Folder;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use std::fs::write;

/// An authority, and what it has signed for a server and a client named `localhost`. The files
/// (`authority.pem`, `server.pem`, `server.key`, `client.pem`, `client.key`) go with this value.
pub struct Certificates(Folder);

impl Certificates {
    /// `expired`: the server's has.
    pub fn new(name: &str, expired: bool) -> Self {
        let folder = Folder::new(name);
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        write(folder.file("authority.pem"), issuer.pem()).expect("a file");
        // etcd shows the server's as a client, too: to itself.
        let server = ExtendedKeyUsagePurpose::ServerAuth;
        let client = ExtendedKeyUsagePurpose::ClientAuth;
        for (name, usages, expired) in
            [("server", vec![server, client.clone()], expired), ("client", vec![client], false)]
        {
            let mut params = CertificateParams::new(vec!["localhost".into()]).expect("a name");
            params.extended_key_usages = usages;
            if expired {
                params.not_before = date_time_ymd(2001, 1, 1);
                params.not_after = date_time_ymd(2002, 1, 1);
            }
            let key = KeyPair::generate().expect("a key");
            let signed = params.signed_by(&key, &issuer).expect("a certificate");
            write(folder.file(&format!("{name}.pem")), signed.pem()).expect("a file");
            write(folder.file(&format!("{name}.key")), key.serialize_pem()).expect("a file");
        }
        Self(folder)
    }

    /// The path of one of them.
    pub fn file(&self, name: &str) -> String {
        self.0.file(name)
    }
}
