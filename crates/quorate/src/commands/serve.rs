//! `quorate serve`: opens a data folder and answers over HTTP, the protocols of Redis and Kafka, and etcd's API until it is told to stop.
//!
//! Invariant: everything that the command line says is checked before the first file is opened.
//! Invariant: on SIGTERM or ctrl-c nothing new is taken, and what was admitted is finished and answered.

use crate::commands::node::{self, NodeOptions};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::progress::Progress;
use crate::scheduling::Scheduling;
use quorate_http::config::principal_of;
use quorate_http::{TlsFiles, Token, check_bind};
use quorate_runtime::{ClusterConfig, Durability, Handle, OpenError, OpenReport, Quorate};
use quorate_types::users::USER_PREFIX;
use quorate_types::{Millis, Principal};
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// How often news of the partition is passed on to the operator.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Start a server on a data folder.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  quorate serve
  quorate serve --data /var/lib/quorate --http 127.0.0.1:9000
  quorate serve --http 127.0.0.1:0 --durability interval      (any free port; it is printed on stdout)
  quorate serve --redis 127.0.0.1:6380                        (or --redis off)
  quorate serve --etcd 127.0.0.1:2380                         (or --etcd off)
  quorate serve --kafka 127.0.0.1:9093                        (or --kafka off)
  quorate serve --http 0.0.0.0:8400 --tls-cert cert.pem --tls-key key.pem --token-file tokens
  quorate serve --node-id 1 --peer-listen 10.0.0.1:8500 --peers 1=10.0.0.1:8500,2=10.0.0.2:8500,3=10.0.0.3:8500 …

The address is printed on stdout once requests are taken; everything else goes to stderr. SIGTERM and ctrl-c stop the
server in good order: what was admitted is finished. An address that other machines can reach needs TLS and tokens, or --insecure. A node of a cluster begins its work with `quorate cluster init` at
one of the nodes; docs/cluster.md tells more.")]
pub(crate) struct Serve {
    /// Folder of the data; made when it is not there.
    #[arg(long, value_name = "DIR", default_value = "./quorate-data")]
    data: PathBuf,
    /// Address of the HTTP gateway; port 0 takes any free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8400")]
    http: SocketAddr,
    /// Address of the Redis gateway, or `off`; port 0 takes any free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6379", env = "QUORATE_REDIS")]
    redis: Gateway,
    /// Address of the etcd gateway, or `off`; port 0 takes any free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:2379", env = "QUORATE_ETCD")]
    etcd: Gateway,
    /// Where etcd clients are told to find this node, when that is not the address it listens on.
    #[arg(long, value_name = "HOST:PORT", value_parser = node::dialled)]
    advertise_etcd: Option<String>,
    /// Address of the Kafka gateway, or `off`; port 0 takes any free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9092", env = "QUORATE_KAFKA")]
    kafka: Gateway,
    /// Where Kafka clients are told to find this node, when that is not the address it listens on.
    #[arg(long, value_name = "HOST:PORT", value_parser = node::dialled)]
    advertise_kafka: Option<String>,
    /// Let Redis' FLUSHDB and FLUSHALL take what etcd clients write from now on.
    #[arg(long)]
    etcd_may_be_flushed: bool,
    /// Where Redis clients are told to find this node, when that is not the address it listens on.
    #[arg(long, value_name = "HOST:PORT", value_parser = node::dialled)]
    advertise_redis: Option<String>,
    /// Answer Redis clients in cluster mode: where they find each node of this cluster, separated by commas.
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',', value_parser = node::dialled)]
    redis_cluster: Option<Vec<String>>,
    /// When a commit is answered: once it is on disk; once written, synced every second; once written.
    #[arg(long, value_name = "WHEN", default_value = "always")]
    durability: Sync,
    /// File of tokens, one `NAME TOKEN` or `NAME sha256:HEX` per line; every request then needs one.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Certificate chain in PEM, leaf first; serves https.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Certificates in PEM: etcd clients have to show one that these have signed. Without a token, its common name is the user.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    etcd_client_ca: Option<PathBuf>,
    /// Listen beyond this machine without TLS or without tokens, where the network itself is trusted.
    #[arg(long)]
    insecure: bool,
    /// Origin of web pages that may call, such as https://app.example; `*` for all. May be given again.
    #[arg(long, value_name = "ORIGIN")]
    origin: Vec<String>,
    /// How threads of the server are woken while the processors are busy.
    #[arg(long, value_name = "POLICY", default_value = "batch")]
    scheduling: Scheduling,
    /// Stop in good order when stdin ends: for who starts servers and must not leave them behind.
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
    #[command(flatten)]
    node: NodeOptions,
    #[command(flatten)]
    bounds: Bounds,
}

