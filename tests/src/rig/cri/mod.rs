//! CRI, the interface that the kubelet drives: pods with several containers, their logs, exec and stats.
//!
//! Blocking calls over gRPC with a limit each. Pods use the host's network, since what is under test is the runtime, except
//! for those whose network is.

mod messages;
mod remote;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use messages::{
    AttachRequest, ContainerConfig, ContainerId, ContainerMetadata, ContainerStatsResponse,
    ContainerStatusResponse, CreateContainerRequest, Empty, ExecRequest, ExecSyncRequest, ImageSpec,
    ImageStatusRequest, ImageStatusResponse, KeyValue, LinuxContainerConfig, LinuxContainerSecurityContext,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount, NamespaceOption, PodSandboxConfig,
    PodSandboxId, PodSandboxMetadata, PodSandboxStatusResponse, RunPodSandboxRequest, StopContainerRequest,
    StreamingUrl, UpdateContainerResourcesRequest,
};
pub use messages::{ContainerState, ExecSyncResponse, LinuxContainerResources};
pub use remote::Remote;

use crate::rig::eventually;
use crate::rig::image::IMAGE;

const LIMIT: Duration = Duration::from_secs(60);

/// A client of one containerd.
#[derive(Debug)]
pub struct Cri {
    runtime: Runtime,
    channel: Channel,
    cgroup: String,
    logs: PathBuf,
}

/// A pod that runs.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Sandbox id.
    pub id: String,
    namespaces: NamespaceOption,
    config: PodSandboxConfig,
}

/// What a container of a pod shall be.
#[derive(Debug, Clone, Default)]
pub struct Wanted<'a> {
    /// Its name in the pod.
    pub name: &'a str,
    /// Program and arguments.
    pub command: &'a [&'a str],
    /// With a terminal.
    pub tty: bool,
    /// With a stdin that stays open.
    pub stdin: bool,
    /// Memory limit; 0 = none.
    pub memory_limit_bytes: i64,
    /// Microseconds of CPU time in each period of 100 ms; 0 = as many as it likes.
    pub cpu_quota_us: i64,
    /// Its share of a CPU that others want too, in 1/1024; 0 = the default.
    pub cpu_shares: i64,
    /// A folder that is seen as `/host`.
    pub host: Option<&'a Path>,
    /// Its environment.
    pub env: &'a [(&'a str, &'a str)],
}

/// How a container stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Created, running, exited or unknown.
    pub state: ContainerState,
    /// Its exit status, where it has exited.
    pub exit_code: i32,
    /// containerd's word for why it exited, e.g. `OOMKilled`.
    pub reason: String,
}

/// A call that containerd refused.
#[derive(Debug, Clone)]
pub struct Refused {
    /// What was asked.
    pub method: &'static str,
    /// gRPC code.
    pub code: tonic::Code,
    /// containerd's words.
    pub message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} was refused with {:?}: {}", self.method, self.code, self.message)
    }
}

impl std::error::Error for Refused {}

