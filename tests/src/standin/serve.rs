//! The stand-in's server: upstream's frames and generated dispatch under Go's rules for connections.
//!
//! Upstream's own `Server` cannot be used here: it has no catch-all handler, answers InvalidArgument where Go
//! answers Unimplemented, and does not mind reused stream ids. Go does, and containerd's runc shim is Go: a
//! doubled request must fail here as it fails there. Every frame is in the journal before it is acted upon; if
//! the journal cannot be written the process ends, because a stand-in that does not count is worthless.

use std::{collections::HashMap, io, os::fd::OwnedFd, os::unix::net, path::PathBuf, process, sync::Arc};

use anyhow::{Context, Result};
use containerd_shim_protos::{
    api,
    protobuf::Message,
    sandbox_async::{Sandbox, create_sandbox},
    shim_async::{Task, create_task},
};
use tokio::{
    io::AsyncWriteExt,
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Mutex,
    task::JoinSet,
};
use ttrpc::{
    Code, Request, Response,
    asynchronous::{Service, TtrpcContext},
    get_status,
    proto::{
        FLAG_REMOTE_CLOSED, FLAG_REMOTE_OPEN, GenMessage, GenMessageError, MESSAGE_TYPE_DATA,
        MESSAGE_TYPE_REQUEST, MessageHeader,
    },
};

use super::{
    journal::{Entry, Journal, Kind, hash},
    kata::{Profile, guest::Guest, oom},
    sandbox::{SANDBOX, Sandboxes},
    task::Tasks,
};

/// The task service up to containerd 1.7, and of Kata still.
pub const TASK_V2: &str = "containerd.task.v2.Task";
/// The task service from containerd 2.0 on.
pub const TASK_V3: &str = "containerd.task.v3.Task";
/// The one service that uses ttrpc streams; the stand-in sends every data frame back.
pub const STREAMING: &str = "containerd.services.streaming.v1.Streaming";

/// What all connections share.
struct Shared {
    tasks: Arc<Tasks>,
    services: HashMap<String, Service>,
    journal: Arc<Journal>,
}

/// Ends the process because its journal no longer holds.
pub(crate) fn give_up(why: &anyhow::Error) -> ! {
    eprintln!("stand-in: {why:#}");
    process::exit(70)
}

/// Serves the listener until Shutdown finds no task. `apis` are the versions of the task service to offer.
///
/// # Errors
/// The runtime or the listener cannot be set up.
pub fn serve(listener: OwnedFd, apis: &[u32], journal: Arc<Journal>, unlink: Vec<PathBuf>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    runtime.block_on(async move {
        let listener = net::UnixListener::from(listener);
        listener.set_nonblocking(true).context("listener")?;
        let listener = UnixListener::from_std(listener).context("listener")?;
        let tasks = Arc::new(Tasks::new(Arc::clone(&journal), Profile::of_env()?, Guest::of_env()?));
        let mut over = tasks.over();
        let killed = Arc::clone(&tasks);
        tokio::spawn(async move {
            if let Err(e) = oom::watch(killed).await {
                give_up(&e);
            }
        });
        let services = services(&tasks, apis);
        let shared = Arc::new(Shared { tasks, services, journal });
        let mut number = 0;
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (stream, _) = accepted.context("accept")?;
                    number += 1;
                    tokio::spawn(connection(number, stream, Arc::clone(&shared)));
                }
                _ = over.wait_for(|o| *o) => break,
            }
        }
        for path in unlink {
            let _gone = std::fs::remove_file(path);
        }
        process::exit(0)
    })
}

/// The generated dispatch table, under the name of each version that is offered.
fn services(tasks: &Arc<Tasks>, apis: &[u32]) -> HashMap<String, Service> {
    let mut all = HashMap::new();
    for api in apis {
        // Upstream generates v3 only; v2 has the same methods and messages under another name.
        let service: Arc<dyn Task + Send + Sync> = Arc::clone(tasks) as _;
        let name = if *api == 2 { TASK_V2 } else { TASK_V3 };
        all.extend(create_task(service).into_values().map(|s| (name.to_owned(), s)));
    }
    let sandbox: Arc<dyn Sandbox + Send + Sync> = Arc::new(Sandboxes::default());
    all.extend(create_sandbox(sandbox).into_values().map(|s| (SANDBOX.to_owned(), s)));
    all
}

