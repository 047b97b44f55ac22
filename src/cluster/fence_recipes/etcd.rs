use etcd_client::{Client, Compare, CompareOp, Error, Txn, TxnOp};
use lockword::cluster::FencingToken;

/// Writes `value` to `key`, and the token to a second key. Returns whether it has written: `false`
/// if a larger token is stored.
pub async fn put(
    client: &mut Client,
    key: &str,
    token: FencingToken,
    value: &str,
) -> Result<bool, Error> {
    let fence = format!("{key}/fence");
    // etcd compares values byte by byte: so all tokens have 20 digits.
    let token = format!("{:020}", token.get());
    // A comparison with a key that does not exist fails: then this is the first token.
    let stored_is_larger = Compare::value(&*fence, CompareOp::Greater, &*token);
    let writes = [TxnOp::put(&*fence, &*token, None), TxnOp::put(key, value, None)];
    let txn = Txn::new().when([stored_is_larger]).or_else(writes);
    Ok(!client.txn(txn).await?.succeeded())
}
