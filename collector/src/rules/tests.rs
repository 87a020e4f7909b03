//! Order, narrowing, and what is not known.

use std::collections::HashMap;

use shimtap_proto::link;

use super::*;

fn identity(annotations: &[(&str, &str)]) -> Identity {
    let mut all: HashMap<String, String> = [
        ("io.kubernetes.cri.container-type", "container"),
        ("io.kubernetes.cri.sandbox-namespace", "pay"),
        ("io.kubernetes.cri.sandbox-name", "web-1"),
        ("io.kubernetes.cri.container-name", "app"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    all.extend(annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    let open = link::Open { annotations: all, ..link::Open::default() };
    let inner =
        link::InnerShim { binary: "/usr/bin/containerd-shim-kata-v2".to_owned(), ..Default::default() };
    Identity::new(&open, &inner)
}

fn names(pattern: &str) -> Option<Names> {
    Some(Names::new(vec![pattern.to_owned()]).expect("a pattern"))
}

fn rule(of: Match) -> Rule {
    Rule { name: "r".to_owned(), line: 1, of, ..Rule::default() }
}

fn stdout(rules: Vec<Rule>, identity: &Identity) -> Verdict {
    Rules::new(rules).judge(identity, StreamKind::Stdout)
}

#[test]
fn the_last_word_holds_and_redactions_add_up() {
    let all = Match::default();
    let of_pay = Match { namespace: names("pay"), ..Match::default() };
    let email = Redactor::of("email").expect("preset");
    let jwt = Redactor::of("jwt").expect("preset");
    let rules = vec![
        Rule { collect: Some(false), redact: email.clone(), ..rule(all.clone()) },
        Rule { collect: Some(true), rate: Some(Rate::lasting(5)), redact: jwt, ..rule(of_pay) },
        Rule { redact: email, ..rule(all) },
    ];
    let verdict = stdout(rules, &identity(&[]));
    assert!(!verdict.off);
    assert_eq!(verdict.redact.names().collect::<Vec<_>>(), ["email", "jwt"]);
    assert_eq!(verdict.rate, Some(Rate { lines_per_sec: 5, burst_lines: 10 }));
    assert_eq!((verdict.reasons.matched.len(), verdict.reasons.redact.len()), (3, 2));
}

#[test]
fn all_that_a_rule_names_must_match() {
    let off = |of: Match| {
        stdout(vec![Rule { collect: Some(false), ..rule(of) }], &identity(&[("team", "red")])).off
    };
    let with = |key: &str, value: &str| Match {
        annotations: [(key.to_owned(), names(value).expect("some"))].into(),
        ..Match::default()
    };
    assert!(off(Match { pod: names("web-*"), container: names("app"), ..Match::default() }));
    assert!(!off(Match { pod: names("web-*"), container: names("other"), ..Match::default() }));
    assert!(off(Match { runtime: names("kata-*"), ..Match::default() }));
    assert!(!off(Match { image: names("*"), ..Match::default() }), "the image is not known");
    let of_image = |pattern| {
        let one = identity(&[("io.kubernetes.cri.image-name", "registry.example/team/web:1")]);
        let of = Match { image: names(pattern), ..Match::default() };
        stdout(vec![Rule { collect: Some(false), ..rule(of) }], &one).off
    };
    assert!(of_image("registry.example/*") && of_image("*/web:?"));
    assert!(!of_image("registry.example") && !of_image("web:1"));
    assert!(off(Match { stream: Some(StreamKind::Stdout), ..Match::default() }));
    assert!(!off(Match { stream: Some(StreamKind::Stderr), ..Match::default() }));
    assert!(off(with("team", "r*")) && !off(with("team", "blue")) && !off(with("owner", "*")));
}

#[test]
fn a_pod_may_narrow_and_not_widen() {
    let strict = || {
        vec![Rule {
            collect: Some(false),
            rate: Some(Rate { lines_per_sec: 10, burst_lines: 10 }),
            ..rule(Match::default())
        }]
    };
    let wider = identity(&[("shimtap.io/collect", "true"), ("shimtap.io/lines-per-sec", "500")]);
    let verdict = stdout(strict(), &wider);
    assert!(verdict.off);
    assert_eq!(verdict.rate, Some(Rate { lines_per_sec: 10, burst_lines: 10 }));

    let narrower = identity(&[
        ("shimtap.io/collect", "false"),
        ("shimtap.io/lines-per-sec", "3"),
        ("shimtap.io/redact", "email, jwt"),
    ]);
    let verdict = stdout(vec![], &narrower);
    assert!(verdict.off);
    assert_eq!(verdict.rate, Some(Rate::lasting(3)));
    assert_eq!(verdict.redact.names().collect::<Vec<_>>(), ["email", "jwt"]);
}

#[test]
fn a_pod_may_keep_its_output_off_the_disk_and_not_put_it_there() {
    let to_disk = || vec![Rule { store: Some(Store::Disk), ..rule(Match::default()) }];
    let asks = |value| identity(&[("shimtap.io/store", value)]);
    assert_eq!(stdout(to_disk(), &identity(&[])).store(), Store::Disk);
    let verdict = stdout(to_disk(), &asks("memory"));
    assert_eq!(verdict.store(), Store::Memory);
    assert!(verdict.reasons.store.is_some_and(|by| by.to_string().contains("shimtap.io/store")));
    let verdict = stdout(vec![], &asks("disk"));
    assert_eq!((verdict.store(), verdict.store, verdict.reasons.store), (Store::Memory, None, None));
    let verdict = stdout(to_disk(), &asks("tape"));
    assert_eq!(verdict.store(), Store::Disk);
    assert!(verdict.reasons.matched.iter().any(|by| by.to_string().contains("neither memory nor disk")));
}

#[test]
fn an_annotation_that_cannot_be_followed_is_said() {
    let wrong = identity(&[
        ("shimtap.io/collect", "no"),
        ("shimtap.io/lines-per-sec", "0"),
        ("shimtap.io/redact", "email,(a+)+"),
    ]);
    let verdict = stdout(vec![], &wrong);
    assert!(!verdict.off && verdict.rate.is_none());
    assert_eq!(verdict.redact.names().collect::<Vec<_>>(), ["email"], "what can be followed is");
    let said: Vec<_> = verdict.reasons.matched.iter().map(ToString::to_string).collect();
    assert!(said.iter().all(|by| by.contains("not followed")), "{said:?}");
}

#[test]
fn the_last_list_of_sinks_holds_whatever_else_is_said() {
    let of_pay = Match { namespace: names("pay"), ..Match::default() };
    let to = |sinks: &[&'static str]| Some(sinks.to_vec());
    let rules = vec![
        Rule { sinks: to(&["file", "otlp"]), ..rule(Match::default()) },
        Rule { sinks: to(&["otlp"]), ..rule(of_pay) },
        Rule { collect: Some(true), ..rule(Match::default()) },
    ];
    assert!(Rules::new(rules.clone()).route() && !Rules::default().route());
    let verdict = stdout(rules, &identity(&[]));
    assert!(verdict.goes_to("otlp") && !verdict.goes_to("file"));
    assert!(verdict.reasons.sinks.is_some());
    assert!(stdout(Vec::new(), &identity(&[])).goes_to("file"));
    let nowhere = vec![Rule { sinks: to(&[]), ..rule(Match::default()) }];
    assert!(!stdout(nowhere, &identity(&[])).goes_to("file"));
}
