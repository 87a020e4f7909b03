//! The one table of metric names. `docs/metrics.md` is generated from it, and tests walk it: a family that no endpoint shows
//! fails, and so does one that nothing makes leave its first value (`own/moved.rs`).

/// Where a family is shown; each has exactly one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/metrics`
    Own,
    /// `/metrics/cadvisor`
    Cadvisor,
}

/// What a family's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes up, or starts again.
    Counter,
    /// Is what it is.
    Gauge,
    /// Cumulative buckets.
    Histogram,
}

/// One family.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// Where it is shown.
    pub endpoint: Endpoint,
    /// What its numbers are.
    pub kind: Kind,
    /// Labels besides those that every family of the endpoint has.
    pub labels: &'static [&'static str],
    /// One line for a person.
    pub help: &'static str,
}

/// The families of Azure's minimal ingestion profile, which is what its dashboards and rules ask for.
pub(super) static MINIMAL: [&Family; 20] = [
    &SPEC_CPU_QUOTA,
    &SPEC_CPU_PERIOD,
    &MEMORY_RSS,
    &RECEIVED_BYTES,
    &SENT_BYTES,
    &RECEIVED_PACKETS,
    &SENT_PACKETS,
    &RECEIVE_DROPPED,
    &SEND_DROPPED,
    &FS_READS,
    &FS_WRITES,
    &FS_READ_BYTES,
    &FS_WRITE_BYTES,
    &CPU_USAGE,
    &MEMORY_WORKING_SET,
    &MEMORY_CACHE,
    &MEMORY_SWAP,
    &CFS_THROTTLED_PERIODS,
    &CFS_PERIODS,
    &START_TIME,
];

