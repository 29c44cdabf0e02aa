//! The built binary, as people and scripts use it: a real server on a free port, and every command against it.
//!
//! Nothing here sleeps for luck: a server is ready once it has printed its address, and what is waited for is polled with a deadline.

#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use serde_json::{Value, json};
use std::time::Instant;
use support::{PATIENCE, Server, quorate, run, until};

#[test]
fn keys_are_written_read_listed_and_deleted() {
    let server = Server::start();
    let put = server.ok(&["put", "orders/42", "{\"state\":\"paid\"}"]);
    let revision = put.json()["revision"].as_u64().unwrap();
    let found = server.ok(&["get", "orders/42"]).json();
    assert_eq!(found["value"], json!({"state": "paid"}));
    assert_eq!(found["mod_revision"], revision);
    assert_eq!(server.ok(&["get", "orders/42", "--human"]).out, "{\"state\":\"paid\"}\n");
    assert_eq!(server.ok(&["get", "orders/42", "--raw"]).out, "{\"state\":\"paid\"}");
    let human = server.ok(&["put", "orders/43", "open", "--human"]).out;
    assert!(human.starts_with("orders/43 written at revision "), "{human}");

    server.ok(&["put", "orders/42", "shipped", "--if-revision", &revision.to_string()]);
    let stale = server.run(&["put", "orders/42", "lost", "--if-revision", &revision.to_string()]);
    assert_eq!(stale.code, 4, "{stale:?}");
    assert!(stale.err.contains("orders/42"), "{stale:?}");
    assert_eq!(server.run(&["put", "orders/42", "x", "--if-absent"]).code, 4);

    let range = server.ok(&["range", "orders/"]);
    assert_eq!(
        range.lines().iter().map(|key| key["key"].clone()).collect::<Vec<_>>(),
        ["orders/42", "orders/43"]
    );
    assert_eq!(server.ok(&["range", "orders/", "--human", "--limit", "1"]).out, "orders/42\tshipped\n");
    assert_eq!(
        server.ok(&["range", "--from", "orders/43", "--to", "orders/44", "--keys-only", "--human"]).out,
        "orders/43\n"
    );

    let then = revision.to_string();
    assert_eq!(server.ok(&["get", "orders/42", "--at", &then, "--human"]).out, "{\"state\":\"paid\"}\n");
    assert_eq!(server.ok(&["at", &then, "get", "orders/42", "--human"]).out, "{\"state\":\"paid\"}\n");
    assert_eq!(server.ok(&["at", &then, "range", ""]).lines().len(), 1);

    assert_eq!(server.ok(&["del", "orders/42"]).json()["deleted"], 1);
    assert_eq!(server.ok(&["del", "orders/42", "--human"]).out, "orders/42 was not there\n");
    let missing = server.run(&["get", "orders/42"]);
    assert_eq!((missing.code, missing.out.as_str()), (3, ""));
    assert!(missing.err.contains("does not exist"), "{missing:?}");
    assert_eq!(server.run(&["get", "orders/42", "--raw"]).code, 3);
}

#[test]
fn a_value_of_any_bytes_goes_in_by_stdin_and_comes_out_raw() {
    let server = Server::start();
    let bytes: Vec<u8> = (0..=255).collect();
    let put = server.run_with(&["put", "binary", "-"], &bytes);
    assert_eq!(put.code, 0, "{put:?}");
    let raw = quorate(&["get", "binary", "--raw"]).env("QUORATE_SERVER", &server.url).output().unwrap();
    assert_eq!(raw.stdout, bytes);
    assert!(server.ok(&["get", "binary"]).json()["value_base64"].is_string());
}

#[test]
fn a_range_longer_than_a_page_is_one_picture() {
    let server = Server::start();
    for some in (0..2500).collect::<Vec<u32>>().chunks(500) {
        let puts: Vec<Value> =
            some.iter().map(|n| json!({"put": {"key": format!("k/{n:04}"), "value": "v"}})).collect();
        let commit = json!({ "then": puts }).to_string();
        assert_eq!(server.run_with(&["commit", "-"], commit.as_bytes()).code, 0);
    }
    let keys = server.ok(&["range", "k/", "--keys-only", "--human"]).out;
    let wanted: String = (0..2500).map(|n| format!("k/{n:04}\n")).collect();
    assert_eq!(keys, wanted);
    assert_eq!(server.ok(&["range", "k/", "--limit", "1500"]).lines().len(), 1500);
}

