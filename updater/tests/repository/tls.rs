//! Repositories over HTTPS, from servers with certificates of every kind.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use updater::authorities::Authorities;
use updater::config::{Config, Repository};
use updater::fetch::{Fetcher, chain};

use super::gateway::client;
use updater::ports::{Fetch, FetchError, Stopper, Verdict};

use crate::metadata::{Node, told};
use crate::publisher::{Publisher, release};
use crate::web::{Server, blob, head, patience, runtime, sound, status};

/// The name under which every server here is asked.
pub(crate) const HERE: &str = "127.0.0.1";

/// Somebody who vouches for servers.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

impl Authority {
    pub(crate) fn called(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// As an operator names it: in the settings.
    pub(crate) fn trusted(&self) -> Authorities {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("updater.toml");
        let pem = self.certificate.pem();
        fs::write(&file, format!("ca_certificates = \"\"\"\n{pem}\"\"\"\n")).unwrap();
        let (config, unknown) = Config::read(&[file]).unwrap();
        assert_eq!(unknown, []);
        config.ca_certificates
    }

    pub(crate) fn vouches(&self, params: &CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity { certificate, key }
    }
}

/// What a server shows.
pub(crate) struct Identity {
    pub(crate) certificate: Certificate,
    pub(crate) key: KeyPair,
}

pub(crate) fn named(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).unwrap()
}

/// A server that speaks TLS, and lives as long as the test.
pub(crate) struct Front {
    pub(crate) address: String,
    /// How often somebody came.
    visits: Arc<AtomicUsize>,
}

impl Identity {
    /// Returns the settings of a server that shows it, and speaks these
    /// protocols.
    pub(crate) fn config(&self, protocols: &[&str]) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.der().clone()], key)
            .unwrap();
        let protocols = protocols.iter().map(|name| name.as_bytes().to_vec());
        config.alpn_protocols = protocols.collect();
        Arc::new(config)
    }
}

/// Starts a server with TLS that has its answers from `behind`, a plain one.
pub(crate) fn front(identity: &Identity, behind: &Server) -> Front {
    let config = identity.config(&[]);
    let behind = behind.address().trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind((HERE, 0)).unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let visits = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&visits);
    thread::spawn(move || {
        for stream in listener.incoming() {
            seen.fetch_add(1, Ordering::SeqCst);
            let (config, behind) = (Arc::clone(&config), behind.clone());
            // A client that does not like what it is shown is no error here.
            thread::spawn(move || pass_on(stream?, config, &behind));
        }
    });
    Front { address, visits }
}

/// Serves one request.
fn pass_on(stream: TcpStream, config: Arc<ServerConfig>, behind: &str) -> io::Result<()> {
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut tls = StreamOwned::new(connection, stream);
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        tls.read_exact(&mut byte)?;
        head.extend_from_slice(&byte);
    }
    let mut plain = TcpStream::connect(behind)?;
    plain.write_all(&head)?;
    io::copy(&mut plain, &mut tls)?;
    tls.conn.send_close_notify();
    tls.flush()
}

/// Serves the files of a folder, and every blob as its digest's first byte, a
/// thousand times.
fn files(folder: &Path) -> Server {
    let folder = folder.to_owned();
    Server::start(move |request, stream| {
        if request.path.starts_with("/blobs/") {
            return sound(request, stream, &[0xb1; 1000]);
        }
        match fs::read(folder.join(request.path.trim_start_matches('/'))) {
            Ok(content) => sound(request, stream, &content),
            Err(_) => status(stream, "404 Not Found"),
        }
    })
}