/// Whether and where a gateway listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gateway {
    Off,
    At(SocketAddr),
}

impl std::str::FromStr for Gateway {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse()
            .map(Self::At)
            .map_err(|_| "wanted ADDRESS:PORT, such as 127.0.0.1:6379, or off".to_owned())
    }
}

/// Tokens open the other gateways as they open the HTTP one.
struct Tokens(Vec<Token>);

impl quorate_redis::Door for Tokens {
    fn principal(&self, secret: &str) -> Option<Principal> {
        principal_of(&self.0, secret).cloned()
    }
}

impl quorate_etcd::Door for Tokens {
    fn principal(&self, secret: &str) -> Option<Principal> {
        principal_of(&self.0, secret).cloned()
    }
}

impl quorate_kafka::Door for Tokens {
    fn principal(&self, secret: &str) -> Option<Principal> {
        principal_of(&self.0, secret).cloned()
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Sync {
    /// On disk before the answer.
    Always,
    /// Handed to the operating system before the answer, synced every second.
    Interval,
    /// Handed to the operating system before the answer.
    None,
}

/// What the options come to.
#[derive(Default)]
struct Settings {
    node: quorate_runtime::Config,
    http: quorate_http::Config,
    redis: quorate_redis::Config,
    etcd: quorate_etcd::Config,
    kafka: quorate_kafka::Config,
}

/// A number that an option sets.
trait Number {
    fn read(&self) -> u64;
    fn write(&mut self, value: u64) -> Result<(), String>;
}

macro_rules! numbers {
    ($($type:ty),*) => {$(
        impl Number for $type {
            fn read(&self) -> u64 {
                u64::try_from(*self).unwrap_or(u64::MAX)
            }
            fn write(&mut self, value: u64) -> Result<(), String> {
                *self = value.try_into().map_err(|_| format!("{value} is too large, at most {} fits", <$type>::MAX))?;
                Ok(())
            }
        }
    )*};
}
numbers!(u64, u32, usize);

impl Number for Millis {
    fn read(&self) -> u64 {
        self.0
    }
    fn write(&mut self, value: u64) -> Result<(), String> {
        self.0 = value;
        Ok(())
    }
}

impl Number for Duration {
    fn read(&self) -> u64 {
        crate::names::millis(*self)
    }
    fn write(&mut self, value: u64) -> Result<(), String> {
        *self = Duration::from_millis(value);
        Ok(())
    }
}

macro_rules! bounds {
    ($($(#[doc = $help:literal])+ $option:ident = $($place:ident).+;)*) => {
        /// Every bound, with its default. One line here is the option, its help, and what it sets.
        #[derive(clap::Args)]
        #[command(next_help_heading = "Bounds (bytes, milliseconds, counts)")]
        struct Bounds {
            $($(#[doc = $help])+
            #[arg(long, value_name = "N", default_value_t = Settings::default().$($place).+.read())]
            $option: u64,)*
        }

        impl Bounds {
            fn apply(&self, settings: &mut Settings) -> Result<(), Failure> {
                $(settings.$($place).+.write(self.$option).map_err(|why| {
                    let option = stringify!($option).replace('_', "-");
                    Failure::new(Exit::Usage, format!("--{option}: {why}"), "")
                })?;)*
                Ok(())
            }
        }
    };
}

bounds! {
    /// Longest key, stream, lock or other name.
    name_bytes_max = node.limits.name_bytes_max;
    /// Largest value of a key.
    value_bytes_max = node.limits.value_bytes_max;
    /// Largest payload of one append.
    payload_bytes_max = node.limits.payload_bytes_max;
    /// Largest command in all.
    command_bytes_max = node.limits.command_bytes_max;
    /// Most operations of a commit, inner ones included.
    operations_max = node.limits.operations_max;
    /// Most guards of a commit, inner ones included.
    guards_max = node.limits.guards_max;
    /// Deepest nesting of commits.
    depth_max = node.limits.depth_max;
    /// Shortest time to live of a lease.
    lease_ttl_ms_min = node.limits.lease_ttl_ms_min;
    /// Longest time to live of anything.
    ttl_ms_max = node.limits.ttl_ms_max;
    /// Most partitions of a stream.
    partitions_max = node.limits.partitions_max;
    /// Most records handed out by one take.
    take_max = node.limits.take_max;
    /// Revisions of history kept.
    history_revisions_max = node.settings.history_revisions;
    /// Age of history kept.
    history_age_ms_max = node.settings.history_age;
    /// Bytes of history kept, whatever the other two say.
    history_bytes_max = node.settings.history_bytes_max;
    /// Bytes of idempotency records kept; beyond it new keys are refused, none is forgotten early.
    idempotency_bytes_max = node.settings.idempotency_bytes_max;
    /// Expiries that one entry ends at most; the rest follows in the next.
    expiries_per_entry_max = node.settings.expiries_per_entry;
    /// Commands that may wait for their entry; one more is refused as overload.
    waiting_commands_max = node.waiting_commands_max;
    /// Bytes of commands that may wait.
    waiting_bytes_max = node.waiting_bytes_max;
    /// Bytes of commands that go into one entry, about.
    entry_bytes = node.entry_bytes;
    /// Commands after which a snapshot is taken; more in proportion while snapshots are larger than --snapshot-bytes.
    snapshot_commands = node.snapshot_commands;
    /// Bytes of log after which a snapshot is taken, or as many as the last snapshot has.
    snapshot_bytes = node.snapshot_bytes;
    /// Rows per slice of a snapshot.
    snapshot_rows = node.snapshot_rows;
    /// Age of the log kept for `why`.
    audit_age_ms_max = node.audit_age;
    /// Bytes of the log kept for `why`.
    audit_bytes_max = node.audit_bytes;
    /// Refusals whose reason is logged, per name and ten thousand entries.
    refusals_per_name_max = node.refusals_per_name;
    /// Bytes of a segment file of the log.
    segment_bytes = node.log.segment_bytes;
    /// Segments kept prepared ahead of need.
    segments_ready = node.log.segments_ready;
    /// Bytes of one write to the log.
    batch_bytes_max = node.log.batch_bytes_max;
    /// Bytes of one entry of the log.
    entry_bytes_max = node.log.entry_bytes_max;
    /// Free bytes of the disk below which growth is refused.
    disk_reserve_bytes = node.log.reserve_bytes;
    /// Largest request body.
    body_bytes_max = http.body_bytes_max;
    /// Connections at once.
    connections_max = http.connections_max;
    /// How long a client may take to send a request's head.
    header_timeout_ms = http.header_timeout;
    /// How long a request may take, its asked-for wait not counted.
    request_timeout_ms = http.request_timeout;
    /// How long a command may stay open, a lock's wait not counted; then its outcome is said to be indeterminate.
    command_timeout_ms = http.command_timeout;
    /// Longest wait a request may ask for.
    wait_ms_max = http.wait_max;
    /// Most keys of one range answer, and its default.
    range_keys_max = http.range_keys_max;
    /// Most records of one read, or changes of one step of a watch.
    read_records_max = http.read_records_max;
    /// Most payload bytes of one read.
    read_bytes_max = http.read_bytes_max;
    /// Silence after which an event stream sends a sign of life.
    sse_keepalive_ms = http.sse_keepalive;
    /// How long open requests may go on once the server stops.
    shutdown_grace_ms = http.shutdown_grace;
    /// Longest word of a Redis command.
    redis_bulk_bytes_max = redis.bulk_bytes_max;
    /// Longest Redis command in all, as it is received.
    redis_command_bytes_max = redis.command_bytes_max;
    /// Redis connections at once.
    redis_connections_max = redis.connections_max;
    /// Bytes of published messages that wait for a Redis client; one that takes them too slowly is disconnected.
    redis_pushes_bytes_max = redis.pushes_bytes_max;
    /// Bytes of replies after which a Redis client has to take them before more is executed.
    redis_output_bytes_max = redis.output_bytes_max;
    /// Largest request of an etcd client.
    etcd_request_bytes_max = etcd.request_bytes_max;
    /// Most comparisons, or operations of one list, of an etcd transaction.
    etcd_operations_max = etcd.operations_max;
    /// etcd connections at once.
    etcd_connections_max = etcd.connections_max;
    /// Bytes of events that wait for one stream of watches; beyond, its watches read history at their own pace.
    etcd_watch_bytes_max = etcd.watch_bytes_max;
    /// Watches of one stream at once.
    etcd_watches_max = etcd.watches_max;
    /// Silence after which a watch that asked for it is told how far it is.
    etcd_progress_ms = etcd.progress_interval;
    /// How long a token that etcd's Authenticate gave lives unused.
    etcd_token_ttl_ms = etcd.token_ttl;
    /// Largest request of a Kafka client.
    kafka_request_bytes_max = kafka.request_bytes_max;
    /// Most bytes of batches in one answer to a Kafka client's Fetch.
    kafka_fetch_bytes_max = kafka.fetch_bytes_max;
    /// Longest that a Kafka client's Fetch waits for records.
    kafka_fetch_wait_ms_max = kafka.fetch_wait_max;
    /// Partitions of a topic that is made because a Kafka client asked for it.
    kafka_partitions = kafka.partitions;
    /// How long a Kafka client's member of a group of the consumer protocol may be silent.
    kafka_consumer_session_ms = kafka.consumer_session;
    /// How often such a member is asked to beat.
    kafka_consumer_heartbeat_ms = kafka.consumer_heartbeat;
    /// Kafka connections at once.
    kafka_connections_max = kafka.connections_max;
}

impl Serve {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let settings = self.settings()?;
        let (tls, tokens) = (settings.http.tls.is_some(), !settings.http.tokens.is_empty());
        // Nobody without a certificate comes as far as the etcd gateway asking for a token.
        let certified = tokens || self.etcd_client_ca.is_some();
        let addresses = [
            (Some(self.http), tokens),
            (self.redis.address(), tokens),
            (self.etcd.address(), certified),
            (self.kafka.address(), tokens),
        ];
        for (address, known) in addresses {
            let Some(address) = address else { continue };
            check_bind(address, tls, known, self.insecure)
                .map_err(|refused| Failure::new(Exit::Usage, refused.to_string(), ""))?;
        }
        let node = self.node.checked(self.insecure, settings.node.durability)?;
        self.scheduling.apply();
        quorate_runtime::use_small_pages();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::io("start the event loop", &error))?;
        runtime.block_on(self.serve(settings, node, output))
    }

    fn settings(&self) -> Result<Settings, Failure> {
        let mut settings = Settings::default();
        self.bounds.apply(&mut settings)?;
        settings.node.durability = match self.durability {
            Sync::Always => Durability::Always,
            Sync::Interval => Durability::Interval,
            Sync::None => Durability::None,
        };
        if let Some(path) = &self.token_file {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Failure::io(format!("read {}", path.display()), &error))?;
            settings.http.tokens = tokens(&text)
                .map_err(|why| Failure::new(Exit::Usage, format!("{}: {why}", path.display()), ""))?;
        }
        if let (Some(certificates), Some(key)) = (&self.tls_cert, &self.tls_key) {
            for path in [certificates, key] {
                std::fs::File::open(path)
                    .map_err(|error| Failure::io(format!("open {}", path.display()), &error))?;
            }
            settings.http.tls = Some(TlsFiles { certificates: certificates.clone(), key: key.clone() });
        }
        if let Some(files) = &settings.http.tls {
            let acceptor = quorate_http::acceptor(files, &[], None);
            settings.redis.tls =
                Some(acceptor.map_err(|why| Failure::new(Exit::Usage, why.to_string(), ""))?);
            let acceptor = quorate_http::acceptor(files, &[], None);
            settings.kafka.tls =
                Some(acceptor.map_err(|why| Failure::new(Exit::Usage, why.to_string(), ""))?);
            let authority = self.etcd_client_ca.as_deref();
            let acceptor = quorate_http::acceptor(files, &[b"h2", b"http/1.1"], authority);
            settings.etcd.tls = Some(acceptor.map_err(|why| Failure::new(Exit::Usage, why.to_string(), ""))?);
        }
        if !settings.http.tokens.is_empty() {
            settings.redis.door = Some(Arc::new(Tokens(settings.http.tokens.clone())));
            settings.etcd.door = Some(Arc::new(Tokens(settings.http.tokens.clone())));
            settings.kafka.door = Some(Arc::new(Tokens(settings.http.tokens.clone())));
        }
        settings.redis.advertise.clone_from(&self.advertise_redis);
        settings.redis.cluster.clone_from(&self.redis_cluster);
        settings.redis.command_timeout = settings.http.command_timeout;
        settings.redis.shutdown_grace = settings.http.shutdown_grace;
        settings.etcd.advertise.clone_from(&self.advertise_etcd);
        settings.etcd.scratch.clone_from(&self.data);
        settings.etcd.may_be_flushed = self.etcd_may_be_flushed;
        settings.etcd.command_timeout = settings.http.command_timeout;
        settings.etcd.shutdown_grace = settings.http.shutdown_grace;
        settings.kafka.advertise.clone_from(&self.advertise_kafka);
        settings.kafka.command_timeout = settings.http.command_timeout;
        settings.kafka.shutdown_grace = settings.http.shutdown_grace;
        settings.http.origins = self.origin.clone();
        Ok(settings)
    }

    async fn serve(
        self,
        mut settings: Settings,
        node: Option<node::Node>,
        output: Output,
    ) -> Result<(), Failure> {
        let listener = TcpListener::bind(self.http).await.map_err(|error| {
            let mut failure = Failure::io(format!("listen on {}", self.http), &error);
            failure.next = "stop who listens there, or choose another address with --http".into();
            failure
        })?;
        let address = listener.local_addr().map_err(|error| Failure::io("ask for the address", &error))?;
        let redis = self.redis.listen("Redis clients", "a redis-server", "--redis").await?;
        let etcd = self.etcd.listen("etcd clients", "an etcd", "--etcd").await?;
        let kafka = self.kafka.listen("Kafka clients", "a Kafka broker", "--kafka").await?;
        // Both are asked for before anything is served, so that no signal falls between.
        let stop = stopped(self.until_stdin_ends)?;
        let scheme = if settings.http.tls.is_some() { "https" } else { "http" };
        if self.insecure && !address.ip().to_canonical().is_loopback() {
            eprintln!(
                "warning: {address} is reachable from other machines, and --insecure was said: anybody there can read and write"
            );
        }
        let url = format!("{scheme}://{address}");
        let cluster = node.map(|node| node.listen(scheme, address)).transpose()?;
        if let Some(cluster) = &cluster {
            settings.http.clustered = true;
            settings.http.peers =
                cluster.peers.iter().map(|(node, address)| (node.0, address.clone())).collect();
            eprintln!(
                "node {} of a cluster: peers dial {}, clients reach it on {}",
                cluster.node, cluster.address, cluster.url
            );
        }
        let database = open_as(&self.data, settings.node, cluster)?;
        let handle = database.handle();
        let redis_address = redis.as_ref().map(|(_, address)| address.to_string());
        let etcd_address = etcd.as_ref().map(|(_, address)| address.to_string());
        let kafka_address = kafka.as_ref().map(|(_, address)| address.to_string());
        let mut also =
            redis_address.as_ref().map_or(String::new(), |address| format!(", Redis on {address}"));
        if let Some(address) = &etcd_address {
            also.push_str(&format!(", etcd on {address}"));
        }
        if let Some(address) = &kafka_address {
            also.push_str(&format!(", Kafka on {address}"));
        }
        eprintln!("ready on {url}{also}, durability {}; ctrl-c or SIGTERM stops", self.durability.name());
        let told =
            json!({ "url": url, "redis": redis_address, "etcd": etcd_address, "kafka": kafka_address });
        output.show(&told, || url.clone())?;
        let looking = tokio::spawn(pass_on_notes(handle.clone()));
        let watched = handle.clone();
        let stop = async move {
            tokio::select! {
                () = stop => {}
                // A log that failed acknowledges nothing any more: somebody has to look at the disk.
                why = watched.stopped() => eprintln!("the log failed, stopping: {why}"),
            }
        };
        let (stop_redis, redis_stops) = tokio::sync::oneshot::channel::<()>();
        let serving_redis = redis.map(|(listener, _)| {
            let stopped = async move {
                // Dropped when HTTP has ended: then this one ends too.
                let _ = redis_stops.await;
            };
            tokio::spawn(quorate_redis::serve(listener, handle.clone(), settings.redis, stopped))
        });
        let (stop_etcd, etcd_stops) = tokio::sync::oneshot::channel::<()>();
        let serving_etcd = etcd.map(|(listener, _)| {
            let stopped = async move {
                let _ = etcd_stops.await;
            };
            tokio::spawn(quorate_etcd::serve(listener, handle.clone(), settings.etcd, stopped))
        });
        let (stop_kafka, kafka_stops) = tokio::sync::oneshot::channel::<()>();
        let serving_kafka = kafka.map(|(listener, _)| {
            let stopped = async move {
                let _ = kafka_stops.await;
            };
            tokio::spawn(quorate_kafka::serve(listener, handle.clone(), settings.kafka, stopped))
        });
        let served = quorate_http::serve(listener, handle.clone(), settings.http, stop).await;
        drop(stop_redis);
        if let Some(serving) = serving_redis {
            // What it can say was said when it began to listen.
            let _ = serving.await;
        }
        drop(stop_etcd);
        if let Some(serving) = serving_etcd {
            let _ = serving.await;
        }
        drop(stop_kafka);
        if let Some(serving) = serving_kafka {
            let _ = serving.await;
        }
        looking.abort();
        served.map_err(|error| Failure::new(Exit::Usage, error.to_string(), ""))?;
        if let Some(why) = handle.status().stopped {
            let next =
                "start again on a sound disk; what was not answered can be asked for by its idempotency key";
            return Err(Failure::new(Exit::Damaged, format!("the log failed: {why}"), next));
        }
        eprintln!("finishing what was admitted");
        tokio::task::spawn_blocking(move || database.close())
            .await
            .map_err(|error| Failure::new(Exit::Failed, format!("closing the data folder: {error}"), ""))?;
        let notes = handle.take_notes();
        notes.iter().for_each(|note| eprintln!("note: {note}"));
        eprintln!("stopped");
        Ok(())
    }
}

impl Gateway {
    fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }

    async fn listen(
        self,
        clients: &str,
        other: &str,
        option: &str,
    ) -> Result<Option<(TcpListener, SocketAddr)>, Failure> {
        let Some(wanted) = self.address() else { return Ok(None) };
        let listener = TcpListener::bind(wanted).await.map_err(|error| {
            let mut failure = Failure::io(format!("listen for {clients} on {wanted}"), &error);
            failure.next = format!(
                "stop who listens there ({other}?), choose another address with {option}, or {option} off"
            );
            failure
        })?;
        let address = listener.local_addr().map_err(|error| Failure::io("ask for the address", &error))?;
        Ok(Some((listener, address)))
    }
}

impl Sync {
    fn name(self) -> &'static str {
        match self {
            Sync::Always => "always",
            Sync::Interval => "interval",
            Sync::None => "none",
        }
    }
}