#[test]
fn a_commit_is_done_once_or_refused_with_what_was_found() {
    let server = Server::start();
    let commit = json!({
        "idempotency": {"key": "pay-7f3a", "ttl": "1h"},
        "guards": [{"absent": {"key": "a"}}],
        "then": [{"put": {"key": "a", "value": 1}}, {"append": {"stream": "s", "key": "a", "value": {"type": "Paid"}}}],
    })
    .to_string();
    let first = server.run_with(&["commit", "-"], commit.as_bytes());
    assert_eq!(first.code, 0, "{first:?}");
    let again = server.run_with(&["commit", "-", "--human"], commit.as_bytes());
    assert!(again.out.contains("answered from memory"), "{again:?}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("commit.json");
    std::fs::write(&file, commit.replace("pay-7f3a", "other")).unwrap();
    let refused = server.run(&["commit", file.to_str().unwrap()]);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.err.starts_with("error: ") && refused.err.contains('a'), "{refused:?}");
    let broken = server.run_with(&["commit", "-"], b"{");
    assert_eq!(broken.code, 2, "{broken:?}");
    let unknown = server.run_with(&["commit", "-"], br#"{"then":[{"putt":{}}]}"#);
    assert_eq!(unknown.code, 1, "{unknown:?}");
    assert!(unknown.err.contains("putt"), "{unknown:?}");
}

#[test]
fn streams_are_appended_to_read_and_tailed() {
    let server = Server::start();
    let first =
        server.ok(&["append", "orders", "{\"n\":1}", "--key", "42", "--header", "source=test"]).json();
    assert_eq!(first["appended"][0]["offset"], 0);
    assert_eq!(
        server.ok(&["append", "orders", "two", "--partition", "0", "--human"]).out,
        "orders partition 0 offset 1\n"
    );
    let records = server.ok(&["read", "orders"]).lines();
    assert_eq!(records[0]["value"], json!({"n": 1}));
    assert_eq!(records[0]["headers"], json!([{"name": "source", "value": "test"}]));
    assert_eq!(records[1]["value"], "two");
    assert_eq!(server.ok(&["read", "orders", "--offset", "1", "--max", "5"]).lines().len(), 1);
    assert_eq!(server.ok(&["read", "orders", "--offset", "latest"]).out, "");
    let human = server.ok(&["read", "orders", "--human", "--max", "1"]).out;
    assert!(human.starts_with("0\t") && human.ends_with("\t42\t{\"n\":1}\n"), "{human}");
    let tailed = server.ok(&["tail", "orders", "--offset", "earliest", "--count", "2"]).lines();
    assert_eq!(tailed[1]["value"], "two");
    assert_eq!(server.run(&["read", "no-such-stream"]).code, 3);
}

#[test]
fn a_watch_goes_on_where_a_crash_cut_it_off() {
    let mut server = Server::start();
    let revision = server.ok(&["put", "w/a", "1"]).json()["revision"].as_u64().unwrap();
    let seen = server.ok(&["watch", "w/", "--since", &revision.to_string(), "--count", "1"]).json();
    assert_eq!((&seen["kind"], &seen["now"]["value"]), (&json!("put"), &json!("1")));
    let mut watch = server.spawn(&["watch", "w/", "--since", &revision.to_string(), "--count", "3"]);
    assert_eq!(watch.line()["now"]["value"], "1");
    server.crash();
    server.restart_on_the_same_port();
    server.ok(&["put", "w/b", "2"]);
    server.ok(&["del", "w/a"]);
    assert_eq!(watch.line()["key"], "w/b");
    assert_eq!(watch.line()["kind"], "delete");
    assert_eq!(watch.end().code, 0);
}

#[test]
fn a_limit_passes_until_it_is_used_up() {
    let server = Server::start();
    let take = ["limit", "tenant/acme", "--rate", "2/h", "--burst", "2"];
    assert_eq!(server.ok(&take).json()["remaining"], 1);
    let human = server.ok(&[&take[..], &["--human"]].concat()).out;
    assert_eq!(human, "1 taken from tenant/acme, 0 of 2 left\n");
    let denied = server.run(&take);
    assert_eq!(denied.code, 4, "{denied:?}");
    assert!(denied.err.contains("next: the same request may pass in "), "{denied:?}");
}

#[test]
fn why_tells_who_changed_it_and_what_was_refused() {
    let server = Server::start();
    server.ok(&["put", "orders/42", "open"]);
    assert_eq!(server.run(&["put", "orders/42", "x", "--if-absent"]).code, 4);
    let steps = server.ok(&["why", "key", "orders/42"]).lines();
    let verdicts: Vec<&Value> = steps.iter().map(|step| &step["verdict"]).collect();
    assert_eq!(verdicts, ["done", "refused"], "{steps:?}");
    assert!(steps[0]["client"].as_str().unwrap().starts_with("quorate-cli/"));
    let human = server.ok(&["why", "key", "orders/42", "--human"]).out;
    assert!(human.contains("REFUSED: ") && human.contains("anonymous"), "{human}");
    assert_eq!(server.run(&["why", "planet", "mars"]).code, 2);
}

#[test]
fn status_lists_every_bound_in_force() {
    let server = Server::with(&["--take-max", "7", "--wait-ms-max", "1234", "--durability", "interval"]);
    let status = server.ok(&["status"]).json();
    assert_eq!(status["bounds"]["take_max"], 7);
    assert_eq!(status["http"]["wait_ms_max"], 1234);
    assert_eq!(status["durability"], "interval");
    let human = server.ok(&["status", "--human"]).out;
    assert!(human.lines().any(|line| line.starts_with("revision ")), "{human}");
}

#[test]
fn a_lock_runs_its_command_with_the_token_and_keeps_others_out() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let go = folder.path().join("go");
    let script = format!(
        "echo $QUORATE_TOKEN $QUORATE_LEASE; while [ ! -e {} ]; do sleep 0.05; done; exit 7",
        go.display()
    );
    let mut first = server.spawn(&["lock", "reports", "--", "sh", "-c", &script]);
    let said = first.text();
    let (token, lease) = said.split_once(' ').unwrap();
    let token: u64 = token.parse().unwrap();
    assert!(token > 0 && lease.trim().parse::<u64>().unwrap() > 0, "{said}");

    let second = server.run(&["lock", "reports", "--wait", "0s", "--", "touch", go.to_str().unwrap()]);
    assert_eq!(second.code, 125, "{second:?}");
    assert!(second.err.contains("reports") && !go.exists(), "{second:?}");

    let mut third = server.spawn(&["lock", "reports", "--", "sh", "-c", "echo $QUORATE_TOKEN"]);
    until("the third waits in the queue", || {
        let waits = server.get_json("/v1/locks/reports")["waiting"]
            .as_array()
            .is_some_and(|waiting| waiting.len() == 1);
        waits.then_some(())
    });
    std::fs::write(&go, "").unwrap();
    assert_eq!(first.end().code, 7);
    let next: u64 = third.text().trim().parse().unwrap();
    assert!(next > token, "{next} after {token}");
    assert_eq!(third.end().code, 0);
    assert_eq!(server.get_json("/v1/locks/reports")["holders"], json!([]));
    assert_eq!(server.get_json("/v1/leases")["leases"], json!([]));
}

