//! Families about pods that are virtual machines, and which shim a pod has that is known to be another than containerd's own and
//! Kata's. Of a node without one there are none.
//!
//! What a host sees of a VM is shown under names of its own and never under cAdvisor's: those are what its containers use. A
//! figure that nobody read is absent.

use std::{sync::Arc, time::Duration};

use super::{
    container::Container,
    families as f,
    families::Family,
    labels,
    registry::Registry,
    text::{Text, Value},
};
use crate::{
    closed::Closed,
    enrich::ShimKind,
    node::{Component, Hypervisor, OrphanKind, Sandbox, Usage, plain_text},
};

/// Pods that are shown: more than a node can have, so that nobody's ids can fill a page.
const MOST: usize = 1_024;

/// A figure of a component, under the value of its own label.
type Pick<'p> = (&'p str, &'p dyn Fn(&Usage) -> Option<Value>);

/// A sandbox and its labels: `namespace`, `pod`, `sandbox`.
struct View {
    sandbox: Arc<Sandbox>,
    labels: String,
    /// Runtime handler of the pod.
    handler: Option<String>,
    /// Streams that ended empty, where a policy may be why.
    redacted: Option<u64>,
}

/// Writes the families.
pub(super) fn render(text: &mut Text, registry: &Registry) {
    let views = views(registry);
    info(text, registry, &views);
    components(text, &views);
    machine(text, &views);
    let mut one = |family: &'static Family, pick: &dyn Fn(&View) -> Option<Value>| {
        let mut writer = text.family(family);
        for view in &views {
            if let Some(value) = pick(view) {
                writer.sample(&view.labels, value, None);
            }
        }
    };
    one(&f::POD_HOST_MEMORY, &|view| view.sandbox.host.memory_bytes.map(Value::Whole));
    one(&f::POD_HOST_CPU, &|view| view.sandbox.host.cpu_ns.map(Value::Ns));
    one(&f::POD_OVERHEAD_MEMORY, &|view| view.sandbox.overhead_memory_bytes.map(Value::Signed));
    one(&f::POD_OVERHEAD_CPU, &|view| view.sandbox.overhead_cpu_ns.map(Value::SignedNs));
    one(&f::LOG_REDACTED, &|view| view.redacted.map(Value::Whole));
    node(text, registry, &views);
}

/// Every sandbox that was looked at lately.
fn views(registry: &Registry) -> Vec<View> {
    let fresh = registry.fresh.max(Duration::from_secs(1));
    let mut views = Vec::new();
    for wrapper in registry.attached() {
        let Some(sandbox) = wrapper.machine.sandbox().filter(|sandbox| sandbox.at.elapsed() < fresh) else {
            continue;
        };
        let about = wrapper.about();
        let containers = registry.of_sandbox(&about.namespace, &about.id);
        let labels = named(&about.id, &containers);
        let redacted = may_have_a_policy(&sandbox, &containers)
            .then(|| containers.iter().map(|container| container.silent_streams()).sum());
        views.push(View { sandbox, labels, handler: handler(&containers), redacted });
        if views.len() == MOST {
            break;
        }
    }
    views
}

/// The runtime handler of a pod with these containers, as far as containerd's records told it: the sandbox's, or theirs.
fn handler(containers: &[Arc<Container>]) -> Option<String> {
    containers.iter().find_map(|container| plain_text(container.extra.get()?.handler.as_deref()?))
}

/// Is a policy that denies output a likely cause of a stream without a byte? In a confidential guest, on another machine (peer pods,
/// which are confidential and do not say so here), and where Stats is denied. Elsewhere it is a container that says nothing.
fn may_have_a_policy(sandbox: &Sandbox, containers: &[Arc<Container>]) -> bool {
    sandbox.facts.confidential == Some(true)
        || sandbox.facts.hypervisor == Some(Hypervisor::Remote)
        || containers.iter().any(|container| container.live().stats_refused)
}

