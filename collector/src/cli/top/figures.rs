//! What containers and pods use, per second: from two samples and their own times, and for what the collector counts itself from
//! two of its answers.
//!
//! A figure that is not known, or that went backwards, is absent. A sum is absent as soon as one of its parts is.

use std::collections::HashMap;

use crate::admin::{PsStream, Top, TopContainer, TopNetwork, TopOverhead, TopSample};

/// Names a row for as long as it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(String);

/// One container or one pod. Absent = not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    /// Its name for good.
    pub(super) key: Key,
    /// Kubernetes' namespace, else containerd's.
    pub(super) namespace: String,
    /// The pod.
    pub(super) pod: Option<String>,
    /// The container; of a pod that is none (`ctr`, docker) its only one.
    pub(super) container: Option<String>,
    /// Container id; of a pod its sandbox's.
    pub(super) id: String,
    /// Image reference.
    pub(super) image: Option<String>,
    /// Base name of the shim inside.
    pub(super) shim: String,
    /// `running`, `exited(1)`.
    pub(super) state: String,
    /// It has not ended.
    pub(super) is_running: bool,
    /// Containers of a pod that run, and all.
    pub(super) containers: (usize, usize),
    /// Since it was started, in seconds.
    pub(super) age_secs: u64,
    /// CPU time per second, in ns.
    pub(super) cpu: Option<u64>,
    /// Periods that were throttled, in thousandths.
    pub(super) throttled: Option<u64>,
    /// Memory in use, in bytes.
    pub(super) memory: Option<u64>,
    /// Most that it may have, in bytes.
    pub(super) limit: Option<u64>,
    /// Bytes read from block devices per second.
    pub(super) read: Option<u64>,
    /// Bytes written to them.
    pub(super) written: Option<u64>,
    /// Bytes received by the pod per second.
    pub(super) received: Option<u64>,
    /// Bytes sent by it.
    pub(super) sent: Option<u64>,
    /// CPU time per second that a VM costs beyond its containers, in ns; may be below 0, as memory may.
    pub(super) overhead_cpu: Option<i64>,
    /// Memory likewise, in bytes.
    pub(super) overhead_memory: Option<i64>,
    /// Bytes of output per second.
    pub(super) log_bytes: Option<u64>,
    /// Lines of it.
    pub(super) log_lines: Option<u64>,
    /// Bytes of output that are not here; absent where none is captured.
    pub(super) gaps: Option<u64>,
}

/// A look at the node.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Containers without sandboxes.
    pub(super) containers: Vec<Row>,
    /// Pods, and containers that are in none.
    pub(super) pods: Vec<Row>,
}

/// What earlier answers said.
#[derive(Debug, Default)]
pub(super) struct History {
    logs: HashMap<Key, Counted>,
    networks: HashMap<Key, (Option<TopNetwork>, TopNetwork)>,
    overheads: HashMap<Key, (Option<TopOverhead>, TopOverhead)>,
}

/// What the collector had counted of a container's output.
#[derive(Clone, Copy, Debug)]
struct Counted {
    time_ns: u64,
    bytes: u64,
    lines: u64,
}

const NS: u64 = 1_000_000_000;
/// Readings are a second apart at least.
const SAME_NS: u64 = 100_000_000;

// === impl Row ===

impl Row {
    /// Memory in thousandths of the limit.
    pub(super) fn of_limit(&self) -> Option<u64> {
        let (memory, limit) = (u128::from(self.memory?), u128::from(self.limit?));
        u64::try_from((memory * 1_000).checked_div(limit)?).ok()
    }

    /// Bytes read and written per second, as far as known.
    pub(super) fn io(&self) -> Option<u64> {
        sum([self.read, self.written].into_iter().filter(Option::is_some))
    }

