//! Every fault at once, each where it is; and defaults that need no file.

use std::{path::Path, time::Duration};

use super::{Config, ConfigFault, Proxy, Scope, Sink};
use crate::sinks::Compression;

fn parse(text: &str) -> Result<Config, super::Faults> {
    Config::parse(Path::new("c.toml"), text)
}

#[test]
fn nothing_is_a_configuration() {
    let config = parse("").expect("defaults");
    assert_eq!(config.ingest.socket, Path::new("/run/shimtap/collector.sock"));
    assert_eq!(config.control.socket, Path::new("/run/shimtap/control.sock"));
    assert_eq!(config.metrics.listen.to_string(), "127.0.0.1:9851");
    assert_eq!(config.ingest.hello, Duration::from_secs(5));
    assert_eq!(config.ingest.message_bytes, 1 << 20);
    assert_eq!(config.sinks, []);
}

#[test]
fn a_file_says_what_it_says() {
    let config = parse(concat!(
        "[metrics]\nlisten = \"[::]:1\"\ncadvisor_scope = \"vm\"\n",
        "[file]\npath = \"/var/log/s.json\"\nrotate_bytes = 0x1_0000\nkeep = 0\n",
        "[stats]\ninterval_secs = 3\n",
    ))
    .expect("valid");
    assert_eq!(config.metrics.listen.to_string(), "[::]:1");
    assert_eq!(config.metrics.cadvisor_scope, Scope::Vm);
    let [Sink::File(file)] = &*config.sinks else { panic!("{:?}", config.sinks) };
    assert_eq!((file.rotate_bytes, file.keep), (65_536, 0));
    assert_eq!(config.stats.interval, Duration::from_secs(3));
}

#[test]
fn every_fault_is_reported_with_its_line_and_key() {
    let text = concat!(
        "[ingest]\n",                 // 1
        "socket = \"relative\"\n",    // 2
        "hello_secs = 0\n",           // 3
        "connections = \"many\"\n",   // 4
        "colour = 1\n",               // 5
        "[metrics]\n",                // 6
        "listen = \"localhost\"\n",   // 7
        "cadvisor_scope = \"pod\"\n", // 8
        "[file]\n",                   // 9
        "keep = -1\n",                // 10
        "[sinks]\n",                  // 11
        "x = 1\n",
    );
    let faults = parse(text).expect_err("faulty");
    let seen: Vec<_> = faults.iter().map(|f| (f.line, f.key.as_str())).collect();
    assert_eq!(
        seen,
        [
            (Some(2), "ingest.socket"),
            (Some(3), "ingest.hello_secs"),
            (Some(4), "ingest.connections"),
            (Some(5), "ingest.colour"),
            (Some(7), "metrics.listen"),
            (Some(8), "metrics.cadvisor_scope"),
            (Some(10), "file.keep"),
            (Some(11), "sinks"),
            (None, "file.path"),
        ]
    );
    let shown = faults.to_string();
    assert!(shown.starts_with("c.toml:2: ingest.socket: must be an absolute path\n"), "{shown}");
}

#[test]
fn broken_toml_is_reported_beside_other_faults() {
    let faults = parse("[metrics]\nlisten = \nfoo = 1\n").expect_err("faulty");
    assert!(faults.iter().any(|f| f.line == Some(2) && f.key.is_empty()), "{faults}");
    assert!(faults.iter().any(|f| f.line == Some(3) && f.key == "metrics.foo"), "{faults}");
}

#[test]
fn two_sockets_cannot_share_a_path() {
    let faults = parse("[control]\nsocket = \"/run/shimtap/collector.sock\"\n").expect_err("faulty");
    assert_eq!(faults.iter().map(|f| f.key.as_str()).collect::<Vec<_>>(), ["control.socket"]);
}

#[test]
fn the_journal_does_not_lie_among_spool_files() {
    for dir in ["/run/shimtap/spool", "/var/lib/shimtap/spool"] {
        let faults = parse(&format!("[journal]\ndir = \"{dir}\"\n")).expect_err("faulty");
        assert_eq!(faults.iter().map(|f| f.key.as_str()).collect::<Vec<_>>(), ["journal.dir"]);
    }
    let faults = parse("[spool]\ndisk_dir = \"/a\"\nmemory_dir = \"/a\"\n").expect_err("faulty");
    assert_eq!(faults.iter().map(|f| f.key.as_str()).collect::<Vec<_>>(), ["spool.memory_dir"]);
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let absent = Path::new("/nonexistent/collector.toml");
    assert!(
        matches!(Config::load(Some(absent)), Err(ConfigFault::Unreadable { path, .. }) if path == absent)
    );
}

