//! The wrapper's own counters, as the collector gets them.

use std::sync::atomic::Ordering;

use shimtap_proto::{
    link::{Count, InnerFile, MethodReport, Report, Restarts, Stall},
    ttrpc::Method,
};

use super::{inner, stalls::Stalls};
use crate::{
    block::{
        Block, ConnState, Pending, PendingState, Stream, StreamState, Tables,
        care::{Mode, Reason},
        counters::Counter,
    },
    sys::monotonic_ns,
    worker::on_the_wire,
};

/// Remembers what was last said.
pub struct Reporter {
    last: Option<Report>,
    /// The inner shim's process, and the file that it runs.
    inner: Option<(u32, InnerFile)>,
    refused: Vec<u32>,
}

// === impl Reporter ===

impl Reporter {
    /// Nothing said yet.
    pub fn new() -> Self {
        Self { last: None, inner: None, refused: Vec::new() }
    }

    /// Tasks whose Stats is refused again and again.
    pub fn note_refused(&mut self, tasks: Vec<u32>) {
        self.refused = tasks;
    }

    /// The counters, where they differ from what was last said.
    pub fn changed(&mut self, block: &Block, stalls: &Stalls) -> Option<Report> {
        let mut report = make(block.tables());
        report.stalls = waited(block.tables(), stalls);
        report.inner_file = self.file_of(block, report.inner_pid).into();
        report.stats_refused.clone_from(&self.refused);
        if self.last.as_ref() == Some(&report) {
            return None;
        }
        self.last = Some(report.clone());
        Some(report)
    }

    /// A process runs one file for as long as its number is its own, so it is looked at once.
    fn file_of(&mut self, block: &Block, pid: u32) -> Option<InnerFile> {
        if self.inner.as_ref().is_none_or(|(known, _)| *known != pid) {
            let build_id = || inner::build(block.tables());
            self.inner = inner::file(pid).map(|file| (pid, InnerFile { build_id: build_id(), ..file }));
        }
        self.inner.as_ref().map(|(_, file)| file.clone())
    }
}

fn make(tables: &Tables) -> Report {
    let counts = Counter::ALL.iter().map(|(counter, name)| Count {
        name: (*name).to_owned(),
        value: tables.counters.get(*counter),
        ..Default::default()
    });
    let open = tables.conns().iter().filter(|c| ConnState::load(&c.state) != ConnState::Free).count();
    Report {
        counts: counts.collect(),
        methods: Method::ALL.into_iter().filter_map(|m| method(tables, m)).collect(),
        connections: u32::try_from(open).unwrap_or(u32::MAX),
        safe_mode: Mode::load(&tables.care.mode) != Mode::Normal
            || tables.care.stand_in.load(Ordering::Acquire) != 0,
        generation: tables.generation.load(Ordering::Acquire),
        without_worker_ns: tables.care.without_worker_ns.load(Ordering::Relaxed),
        restarts: restarts(tables),
        inner_pid: inner::pid(tables),
        ..Default::default()
    }
}

/// Each stream's, those that never waited too: that is known as well.
fn waited(tables: &Tables, stalls: &Stalls) -> Vec<Stall> {
    let now = monotonic_ns();
    let captured = tables.streams().iter().enumerate();
    let captured = captured.filter(|(_, stream)| StreamState::load(&stream.state) != StreamState::Free);
    let of = |(index, stream): (usize, &Stream)| {
        let handle = stream.handle.load(Ordering::Relaxed);
        Stall { handle, ns: stalls.of(index, handle, now), ..Default::default() }
    };
    captured.map(of).filter(|stall| stall.handle != 0).collect()
}

fn restarts(tables: &Tables) -> Vec<Restarts> {
    let count = |reason: &Reason| {
        let count = tables.care.restarts.get(*reason as usize)?.load(Ordering::Relaxed);
        let reason = on_the_wire(*reason).into();
        (count > 0).then(|| Restarts { reason, count, ..Default::default() })
    };
    Reason::ALL.iter().filter_map(count).collect()
}

fn method(tables: &Tables, method: Method) -> Option<MethodReport> {
    let counters = tables.methods.get(usize::from(method.to_u8()))?;
    let of_method = |p: &&Pending| {
        PendingState::load(&p.state) == PendingState::Open
            && p.method.load(Ordering::Relaxed) == u32::from(method.to_u8())
    };
    let asked: Vec<u64> =
        tables.pendings().iter().filter(of_method).map(|p| p.asked_ns.load(Ordering::Relaxed)).collect();
    let count = counters.count.load(Ordering::Relaxed);
    if count == 0 && asked.is_empty() {
        return None;
    }
    Some(MethodReport {
        method: method.name().to_owned(),
        count,
        errors: counters.errors.load(Ordering::Relaxed),
        sum_ns: counters.sum_ns.load(Ordering::Relaxed),
        buckets: counters.buckets.iter().map(|b| b.load(Ordering::Relaxed)).collect(),
        in_flight: u32::try_from(asked.len()).unwrap_or(u32::MAX),
        oldest_ns: asked.into_iter().min().map(|at| monotonic_ns().saturating_sub(at)),
        ..Default::default()
    })
}
