//! About the server: INFO, CONFIG, SLOWLOG, WAIT, and what operators of Redis expect to be there.
//!
//! Invariant: what is told is true of this server; what has no meaning here is refused, with what to do instead.
//! Called by: `commands::run`.

use super::{REDIS_VERSION, not_served};
use crate::config::DATABASES;
use crate::connection::Connection;
use crate::gateway::{Gateway, locked};
use crate::slowlog::unix_time;
use crate::{error, resp};
use quorate_calls::Session;
use quorate_calls::events::Classes;
use quorate_machine::MemoryView;
use quorate_runtime::{Consistency, Durability};
use quorate_types::{Blob, CommandBody, Eviction, Keyspace, Outcome, Reply};
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Instant;

pub(super) async fn run(connection: &mut Connection, name: &'static str, words: &[Blob]) -> Reply {
    let gateway = &connection.gateway;
    match name {
        "info" => info(connection, &words[1..]).await,
        "config|get" => config_get(connection, &words[2..]).await,
        "config|set" => config_set(connection, &words[2..]).await,
        "config|resetstat" => {
            let stats = &gateway.stats;
            for counter in [
                &stats.commands,
                &stats.accepted,
                &stats.refused,
                &stats.input_bytes,
                &stats.output_bytes,
                &stats.errors,
            ] {
                counter.store(0, Ordering::Relaxed);
            }
            Reply::ok()
        }
        "config|rewrite" => Reply::error("ERR The server is running without a config file"),
        "time" => {
            let now = unix_time();
            Reply::array(vec![
                Reply::bulk(now.as_secs().to_string()),
                Reply::bulk(now.subsec_micros().to_string()),
            ])
        }
        "role" => Reply::array(vec![Reply::bulk("master"), Reply::integer(0), Reply::array(vec![])]),
        "slowlog|get" => match words.get(2).map(|word| resp::integer(word)) {
            None => gateway.slowlog.newest(Some(10)),
            Some(Some(-1)) => gateway.slowlog.newest(None),
            Some(Some(count)) if count >= 0 => gateway.slowlog.newest(usize::try_from(count).ok()),
            Some(_) => Reply::error("ERR count should be greater than or equal to -1"),
        },
        "slowlog|len" => Reply::count(gateway.slowlog.len()),
        "slowlog|reset" => {
            gateway.slowlog.clear();
            Reply::ok()
        }
        "latency|latest" => gateway.latency.latest(),
        "latency|history" => gateway.latency.history(&words[2]),
        "latency|graph" => gateway.latency.graph(&words[2]),
        "latency|reset" => gateway.latency.reset(&words[2..]),
        // Nothing is kept by command.
        "latency|histogram" => Reply::map(vec![]),
        "latency|doctor" => text(match gateway.latency.threshold_ms.load(Ordering::Relaxed) {
            0 => {
                "Nothing is sampled: CONFIG SET latency-monitor-threshold with milliseconds begins it. SLOWLOG GET has single commands.\n"
            }
            _ => {
                "See LATENCY HISTORY command for what took long, SLOWLOG GET for which commands did, and /metrics of the HTTP gateway for syncs.\n"
            }
        }),
        "latency|help" => Reply::array(
            [
                "DOCTOR",
                "GRAPH event",
                "HISTOGRAM [command ...]",
                "HISTORY event",
                "LATEST",
                "RESET [event ...]",
                "HELP",
            ]
            .map(|line| Reply::status(format!("LATENCY {line}")))
            .into(),
        ),
        "memory|doctor" => text("Memory is not diagnosed here: see INFO memory.\n"),
        "memory|purge" => Reply::ok(),
        "memory|stats" => Reply::map(vec![
            Reply::bulk("total.allocated"),
            Reply::integer(memory_bytes() as i64),
            Reply::bulk("keys.count"),
            Reply::integer(gateway.handle.status().sizes.keys as i64),
        ]),
        "module|list" => Reply::array(vec![]),
        "wait" => wait(gateway, &words[1..]),
        "waitaof" => wait_aof(gateway, &words[1..]),
        "bgsave" => {
            gateway.handle.snapshot_soon();
            Reply::status("Background saving started")
        }
        "bgrewriteaof" => {
            gateway.handle.snapshot_soon();
            Reply::status("Background append only file rewriting started")
        }
        // Whatever was acknowledged is on disk: it was saved just now.
        "lastsave" => Reply::integer(unix_time().as_secs() as i64),
        "save" => Reply::error(
            "ERR every acknowledged write is in the log already: BGSAVE takes a snapshot, `quorate backup` copies the data",
        ),
        "shutdown" => Reply::error("ERR a client does not stop this server: send SIGTERM to its process"),
        "replicaof" | "slaveof" | "failover" => Reply::error(
            "ERR members are changed with `quorate cluster add`, `remove` and `transfer`: every node serves everything",
        ),
        "debug" => Reply::error("ERR DEBUG is not served here"),
        other => not_served(other),
    }
}