macro_rules! families {
    ($($id:ident $endpoint:ident $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        $(pub(super) static $id: Family = Family {
            name: $name, endpoint: Endpoint::$endpoint, kind: Kind::$kind, labels: &[$($label),*], help: $help,
        };)+
        /// Every family, in the order of the documentation.
        #[cfg(test)]
        pub(super) static ALL: &[&Family] = &[$(&$id),+];
    };
}

families! {
    CPU_USAGE Cadvisor Counter "container_cpu_usage_seconds_total" ["cpu"] "Cumulative CPU time consumed, all CPUs together.";
    CPU_USER Cadvisor Counter "container_cpu_user_seconds_total" [] "Cumulative CPU time consumed in user mode.";
    CPU_SYSTEM Cadvisor Counter "container_cpu_system_seconds_total" [] "Cumulative CPU time consumed in the kernel.";
    CFS_PERIODS Cadvisor Counter "container_cpu_cfs_periods_total" [] "Elapsed enforcement periods of the CPU quota.";
    CFS_THROTTLED_PERIODS Cadvisor Counter "container_cpu_cfs_throttled_periods_total" [] "Enforcement periods in which the container was throttled.";
    CFS_THROTTLED Cadvisor Counter "container_cpu_cfs_throttled_seconds_total" [] "Time for which the container was throttled.";
    MEMORY_USAGE Cadvisor Gauge "container_memory_usage_bytes" [] "Memory in use, page cache included.";
    MEMORY_WORKING_SET Cadvisor Gauge "container_memory_working_set_bytes" [] "Memory in use without the inactive file cache.";
    MEMORY_RSS Cadvisor Gauge "container_memory_rss" [] "Anonymous memory in bytes.";
    MEMORY_CACHE Cadvisor Gauge "container_memory_cache" [] "Page cache in bytes.";
    MEMORY_SWAP Cadvisor Gauge "container_memory_swap" [] "Swap in use in bytes.";
    MEMORY_MAPPED Cadvisor Gauge "container_memory_mapped_file" [] "Memory-mapped files in bytes.";
    MEMORY_MAX Cadvisor Gauge "container_memory_max_usage_bytes" [] "Highest memory usage.";
    MEMORY_FAILCNT Cadvisor Counter "container_memory_failcnt" [] "How often memory usage hit its limit.";
    MEMORY_FAILURES Cadvisor Counter "container_memory_failures_total" ["failure_type", "scope"] "Page faults, all and those that had to read a disk.";
    OOM_EVENTS Cadvisor Counter "container_oom_events_total" [] "Processes killed for want of memory.";
    FS_READS Cadvisor Counter "container_fs_reads_total" ["device"] "Reads completed.";
    FS_WRITES Cadvisor Counter "container_fs_writes_total" ["device"] "Writes completed.";
    FS_READ_BYTES Cadvisor Counter "container_fs_reads_bytes_total" ["device"] "Bytes read.";
    FS_WRITE_BYTES Cadvisor Counter "container_fs_writes_bytes_total" ["device"] "Bytes written.";
    BLKIO_DEVICE Cadvisor Counter "container_blkio_device_usage_total" ["device", "major", "minor", "operation"] "Bytes read and written.";
    RECEIVED_BYTES Cadvisor Counter "container_network_receive_bytes_total" ["interface"] "Bytes that the pod received.";
    RECEIVED_PACKETS Cadvisor Counter "container_network_receive_packets_total" ["interface"] "Packets that the pod received.";
    RECEIVE_ERRORS Cadvisor Counter "container_network_receive_errors_total" ["interface"] "Errors while receiving.";
    RECEIVE_DROPPED Cadvisor Counter "container_network_receive_packets_dropped_total" ["interface"] "Packets dropped while receiving.";
    SENT_BYTES Cadvisor Counter "container_network_transmit_bytes_total" ["interface"] "Bytes that the pod sent.";
    SENT_PACKETS Cadvisor Counter "container_network_transmit_packets_total" ["interface"] "Packets that the pod sent.";
    SEND_ERRORS Cadvisor Counter "container_network_transmit_errors_total" ["interface"] "Errors while sending.";
    SEND_DROPPED Cadvisor Counter "container_network_transmit_packets_dropped_total" ["interface"] "Packets dropped while sending.";
    PROCESSES Cadvisor Gauge "container_processes" [] "Processes in the container's cgroup and below it; not of containers in a VM.";
    THREADS Cadvisor Gauge "container_threads" [] "Threads running.";
    THREADS_MAX Cadvisor Gauge "container_threads_max" [] "Most threads allowed; absent where there is no limit.";
    SPEC_CPU_QUOTA Cadvisor Gauge "container_spec_cpu_quota" [] "CPU quota in microseconds per period; absent where there is none.";
    SPEC_CPU_PERIOD Cadvisor Gauge "container_spec_cpu_period" [] "CPU period in microseconds.";
    SPEC_CPU_SHARES Cadvisor Gauge "container_spec_cpu_shares" [] "CPU shares.";
    SPEC_MEMORY_LIMIT Cadvisor Gauge "container_spec_memory_limit_bytes" [] "Memory limit; absent where there is none.";
    SPEC_SWAP_LIMIT Cadvisor Gauge "container_spec_memory_swap_limit_bytes" [] "Limit of memory and swap together; absent where there is none.";
    START_TIME Cadvisor Gauge "container_start_time_seconds" [] "When the container was started, Unix time.";
    LAST_SEEN Cadvisor Gauge "container_last_seen" [] "Time of the newest sample, Unix time.";

    BUILD_INFO Own Gauge "shimtap_build_info" ["version"] "Always 1.";
    WRAPPERS Own Gauge "shimtap_wrappers" [] "Wrappers that are connected.";
    CONTAINERS Own Gauge "shimtap_containers" ["state"] "Containers known, by state; ended ones for two minutes.";
    LOG_BYTES Own Counter "shimtap_log_bytes_total" ["stream"] "Bytes of container output in lines; what is in none is a gap.";
    LOG_LINES Own Counter "shimtap_log_lines_total" ["stream"] "Lines made of them.";
    LOG_REPEATED Own Counter "shimtap_log_repeated_bytes_total" ["stream"] "Bytes that came again after a reconnect and were dropped.";
    LOG_GAP_BYTES Own Counter "shimtap_log_gap_bytes_total" ["stream", "reason"] "Bytes of container output that are not here.";
    LOG_REDACTIONS Own Counter "shimtap_log_redactions_total" [] "Secrets that rules took out of lines.";
    LOG_REDACTED_UNSEARCHED Own Counter "shimtap_log_redacted_unsearched_total" [] "Ends of lines that rules took out unsearched: a pattern of redact had used up its time for the line.";
    LOG_LIMITED Own Counter "shimtap_log_limited_lines_total" [] "Lines in holes of reason rate_limit: what a rule's rate dropped, also under earlier collectors on this journal.";
    LOG_HOLES Own Counter "shimtap_log_holes_total" ["stream", "reason"] "Holes in container output.";
    CONTAINER_LOG_BYTES Own Counter "shimtap_container_log_bytes_total" ["container", "id", "name", "namespace", "pod", "stream"] "Bytes of this container's output in lines; absent where it is not captured.";
    CONTAINER_LOG_LINES Own Counter "shimtap_container_log_lines_total" ["container", "id", "name", "namespace", "pod", "stream"] "Lines made of them.";
    CONTAINER_LOG_GAP_BYTES Own Counter "shimtap_container_log_gap_bytes_total" ["container", "id", "name", "namespace", "pod", "stream"] "Bytes of this container's output that are not here, whatever the reason.";
    CONTAINER_LOG_STALLED Own Counter "shimtap_container_log_stalled_seconds_total" ["container", "id", "name", "namespace", "pod", "stream"] "Time for which containerd took nothing of this container's output though there was some, so that the container may have waited.";
    CREATE_SECONDS Own Histogram "shimtap_container_create_seconds" ["handler", "shim"] "Time that the shim took to create containers, of those it did create.";
    START_SECONDS Own Histogram "shimtap_container_start_seconds" ["handler", "shim"] "Time that the shim took to start containers, of those it did start.";
    EXITS Own Counter "shimtap_container_exits_total" ["handler", "shim", "class", "code"] "Containers that ended, by how; start_failure is what Create or Start refused.";
    EXECS Own Counter "shimtap_execs_total" ["handler", "shim", "outcome"] "Execs that came to their end, or were not started.";
    EXEC_SECONDS Own Histogram "shimtap_exec_seconds" ["handler", "shim"] "How long execs ran, from the answer to Start to their exit.";
    NAMESPACE_CPU Own Counter "shimtap_namespace_cpu_seconds_total" ["runtime_namespace", "namespace"] "CPU time that containers used while this collector watched, of ended ones too.";
    CONTAINER_INFO Own Gauge "shimtap_container_info" ["container", "id", "name", "namespace", "pod", "handler", "shim", "image", "image_id", "attempt"] "Always 1; what containerd's records say of a running container.";
    OVERHEAD_MEMORY Own Gauge "shimtap_pod_overhead_budget_bytes" ["namespace", "pod", "sandbox"] "Memory that the pod's RuntimeClass adds for what runs beside its containers.";
    OVERHEAD_CPU Own Gauge "shimtap_pod_overhead_budget_cores" ["namespace", "pod", "sandbox"] "CPU that it adds.";
    CONTAINERD_STATE Own Gauge "shimtap_containerd_state" ["state"] "1 for how we stand with containerd's API; unless it is up, names come from OCI annotations alone.";
    CONTAINERD_CALLS Own Counter "shimtap_containerd_calls_total" ["call", "result"] "Calls of containerd's API that came to an end.";
    CONTAINERD_OOM Own Counter "shimtap_containerd_oom_events_total" [] "Kills for want of memory that containerd told of.";
    CONTAINERD_WAITING Own Gauge "shimtap_containerd_waiting_containers" [] "Containers whose record was not had from containerd yet.";
    CUTS Own Counter "shimtap_metrics_cut_total" ["reason"] "What bounds of metrics left out, or put together with others.";
    RPC_DURATION Own Histogram "shimtap_rpc_duration_seconds" ["method"] "Time from request to answer of the inner shims.";
    RPC_ERRORS Own Counter "shimtap_rpc_errors_total" ["method"] "Answers with a status other than OK.";
    RPC_IN_FLIGHT Own Gauge "shimtap_rpc_in_flight" ["method"] "Requests without an answer.";
    RPC_OLDEST Own Gauge "shimtap_rpc_in_flight_oldest_seconds" ["method"] "Age of the oldest request without an answer.";
    WRAPPER_COUNTS Own Counter "shimtap_wrapper_counts_total" ["name"] "Counters that wrappers report, see docs/protocol.md.";
    WRAPPER_RESTARTS Own Counter "shimtap_wrapper_restarts_total" ["reason"] "Workers and keepers of wrappers that were replaced, by why.";
    WRAPPER_SAFE_MODE Own Gauge "shimtap_wrapper_safe_mode" [] "Connected wrappers that move bytes without looking into them; `shimtap ps` names them.";
    WRAPPER_GENERATION Own Gauge "shimtap_wrapper_generation" [] "Most workers that a connected wrapper has had; 1 where none was ever replaced.";
    WRAPPER_WITHOUT_WORKER Own Counter "shimtap_wrapper_without_worker_seconds_total" [] "Time in which wrappers had no worker.";
    CONNECTIONS Own Gauge "shimtap_ingest_connections" [] "Connections open.";
    CONNECTIONS_TOTAL Own Counter "shimtap_ingest_connections_total" [] "Connections accepted.";
    INGEST_FAULTS Own Counter "shimtap_ingest_faults_total" ["fault"] "Connections refused or closed because of a fault.";
    EVENTS Own Counter "shimtap_events_total" ["kind"] "Task events taken.";
    EVENTS_MISSED Own Counter "shimtap_events_missed_total" [] "Task events that never arrived, or had to make room before their task was announced.";
    SAMPLES Own Counter "shimtap_stats_samples_total" ["source"] "Statistics taken, by how the wrapper got them.";
    SAMPLES_UNUSED Own Counter "shimtap_stats_unused_total" ["reason"] "Statistics that were of no use.";
    SPOOL_FILES Own Counter "shimtap_spool_files_total" [] "Spool files of wrappers taken to their ends.";
    SPOOL_RECORDS Own Counter "shimtap_spool_records_total" [] "Records read from spool files.";
    SPOOL_ASIDE Own Counter "shimtap_spool_set_aside_total" ["reason"] "Spool files that were not as they should be, taken as far as they were right and set aside; those of reason version, which a later release wrote, are left as they are.";
    STATS_QUALITY Own Gauge "shimtap_stats_quality" ["shim", "reason"] "Containers that run and whose newest statistics have this fault; see docs/kata.md.";
    SINK_RECORDS Own Counter "shimtap_sink_records_total" ["sink"] "Records delivered.";
    SINK_BYTES Own Counter "shimtap_sink_bytes_total" ["sink"] "Bytes written or sent, encoded and compressed, repeats included.";
    SINK_WRITES Own Counter "shimtap_sink_writes_total" ["sink"] "Writes completed, of sinks that write.";
    SINK_REQUESTS Own Counter "shimtap_sink_requests_total" ["sink", "status"] "Requests of sinks that ask over HTTP, by what they were answered with.";
    SINK_REJECTED Own Counter "shimtap_sink_rejected_records_total" ["sink", "reason"] "Records that were refused for good.";
    SINK_REJECTED_BYTES Own Counter "shimtap_sink_rejected_bytes_total" ["sink", "reason"] "Container output in them, where all of a request was refused; of a part (partial_success) the endpoint only says how many records.";
    SINK_RETRIED Own Counter "shimtap_sink_retried_records_total" ["sink", "reason"] "Records of attempts that failed and were made again.";
    SINK_RETRIED_BYTES Own Counter "shimtap_sink_retried_bytes_total" ["sink", "reason"] "Container output in them.";
    SINK_ELSEWHERE Own Counter "shimtap_sink_elsewhere_bytes_total" ["sink"] "Container output that rules send to other sinks, or to none.";
    SINK_SPLITS Own Counter "shimtap_sink_splits_total" ["sink"] "Requests that were too large and went again as two.";
    SINK_ERRORS Own Counter "shimtap_sink_errors_total" ["sink", "error"] "Attempts that failed and were made again, by errno or reason.";
    SINK_IN_FLIGHT Own Gauge "shimtap_sink_in_flight" ["sink"] "Attempts on their way.";
    SINK_DURATION Own Histogram "shimtap_sink_request_duration_seconds" ["sink"] "From the beginning of an attempt to its end.";
    SINK_DELAY Own Histogram "shimtap_sink_delay_seconds" ["sink"] "From the arrival of bytes, or their being read from the journal's files, to their delivery.";
    SINK_BREAKER Own Gauge "shimtap_sink_breaker_state" ["sink"] "0 = delivering, 1 = pausing after failures in a row, 2 = trying whether it works again.";
    SINK_STALLED Own Gauge "shimtap_sink_stalled" ["sink"] "1 while the sink cannot deliver.";
    SINK_UNSETTLED Own Gauge "shimtap_sink_unsettled" ["sink"] "1 once the sink's disk has failed to take what was written: after a restart it gets again what came since.";
    SINK_LAG_BYTES Own Gauge "shimtap_sink_lag_bytes" ["sink"] "Bytes of output that are journaled and that the sink has not acknowledged.";
    SINK_LAG Own Gauge "shimtap_sink_lag_seconds" ["sink"] "How long the oldest of them has been journaled; 0 where the sink has everything.";
    SINK_GAP_BYTES Own Counter "shimtap_sink_gap_bytes_total" ["sink", "reason"] "Bytes of output that the journal had dropped or lost before the sink came to them.";
    JOURNAL_BYTES Own Gauge "shimtap_journal_bytes" [] "Bytes of the journal's files.";
    JOURNAL_FILES Own Gauge "shimtap_journal_files" [] "The journal's files.";
    JOURNAL_OLDEST Own Gauge "shimtap_journal_oldest_seconds" [] "Age of the oldest output in the journal; absent where it is empty.";
    JOURNAL_UNCLEAN Own Gauge "shimtap_journal_unclean" [] "1 where the collector that had the journal before did not end in order.";
    JOURNAL_FRAMES Own Counter "shimtap_journal_frames_total" [] "Frames appended.";
    JOURNAL_WRITTEN Own Counter "shimtap_journal_written_bytes_total" [] "Bytes appended, compressed.";
    JOURNAL_DROPPED Own Counter "shimtap_journal_dropped_bytes_total" ["reason"] "Bytes of output that were dropped from the journal, delivered or not.";
    JOURNAL_FSYNC Own Histogram "shimtap_journal_fsync_seconds" [] "Time that fdatasync took.";
    JOURNAL_ERRORS Own Counter "shimtap_journal_errors_total" ["error"] "Failures of the journal, by errno.";
    JOURNAL_STALLED Own Gauge "shimtap_journal_stalled" [] "1 while the journal cannot be written, or a write of it has not come back for 5 s, and acknowledgements are held back.";
    JOURNAL_QUEUE Own Gauge "shimtap_journal_queue_bytes" [] "Bytes waiting for the journal, memory of their records included.";
    STREAMS_OPEN_ENDED Own Gauge "shimtap_streams_open_ended" ["reason"] "Streams that the journal knows and whose end nobody told, by why; `shimtap ps --open-ended` lists them.";
    ACK_DELAY Own Histogram "shimtap_ack_delay_seconds" [] "From the arrival of bytes to their being durable.";
    SANDBOX_INFO Own Gauge "shimtap_sandbox_info" ["namespace", "pod", "sandbox", "handler", "shim", "shim_version", "shim_build_id", "hypervisor", "guest_kernel", "guest_image", "sandbox_cgroup_only", "confidential"] "Always 1: what a pod consists of that is a VM, or whose shim is known to be neither containerd's own nor Kata's; what is not known is empty.";
    COMPONENT_CPU Own Counter "shimtap_component_cpu_seconds_total" ["namespace", "pod", "sandbox", "component"] "CPU time of a VM's processes on this host.";
    COMPONENT_MEMORY Own Gauge "shimtap_component_memory_bytes" ["namespace", "pod", "sandbox", "component", "kind"] "Memory of a VM's processes on this host; rss of vmm and virtiofsd overlap, swap of vmm is not known (shared memory is not counted), pss is read once a minute where it may be.";
    COMPONENT_THREADS Own Gauge "shimtap_component_threads" ["namespace", "pod", "sandbox", "component"] "Threads of a VM's processes on this host.";
    VM_MEMORY Own Gauge "shimtap_vm_memory_bytes" ["namespace", "pod", "sandbox", "kind"] "Memory that a VM was given.";
    VM_VCPUS Own Gauge "shimtap_vm_vcpus" ["namespace", "pod", "sandbox"] "vCPUs of a VM.";
    VCPU_RUN Own Counter "shimtap_vcpu_run_seconds_total" ["namespace", "pod", "sandbox"] "Time for which a VM's vCPUs ran.";
    VCPU_WAIT Own Counter "shimtap_vcpu_wait_seconds_total" ["namespace", "pod", "sandbox"] "Time for which a VM's vCPUs waited for a processor of this host: what the guest sees as steal.";
    POD_HOST_MEMORY Own Gauge "shimtap_pod_host_memory_bytes" ["namespace", "pod", "sandbox"] "Memory that this host charges a VM's cgroups with, page cache included.";
    POD_HOST_CPU Own Counter "shimtap_pod_host_cpu_seconds_total" ["namespace", "pod", "sandbox"] "CPU time that this host charges a VM's cgroups with.";
    POD_OVERHEAD_MEMORY Own Gauge "shimtap_pod_overhead_memory_bytes" ["namespace", "pod", "sandbox"] "The same without what the containers in it use by their guest's count; may be below 0.";
    POD_OVERHEAD_CPU Own Gauge "shimtap_pod_overhead_cpu_seconds" ["namespace", "pod", "sandbox"] "CPU time beyond what the containers in a VM used, since this collector first saw it; may be below 0.";
    LOG_REDACTED Own Gauge "shimtap_log_redacted" ["namespace", "pod", "sandbox"] "Streams of a pod's running containers, init process only, that ended without a byte, where a policy is a likely cause: confidential, on a remote hypervisor, or its Stats is denied.";
    SANDBOX_DEATHS Own Counter "shimtap_sandbox_deaths_total" ["cause"] "VMs that nobody ended: their shim or their hypervisor died under their containers.";
    ORPHANS Own Gauge "shimtap_orphans" ["kind"] "What Kata left behind on this node; `shimtap ps --orphans` lists it with proof.";
    METRICS_UNSAFE Own Gauge "shimtap_kata_metrics_unsafe" [] "Pods that one GET of their shim's own metrics would end, as kata-monitor makes it.";
    PROCESS_CPU Own Counter "process_cpu_seconds_total" [] "CPU time of the collector.";
    PROCESS_RSS Own Gauge "process_resident_memory_bytes" [] "Resident memory of the collector.";
    PROCESS_VIRTUAL Own Gauge "process_virtual_memory_bytes" [] "Virtual memory of the collector.";
    PROCESS_FDS Own Gauge "process_open_fds" [] "Open descriptors of the collector.";
    PROCESS_MAX_FDS Own Gauge "process_max_fds" [] "Most descriptors the collector may open.";
    PROCESS_START Own Gauge "process_start_time_seconds" [] "When the collector was started, Unix time.";
}
