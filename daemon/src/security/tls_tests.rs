//! Configurations out of every kind of key material, proven by handshakes in memory.

use super::*;
use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::{ClientConnection, Connection, ServerConnection};
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

/// One key of tests, bare and as `openssl pkcs8 -topk8 -v2 aes-256-cbc` encrypts it with the password hunter2.
const PLAIN_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg0in4l4oLWKlpHj/F\n\
gG1TECLeYsT1edUY1YrgG7XBJSmhRANCAARNblRB1+nOGGjmY1gNXCNpbIv8LFEM\n\
5a/L0XoP5SMTBQ0L0AMQZJUdJ7SngSBvbOVlVBkvO/SZA6VNuIzyaLuU\n\
-----END PRIVATE KEY-----";
const ENCRYPTED_KEY: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----\n\
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAiHSLEt2kjETgICCAAw\n\
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEAWhG+o/PWu06mmYrvUclIoEgZDg\n\
/0nNXM9BzmjIUolU/PUP3C8xRgnJ+QEZqmkqD7Td0eoPoq4pk1gvVPE4rd26+q2a\n\
vdH9Kls6RFMTaMo3J/b+sgVmhDknezm0GhQQtjOGOBWCIDjMhPPS+yS3azihQPhh\n\
UaYnFfOTCJhxqg7x2GcAvTelFMEDBs+swS7wFFrauivr0gIL2BmQPORLM8XiU/E=\n\
-----END ENCRYPTED PRIVATE KEY-----";

type Authority = CertifiedIssuer<'static, KeyPair>;

/// An authority of its own.
fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Certificate and key as PEM, for these names.
fn signed(by: &Authority, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, by).unwrap().pem(), key.serialize_pem())
}

fn inline((chain, key): (String, String), trusted: &Authority) -> TlsSettings {
    TlsSettings {
        key: Some(KeySource::Inline { key: Secret::new(key), chain }),
        trust: TrustSource::Inline(trusted.pem()),
        ..TlsSettings::default()
    }
}

fn trusting(authority: &Authority) -> TlsSettings {
    TlsSettings { trust: TrustSource::Inline(authority.pem()), ..TlsSettings::default() }
}

fn server(settings: &TlsSettings, clients: ClientCertificates) -> Arc<rustls::ServerConfig> {
    Arc::new(server_config(settings, clients).unwrap())
}