fn text(text: impl Into<Blob>) -> Reply {
    Reply::Verbatim { format: "txt".into(), text: text.into() }
}

/// How many other nodes have every acknowledged write for certain: a quorum without this one.
fn others_in_quorum(gateway: &Gateway) -> i64 {
    let voters = gateway.handle.cluster_status().map_or(1, |status| {
        status
            .members
            .iter()
            .filter(|member| format!("{:?}", member.member.role).starts_with("Voter"))
            .count()
    });
    i64::try_from(voters / 2).unwrap_or(i64::MAX)
}

/// `WAIT replicas timeout`: the writes of this connection are answered, so a quorum has them; more of a wait would tell nothing.
fn wait(gateway: &Gateway, words: &[Blob]) -> Reply {
    match (resp::integer(&words[0]), resp::integer(&words[1])) {
        (Some(_), Some(0..)) => Reply::integer(others_in_quorum(gateway)),
        (Some(_), Some(_)) => Reply::error("ERR timeout is negative"),
        (Some(_), None) => Reply::error("ERR timeout is not an integer or out of range"),
        (None, _) => Reply::error("ERR value is not an integer or out of range"),
    }
}

/// `WAITAOF local replicas timeout`: whether it is on disk here, and on how many other nodes for certain.
fn wait_aof(gateway: &Gateway, words: &[Blob]) -> Reply {
    if words.iter().any(|word| resp::integer(word).is_none()) {
        return Reply::error("ERR value is not an integer or out of range");
    }
    let synced = gateway.handle.config().durability == Durability::Always;
    let others = if synced { others_in_quorum(gateway) } else { 0 };
    Reply::array(vec![Reply::flag(synced), Reply::integer(others)])
}

/// A setting as CONFIG shows it.
struct Parameter {
    name: &'static str,
    read: fn(&Gateway) -> String,
    /// Takes a value; nothing where it cannot be changed here.
    write: Option<Set>,
}

type Set = fn(&Gateway, &str) -> Result<(), String>;

const fn fixed(name: &'static str, read: fn(&Gateway) -> String) -> Parameter {
    Parameter { name, read, write: None }
}

fn parsed<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "argument couldn't be parsed into an integer".to_owned())
}