#[test]
fn shared_holders_and_permits_run_together() {
    let server = Server::start();
    for mode in [&["--shared"][..], &["--permits", "2"]] {
        let name = mode[0].trim_start_matches('-');
        let hold = [&["lock", name], mode, &["--", "sh", "-c", "echo held; read x"]].concat();
        let mut holders = [server.spawn(&hold), server.spawn(&hold)];
        holders.iter_mut().for_each(|holder| assert_eq!(holder.text(), "held\n"));
        let lock = server.get_json(&format!("/v1/locks/{name}"));
        assert_eq!(lock["holders"].as_array().unwrap().len(), 2, "{lock}");
        for holder in holders {
            holder.end();
        }
    }
}

#[test]
fn a_command_is_stopped_when_its_lease_is_lost() {
    let server = Server::start();
    let script = "trap 'echo told; exit 0' TERM; echo started; while true; do sleep 0.05; done";
    let mut held = server.spawn(&["lock", "db", "--ttl", "600ms", "--", "sh", "-c", script]);
    assert_eq!(held.text(), "started\n");
    // Somebody ends the lease: the next keepalive is refused.
    let lease = server.get_json("/v1/leases")["leases"][0].to_string();
    server.delete(&format!("/v1/leases/{lease}"));
    assert_eq!(held.text(), "told\n");
    let ended = held.end();
    assert_eq!(ended.code, 124, "{ended:?}");
    assert!(ended.err.contains("was lost"), "{ended:?}");
}