    /// Takes a member of the pod in.
    fn add_up(&mut self, members: &[(&Row, bool)]) {
        let running: Vec<_> = members.iter().filter(|(row, _)| row.is_running).collect();
        // A sandbox's process only waits. What is not known of it changes no sum.
        let all = |figure: fn(&Row) -> Option<u64>| {
            sum(running
                .iter()
                .map(|(row, sandbox)| (figure(row), *sandbox))
                .filter(|(figure, sandbox)| figure.is_some() || !sandbox)
                .map(|(figure, _)| figure))
        };
        let known = |figure: fn(&Row) -> Option<u64>| {
            sum(members.iter().map(|(row, _)| figure(row)).filter(Option::is_some))
        };
        self.cpu = all(|row| row.cpu);
        self.memory = all(|row| row.memory);
        self.limit = all(|row| row.limit);
        self.read = all(|row| row.read);
        self.written = all(|row| row.written);
        self.throttled = running.iter().filter_map(|(row, _)| row.throttled).max();
        self.received = known(|row| row.received);
        self.sent = known(|row| row.sent);
        // Of the whole pod, at one of its members.
        self.overhead_cpu = members.iter().find_map(|(row, _)| row.overhead_cpu);
        self.overhead_memory = members.iter().find_map(|(row, _)| row.overhead_memory);
        // What is not captured is not counted anywhere.
        self.log_bytes = known(|row| row.log_bytes);
        self.log_lines = known(|row| row.log_lines);
        self.gaps = known(|row| row.gaps);
        let only: Vec<_> = members.iter().filter(|(_, sandbox)| !sandbox).collect();
        self.containers = (only.iter().filter(|(row, _)| row.is_running).count(), only.len());
        self.is_running = !running.is_empty();
        self.age_secs = members.iter().map(|(row, _)| row.age_secs).max().unwrap_or_default();
        self.state = if self.is_running { "running" } else { "ended" }.to_owned();
    }
}

// === impl History ===

impl History {
    /// Takes an answer in; what it comes to together with those before it.
    pub(super) fn look(&mut self, top: &Top) -> Look {
        let rows: Vec<(Row, bool)> =
            top.containers.iter().map(|one| (self.row(one, top.time_ns), one.role == "sandbox")).collect();
        let there = |key: &Key| rows.iter().any(|(row, _)| row.key == *key);
        self.logs.retain(|key, _| there(key));
        self.networks.retain(|key, _| there(key));
        self.overheads.retain(|key, _| there(key));
        let pods = pods(&rows);
        let containers = rows.into_iter().filter(|(_, sandbox)| !sandbox).map(|(row, _)| row).collect();
        Look { containers, pods }
    }

    fn row(&mut self, one: &TopContainer, now_ns: u64) -> Row {
        let about = &one.about;
        let key = Key(format!("{}/{}/{}", about.containerd_namespace, about.id, about.incarnation));
        let is_running = matches!(about.state.as_str(), "running" | "created");
        let since = about.started_ns.unwrap_or(about.created_ns);
        let until = about.exited_ns.unwrap_or(now_ns);
        let mut row = Row {
            namespace: about.namespace.as_ref().unwrap_or(&about.containerd_namespace).clone(),
            pod: about.pod.clone(),
            container: about.container.clone(),
            id: about.id.clone(),
            image: about.image.clone(),
            shim: about.shim.clone(),
            state: match about.exit_status {
                Some(status) => format!("{}({status})", about.state),
                None => about.state.clone(),
            },
            is_running,
            containers: (usize::from(is_running), 1),
            age_secs: until.saturating_sub(since) / 1_000_000_000,
            limit: one.memory_limit_bytes.filter(|_| is_running),
            ..Row::default()
        };
        row.sampled(one.newest.as_ref(), one.earlier.as_ref());
        self.output(&mut row, &key, &about.streams, now_ns);
        self.network(&mut row, &key, one.network.as_ref());
        self.overhead(&mut row, &key, one.overhead.as_ref());
        row.key = key;
        row
    }

    fn output(&mut self, row: &mut Row, key: &Key, streams: &[PsStream], now_ns: u64) {
        let captured: Vec<_> = streams.iter().filter(|stream| stream.not_captured.is_none()).collect();
        let total = |count: fn(&PsStream) -> u64| {
            captured.iter().fold(0u64, |sum, stream| sum.saturating_add(count(stream)))
        };
        if captured.is_empty() {
            return;
        }
        row.gaps = Some(total(|stream| stream.gap_bytes));
        let now = Counted {
            time_ns: now_ns,
            bytes: total(|stream| stream.bytes),
            lines: total(|stream| stream.lines),
        };
        if let Some(before) = self.logs.insert(key.clone(), now).filter(|_| row.is_running) {
            let span = now_ns.saturating_sub(before.time_ns);
            row.log_bytes = per_second(now.bytes, before.bytes, span);
            row.log_lines = per_second(now.lines, before.lines, span);
        }
    }

    fn network(&mut self, row: &mut Row, key: &Key, newest: Option<&TopNetwork>) {
        let Some(newest) = newest else { return };
        let Some(before) = before(&mut self.networks, key, newest, |a, b| a == b) else { return };
        let span = newest.time_ns.saturating_sub(before.time_ns);
        row.received = per_second(newest.received_bytes, before.received_bytes, span);
        row.sent = per_second(newest.sent_bytes, before.sent_bytes, span);
    }

