//! The messages as bytes, beside those that `protoc --encode` makes of the same text with etcd's own
//! `rpc.proto` (of version 3.7, with the field numbers of 3.4).

use super::rpc::{
    AuthenticateRequest, AuthenticateResponse, Compare, CompareResult, Event, KeyValue,
    RangeRequest, RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
    WatchCreateRequest, WatchRequest, WatchResponse,
};
use prost::Message;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read<M: Message + Default>(hex: &str) -> M {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits");
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
    M::decode(&*bytes).expect("protoc has written it")
}

#[test]
fn a_request_is_written_as_etcd_reads_it() {
    // compare{result:EQUAL target:MOD key:"k" mod_revision:300}
    // success{request_put{key:"k" value:"{}\n"}} failure{request_range{key:"k"}}
    let swap = |revision, value: &str| TxnRequest {
        compare: vec![Compare::revision("k", CompareResult::Equal, revision)],
        success: vec![RequestOp::put("k", value)],
        failure: vec![RequestOp::range(RangeRequest::of("k"))],
    };
    assert_eq!(
        hex(&swap(300, "{}\n").encode_to_vec()),
        "0a0810021a016b30ac02120a12080a016b12037b7d0a1a050a030a016b"
    );
    // The same with mod_revision:0, which is a case of a `oneof`, and an empty value.
    assert_eq!(hex(&swap(0, "").encode_to_vec()), "0a0710021a016b3000120512030a016b1a050a030a016b");
    // compare{result:LESS target:MOD key:"k" mod_revision:0} success{request_delete_range{key:"k"}}
    // failure{request_range{key:"k" keys_only:true}}
    let look = RangeRequest { keys_only: true, ..RangeRequest::of("k") };
    let delete = TxnRequest {
        compare: vec![Compare::revision("k", CompareResult::Less, 0)],
        success: vec![RequestOp::delete("k")],
        failure: vec![RequestOp::range(look)],
    };
    assert_eq!(
        hex(&delete.encode_to_vec()),
        "0a09080210021a016b300012051a030a016b1a070a050a016b4001"
    );
    // key:"a" range_end:"b" limit:32 revision:7 keys_only:true count_only:true
    let range = RangeRequest {
        key: "a".into(),
        range_end: "b".into(),
        limit: 32,
        revision: 7,
        keys_only: true,
        count_only: true,
    };
    assert_eq!(hex(&range.encode_to_vec()), "0a01611201621820200740014801");
    // create_request{key:"k" start_revision:8}
    let create = Some(WatchCreateRequest { key: "k".into(), start_revision: 8 });
    assert_eq!(hex(&WatchRequest { create }.encode_to_vec()), "0a050a016b1808");
    // name:"me" password:"pw"
    let login = AuthenticateRequest { name: "me".into(), password: "pw".into() };
    assert_eq!(hex(&login.encode_to_vec()), "0a026d6512027077");
}

#[test]
fn an_answer_is_read_as_etcd_writes_it() {
    let header = |revision| Some(ResponseHeader { revision });
    // header{revision:7} token:"t.1"
    let login: AuthenticateResponse = read("0a0218071203742e31");
    assert_eq!(login.token, "t.1");
    // header{cluster_id:1 member_id:2 revision:9 raft_term:3}
    // kvs{key:"k" create_revision:3 mod_revision:8 version:2 value:"{}" lease:4} more:true count:5
    let range: RangeResponse =
        read("0a080801100218092003120f0a016b1003180820022a027b7d300418012005");
    let kv = KeyValue { key: "k".into(), create_revision: 3, mod_revision: 8, value: "{}".into() };
    assert_eq!(range, RangeResponse { header: header(9), kvs: vec![kv], more: true });
    // header{revision:9} succeeded:false
    // responses{response_range{header{revision:9} kvs{key:"k" mod_revision:8 value:"{}"} count:1}}
    let mismatch: TxnResponse = read("0a0218091a130a110a02180912090a016b18082a027b7d2001");
    let kv = KeyValue { key: "k".into(), create_revision: 0, mod_revision: 8, value: "{}".into() };
    let found = RangeResponse { header: header(9), kvs: vec![kv], more: false };
    let responses = vec![ResponseOp { range: Some(found) }];
    assert_eq!(mismatch, TxnResponse { header: header(9), succeeded: false, responses });
    // header{revision:9} succeeded:true responses{response_put{header{revision:9}}}
    let swapped: TxnResponse = read("0a02180910011a0612040a021809");
    let responses = vec![ResponseOp { range: None }];
    assert_eq!(swapped, TxnResponse { header: header(9), succeeded: true, responses });
    // header{revision:9} watch_id:6 created:true canceled:true compact_revision:5
    // cancel_reason:"why" fragment:true
    // events{type:DELETE kv{key:"k" mod_revision:9} prev_kv{key:"k"}}
    // events{kv{key:"k" create_revision:3 mod_revision:10 version:2 value:"{}" lease:4}}
    let watched: WatchResponse = read(
        "0a0218091006180120012805320377687938015a0e080112050a016b18091a030a016b5a11120f0a016b1003180a20022a027b7d3004",
    );
    let key = || b"k".to_vec();
    let deleted = KeyValue { key: key(), create_revision: 0, mod_revision: 9, value: vec![] };
    let put = KeyValue { key: key(), create_revision: 3, mod_revision: 10, value: "{}".into() };
    assert_eq!(
        watched,
        WatchResponse {
            created: true,
            canceled: true,
            compact_revision: 5,
            cancel_reason: "why".into(),
            events: [deleted, put].map(|kv| Event { kv: Some(kv) }).into(),
        }
    );
}

#[test]
fn no_secret_is_shown() {
    let login = AuthenticateRequest { name: "me".into(), password: "pw/secret".into() };
    let answer = AuthenticateResponse { token: "t/secret".into() };
    let shown = format!("{login:?} {answer:?}");
    assert!(!shown.contains("secret"), "{shown}");
}
