//! The thread, its two listeners, and HTTP/1 over both.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::sleep,
};
use tracing::{debug, warn};

use super::{body::Answer, control, copies::Copies, health, metrics, patient::Patient};
use crate::{
    config::{Config, Scope},
    limited::Limited,
    metrics::Registry,
    reload::Reloader,
    socket::{SocketFault, UnixSocket},
};

/// Why there is no admin interface.
#[derive(Debug, thiserror::Error)]
pub enum AdminFault {
    /// The metrics address cannot be had.
    #[error("listening on {address} for metrics: {source}; check metrics.listen and what else uses the port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The control socket cannot be had.
    #[error(transparent)]
    Socket(#[from] SocketFault),
    /// The thread cannot be had.
    #[error("starting the admin thread: {source}")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
}

/// What requests are answered from.
#[derive(Debug)]
pub(super) struct State {
    pub(super) registry: Arc<Registry>,
    pub(super) copies: Copies,
    pub(super) scope: Scope,
    pub(super) reloader: Arc<Reloader>,
    /// Where the collector keeps files, by what they are for.
    pub(super) places: Vec<(&'static str, PathBuf)>,
    /// True from the moment wrappers can connect.
    pub(super) ready: watch::Receiver<bool>,
}

/// Both listeners, bound.
#[derive(Debug)]
pub struct Admin {
    metrics: StdListener,
    control: UnixSocket,
    state: Arc<State>,
    runtime: tokio::runtime::Runtime,
}

/// Connections that are served at a time, per listener: scrapers and people, not the world.
const CONNECTIONS: usize = 64;
/// A client has this long for the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Pause after accept(2) failed: it fails again at once while descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

static ACCEPT: Limited = Limited::new();

// === impl Admin ===

impl Admin {
    /// Binds both listeners; nothing is answered yet.
    ///
    /// # Errors
    /// An address or a path cannot be had.
    pub fn bind(
        config: &Config,
        registry: Arc<Registry>,
        reloader: Arc<Reloader>,
        ready: watch::Receiver<bool>,
    ) -> Result<Self, AdminFault> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| AdminFault::Thread { source })?;
        let address = config.metrics.listen;
        let listen = |source| AdminFault::Listen { address, source };
        let metrics = StdListener::bind(address).map_err(listen)?;
        metrics.set_nonblocking(true).map_err(listen)?;
        let control = {
            let _inside = runtime.enter();
            UnixSocket::bind(&config.control.socket)?
        };
        let (scope, places) = (config.metrics.cadvisor_scope, health::places(config));
        let copies = Copies::new(config.metrics.page_age);
        let state = Arc::new(State { registry, copies, scope, reloader, places, ready });
        Ok(Self { metrics, control, state, runtime })
    }

    /// The address that was bound; its port is the system's choice where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.metrics.local_addr().ok()
    }

    /// Starts the thread, which ends some time after `stop`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(self, stop: watch::Receiver<bool>) -> Result<thread::JoinHandle<()>, AdminFault> {
        let Self { metrics, control, state, runtime } = self;
        let run = move || {
            runtime.block_on(async move {
                tokio::join!(
                    accept_tcp(metrics, Arc::clone(&state), stop.clone()),
                    accept_unix(control, state, stop)
                );
            });
        };
        let thread = thread::Builder::new().name("admin".into()).spawn(run);
        thread.map_err(|source| AdminFault::Thread { source })
    }
}

async fn accept_tcp(listener: StdListener, state: Arc<State>, mut stop: watch::Receiver<bool>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            warn!(%error, "cannot serve metrics");
            return;
        }
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted.map(|(stream, _)| stream),
            Some(_) = connections.join_next() => continue,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok(stream) => serve(&mut connections, &places, Patient::new(stream), &state, metrics::answer),
            Err(error) => pause(&error).await,
        }
    }
}

async fn accept_unix(socket: UnixSocket, state: Arc<State>, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok(Some(stream)) => serve(&mut connections, &places, stream, &state, control::answer),
            Ok(None) => ACCEPT.say(|hidden| warn!(hidden, "refused a control connection of another user")),
            Err(error) => pause(&error).await,
        }
    }
    socket.remove();
}

async fn pause(error: &io::Error) {
    ACCEPT.say(|hidden| warn!(%error, hidden, "cannot accept admin connections"));
    sleep(ACCEPT_PAUSE).await;
}

/// Serves HTTP/1 on one connection, if there is a place for it.
fn serve(
    connections: &mut JoinSet<()>,
    places: &Arc<Semaphore>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    state: &Arc<State>,
    answer: fn(&State, &Request<Incoming>) -> Response<Answer>,
) {
    let Ok(place) = Arc::clone(places).try_acquire_owned() else {
        ACCEPT.say(|hidden| warn!(hidden, "refused an admin connection, too many are open"));
        return;
    };
    let state = Arc::clone(state);
    connections.spawn(async move {
        let service = service_fn(move |request: Request<Incoming>| {
            let response = answer(&state, &request);
            async move { Ok::<_, Infallible>(response) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(64 << 10)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = served.await {
            debug!(%error, "admin connection ended");
        }
        drop(place);
    });
}