#[test]
fn rules_keep_their_order_and_say_where_they_stand() {
    let config = parse(concat!(
        "[[rule]]\nname = \"quiet\"\nnamespace = [\"kube-*\", \"dev\"]\ncollect = false\n",
        "[[rule]]\nredact = [\"email\", '\\d{3}-\\d{2}']\nlines_per_sec = 100\nannotations = { team = \"a*\" }\n",
    ));
    let config = config.expect("valid");
    assert_eq!(config.rules.len(), 2);
    let shown = format!("{:?}", config.rules);
    assert!(shown.contains("name: \"quiet\", line: 1") && shown.contains("name: \"2\", line: 5"), "{shown}");
    assert_eq!(parse("").expect("defaults").sections_unlike(&config), Vec::<&str>::new());
}

#[test]
fn every_fault_of_a_rule_is_reported() {
    let text = concat!(
        "[[rule]]\n",                    // 1
        "pod = 3\n",                     // 2
        "stream = \"both\"\n",           // 3
        "redact = [\"emial\", \"(\"]\n", // 4
        "burst_lines = 5\n",             // 5
        "colour = 1\n",                  // 6
        "[[rule]]\n",                    // 7
        "namespace = \"\"\n",            // 8
        "collect = \"no\"\n",            // 9
        "annotations = { a = 1 }\n",     // 10
    );
    let faults = parse(text).expect_err("faulty");
    let seen: Vec<_> = faults.iter().map(|f| (f.line.unwrap_or(0), f.key.as_str())).collect();
    assert_eq!(
        seen,
        [
            (1, "rule"),
            (2, "rule.pod"),
            (3, "rule.stream"),
            (4, "rule.redact"),
            (4, "rule.redact"),
            (5, "rule.burst_lines"),
            (6, "rule.colour"),
            (7, "rule"),
            (8, "rule.namespace"),
            (9, "rule.collect"),
            (10, "rule.annotations.a"),
        ],
        "{faults}"
    );
    let said = parse("rule = 1\n").expect_err("no list").to_string();
    assert!(said.contains("[[rule]]"), "{said}");
}

#[test]
fn a_rule_names_sinks_that_are_there_and_none_by_annotations() {
    let file = "[file]\npath = \"/var/log/x\"\n";
    let config = parse(&format!("[[rule]]\nsinks = \"file\"\n[[rule]]\nsinks = []\n{file}")).expect("valid");
    assert!(config.rules.route());
    let text = format!(
        "[[rule]]\nsinks = [\"file\", \"otlp\"]\n[[rule]]\nsinks = \"file\"\nannotations = {{ a = \"b\" }}\n{file}"
    );
    let faults = parse(&text).expect_err("faulty");
    let seen: Vec<_> = faults.iter().map(|f| (f.line.unwrap_or(0), f.key.as_str())).collect();
    assert_eq!(seen, [(2, "rule.sinks"), (3, "rule.sinks")], "{faults}");
}

#[test]
fn a_rule_keeps_on_a_disk_what_there_is_a_journal_for() {
    let rule = "[[rule]]\nstore = \"disk\"\n";
    let faults = parse(rule).expect_err("faulty");
    let seen: Vec<_> = faults.iter().map(|fault| (fault.line, fault.key.as_str())).collect();
    assert_eq!(seen, [(Some(1), "rule"), (Some(2), "rule.store")], "and so it changes nothing");
    assert!(faults.to_string().contains("there is no section [journal.disk]"), "{faults}");
    let config = parse(&format!("[journal.disk]\nmax_bytes = 5_000_000\n{rule}")).expect("valid");
    let disk = config.journal_disk.as_ref().expect("there is one");
    assert_eq!((disk.dir.as_path(), disk.max_bytes), (Path::new("/var/lib/shimtap/journal"), 5_000_000));
    assert_eq!((disk.reserve_percent, disk.reserve_bytes), (15, 2 << 30));
    let without = parse("[[rule]]\nstore = \"memory\"\n").expect("valid");
    assert_eq!((config.sections_unlike(&without), without.journal_disk), (vec!["journal.disk"], None));
    for (text, key) in [
        ("[journal.disk]\ndir = \"/run/shimtap/journal\"\n", "journal.disk.dir"),
        ("[journal.disk]\ndir = \"/var/lib/shimtap/spool\"\n", "journal.disk.dir"),
        ("[journal.disk]\nfsync = \"never\"\n", "journal.disk.fsync"),
        ("[[rule]]\nstore = \"tape\"\n", "rule.store"),
    ] {
        let faults = parse(text).expect_err("faulty");
        assert!(faults.iter().any(|fault| fault.key == key), "{text}: {faults}");
    }
}