#[test]
fn a_command_is_stopped_when_the_server_is_gone_for_the_time_to_live() {
    let mut server = Server::start();
    let script = "trap 'exit 0' TERM; echo started; while true; do sleep 0.05; done";
    let mut held = server.spawn(&["lock", "db", "--ttl", "600ms", "--", "sh", "-c", script]);
    assert_eq!(held.text(), "started\n");
    server.crash();
    let begun = Instant::now();
    let ended = held.end();
    assert_eq!(ended.code, 124, "{ended:?}");
    assert!(begun.elapsed() < PATIENCE);
}

#[test]
fn a_command_that_cannot_run_has_its_own_exit_code() {
    let server = Server::start();
    assert_eq!(server.run(&["lock", "l", "--", "/no/such/program"]).code, 127);
    assert_eq!(server.run(&["lock", "l", "--", "/etc/passwd"]).code, 126);
    assert_eq!(server.run(&["lock", "l", "--", "sh", "-c", "kill -KILL $$"]).code, 137);
    assert_eq!(server.get_json("/v1/leases")["leases"], json!([]));
}

#[test]
fn a_signal_reaches_the_command_and_gives_the_lock_back() {
    let server = Server::start();
    let script = "trap 'exit 9' TERM; echo started; while true; do sleep 0.05; done";
    let mut held = server.spawn(&["lock", "db", "--", "sh", "-c", script]);
    assert_eq!(held.text(), "started\n");
    let mut waiting = server.spawn(&["lock", "db", "--", "true"]);
    until("the second waits", || {
        (server.get_json("/v1/locks/db")["waiting"].as_array()?.len() == 1).then_some(())
    });
    waiting.terminate();
    assert_eq!(waiting.end().code, 143);
    until("the second has left the queue", || {
        server.get_json("/v1/locks/db")["waiting"].as_array()?.is_empty().then_some(())
    });
    held.terminate();
    assert_eq!(held.end().code, 9);
    assert_eq!(server.get_json("/v1/locks/db")["holders"], json!([]));
}

#[test]
fn a_leader_proclaims_its_value_while_its_command_runs() {
    let server = Server::start();
    let mut leader = server.spawn(&[
        "elect",
        "scheduler",
        "--value",
        "host:9000",
        "--",
        "sh",
        "-c",
        "echo $QUORATE_TOKEN; read x",
    ]);
    let token: u64 = leader.text().trim().parse().unwrap();
    let found = server.get_json("/v1/elections/scheduler");
    assert_eq!(found["leader"]["value"], "host:9000");
    assert_eq!(found["leader"]["token"], token);
    assert_eq!(server.run(&["elect", "scheduler", "--wait", "0s", "--", "true"]).code, 125);
    leader.end();
    assert_eq!(server.ok(&["elect", "scheduler", "--wait", "5s", "--", "true"]).code, 0);
}

#[test]
fn data_survives_kill_9() {
    let mut server = Server::start();
    server.ok(&["put", "a", "1"]);
    server.ok(&["append", "s", "x"]);
    server.crash();
    let down = server.run(&["get", "a"]);
    assert_eq!(down.code, 6, "{down:?}");
    assert!(down.err.contains("next: start a server"), "{down:?}");
    server.restart();
    assert_eq!(server.ok(&["get", "a", "--human"]).out, "1\n");
    assert_eq!(server.ok(&["read", "s"]).lines().len(), 1);
}

#[test]
fn sigterm_stops_in_good_order() {
    let server = Server::start();
    server.ok(&["put", "a", "1"]);
    let (code, said) = server.stop();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("SIGTERM: stopping") && said.ends_with("stopped\n"), "{said}");
}

