//! The task service of the stand-in: upstream's generated trait, scripted processes behind it.
//!
//! Answers, codes and order of events are those of the runc shim: Wait answers at the exit and not at the end
//! of output, Delete waits for the end of output, Kill after the exit is NotFound, Shutdown is ignored while
//! there are tasks.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use containerd_shim_protos::{
    api,
    cgroups::metrics::{CPUStat, CPUUsage, MemoryEntry, MemoryStat, Metrics},
    protobuf::{
        EnumOrUnknown, Message, MessageField, well_known_types::any::Any,
        well_known_types::timestamp::Timestamp,
    },
    shim_async::Task,
};
use tokio::{
    sync::{self, watch},
    time::timeout,
};
use ttrpc::{Code, asynchronous::TtrpcContext, error::get_rpc_status};

use super::{
    journal::Journal,
    kata::{Profile, guest::Guest, household::Household},
    process::{Phase, Process, Stdio},
    script::Script,
};

/// The runc shim's limit for the end of output in Delete (from 1.7.29, 2.0.7, 2.1.5, 2.2).
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// Process ids start beyond the largest pid_max there is (2^22), so that they are nobody's.
const FIRST_PID: u32 = 4_194_305;

/// Answers of the service.
type Answered<T> = ttrpc::Result<T>;

/// Name of a process: task id and exec id.
type Name = (String, String);

/// All tasks of one stand-in.
#[derive(Debug)]
pub struct Tasks {
    processes: Mutex<HashMap<Name, Arc<Process>>>,
    journal: Arc<Journal>,
    next_pid: AtomicU32,
    stats_asked: AtomicU64,
    over: watch::Sender<bool>,
    profile: Profile,
    /// Of tasks whose script has none.
    guest: Option<Guest>,
    /// What the sandbox has on its host, once there is a task.
    household: Mutex<Option<Household>>,
    /// What Kata's Go shim holds in nearly every call.
    one_at_a_time: sync::Mutex<()>,
}

/// The calls in which Kata's Go shim holds `service.mu` (`src/runtime/pkg/containerd-shim-v2/service.go`), Stats among them
/// for as long as the guest takes. Wait is not one.
const HELD: &[&str] =
    &["Create", "Start", "Delete", "Exec", "State", "Pause", "Kill", "CloseIO", "Stats", "Update", "Connect"];
/// How long Kata's shims wait for the agent's answer to Stats (`virtcontainers/kata_agent.go`), unless the request says less.
const AGENT_LIMIT: Duration = Duration::from_secs(60);

impl Tasks {
    /// No tasks yet, in the manner of this shim, with this guest where a script has none.
    #[must_use]
    pub fn new(journal: Arc<Journal>, profile: Profile, guest: Option<Guest>) -> Self {
        Self {
            processes: Mutex::default(),
            journal,
            next_pid: AtomicU32::new(FIRST_PID),
            stats_asked: AtomicU64::new(0),
            over: watch::Sender::new(false),
            profile,
            guest,
            household: Mutex::default(),
            one_at_a_time: sync::Mutex::default(),
        }
    }

