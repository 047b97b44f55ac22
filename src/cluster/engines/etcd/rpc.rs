//! The part of etcd's gRPC interface that is used: the messages, and a client that sends them.
//!
//! The messages are those of etcd's `rpc.proto` and `kv.proto`, with the fields that are used; other
//! fields are skipped when a message is read. They are written by hand, since it takes `protoc` to
//! generate them.
//!
//! This file names nothing else of the crate: the tests and the benches include it, too.

use futures_util::stream;
use prost::{Enumeration, Message, Oneof};
use std::fmt;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tonic::client::Grpc;
use tonic::metadata::AsciiMetadataValue;
use tonic::metadata::errors::InvalidMetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// The longest message that is read. etcd's default limit for a request is 1.5 MiB.
const MAX_RESPONSE_BYTES: usize = 4 << 20;

#[derive(Clone, PartialEq, Message)]
pub struct ResponseHeader {
    /// The revision of the whole store, when the request was applied.
    #[prost(int64, tag = "3")]
    pub revision: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// 0 in the event of a deletion.
    #[prost(int64, tag = "2")]
    pub create_revision: i64,
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    #[prost(bytes = "vec", tag = "5")]
    pub value: Vec<u8>,
}

/// The keys come in ascending byte order.
#[derive(Clone, PartialEq, Message)]
pub struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// The first key that does not belong to the range any more. Empty: `key` alone is read.
    #[prost(bytes = "vec", tag = "2")]
    pub range_end: Vec<u8>,
    /// 0: no limit.
    #[prost(int64, tag = "3")]
    pub limit: i64,
    /// 0: the latest one.
    #[prost(int64, tag = "4")]
    pub revision: i64,
    #[prost(bool, tag = "8")]
    pub keys_only: bool,
    #[prost(bool, tag = "9")]
    pub count_only: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct RangeResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    #[prost(message, repeated, tag = "2")]
    pub kvs: Vec<KeyValue>,
    /// Whether the range has more keys than the limit.
    #[prost(bool, tag = "3")]
    pub more: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DeleteRangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
}

/// If the comparison is true, the operations `success` are applied, otherwise `failure`.
#[derive(Clone, PartialEq, Message)]
pub struct TxnRequest {
    #[prost(message, repeated, tag = "1")]
    pub compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    pub success: Vec<RequestOp>,
    #[prost(message, repeated, tag = "3")]
    pub failure: Vec<RequestOp>,
}

/// Compares the revision of a key's last change, which is 0 for a key that is not there.
#[derive(Clone, PartialEq, Message)]
pub struct Compare {
    #[prost(enumeration = "CompareResult", tag = "1")]
    pub result: i32,
    #[prost(enumeration = "CompareTarget", tag = "2")]
    pub target: i32,
    #[prost(bytes = "vec", tag = "3")]
    pub key: Vec<u8>,
    /// One case of a `oneof`, so it is written when it is 0, too.
    #[prost(int64, optional, tag = "6")]
    pub mod_revision: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum CompareResult {
    Equal = 0,
    Greater = 1,
    Less = 2,
}

/// What a comparison is about. The revision of the creation (1) and the lease (4) are not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum CompareTarget {
    Version = 0,
    Mod = 2,
    Value = 3,
}

#[derive(Clone, PartialEq, Message)]
pub struct RequestOp {
    #[prost(oneof = "Operation", tags = "1, 2, 3")]
    pub request: Option<Operation>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Operation {
    #[prost(message, tag = "1")]
    Range(RangeRequest),
    #[prost(message, tag = "2")]
    Put(PutRequest),
    #[prost(message, tag = "3")]
    DeleteRange(DeleteRangeRequest),
}

#[derive(Clone, PartialEq, Message)]
pub struct TxnResponse {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Whether the comparison was true.
    #[prost(bool, tag = "2")]
    pub succeeded: bool,
    #[prost(message, repeated, tag = "3")]
    pub responses: Vec<ResponseOp>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ResponseOp {
    /// The response to a read. Those to writes are not looked at.
    #[prost(message, optional, tag = "1")]
    pub range: Option<RangeResponse>,
}

#[derive(Clone, PartialEq, Message)]
pub struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    pub create: Option<WatchCreateRequest>,
}

#[derive(Clone, PartialEq, Message)]
pub struct WatchCreateRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// The first one that is reported.
    #[prost(int64, tag = "3")]
    pub start_revision: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct WatchResponse {
    #[prost(bool, tag = "3")]
    pub created: bool,
    #[prost(bool, tag = "4")]
    pub canceled: bool,
    /// If the watch needs history that was compacted: the first revision that is still there.
    #[prost(int64, tag = "5")]
    pub compact_revision: i64,
    #[prost(string, tag = "6")]
    pub cancel_reason: String,
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<Event>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Event {
    #[prost(message, optional, tag = "2")]
    pub kv: Option<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct AuthenticateRequest {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub password: String,
}

/// Without what it has, which is secret.
impl fmt::Debug for AuthenticateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthenticateRequest").finish_non_exhaustive()
    }
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct AuthenticateResponse {
    #[prost(string, tag = "2")]
    pub token: String,
}

/// Without what it has, which is secret.
impl fmt::Debug for AuthenticateResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthenticateResponse").finish_non_exhaustive()
    }
}

impl RangeRequest {
    /// Reads one key.
    pub fn of(key: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into(), ..Self::default() }
    }
}

