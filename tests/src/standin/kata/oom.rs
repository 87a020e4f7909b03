//! A kill for want of memory within a guest, as Kata's shims tell of it: by an event (`TaskOOM`) that the shim itself publishes at
//! the address that containerd gave to its `start`, and by nothing else; then by the exit of what was killed (seen,
//! `collector/tests/fixtures/kata`: `/tasks/oom` comes before the exit with 137).
//!
//! A test has it happen by writing the container's id into the file that [`KEY`] names. Nobody passes the event on but containerd. Behind
//! [`UNTOLD`] it is the guest as a whole that has no memory left: the exit is the same, and there is no event (seen).

use std::{
    env, fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use containerd_shim_protos::{
    api::ForwardRequest,
    events::task::TaskOOM,
    protobuf::{Message, MessageField, well_known_types::any::Any, well_known_types::timestamp::Timestamp},
    shim::event::Envelope,
    shim_async::{Client, EventsClient},
    topics::TASK_OOM_EVENT_TOPIC,
};

use crate::standin::task::Tasks;

/// The variable that names the file.
pub const KEY: &str = "STANDIN_OOM";
/// Stands before the id of one that nobody tells of.
pub const UNTOLD: &str = "untold ";
/// What containerd calls the address for events.
const ADDRESS: &str = "TTRPC_ADDRESS";
/// How often it is looked for the file.
const LOOK: Duration = Duration::from_millis(50);
/// For containerd's answer; the Go shim gives up after as long (`virtcontainers`, containerd's `RemoteEventsPublisher`).
const LIMIT: Duration = Duration::from_secs(5);

/// Kills those that the file names, one after the other; never without the variable.
///
/// # Errors
/// containerd does not take the event, or there is no address of it.
pub async fn watch(tasks: Arc<Tasks>) -> Result<()> {
    let Some(path) = env::var_os(KEY).map(PathBuf::from) else { return Ok(()) };
    loop {
        let named = fs::read_to_string(&path).unwrap_or_default();
        let told = named.strip_prefix(UNTOLD).is_none();
        let named = named.trim().trim_start_matches(UNTOLD);
        if tasks.runs(named) {
            if told {
                publish(named).await?;
            }
            fs::remove_file(&path).context("what is done with")?;
            tasks.kill_for_memory(named);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn publish(container: &str) -> Result<()> {
    let address = env::var(ADDRESS).with_context(|| format!("{ADDRESS} did not come through"))?;
    let client = Client::connect(&format!("unix://{address}")).await.context("containerd's events")?;
    let event = TaskOOM { container_id: container.to_owned(), ..Default::default() };
    let event = Any {
        type_url: "containerd.events.TaskOOM".to_owned(),
        value: event.write_to_bytes()?,
        ..Default::default()
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let timestamp = Timestamp {
        seconds: i64::try_from(now.as_secs())?,
        nanos: i32::try_from(now.subsec_nanos())?,
        ..Default::default()
    };
    let envelope = Envelope {
        timestamp: MessageField::some(timestamp),
        namespace: namespace().context("no -namespace was given")?,
        topic: TASK_OOM_EVENT_TOPIC.to_owned(),
        event: MessageField::some(event),
        ..Default::default()
    };
    let request = ForwardRequest { envelope: MessageField::some(envelope), ..Default::default() };
    let timeout = ttrpc::context::with_duration(LIMIT);
    EventsClient::new(client).forward(timeout, &request).await.context("containerd takes no event")?;
    Ok(())
}

/// As the command line says.
fn namespace() -> Option<String> {
    let mut args = env::args();
    args.find(|arg| arg.trim_start_matches('-') == "namespace")?;
    args.next()
}
