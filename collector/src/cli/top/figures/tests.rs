use std::{sync::Arc, time::Duration};

use shimtap_proto::link;

use super::*;
use crate::{
    admin::{PsContainer, top},
    metrics::{Registry, Sample, SampleSource, Update},
    sinks::Backlog,
    time::now_ns,
};

const SEC: u64 = 1_000_000_000;

fn container(pod: Option<&str>, id: &str, role: &str) -> TopContainer {
    let about = PsContainer {
        containerd_namespace: "k8s.io".into(),
        namespace: Some("shop".into()),
        pod: pod.map(str::to_owned),
        container: (role != "sandbox").then(|| id.to_owned()),
        id: id.into(),
        state: "running".into(),
        started_ns: Some(SEC),
        ..PsContainer::default()
    };
    TopContainer { about, role: role.into(), ..TopContainer::default() }
}

fn sample(time_ns: u64, cpu_ns: u64) -> TopSample {
    TopSample { time_ns, cpu_ns: Some(cpu_ns), working_set_bytes: Some(cpu_ns), ..TopSample::default() }
}

fn output(bytes: u64, lines: u64) -> PsStream {
    PsStream { stream: "stdout".into(), bytes, lines, gap_bytes: 3, ..PsStream::default() }
}

fn look(history: &mut History, time_ns: u64, containers: Vec<TopContainer>) -> Look {
    history.look(&Top { time_ns, containers, ..Top::default() })
}

#[test]
fn rates_come_from_the_samples_own_times() {
    let mut one = container(None, "a", "plain");
    // Ten seconds apart, however often somebody looks.
    one.earlier =
        Some(TopSample { periods: Some(10), throttled_periods: Some(1), ..sample(20 * SEC, 4 * SEC) });
    one.newest =
        Some(TopSample { periods: Some(110), throttled_periods: Some(26), ..sample(30 * SEC, 9 * SEC) });
    one.memory_limit_bytes = Some(90 * SEC);
    let look = look(&mut History::default(), 31 * SEC, vec![one]);
    let [row] = look.containers.as_slice() else { panic!("{look:?}") };
    assert_eq!((row.cpu, row.throttled, row.memory), (Some(SEC / 2), Some(250), Some(9 * SEC)));
    assert_eq!((row.of_limit(), row.age_secs), (Some(100), 30));
    assert_eq!((row.read, row.written, row.io()), (None, None, None));
}

#[test]
fn what_is_not_known_or_went_backwards_is_absent() {
    let mut one = container(None, "a", "plain");
    one.newest = Some(sample(30 * SEC, 5));
    let first = look(&mut History::default(), 31 * SEC, vec![one.clone()]);
    assert_eq!((first.containers[0].cpu, first.containers[0].memory), (None, Some(5)));
    for earlier in
        [sample(20 * SEC, 6), sample(30 * SEC, 1), TopSample { cpu_ns: None, ..sample(20 * SEC, 1) }]
    {
        one.earlier = Some(earlier.clone());
        let again = look(&mut History::default(), 31 * SEC, vec![one.clone()]);
        assert_eq!(again.containers[0].cpu, None, "{earlier:?}");
    }
}

#[tokio::test]
async fn a_counter_that_a_sample_does_not_have_is_no_standstill() {
    let registry = Registry::new(Arc::default(), Backlog::default(), Vec::new(), Duration::from_secs(10));
    let task = registry.container(&link::Open::default(), &link::InnerShim::default());
    task.update(Update::Started { at_ns: 1, pid: 1 });
    let start = now_ns() - 60 * SEC;
    let mut seen = Vec::new();
    for (n, cpu_ns) in
        (1..).zip([Some(SEC), Some(2 * SEC), None, Some(4 * SEC), Some(4 * SEC), Some(9 * SEC)])
    {
        let sample = Sample { time_ns: start + n * SEC, cpu_ns, ..Sample::default() };
        assert!(task.sampled(sample, SampleSource::Polled));
        let look = History::default().look(&top(&registry));
        seen.push(look.containers[0].cpu);
    }
    assert_eq!(seen, [None, Some(SEC), None, None, Some(0), Some(5 * SEC)]);
    assert_eq!(task.live().sample.as_ref().and_then(|kept| kept.cpu_ns), Some(9 * SEC));
}

