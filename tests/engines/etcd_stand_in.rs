//! The part of the crate `etcd-client` that the recipe of fencing names.

use crate::support::etcd_client::EtcdClient;
pub use crate::support::etcd_client::rpc::CompareResult as CompareOp;
use crate::support::etcd_client::rpc::{CompareTarget, RequestOp, TxnResponse};
use prost::Message;

pub type Error = tonic::Status;

pub struct Client(pub EtcdClient);

impl Client {
    pub async fn txn(&mut self, txn: Txn) -> Result<Done, Error> {
        self.0.call("/etcdserverpb.KV/Txn", txn).await.map(Done)
    }
}

pub struct Done(TxnResponse);

impl Done {
    pub fn succeeded(&self) -> bool {
        self.0.succeeded
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct Txn {
    #[prost(message, repeated, tag = "1")]
    compare: Vec<Compare>,
    #[prost(message, repeated, tag = "3")]
    failure: Vec<RequestOp>,
}

impl Txn {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn when(self, compare: impl Into<Vec<Compare>>) -> Self {
        Self { compare: compare.into(), ..self }
    }

    pub fn or_else(self, failure: impl Into<Vec<RequestOp>>) -> Self {
        Self { failure: failure.into(), ..self }
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct Compare {
    #[prost(enumeration = "CompareOp", tag = "1")]
    result: i32,
    #[prost(enumeration = "CompareTarget", tag = "2")]
    target: i32,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "7")]
    compared: Option<Vec<u8>>,
}

impl Compare {
    pub fn value(key: impl Into<Vec<u8>>, result: CompareOp, value: impl Into<Vec<u8>>) -> Self {
        let (result, target) = (result.into(), CompareTarget::Value.into());
        Self { result, target, key: key.into(), compared: Some(value.into()) }
    }
}

pub struct TxnOp;

impl TxnOp {
    pub fn put(
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
        _options: Option<()>,
    ) -> RequestOp {
        RequestOp::put(key, value)
    }
}