#[test]
fn an_otlp_section_says_what_it_says() {
    let config = parse(concat!(
        "[node]\nname = \"n\"\n",
        "[otlp]\nendpoint = \"https://logs.example:4318/base/\"\ncompression = \"zstd\"\nbatch_wait_ms = 0\n",
        "proxy = \"none\"\n",
        "[otlp.headers]\nX-Tenant = \"t\"\nauthorization = { file = \"/run/token\" }\n",
        "[otlp.tls]\nca_file = \"/ca.pem\"\nserver_name = \"other.example\"\n",
    ))
    .expect("valid");
    assert_eq!((config.node.name.as_deref(), config.node.cluster), (Some("n"), None));
    let [Sink::Otlp(otlp)] = &*config.sinks else { panic!("{:?}", config.sinks) };
    assert_eq!(otlp.endpoint.uri, "https://logs.example:4318/base/v1/logs");
    assert_eq!((otlp.compression, &otlp.proxy), (Compression::Zstd, &Proxy::None));
    assert_eq!((otlp.batch_wait, otlp.batch_bytes), (Duration::ZERO, 4 << 20));
    assert_eq!(otlp.headers.len(), 2);
    assert_eq!(otlp.tls.ca_file.as_deref(), Some(Path::new("/ca.pem")));
}

#[test]
fn the_path_of_otlp_is_appended_where_it_is_not_there() {
    for (said, asked) in [
        ("http://h:4318", "http://h:4318/v1/logs"),
        ("http://h/", "http://h/v1/logs"),
        ("http://h/insert/opentelemetry", "http://h/insert/opentelemetry/v1/logs"),
        ("http://h/x/v1/logs", "http://h/x/v1/logs"),
        ("https://[::1]:4318?key=1", "https://[::1]:4318/v1/logs?key=1"),
    ] {
        let config = parse(&format!("[otlp]\nendpoint = \"{said}\"\n")).expect("valid");
        let [Sink::Otlp(otlp)] = &*config.sinks else { panic!("{:?}", config.sinks) };
        assert_eq!(otlp.endpoint.uri, asked);
    }
}

#[test]
fn faults_of_an_otlp_section_are_reported_together_and_show_no_secret() {
    let text = concat!(
        "[stdout]\n",                                    // 1
        "format = \"xml\"\n",                            // 2
        "[otlp]\n",                                      // 3
        "endpoint = \"https://me:s3cret@h\"\n",          // 4
        "compression = \"lz4\"\n",                       // 5
        "proxy = \"socks5://me:s3cret@h\"\n",            // 6
        "batch_bytes = 1\n",                             // 7
        "[otlp.headers]\n",                              // 8
        "\"bad name\" = \"s3cret\"\n",                   // 9
        "content-type = \"s3cret\"\n",                   // 10
        "a = \"s3cret\\n\"\n",                           // 11
        "b = { env = \"SHIMTAP_NO_SUCH_VARIABLE\" }\n",  // 12
        "c = { file = \"relative\" }\n",                 // 13
        "d = { file = \"/a\", env = \"HOME\" }\n",       // 14
        "e = 1\n",                                       // 15
        "f = { colour = \"s3cret\", env = \"HOME\" }\n", // 16
        "[otlp.tls]\n",                                  // 17
        "cert_file = \"cert.pem\"\n",                    // 18
        "server_name = \"no name\"\n",                   // 19
        "verify = false\n",                              // 20
    );
    let faults = parse(text).expect_err("faulty");
    let seen: Vec<_> = faults.iter().map(|f| (f.line, f.key.as_str())).collect();
    assert_eq!(
        seen,
        [
            (Some(2), "stdout.format"),
            (Some(4), "otlp.endpoint"),
            (Some(5), "otlp.compression"),
            (Some(6), "otlp.proxy"),
            (Some(7), "otlp.batch_bytes"),
            (Some(9), "otlp.headers.bad name"),
            (Some(10), "otlp.headers.content-type"),
            (Some(11), "otlp.headers.a"),
            (Some(12), "otlp.headers.b"),
            (Some(13), "otlp.headers.c"),
            (Some(14), "otlp.headers.d"),
            (Some(15), "otlp.headers.e"),
            (Some(16), "otlp.headers.f.colour"),
            (Some(18), "otlp.tls.cert_file"),
            (Some(19), "otlp.tls.server_name"),
            (Some(20), "otlp.tls.verify"),
            (None, "otlp.tls.key_file"),
        ]
    );
    assert!(!faults.to_string().contains("s3cret"), "{faults}");
    let config = parse(
        "[otlp]\nendpoint = \"http://h\"\nproxy = \"http://me:s3cret@h\"\n[otlp.headers]\na = \"s3cret\"\n",
    );
    assert!(!format!("{config:?}").contains("s3cret"));
}
