//! `shimtap explain`: why a container's output is collected, or not, and what is taken out of it.

use std::path::Path;

use super::{
    Exit,
    ask::{AskFault, Collector},
};
use crate::admin::{Explained, ExplainedStream};

/// Prints to stdout.
pub(super) fn run(whose: &str, json: bool, socket: Option<&Path>) -> Exit {
    let all: Vec<Explained> = match Collector::at(socket).get("/v1/explain") {
        Ok((_, all)) => all,
        Err(fault) => return failed(&fault),
    };
    let found: Vec<_> = all.into_iter().filter(|one| is_meant(one, whose)).collect();
    if found.is_empty() {
        eprintln!("shimtap explain: this node has no container {whose}; `shimtap ps` lists those it has");
        return Exit::Failed;
    }
    let text = if json {
        // Strings, numbers and lists of them cannot fail to become JSON.
        serde_json::to_string(&found).unwrap_or_default() + "\n"
    } else {
        found.iter().map(shown).collect::<Vec<_>>().join("\n")
    };
    super::say(&text);
    Exit::Done
}

fn failed(fault: &AskFault) -> Exit {
    eprintln!("shimtap explain: {fault}");
    Exit::Failed
}

/// `NAMESPACE/POD/CONTAINER`, `NAMESPACE/POD`, or what an id begins with.
fn is_meant(one: &Explained, whose: &str) -> bool {
    let parts: Vec<&str> = whose.split('/').collect();
    let is = |name: &Option<String>, part: &str| name.as_deref() == Some(part);
    match *parts.as_slice() {
        [namespace, pod, container] => {
            is(&one.namespace, namespace) && is(&one.pod, pod) && is(&one.container, container)
        }
        [namespace, pod] => is(&one.namespace, namespace) && is(&one.pod, pod),
        [id] => !id.is_empty() && (one.id.starts_with(id) || is(&one.container, id)),
        _ => false,
    }
}

fn shown(one: &Explained) -> String {
    let names = [&one.namespace, &one.pod, &one.container].map(|name| name.as_deref().unwrap_or("-"));
    let image = one.image.as_deref().unwrap_or("-");
    let id: String = one.id.chars().take(13).collect();
    let mut out = format!("{}  (id {id}, image {image}, runtime {})\n", names.join("/"), one.runtime);
    for stream in &one.streams {
        out.push_str(&shown_stream(stream));
    }
    out
}

fn shown_stream(stream: &ExplainedStream) -> String {
    let exec = if stream.process.is_empty() { String::new() } else { format!(" of exec {}", stream.process) };
    let mut out = format!("  {}{exec}\n", stream.stream);
    let mut say = |what: &str, text: &str| out.push_str(&format!("    {what:<10} {text}\n"));
    if let Some(why) = &stream.not_captured {
        say("captured", &format!("no: {why}"));
    }
    let by = stream.collect_by.as_deref().unwrap_or("no rule says otherwise");
    say("collected", &format!("{}: {by}", if stream.collect { "yes" } else { "no" }));
    for redaction in &stream.redact {
        say("redacted", &format!("{}: {}", redaction.what, redaction.by));
    }
    if let Some(rate) = &stream.rate {
        let limit = format!("{} lines/s, {} at once: {}", rate.lines_per_sec, rate.burst_lines, rate.by);
        say("limited", &limit);
    }
    if let Some(store) = &stream.store {
        say("kept in", &format!("{}: {}", store.name, store.by));
    }
    if let Some(sinks) = &stream.sinks {
        let names = if sinks.names.is_empty() { "journal only".to_owned() } else { sinks.names.join(", ") };
        say("goes to", &format!("{names}: {}", sinks.by));
    }
    say("matched", &if stream.matched.is_empty() { "nothing".to_owned() } else { stream.matched.join(", ") });
    out
}
