//! The messages of containerd's gRPC API (`api/services/{containers,events,version}/v1`, `api/events/task.proto`) that are asked
//! for, with the fields that are read; protobuf lets the rest be left out.
//!
//! Field numbers are upstream's and must never differ. A record's OCI spec is not among the fields: it is the largest by far.

use std::collections::HashMap;

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Any {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

/// `google.protobuf.Empty`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Empty {}

/// `containerd.services.version.v1.VersionResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct VersionAnswer {
    #[prost(string, tag = "1")]
    pub(super) version: String,
}

/// `containerd.services.containers.v1.GetContainerRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GetRequest {
    #[prost(string, tag = "1")]
    pub(super) id: String,
}

/// `containerd.services.containers.v1.ListContainersRequest`; without filters all.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ListRequest {
    #[prost(string, repeated, tag = "1")]
    pub(super) filters: Vec<String>,
}

/// `GetContainerResponse` and `ListContainerMessage`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RecordAnswer {
    #[prost(message, optional, tag = "1")]
    pub(super) container: Option<Record>,
}

/// `containerd.services.containers.v1.Container`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Record {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(map = "string, message", tag = "10")]
    pub(super) extensions: HashMap<String, Any>,
}

/// `containerd.services.events.v1.SubscribeRequest`; what any filter matches.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SubscribeRequest {
    #[prost(string, repeated, tag = "1")]
    pub(super) filters: Vec<String>,
}

/// `containerd.services.events.v1.Envelope`, in 2.x `containerd.types.Envelope`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Envelope {
    #[prost(string, tag = "2")]
    pub(super) namespace: String,
    #[prost(string, tag = "3")]
    pub(super) topic: String,
    #[prost(message, optional, tag = "4")]
    pub(super) event: Option<Any>,
}

/// `containerd.events.TaskOOM`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TaskOom {
    #[prost(string, tag = "1")]
    pub(super) container_id: String,
}
