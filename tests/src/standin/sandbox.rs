//! The sandbox service of the stand-in: a sandbox that is asked for and stopped by its own calls, as containerd does with
//! `sandboxer = "shim"`.
//!
//! It answers what Kata's Rust shim answers (kata-containers, `crates/service/src/sandbox_service.rs`; seen of 4.1.0: no Ping,
//! no SandboxMetrics), always in the same bytes, so that an answer can be held against another stand-in's.

use async_trait::async_trait;
use containerd_shim_protos::{
    protobuf::{MessageField, well_known_types::timestamp::Timestamp},
    sandbox_api as api,
    sandbox_async::Sandbox,
    types::platform,
};
use tokio::sync::watch;
use ttrpc::{Code, asynchronous::TtrpcContext, error::get_rpc_status};

/// The service's name.
pub const SANDBOX: &str = "containerd.runtime.sandbox.v1.Sandbox";
/// A number beyond every kernel's pid_max.
const PID: u32 = 4_194_304;
/// When everything happened, in seconds since 1970.
const THEN: i64 = 1_790_000_000;

/// Where the sandbox is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Absent,
    Created,
    Ready,
    Stopped,
}

/// The one sandbox of a stand-in.
#[derive(Debug, Default)]
pub struct Sandboxes {
    phase: watch::Sender<Phase>,
}

impl Sandboxes {
    fn go(&self, from: &[Phase], to: Phase) -> ttrpc::Result<()> {
        let mut went = false;
        self.phase.send_if_modified(|now| {
            went = from.contains(now);
            if went {
                *now = to;
            }
            went
        });
        let refused = || get_rpc_status(Code::FAILED_PRECONDITION, format!("sandbox cannot become {to:?}"));
        if went { Ok(()) } else { Err(refused()) }
    }
}

#[async_trait]
impl Sandbox for Sandboxes {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        _: api::CreateSandboxRequest,
    ) -> ttrpc::Result<api::CreateSandboxResponse> {
        self.go(&[Phase::Absent], Phase::Created)?;
        Ok(api::CreateSandboxResponse::default())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        _: api::StartSandboxRequest,
    ) -> ttrpc::Result<api::StartSandboxResponse> {
        self.go(&[Phase::Created], Phase::Ready)?;
        Ok(api::StartSandboxResponse { pid: PID, created_at: then(), ..Default::default() })
    }

    async fn platform(
        &self,
        _: &TtrpcContext,
        _: api::PlatformRequest,
    ) -> ttrpc::Result<api::PlatformResponse> {
        let platform = platform::Platform {
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            ..Default::default()
        };
        Ok(api::PlatformResponse { platform: MessageField::some(platform), ..Default::default() })
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        _: api::StopSandboxRequest,
    ) -> ttrpc::Result<api::StopSandboxResponse> {
        self.go(&[Phase::Created, Phase::Ready, Phase::Stopped], Phase::Stopped)?;
        Ok(api::StopSandboxResponse::default())
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        _: api::WaitSandboxRequest,
    ) -> ttrpc::Result<api::WaitSandboxResponse> {
        // The sender is this service's own: it does not go away first.
        let mut phase = self.phase.subscribe();
        let _stopped = phase.wait_for(|phase| *phase == Phase::Stopped).await.map(drop);
        Ok(api::WaitSandboxResponse { exit_status: 137, exited_at: then(), ..Default::default() })
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        req: api::SandboxStatusRequest,
    ) -> ttrpc::Result<api::SandboxStatusResponse> {
        let ready = *self.phase.borrow() == Phase::Ready;
        Ok(api::SandboxStatusResponse {
            sandbox_id: req.sandbox_id,
            pid: PID,
            state: if ready { "SANDBOX_READY" } else { "SANDBOX_NOTREADY" }.to_owned(),
            created_at: then(),
            ..Default::default()
        })
    }

    async fn ping_sandbox(&self, _: &TtrpcContext, _: api::PingRequest) -> ttrpc::Result<api::PingResponse> {
        Err(get_rpc_status(Code::UNIMPLEMENTED, "ping_sandbox is not implemented"))
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        _: api::ShutdownSandboxRequest,
    ) -> ttrpc::Result<api::ShutdownSandboxResponse> {
        Ok(api::ShutdownSandboxResponse::default())
    }
}

fn then() -> MessageField<Timestamp> {
    MessageField::some(Timestamp { seconds: THEN, ..Default::default() })
}