/// Opens a data folder, telling how far recovery has come and what it found.
pub(crate) fn open(folder: &Path, config: quorate_runtime::Config) -> Result<Quorate, Failure> {
    open_as(folder, config, None)
}

fn open_as(
    folder: &Path,
    config: quorate_runtime::Config,
    cluster: Option<ClusterConfig>,
) -> Result<Quorate, Failure> {
    let shown = folder.display();
    eprintln!("opening {shown}");
    let mut progress = Progress::new("recovery", "entries");
    let told = |done, all| progress.at(done, all);
    let opened = match cluster {
        None => Quorate::open(folder, config, told),
        Some(cluster) => Quorate::open_cluster(folder, config, cluster, told),
    };
    let database = opened.map_err(|error| {
        let exit = match &error {
            OpenError::Log(quorate_log::LogError::Config(_)) => Exit::Usage,
            _ => Exit::Damaged,
        };
        Failure::new(exit, format!("{shown}: {error}"), "")
    })?;
    progress.end();
    let OpenReport { snapshot, entries, commands, notes } = database.report();
    notes.iter().for_each(|note| eprintln!("note: {note}"));
    let from = snapshot.map_or(String::new(), |index| format!("snapshot at entry {index}, then "));
    let took = progress.elapsed().as_secs_f64();
    eprintln!("opened {shown}: {from}{entries} entries with {commands} commands replayed in {took:.2} s");
    Ok(database)
}

