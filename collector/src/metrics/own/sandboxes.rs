//! What is said of pods that are VMs only where it is known: by kinds of shim and hypervisor.

use std::{sync::Arc, time::Duration};

use shimtap_proto::link;

use super::{
    super::{registry::Registry, render_own, sandbox::is_ended_by_a_scrape},
    everything::{hello, silenced, vm},
};
use crate::{
    closed::Closed,
    enrich::{Details, ShimKind},
    node::{Facts, Hypervisor},
    sinks::Backlog,
};

fn registry() -> Registry {
    Registry::new(Arc::default(), Backlog::default(), Vec::new(), Duration::from_secs(10))
}

fn attach(registry: &Registry, facts: Facts) {
    let wrapper = registry.attach(&link::Hello { id: "vm".into(), ..hello(7) });
    wrapper.machine.seen(vm(ShimKind::KataRust, facts));
}

#[test]
fn output_that_ended_empty_is_counted_where_a_policy_may_be_why() {
    let (qemu, remote) = (Some(Hypervisor::Qemu), Some(Hypervisor::Remote));
    for (confidential, hypervisor, denied, counted) in [
        (Some(true), qemu, false, true),
        (Some(false), remote, false, true),
        (Some(false), qemu, true, true),
        (None, qemu, true, true),
        (Some(false), qemu, false, false),
        (None, qemu, false, false),
        (None, None, false, false),
    ] {
        let registry = registry();
        attach(&registry, Facts { confidential, hypervisor, ..Facts::default() });
        silenced(&registry).live().stats_refused = denied;
        let text = render_own(&registry);
        let row = "shimtap_log_redacted{namespace=\"\",pod=\"\",sandbox=\"vm\"} 1\n";
        assert_eq!(text.contains(row), counted, "{confidential:?} {hypervisor:?} {denied}");
        assert_eq!(text.contains("shimtap_log_redacted{"), counted, "or it is absent");
    }
}

#[test]
fn a_vm_is_told_with_the_runtime_handler_that_it_was_asked_for_by() {
    let registry = registry();
    registry.enrich();
    attach(&registry, Facts::default());
    let container = silenced(&registry);
    let is_told = |handler: &str| {
        let text = render_own(&registry);
        text.contains(&format!("sandbox=\"vm\",handler=\"{handler}\",shim=\"kata_rust\","))
    };
    assert!(is_told(""), "nobody knows yet");
    container.extra.settle(Details { handler: Some("kata-qemu".to_owned()), ..Details::default() });
    assert!(is_told("kata-qemu"));
}

/// Which drivers of the Rust shim have no figures of their hypervisor yet and end the shim when they are asked (seen of QEMU, read
/// of Firecracker). The Go shim's are never so.
#[test]
fn one_scrape_ends_two_kinds_of_pods_and_no_others() {
    let fatal = [Hypervisor::Qemu, Hypervisor::Firecracker];
    let hypervisors = Hypervisor::ALL.iter().copied().map(Some).chain([None]);
    for hypervisor in hypervisors {
        for shim in ShimKind::ALL.iter().copied() {
            let sandbox = vm(shim, Facts { hypervisor, ..Facts::default() });
            let is_fatal = shim == ShimKind::KataRust && hypervisor.is_some_and(|one| fatal.contains(&one));
            assert_eq!(is_ended_by_a_scrape(&sandbox), is_fatal, "{shim:?} {hypervisor:?}");
        }
    }
}