const PARAMETERS: &[Parameter] = &[
    fixed("appendfsync", |gateway| {
        match gateway.handle.config().durability {
            Durability::Always => "always",
            Durability::Interval => "everysec",
            Durability::None => "no",
        }
        .to_owned()
    }),
    // Every write is in the log before its answer; only when it is synced differs.
    fixed("appendonly", |_| "yes".to_owned()),
    fixed("bind", |gateway| gateway.address.ip().to_string()),
    fixed("cluster-enabled", |gateway| {
        if gateway.config.cluster.is_some() { "yes" } else { "no" }.to_owned()
    }),
    fixed("databases", |_| DATABASES.to_string()),
    Parameter {
        name: "notify-keyspace-events",
        read: |gateway| locked(&gateway.events).to_string(),
        write: Some(|gateway, value| {
            let classes =
                Classes::parse(value).ok_or("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.")?;
            *locked(&gateway.events) = classes;
            gateway.listen();
            Ok(())
        }),
    },
    fixed("port", |gateway| gateway.address.port().to_string()),
    fixed("proto-max-bulk-len", |gateway| gateway.config.bulk_bytes_max.to_string()),
    fixed("save", |_| String::new()),
    Parameter {
        name: "latency-monitor-threshold",
        read: |gateway| gateway.latency.threshold_ms.load(Ordering::Relaxed).to_string(),
        write: Some(|gateway, value| {
            gateway.latency.threshold_ms.store(parsed(value)?, Ordering::Relaxed);
            Ok(())
        }),
    },
    Parameter {
        name: "maxclients",
        read: |gateway| gateway.connections_max.load(Ordering::Relaxed).to_string(),
        write: Some(|gateway, value| {
            let max: usize = parsed(value)?;
            if max == 0 {
                return Err("argument must be between 1 and 4294967295 inclusive".to_owned());
            }
            gateway.connections_max.store(max, Ordering::Relaxed);
            Ok(())
        }),
    },
    Parameter {
        name: "slowlog-log-slower-than",
        read: |gateway| gateway.slowlog.threshold_us.load(Ordering::Relaxed).to_string(),
        write: Some(|gateway, value| {
            gateway.slowlog.threshold_us.store(parsed(value)?, Ordering::Relaxed);
            Ok(())
        }),
    },
    Parameter {
        name: "slowlog-max-len",
        read: |gateway| gateway.slowlog.length_max.load(Ordering::Relaxed).to_string(),
        write: Some(|gateway, value| {
            let max: u64 = parsed(value)?;
            // Bounded, so that nobody fills memory with it.
            gateway.slowlog.length_max.store(max.min(100_000), Ordering::Relaxed);
            Ok(())
        }),
    },
    Parameter {
        name: "tracking-table-max-keys",
        read: |gateway| gateway.tracking.keys_max.load(Ordering::Relaxed).to_string(),
        write: Some(|gateway, value| {
            let max: usize = parsed(value)?;
            // Bounded, so that nobody fills memory with it; without a bound there is the largest.
            let max = if max == 0 { crate::tracking::KEYS_MAX } else { max.min(crate::tracking::KEYS_MAX) };
            gateway.tracking.keys_max.store(max, Ordering::Relaxed);
            Ok(())
        }),
    },
    Parameter {
        name: "timeout",
        read: |gateway| gateway.idle_seconds.load(Ordering::Relaxed).to_string(),
        write: Some(|gateway, value| {
            gateway.idle_seconds.store(parsed(value)?, Ordering::Relaxed);
            Ok(())
        }),
    },
];

/// What CONFIG tells of the keyspace that a connection has selected; the log holds it, so every node has it and no restart forgets it.
const MEMORY: [&str; 2] = ["maxmemory", "maxmemory-policy"];

async fn config_get(connection: &Connection, patterns: &[Blob]) -> Reply {
    let gateway = &connection.gateway;
    let patterns: Vec<Vec<u8>> = patterns.iter().map(|pattern| pattern.to_ascii_lowercase()).collect();
    let asked = |name: &str| patterns.iter().any(|pattern| quorate_calls::matches(pattern, name.as_bytes()));
    let mut found: Vec<(&str, String)> = PARAMETERS
        .iter()
        .filter(|parameter| asked(parameter.name))
        .map(|parameter| (parameter.name, (parameter.read)(gateway)))
        .collect();
    if MEMORY.into_iter().any(asked) {
        let limit = match memory(connection).await {
            Ok(memory) => memory.limit,
            Err(reply) => return reply,
        };
        let told = [limit.bytes_max.to_string(), limit.eviction.name().to_owned()];
        found.extend(MEMORY.into_iter().zip(told).filter(|(name, _)| asked(name)));
        found.sort_unstable();
    }
    Reply::map(found.into_iter().flat_map(|(name, value)| [Reply::bulk(name), Reply::bulk(value)]).collect())
}