#[test]
fn a_second_server_on_the_same_folder_is_refused() {
    let server = Server::start();
    let second = run(&["serve", "--http", "127.0.0.1:0", "--data", server.data().to_str().unwrap()]);
    assert_eq!(second.code, 7, "{second:?}");
    assert!(second.err.contains("in use by process"), "{second:?}");
    let port = run(&[
        "serve",
        "--http",
        server.address(),
        "--data",
        server.data().with_file_name("other").to_str().unwrap(),
    ]);
    assert_eq!(port.code, 1, "{port:?}");
    assert!(port.err.contains("next: stop who listens there"), "{port:?}");
}

#[test]
fn an_address_beyond_this_machine_needs_tls_and_tokens_or_a_clear_word() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let refused = run(&["serve", "--http", "0.0.0.0:0", "--data", data.to_str().unwrap()]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.err.contains("--insecure"), "{refused:?}");
    assert!(!data.exists(), "it was refused before the folder was touched");
    let server = Server::with_address("0.0.0.0:0", &["--insecure"]);
    let local = server.url.replace("0.0.0.0", "127.0.0.1");
    assert_eq!(run(&["put", "a", "1", "--server", &local]).code, 0);
    assert!(server.stop().1.contains("warning: "));
}

#[test]
fn tls_and_tokens_close_the_door_to_everybody_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let certified =
        rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let cert = file("cert.pem", &certified.cert.pem());
    let key = file("key.pem", &certified.signing_key.serialize_pem());
    let tokens = file("tokens", "ann a-token-of-some-length\n");
    let server = Server::with(&["--tls-cert", &cert, "--tls-key", &key, "--token-file", &tokens]);
    assert!(server.url.starts_with("https://"));
    let nobody = server.run(&["get", "a", "--ca", &cert]);
    assert_eq!(nobody.code, 1, "{nobody:?}");
    assert!(nobody.err.contains("QUORATE_TOKEN_AUTH"), "{nobody:?}");
    let ann = ["--ca", &cert, "--token", "a-token-of-some-length"];
    assert_eq!(server.run(&[&["put", "a", "1"][..], &ann].concat()).code, 0);
    assert_eq!(server.ok(&[&["why", "key", "a"][..], &ann].concat()).lines()[0]["principal"], "ann");
    let strangers = server.run(&["get", "a"]);
    assert_eq!(strangers.code, 6, "a certificate of an unknown authority: {strangers:?}");
}

/// What curl is answered with, and the number of its error.
fn curl(args: &[&str]) -> (i32, String) {
    let done = std::process::Command::new("curl").args(["--silent", "--max-time", "20"]).args(args).output();
    let done = done.expect("curl is installed");
    (done.status.code().unwrap(), String::from_utf8_lossy(&done.stdout).into_owned())
}

#[test]
fn etcd_clients_may_have_to_show_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let made = || rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (own, client) = (made(), made());
    let [cert, client_cert] =
        [("cert", &own), ("client", &client)].map(|(name, one)| file(name, &one.cert.pem()));
    let [key, client_key] = [("key", &own), ("client-key", &client)]
        .map(|(name, one)| file(name, &one.signing_key.serialize_pem()));
    let tls = ["--tls-cert", &cert, "--tls-key", &key];
    let data = folder.path().join("data");
    let serve = ["serve", "--data", data.to_str().unwrap(), "--http", "127.0.0.1:0", "--redis", "off"];
    let half = run(&[&serve[..], &["--etcd-client-ca", &client_cert]].concat());
    assert_eq!(half.code, 2, "{half:?}");
    let none = run(&[&serve[..], &tls, &["--etcd-client-ca", &key]].concat());
    assert_eq!(none.code, 2, "{none:?}");
    assert!(none.err.contains("no certificate in PEM could be read"), "{none:?}");
    let open = run(&[&serve[..], &tls, &["--etcd", "0.0.0.0:0"]].concat());
    assert!(open.code == 2 && open.err.contains("--insecure"), "{open:?}");

    // Whoever reaches it from elsewhere has to be known: by the certificate, here.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let etcd = format!("0.0.0.0:{port}");
    let server = Server::with(&[&tls[..], &["--etcd", &etcd, "--etcd-client-ca", &client_cert]].concat());
    let url = format!("https://127.0.0.1:{port}/v3/kv/range");
    let ask = ["--cacert", &cert, "--data", r#"{"key":"YQ=="}"#, &url];
    let (code, answer) = curl(&[&ask[..], &["--cert", &client_cert, "--key", &client_key]].concat());
    assert!(code == 0 && answer.contains("revision"), "{code} {answer}");
    for more in [&[][..], &["--cert", &cert, "--key", &key]] {
        let (code, answer) = curl(&[&ask[..], more].concat());
        assert!(code != 0 && answer.is_empty(), "{more:?}: {code} {answer}");
    }
    // The other gateways ask for none.
    assert_eq!(server.run(&["get", "a", "--ca", &cert]).code, 3);
}