/// The labels of a sandbox with these containers.
fn named(sandbox: &str, containers: &[Arc<Container>]) -> String {
    let named = containers.iter().map(|container| &container.identity);
    let named =
        named.filter(|identity| identity.pod.is_some()).max_by_key(|identity| identity.namespace.is_some());
    let mut labels = String::new();
    let word = |word: Option<&String>| word.cloned().unwrap_or_default();
    labels::push(&mut labels, "namespace", Some(&word(named.and_then(|n| n.namespace.as_ref()))));
    labels::push(&mut labels, "pod", Some(&word(named.and_then(|n| n.pod.as_ref()))));
    labels::push(&mut labels, "sandbox", Some(sandbox));
    labels
}

/// A sandbox that is no VM.
struct Other {
    labels: String,
    handler: Option<String>,
    kind: ShimKind,
    build: Option<String>,
}

/// Sandboxes that are no VMs and whose shim is known to be another than containerd's own.
fn others(registry: &Registry) -> Vec<Other> {
    let mut others = Vec::new();
    for wrapper in registry.attached() {
        let kind = ShimKind::named(&wrapper.inner().binary);
        if !kind.is_another() {
            continue;
        }
        let about = wrapper.about();
        // gVisor has a shim for each container: the sandbox's own speaks for the pod.
        let containers = registry.of_sandbox(&about.namespace, &about.id);
        if containers.is_empty() {
            continue;
        }
        let labels = named(&about.id, &containers);
        let build = wrapper.inner_build().and_then(|build| plain_text(&build));
        others.push(Other { labels, handler: handler(&containers), kind, build });
        if others.len() == MOST {
            break;
        }
    }
    others
}

fn info(text: &mut Text, registry: &Registry, views: &[View]) {
    let mut writer = text.family(&f::SANDBOX_INFO);
    for Other { labels, handler, kind, build } in others(registry) {
        let known = [
            ("handler", handler.as_deref()),
            ("shim", Some(kind.label())),
            ("shim_build_id", build.as_deref()),
        ];
        writer.sample(&row(&labels, &known), Value::Whole(1), None);
    }
    for view in views {
        let Sandbox { shim, release, build, facts, .. } = &*view.sandbox;
        let flag = |flag| if flag { "true" } else { "false" };
        let known = [
            ("handler", view.handler.as_deref()),
            ("shim", Some(shim.label())),
            ("shim_version", release.as_ref().map(|release| release.text.as_str())),
            ("shim_build_id", build.as_deref()),
            ("hypervisor", facts.hypervisor.map(Hypervisor::label)),
            ("guest_kernel", facts.kernel.as_deref()),
            ("guest_image", facts.image.as_deref()),
            ("sandbox_cgroup_only", facts.sandbox_cgroup_only.map(flag)),
            ("confidential", facts.confidential.map(flag)),
        ];
        writer.sample(&row(&view.labels, &known), Value::Whole(1), None);
    }
}

/// The row of a sandbox with these `labels`, of which so much is `known`; the rest is empty.
fn row(labels: &str, known: &[(&str, Option<&str>)]) -> String {
    let mut row = labels.to_owned();
    // Behind those that every family of sandboxes has.
    for key in f::SANDBOX_INFO.labels.iter().skip(3) {
        let value = known.iter().find_map(|(of, value)| value.filter(|_| of == key));
        labels::push(&mut row, key, Some(value.unwrap_or_default()));
    }
    row
}