/// What the keyspace of a connection holds and may hold.
async fn memory(connection: &Connection) -> Result<MemoryView, Reply> {
    let space = connection.state.session.space;
    let read =
        connection.gateway.handle.read_with(connection.state.consistency, |machine| machine.memory(space));
    read.await.map_err(|why| error::runtime(&why))
}

/// What CONFIG SET wants of a keyspace's memory.
#[derive(Default)]
struct Memory {
    bytes_max: Option<u64>,
    eviction: Option<Eviction>,
}

impl Memory {
    fn take(&mut self, name: &str, value: &str) -> Result<(), String> {
        if name == "maxmemory" {
            self.bytes_max = Some(bytes(value).ok_or("argument must be a memory value")?);
            return Ok(());
        }
        let names = Eviction::ALL.map(Eviction::name).join(", ");
        self.eviction = Some(
            Eviction::parse(value)
                .ok_or_else(|| format!("argument(s) must be one of the following: {names}"))?,
        );
        Ok(())
    }

    async fn set(self, connection: &Connection) -> Result<(), Reply> {
        let Self { bytes_max, eviction } = self;
        if bytes_max.is_none() && eviction.is_none() {
            return Ok(());
        }
        let space = connection.state.session.space;
        let body = CommandBody::LimitMemory { space, bytes_max, eviction };
        match connection.gateway.command(&connection.state.who, body).await? {
            Outcome::Refused { refusal } => Err(error::refusal(&refusal)),
            _ => Ok(()),
        }
    }
}

