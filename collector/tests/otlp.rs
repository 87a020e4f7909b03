//! What only the OTLP sink must do: the rules of its protocol, TLS, proxies, secrets, and what becomes of a request that
//! is refused, half-answered or too large.

#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code, though not all of it test functions to clippy"
)]

mod endpoint;
mod peer;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write, copy},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use endpoint::{Do, Endpoint, Got, header, text};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use peer::{Collector, Peer, close, data, open, wait};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};

fn collector(endpoint: &Endpoint, more: &str) -> Collector {
    let section = format!("[otlp]\nendpoint = \"{}\"\nretry_most_secs = 1\n{more}", endpoint.url());
    Collector::with(move |_| section.clone())
}

fn metric(collector: &Collector, name: &str, labels: &str) -> u64 {
    collector.metric(&format!("shimtap_sink_{name}{{sink=\"otlp\"{labels}}}"))
}

/// One container's stdout: `count` lines of four bytes each, all of them delivered or refused for good.
async fn deliver(collector: &Collector, count: u64) {
    let (mut peer, _) = Peer::greet(collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    peer.send(data(1, 0, &lines(count))).await;
    peer.send(close(1, count * 4)).await;
    settled(collector, count);
}

/// Waits until so many records are delivered, or refused for good.
fn settled(collector: &Collector, count: u64) {
    wait(&format!("{count} records are settled; {}", collector.stderr()), || {
        let page = collector.get("/metrics");
        let sum = |name: &str| -> u64 {
            let lines = page.lines().filter(|line| line.starts_with(name));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
        };
        (sum("shimtap_sink_records_total{") + sum("shimtap_sink_rejected_records_total{") >= count)
            .then_some(())
    });
}

fn lines(count: u64) -> Vec<u8> {
    (0..count).map(|i| format!("{i:03}\n")).collect::<String>().into_bytes()
}

fn bodies(got: &[Got]) -> Vec<String> {
    got.iter()
        .map(|got| match got.record.body.clone().and_then(|body| body.value) {
            Some(Value::StringValue(text)) => text,
            other => panic!("{other:?}"),
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_says_what_it_is() {
    for compression in ["gzip", "zstd", "none"] {
        let endpoint = Endpoint::start();
        let collector = collector(&endpoint, &format!("compression = \"{compression}\"\n"));
        deliver(&collector, 100).await;
        let asked = &endpoint.asked()[0];
        assert!(asked.head.starts_with("POST /v1/logs HTTP/1.1\r\n"), "{}", asked.head);
        assert_eq!(header(&asked.head, "content-type"), Some("application/x-protobuf"));
        assert_eq!(header(&asked.head, "content-encoding"), Some(compression).filter(|name| *name != "none"));
        let agent = format!("shimtap/{}", env!("CARGO_PKG_VERSION"));
        assert_eq!(header(&asked.head, "user-agent"), Some(agent.as_str()));
        assert_eq!(bodies(&endpoint.got()).len(), 100);
        let sent: u64 = endpoint
            .asked()
            .iter()
            .map(|asked| {
                header(&asked.head, "content-length").expect("a length").parse::<u64>().expect("whole")
            })
            .sum();
        assert_eq!(metric(&collector, "bytes_total", ""), sent, "what went over the wire");
        assert_eq!(metric(&collector, "requests_total", ",status=\"2xx\""), endpoint.asked().len() as u64);
        assert_eq!(endpoint.connections(), 1, "one connection serves them all");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn part_of_a_request_that_is_refused_is_counted_and_never_sent_again() {
    let endpoint = Endpoint::start();
    endpoint.script([Do::TakePart(30)]);
    let collector = collector(&endpoint, "batch_wait_ms = 1000\n");
    deliver(&collector, 100).await;
    assert_eq!(
        endpoint.asked().iter().map(|asked| endpoint::records(&asked.request).len()).sum::<usize>(),
        100
    );
    assert_eq!(metric(&collector, "rejected_records_total", ",reason=\"partial_success\""), 30);
    // Which 30 it was the answer does not say.
    assert_eq!(metric(&collector, "rejected_bytes_total", ",reason=\"partial_success\""), 0);
    assert_eq!(metric(&collector, "records_total", ""), 70);
    assert_eq!(metric(&collector, "stalled", ""), 0);
    assert!(collector.stderr().contains("some were too old"), "{}", collector.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_which_every_record_is_refused_is_counted_to_the_byte() {
    let endpoint = Endpoint::start();
    endpoint.script([Do::TakePart(1)]);
    let collector = collector(&endpoint, "");
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    peer.send(data(1, 0, b"too old\n")).await;
    peer.send(close(1, 8)).await;
    let refused = |what| metric(&collector, what, ",reason=\"partial_success\"");
    wait("its bytes are counted", || (refused("rejected_bytes_total") == 8).then_some(()));
    assert_eq!(refused("rejected_records_total"), 1);
    assert_eq!(metric(&collector, "records_total", ""), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_for_good_is_counted_and_passed_over() {
    let endpoint = Endpoint::start();
    let collector = collector(&endpoint, "");
    let cases = [
        (400, "client_error"),
        (401, "unauthorized"),
        (403, "unauthorized"),
        (404, "not_found"),
        (307, "redirect"),
        (500, "server_error"),
    ];
    let mut refused = 0;
    let mut reasons = BTreeSet::new();
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    for (i, (code, reason)) in (0..).zip(cases) {
        let elsewhere = format!("Content-Type: text/plain\r\nLocation: {}/other\r\n", endpoint.url());
        endpoint.script([Do::Answer(code, elsewhere, format!("because of {code}"))]);
        peer.open(open(i, &format!("c{code}"), 1)).await;
        peer.send(data(2 * i + 1, 0, b"refused\n")).await;
        peer.send(close(2 * i + 1, 8)).await;
        refused += 1;
        settled(&collector, refused as u64);
        reasons.insert(reason);
        assert_eq!(endpoint.asked().len(), refused, "{code} is asked once");
    }
    let total: u64 = reasons
        .iter()
        .map(|reason| metric(&collector, "rejected_records_total", &format!(",reason=\"{reason}\"")))
        .sum();
    assert_eq!(total, 6);
    assert_eq!(metric(&collector, "rejected_bytes_total", ",reason=\"unauthorized\""), 16);
    assert_eq!(metric(&collector, "requests_total", ",status=\"4xx\""), 4);
    assert_eq!((metric(&collector, "records_total", ""), metric(&collector, "stalled", "")), (0, 0));
    let said = collector.stderr();
    assert!(said.contains("the endpoint answered 400 Bad Request: because of 400"), "{said}");
    // And what follows is delivered.
    peer.open(open(9, "c", 1)).await;
    peer.send(data(19, 0, b"fine\n")).await;
    peer.send(close(19, 5)).await;
    settled(&collector, 7);
    assert_eq!(bodies(&endpoint.got()), ["fine"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_possible_now_is_tried_again() {
    let endpoint = Endpoint::start();
    let later = |code| Do::Answer(code, String::new(), "busy".into());
    endpoint.script([later(503), Do::CutRequest, later(408), Do::CutAnswer, later(502), later(504)]);
    let collector = collector(&endpoint, "batch_wait_ms = 1000\n");
    deliver(&collector, 100).await;
    assert_eq!(metric(&collector, "errors_total", ",error=\"unavailable\""), 4);
    assert_eq!(metric(&collector, "errors_total", ",error=\"connection_lost\""), 2);
    assert_eq!(metric(&collector, "retried_records_total", ",reason=\"unavailable\""), 400);
    assert_eq!(metric(&collector, "retried_bytes_total", ",reason=\"connection_lost\""), 800);
    assert_eq!(metric(&collector, "records_total", ""), 100, "each record counts once");
    assert_eq!(metric(&collector, "requests_total", ",status=\"none\""), 2);
    // Taken twice, because an answer was lost: the same records under the same ids.
    let got = endpoint.got();
    assert_eq!(got.len(), 200);
    assert_eq!(got[..100], got[100..]);
    let ids: BTreeSet<_> = got.iter().map(|got| got.id.clone()).collect();
    assert_eq!(ids.len(), 100);
    let said = collector.stderr();
    assert_eq!(said.matches("sink cannot deliver").count(), 1, "said once: {said}");
    assert_eq!(said.matches("sink delivers again").count(), 1, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_waited_for() {
    let endpoint = Endpoint::start();
    endpoint.script([Do::Answer(429, "Retry-After: 3\r\n".into(), String::new())]);
    // Of our own we would pause a second at most.
    let collector = collector(&endpoint, "");
    deliver(&collector, 10).await;
    let asked = endpoint.asked();
    let pause = asked[1].at.duration_since(asked[0].at);
    assert!(pause >= Duration::from_secs(3), "asked again after {pause:?}");
    assert_eq!(metric(&collector, "errors_total", ",error=\"throttled\""), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_hangs_is_given_up_and_asked_anew() {
    let endpoint = Endpoint::start();
    endpoint.script([Do::Hang]);
    let collector = collector(&endpoint, "timeout_secs = 1\n");
    deliver(&collector, 10).await;
    assert_eq!(metric(&collector, "errors_total", ",error=\"timeout\""), 1);
    assert_eq!(endpoint.connections(), 2, "not on the connection that hangs");
    assert_eq!(bodies(&endpoint.got()).len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_request_is_answered_slowly_the_next_one_is_gathered() {
    let endpoint = Endpoint::start();
    endpoint.script([Do::Wait]);
    let collector = collector(&endpoint, "batch_wait_ms = 10\n");
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    peer.send(data(1, 0, b"first\n")).await;
    collector.wait_metric("shimtap_sink_in_flight{sink=\"otlp\"}", 1);
    let rest = lines(1_000);
    for (at, piece) in (0..).zip(rest.chunks(400)) {
        peer.send(data(1, 6 + at * 400, piece)).await;
    }
    collector.wait_metric("shimtap_log_bytes_total{stream=\"stdout\"}", 4_006);
    endpoint.open_gate();
    peer.send(close(1, 4_006)).await;
    settled(&collector, 1_001);
    let sizes: Vec<_> =
        endpoint.asked().iter().map(|asked| endpoint::records(&asked.request).len()).collect();
    assert_eq!(sizes[0], 1);
    assert!(sizes.len() <= 4, "what waited went together: {sizes:?}");
    assert_eq!(sizes.iter().sum::<usize>(), 1_001);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_goes_in_pieces() {
    let endpoint = Endpoint::start();
    endpoint.otherwise(Do::Most(15));
    let collector = collector(&endpoint, "batch_wait_ms = 1000\n");
    deliver(&collector, 100).await;
    let expected: Vec<_> = (0..100).map(|i| format!("{i:03}")).collect();
    assert_eq!(bodies(&endpoint.got()), expected, "all of it, once, in order");
    assert!(metric(&collector, "splits_total", "") >= 7);
    assert_eq!(metric(&collector, "records_total", ""), 100);
    // A single record cannot be split.
    endpoint.otherwise(Do::Most(0));
    let (mut peer, _) = Peer::greet(&collector, 2).await;
    peer.open(open(5, "d", 1)).await;
    peer.send(data(11, 0, b"a\nb\n")).await;
    peer.send(close(11, 4)).await;
    settled(&collector, 102);
    assert_eq!(metric(&collector, "rejected_records_total", ",reason=\"too_large\""), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_keep_within_their_limits() {
    let endpoint = Endpoint::start();
    let collector = collector(&endpoint, "batch_bytes = 65536\nbatch_records = 150\n");
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    peer.send(data(1, 0, &lines(1_000))).await;
    peer.send(close(1, 4_000)).await;
    peer.open(open(1, "d", 1)).await;
    let long = [vec![b'x'; 9_999], vec![b'\n']].concat();
    for i in 0..20 {
        peer.send(data(3, i * 10_000, &long)).await;
    }
    peer.send(close(3, 200_000)).await;
    settled(&collector, 1_020);
    for asked in endpoint.asked() {
        use prost::Message;
        let (size, count) = (asked.request.encoded_len(), endpoint::records(&asked.request).len());
        assert!(size <= 65_536 && count <= 150, "{size} bytes, {count} records");
    }
    assert_eq!(endpoint.got().len(), 1_020);
    assert_eq!(bodies(&endpoint.got())[..1_000], (0..1_000).map(|i| format!("{i:03}")).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_and_no_such_name_are_told_apart() {
    let probe = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = probe.local_addr().expect("bound").port();
    drop(probe);
    for (url, error) in [
        (format!("http://127.0.0.1:{port}"), "connect"),
        // Never a name, says RFC 6761.
        ("http://collector.invalid:4318".to_owned(), "dns"),
    ] {
        let section = format!("[otlp]\nendpoint = \"{url}\"\nretry_most_secs = 1\n");
        let collector = Collector::with(move |_| section.clone());
        let (mut peer, _) = Peer::greet(&collector, 1).await;
        peer.open(open(0, "c", 1)).await;
        peer.send(data(1, 0, b"line\n")).await;
        collector.wait_metric(&format!("shimtap_sink_errors_total{{sink=\"otlp\",error=\"{error}\"}}"), 3);
        wait("the breaker opens", || (metric(&collector, "breaker_state", "") != 0).then_some(()));
        assert_eq!(metric(&collector, "stalled", ""), 1);
        assert_eq!(collector.stderr().matches("sink cannot deliver").count(), 1, "{}", collector.stderr());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_come_from_files_and_the_environment_and_are_never_shown() {
    let endpoint = Endpoint::start();
    let dir = tempfile::tempdir().expect("temporary directory");
    fs::write(dir.path().join("token"), "s3cret-of-file\n").expect("writable");
    // HOME is what every test's environment has.
    let home = std::env::var("HOME").expect("a home");
    let section = format!(
        "[otlp]\nendpoint = \"{}\"\n[otlp.headers]\nx-plain = \"s3cret-in-place\"\n\
         authorization = {{ prefix = \"Bearer \", file = \"{}/token\" }}\nx-env = {{ env = \"HOME\" }}\n",
        endpoint.url(),
        dir.path().display()
    );
    let config = dir.path().join("c.toml");
    let check = |section: &str| {
        fs::write(&config, section).expect("writable");
        let checked =
            Command::new(env!("CARGO_BIN_EXE_shimtap")).args(["check", "--config"]).arg(&config).output();
        checked.expect("shimtap runs")
    };
    // A collector would not start with it.
    let absent = check(&section.replace("/token", "/absent"));
    let said = String::from_utf8_lossy(&absent.stderr);
    assert!(!absent.status.success() && said.contains("otlp.headers.authorization"), "{said}");
    assert!(said.contains("/absent"), "{said}");
    let checked = check(&section);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let collector = Collector::with(move |_| section.clone());
    endpoint.script([Do::Answer(401, String::new(), "who?".into())]);
    deliver(&collector, 1).await;
    let head = &endpoint.asked()[0].head;
    assert_eq!(header(head, "authorization"), Some("Bearer s3cret-of-file"));
    assert_eq!(header(head, "x-plain"), Some("s3cret-in-place"));
    assert_eq!(header(head, "x-env"), Some(home.as_str()));
    let said = [checked.stdout, checked.stderr, collector.stderr().into_bytes()].concat();
    let said = String::from_utf8_lossy(&said).into_owned() + &collector.get("/metrics");
    assert!(!said.contains("s3cret"), "{said}");
}

/// An authority and what it signs.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("an authority") }
    }

    /// Certificate and key for `name`.
    fn sign(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.extended_key_usages = vec![usage];
        (params.signed_by(&key, &self.issuer).expect("signed"), key)
    }

    fn server(&self, name: &str, clients: Option<&Self>) -> ServerConfig {
        let (certificate, key) = self.sign(name, ExtendedKeyUsagePurpose::ServerAuth);
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().expect("versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.issuer.der().clone()).expect("an authority");
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        builder.with_single_cert(chain, key).expect("a certificate with its key")
    }

    /// Writes `ca.pem`, `cert.pem` and `key.pem` of a client.
    fn client(&self, dir: &Path) {
        let (certificate, key) = self.sign("node.example", ExtendedKeyUsagePurpose::ClientAuth);
        for (name, text) in
            [("ca.pem", self.issuer.pem()), ("cert.pem", certificate.pem()), ("key.pem", key.serialize_pem())]
        {
            fs::write(dir.join(name), text).expect("writable");
        }
    }
}

/// A collector whose endpoint speaks TLS; `tls` is the section's rest, in which DIR is where the certificates are.
fn over_tls(endpoint: &Endpoint, dir: &Path, tls: &str) -> Collector {
    over_tls_in(endpoint, dir, tls, &[])
}

/// The same with these variables in its environment.
fn over_tls_in(endpoint: &Endpoint, dir: &Path, tls: &str, variables: &[(&str, String)]) -> Collector {
    let section = format!(
        "[otlp]\nendpoint = \"https://localhost:{}\"\nretry_most_secs = 1\n[otlp.tls]\n{}",
        endpoint.port(),
        tls.replace("DIR", &dir.display().to_string())
    );
    Collector::in_environment(move |_| section.clone(), variables)
}

/// Demands that a collector says nothing to its endpoint, for want of trust.
async fn refuses(collector: &Collector, endpoint: &Endpoint) {
    let before = endpoint.got().len();
    let (mut peer, _) = Peer::greet(collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    peer.send(data(1, 0, b"secret\n")).await;
    collector.wait_metric("shimtap_sink_errors_total{sink=\"otlp\",error=\"tls\"}", 2);
    assert_eq!(endpoint.got().len(), before, "nothing is said to a stranger");
    assert!(collector.stderr().contains("invalid peer certificate"), "{}", collector.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_trusts_whom_it_is_told_to_and_nobody_else() {
    let (authority, other) = (Authority::new(), Authority::new());
    let dir = tempfile::tempdir().expect("temporary directory");
    authority.client(dir.path());
    let endpoint = Endpoint::start_tls(authority.server("localhost", None));
    deliver(&over_tls(&endpoint, dir.path(), "ca_file = \"DIR/ca.pem\"\n"), 10).await;
    assert_eq!(endpoint.got().len(), 10);

    let named = Endpoint::start_tls(authority.server("logs.example", None));
    let tls = "ca_file = \"DIR/ca.pem\"\nserver_name = \"logs.example\"\n";
    deliver(&over_tls(&named, dir.path(), tls), 10).await;

    // Another authority, another name.
    let strange = Endpoint::start_tls(other.server("localhost", None));
    for endpoint in [&strange, &named] {
        refuses(&over_tls(endpoint, dir.path(), "ca_file = \"DIR/ca.pem\"\n"), endpoint).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_trusts_the_systems_authorities_unless_told_otherwise() {
    let (authority, other) = (Authority::new(), Authority::new());
    let dir = tempfile::tempdir().expect("temporary directory");
    let endpoint = Endpoint::start_tls(authority.server("localhost", None));
    // Where the system's are is said by these, as to most programs.
    let told = |name: &str, authority: &Authority| {
        let path = dir.path().join(name);
        fs::write(&path, authority.issuer.pem()).expect("writable");
        [("SSL_CERT_FILE", path.display().to_string()), ("SSL_CERT_DIR", String::new())]
    };
    let (ours, others) = (told("ours.pem", &authority), told("others.pem", &other));
    deliver(&over_tls_in(&endpoint, dir.path(), "", &ours), 10).await;
    assert_eq!(endpoint.got().len(), 10);

    // Others, this machine's own, who do not know ours, and another's instead of the system's, who do.
    for (tls, variables) in [("", &others[..]), ("", &[]), ("ca_file = \"DIR/others.pem\"\n", &ours)] {
        refuses(&over_tls_in(&endpoint, dir.path(), tls, variables), &endpoint).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mutual_tls_shows_our_certificate() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let dir = tempfile::tempdir().expect("temporary directory");
    clients.client(dir.path());
    fs::write(dir.path().join("ca.pem"), authority.issuer.pem()).expect("writable");
    let endpoint = Endpoint::start_tls(authority.server("localhost", Some(&clients)));
    let identity = "ca_file = \"DIR/ca.pem\"\ncert_file = \"DIR/cert.pem\"\nkey_file = \"DIR/key.pem\"\n";
    deliver(&over_tls(&endpoint, dir.path(), identity), 10).await;
    assert_eq!(endpoint.got().len(), 10);
    // Without it we are nobody.
    let collector = over_tls(&endpoint, dir.path(), "ca_file = \"DIR/ca.pem\"\n");
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    peer.send(data(1, 0, b"line\n")).await;
    collector.wait_metric("shimtap_sink_stalled{sink=\"otlp\"}", 1);
    assert_eq!(endpoint.got().len(), 10);
}

#[test]
fn certificates_that_are_none_end_the_start() {
    let dir = tempfile::tempdir().expect("temporary directory");
    fs::write(dir.path().join("empty.pem"), "").expect("writable");
    let at = dir.path().display();
    for (tls, said) in [
        (
            format!("ca_file = \"{at}/empty.pem\"\n"),
            "empty.pem, named by otlp.tls.ca_file, holds no certificate",
        ),
        (format!("ca_file = \"{at}/absent.pem\"\n"), "absent.pem for otlp.tls.ca_file: No such file"),
    ] {
        let config = dir.path().join("c.toml");
        let text = format!(
            "[ingest]\nsocket = \"{at}/i.sock\"\n[control]\nsocket = \"{at}/c.sock\"\n[metrics]\nlisten = \"127.0.0.1:0\"\npage_age_ms = 0\n\
             [journal]\ndir = \"{at}/journal\"\n\
             [otlp]\nendpoint = \"https://localhost:1\"\n[otlp.tls]\n{tls}"
        );
        fs::write(&config, text).expect("writable");
        let ended =
            Command::new(env!("CARGO_BIN_EXE_shimtap")).args(["collector", "--config"]).arg(&config).output();
        let ended = ended.expect("shimtap runs");
        assert_eq!(ended.status.code(), Some(1));
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert!(stderr.contains(said), "{stderr}");
    }
}

/// A proxy that makes tunnels, and what it was asked.
fn proxy() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&asked);
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let seen = Arc::clone(&seen);
            thread::spawn(move || tunnel(near, &seen));
        }
    });
    (port, asked)
}

fn tunnel(mut near: TcpStream, seen: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(near.try_clone().expect("a socket"));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).expect("text") == 0 {
            return;
        }
    }
    let to = head.split(' ').nth(1).expect("where to").to_owned();
    seen.lock().expect("no panic under it").push(head);
    let mut far = TcpStream::connect(to).expect("the endpoint is there");
    near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").expect("taken");
    let (mut far_reader, mut near_writer) =
        (far.try_clone().expect("a socket"), near.try_clone().expect("a socket"));
    thread::spawn(move || copy(&mut far_reader, &mut near_writer));
    let _ = copy(&mut reader, &mut far);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_gone_through() {
    let endpoint = Endpoint::start();
    let (port, asked) = proxy();
    let proxied = format!("proxy = \"http://user:s3cret@127.0.0.1:{port}\"\n");
    let collector = collector(&endpoint, &proxied);
    deliver(&collector, 10).await;
    let heads = asked.lock().expect("no panic under it").clone();
    assert!(
        heads[0].starts_with(&format!("CONNECT 127.0.0.1:{} HTTP/1.1\r\n", endpoint.port())),
        "{heads:?}"
    );
    // base64 of user:s3cret
    assert_eq!(header(&heads[0], "proxy-authorization"), Some("Basic dXNlcjpzM2NyZXQ="));
    assert_eq!(endpoint.got().len(), 10);
    assert!(!collector.stderr().contains("s3cret"), "{}", collector.stderr());
}

/// What names no proxy, whatever the environment of the tests says.
fn no_proxies() -> Vec<(&'static str, String)> {
    let names = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];
    let small = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"];
    names.into_iter().chain(small).map(|name| (name, String::new())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environments_proxy_is_gone_through_where_nothing_says_otherwise() {
    let (authority, dir) = (Authority::new(), tempfile::tempdir().expect("temporary directory"));
    authority.client(dir.path());
    let (port, asked) = proxy();
    let url = format!("http://user:s3cret@127.0.0.1:{port}");
    // Each as it is set, whether the endpoint speaks TLS, what the section says, and whether the proxy is asked.
    let ways = [
        (&[("HTTP_PROXY", url.as_str())][..], false, "", true),
        (&[("HTTPS_PROXY", &url), ("NO_PROXY", "example.org")], true, "", true),
        (&[("HTTP_PROXY", &url), ("HTTPS_PROXY", &url), ("NO_PROXY", "localhost")], true, "", false),
        (&[("HTTP_PROXY", &url)], false, "proxy = \"none\"\n", false),
        (&[("HTTP_PROXY", "socks5://127.0.0.1:9"), ("NO_PROXY", "*")], false, "", false),
    ];
    for (set, is_tls, more, is_asked) in ways {
        let told = format!("{set:?}, TLS: {is_tls}, {more:?}");
        let (endpoint, scheme) = match is_tls {
            true => (Endpoint::start_tls(authority.server("localhost", None)), "https"),
            false => (Endpoint::start(), "http"),
        };
        let section = format!(
            "[otlp]\nendpoint = \"{scheme}://localhost:{}\"\nretry_most_secs = 1\n{more}[otlp.tls]\nca_file = \"{}/ca.pem\"\n",
            endpoint.port(),
            dir.path().display()
        );
        let variables =
            [no_proxies(), set.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()];
        let collector = Collector::in_environment(|_| section.clone(), &variables.concat());
        deliver(&collector, 10).await;
        assert_eq!(endpoint.got().len(), 10, "{told}");
        let heads = std::mem::take(&mut *asked.lock().expect("no panic under it"));
        assert_eq!(!heads.is_empty(), is_asked, "{told}: {heads:?}");
        for head in &heads {
            assert!(
                head.starts_with(&format!("CONNECT localhost:{} HTTP/1.1\r\n", endpoint.port())),
                "{head}"
            );
            assert_eq!(header(head, "proxy-authorization"), Some("Basic dXNlcjpzM2NyZXQ="), "{told}");
        }
        assert!(!collector.stderr().contains("s3cret"), "{}", collector.stderr());
    }
}

#[test]
fn a_proxy_of_the_environment_that_cannot_be_used_ends_the_start() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = dir.path().join("c.toml");
    let at = dir.path().display();
    let text = format!(
        "[ingest]\nsocket = \"{at}/i.sock\"\n[control]\nsocket = \"{at}/c.sock\"\n[metrics]\nlisten = \"127.0.0.1:0\"\n\
         [journal]\ndir = \"{at}/journal\"\n[otlp]\nendpoint = \"http://127.0.0.1:1\"\n"
    );
    fs::write(&config, text).expect("writable");
    for (url, why) in [
        ("socks5://user:s3cret@127.0.0.1:1080", "http_proxy names a proxy by a URL of the scheme socks5"),
        // Never straight because it was not understood.
        ("127.0.0.1 s3cret:3128", "http_proxy holds no URL of a proxy"),
    ] {
        // `shimtap check` says so before a start does.
        for command in ["check", "collector"] {
            let mut shimtap = Command::new(env!("CARGO_BIN_EXE_shimtap"));
            for (name, _) in no_proxies() {
                shimtap.env_remove(name);
            }
            let ended = shimtap.args([command, "--config"]).arg(&config).env("http_proxy", url).output();
            let ended = ended.expect("shimtap runs");
            let stderr = String::from_utf8_lossy(&ended.stderr);
            assert_eq!(ended.status.code(), Some(1), "{command}: {stderr}");
            assert!(stderr.contains(why) && !stderr.contains("s3cret"), "{command}: {stderr}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gaps_are_records_that_an_alert_can_find() {
    let endpoint = Endpoint::start();
    let collector = collector(&endpoint, "");
    let (mut peer, _) = Peer::greet(&collector, 1).await;
    peer.open(open(0, "c", 1)).await;
    peer.send(data(1, 0, b"a\n")).await;
    peer.send(peer::gap(1, 2, 10)).await;
    peer.send(data(1, 10, b"\xff\xfe\nend")).await;
    peer.send(close(1, 16)).await;
    settled(&collector, 4);
    let got = endpoint.got();
    assert_eq!(got.len(), 4);
    let gap = &got[1].record;
    assert_eq!((gap.severity_number, gap.severity_text.as_str()), (13, "WARN"));
    assert_eq!(text(&gap.attributes, "shimtap.gap.reason").as_deref(), Some("overflow"));
    assert_eq!(endpoint::attribute(&gap.attributes, "shimtap.gap.bytes"), Some(Value::IntValue(8)));
    let body = |got: &Got| got.record.body.clone().and_then(|body| body.value);
    assert_eq!(body(&got[2]), Some(Value::BytesValue(b"\xff\xfe".to_vec())));
    assert_eq!((got[2].record.severity_number, got[2].record.severity_text.as_str()), (0, ""));
    assert_eq!(body(&got[3]), Some(Value::StringValue("end".into())));
    let flag = endpoint::attribute(&got[3].record.attributes, "shimtap.unterminated");
    assert_eq!(flag, Some(Value::BoolValue(true)));
}