#[test]
fn output_is_counted_from_two_answers() {
    let mut history = History::default();
    let mut one = container(None, "a", "plain");
    let mut quiet = container(None, "b", "plain");
    quiet.about.streams = vec![PsStream { not_captured: Some("rule".into()), ..output(9, 9) }];
    one.about.streams = vec![output(1_000, 10)];
    let first = look(&mut history, 10 * SEC, vec![one.clone(), quiet.clone()]);
    assert_eq!((first.containers[0].log_bytes, first.containers[0].gaps), (None, Some(3)));
    one.about.streams = vec![output(3_000, 30)];
    let second = look(&mut history, 14 * SEC, vec![one.clone(), quiet.clone()]);
    assert_eq!((second.containers[0].log_bytes, second.containers[0].log_lines), (Some(500), Some(5)));
    assert_eq!((second.containers[1].log_bytes, second.containers[1].gaps), (None, None));
    // A collector that began anew knows less than before; what comes from then on is known.
    one.about.streams = vec![output(50, 1)];
    let third = look(&mut history, 16 * SEC, vec![one.clone()]);
    assert_eq!(third.containers[0].log_bytes, None);
    one.about.streams = vec![output(70, 1)];
    let fourth = look(&mut history, 18 * SEC, vec![one.clone()]);
    assert_eq!((fourth.containers[0].log_bytes, fourth.containers[0].log_lines), (Some(10), Some(0)));
    // One that comes back under its id is another.
    one.about.incarnation = "2".into();
    let other = look(&mut history, 20 * SEC, vec![one]);
    assert_eq!(other.containers[0].log_bytes, None);
}

#[test]
fn a_network_is_read_less_often_than_it_is_looked_at() {
    let mut history = History::default();
    let mut sandbox = container(Some("web"), "s", "sandbox");
    let network = |time_ns, received_bytes| Some(TopNetwork { time_ns, received_bytes, sent_bytes: 0 });
    let mut rates = Vec::new();
    for (time, bytes) in [(10, 100), (10, 100), (20, 300), (20, 300), (30, 300)] {
        sandbox.network = network(time * SEC, bytes);
        let look = look(&mut history, 40 * SEC, vec![sandbox.clone()]);
        assert!(look.containers.is_empty(), "a sandbox is no container");
        rates.push((look.pods[0].received, look.pods[0].sent));
    }
    let known = (Some(20), Some(0));
    assert_eq!(rates, [(None, None), (None, None), known, known, (Some(0), Some(0))]);
}

#[test]
fn a_pod_is_the_sum_of_what_is_known_of_all_of_it() {
    let used = |id: &str, role: &str, cpu: Option<u64>| {
        let mut one = container(Some("web"), id, role);
        one.earlier = cpu.map(|_| sample(10 * SEC, 0));
        one.newest = cpu.map(|cpu| sample(20 * SEC, cpu * 10));
        one
    };
    let cpu = |members: Vec<TopContainer>| {
        let look = look(&mut History::default(), 20 * SEC, members);
        assert_eq!(look.pods.len(), 1, "{look:?}");
        look.pods[0].cpu
    };
    let sandbox = used("s", "sandbox", Some(1));
    assert_eq!(cpu(vec![sandbox.clone(), used("a", "pod_container", Some(7))]), Some(8));
    assert_eq!(cpu(vec![used("s", "sandbox", None), used("a", "pod_container", Some(7))]), Some(7));
    assert_eq!(cpu(vec![sandbox.clone(), used("a", "pod_container", None)]), None);
    let mut ended = used("b", "pod_container", None);
    ended.about.state = "exited".into();
    let members = vec![sandbox, used("a", "pod_container", Some(7)), ended];
    assert_eq!(cpu(members.clone()), Some(8), "what ended uses nothing");
    let look = look(&mut History::default(), 20 * SEC, members);
    assert_eq!((look.pods[0].containers, look.pods[0].container.as_deref()), ((1, 2), None));
    assert_eq!(look.containers.len(), 2);
}

#[test]
fn what_a_vm_costs_beyond_its_containers_is_its_pods_and_may_be_below_0() {
    let overhead = |time_ns, cpu_ns, memory| {
        Some(TopOverhead { time_ns, cpu_ns: Some(cpu_ns), memory_bytes: Some(memory) })
    };
    let mut history = History::default();
    let mut at = |seen: u64, overhead: Option<TopOverhead>| {
        let sandbox = TopContainer { overhead, ..container(Some("web"), "s", "sandbox") };
        let look =
            look(&mut history, seen * SEC, vec![sandbox, container(Some("web"), "a", "pod_container")]);
        let [row] = look.pods.as_slice() else { panic!("{look:?}") };
        (row.overhead_cpu, row.overhead_memory)
    };
    assert_eq!(at(21, overhead(20 * SEC, 7, -5)), (None, Some(-5)), "one reading has no rate");
    // The same reading, whose time was reckoned a little differently.
    assert_eq!(at(23, overhead(20 * SEC + 3, 7, -5)), (None, Some(-5)));
    let second = i64::try_from(SEC).expect("small");
    assert_eq!(at(31, overhead(30 * SEC, 7 + 5 * second, 9)), (Some(second / 2), Some(9)));
    assert_eq!(at(33, overhead(30 * SEC, 7 + 5 * second, 9)), (Some(second / 2), Some(9)));
    assert_eq!(at(41, overhead(40 * SEC, 7 + 4 * second, 9)), (Some(-second / 10), Some(9)));
    assert_eq!(at(51, None), (None, None));
}
