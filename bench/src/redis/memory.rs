//! What the same data takes in memory: resident bytes of each server before and after it was written, history off.
//!
//! Each data set goes to servers of their own, since neither gives back what it once had. What they write to disk meanwhile (a
//! snapshot, nothing) is waited for, and Redis does not rewrite its file.
//!
//! Called by: `redis::run`.

use super::{Failure, Options, Server, until};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

/// Commands sent before their replies are read.
const BATCH: u64 = 1000;
/// Members of a small collection.
const SMALL: u64 = 10;

/// A set of data: `keys(elements)` commands, each made from its number.
struct Data {
    name: &'static str,
    commands: fn(u64) -> u64,
    command: fn(u64) -> Vec<String>,
}

const DATA: [Data; 8] = [
    Data {
        name: "strings of 32 B",
        commands: |elements| elements,
        command: |n| words(["SET", &key(n), &value(n, 32)]),
    },
    Data {
        name: "strings of 256 B",
        commands: |elements| elements,
        command: |n| words(["SET", &key(n), &value(n, 256)]),
    },
    Data { name: "hashes of 10 fields of 16 B", commands: |all| all / SMALL, command: |n| small("HSET", n) },
    Data {
        name: "lists of 10 elements of 16 B",
        commands: |all| all / SMALL,
        command: |n| small("RPUSH", n),
    },
    Data { name: "sets of 10 members of 16 B", commands: |all| all / SMALL, command: |n| small("SADD", n) },
    Data {
        name: "sorted sets of 10 members of 16 B",
        commands: |all| all / SMALL,
        command: |n| small("ZADD", n),
    },
    Data {
        name: "one hash, fields of 16 B",
        commands: |elements| elements,
        command: |n| words(["HSET", "hash", &key(n), &value(n, 16)]),
    },
    Data {
        name: "one sorted set",
        commands: |elements| elements,
        command: |n| words(["ZADD", "zset", &n.to_string(), &key(n)]),
    },
];

pub(super) fn run(options: &Options, elements: u64, binary: &Path, folder: &Path) -> Result<(), Failure> {
    println!(
        "Resident memory that {elements} elements add, history off, durability {}\n",
        options.durability
    );
    println!("| data | quorate, B an element | redis, B an element | ratio |");
    println!("| --- | --- | --- | --- |");
    for (number, data) in DATA.iter().enumerate() {
        let at = |who: &str| folder.join(format!("{who}-{number}"));
        let ours = grown(&Server::quorate(options, binary, &at("quorate"))?, data, elements)?;
        let theirs = grown(&Server::redis(options, &at("redis"))?, data, elements)?;
        println!("| {} | {ours:.0} | {theirs:.0} | {:.2} |", data.name, ours / theirs);
    }
    Ok(())
}

/// Bytes an element that a server has grown by.
fn grown(server: &Server, data: &Data, elements: u64) -> Result<f64, Failure> {
    let before = settled(server)?;
    fill(server, data, (data.commands)(elements))?;
    Ok(settled(server)?.saturating_sub(before) as f64 / elements as f64)
}

/// Resident memory once the server has been idle for a second.
fn settled(server: &Server) -> Result<u64, Failure> {
    let mut cpu = f64::NAN;
    let mut idle = 0;
    until(Duration::from_secs(60), || {
        let now = server.processes.cpu_seconds();
        idle = if now - cpu < 0.015 { idle + 1 } else { 0 };
        cpu = now;
        (idle >= 10).then(|| server.processes.resident_bytes())
    })
    .ok_or_else(|| "the server is never idle".into())
}

fn fill(server: &Server, data: &Data, commands: u64) -> Result<(), Failure> {
    let mut stream = TcpStream::connect(server.address)?;
    let mut replies = BufReader::new(stream.try_clone()?).lines();
    let mut next = 0;
    while next < commands {
        let end = commands.min(next + BATCH);
        let mut batch = Vec::new();
        for number in next..end {
            let words = (data.command)(number);
            write!(batch, "*{}\r\n", words.len())?;
            for word in words {
                write!(batch, "${}\r\n{word}\r\n", word.len())?;
            }
        }
        stream.write_all(&batch)?;
        for _ in next..end {
            let reply = replies.next().ok_or("the server has closed the connection")??;
            if reply.starts_with('-') {
                return Err(format!("{}: {reply}", data.name).into());
            }
        }
        next = end;
    }
    Ok(())
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}

fn key(number: u64) -> String {
    format!("key:{number:012}")
}

/// `bytes` of text that differ from number to number.
fn value(number: u64, bytes: usize) -> String {
    let mut text = format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    while text.len() < bytes {
        text.push_str(&text.clone());
    }
    text.truncate(bytes);
    text
}

/// Fills a collection of [`SMALL`] in one command.
fn small(command: &str, number: u64) -> Vec<String> {
    let mut words = vec![command.to_owned(), key(number)];
    for member in 0..SMALL {
        match command {
            "HSET" => words.push(format!("field{member}")),
            "ZADD" => words.push(member.to_string()),
            _ => {}
        }
        words.push(value(number * SMALL + member, 16));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_length_and_differ() {
        for bytes in [16, 32, 256] {
            assert_eq!(value(7, bytes).len(), bytes);
            assert_ne!(value(7, bytes), value(8, bytes));
        }
    }

    #[test]
    fn small_collections_are_filled_by_one_command() {
        assert_eq!(small("HSET", 0).len(), 22);
        assert_eq!(small("RPUSH", 0).len(), 12);
        assert_eq!(small("ZADD", 0)[2], "0");
    }
}