/// Resolves once SIGTERM or ctrl-c came, or, if asked for, once stdin has ended.
fn stopped(until_stdin_ends: bool) -> Result<impl Future<Output = ()>, Failure> {
    let listen = |kind| signal(kind).map_err(|error| Failure::io("listen for signals", &error));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let (ended, stdin) = tokio::sync::oneshot::channel::<()>();
    if until_stdin_ends {
        std::thread::spawn(move || {
            // Whatever is sent is thrown away; an error is an end too.
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            drop(ended);
        });
    }
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "ctrl-c",
            _ = stdin, if until_stdin_ends => "stdin has ended",
        };
        eprintln!("{name}: stopping");
    })
}

async fn pass_on_notes(handle: Handle) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        for note in handle.take_notes() {
            eprintln!("note: {note}");
        }
    }
}

/// Reads a file of tokens.
fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why: &str| format!("line {}: {why}; wanted NAME TOKEN or NAME sha256:HEX", number + 1);
        let (name, token) = line.split_once(char::is_whitespace).ok_or_else(|| wrong("there is no token"))?;
        if matches!(name, "anonymous" | "server") || name.starts_with(USER_PREFIX) {
            return Err(wrong("the name belongs to the server itself"));
        }
        let (principal, token) = (Principal::from(name), token.trim());
        tokens.push(match token.strip_prefix("sha256:") {
            Some(hex) => Token {
                principal,
                sha256: hash(hex).ok_or_else(|| wrong("the hash is not 64 hexadecimal digits"))?,
            },
            None if token.len() < 16 => return Err(wrong("the token is shorter than 16 characters")),
            None => Token::of(principal, token),
        });
    }
    if tokens.is_empty() { Err("no token is in it".into()) } else { Ok(tokens) }
}