/// A size as Redis writes it: a number, and maybe a unit (k, m, g: thousands; kb, mb, gb: of 1024).
fn bytes(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = match unit {
        "" | "b" => 1,
        "k" => 1_000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

async fn config_set(connection: &Connection, words: &[Blob]) -> Reply {
    let gateway = &connection.gateway;
    let failed = |name: &str, why: String| {
        Reply::error(format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}"))
    };
    if !words.len().is_multiple_of(2) {
        return Reply::error("ERR wrong number of arguments for 'config|set' command");
    }
    let (mut changes, mut memory) = (Vec::new(), Memory::default());
    for pair in words.chunks_exact(2) {
        let name = String::from_utf8_lossy(&pair[0]).to_ascii_lowercase();
        let value = String::from_utf8_lossy(&pair[1]).into_owned();
        if MEMORY.contains(&name.as_str()) {
            match memory.take(&name, &value) {
                Ok(()) => continue,
                Err(why) => return failed(&name, why),
            }
        }
        let Some(parameter) = PARAMETERS.iter().find(|parameter| parameter.name == name) else {
            return Reply::error(format!(
                "ERR Unknown option or number of arguments for CONFIG SET - '{}'",
                String::from_utf8_lossy(&pair[0])
            ));
        };
        changes.push((parameter, value));
    }
    for (parameter, value) in changes {
        let done = match parameter.write {
            Some(write) => write(gateway, &value),
            // What it is already needs no change.
            None if (parameter.read)(gateway) == value => Ok(()),
            None => Err("can't set immutable config".to_owned()),
        };
        if let Err(why) = done {
            return failed(parameter.name, why);
        }
    }
    match memory.set(connection).await {
        Ok(()) => Reply::ok(),
        Err(reply) => reply,
    }
}

const SECTIONS: [&str; 9] =
    ["server", "clients", "memory", "persistence", "stats", "replication", "cpu", "cluster", "keyspace"];

async fn info(connection: &Connection, wanted: &[Blob]) -> Reply {
    let gateway = &connection.gateway;
    let space = connection.state.session.space;
    let held = gateway.handle.read_with(Consistency::Stale, |machine| machine.memory(space)).await;
    let held = match held {
        Ok(held) => held,
        Err(why) => return error::runtime(&why),
    };
    let names: Vec<String> =
        wanted.iter().map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect();
    let everything = names.is_empty()
        || names.iter().any(|name| matches!(name.as_str(), "all" | "default" | "everything"));
    let mut out = String::with_capacity(4096);
    for section in SECTIONS {
        if !everything && !names.iter().any(|name| name == section) {
            continue;
        }
        if !out.is_empty() {
            out.push_str("\r\n");
        }
        let title = section[..1].to_ascii_uppercase() + &section[1..];
        let title = if section == "cpu" { "CPU".to_owned() } else { title };
        let _ = write!(out, "# {title}\r\n");
        if section == "keyspace" {
            if let Err(reply) = keyspace(gateway, &mut out).await {
                return reply;
            }
        } else {
            write_section(gateway, section, &held, &mut out);
        }
    }
    text(out)
}

fn write_section(gateway: &Gateway, section: &str, held: &MemoryView, out: &mut String) {
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        // A string takes everything.
        let _ = write!(out, "{name}:{value}\r\n");
    };
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    match section {
        "server" => {
            let up = gateway.started.elapsed().as_secs();
            line("redis_version", &REDIS_VERSION);
            line("quorate_version", &env!("CARGO_PKG_VERSION"));
            line("redis_mode", &mode(gateway));
            line("os", &std::env::consts::OS);
            line("arch_bits", &usize::BITS);
            line("process_id", &std::process::id());
            line("run_id", &gateway.run_id);
            line("tcp_port", &gateway.address.port());
            line("server_time_usec", &unix_time().as_micros());
            line("uptime_in_seconds", &up);
            line("uptime_in_days", &(up / 86400));
        }
        "clients" => {
            let clients = gateway.connected();
            let listening = clients.iter().filter(|client| client.kind() == "pubsub").count();
            line("connected_clients", &clients.len());
            line("maxclients", &gateway.connections_max.load(Ordering::Relaxed));
            line("blocked_clients", &gateway.queues.waiting());
            line("tracking_clients", &gateway.tracking.sizes().clients);
            line("pubsub_clients", &listening);
        }
        "memory" => {
            let used = memory_bytes();
            line("used_memory", &used);
            line("used_memory_rss", &used);
            line("used_memory_human", &human(used));
            // Of the keyspace that the client has selected.
            line("used_memory_dataset", &held.bytes);
            line("maxmemory", &held.limit.bytes_max);
            line("maxmemory_human", &human(held.limit.bytes_max));
            line("maxmemory_policy", &held.limit.eviction.name());
            line("memory_low", &u8::from(gateway.handle.status().memory_low));
        }
        "persistence" => {
            let status = gateway.handle.status();
            line("loading", &0);
            line("async_loading", &0);
            line("rdb_bgsave_in_progress", &0);
            line("aof_enabled", &1);
            line("aof_rewrite_in_progress", &0);
            line("aof_last_write_status", &(if status.stopped.is_none() { "ok" } else { "err" }));
            line("aof_current_size", &status.log_bytes);
            line("quorate_applied_index", &status.applied);
            line("quorate_revision", &status.revision);
            line("quorate_snapshot_index", &status.snapshot);
        }
        "stats" => {
            let stats = &gateway.stats;
            let (channels, shards) = locked(&gateway.subscriptions).len();
            line("total_connections_received", &count(&stats.accepted));
            line("total_commands_processed", &count(&stats.commands));
            line("instantaneous_ops_per_sec", &rate(gateway));
            line("total_net_input_bytes", &count(&stats.input_bytes));
            line("total_net_output_bytes", &count(&stats.output_bytes));
            line("rejected_connections", &count(&stats.refused));
            line("total_error_replies", &count(&stats.errors));
            line("evicted_keys", &gateway.handle.status().evicted);
            line("pubsub_channels", &channels);
            line("pubsub_patterns", &locked(&gateway.subscriptions).patterns());
            line("pubsubshard_channels", &shards);
            let tracked = gateway.tracking.sizes();
            line("tracking_total_keys", &tracked.keys);
            line("tracking_total_prefixes", &tracked.prefixes);
            line("slowlog_entries", &gateway.slowlog.len());
        }
        "replication" => {
            // Every node takes reads and writes: to a client each is a master.
            line("role", &"master");
            line("connected_slaves", &0);
            match gateway.handle.cluster_status() {
                None => line("quorate_role", &"alone"),
                Some(status) => {
                    line("quorate_role", &(if status.standing.leads { "leader" } else { "follower" }));
                    line("quorate_node", &status.node);
                    line("quorate_term", &status.standing.term);
                    if let Some(leader) = status.standing.leader {
                        line("quorate_leader", &leader);
                    }
                    line("quorate_members", &status.members.len());
                }
            }
        }
        "cpu" => {
            let (user, system) = cpu_seconds();
            line("used_cpu_sys", &format_args!("{system:.6}"));
            line("used_cpu_user", &format_args!("{user:.6}"));
        }
        _ => line("cluster_enabled", &u8::from(gateway.config.cluster.is_some())),
    }
}

async fn keyspace(gateway: &Gateway, out: &mut String) -> Result<(), Reply> {
    let counted = gateway.handle.read_at(Consistency::Stale, |machine, times| {
        (0..DATABASES)
            .map(|number| {
                let mut session = Session::new(Keyspace(number));
                match machine.call(times, &mut session, &["dbsize".into()], 0) {
                    Ok(Reply::Integer { value }) => value,
                    _ => 0,
                }
            })
            .collect::<Vec<i64>>()
    });
    let counted = counted.await.map_err(|why| error::runtime(&why))?;
    for (number, keys) in counted.into_iter().enumerate().filter(|(_, keys)| *keys > 0) {
        let _ = write!(out, "db{number}:keys={keys}\r\n");
    }
    Ok(())
}

/// What clients are told that this is.
pub(super) fn mode(gateway: &Gateway) -> &'static str {
    if gateway.config.cluster.is_some() { "cluster" } else { "standalone" }
}