    /// What a call holds until it is answered, in a shim that does one at a time.
    pub async fn hold(&self, method: &str) -> Option<sync::MutexGuard<'_, ()>> {
        let held = matches!(self.profile, Profile::Go(_)) && HELD.contains(&method);
        if held { Some(self.one_at_a_time.lock().await) } else { None }
    }

    /// Becomes true when Shutdown was asked for and no task is left.
    #[must_use]
    pub fn over(&self) -> watch::Receiver<bool> {
        self.over.subscribe()
    }

    /// To be called when a Shutdown has been answered: containerd gets the answer before the end of file.
    pub fn shutdown_answered(&self) {
        if self.table().is_empty() {
            if let Some(household) = &mut *self.household.lock().unwrap_or_else(PoisonError::into_inner) {
                household.end();
            }
            self.over.send_replace(true);
        }
    }

    /// Does this task's first process run?
    #[must_use]
    pub fn runs(&self, id: &str) -> bool {
        self.find(id, "").is_ok_and(|process| process.phase() == Phase::Running)
    }

    /// Its guest's kernel kills it.
    pub fn kill_for_memory(&self, id: &str) {
        if let Ok(process) = self.find(id, "") {
            process.kill(9);
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Name, Arc<Process>>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &str, exec_id: &str) -> Answered<Arc<Process>> {
        self.table()
            .get(&(id.to_owned(), exec_id.to_owned()))
            .cloned()
            .ok_or_else(|| get_rpc_status(Code::NOT_FOUND, format!("process {id:?} {exec_id:?}: not found")))
    }

    fn add(&self, process: Process) -> Answered<Arc<Process>> {
        let name = (process.id.clone(), process.exec_id.clone());
        let process = Arc::new(process);
        let mut table = self.table();
        if table.contains_key(&name) {
            return Err(get_rpc_status(
                Code::ALREADY_EXISTS,
                format!("{} {}: already exists", name.0, name.1),
            ));
        }
        table.insert(name, Arc::clone(&process));
        Ok(process)
    }

    fn remove(&self, process: &Process) {
        self.table().remove(&(process.id.clone(), process.exec_id.clone()));
    }

    /// The hypervisor's, where there is one; else one of nobody's.
    fn new_pid(&self, sandbox: &str) -> Answered<u32> {
        let mut household = self.household.lock().unwrap_or_else(PoisonError::into_inner);
        if household.is_none() {
            *household = Household::start(sandbox, self.profile, &self.journal).map_err(fault)?;
        }
        Ok(household.as_ref().map_or_else(|| self.next_pid(), Household::pid))
    }

    fn next_pid(&self) -> u32 {
        self.next_pid.fetch_add(1, Ordering::Relaxed)
    }
}

#[async_trait]
impl Task for Tasks {
    async fn create(
        &self,
        _: &TtrpcContext,
        req: api::CreateTaskRequest,
    ) -> Answered<api::CreateTaskResponse> {
        let script = Script::of_bundle(Path::new(&req.bundle)).map_err(fault)?;
        let stdio =
            Stdio { stdin: req.stdin, stdout: req.stdout, stderr: req.stderr, terminal: req.terminal };
        let (refused, later) = (script.create_refused, script.opened_at_start);
        let process = self.add(Process::new(&req.id, "", self.new_pid(&req.id)?, stdio, script))?;
        let opened = if later { Ok(()) } else { process.open().await.map_err(fault) };
        let opened = opened.and_then(|()| match refused {
            0 => Ok(()),
            code => Err(refusal(code)),
        });
        if let Err(e) = opened {
            process.close().await;
            self.remove(&process);
            return Err(e);
        }
        Ok(api::CreateTaskResponse { pid: process.pid, ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, req: api::StartRequest) -> Answered<api::StartResponse> {
        let process = self.find(&req.id, &req.exec_id)?;
        if process.phase() != Phase::Created {
            return Err(get_rpc_status(Code::FAILED_PRECONDITION, "process was started before"));
        }
        if process.script.start_refused != 0 {
            return Err(refusal(process.script.start_refused));
        }
        if !process.exec_id.is_empty() || process.script.opened_at_start {
            process.open().await.map_err(fault)?;
        }
        let pid = process.pid;
        process.run(Arc::clone(&self.journal));
        Ok(api::StartResponse { pid, ..Default::default() })
    }

    async fn exec(&self, _: &TtrpcContext, req: api::ExecProcessRequest) -> Answered<api::Empty> {
        self.find(&req.id, "")?;
        let script = Script::of_json(&req.spec.value).map_err(fault)?;
        let stdio =
            Stdio { stdin: req.stdin, stdout: req.stdout, stderr: req.stderr, terminal: req.terminal };
        self.add(Process::new(&req.id, &req.exec_id, self.next_pid(), stdio, script))?;
        Ok(api::Empty::default())
    }

    async fn state(&self, _: &TtrpcContext, req: api::StateRequest) -> Answered<api::StateResponse> {
        let p = self.find(&req.id, &req.exec_id)?;
        let (status, exit_status) = match p.phase() {
            Phase::Created => (api::Status::CREATED, 0),
            Phase::Running => (api::Status::RUNNING, 0),
            Phase::Stopped(status) => (api::Status::STOPPED, status),
        };
        let io = &p.stdio;
        Ok(api::StateResponse {
            id: p.id.clone(),
            exec_id: p.exec_id.clone(),
            pid: p.pid,
            status: EnumOrUnknown::new(status),
            exit_status,
            stdin: io.stdin.clone(),
            stdout: io.stdout.clone(),
            stderr: io.stderr.clone(),
            terminal: io.terminal,
            ..Default::default()
        })
    }

    async fn wait(&self, _: &TtrpcContext, req: api::WaitRequest) -> Answered<api::WaitResponse> {
        let process = self.find(&req.id, &req.exec_id)?;
        let exit_status = process.exited().await;
        // A sleep of no time is one to the timer's next tick.
        if process.script.wait_delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(process.script.wait_delay_ms)).await;
        }
        Ok(api::WaitResponse { exit_status, exited_at: now(), ..Default::default() })
    }

