//! What containerd knows beside us: the records that CRI keeps of pods and containers, and the kernel's kills for want of
//! memory.
//!
//! A thread of its own with one connection to containerd's socket, which only reads: it lists records when it connects, asks
//! for those of containers that come later, and listens to `/tasks/oom`. Nothing else waits for it, for a sample or a line
//! least of all: without containerd, or with one that does not answer, everything goes on by what wrappers say (OCI
//! annotations), and that it does is shown. A container that nobody could be asked about is asked for again after the next
//! connection; one that containerd does not know, or whose record it will not give while it answers otherwise, has none: no
//! container's record may cost another one its own, or end the connection that tells of kills.

mod client;
mod messages;
mod records;

use std::{
    collections::{BTreeSet, HashMap},
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use prost::Message;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use self::{
    client::{CallFault, Client},
    messages::{Envelope, Record, TaskOom},
    records::Pod,
};
use crate::{
    config::Containerd as Config,
    enrich::{Details, Role},
    limited::Limited,
    metrics::{Container, ContainerdState as State, Registry},
};

/// How often it is looked for containers without a record.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is asked whether it still answers.
const ALIVE: Duration = Duration::from_secs(20);
/// From so many on they are listed instead of asked for one by one, at the first look of a connection: a listing brings all
/// records of the node, which must not become the price of each second of a mass start.
const LIST_FROM: usize = 8;
/// Pause after a connection that failed at once, doubling up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The one kind of event that nothing else tells.
const OOM: &str = "topic==\"/tasks/oom\"";

static DOWN: Limited = Limited::new();
static UNHAD: Limited = Limited::new();

/// Namespace and id.
type Key = (String, String);

/// Starts the thread, which ends some time after `stop`. From here on containers may wait for what containerd says.
///
/// # Errors
/// The thread cannot be started.
pub fn start(
    registry: Arc<Registry>,
    config: Config,
    stop: watch::Receiver<bool>,
) -> io::Result<Option<JoinHandle<()>>> {
    if !config.enabled {
        return Ok(None);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    registry.enrich();
    let _ = registry.totals.containerd.socket.set(config.socket.clone());
    let asking = move || runtime.block_on(Enricher { registry, config, pods: HashMap::new() }.run(stop));
    thread::Builder::new().name("containerd".into()).spawn(asking).map(Some)
}

#[derive(Debug)]
struct Enricher {
    registry: Arc<Registry>,
    config: Config,
    /// What is known of pods whose containers are there, by the sandbox's id.
    pods: HashMap<Key, Pod>,
}

// === impl Enricher ===

impl Enricher {
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut pause = PAUSE.0;
        loop {
            let totals = Arc::clone(&self.registry);
            let totals = &totals.totals.containerd;
            // Looked at each time: containerd may be installed, or come up, after us.
            if self.config.socket.exists() {
                let fault = tokio::select! {
                    fault = self.session(&mut pause) => fault,
                    _ = stop.wait_for(|stop| *stop) => return,
                };
                totals.set(State::Down, &fault.to_string());
                DOWN.say(|hidden| {
                    warn!(error = %fault, hidden, "containerd is not there, names come from annotations alone");
                });
            } else {
                let missing = format!("there is no socket {}", self.config.socket.display());
                totals.set(State::Absent, &missing);
            }
            self.go_without();
            tokio::select! {
                () = sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            pause = pause.saturating_mul(2).min(PAUSE.1);
        }
    }

    /// One connection, to its end.
    async fn session(&mut self, pause: &mut Duration) -> CallFault {
        let registry = Arc::clone(&self.registry);
        let totals = &registry.totals.containerd;
        let (client, version) = match Client::connect(&self.config.socket, totals).await {
            Ok(connected) => connected,
            Err(fault) => return fault,
        };
        info!(version, "connected to containerd");
        totals.set(State::Up, "");
        *pause = PAUSE.0;
        let listening = client.clone().events(OOM, |envelope| out_of_memory(&registry, envelope));
        let asking = self.ask_for_all(client);
        let ended = tokio::select! {
            ended = listening => ended,
            ended = asking => ended,
        };
        ended.err().unwrap_or(CallFault::Ended { call: crate::metrics::ContainerdCall::Subscribe })
    }

    /// Asks for what is not known, again and again.
    async fn ask_for_all(&mut self, mut client: Client<'_>) -> Result<(), CallFault> {
        let mut answered = Instant::now();
        let mut looked = false;
        loop {
            if answered.elapsed() >= ALIVE {
                client.version().await?;
                answered = Instant::now();
            }
            let waiting: Vec<_> =
                self.registry.containers().into_iter().filter(|one| !one.extra.is_settled()).collect();
            self.forget_pods();
            let mut known = HashMap::new();
            if !looked && waiting.len() >= LIST_FROM {
                known = list(&mut client, &waiting).await?;
            }
            looked = true;
            for container in waiting {
                self.settle(&mut client, &mut known, &container).await?;
            }
            sleep(LOOK).await;
        }
    }

    /// Says of a container what its record does.
    async fn settle(
        &mut self,
        client: &mut Client<'_>,
        known: &mut HashMap<Key, Record>,
        container: &Container,
    ) -> Result<(), CallFault> {
        let identity = &container.identity;
        let key = (identity.runtime_namespace.clone(), identity.container_id.clone());
        let record = record(client, known, &key).await?;
        let sandbox = match identity.role {
            Role::Sandbox => Some(key),
            Role::PodContainer => identity.sandbox_id.clone().map(|id| (key.0, id)),
            Role::Plain => None,
        };
        let pod = match sandbox {
            Some(sandbox) => self.pod(client, known, sandbox, record.as_ref(), identity.role).await?,
            None => Pod::default(),
        };
        container
            .extra
            .settle(record.map_or_else(Details::default, |record| records::details(&record, &pod)));
        Ok(())
    }

    /// The pod of a sandbox, which is asked for once.
    async fn pod(
        &mut self,
        client: &mut Client<'_>,
        known: &mut HashMap<Key, Record>,
        sandbox: Key,
        own: Option<&Record>,
        role: Role,
    ) -> Result<Pod, CallFault> {
        if let Some(pod) = self.pods.get(&sandbox) {
            return Ok(pod.clone());
        }
        let pod = if role == Role::Sandbox {
            own.map(records::pod)
        } else {
            record(client, known, &sandbox).await?.as_ref().map(records::pod)
        };
        let pod = pod.unwrap_or_default();
        self.pods.insert(sandbox, pod.clone());
        Ok(pod)
    }

    /// Keeps the pods of which a container is there.
    fn forget_pods(&mut self) {
        let living: BTreeSet<Key> = self
            .registry
            .containers()
            .iter()
            .filter_map(|container| {
                let identity = &container.identity;
                let own = (identity.role == Role::Sandbox).then_some(&identity.container_id);
                Some((identity.runtime_namespace.clone(), identity.sandbox_id.as_ref().or(own)?.clone()))
            })
            .collect();
        self.pods.retain(|key, _| living.contains(key));
    }

    /// Containers that ended meanwhile will not be known any more.
    fn go_without(&self) {
        for container in self.registry.containers() {
            if !container.live().is_running() {
                container.extra.settle(Details::default());
            }
        }
    }
}

/// The records of those that are waited for, and of their sandboxes; those that came, where one cannot be had: the others
/// are asked for one by one.
async fn list(
    client: &mut Client<'_>,
    waiting: &[Arc<Container>],
) -> Result<HashMap<Key, Record>, CallFault> {
    let mut wanted: BTreeSet<Key> = BTreeSet::new();
    for container in waiting {
        let identity = &container.identity;
        let ids = [Some(&identity.container_id), identity.sandbox_id.as_ref()];
        let keys = ids.into_iter().flatten().map(|id| (identity.runtime_namespace.clone(), id.clone()));
        wanted.extend(keys);
    }
    let namespaces: BTreeSet<String> = wanted.iter().map(|(namespace, _)| namespace.clone()).collect();
    let mut known = HashMap::new();
    for namespace in namespaces {
        let listed = client.list(&namespace, |record| {
            let key = (namespace.clone(), record.id.clone());
            if wanted.contains(&key) {
                known.insert(key, record);
            }
        });
        if let Err(fault) = listed.await {
            outlive(client, fault, &namespace, "all records").await?;
        }
    }
    Ok(known)
}

/// A record, of those that were listed or asked for; `None` where containerd has none, or will not give it.
async fn record(
    client: &mut Client<'_>,
    known: &mut HashMap<Key, Record>,
    key: &Key,
) -> Result<Option<Record>, CallFault> {
    if let Some(record) = known.get(key) {
        return Ok(Some(record.clone()));
    }
    match client.get(&key.0, &key.1).await {
        Ok(record) => Ok(Some(record)),
        Err(fault) if fault.is_not_found() => Ok(None),
        Err(fault) => outlive(client, fault, &key.0, &key.1).await.map(|()| None),
    }
}

/// Goes on without what was asked for, where the fault is about that alone. Whether it is shows in another call: what a
/// dying connection says can look like a refusal, and must not be taken for the last word on a container.
async fn outlive(
    client: &mut Client<'_>,
    fault: CallFault,
    namespace: &str,
    asked: &str,
) -> Result<(), CallFault> {
    if fault.is_the_connection_s() {
        return Err(fault);
    }
    client.version().await?;
    UNHAD.say(|hidden| {
        warn!(error = %fault, namespace, asked, hidden, "containerd does not give a record");
    });
    Ok(())
}

/// The kernel killed a process for want of memory.
fn out_of_memory(registry: &Registry, envelope: &Envelope) {
    let any = envelope.event.as_ref().filter(|any| any.type_url.ends_with("containerd.events.TaskOOM"));
    let Some(event) = any.and_then(|any| TaskOom::decode(any.value.as_slice()).ok()) else { return };
    registry.totals.containerd.oom_events.add(1);
    if let Some(container) = registry.newest(&envelope.namespace, &event.container_id) {
        container.ran_out_of_memory();
    }
}