/// Commands per second since it was last asked for, over at least a tenth of a second.
fn rate(gateway: &Gateway) -> u64 {
    let commands = gateway.stats.commands.load(Ordering::Relaxed);
    let mut last = locked(&gateway.stats.rate);
    let (since, before, rate) = last.unwrap_or((gateway.started, 0, 0));
    let millis = since.elapsed().as_millis() as u64;
    if millis < 100 {
        return rate;
    }
    let rate = commands.saturating_sub(before) * 1000 / millis;
    *last = Some((Instant::now(), commands, rate));
    rate
}

/// Resident memory of this process (Linux: proc(5), statm); 0 where it cannot be told.
fn memory_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// Processor time of this process in seconds: user, system (Linux: proc(5), stat; ticks of 10 ms).
fn cpu_seconds() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program comes second, in parentheses, and may hold anything.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks = |at: usize| {
        after.split_whitespace().nth(at).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0)
    };
    (ticks(11) / 100.0, ticks(12) / 100.0)
}

fn human(bytes: u64) -> String {
    let mut size = bytes as f64;
    for unit in ["B", "K", "M", "G"] {
        if size < 1024.0 {
            return format!("{size:.2}{unit}");
        }
        size /= 1024.0;
    }
    format!("{size:.2}T")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_for_people() {
        assert_eq!(human(512), "512.00B");
        assert_eq!(human(3 << 20), "3.00M");
        assert_eq!(human(5 << 40), "5.00T");
    }

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, size) in
            [("0", 0), ("100", 100), ("1kb", 1024), ("2K", 2000), ("3mb", 3 << 20), ("1GB", 1 << 30)]
        {
            assert_eq!(bytes(text), Some(size), "{text}");
        }
        for text in ["", "mb", "-1", "1.5gb", "1tb", "99999999999gb"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn the_process_is_measured() {
        assert!(memory_bytes() > 100_000);
        let (user, system) = cpu_seconds();
        assert!(user >= 0.0 && system >= 0.0);
    }
}
