//! What a wrapper needs and the inner shim's answer does not decide: made while the inner `start` is at work, so that nobody waits
//! for it.
//!
//! No process is made here: one beside the inner shim's own could be the one too many of a machine that refuses processes, and
//! then the shim would not start that starts without us.

use std::{fs::File, io::Read, os::fd::OwnedFd, path::Path, sync::atomic::Ordering};

use super::wrap::{Unwrapped, files};
use crate::{
    args::Arguments,
    block::{Block, counters::Counter},
    build_id,
    config::Config,
    inner,
    run_dir::RunDir,
    sys::{Errno, Kernel, facts, fd, process},
};

/// What a keeper may come to hold: two sockets per connection, six FIFO ends and pipes per container, of a pod of twenty with a
/// probe on each. With fewer it would leave connections waiting that the shim itself would have served.
pub(super) const DESCRIPTORS: u64 = 256;

/// All of it.
pub(super) struct Prepared {
    pub(super) run_dir: RunDir,
    /// Says who the wrapper is, but for its inner shim's socket.
    pub(super) block: Block,
    /// The pipe into which the first worker says that it is at work: out, in.
    pub(super) ready: (OwnedFd, OwnedFd),
    /// See [`super::Description`].
    pub(super) starts_loggers: bool,
    /// Likewise.
    pub(super) inner_build: String,
}

/// Makes it.
pub(super) fn prepare(config: &Config, arguments: &Arguments, inner: &Path) -> Result<Prepared, Unwrapped> {
    if let Some(limit) = process::most_descriptors().filter(|limit| *limit < DESCRIPTORS) {
        return Err(Unwrapped::Descriptors { limit });
    }
    match facts::hold() {
        Ok(true) => {}
        no => return Err(Unwrapped::Facts(no.err())),
    }
    let run_dir = RunDir::from_env();
    run_dir.make().map_err(files("making the directories of", run_dir.path()))?;
    let kernel = |doing| move |source| Unwrapped::Kernel { doing, key: arguments.id.clone(), source };
    let block = Block::create().map_err(kernel("making the memory block"))?;
    introduce(&block, config, arguments, inner, &run_dir).map_err(kernel("writing the memory block"))?;
    let ready = fd::pipe().map_err(kernel("making a pipe"))?;
    let starts_loggers = inner::is_containerds_runc_shim(inner);
    let inner_build = build_id::of(inner).ok().flatten().unwrap_or_default();
    Ok(Prepared { run_dir, block, ready, starts_loggers, inner_build })
}

/// Writes what is known of this wrapper before its inner shim is; ENAMETOOLONG where a name does not fit.
fn introduce(
    block: &Block,
    config: &Config,
    arguments: &Arguments,
    inner: &Path,
    run_dir: &RunDir,
) -> Kernel<()> {
    let tables = block.tables();
    let identity = &tables.identity;
    identity.wrapper.store(random_u64(), Ordering::Relaxed);
    let repairs = config.stats_repair.is_wanted(&arguments.invoked);
    identity.repairs_stats.store(u32::from(repairs), Ordering::Relaxed);
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let fits = [
        identity.namespace.set(&arguments.namespace),
        identity.id.set(&arguments.id),
        identity.run_dir.set(&text(run_dir.path())),
        identity.inner_binary.set(&text(inner)),
        identity.collector.set(&config.collector),
        tables.spool.disk_dir.set(&config.spool.disk_dir),
        tables.spool.memory_dir.set(&config.spool.memory_dir),
    ];
    tables.coalesce_ms.store(config.coalesce_ms, Ordering::Relaxed);
    tables.stats_interval_ms.store(config.stats_interval_ms, Ordering::Relaxed);
    tables.stats_bound_ms.store(config.stats_bound_ms, Ordering::Relaxed);
    tables.care.deaths_max.store(config.safe_mode_deaths, Ordering::Relaxed);
    let (spool, set) = (&tables.spool, &config.spool);
    spool.limit_bytes.store(set.limit_bytes, Ordering::Relaxed);
    spool.free_bytes.store(set.disk_free_bytes, Ordering::Relaxed);
    spool.free_percent.store(set.disk_free_percent, Ordering::Relaxed);
    if config.fault.is_some() {
        tables.counters.add(Counter::ConfigFaults);
    }
    if fits.contains(&false) { Err(Errno::ENAMETOOLONG) } else { Ok(()) }
}

fn random_u64() -> u64 {
    let mut bytes = [0u8; 8];
    let read = File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes));
    // Without a source of randomness time and pid are still unlike any other wrapper's on this node.
    read.map_or_else(
        |_| crate::sys::unix_ns() ^ u64::from(std::process::id()) << 40,
        |()| u64::from_ne_bytes(bytes),
    )
}
