//! `shimtap collector`: builds every stage, runs them, and ends them in order.
//!
//! Two steps: what can fail is built first, then tasks are started. The end is: stop accepting and reading, let the
//! sink write what it has, send the last acknowledgements, leave. Nothing is waited for longer than [`DRAIN`].

use std::{io, path::Path, sync::Arc, thread, time::Duration};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use super::Exit;
use crate::{
    admin::{Admin, AdminFault},
    config::{self, Config},
    containerd,
    event::Store,
    ingest::{Ingest, ListenFault, Listener, Spools, Streams},
    journal::{self, Heads, JournalFault, JournalThread},
    metrics::{Registry, SinkTotals, Totals},
    node, priority,
    reload::Reloader,
    sinks::{self, Outlets, Routed, SinkFault, Worker},
};

/// Descriptors besides those of wrappers: listeners, scrapers, files.
const OTHER_DESCRIPTORS: u64 = 256;
/// From a signal to the exit, at most.
const DRAIN: Duration = Duration::from_secs(4);
/// For writing how far each sink is, when everything else is over.
const SETTLE: Duration = Duration::from_millis(500);

/// Why the collector cannot run.
#[derive(Debug, thiserror::Error)]
enum CollectorFault {
    #[error(transparent)]
    Listen(#[from] ListenFault),
    #[error(transparent)]
    Admin(#[from] AdminFault),
    #[error(transparent)]
    Journal(#[from] JournalFault),
    #[error(transparent)]
    Sink(#[from] SinkFault),
    #[error("preparing to run: {source}; check the limits of the process")]
    System {
        #[from]
        source: io::Error,
    },
}

/// Everything that is bound and open, before anything runs.
struct Collector {
    listener: Listener,
    admin: Admin,
    reloader: Arc<Reloader>,
    journal: Vec<JournalThread>,
    sinks: Vec<Worker>,
    outlets: Outlets,
    registry: Arc<Registry>,
    periods: node::Periods,
    containerd: config::Containerd,
    ready: watch::Sender<bool>,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// Everything that runs, and what ends it.
struct Running {
    ingest: JoinHandle<()>,
    admin: thread::JoinHandle<()>,
    reloader: Arc<Reloader>,
    journal: Vec<JournalThread>,
    sinks: Vec<Worker>,
    outlets: Outlets,
    ready: watch::Sender<bool>,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// Runs the collector until a signal ends it.
pub(super) fn run(path: Option<&Path>) -> Exit {
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).with_target(false).init();
    let loaded = match Config::load(path) {
        Ok(loaded) => loaded,
        Err(fault) => {
            eprintln!("{fault}");
            return Exit::Failed;
        }
    };
    let config = loaded.config.clone();
    match serve(Arc::new(Reloader::new(path, loaded)), &config) {
        Ok(()) => Exit::Done,
        Err(fault) => {
            eprintln!("shimtap collector: {fault}");
            Exit::Failed
        }
    }
}

/// Raises the soft limit on descriptors to what the configuration may need, as far as the hard one allows. Where it
/// does not, connections beyond it are refused and counted, which is no reason not to run.
fn raise_descriptor_limit(config: &Config) {
    let needed =
        u64::try_from(config.ingest.connections).unwrap_or(u64::MAX).saturating_add(OTHER_DESCRIPTORS);
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let wanted = needed.min(hard);
    if wanted > soft && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok() && wanted < needed {
        warn!(limit = wanted, needed, "fewer descriptors are allowed than ingest.connections needs");
    }
}

fn serve(reloader: Arc<Reloader>, config: &Config) -> Result<(), CollectorFault> {
    raise_descriptor_limit(config);
    // One thread for the pipeline: its work is small and handing it around costs more than it gains. The sink and
    // the admin interface have threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Built beside the runtime and not on it: the admin interface has one of its own, and where building fails
    // that must not be dropped from within another.
    let inside = runtime.enter();
    let collector = Collector::build(reloader, config)?;
    let (stop, stopped) = watch::channel(false);
    let running = collector.start(&stopped)?;
    drop(inside);
    // The admin thread is there by now and keeps its priority: a busy node must not make us look unhealthy.
    priority::yield_to_workloads();
    runtime.block_on(running.until_signal(stop));
    // What is still running has had its time.
    runtime.shutdown_background();
    Ok(())
}

// === impl Collector ===

impl Collector {
    fn build(reloader: Arc<Reloader>, config: &Config) -> Result<Self, CollectorFault> {
        let totals: Arc<Totals> = Arc::default();
        let opened = Heads::open(config, &totals)?;
        let heads = Arc::clone(&opened.heads);
        let (mut sinks, mut counts) = (Vec::new(), Vec::new());
        for sink in &config.sinks {
            let name = sink.name();
            let its = Arc::new(SinkTotals::new(name));
            counts.push(Arc::clone(&its));
            let source = Routed::new(heads.reader(name), reloader.rules(), Arc::clone(&its));
            sinks.push(sinks::start(sink, &config.node, source, its)?);
        }
        let streams = Streams::new(Arc::clone(&totals), Arc::clone(&heads) as _, config.ingest.positions);
        streams.expect(opened.open_streams());
        let (outlets, journal) = opened.start(config)?;
        let backlog = outlets.of(Store::Memory).backlog();
        let mut registry = Registry::new(totals, backlog, counts, config.stats.interval);
        registry.disk_backlog = config.journal_disk.as_ref().map(|_| outlets.of(Store::Disk).backlog());
        registry.pod_labels.clone_from(&config.containerd.pod_labels);
        registry.limit(config.metrics.limits.clone());
        let registry = Arc::new(registry);
        // It is empty: the registry is new.
        let _ = registry.journal.set(heads);
        let (ready, is_ready) = watch::channel(false);
        let admin = Admin::bind(config, Arc::clone(&registry), Arc::clone(&reloader), is_ready)?;
        let listener = Listener::bind(Arc::new(Ingest {
            config: config.ingest.clone(),
            stats: config.stats.clone(),
            registry: Arc::clone(&registry),
            rules: reloader.rules(),
            streams,
            spools: Spools::new(config.spool.clone()),
            outlets: outlets.clone(),
        }))?;
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let hangup = signal(SignalKind::hangup())?;
        Ok(Self {
            listener,
            admin,
            reloader,
            journal,
            sinks,
            outlets,
            registry,
            periods: node::Periods { interval: config.stats.interval, orphan: config.ingest.orphan },
            containerd: config.containerd.clone(),
            ready,
            terminate,
            interrupt,
            hangup,
        })
    }

    fn start(self, stopped: &watch::Receiver<bool>) -> Result<Running, CollectorFault> {
        let metrics = self.admin.address().map_or_else(String::new, |address| address.to_string());
        let admin = self.admin.start(stopped.clone())?;
        // Nobody waits for their ends: they only read.
        drop(containerd::start(Arc::clone(&self.registry), self.containerd, stopped.clone())?);
        drop(node::start(self.registry, self.periods, stopped.clone())?);
        let ingest = tokio::spawn(self.listener.run(stopped.clone()));
        self.ready.send_replace(true);
        info!(version = env!("CARGO_PKG_VERSION"), %metrics, "collector is ready");
        let Self { reloader, journal, sinks, outlets, ready, terminate, interrupt, hangup, .. } = self;
        Ok(Running { ingest, admin, reloader, journal, sinks, outlets, ready, terminate, interrupt, hangup })
    }
}

// === impl Running ===

impl Running {
    /// Waits for a signal, then ends everything in order.
    async fn until_signal(mut self, stop: watch::Sender<bool>) {
        self.signalled().await;
        info!("stopping");
        self.ready.send_replace(false);
        stop.send_replace(true);
        let deadline = Instant::now() + DRAIN;
        if timeout(DRAIN, self.ingest).await.is_err() {
            warn!("connections did not end in time");
        }
        // The queues' last entrances close, and the journal's threads end when they are empty.
        drop(self.outlets);
        for writer in &self.journal {
            if !ended(|| writer.is_finished(), deadline).await {
                warn!(dir = %writer.dir().display(), "unwritten output is left; its wrappers keep it");
                writer.give_up();
            }
        }
        for sink in self.sinks {
            if !ended(|| sink.is_finished(), deadline).await {
                warn!(sink = sink.name(), "undelivered records are left; the journal keeps them");
                sink.give_up();
            }
        }
        // All are told before any is waited for.
        let settled = || self.journal.iter().filter(|head| !head.settle()).count() == 0;
        ended(settled, Instant::now() + SETTLE).await;
        ended(|| self.admin.is_finished(), deadline).await;
    }

    /// Waits for the signal to end, and does meanwhile what nobody else is there for.
    async fn signalled(&mut self) {
        let watching = journal::say_what_hangs(&self.journal);
        tokio::pin!(watching);
        loop {
            tokio::select! {
                never = &mut watching => match never {},
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                // What came of it is in the log: nobody waits for an answer.
                _ = self.hangup.recv() => drop(self.reloader.reload()),
            }
        }
    }
}

/// Waits for a thread to end, until `deadline`. Threads cannot be awaited, and this happens once.
async fn ended(is_finished: impl Fn() -> bool, deadline: Instant) -> bool {
    while !is_finished() {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(Duration::from_millis(5)).await;
    }
    true
}
