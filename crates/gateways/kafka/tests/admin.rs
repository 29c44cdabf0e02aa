//! Administration by hand, in every version: settings shown and changed, partitions added, records deleted.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use support::{Client, Server, batch, topic};

/// Kafka's numbers for errors.
mod code {
    pub(crate) const OFFSET_OUT_OF_RANGE: i16 = 1;
    pub(crate) const UNKNOWN_TOPIC: i16 = 3;
    pub(crate) const INVALID_TOPIC: i16 = 17;
    pub(crate) const INVALID_PARTITIONS: i16 = 37;
    pub(crate) const INVALID_ASSIGNMENT: i16 = 39;
    pub(crate) const INVALID_CONFIG: i16 = 40;
    pub(crate) const INVALID_REQUEST: i16 = 42;
}

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const OF_TOPIC: i8 = 1;
const DEFAULT: i8 = 5;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

impl Client {
    /// Error, and each setting with its value and where that comes from.
    async fn settings(
        &mut self,
        version: i16,
        kind: i8,
        name: &str,
        keys: Option<&[&str]>,
    ) -> (i16, Vec<(String, String, i8)>) {
        use describe_configs_request::DescribeConfigsResource;
        let asked = DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
            .with_configuration_keys(keys.map(|keys| keys.iter().map(|key| text(key)).collect()));
        let body = DescribeConfigsRequest::default().with_resources(vec![asked]).with_include_synonyms(true);
        let body = if version >= 3 { body.with_include_documentation(true) } else { body };
        let mut answer: DescribeConfigsResponse = self.ask(ApiKey::DescribeConfigs, version, &body).await;
        let found = answer.results.remove(0);
        assert_eq!((found.resource_type, found.resource_name.as_str()), (kind, name));
        assert_eq!(found.error_code == 0, found.error_message.is_none());
        for shown in &found.configs {
            assert_eq!(shown.synonyms.len(), 1, "{shown:?}");
            assert_eq!(version >= 3, shown.config_type > 0 && shown.documentation.is_some(), "{shown:?}");
        }
        let all = found.configs.into_iter();
        let shown = all.map(|one| (one.name.to_string(), one.value.unwrap().to_string(), one.config_source));
        (found.error_code, shown.collect())
    }

    async fn changes(&mut self, version: i16, name: &str, changes: &[(&str, i8, Option<&str>)]) -> i16 {
        use incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
        let configs = changes.iter().map(|(name, operation, value)| {
            AlterableConfig::default()
                .with_name(text(name))
                .with_config_operation(*operation)
                .with_value(value.map(text))
        });
        let resource = AlterConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(text(name))
            .with_configs(configs.collect());
        let body = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let answer: IncrementalAlterConfigsResponse =
            self.ask(ApiKey::IncrementalAlterConfigs, version, &body).await;
        answer.responses[0].error_code
    }

    async fn replaces(&mut self, version: i16, changes: &[(&str, &str)], only_check: bool) -> i16 {
        use alter_configs_request::{AlterConfigsResource, AlterableConfig};
        let configs = changes.iter().map(|(name, value)| {
            AlterableConfig::default().with_name(text(name)).with_value(Some(text(value)))
        });
        let resource = AlterConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(text("t"))
            .with_configs(configs.collect());
        let body =
            AlterConfigsRequest::default().with_resources(vec![resource]).with_validate_only(only_check);
        let answer: AlterConfigsResponse = self.ask(ApiKey::AlterConfigs, version, &body).await;
        answer.responses[0].error_code
    }

    async fn grows(&mut self, version: i16, name: &str, count: i32, only_check: bool, assign: bool) -> i16 {
        use create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
        let assigned = assign.then(|| vec![CreatePartitionsAssignment::default()]);
        let one = CreatePartitionsTopic::default()
            .with_name(topic(name))
            .with_count(count)
            .with_assignments(assigned);
        let body = CreatePartitionsRequest::default().with_topics(vec![one]).with_validate_only(only_check);
        let answer: CreatePartitionsResponse = self.ask(ApiKey::CreatePartitions, version, &body).await;
        let found = &answer.results[0];
        assert_eq!(found.name, topic(name));
        found.error_code
    }

    async fn forgets(&mut self, version: i16, name: &str, partition: i32, before: i64) -> (i16, i64) {
        use delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
        let one = DeleteRecordsPartition::default().with_partition_index(partition).with_offset(before);
        let of = DeleteRecordsTopic::default().with_name(topic(name)).with_partitions(vec![one]);
        let body = DeleteRecordsRequest::default().with_topics(vec![of]);
        let answer: DeleteRecordsResponse = self.ask(ApiKey::DeleteRecords, version, &body).await;
        let found = &answer.topics[0].partitions[0];
        (found.error_code, found.low_watermark)
    }
}

#[tokio::test]
async fn settings_are_shown_in_every_version() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.make("t").await;
    let mut before = None;
    for version in 1..=4 {
        let (failed, found) = client.settings(version, TOPIC, "t", None).await;
        assert_eq!(failed, 0);
        let value = |name: &str| found.iter().find(|(of, ..)| of == name).map(|(_, value, _)| value.as_str());
        assert_eq!(value("cleanup.policy"), Some("delete"));
        assert_eq!(value("retention.ms"), Some("-1"));
        assert_eq!(value("max.message.bytes"), Some("4194304"));
        assert!(found.iter().all(|(_, _, source)| *source == DEFAULT));
        assert!(before.replace(found.clone()).is_none_or(|before| before == found));
        let (failed, some) = client.settings(version, TOPIC, "t", Some(&["retention.ms", "none"])).await;
        assert_eq!((failed, some.len()), (0, 1));
        assert_eq!(client.settings(version, TOPIC, "none", None).await.0, code::UNKNOWN_TOPIC);
        assert_eq!(client.settings(version, TOPIC, "a/b", None).await.0, code::INVALID_TOPIC);
        assert_eq!(client.settings(version, 7, "t", None).await.0, code::INVALID_REQUEST);
        for name in ["1", ""] {
            let (failed, found) = client.settings(version, BROKER, name, None).await;
            assert_eq!(failed, 0);
            assert!(
                found.iter().any(|(name, value, _)| name == "offsets.retention.minutes" && value == "10080")
            );
        }
        assert_eq!(client.settings(version, BROKER, "99", None).await.0, code::INVALID_REQUEST);
    }
    server.stop().await;
}

