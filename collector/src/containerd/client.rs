//! Calls to containerd: one connection, a deadline for every answer, a bound for every message.

use std::{path::Path, time::Duration};

use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::{net::UnixStream, time::timeout};
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use super::messages::{
    Empty, Envelope, GetRequest, ListRequest, Record, RecordAnswer, SubscribeRequest, VersionAnswer,
};
use crate::metrics::{ContainerdCall as Call, ContainerdResult as Answered, ContainerdTotals};

/// For connecting, and for the answer to a single call. containerd answers in milliseconds, unless the node is in trouble;
/// then it has better things to do.
const DEADLINE: Duration = Duration::from_secs(2);
/// For all records of a namespace: a thousand of them are some tens of megabytes, specs included.
const LIST_DEADLINE: Duration = Duration::from_secs(20);
/// Largest message that is read: what containerd itself takes at most (`DefaultMaxRecvMsgSize`), so that no record that it
/// took from its client is too large for us. Most are below 100 KiB.
const MESSAGE_MAX: usize = 16 << 20;
/// How much may be on its way to us unread, per call.
const WINDOW: u32 = 256 << 10;

/// A call did not come to a good end.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallFault {
    #[error("connecting to containerd at {socket}: {source}; is it running, and may we connect?")]
    Connect { socket: String, source: tonic::transport::Error },
    #[error("containerd did not answer {call} within {within:?}; is it hung, or the node overloaded?", call = call.label())]
    Mute { call: Call, within: Duration },
    #[error("containerd refused {call}: {source}", call = call.label())]
    Refused { call: Call, source: Status },
    #[error("containerd ended {call}; it is being stopped or restarted", call = call.label())]
    Ended { call: Call },
}

/// The connection. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Client<'t> {
    grpc: Grpc<Channel>,
    totals: &'t ContainerdTotals,
}

// === impl CallFault ===

impl CallFault {
    /// containerd knows nothing of that name, which is an answer like any other.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.code() == Code::NotFound)
    }

    /// Is nothing to be had over this connection any more? Otherwise only what was asked for is not.
    pub(super) fn is_the_connection_s(&self) -> bool {
        match self.answered() {
            Answered::Unreachable | Answered::Mute | Answered::Ended => true,
            Answered::Ok | Answered::NotFound | Answered::TooLarge | Answered::Refused => false,
        }
    }

    fn answered(&self) -> Answered {
        match self {
            Self::Connect { .. } => Answered::Unreachable,
            Self::Mute { .. } => Answered::Mute,
            Self::Ended { .. } => Answered::Ended,
            Self::Refused { source, .. } => match source.code() {
                Code::NotFound => Answered::NotFound,
                Code::Unavailable => Answered::Unreachable,
                // What tonic says of a message that is larger than it may be.
                Code::OutOfRange | Code::ResourceExhausted => Answered::TooLarge,
                _ => Answered::Refused,
            },
        }
    }
}

// === impl Client ===