    async fn kill(&self, _: &TtrpcContext, req: api::KillRequest) -> Answered<api::Empty> {
        let process = self.find(&req.id, &req.exec_id)?;
        tokio::time::sleep(Duration::from_millis(process.script.kill_delay_ms)).await;
        match process.phase() {
            Phase::Stopped(_) => Err(get_rpc_status(Code::NOT_FOUND, "process already finished: not found")),
            Phase::Created | Phase::Running => {
                process.kill(req.signal);
                Ok(api::Empty::default())
            }
        }
    }

    async fn delete(&self, _: &TtrpcContext, req: api::DeleteRequest) -> Answered<api::DeleteResponse> {
        let process = self.find(&req.id, &req.exec_id)?;
        let exit_status = match process.phase() {
            Phase::Running => {
                return Err(get_rpc_status(Code::FAILED_PRECONDITION, "cannot delete a running process"));
            }
            Phase::Created => 0,
            Phase::Stopped(status) => {
                // Like the runc shim, give up on a stuck reader rather than on the container.
                let _late = timeout(DRAIN_LIMIT, process.drained()).await;
                status
            }
        };
        process.close().await;
        self.remove(&process);
        Ok(api::DeleteResponse { pid: process.pid, exit_status, exited_at: now(), ..Default::default() })
    }

    async fn stats(&self, ctx: &TtrpcContext, req: api::StatsRequest) -> Answered<api::StatsResponse> {
        let process = self.find(&req.id, "")?;
        let delay = Duration::from_millis(process.script.stats_delay_ms);
        if self.profile == Profile::Runc {
            tokio::time::sleep(delay).await;
        } else {
            guest_answers(ctx, delay).await?;
        }
        if process.script.stats_refused != 0 {
            return Err(refusal(process.script.stats_refused));
        }
        let first = process.stats_asked.fetch_add(1, Ordering::Relaxed) == 0;
        let later = process.script.guest_later.as_ref().filter(|_| !first);
        let guest = later.or(process.script.guest.as_ref()).or(self.guest.as_ref()).cloned();
        let grows = process.script.guest_grows.as_ref();
        let guest = guest.map(|guest| grows.map_or(guest.clone(), |by| guest.after(process.age(), by)));
        if let Some(guest) = guest
            && let Some(any) = self.profile.stats(&guest).map_err(fault)?
        {
            return Ok(api::StatsResponse { stats: MessageField::some(any), ..Default::default() });
        }
        let asked = self.stats_asked.fetch_add(1, Ordering::Relaxed) + 1;
        let value = metrics(asked).write_to_bytes().map_err(|e| fault(e.into()))?;
        let any =
            Any { type_url: "io.containerd.cgroups.v1.Metrics".to_owned(), value, ..Default::default() };
        Ok(api::StatsResponse { stats: MessageField::some(any), ..Default::default() })
    }