/// Reads a release and a blob from behind `identity`. Returns the words of why
/// not; both must say the same of the certificate.
fn read(identity: &Identity, authorities: &Authorities) -> Result<(), [String; 2]> {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Publisher::of(folder.path(), &["1"]);
    publisher.publish();
    let server = files(folder.path());
    let front = front(identity, &server);
    let repository = Repository::parse(&front.address).unwrap();

    let mut node = Node::trusting(&publisher);
    node.authorities = authorities.clone();
    node.settings.repositories = vec![repository.clone()];
    let metadata = node.release(None);

    let client = client(authorities);
    let blob = blob(1000);
    let mut taken = Vec::new();
    let fetched = Fetcher::new([repository], client, patience(), runtime()).fetch(
        &blob,
        0,
        &Stopper::new().1,
        &mut |bytes| {
            taken.extend_from_slice(bytes);
            Verdict::Taken
        },
    );
    let Err(error) = fetched else {
        assert_eq!(metadata.unwrap(), release("1"));
        assert_eq!(taken, [0xb1; 1000]);
        return Ok(());
    };
    assert!(
        matches!(error, FetchError::RepositoryUnreachable { .. }),
        "{error:?}"
    );
    assert!(taken.is_empty());
    // Not a byte of the request got through, and neither asked twice: no
    // certificate gets better within a minute.
    assert_eq!(server.requests(), []);
    assert_eq!(front.visits.load(Ordering::SeqCst), 2);
    let (name, words) = told(metadata);
    assert_eq!(name, "unreachable");
    Err([words, chain(&error)])
}

fn assert_refused(identity: &Identity, authorities: &Authorities, why: &str) {
    for words in read(identity, authorities).unwrap_err() {
        assert!(words.contains("certificate"), "{words}");
        assert!(words.contains(why), "{words}");
    }
}

#[test]
fn an_authority_of_ones_own_is_believed_once_the_settings_name_it() {
    let authority = Authority::called("Ours");
    let server = authority.vouches(&named(HERE));
    read(&server, &authority.trusted()).unwrap();
    assert_refused(&server, &Authorities::default(), "UnknownIssuer");
    assert_refused(
        &server,
        &Authority::called("Theirs").trusted(),
        "UnknownIssuer",
    );
}

#[test]
fn an_expired_certificate_is_refused_and_told() {
    let authority = Authority::called("Ours");
    let mut params = named(HERE);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 3, 1);
    assert_refused(&authority.vouches(&params), &authority.trusted(), "expired");
}

#[test]
fn a_certificate_from_the_future_is_refused_and_told() {
    let authority = Authority::called("Ours");
    let mut params = named(HERE);
    params.not_before = rcgen::date_time_ymd(2999, 1, 1);
    let server = authority.vouches(&params);
    assert_refused(&server, &authority.trusted(), "not valid yet");
}

#[test]
fn a_certificate_for_another_name_is_refused_and_told() {
    let authority = Authority::called("Ours");
    let server = authority.vouches(&named("elsewhere.example"));
    assert_refused(&server, &authority.trusted(), "not valid for name");
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused_and_told() {
    let key = KeyPair::generate().unwrap();
    let certificate = named(HERE).self_signed(&key).unwrap();
    let server = Identity { certificate, key };
    assert_refused(
        &server,
        &Authority::called("Ours").trusted(),
        "UnknownIssuer",
    );
}

#[test]
fn nobody_is_led_from_a_server_with_tls_to_one_without() {
    let authority = Authority::called("Ours");
    let identity = authority.vouches(&named(HERE));
    let plain = Server::start(|request, stream| sound(request, stream, &[0xb1; 1000]));
    let elsewhere = format!("Location: {}/", plain.address());
    let server =
        Server::start(move |_, stream| head(stream, "302 Found", std::slice::from_ref(&elsewhere)));
    let front = front(&identity, &server);
    let client = client(&authority.trusted());
    let repository = Repository::parse(&front.address).unwrap();
    let error = Fetcher::new([repository], client, patience(), runtime())
        .fetch(&blob(1000), 0, &Stopper::new().1, &mut |_| Verdict::Taken)
        .unwrap_err();
    let told = chain(&error);
    assert!(
        told.contains("redirected from https to a server without TLS"),
        "{told}"
    );
    assert_eq!(plain.requests(), []);
    assert_eq!(server.requests().len(), 1);
}
