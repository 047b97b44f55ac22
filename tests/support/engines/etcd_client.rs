//! A client of etcd, for what a transport cannot do.

#[path = "../../../src/cluster/engines/etcd/rpc.rs"]
pub mod rpc;

use prost::Message;
use rpc::{Client, DeleteRangeRequest, PutRequest, RangeRequest, ResponseHeader};
use tonic::Status;
use tonic::transport::Endpoint;

/// The client, without a user. `url` begins with `http://`.
pub async fn connect(url: &str) -> EtcdClient {
    let endpoint = Endpoint::from_shared(url.to_owned()).expect("a URL");
    EtcdClient(Client::new(endpoint.connect().await.expect("etcd is there")))
}

/// The client with a new token of this user, which it does not renew.
pub async fn connect_as(url: &str, user: &str, password: &str) -> EtcdClient {
    let EtcdClient(client) = connect(url).await;
    let token = client.clone().authenticate(user, password).await.expect("it is the password");
    EtcdClient(client.with_token(&token).expect("a token"))
}

#[derive(Clone)]
pub struct EtcdClient(pub Client);

/// An answer of which nothing else is of interest.
#[derive(Clone, PartialEq, Message)]
struct Done {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    /// Of a deletion.
    #[prost(int64, tag = "2")]
    deleted: i64,
}

#[derive(Clone, PartialEq, Message)]
struct CompactionRequest {
    #[prost(int64, tag = "1")]
    revision: i64,
}

/// Several requests about users and roles have two texts.
#[derive(Clone, PartialEq, Message)]
struct Texts {
    #[prost(string, tag = "1")]
    first: String,
    #[prost(string, tag = "2")]
    second: String,
}

#[derive(Clone, PartialEq, Message)]
struct GrantPermissionRequest {
    #[prost(string, tag = "1")]
    role: String,
    #[prost(message, optional, tag = "2")]
    permission: Option<Permission>,
}

#[derive(Clone, PartialEq, Message)]
struct Permission {
    /// 2: to read and to write.
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    range_end: Vec<u8>,
}

impl EtcdClient {
    /// Calls a method.
    pub async fn call<Q, A>(&self, method: &'static str, message: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.0.call(method, message).await.map_err(|error| match error {
            rpc::RpcError::Status(status) => status,
            ended => panic!("{ended:?}"),
        })
    }

    /// Returns the new revision.
    pub async fn put(
        &self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
    ) -> Result<i64, Status> {
        let put = PutRequest { key: key.into(), value: value.into() };
        let done: Done = self.call("/etcdserverpb.KV/Put", put).await?;
        Ok(done.header.expect("it has one").revision)
    }

    /// The value, if the key is there.
    pub async fn get(&self, key: &str) -> Result<Option<String>, Status> {
        let get = RangeRequest::of(key);
        let found: rpc::RangeResponse = self.call("/etcdserverpb.KV/Range", get).await?;
        let kv = found.kvs.into_iter().next();
        Ok(kv.map(|kv| String::from_utf8(kv.value).expect("text")))
    }

    /// Returns how many keys were deleted.
    pub async fn delete(&self, key: impl Into<Vec<u8>>) -> i64 {
        let delete = DeleteRangeRequest { key: key.into() };
        let done: Done = self.call("/etcdserverpb.KV/DeleteRange", delete).await.expect("it runs");
        done.deleted
    }

    pub async fn compact(&self, revision: i64) {
        let compact = CompactionRequest { revision };
        self.call("/etcdserverpb.KV/Compact", compact).await.expect("it runs")
    }

    pub async fn add_user(&self, name: &str, password: &str) {
        self.about_users("/etcdserverpb.Auth/UserAdd", name, password).await;
    }

    pub async fn change_password(&self, name: &str, password: &str) {
        self.about_users("/etcdserverpb.Auth/UserChangePassword", name, password).await;
    }

    pub async fn add_role(&self, name: &str) {
        self.about_users("/etcdserverpb.Auth/RoleAdd", name, "").await;
    }

    pub async fn grant_role(&self, user: &str, role: &str) {
        self.about_users("/etcdserverpb.Auth/UserGrantRole", user, role).await;
    }

    pub async fn revoke_role(&self, user: &str, role: &str) {
        self.about_users("/etcdserverpb.Auth/UserRevokeRole", user, role).await;
    }

    async fn about_users(&self, method: &'static str, first: &str, second: &str) {
        let texts = Texts { first: first.into(), second: second.into() };
        self.call(method, texts).await.expect("it is allowed")
    }

    /// The role may read and write from `first` up to `end`, which does not belong to it.
    pub async fn grant_permission(&self, role: &str, first: &str, end: &str) {
        let permission = Permission { kind: 2, key: first.into(), range_end: end.into() };
        let grant = GrantPermissionRequest { role: role.into(), permission: Some(permission) };
        let method = "/etcdserverpb.Auth/RoleGrantPermission";
        self.call(method, grant).await.expect("it is allowed")
    }

    /// Switches authentication on.
    pub async fn enable_auth(&self) {
        self.call("/etcdserverpb.Auth/AuthEnable", ()).await.expect("there is a root")
    }
}