/// What belongs to one connection.
struct Link {
    number: u64,
    shared: Arc<Shared>,
    writer: Arc<Mutex<OwnedWriteHalf>>,
    last_stream: u32,
    open_streams: Vec<u32>,
    cancelled_at_eof: JoinSet<()>,
}

async fn connection(number: u64, stream: UnixStream, shared: Arc<Shared>) {
    let ours = nix::unistd::geteuid().as_raw();
    if stream.peer_cred().map(|c| c.uid()).unwrap_or(u32::MAX) != ours {
        return;
    }
    note(&shared, &Entry::new(Kind::Open, number));
    let (reader, writer) = stream.into_split();
    let writer = Arc::new(Mutex::new(writer));
    let mut link = Link {
        number,
        shared: Arc::clone(&shared),
        writer: Arc::clone(&writer),
        last_stream: 0,
        open_streams: Vec::new(),
        cancelled_at_eof: JoinSet::new(),
    };
    link.receive(reader).await;
    drop(link);
    let _peer_gone = writer.lock().await.shutdown().await;
    note(&shared, &Entry::new(Kind::Close, number));
}

fn note(shared: &Shared, entry: &Entry) {
    if let Err(e) = shared.journal.append(entry) {
        give_up(&e);
    }
}

impl Link {
    /// Takes frames until the peer is gone.
    async fn receive(&mut self, mut reader: OwnedReadHalf) {
        loop {
            match GenMessage::read_from(&mut reader).await {
                Ok(frame) => self.frame(frame).await,
                Err(GenMessageError::ReturnError(header, _)) => {
                    let mut entry = self.entry(Kind::Oversize, &header);
                    entry.bytes = header.length.into();
                    note(&self.shared, &entry);
                    self.refuse(header.stream_id, Code::RESOURCE_EXHAUSTED, "message length too long").await;
                }
                Err(GenMessageError::InternalError(_)) => return,
            }
        }
    }

    fn entry(&self, kind: Kind, header: &MessageHeader) -> Entry {
        let mut entry = Entry::new(kind, self.number);
        entry.stream = header.stream_id;
        entry.flags = header.flags;
        entry
    }

    async fn frame(&mut self, frame: GenMessage) {
        match frame.header.type_ {
            MESSAGE_TYPE_REQUEST => self.request(frame).await,
            MESSAGE_TYPE_DATA => self.data(frame).await,
            // Go ignores what it does not know.
            _ => note(&self.shared, &self.measured(Kind::Odd, &frame)),
        }
    }

    fn measured(&self, kind: Kind, frame: &GenMessage) -> Entry {
        let mut entry = self.entry(kind, &frame.header);
        entry.bytes = frame.payload.len().try_into().unwrap_or(u64::MAX);
        entry.hash = hash(&frame.payload);
        entry
    }

    async fn request(&mut self, frame: GenMessage) {
        let id = frame.header.stream_id;
        let Ok(req) = Request::parse_from_bytes(&frame.payload) else {
            note(&self.shared, &self.measured(Kind::Odd, &frame));
            return self.refuse(id, Code::INVALID_ARGUMENT, "unmarshal request error").await;
        };
        let mut entry = self.measured(Kind::Request, &frame);
        describe(&mut entry, &req);
        note(&self.shared, &entry);
        if id % 2 != 1 {
            let why = "StreamID must be odd for client initiated streams";
            return self.refuse(id, Code::INVALID_ARGUMENT, why).await;
        }
        if id <= self.last_stream {
            let why = "StreamID cannot be re-used and must increment";
            return self.refuse(id, Code::INVALID_ARGUMENT, why).await;
        }
        self.last_stream = id;
        if req.service == STREAMING && frame.header.flags & FLAG_REMOTE_OPEN != 0 {
            self.open_streams.push(id);
            return;
        }
        self.dispatch(frame.header, req).await;
    }