fn components(text: &mut Text, views: &[View]) {
    let mut each = |family: &'static Family, kind: &str, pick: &[Pick<'_>]| {
        let mut writer = text.family(family);
        for view in views {
            for (component, usage) in &view.sandbox.components {
                let component: Component = *component;
                for (name, pick) in pick {
                    let Some(value) = pick(usage) else { continue };
                    let mut labels = view.labels.clone();
                    labels::push(&mut labels, "component", Some(component.label()));
                    labels::push(&mut labels, kind, Some(*name).filter(|name| !name.is_empty()));
                    writer.sample(&labels, value, None);
                }
            }
        }
    };
    each(&f::COMPONENT_CPU, "", &[("", &|usage| usage.cpu_ns.map(Value::Ns))]);
    each(
        &f::COMPONENT_MEMORY,
        "kind",
        &[
            ("rss", &|usage| usage.resident_bytes.map(Value::Whole)),
            ("swap", &|usage| usage.swap_bytes.map(Value::Whole)),
            ("pss", &|usage| usage.proportional_bytes.map(Value::Whole)),
        ],
    );
    each(&f::COMPONENT_THREADS, "", &[("", &|usage| Some(Value::Whole(usage.threads)))]);
}

fn machine(text: &mut Text, views: &[View]) {
    let mut writer = text.family(&f::VM_MEMORY);
    for view in views {
        let facts = &view.sandbox.facts;
        for (kind, bytes) in [("configured", facts.memory_bytes), ("hotplugged", facts.hotplugged_bytes)] {
            let Some(bytes) = bytes else { continue };
            let mut labels = view.labels.clone();
            labels::push(&mut labels, "kind", Some(kind));
            writer.sample(&labels, Value::Whole(bytes), None);
        }
    }
    let mut one = |family: &'static Family, pick: &dyn Fn(&Sandbox) -> Option<Value>| {
        let mut writer = text.family(family);
        for view in views {
            if let Some(value) = pick(&view.sandbox) {
                writer.sample(&view.labels, value, None);
            }
        }
    };
    // Those that run say more than those that it was begun with.
    let count = |sandbox: &Sandbox| sandbox.vcpus.map(|vcpus| vcpus.count).or(sandbox.facts.vcpus);
    one(&f::VM_VCPUS, &|sandbox| count(sandbox).map(Value::Whole));
    one(&f::VCPU_RUN, &|sandbox| sandbox.vcpus?.run_ns.map(Value::Ns));
    one(&f::VCPU_WAIT, &|sandbox| sandbox.vcpus?.wait_ns.map(Value::Ns));
}

fn node(text: &mut Text, registry: &Registry, views: &[View]) {
    let deaths = &registry.totals.sandbox_deaths;
    let findings = registry.findings();
    // Where nobody looked, 0 would be a claim; what was counted stays.
    if findings.looked || deaths.iter().any(|(_, count)| count > 0) {
        let mut writer = text.family(&f::SANDBOX_DEATHS);
        for (death, count) in deaths.iter() {
            writer.sample(&label("cause", death.label()), Value::Whole(count), None);
        }
    }
    if !findings.looked {
        return;
    }
    let mut writer = text.family(&f::ORPHANS);
    for kind in OrphanKind::ALL {
        let count = findings.orphans.iter().filter(|orphan| orphan.kind == *kind).count();
        writer.sample(
            &label("kind", kind.label()),
            Value::Whole(u64::try_from(count).unwrap_or(u64::MAX)),
            None,
        );
    }
    let unsafe_ones = views.iter().filter(|view| is_ended_by_a_scrape(&view.sandbox)).count();
    let unsafe_ones = Value::Whole(u64::try_from(unsafe_ones).unwrap_or(u64::MAX));
    text.family(&f::METRICS_UNSAFE).sample("", unsafe_ones, None);
}

/// One GET of the shim's own metrics ends such a pod (kata-containers#13708, seen).
#[must_use]
pub fn is_ended_by_a_scrape(sandbox: &Sandbox) -> bool {
    let unwritten = [Some(Hypervisor::Qemu), Some(Hypervisor::Firecracker)];
    sandbox.shim == ShimKind::KataRust && unwritten.contains(&sandbox.facts.hypervisor)
}

fn label(key: &str, value: &str) -> String {
    let mut out = String::new();
    labels::push(&mut out, key, Some(value));
    out
}
