//! Quorate as a library: open a folder and commit, without any socket.
//!
//! `cargo run -p quorate-runtime --example embedded -- FOLDER`

use quorate_runtime::{Config, Quorate};
use quorate_types::{Append, Commit, Format, Op, PartitionChoice, Record, record};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "quorate-example".into());
    let db =
        Quorate::open(&folder, Config::default(), |done, all| eprintln!("replayed {done} of {all} entries"))?;

    // A count and an event, together or not at all.
    let event =
        Record { key: Some("42".into()), value: Some("{\"type\":\"Visited\"}".into()), headers: Vec::new() };
    let committed = db.commit(Commit::of(vec![
        Op::Increment { key: "visits".into(), by: 1, min: 0, max: i64::MAX },
        Op::Append {
            append: Append {
                stream: "events".into(),
                partition: PartitionChoice::Any,
                format: Format::Records,
                records: 1,
                payload: record::encode(&[event]),
                create: true,
            },
        },
    ]))?;
    println!("revision {}: {:?}", committed.revision, committed.results);
    db.close();
    Ok(())
}