#[tokio::test]
async fn settings_of_topics_are_changed_one_by_one_and_whole() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.make("t").await;
    let of = |found: &[(String, String, i8)], name: &str| {
        let (_, value, source) = found.iter().find(|(of, ..)| of == name).unwrap();
        (value.clone(), *source)
    };
    for version in 0..=1 {
        let set = [("retention.ms", 0, Some("5000")), ("retention.bytes", 0, Some("7000"))];
        assert_eq!(client.changes(version, "t", &set).await, 0);
        assert_eq!(client.changes(version, "t", &[("retention.bytes", 1, None)]).await, 0);
        let (_, found) = client.settings(4, TOPIC, "t", None).await;
        assert_eq!(of(&found, "retention.ms"), ("5000".to_owned(), OF_TOPIC));
        assert_eq!(of(&found, "retention.bytes"), ("-1".to_owned(), DEFAULT));
        // All or nothing of one topic.
        let mixed = [("retention.ms", 0, Some("1")), ("segment.ms", 0, Some("1"))];
        assert_eq!(client.changes(version, "t", &mixed).await, code::INVALID_CONFIG);
        assert_eq!(
            client.changes(version, "t", &[("retention.ms", 0, Some("x"))]).await,
            code::INVALID_CONFIG
        );
        assert_eq!(client.changes(version, "none", &set).await, code::UNKNOWN_TOPIC);
        let (_, found) = client.settings(4, TOPIC, "t", None).await;
        assert_eq!(of(&found, "retention.ms").0, "5000");
    }
    for version in 0..=2 {
        // What is not named goes back, and a check changes nothing.
        assert_eq!(client.replaces(version, &[("retention.bytes", "9")], true).await, 0);
        let (_, found) = client.settings(4, TOPIC, "t", None).await;
        assert_ne!(of(&found, "retention.bytes").0, "9");
        assert_eq!(client.replaces(version, &[("retention.bytes", "9000")], false).await, 0);
        let (_, found) = client.settings(4, TOPIC, "t", None).await;
        assert_eq!(
            (of(&found, "retention.ms").0, of(&found, "retention.bytes").0),
            ("-1".into(), "9000".into())
        );
        assert_eq!(client.changes(1, "t", &[("retention.bytes", 0, Some("8"))]).await, 0);
    }
    assert_eq!(client.replaces(2, &[], false).await, 0);
    assert_eq!(client.produce("t", 0, batch(&["x"])).await.0, 0);
    let compact = [("cleanup.policy", 0, Some("compact"))];
    assert_eq!(client.changes(1, "t", &compact).await, code::INVALID_CONFIG, "there are records");
    server.stop().await;
}

#[tokio::test]
async fn partitions_are_added_and_never_taken_away() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.make("t").await;
    for version in 0..=3 {
        let wanted = i32::from(version) + 2;
        assert_eq!(client.grows(version, "t", wanted, true, false).await, 0);
        assert_eq!(
            client.produce("t", wanted - 1, batch(&["x"])).await.0,
            code::UNKNOWN_TOPIC,
            "not made yet"
        );
        assert_eq!(client.grows(version, "t", wanted, false, false).await, 0);
        assert_eq!(client.produce("t", wanted - 1, batch(&["x"])).await, (0, 0));
        for count in [wanted, wanted - 1, 0, -1, i32::MAX] {
            assert_eq!(client.grows(version, "t", count, false, false).await, code::INVALID_PARTITIONS);
        }
        assert_eq!(client.grows(version, "t", 9, false, true).await, code::INVALID_ASSIGNMENT);
        assert_eq!(client.grows(version, "none", 9, false, false).await, code::UNKNOWN_TOPIC);
    }
    server.stop().await;
}

#[tokio::test]
async fn records_are_deleted_up_to_an_offset() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.make("t").await;
    for value in 0..9 {
        assert_eq!(client.produce("t", 0, batch(&[&value.to_string()])).await, (0, value));
    }
    for version in 0..=2 {
        let before = i64::from(version) * 2 + 2;
        assert_eq!(client.forgets(version, "t", 0, before).await, (0, before));
        assert_eq!(client.forgets(version, "t", 0, 1).await, (0, before), "what is gone is gone");
        assert_eq!(client.fetch("t", before - 1, 0).await.code, code::OFFSET_OUT_OF_RANGE);
        assert_eq!(client.fetch("t", before, 0).await.values()[0].0, before);
        for offset in [10, -2] {
            assert_eq!(client.forgets(version, "t", 0, offset).await, (code::OFFSET_OUT_OF_RANGE, -1));
        }
        assert_eq!(client.forgets(version, "t", 1, 0).await, (code::UNKNOWN_TOPIC, -1));
        assert_eq!(client.forgets(version, "none", 0, 0).await, (code::UNKNOWN_TOPIC, -1));
    }
    assert_eq!(client.forgets(2, "t", 0, -1).await, (0, 9), "all that there is");
    server.stop().await;
}