impl Compare {
    /// That the revision of the last change of `key` compares to `revision` as `result` says: `Less` if it is smaller.
    pub fn revision(key: impl Into<Vec<u8>>, result: CompareResult, revision: i64) -> Self {
        let (result, target) = (result.into(), CompareTarget::Mod.into());
        Self { result, target, key: key.into(), mod_revision: Some(revision) }
    }
}

impl RequestOp {
    pub fn range(range: RangeRequest) -> Self {
        Self { request: Some(Operation::Range(range)) }
    }

    pub fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        let put = PutRequest { key: key.into(), value: value.into() };
        Self { request: Some(Operation::Put(put)) }
    }

    pub fn delete(key: impl Into<Vec<u8>>) -> Self {
        let delete = DeleteRangeRequest { key: key.into() };
        Self { request: Some(Operation::DeleteRange(delete)) }
    }
}

/// Why a call failed.
#[derive(Debug)]
pub enum RpcError {
    /// Nothing was sent, and this client is of no use any more: the task that has its connection has
    /// ended, as it does with its runtime.
    Ended(tonic::transport::Error),
    /// What the server has said, or the library about the request, the connection or the answer.
    Status(Status),
}

impl From<Status> for RpcError {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// A connection to one server, and the token of a user, if there is one. It sends each request once.
/// A clone is cheap and uses the same connection.
///
/// No call has a time limit of its own; the caller sets one.
///
/// # Cancel safety
///
/// Every method may be dropped at any moment; the request may or may not have been sent then.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    token: Option<AsciiMetadataValue>,
}

impl Client {
    /// A client without a token.
    pub fn new(channel: Channel) -> Self {
        Self { channel, token: None }
    }

    /// The same connection with this token.
    ///
    /// # Errors
    ///
    /// The token has characters that a header cannot have.
    pub fn with_token(self, token: &str) -> Result<Self, InvalidMetadataValue> {
        let mut token = AsciiMetadataValue::try_from(token)?;
        token.set_sensitive(true);
        Ok(Self { token: Some(token), ..self })
    }

    /// The same connection without a token.
    pub fn without_token(self) -> Self {
        Self { token: None, ..self }
    }

    /// Reads keys.
    ///
    /// # Errors
    ///
    /// Those of [`call`](Self::call).
    pub async fn range(self, request: RangeRequest) -> Result<RangeResponse, RpcError> {
        self.call("/etcdserverpb.KV/Range", request).await
    }

    /// Applies a transaction.
    ///
    /// # Errors
    ///
    /// Those of [`call`](Self::call). The transaction may have been applied, unless the server says that it was not.
    pub async fn txn(self, request: TxnRequest) -> Result<TxnResponse, RpcError> {
        self.call("/etcdserverpb.KV/Txn", request).await
    }

    /// A new token for the user.
    ///
    /// # Errors
    ///
    /// Those of [`call`](Self::call).
    pub async fn authenticate(self, name: &str, password: &str) -> Result<String, RpcError> {
        let request = AuthenticateRequest { name: name.into(), password: password.into() };
        let response: AuthenticateResponse =
            self.without_token().call("/etcdserverpb.Auth/Authenticate", request).await?;
        Ok(response.token)
    }

    /// Begins to watch a key. The first message tells whether the watch is in force.
    ///
    /// # Errors
    ///
    /// Those of [`call`](Self::call).
    pub async fn watch(self, request: WatchCreateRequest) -> Result<WatchStream, RpcError> {
        let (requests, mut sent) = unbounded_channel();
        let _ = requests.send(WatchRequest { create: Some(request) });
        let sent = stream::poll_fn(move |cx| sent.poll_recv(cx));
        let mut grpc = self.ready().await?;
        let path = "/etcdserverpb.Watch/Watch".parse().expect("it is a path");
        let response = grpc.streaming(self.request(sent), path, ProstCodec::default()).await?;
        Ok(WatchStream { answers: response.into_inner(), _requests: requests })
    }

    /// Calls a method, which is named `/service/method`, with one message for one message.
    ///
    /// # Errors
    ///
    /// [`RpcError`]: `Ended` if nothing was sent; `Status` with what the server or the library says, also about a
    /// response of more than [`MAX_RESPONSE_BYTES`].
    pub async fn call<Q, A>(&self, method: &'static str, message: Q) -> Result<A, RpcError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.ready().await?;
        let path = method.parse().expect("it is a path");
        let response = grpc.unary(self.request(message), path, ProstCodec::default()).await?;
        Ok(response.into_inner())
    }

    /// A connection that takes one request.
    ///
    /// # Errors
    ///
    /// [`RpcError::Ended`].
    async fn ready(&self) -> Result<Grpc<Channel>, RpcError> {
        let grpc = Grpc::new(self.channel.clone());
        let mut grpc = grpc.max_decoding_message_size(MAX_RESPONSE_BYTES);
        grpc.ready().await.map_err(RpcError::Ended)?;
        Ok(grpc)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        // With this a server that has lost its leader says so, and ends its watches.
        metadata.insert("hasleader", AsciiMetadataValue::from_static("true"));
        if let Some(token) = &self.token {
            metadata.insert("token", token.clone());
        }
        request
    }
}

/// The messages of a watch, which ends when this is dropped.
pub struct WatchStream {
    answers: Streaming<WatchResponse>,
    /// The server ends the watch when the requests end.
    _requests: UnboundedSender<WatchRequest>,
}

impl WatchStream {
    /// The next message. `None`: the server has ended the stream.
    ///
    /// # Errors
    ///
    /// What the server or the library says about the end of the stream. There is no time limit.
    pub async fn message(&mut self) -> Result<Option<WatchResponse>, Status> {
        self.answers.message().await
    }
}