impl<'t> Client<'t> {
    /// Connects, and asks for its release.
    pub(super) async fn connect(
        socket: &Path,
        totals: &'t ContainerdTotals,
    ) -> Result<(Self, String), CallFault> {
        let path = socket.to_owned();
        let connector = service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is not used: the connector goes to the socket.
        let endpoint = Endpoint::from_static("http://localhost")
            .connect_timeout(DEADLINE)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        let connected = timeout(DEADLINE, endpoint.connect_with_connector(connector)).await;
        let connected = match connected {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(source)) => Err(CallFault::Connect { socket: socket.display().to_string(), source }),
            Err(_) => Err(CallFault::Mute { call: Call::Version, within: DEADLINE }),
        };
        // What cannot be connected to did not answer the first call; otherwise that counts itself.
        let channel = connected.or_else(|fault| counted(totals, Call::Version, Err(fault)))?;
        let mut client = Self { grpc: Grpc::new(channel).max_decoding_message_size(MESSAGE_MAX), totals };
        let version = client.version().await?;
        Ok((client, version))
    }

    /// Its release; also the way to learn whether it still answers. (HTTP/2's pings are none: a gRPC server in Go ends the
    /// connection of who sends more than one in five minutes.)
    pub(super) async fn version(&mut self) -> Result<String, CallFault> {
        let path = PathAndQuery::from_static("/containerd.services.version.v1.Version/Version");
        let answer: VersionAnswer = self.unary(Call::Version, path, "default", Empty {}).await?;
        Ok(answer.version)
    }

    /// The record of a container.
    pub(super) async fn get(&mut self, namespace: &str, id: &str) -> Result<Record, CallFault> {
        let path = PathAndQuery::from_static("/containerd.services.containers.v1.Containers/Get");
        let request = GetRequest { id: id.to_owned() };
        let answer: RecordAnswer = self.unary(Call::Get, path, namespace, request).await?;
        Ok(answer.container.unwrap_or_default())
    }

    /// Every record of a namespace, one after the other.
    pub(super) async fn list(
        &mut self,
        namespace: &str,
        mut take: impl FnMut(Record),
    ) -> Result<(), CallFault> {
        let path = PathAndQuery::from_static("/containerd.services.containers.v1.Containers/ListStream");
        let listing = async {
            let mut records: Streaming<RecordAnswer> =
                self.streaming(Call::List, path, namespace, ListRequest::default()).await?;
            while let Some(answer) = records.message().await.map_err(|source| refused(Call::List, source))? {
                take(answer.container.unwrap_or_default());
            }
            Ok(())
        };
        let listed = timeout(LIST_DEADLINE, listing).await;
        let listed = listed.unwrap_or(Err(CallFault::Mute { call: Call::List, within: LIST_DEADLINE }));
        counted(self.totals, Call::List, listed)
    }

    /// Events that a filter matches, of every namespace, until the connection ends. No deadline: the answer's head comes
    /// with the first event.
    pub(super) async fn events(
        mut self,
        filter: &str,
        mut take: impl FnMut(&Envelope),
    ) -> Result<(), CallFault> {
        let path = PathAndQuery::from_static("/containerd.services.events.v1.Events/Subscribe");
        let call = Call::Subscribe;
        let request = SubscribeRequest { filters: vec![filter.to_owned()] };
        let listening = async {
            let mut events: Streaming<Envelope> = self.streaming(call, path, "default", request).await?;
            while let Some(envelope) = events.message().await.map_err(|source| refused(call, source))? {
                take(&envelope);
            }
            Err(CallFault::Ended { call })
        };
        let ended = listening.await;
        counted(self.totals, call, ended)
    }

    async fn unary<Q, A>(
        &mut self,
        call: Call,
        path: PathAndQuery,
        namespace: &str,
        message: Q,
    ) -> Result<A, CallFault>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let answer = async {
            self.ready(call).await?;
            let codec = tonic_prost::ProstCodec::<Q, A>::default();
            let answer = self.grpc.unary(request(namespace, message), path, codec).await;
            answer.map(tonic::Response::into_inner).map_err(|source| refused(call, source))
        };
        let answer = timeout(DEADLINE, answer).await;
        let answer = answer.unwrap_or(Err(CallFault::Mute { call, within: DEADLINE }));
        counted(self.totals, call, answer)
    }

    async fn streaming<Q, A>(
        &mut self,
        call: Call,
        path: PathAndQuery,
        namespace: &str,
        message: Q,
    ) -> Result<Streaming<A>, CallFault>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        self.ready(call).await?;
        let codec = tonic_prost::ProstCodec::<Q, A>::default();
        let answer = self.grpc.server_streaming(request(namespace, message), path, codec).await;
        answer.map(tonic::Response::into_inner).map_err(|source| refused(call, source))
    }

    async fn ready(&mut self, call: Call) -> Result<(), CallFault> {
        let ready = self.grpc.ready().await;
        ready.map_err(|error| refused(call, Status::unavailable(error.to_string())))
    }
}

fn request<Q>(namespace: &str, message: Q) -> Request<Q> {
    let mut request = Request::new(message);
    // A name that no header can carry is none that containerd knows; it says so itself then.
    if let Ok(value) = MetadataValue::try_from(namespace) {
        request.metadata_mut().insert("containerd-namespace", value);
    }
    request
}

fn refused(call: Call, source: Status) -> CallFault {
    CallFault::Refused { call, source }
}

fn counted<T>(totals: &ContainerdTotals, call: Call, answer: Result<T, CallFault>) -> Result<T, CallFault> {
    totals.called(call, answer.as_ref().map_or_else(CallFault::answered, |_| Answered::Ok));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_fault_of_the_connection_ends_it() {
        let of = |code| refused(Call::Get, Status::new(code, "why")).is_the_connection_s();
        let about_one = [
            Code::NotFound,
            Code::OutOfRange,
            Code::ResourceExhausted,
            Code::PermissionDenied,
            Code::Internal,
        ];
        for code in about_one {
            assert!(!of(code), "{code:?}");
        }
        assert!(of(Code::Unavailable));
        assert!(CallFault::Ended { call: Call::Subscribe }.is_the_connection_s());
        assert!(CallFault::Mute { call: Call::Get, within: DEADLINE }.is_the_connection_s());
    }

    #[tokio::test]
    async fn who_is_not_there_is_counted_once() {
        let totals = ContainerdTotals::default();
        let fault = Client::connect(Path::new("/nonexistent/containerd.sock"), &totals).await;
        assert!(fault.is_err_and(|fault| fault.is_the_connection_s()));
        assert_eq!(totals.calls_of(Call::Version), 1);
    }
}