    async fn connect(&self, _: &TtrpcContext, req: api::ConnectRequest) -> Answered<api::ConnectResponse> {
        // Answered for unknown ids too, as the runc shim does.
        let task_pid = self.find(&req.id, "").map(|p| p.pid).unwrap_or_default();
        let version = "standin".to_owned();
        Ok(api::ConnectResponse { shim_pid: std::process::id(), task_pid, version, ..Default::default() })
    }

    async fn pids(&self, _: &TtrpcContext, req: api::PidsRequest) -> Answered<api::PidsResponse> {
        let pid = self.find(&req.id, "")?.pid;
        let info = api::ProcessInfo { pid, ..Default::default() };
        Ok(api::PidsResponse { processes: vec![info], ..Default::default() })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: api::ShutdownRequest) -> Answered<api::Empty> {
        Ok(api::Empty::default())
    }

    async fn close_io(&self, _: &TtrpcContext, req: api::CloseIORequest) -> Answered<api::Empty> {
        self.find(&req.id, &req.exec_id).map(|_| api::Empty::default())
    }

    async fn resize_pty(&self, _: &TtrpcContext, req: api::ResizePtyRequest) -> Answered<api::Empty> {
        self.find(&req.id, &req.exec_id).map(|_| api::Empty::default())
    }

    async fn update(&self, _: &TtrpcContext, req: api::UpdateTaskRequest) -> Answered<api::Empty> {
        self.find(&req.id, "").map(|_| api::Empty::default())
    }

    async fn pause(&self, _: &TtrpcContext, req: api::PauseRequest) -> Answered<api::Empty> {
        self.find(&req.id, "").map(|_| api::Empty::default())
    }

    async fn resume(&self, _: &TtrpcContext, req: api::ResumeRequest) -> Answered<api::Empty> {
        self.find(&req.id, "").map(|_| api::Empty::default())
    }
}

/// Waits for a guest that takes `delay`, no longer than Kata's shims do.
async fn guest_answers(ctx: &TtrpcContext, delay: Duration) -> Answered<()> {
    let asked = u64::try_from(ctx.timeout_nano).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos);
    let limit = asked.map_or(AGENT_LIMIT, |asked| asked.min(AGENT_LIMIT));
    tokio::time::sleep(delay.min(limit)).await;
    if delay > limit {
        Err(get_rpc_status(Code::DEADLINE_EXCEEDED, "context deadline exceeded"))
    } else {
        Ok(())
    }
}

/// The `n`-th sample: counters that grow by a known step.
#[must_use]
pub fn metrics(n: u64) -> Metrics {
    let usage =
        CPUUsage { total: n * 1_000_000, user: n * 600_000, kernel: n * 400_000, ..Default::default() };
    let memory = MemoryStat {
        usage: MessageField::some(MemoryEntry { usage: 8 << 20, limit: 64 << 20, ..Default::default() }),
        total_inactive_file: 1 << 20,
        ..Default::default()
    };
    Metrics {
        cpu: MessageField::some(CPUStat { usage: MessageField::some(usage), ..Default::default() }),
        memory: MessageField::some(memory),
        ..Default::default()
    }
}

fn fault(e: anyhow::Error) -> ttrpc::Error {
    get_rpc_status(Code::UNKNOWN, format!("{e:#}"))
}

/// A scripted refusal, with the code that the script names.
fn refusal(code: i32) -> ttrpc::Error {
    let mut status = ttrpc::get_status(Code::UNKNOWN, "refused by the script");
    status.code = EnumOrUnknown::from_i32(code);
    ttrpc::Error::RpcStatus(status)
}

fn now() -> MessageField<Timestamp> {
    let t = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    MessageField::some(Timestamp {
        seconds: i64::try_from(t.as_secs()).unwrap_or_default(),
        nanos: i32::try_from(t.subsec_nanos()).unwrap_or_default(),
        ..Default::default()
    })
}
