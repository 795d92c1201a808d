use std::net::SocketAddr;

use axum::routing::get;
use rcgen::{CertificateParams, CertifiedIssuer, DnType, KeyPair};
use rustls::{ClientConfig, RootCertStore, client::Resumption, pki_types::ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::*;

const NAME: &str = "firebreak-injector.firebreak-system.svc";

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Chain and key in PEM; `label` tells leaves apart.
    fn leaf(&self, label: &str, last_year: i32) -> (Vec<u8>, Vec<u8>) {
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, label);
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(last_year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.0).unwrap();
        (leaf.pem().into_bytes(), key.serialize_pem().into_bytes())
    }

    fn trust(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        // A resumed session shows the certificate of the first one.
        config.resumption = Resumption::disabled();
        TlsConnector::from(Arc::new(config))
    }
}

/// The leaf that the server shows, and its answer to `GET /`.
async fn ask(connector: &TlsConnector, address: SocketAddr) -> io::Result<(CertificateDer<'static>, String)> {
    let stream = TcpStream::connect(address).await?;
    let mut stream = connector.connect(ServerName::try_from(NAME).unwrap(), stream).await?;
    let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok((leaf, answer))
}

#[tokio::test]
async fn a_new_certificate_is_shown_without_a_restart_and_a_bad_one_is_not() {
    let authority = Authority::new();
    let certificates = Certificates::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let router = Router::new().route("/", get(|| async { "hello" }));
    let server = tokio::spawn(serve(listener, certificates.server_config().unwrap(), router, stop.clone()));
    let connector = authority.trust();

    assert!(!*certificates.ready().borrow());
    assert!(ask(&connector, address).await.is_err(), "without a certificate nobody is served");

    let (chain, key) = authority.leaf("first", 2100);
    certificates.install(&chain, &key).unwrap();
    assert!(*certificates.ready().borrow());
    let (first, answer) = ask(&connector, address).await.unwrap();
    assert!(answer.ends_with("hello"), "{answer}");

    let (chain, _) = authority.leaf("second", 2100);
    assert!(matches!(certificates.install(&chain, &key), Err(TlsError::Pair(_))));
    assert_eq!(ask(&connector, address).await.unwrap().0, first, "the last good certificate stays");

    let (chain, key) = authority.leaf("third", 2100);
    certificates.install(&chain, &key).unwrap();
    assert_ne!(ask(&connector, address).await.unwrap().0, first);

    stop.cancel();
    server.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[test]
fn what_cannot_be_used_is_refused_with_what_is_wrong() {
    let authority = Authority::new();
    let certificates = Certificates::new();
    let (chain, key) = authority.leaf("good", 2100);
    let refused = |chain: &[u8], key: &[u8]| certificates.install(chain, key).unwrap_err().to_string();
    assert!(refused(b"", &key).contains("at least one CERTIFICATE"));
    assert!(refused(&chain, b"").contains("one PRIVATE KEY"));
    assert!(refused(&chain, &chain).contains("one PRIVATE KEY"));
    let (old, old_key) = authority.leaf("old", 2001);
    assert!(refused(&old, &old_key).contains("has expired"));
    assert!(!*certificates.ready().borrow());
    assert_eq!(certificates.install(&chain, &key).unwrap(), 4_102_444_800, "the end of the leaf's validity");
}