    /// Runs the handler beside the connection, as Go does in a goroutine.
    async fn dispatch(&mut self, mh: MessageHeader, req: Request) {
        let known = self.shared.services.get(&req.service);
        let why = match known {
            None => format!("service {}", req.service),
            Some(s) if !s.methods.contains_key(&req.method) => format!("method {}", req.method),
            Some(_) => {
                let (shared, writer) = (Arc::clone(&self.shared), Arc::clone(&self.writer));
                // What only waits ends with its connection; what changes something runs to its end.
                let waits = matches!(
                    req.method.as_str(),
                    "Wait" | "Stats" | "State" | "Connect" | "Pids" | "WaitSandbox"
                );
                let work = handle(shared, writer, mh, req);
                if waits {
                    self.cancelled_at_eof.spawn(work);
                } else {
                    tokio::spawn(work);
                }
                return;
            }
        };
        self.refuse(mh.stream_id, Code::UNIMPLEMENTED, &why).await;
    }

    /// Sends a data frame back as it came.
    async fn data(&mut self, frame: GenMessage) {
        note(&self.shared, &self.measured(Kind::Data, &frame));
        let id = frame.header.stream_id;
        if !self.open_streams.contains(&id) {
            return self.refuse(id, Code::INVALID_ARGUMENT, "StreamID is no longer active").await;
        }
        if frame.header.flags & FLAG_REMOTE_CLOSED != 0 {
            self.open_streams.retain(|s| *s != id);
        }
        let _peer_gone = frame.write_to(&mut *self.writer.lock().await).await;
    }

    async fn refuse(&self, stream: u32, code: Code, why: &str) {
        let response = Response { status: Some(get_status(code, why)).into(), ..Default::default() };
        answer(&self.writer, stream, &response).await;
    }
}

async fn handle(shared: Arc<Shared>, writer: Arc<Mutex<OwnedWriteHalf>>, mh: MessageHeader, req: Request) {
    let Some(method) = shared.services.get(&req.service).and_then(|s| s.methods.get(&req.method)) else {
        return;
    };
    let shutdown = req.method == "Shutdown";
    let held = shared.tasks.hold(&req.method).await;
    let ctx = TtrpcContext { mh, timeout_nano: req.timeout_nano, ..Default::default() };
    let response = method.handler(ctx, req).await.unwrap_or_else(|e| {
        let status = match e {
            ttrpc::Error::RpcStatus(status) => status,
            other => get_status(Code::INVALID_ARGUMENT, other),
        };
        Response { status: Some(status).into(), ..Default::default() }
    });
    drop(held);
    answer(&writer, mh.stream_id, &response).await;
    if shutdown && response.status.code.value() == 0 {
        shared.tasks.shutdown_answered();
    }
}

async fn answer(writer: &Mutex<OwnedWriteHalf>, stream: u32, response: &Response) {
    let payload = match response.write_to_bytes() {
        Ok(bytes) => bytes,
        Err(e) => give_up(&anyhow::Error::new(e).context("encoding an answer")),
    };
    let header = MessageHeader::new_response(stream, payload.len().try_into().unwrap_or(u32::MAX));
    let mut writer = writer.lock().await;
    if let Err(ttrpc::Error::Socket(e)) = (GenMessage { header, payload }).write_to(&mut *writer).await {
        // The peer is gone; its end of file is seen by the reader.
        let _ = io::Error::other(e);
    }
}

/// Fills in which process a request of the task service is about.
fn describe(entry: &mut Entry, req: &Request) {
    entry.service.clone_from(&req.service);
    entry.method.clone_from(&req.method);
    if req.service != TASK_V2 && req.service != TASK_V3 {
        return;
    }
    match req.method.as_str() {
        "Create" => {
            let m = api::CreateTaskRequest::parse_from_bytes(&req.payload).unwrap_or_default();
            (entry.id, entry.stdout, entry.stderr) = (m.id, m.stdout, m.stderr);
        }
        "Exec" => {
            let m = api::ExecProcessRequest::parse_from_bytes(&req.payload).unwrap_or_default();
            (entry.id, entry.exec_id, entry.stdout, entry.stderr) = (m.id, m.exec_id, m.stdout, m.stderr);
        }
        "State" | "Start" | "Delete" | "Kill" | "ResizePty" | "CloseIO" | "Wait" => {
            // All of these have id = 1 and exec_id = 2.
            let m = api::DeleteRequest::parse_from_bytes(&req.payload).unwrap_or_default();
            (entry.id, entry.exec_id) = (m.id, m.exec_id);
        }
        _ => entry.id = api::ConnectRequest::parse_from_bytes(&req.payload).unwrap_or_default().id,
    }
}