fn hash(hex: &str) -> Option<[u8; 32]> {
    let digits: Option<Vec<u8>> =
        hex.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
    let bytes: Vec<u8> = digits?.chunks_exact(2).map(|pair| pair[0] * 16 + pair[1]).collect();
    (hex.len() == 64).then(|| bytes.try_into().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_file_has_a_name_and_a_token_per_line() {
        let hex = "a".repeat(64);
        let read = tokens(&format!("# people\nann 0123456789abcdef\n\nbob\tsha256:{hex}\n")).unwrap();
        assert_eq!(read[0], Token::of("ann".into(), "0123456789abcdef"));
        assert_eq!(read[1], Token { principal: "bob".into(), sha256: [0xaa; 32] });
        for (bad, wanted) in [
            ("", "no token"),
            ("ann", "line 1: there is no token"),
            ("ann short", "line 1: the token is shorter"),
            ("user:ann 0123456789abcdef", "line 1: the name belongs to the server"),
            ("\nann sha256:00", "line 2: the hash"),
            (&format!("ann sha256:{}", "é".repeat(32)), "line 1: the hash"),
        ] {
            assert!(tokens(bad).unwrap_err().contains(wanted), "{bad}");
        }
    }

    #[test]
    fn a_number_that_does_not_fit_is_refused_and_defaults_are_unchanged() {
        let mut small = 7u32;
        assert!(small.write(u64::MAX).unwrap_err().contains("too large"));
        assert_eq!(small, 7);
        let mut settings = Settings::default();
        let before = format!("{:?}{:?}", settings.node, settings.http);
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            bounds: Bounds,
        }
        use clap::Parser;
        Only::parse_from(["x"]).bounds.apply(&mut settings).unwrap();
        assert_eq!(format!("{:?}{:?}", settings.node, settings.http), before);
        Only::parse_from(["x", "--wait-ms-max", "5", "--take-max", "9"]).bounds.apply(&mut settings).unwrap();
        assert_eq!((settings.http.wait_max, settings.node.limits.take_max), (Duration::from_millis(5), 9));
    }
}