/// Carries bytes to and fro until both are content; the first error of either side.
fn handshake(
    client: &TlsSettings,
    server: Arc<rustls::ServerConfig>,
    host: &str,
) -> Result<rustls::ProtocolVersion, rustls::Error> {
    let name = tls::server_name(host).unwrap();
    let mut client = Connection::from(ClientConnection::new(Arc::new(client_config(client).unwrap()), name)?);
    let mut server = Connection::from(ServerConnection::new(server)?);
    for _ in 0..16 {
        for (from, to) in [(true, false), (false, true)] {
            let _ = to;
            let (one, other) = if from { (&mut client, &mut server) } else { (&mut server, &mut client) };
            let mut bytes = Vec::new();
            while one.wants_write() {
                one.write_tls(&mut bytes).unwrap();
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                other.read_tls(&mut rest).unwrap();
                other.process_new_packets()?;
            }
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(client.protocol_version().unwrap())
}

#[test]
fn a_handshake_needs_an_authority_a_name_and_a_time_that_fit() {
    let (ours, others) = (authority("ours"), authority("others"));
    let good = server(
        &inline(signed(&ours, &["broker-1", "10.0.0.1"], |_| ()), &ours),
        ClientCertificates::NotAsked,
    );
    assert_eq!(handshake(&trusting(&ours), good.clone(), "broker-1"), Ok(rustls::ProtocolVersion::TLSv1_3));
    assert!(handshake(&trusting(&ours), good.clone(), "10.0.0.1").is_ok());
    assert!(
        handshake(&trusting(&ours), good.clone(), "broker-1.").is_ok(),
        "a dot ends a name for the resolver"
    );
    let text = |client: &TlsSettings, server: Arc<rustls::ServerConfig>, host| {
        SecurityError::Tls { error: handshake(client, server, host).unwrap_err() }.to_string()
    };
    assert!(text(&trusting(&others), good.clone(), "broker-1").contains("ssl.truststore.location"));
    let wrong_name = text(&trusting(&ours), good.clone(), "broker-2");
    assert!(wrong_name.contains("broker-2") && wrong_name.contains("broker-1"), "{wrong_name}");
    let any_host = TlsSettings { any_host_name: true, ..trusting(&ours) };
    assert!(handshake(&any_host, good.clone(), "broker-2").is_ok());
    let stranger = TlsSettings { any_host_name: true, ..trusting(&others) };
    assert!(
        text(&stranger, good, "broker-2").contains("ssl.truststore.location"),
        "names alone are given up"
    );
    let expired = signed(&ours, &["broker-1"], |params| params.not_after = rcgen::date_time_ymd(2001, 1, 1));
    let expired = server(&inline(expired, &ours), ClientCertificates::NotAsked);
    assert!(text(&trusting(&ours), expired, "broker-1").contains("expired"));
}

#[test]
fn a_listener_that_demands_a_certificate_gets_ours_or_says_so() {
    let (ours, others) = (authority("ours"), authority("others"));
    let settings = inline(signed(&ours, &["broker-1"], |_| ()), &ours);
    let demanding = server(&settings, ClientCertificates::Required);
    let client = inline(signed(&ours, &["twin"], |_| ()), &ours);
    assert!(handshake(&client, demanding.clone(), "broker-1").is_ok());
    assert!(handshake(&trusting(&ours), demanding.clone(), "broker-1").is_err());
    assert!(
        handshake(&trusting(&ours), server(&settings, ClientCertificates::Requested), "broker-1").is_ok()
    );
    let stranger = inline(signed(&others, &["twin"], |_| ()), &ours);
    assert!(handshake(&stranger, demanding, "broker-1").is_err());
}

#[test]
fn versions_that_are_not_enabled_are_not_spoken() {
    let ours = authority("ours");
    let settings = inline(signed(&ours, &["broker-1"], |_| ()), &ours);
    let only = |v1_2, v1_3| TlsSettings { versions: TlsVersions { v1_2, v1_3 }, ..settings.clone() };
    let old = server(&only(true, false), ClientCertificates::NotAsked);
    assert_eq!(handshake(&trusting(&ours), old.clone(), "broker-1"), Ok(rustls::ProtocolVersion::TLSv1_2));
    let new = TlsSettings { versions: TlsVersions { v1_2: false, v1_3: true }, ..trusting(&ours) };
    let text = SecurityError::Tls { error: handshake(&new, old, "broker-1").unwrap_err() }.to_string();
    assert!(text.contains("ssl.enabled.protocols"), "{text}");
}

/// Writes what files there may be, and gives back settings that read one of them.
fn file(directory: &TempDir, name: &str, bytes: &[u8], password: &str) -> (PathBuf, TlsSettings) {
    let path = directory.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let settings = TlsSettings {
        key: Some(KeySource::File {
            path: path.clone(),
            store_type: StoreType::ByContent,
            password: password.into(),
        }),
        trust: TrustSource::File {
            path: path.clone(),
            store_type: StoreType::ByContent,
            password: password.into(),
        },
        ..TlsSettings::default()
    };
    (path, settings)
}

#[test]
fn pem_files_encrypted_keys_and_pkcs12_all_lead_to_the_same_handshake() {
    let ours = authority("ours");
    let key = format!("{PLAIN_KEY}\n");
    let mut params = CertificateParams::new(vec!["broker-1".to_owned()]).unwrap();
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let chain = params.signed_by(&KeyPair::from_pem(&key).unwrap(), &ours).unwrap().pem();
    let directory = tempfile::tempdir().unwrap();
    let works = |settings: &TlsSettings| {
        let server = server(settings, ClientCertificates::Required);
        let client = TlsSettings { trust: TrustSource::Inline(ours.pem()), ..settings.clone() };
        handshake(&client, server, "broker-1").unwrap();
    };
    let (_, plain) = file(&directory, "plain.pem", format!("{key}{chain}{}", ours.pem()).as_bytes(), "");
    works(&plain);
    let text = format!("{ENCRYPTED_KEY}\n{chain}{}", ours.pem());
    let (_, mut locked) = file(&directory, "locked.pem", text.as_bytes(), "");
    let refused = client_config(&locked).unwrap_err().to_string();
    assert!(refused.contains("locked.pem") && refused.contains("ssl.key.password"), "{refused}");
    locked.key_password = "wrong".into();
    assert!(client_config(&locked).unwrap_err().to_string().contains("does not open"));
    locked.key_password = "hunter2".into();
    works(&locked);
    let pem_to_der = |pem: &str| pkcs8::der::Document::from_pem(pem).unwrap().1.as_bytes().to_vec();
    let mut store = KeyStore::new();
    let certificates =
        [chain.as_str(), &ours.pem()].map(|pem| Certificate::from_der(&pem_to_der(pem)).unwrap());
    let private = PrivateKey::from_der(&pem_to_der(&key)).unwrap();
    let pair = PrivateKeyChain::new(vec![1, 2, 3], private, certificates);
    store.add_entry("twin", KeyStoreEntry::PrivateKeyChain(pair));
    let (path, twelve) = file(&directory, "store.jks", &store.writer("hunter2").write().unwrap(), "hunter2");
    works(&twelve);
    let (_, locked_out) = file(&directory, "again.p12", &std::fs::read(path).unwrap(), "wrong");
    let refused = client_config(&locked_out).unwrap_err().to_string();
    assert!(refused.contains("password is wrong") && !refused.contains("hunter2"), "{refused}");
}

#[test]
fn key_material_that_cannot_be_used_is_refused_with_its_cure() {
    let ours = authority("ours");
    let (chain, key) = signed(&ours, &["broker-1"], |_| ());
    let directory = tempfile::tempdir().unwrap();
    let refuse = |name: &str, bytes: &[u8]| {
        let (_, mut settings) = file(&directory, name, bytes, "");
        settings.trust = TrustSource::Inline(ours.pem());
        client_config(&settings).unwrap_err().to_string()
    };
    let jks = refuse("old.jks", &[0xFE, 0xED, 0xFE, 0xED, 0, 0, 0, 2]);
    let command = "keytool -importkeystore -srckeystore";
    assert!(jks.contains(command) && jks.contains("old.jks.p12"), "{jks}");
    assert!(refuse("empty.pem", b"").contains("empty"));
    assert!(refuse("chain.pem", chain.as_bytes()).contains("no private key"));
    assert!(refuse("key.pem", key.as_bytes()).contains("no certificate"));
    assert!(refuse("two.pem", format!("{key}{key}{chain}").as_bytes()).contains("2 private keys"));
    let (_, other) = signed(&ours, &["broker-1"], |_| ());
    assert!(refuse("mixed.pem", format!("{other}{chain}").as_bytes()).contains("its key is not usable"));
    let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n\
               -----END RSA PRIVATE KEY-----\n";
    assert!(refuse("legacy.pem", old.as_bytes()).contains("openssl pkcs8 -topk8"));
    let (_, mut gone) = file(&directory, "gone.pem", b"", "");
    gone.key = None;
    std::fs::remove_file(directory.path().join("gone.pem")).unwrap();
    assert!(client_config(&gone).unwrap_err().to_string().contains("ssl.truststore.location: cannot read"));
}