#[test]
fn verify_names_file_and_offset_of_a_flipped_byte() {
    let server = Server::start();
    for n in 0..20 {
        server.ok(&["put", &format!("key/{n}"), "some value that stands in the log"]);
    }
    let busy = run(&["log", "verify", server.data().to_str().unwrap()]);
    assert_eq!(busy.code, 4, "{busy:?}");
    let data = server.data().to_owned();
    let (_server_folder, data) = (server.stop_and_keep(), data);
    let good = run(&["log", "verify", data.to_str().unwrap()]);
    assert_eq!((good.code, good.json()["good"].clone()), (0, json!(true)), "{good:?}");
    let human = run(&["log", "verify", data.to_str().unwrap(), "--human"]).out;
    assert!(human.contains(": good. "), "{human}");

    let dump = run(&["log", "dump", data.to_str().unwrap()]);
    assert_eq!(dump.code, 0, "{dump:?}");
    let text = dump.out.clone();
    assert!(dump.lines().len() >= 20 && text.contains("key/19"), "{text}");
    let part = run(&["log", "dump", data.to_str().unwrap(), "--from", "3", "--to", "4"]).lines();
    assert_eq!(part.iter().map(|entry| entry["index"].clone()).collect::<Vec<_>>(), [3, 4]);
    let human = run(&["log", "dump", data.to_str().unwrap(), "--human"]).out;
    assert!(human.contains("commands\n    anonymous commit {"), "{human}");

    // The value of an entry in the middle: everything after it proves that it had been synced.
    let (file, at) = std::fs::read_dir(&data)
        .unwrap()
        .map(|file| file.unwrap().path())
        .find_map(|file| {
            let bytes = std::fs::read(&file).unwrap();
            let at = bytes.windows(5).position(|window| window == b"key/5")?;
            Some((file, at))
        })
        .expect("the key stands in a segment");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[at + 8] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let bad = run(&["log", "verify", data.to_str().unwrap()]);
    assert_eq!(bad.code, 7, "{bad:?}");
    let finding = bad.lines().remove(0);
    assert_eq!(finding["finding"]["file"], file.file_name().unwrap().to_str().unwrap());
    let offset = finding["finding"]["offset"].as_u64().unwrap();
    assert!(offset > 0 && offset <= at as u64, "{finding}: the byte is at {at}");
    let serve = run(&["serve", "--http", "127.0.0.1:0", "--data", data.to_str().unwrap()]);
    assert_eq!(serve.code, 7, "{serve:?}");
    assert!(serve.err.contains(&format!("at offset {offset}")), "{serve:?}");
    assert_eq!(run(&["log", "verify", "/no/such/folder"]).code, 3);
}