impl Cri {
    /// Connects to containerd's socket. `cgroup` becomes the parent of all pods' cgroups, `logs` the folder
    /// of their log files.
    pub fn connect(socket: &Path, cgroup: &str, logs: &Path) -> Result<Cri> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.context("start a runtime")?;
        let socket = socket.to_owned();
        let channel = {
            let _inside = runtime.enter();
            // The address is not used: the connector goes to the socket.
            Endpoint::from_static("http://localhost").connect_with_connector_lazy(service_fn(move |_| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }))
        };
        let cri = Cri { runtime, channel, cgroup: format!("/{cgroup}"), logs: logs.to_owned() };
        cri.await_ready()?;
        Ok(cri)
    }

    /// Waits until CRI answers, which is later than the rest of containerd does.
    pub fn await_ready(&self) -> Result<()> {
        // Version is answered before the plugin has recovered its pods, Status only after.
        eventually(LIMIT, "CRI to answer", || Ok(self.call::<_, Empty>("Status", Empty {}).ok().map(drop)))
    }

    /// Waits until CRI knows an image, which it learns from an event some time after the import.
    pub fn await_image(&self, name: &str) -> Result<()> {
        eventually(LIMIT, &format!("CRI to know {name}"), || Ok(self.has_image(name)?.then_some(())))
    }

    /// Whether CRI knows an image now.
    pub fn has_image(&self, name: &str) -> Result<bool> {
        let request = ImageStatusRequest { image: Some(ImageSpec { image: name.to_owned() }) };
        let answer: ImageStatusResponse = self.call_service("ImageService", "ImageStatus", request)?;
        Ok(answer.image.is_some())
    }

    fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        self.call_service("RuntimeService", method, request)
    }

    fn call_service<Q, A>(&self, service: &str, method: &'static str, request: Q) -> Result<A>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let path = PathAndQuery::try_from(format!("/runtime.v1.{service}/{method}")).context("a path")?;
        let mut client = tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        let answer = self.runtime.block_on(async {
            let call = async {
                client.ready().await.map_err(|error| tonic::Status::unavailable(format!("{error:?}")))?;
                let codec = tonic_prost::ProstCodec::<Q, A>::default();
                client.unary(tonic::Request::new(request), path, codec).await
            };
            tokio::time::timeout(LIMIT, call).await
        });
        let answer = answer.with_context(|| format!("{method} was not answered within {LIMIT:?}"))?;
        let refused = |status: tonic::Status| Refused {
            method,
            code: status.code(),
            message: status.message().to_owned(),
        };
        Ok(answer.map_err(refused)?.into_inner())
    }

    /// Runs a sandbox named `name`, in the pod namespace `rig`.
    pub fn run_pod(&self, name: &str) -> Result<Pod> {
        self.run_sandbox(name, namespaces(messages::MODE_CONTAINER), &[], "")
    }

    /// The same with so many bytes promised for what runs beside its containers, as a RuntimeClass says it by `podFixed`.
    pub fn run_pod_with_overhead(&self, name: &str, bytes: i64) -> Result<Pod> {
        let overhead = LinuxContainerResources { memory_limit_in_bytes: bytes, ..Default::default() };
        let config = self.sandbox(name, &namespaces(messages::MODE_CONTAINER), &[], Some(overhead));
        self.run_configured(config, namespaces(messages::MODE_CONTAINER), "")
    }

    /// The same by another handler than the default one.
    pub fn run_pod_of_handler(&self, name: &str, handler: &str) -> Result<Pod> {
        self.run_sandbox(name, namespaces(messages::MODE_CONTAINER), &[], handler)
    }

    /// The same with annotations.
    pub fn run_pod_with_annotations(&self, name: &str, annotations: &[(&str, &str)]) -> Result<Pod> {
        self.run_sandbox(name, namespaces(messages::MODE_CONTAINER), annotations, "")
    }

    /// The same with one pid namespace for all, so that processes outlive their container's init.
    pub fn run_pod_with_shared_pids(&self, name: &str) -> Result<Pod> {
        self.run_sandbox(name, namespaces(messages::MODE_POD), &[], "")
    }

    /// The same with a network of its own, which CNI makes: a veth pair and an address.
    pub fn run_pod_with_its_own_network(&self, name: &str) -> Result<Pod> {
        let own = NamespaceOption { network: messages::MODE_POD, ..namespaces(messages::MODE_CONTAINER) };
        self.run_sandbox(name, own, &[], "")
    }

    fn run_sandbox(
        &self,
        name: &str,
        namespaces: NamespaceOption,
        annotations: &[(&str, &str)],
        handler: &str,
    ) -> Result<Pod> {
        self.run_configured(self.sandbox(name, &namespaces, annotations, None), namespaces, handler)
    }

    fn sandbox(
        &self,
        name: &str,
        namespaces: &NamespaceOption,
        annotations: &[(&str, &str)],
        overhead: Option<LinuxContainerResources>,
    ) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "rig".to_owned(),
                attempt: 0,
            }),
            log_directory: self.logs.join(name).to_string_lossy().into_owned(),
            labels: [("app".to_owned(), name.to_owned())].into(),
            annotations: annotations
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup.clone(),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces.clone()),
                }),
                overhead,
            }),
            ..PodSandboxConfig::default()
        }
    }

    fn run_configured(
        &self,
        config: PodSandboxConfig,
        namespaces: NamespaceOption,
        handler: &str,
    ) -> Result<Pod> {
        let logs = &config.log_directory;
        std::fs::create_dir_all(logs).with_context(|| format!("create {logs}"))?;
        let request =
            RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.to_owned() };
        let id = self.call::<_, PodSandboxId>("RunPodSandbox", request)?.id;
        Ok(Pod { id, namespaces, config })
    }

    /// Creates a container in `pod`; its log is `<name>.log` in the pod's folder.
    pub fn create(&self, pod: &Pod, wanted: &Wanted<'_>) -> Result<String> {
        let host = wanted.host.map(|dir| Mount {
            container_path: "/host".to_owned(),
            host_path: dir.to_string_lossy().into_owned(),
        });
        let variables = wanted
            .env
            .iter()
            .map(|(key, value)| KeyValue { key: (*key).to_owned(), value: (*value).to_owned() });
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: wanted.name.to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: IMAGE.to_owned() }),
            command: wanted.command.iter().map(|word| (*word).to_owned()).collect(),
            envs: variables.collect(),
            mounts: host.into_iter().collect(),
            labels: [("io.kubernetes.container.name".to_owned(), wanted.name.to_owned())].into(),
            log_path: format!("{}.log", wanted.name),
            stdin: wanted.stdin,
            tty: wanted.tty,
            linux: Some(LinuxContainerConfig {
                resources: Some(LinuxContainerResources {
                    cpu_period: if wanted.cpu_quota_us > 0 { 100_000 } else { 0 },
                    cpu_quota: wanted.cpu_quota_us,
                    cpu_shares: wanted.cpu_shares,
                    memory_limit_in_bytes: wanted.memory_limit_bytes,
                    oom_score_adj: 0,
                }),
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(pod.namespaces.clone()),
                }),
            }),
            ..ContainerConfig::default()
        };
        let sandbox_config = Some(pod.config.clone());
        let request =
            CreateContainerRequest { pod_sandbox_id: pod.id.clone(), config: Some(config), sandbox_config };
        Ok(self.call::<_, ContainerId>("CreateContainer", request)?.id)
    }

    /// Starts a created container.
    pub fn start(&self, id: &str) -> Result<()> {
        self.call::<_, Empty>("StartContainer", ContainerId { id: id.to_owned() }).map(drop)
    }

    /// Creates and starts.
    pub fn run(&self, pod: &Pod, wanted: &Wanted<'_>) -> Result<String> {
        loop {
            let id = self.create(pod, wanted)?;
            match self.start(&id) {
                // containerd gives a State two seconds, and a sandbox whose State came later has process 0 for it (`getProcessState` in
                // its services/tasks/local.go). Who waits for a busy machine tries again, as the kubelet does.
                Err(fault) if format!("{fault:#}").contains("/proc/0/ns/") => self.remove(&id)?,
                started => return started.map(|_| id),
            }
        }
    }

    /// Changes a container's limits, as kubelet does where a pod is resized in place.
    pub fn update(&self, id: &str, resources: LinuxContainerResources) -> Result<()> {
        let request = UpdateContainerResourcesRequest { container_id: id.to_owned(), linux: Some(resources) };
        self.call::<_, Empty>("UpdateContainerResources", request).map(drop)
    }

    /// The path of a container's log, in CRI's format.
    pub fn log_path(&self, pod: &Pod, name: &str) -> PathBuf {
        Path::new(&pod.config.log_directory).join(format!("{name}.log"))
    }

    /// How a container stands.
    pub fn status(&self, id: &str) -> Result<Status> {
        let answer: ContainerStatusResponse =
            self.call("ContainerStatus", ContainerId { id: id.to_owned() })?;
        let status = answer.status.context("a status without a status")?;
        Ok(Status { state: status.state(), exit_code: status.exit_code, reason: status.reason })
    }

    /// Waits for a container's exit.
    pub fn await_exit(&self, id: &str) -> Result<Status> {
        eventually(LIMIT, &format!("container {id} to exit"), || {
            let status = self.status(id)?;
            Ok((status.state == ContainerState::Exited).then_some(status))
        })
    }

    /// Whether a sandbox is ready, as containerd sees it.
    pub fn is_ready(&self, pod: &Pod) -> Result<bool> {
        let answer: PodSandboxStatusResponse =
            self.call("PodSandboxStatus", PodSandboxId { id: pod.id.clone() })?;
        Ok(answer.status.context("a status without a status")?.state == 0)
    }

    /// Runs a command in a container to its end; `timeout_secs` 0 = none.
    pub fn exec(&self, id: &str, command: &[&str], timeout_secs: i64) -> Result<ExecSyncResponse> {
        let cmd = command.iter().map(|word| (*word).to_owned()).collect();
        self.call("ExecSync", ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: timeout_secs })
    }

    /// The address at which a command's streams are to be had; it runs once somebody comes for them. With a terminal
    /// there is no stderr of its own.
    pub fn exec_url(&self, id: &str, command: &[&str], tty: bool) -> Result<String> {
        let request = ExecRequest {
            container_id: id.to_owned(),
            cmd: command.iter().map(|word| (*word).to_owned()).collect(),
            tty,
            stdin: true,
            stdout: true,
            stderr: !tty,
        };
        Ok(self.call::<_, StreamingUrl>("Exec", request)?.url)
    }

    /// The address at which a running container's streams are to be had.
    pub fn attach_url(&self, id: &str, tty: bool) -> Result<String> {
        let request =
            AttachRequest { container_id: id.to_owned(), stdin: true, tty, stdout: true, stderr: !tty };
        Ok(self.call::<_, StreamingUrl>("Attach", request)?.url)
    }

    /// CPU time that containerd reports for a container, in ns; none where it does not know.
    pub fn cpu_usage_ns(&self, id: &str) -> Result<Option<u64>> {
        let answer: ContainerStatsResponse =
            self.call("ContainerStats", ContainerId { id: id.to_owned() })?;
        let cpu = answer.stats.and_then(|stats| stats.cpu);
        Ok(cpu.and_then(|cpu| cpu.usage_core_nano_seconds).map(|usage| usage.value))
    }

    /// Working set and usage that containerd reports for a container, in bytes: what the kubelet has of it, and `kubectl top`
    /// of that. None where it does not know.
    pub fn memory_bytes(&self, id: &str) -> Result<Option<(u64, u64)>> {
        let answer: ContainerStatsResponse =
            self.call("ContainerStats", ContainerId { id: id.to_owned() })?;
        let memory = answer.stats.and_then(|stats| stats.memory);
        Ok(memory.and_then(|m| Some((m.working_set_bytes?.value, m.usage_bytes?.value))))
    }

    /// SIGTERM, and SIGKILL after `timeout_secs`.
    pub fn stop(&self, id: &str, timeout_secs: i64) -> Result<()> {
        let request = StopContainerRequest { container_id: id.to_owned(), timeout: timeout_secs };
        self.call::<_, Empty>("StopContainer", request).map(drop)
    }

    /// Removes a container.
    pub fn remove(&self, id: &str) -> Result<()> {
        self.removed(id, || self.call::<_, Empty>("RemoveContainer", ContainerId { id: id.to_owned() }))
    }

    /// Stops and removes a sandbox with all its containers.
    pub fn remove_pod(&self, pod: &Pod) -> Result<()> {
        self.call::<_, Empty>("StopPodSandbox", PodSandboxId { id: pod.id.clone() })?;
        let id = &pod.id;
        self.removed(id, || self.call::<_, Empty>("RemovePodSandbox", PodSandboxId { id: id.clone() }))
    }

    /// Asks again, as the kubelet does, for as long as containerd says that it still has the task of what has ended: it could not
    /// remove that at its exit where a State took longer than two seconds, and tries again some seconds later; and 1.6 takes a task
    /// whose State takes so long now for one that runs (`getProcessState` in its services/tasks/local.go, `Delete` in its
    /// container.go).
    fn removed(&self, id: &str, remove: impl Fn() -> Result<Empty>) -> Result<()> {
        eventually(LIMIT, &format!("{id} to be removed"), || match remove() {
            Err(fault) if format!("{fault:#}").contains("cannot delete running task") => Ok(None),
            removed => removed.map(Some),
        })
        .map(drop)
    }
}

/// The host's network, everything else of its own.
fn namespaces(pids: i32) -> NamespaceOption {
    NamespaceOption { network: messages::MODE_NODE, pid: pids, ipc: messages::MODE_POD }
}
