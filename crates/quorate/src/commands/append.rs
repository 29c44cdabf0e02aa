//! `quorate append`: one record to a stream, once.

use crate::client::{Connect, Request};
use crate::failure::Failure;
use crate::names::{segment, value, value_member};
use crate::output::Output;
use serde_json::{Map, Value, json};

/// Append a record to a stream.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate append orders '{\"type\":\"OrderPaid\"}' --key 42
  quorate append pages - --header source=crawler < page.html

A stream that does not exist is made, with one partition.")]
pub(crate) struct Append {
    /// Stream to append to.
    stream: String,
    /// The record's value; `-` reads stdin.
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// The record's key; records of one key keep their order.
    #[arg(long)]
    key: Option<String>,
    /// A header of the record. May be given again.
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// Partition; chosen by the key when absent.
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    #[command(flatten)]
    connect: Connect,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("wanted NAME=VALUE")?;
    Ok((name.into(), value.into()))
}

impl Append {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let mut record = Map::new();
        value_member(&mut record, "value", value(&self.value)?);
        if let Some(key) = self.key {
            record.insert("key".into(), key.into());
        }
        if let Some(partition) = self.partition {
            record.insert("partition".into(), partition.into());
        }
        if !self.header.is_empty() {
            let headers = self.header.into_iter().map(|(name, value)| json!({"name": name, "value": value}));
            record.insert("headers".into(), headers.collect());
        }
        let path = format!("/v1/streams/{}/records", segment(&self.stream));
        let request = Request::json("POST", path, &Value::Object(record)).once()?;
        let answer = self.connect.client()?.call(&request)?.json()?;
        output.show(&answer, || {
            let place = &answer["appended"][0];
            format!("{} partition {} offset {}", self.stream, place["partition"], place["offset"])
        })
    }
}
