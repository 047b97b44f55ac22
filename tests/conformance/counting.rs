use lockword::cluster::layers::{Counting, Counts};
use lockword::cluster::{Key, Memory, NodeId, Transport, Wake, Write};

#[tokio::test]
async fn each_operation_is_counted_and_a_swap_if_it_was_one() {
    let (engine, counts) = (Memory::new(), Counts::default());
    let one = Counting::new(engine.clone());
    let two = [(); 2].map(|()| Counting::into(engine.clone(), counts.clone()));
    let key = Key::new("a").unwrap();
    let new = || Write { value: [].into(), wake: Wake::Nobody, idle: false };
    for client in &two {
        client.load(&key).await.unwrap();
        // The second one finds the register that the first one made.
        client.compare_exchange(&key, None, new()).await.unwrap();
        drop(client.watch(&key, NodeId::new(1)).await.unwrap());
    }
    let now = counts.now();
    assert_eq!((now.loads, now.compare_exchanges, now.swaps, now.watches), (2, 2, 1, 2));
    assert_eq!(now.total(), 6);
    assert_eq!(counts.take(), now);
    assert_eq!(two[0].counts().now().total(), 0);
    assert_eq!(one.counts().now().total(), 0);
    assert_eq!(one.capabilities(), engine.capabilities());
}
