//! The socket that wrappers connect to: made so that only root and our own user get through, and accepted from
//! without ever spinning.

use std::{sync::Arc, time::Duration};

use tokio::{
    net::UnixStream,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::{Ingest, connection, fault::FaultKind};
use crate::{
    event::Ending,
    journal::GivenUp,
    limited::Limited,
    socket::{SocketFault, UnixSocket},
};

/// Why the collector cannot listen.
pub type ListenFault = SocketFault;

/// Pause after accept(2) failed: it fails again at once while descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often ended tasks and orphaned streams are looked for, at least.
const SWEEP: Duration = Duration::from_secs(5);
/// A head of the journal that has no room within this time is asked again with the next sweep: its disk may be full or hang, and
/// streams of the other one end all the same.
const ROOM_TIME: Duration = Duration::from_secs(1);

/// A bound socket that nobody is accepted from yet.
#[derive(Debug)]
pub struct Listener {
    socket: UnixSocket,
    ingest: Arc<Ingest>,
}

static CLOSED: Limited = Limited::new();
static REFUSED: Limited = Limited::new();

// === impl Listener ===

impl Listener {
    /// Binds the socket.
    ///
    /// # Errors
    /// The path cannot be used, or another collector answers there.
    pub fn bind(ingest: Arc<Ingest>) -> Result<Self, ListenFault> {
        let socket = UnixSocket::bind(&ingest.config.socket)?;
        Ok(Self { socket, ingest })
    }

    /// Serves until `stop`, and then until every connection has sent its last acknowledgements.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(self.ingest.config.connections));
        let mut connections = JoinSet::new();
        connections.spawn(sweep(Arc::clone(&self.ingest), stop.clone()));
        let (spooled, stopped) = (Arc::clone(&self.ingest), stop.clone());
        connections.spawn(async move { spooled.spools.run(&spooled, stopped).await });
        let mut id: u64 = 0;
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
                // Reaps; what they had to say was said where it happened.
                Some(_) = connections.join_next() => continue,
            };
            let totals = &self.ingest.registry.totals;
            let stream = match accepted {
                Ok(Some(stream)) => stream,
                Ok(None) => {
                    totals.ingest_faults.add(FaultKind::PeerUid, 1);
                    REFUSED.say(|hidden| warn!(hidden, "refused a connection of another user"));
                    continue;
                }
                Err(error) => {
                    totals.ingest_faults.add(FaultKind::Accept, 1);
                    REFUSED.say(|hidden| warn!(%error, hidden, "cannot accept connections"));
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            totals.connections_accepted.add(1);
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                totals.ingest_faults.add(FaultKind::Connections, 1);
                REFUSED.say(|hidden| warn!(hidden, "refused a connection, ingest.connections are open"));
                continue;
            };
            id = id.wrapping_add(1);
            let (ingest, stop) = (Arc::clone(&self.ingest), stop.clone());
            connections.spawn(async move {
                serve(stream, ingest, id, stop).await;
                drop(place);
            });
        }
        while connections.join_next().await.is_some() {}
        self.socket.remove();
    }
}

/// Serves one connection and says how it ended.
async fn serve(stream: UnixStream, ingest: Arc<Ingest>, id: u64, stop: watch::Receiver<bool>) {
    let totals = Arc::clone(&ingest.registry.totals);
    totals.connections.up();
    let ended = connection::serve(stream, ingest, id, stop).await;
    totals.connections.down();
    match ended {
        Ok(end) => debug!(connection = id, ?end, "connection ended"),
        Err(fault) => {
            totals.ingest_faults.add(fault.kind(), 1);
            CLOSED.say(|hidden| warn!(connection = id, error = %fault, hidden, "connection closed"));
        }
    }
}

/// Forgets what ended long ago, and delivers what is left of streams whose wrapper did not come back.
async fn sweep(ingest: Arc<Ingest>, mut stop: watch::Receiver<bool>) {
    let orphan = ingest.config.orphan;
    let mut ticks = tokio::time::interval(orphan.min(SWEEP));
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        ingest.registry.sweep(orphan);
        let (mut full, mut given_up) = (Vec::new(), GivenUp::new(Ending::WrapperLost));
        for slot in ingest.streams.orphans(orphan) {
            let home = slot.next_home();
            if full.contains(&home) {
                continue;
            }
            let room = tokio::select! {
                // Cancel-safe: nothing was taken off the stream yet.
                room = timeout(ROOM_TIME, ingest.outlets.of(home).room(2, slot.held())) => room,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let Ok(room) = room else {
                full.push(home);
                continue;
            };
            // Its wrapper may have come back while we waited for room.
            let Ok(batch) = slot.abandon() else { continue };
            if let Some(batch) = batch {
                if batch.ending.is_some() {
                    given_up.note(&slot.origin);
                }
                ingest.outlets.of(slot.home()).submit(batch, room);
            }
            ingest.streams.ended(&slot);
        }
        given_up.say();
    }
}