    fn overhead(&mut self, row: &mut Row, key: &Key, newest: Option<&TopOverhead>) {
        let Some(newest) = newest else { return };
        row.overhead_memory = newest.memory_bytes;
        // Its time is reckoned anew at each answer, so that it is not quite the same.
        let same = |a: &TopOverhead, b: &TopOverhead| a.time_ns.abs_diff(b.time_ns) < SAME_NS;
        let Some(before) = before(&mut self.overheads, key, newest, same) else { return };
        let span = newest.time_ns.saturating_sub(before.time_ns);
        let came = newest.cpu_ns.zip(before.cpu_ns).map(|(now, before)| i128::from(now) - i128::from(before));
        let rate = came.and_then(|came| (came * i128::from(NS)).checked_div(i128::from(span)));
        row.overhead_cpu = rate.and_then(|rate| i64::try_from(rate).ok());
    }
}

impl Row {
    fn sampled(&mut self, newest: Option<&TopSample>, earlier: Option<&TopSample>) {
        let Some(newest) = newest else { return };
        self.memory = newest.working_set_bytes;
        let Some(earlier) = earlier else { return };
        let span = newest.time_ns.saturating_sub(earlier.time_ns);
        let rate = |count: fn(&TopSample) -> Option<u64>| per_second(count(newest)?, count(earlier)?, span);
        self.cpu = rate(|sample| sample.cpu_ns);
        self.read = rate(|sample| sample.read_bytes);
        self.written = rate(|sample| sample.written_bytes);
        self.throttled = throttled(newest, earlier);
    }
}

fn pods(rows: &[(Row, bool)]) -> Vec<Row> {
    let mut order: Vec<(String, Vec<(&Row, bool)>)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (row, sandbox) in rows {
        let name = match &row.pod {
            Some(pod) => format!("{}/{pod}", row.namespace),
            None => row.key.0.clone(),
        };
        let place = *places.entry(name.clone()).or_insert_with(|| {
            order.push((name, Vec::new()));
            order.len() - 1
        });
        if let Some((_, members)) = order.get_mut(place) {
            members.push((row, *sandbox));
        }
    }
    order.into_iter().filter_map(|(name, members)| pod(name, &members)).collect()
}

fn pod(name: String, members: &[(&Row, bool)]) -> Option<Row> {
    let (first, _) = members.iter().find(|(_, sandbox)| *sandbox).or_else(|| members.first())?;
    let in_pod = first.pod.is_some();
    let mut row = Row {
        key: Key(name),
        container: first.container.clone().filter(|_| !in_pod),
        image: first.image.clone().filter(|_| !in_pod),
        namespace: first.namespace.clone(),
        pod: first.pod.clone(),
        id: first.id.clone(),
        shim: first.shim.clone(),
        ..Row::default()
    };
    row.add_up(members);
    Some(row)
}

/// The reading before the newest one, which is remembered; `same` are two of one reading.
fn before<T: Clone>(
    readings: &mut HashMap<Key, (Option<T>, T)>,
    key: &Key,
    newest: &T,
    same: impl Fn(&T, &T) -> bool,
) -> Option<T> {
    let (before, last) = match readings.remove(key) {
        Some((before, last)) if same(&last, newest) => (before, last),
        Some((_, last)) => (Some(last), newest.clone()),
        None => (None, newest.clone()),
    };
    readings.insert(key.clone(), (before.clone(), last));
    before
}

/// Throttled periods of those that elapsed between two samples, in thousandths; absent where none elapsed.
fn throttled(newest: &TopSample, earlier: &TopSample) -> Option<u64> {
    let periods = newest.periods?.checked_sub(earlier.periods?)?;
    let throttled = newest.throttled_periods?.checked_sub(earlier.throttled_periods?)?;
    u64::try_from((u128::from(throttled) * 1_000).checked_div(u128::from(periods))?).ok()
}

/// What came in `span_ns`, per second; absent where it went backwards or no time passed.
fn per_second(now: u64, before: u64, span_ns: u64) -> Option<u64> {
    let came = u128::from(now.checked_sub(before)?) * u128::from(NS);
    u64::try_from(came.checked_div(u128::from(span_ns))?).ok()
}

/// Absent where there is nothing to sum, or one of them is absent.
fn sum(parts: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    let parts: Vec<_> = parts.collect::<Option<_>>()?;
    parts.into_iter().reduce(u64::saturating_add)
}

#[cfg(test)]
mod tests;
