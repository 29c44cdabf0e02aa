//! What an application does with the crate rdkafka: produces, consumes as a member of a group, and moves records in transactions. Argument: the server's address.

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
const COUNT: usize = 500;

fn main() {
    let servers = std::env::args().nth(1).expect("the server's address");
    let config = |pairs: &[(&str, &str)]| {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &servers);
        for (name, value) in pairs {
            config.set(*name, *value);
        }
        config
    };
    let admin: AdminClient<DefaultClientContext> = config(&[]).create().expect("an admin");
    let topics = ["in", "out"].map(|name| NewTopic::new(name, 3, TopicReplication::Fixed(1)));
    let made = block_on(admin.create_topics(&topics, &AdminOptions::new().operation_timeout(Some(PATIENCE))));
    assert!(made.expect("an answer").iter().all(Result::is_ok));

    let producer: BaseProducer =
        config(&[("enable.idempotence", "true"), ("compression.type", "gzip")]).create().expect("a producer");
    for number in 0..COUNT {
        let (key, value) = (format!("key {}", number % 7), number.to_string());
        let headers = OwnedHeaders::new().insert(Header { key: "by", value: Some("rdkafka") });
        let record = BaseRecord::to("in").key(&key).payload(&value).headers(headers);
        producer.send(record).map_err(|(error, _)| error).expect("it is queued");
        producer.poll(Duration::ZERO);
    }
    producer.flush(PATIENCE).expect("all is sent");

    // As members of a group, one after the other: the second goes on where the first has committed.
    let group = [
        ("group.id", "g"),
        ("auto.offset.reset", "earliest"),
        ("enable.auto.commit", "false"),
        ("isolation.level", "read_committed"),
    ];
    let mut seen = BTreeSet::new();
    for half in [COUNT / 2, COUNT] {
        let consumer: BaseConsumer = config(&group).create().expect("a consumer");
        consumer.subscribe(&["in"]).expect("it subscribes");
        let until = Instant::now() + PATIENCE;
        while seen.len() < half {
            assert!(Instant::now() < until, "{} of {half} have come", seen.len());
            let Some(message) = consumer.poll(Duration::from_millis(500)) else { continue };
            let message = message.expect("a record");
            assert_eq!(message.headers().expect("headers").get(0).value, Some(&b"rdkafka"[..]));
            let number: usize =
                message.payload_view::<str>().expect("a value").expect("text").parse().expect("a number");
            assert!(seen.insert(number), "{number} comes twice");
            consumer.commit_message(&message, rdkafka::consumer::CommitMode::Sync).expect("it is committed");
        }
    }

    // Consume, transform, produce: one transaction that is dropped, and one that is not.
    let producer: BaseProducer = config(&[("transactional.id", "mover")]).create().expect("a producer");
    producer.init_transactions(PATIENCE).expect("the name is taken over");
    let consumer: BaseConsumer = config(&group).create().expect("a consumer");
    for commits in [false, true] {
        producer.begin_transaction().expect("it begins");
        for number in 0..10 {
            let value = format!("{commits} {number}");
            producer
                .send(BaseRecord::<str, str>::to("out").partition(0).payload(&value))
                .map_err(|(error, _)| error)
                .expect("queued");
        }
        // What is to be told of them is told while somebody asks.
        producer.flush(PATIENCE).expect("all is sent");
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset("in", 0, Offset::Offset(if commits { 7 } else { 3 })).expect("a place");
        let member = consumer.group_metadata().expect("a group");
        producer.send_offsets_to_transaction(&offsets, &member, PATIENCE).expect("the offsets are sent");
        if commits {
            producer.commit_transaction(PATIENCE).expect("it ends well");
        } else {
            producer.abort_transaction(PATIENCE).expect("it is dropped");
        }
    }
    let mut place = TopicPartitionList::new();
    place.add_partition("in", 0);
    let committed = consumer.committed_offsets(place, PATIENCE).expect("what is committed");
    assert_eq!(committed.elements()[0].offset(), Offset::Offset(7));
    let mut place = TopicPartitionList::new();
    place.add_partition_offset("out", 0, Offset::Beginning).expect("a place");
    consumer.assign(&place).expect("it is assigned");
    for number in 0..10 {
        let message = consumer.poll(PATIENCE).expect("one comes").expect("a record");
        assert_eq!(message.payload(), Some(format!("true {number}").as_bytes()));
    }
}

/// The admin's futures are woken by threads of librdkafka's.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(done) => return done,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}
