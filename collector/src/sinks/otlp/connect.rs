//! Connections to the endpoint: names, TCP, proxy, TLS.
//!
//! Through a proxy everything goes in a tunnel (CONNECT), so that a proxy never sees a record even where the endpoint
//! speaks plain HTTP. Which way is taken is decided once, at start.

use std::{
    env,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper::{Uri, header::HeaderValue};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{
            HttpConnector,
            dns::{GaiResolver, Name},
            proxy::Tunnel,
        },
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tower_service::Service;

use super::{OtlpFault, body::Body, proxy, tls};
use crate::config;

/// From the beginning of a connection to its being there, for each address of a name.
const CONNECT: Duration = Duration::from_secs(10);
/// An idle connection is closed after this, before a balancer in between forgets it.
const IDLE: Duration = Duration::from_secs(50);

/// An HTTP client for the endpoint.
pub(super) type Http = Client<HttpsConnector<Dial>, Body>;

/// The way to the endpoint.
pub(super) struct Connect(HttpsConnector<Dial>);

/// Makes a TCP connection, straight or through a tunnel.
#[derive(Clone)]
pub(super) enum Dial {
    Straight(HttpConnector<Names>),
    Tunnel(Tunnel<HttpConnector<Names>>),
}

/// Looks names up, and says so where that fails.
#[derive(Clone)]
pub(super) struct Names(GaiResolver);

/// A name was not found.
#[derive(Debug, thiserror::Error)]
#[error("looking up the name {name}: {source}")]
pub(super) struct NameFault {
    name: String,
    source: io::Error,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Boxed<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

// === impl Connect ===

impl Connect {
    pub(super) fn new(config: &config::Otlp) -> Result<Self, OtlpFault> {
        let uri = &config.endpoint.uri;
        let is_https = uri.scheme_str() == Some("https");
        let tls = tls::config(&config.tls, is_https)?;
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        // `check` has tried the name.
        let name = config.tls.server_name.clone().and_then(|name| ServerName::try_from(name).ok());
        let builder = match name {
            Some(name) => builder.with_server_name_resolver(FixedServerNameResolver::new(name)),
            None => builder,
        };
        Ok(Self(builder.enable_http1().wrap_connector(Dial::new(uri, &config.proxy)?)))
    }

    /// A client with a pool of its own.
    pub(super) fn client(self) -> Http {
        Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .build(self.0)
    }
}

// === impl Dial ===

impl Dial {
    fn new(endpoint: &Uri, proxy: &config::Proxy) -> Result<Self, OtlpFault> {
        let mut http = HttpConnector::new_with_resolver(Names(GaiResolver::new()));
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT));
        http.set_keepalive(Some(Duration::from_secs(30)));
        let variable = |name: &str| Some(env::var_os(name)?.to_string_lossy().into_owned());
        let Some(proxy) = proxy::on_the_way(endpoint, proxy, variable)? else {
            return Ok(Self::Straight(http));
        };
        let tunnel = Tunnel::new(proxy.uri().clone(), http);
        let auth: Option<HeaderValue> = proxy.basic_auth().cloned();
        Ok(Self::Tunnel(match auth {
            Some(auth) => tunnel.with_auth(auth),
            None => tunnel,
        }))
    }
}

impl Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Boxed<Self::Response, BoxError>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::Straight(http) => http.poll_ready(context).map_err(Into::into),
            Self::Tunnel(tunnel) => tunnel.poll_ready(context).map_err(Into::into),
        }
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        match self {
            Self::Straight(http) => {
                let connecting = http.call(uri);
                Box::pin(async move { Ok(connecting.await?) })
            }
            Self::Tunnel(tunnel) => {
                let connecting = tunnel.call(uri);
                Box::pin(async move { Ok(connecting.await?) })
            }
        }
    }
}

// === impl Names ===

impl Service<Name> for Names {
    type Response = <GaiResolver as Service<Name>>::Response;
    type Error = NameFault;
    type Future = Boxed<Self::Response, NameFault>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NameFault>> {
        // It has no limit of its own.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let text = name.as_str().to_owned();
        let looking = self.0.call(name);
        Box::pin(async move { looking.await.map_err(|source| NameFault { name: text, source }) })
    }
}