#[test]
fn a_restored_backup_never_gives_a_token_again() {
    let server = Server::start();
    server.ok(&["put", "a", "1"]);
    let folder = tempfile::tempdir().unwrap();
    let (backup, restored) = (folder.path().join("backup"), folder.path().join("restored"));
    let copied = server.ok(&["backup", backup.to_str().unwrap()]).json();
    assert!(copied["files"].as_u64().unwrap() > 0);
    assert_eq!(server.run(&["backup", backup.to_str().unwrap()]).code, 4, "it is not empty any more");
    // The original goes on after the backup.
    server.ok(&["put", "a", "2"]);
    let late: u64 =
        server.ok(&["lock", "l", "--", "sh", "-c", "echo $QUORATE_TOKEN"]).out.trim().parse().unwrap();

    let done = run(&["restore", backup.to_str().unwrap(), restored.to_str().unwrap()]);
    assert_eq!(done.code, 0, "{done:?}");
    let revision = done.json()["revision"].as_u64().unwrap();
    assert!(revision > late + (1 << 31), "{revision} after {late}");
    assert_eq!(run(&["restore", backup.to_str().unwrap(), restored.to_str().unwrap()]).code, 4);
    let again = Server::on(&restored);
    assert_eq!(again.ok(&["get", "a", "--human"]).out, "1\n");
    let token: u64 =
        again.ok(&["lock", "l", "--", "sh", "-c", "echo $QUORATE_TOKEN"]).out.trim().parse().unwrap();
    assert!(token > late);
}

#[test]
fn bench_measures_each_operation() {
    let server = Server::start();
    for op in ["put", "get", "commit"] {
        let args = ["bench", "--op", op, "--seconds", "1", "--clients", "4", "--keys", "100"];
        let seen = server.ok(&args).json();
        assert!(seen["operations"].as_u64().unwrap() > 0 && seen["errors"] == 0, "{seen}");
        assert!(seen["p50_us"].as_u64().unwrap() <= seen["p99_us"].as_u64().unwrap(), "{seen}");
    }
    let human = server.ok(&["bench", "--seconds", "1", "--human"]).out;
    assert!(human.contains(" per second, p50 "), "{human}");
}

#[test]
fn the_demo_loses_nothing_and_doubles_nothing() {
    let demo = run(&["demo", "--purchases", "300"]);
    assert_eq!(demo.code, 0, "{demo:?}");
    let report = demo.json();
    assert_eq!(
        (&report["lost"], &report["doubled"], &report["customers_wrong"]),
        (&json!(0), &json!(0), &json!(0)),
        "{report}"
    );
    assert_eq!(report["total_cents"], report["expected_cents"]);
    assert!(report["deliveries"].as_u64() > report["purchases"].as_u64(), "{report}");
    assert!(report["crash_after"].as_u64().unwrap() >= 150, "{report}");
    assert!(demo.err.contains("kill -9"), "{demo:?}");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x"), "").unwrap();
    assert_eq!(run(&["demo", "--data", folder.path().to_str().unwrap()]).code, 4);
}

#[test]
fn a_demo_that_is_stopped_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let demo = quorate(&["demo"]).env("TMPDIR", folder.path()).spawn().unwrap();
    let data = until("the demo's server has its data", || {
        let inner = std::fs::read_dir(folder.path()).ok()?.next()?.ok()?.path().join("log");
        std::fs::read_dir(&inner).is_ok_and(|files| files.count() > 2).then_some(inner)
    });
    assert!(
        std::process::Command::new("kill")
            .args(["-TERM", &demo.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(demo.wait_with_output().unwrap().status.code(), Some(143));
    assert!(!data.exists());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn help_shows_examples_and_exit_codes() {
    let help = run(&["--help"]);
    assert_eq!(help.code, 0);
    assert!(help.out.contains("Exit codes:") && help.out.contains("quorate serve"), "{help:?}");
    let commands = [
        "serve", "commit", "get", "put", "del", "range", "watch", "lock", "elect", "append", "read", "tail",
        "limit", "user", "role", "why", "at", "status", "backup", "restore", "bench", "demo",
    ];
    for command in commands {
        let help = run(&[command, "--help"]);
        assert!(
            help.code == 0
                && help.out.contains(&format!("quorate {command}"))
                && help.out.contains("Example"),
            "{help:?}"
        );
    }
    assert!(run(&["log", "verify", "--help"]).out.contains("quorate log verify "));
    assert_eq!(run(&["fly"]).code, 2);
    assert_eq!(run(&["get", "a", "--server", "ftp://x"]).code, 2);
}

#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    let server = Server::start();
    server.ok(&["put", "a", "1"]);
    let script = format!("{} range '' | true", env!("CARGO_BIN_EXE_quorate"));
    let mut shell = std::process::Command::new("sh");
    let done = shell.args(["-c", &script]).env("QUORATE_SERVER", &server.url).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stderr), "");
}
