//! SCRAM by hand: what a name is told that is not there, and messages that are none; and the credentials of users by Kafka's requests.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use bytes::Bytes;
use kafka_protocol::messages::alter_user_scram_credentials_request::{
    ScramCredentialDeletion, ScramCredentialUpsertion,
};
use kafka_protocol::messages::describe_user_scram_credentials_request::UserName;
use kafka_protocol::messages::describe_user_scram_credentials_response::DescribeUserScramCredentialsResult;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use quorate_types::{Command, CommandBody, CommandRule, ScramHash, UserChange};
use support::{Client, Server};

const FAILED: i16 = 58;

async fn shake(server: &Server, mechanism: &'static str) -> Client {
    let mut client = server.client().await;
    let body = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(mechanism));
    let answer: SaslHandshakeResponse = client.ask(ApiKey::SaslHandshake, 1, &body).await;
    assert_eq!(answer.error_code, 0);
    client
}

/// Sends a message: the error, its text, and the server's message.
async fn say(client: &mut Client, message: &str) -> (i16, String, String) {
    let body = SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from(message.to_owned()));
    let answer: SaslAuthenticateResponse = client.ask(ApiKey::SaslAuthenticate, 2, &body).await;
    let why = answer.error_message.map_or(String::new(), |why| why.to_string());
    (answer.error_code, why, String::from_utf8(answer.auth_bytes.to_vec()).unwrap())
}

/// The salt that a name is told, and what a proof is answered that is none.
async fn tries(server: &Server, mechanism: &'static str, name: &str) -> (String, (i16, String, String)) {
    let mut client = shake(server, mechanism).await;
    let (code, _, told) = say(&mut client, &format!("n,,n={name},r=mine")).await;
    assert_eq!(code, 0, "{name}");
    let (nonce, rest) = told.split_once(",s=").unwrap();
    let (salt, rounds) = rest.split_once(",i=").unwrap();
    assert_eq!((salt.len(), rounds), (24, "10000"), "{told}");
    assert!(nonce.starts_with("r=mine") && nonce.len() > 20, "{told}");
    let proof = if mechanism == "SCRAM-SHA-256" { "A".repeat(43) + "=" } else { "A".repeat(86) + "==" };
    let answer = say(&mut client, &format!("c=biws,{nonce},p={proof}")).await;
    assert_eq!(client.next().await, None, "the connection ends");
    (salt.to_owned(), answer)
}

#[tokio::test]
async fn a_name_that_is_not_there_is_told_what_a_wrong_password_is() {
    let server = Server::start().await;
    let handle = server.data.handle();
    let scram = handle.verifier("secret".into(), vec![]).await.unwrap().unwrap();
    let users = [
        ("ann", vec![UserChange::Enable { on: true }, UserChange::AddScram { scram: scram.clone() }]),
        ("disabled", vec![UserChange::AddScram { scram }]),
        ("open", vec![UserChange::Enable { on: true }, UserChange::NoPassword { on: true }]),
    ];
    for (name, changes) in users {
        let body = CommandBody::ChangeUser { name: name.into(), changes, may_lock_out: true };
        handle.command(Command::new("server".into(), body)).await.unwrap();
    }
    // A password of before there was SHA-512 is, to it, none.
    let old = handle.verifier("secret".into(), vec![]).await.unwrap().unwrap();
    let old = old.without(ScramHash::Sha512).unwrap();
    let changes = vec![UserChange::Enable { on: true }, UserChange::AddScram { scram: old }];
    let body = CommandBody::ChangeUser { name: "old".into(), changes, may_lock_out: true };
    handle.command(Command::new("server".into(), body)).await.unwrap();
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let (salt, wrong) = tries(&server, mechanism, "ann").await;
        assert_eq!(wrong.0, FAILED);
        for name in ["disabled", "open", "nobody", "default", "old"] {
            let (other, told) = tries(&server, mechanism, name).await;
            assert_eq!(told, wrong, "{name}");
            assert_ne!(other, salt);
            assert_eq!(tries(&server, mechanism, name).await.0, other, "asked twice: {name}");
        }
    }
    let salts = [
        tries(&server, "SCRAM-SHA-256", "nobody").await.0,
        tries(&server, "SCRAM-SHA-512", "nobody").await.0,
    ];
    assert_ne!(salts[0], salts[1], "who is there has a salt for each, so nobody has too");
    server.stop().await;
}

#[tokio::test]
async fn messages_that_are_none_end_the_exchange() {
    let server = Server::start().await;
    for first in ["", "n,,", "n,,n=ann", "p=tls-unique,,n=ann,r=x", "n,a=bob,n=ann,r=x", "\0ann\0secret"] {
        let mut client = shake(&server, "SCRAM-SHA-256").await;
        assert_eq!(say(&mut client, first).await.0, FAILED, "{first}");
        assert_eq!(client.next().await, None);
    }
    for last in ["", "c=biws,r=other,p=AAAA", "n,,n=ann,r=mine"] {
        let mut client = shake(&server, "SCRAM-SHA-256").await;
        assert_eq!(say(&mut client, "n,,n=ann,r=mine").await.0, 0);
        assert_eq!(say(&mut client, last).await.0, FAILED, "{last}");
        assert_eq!(client.next().await, None);
    }
    // Out of turn.
    let mut client = server.client().await;
    let body = SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from_static(b"n,,n=ann,r=mine"));
    client.send(ApiKey::SaslAuthenticate, 2, &body).await;
    assert_eq!(client.next().await, None);
    server.stop().await;
}

/// What Kafka's tools send of a password.
fn upsertion(name: &str, mechanism: i8, iterations: i32, salted: usize) -> ScramCredentialUpsertion {
    ScramCredentialUpsertion::default()
        .with_name(StrBytes::from_string(name.to_owned()))
        .with_mechanism(mechanism)
        .with_iterations(iterations)
        .with_salt(Bytes::from_static(b"a salt"))
        .with_salted_password(Bytes::from(vec![7; salted]))
}

async fn alter(
    client: &mut Client,
    deletions: &[(&str, i8)],
    upsertions: Vec<ScramCredentialUpsertion>,
) -> Vec<(String, i16)> {
    let deletion = |(name, mechanism): &(&str, i8)| {
        let name = StrBytes::from_string((*name).to_owned());
        ScramCredentialDeletion::default().with_name(name).with_mechanism(*mechanism)
    };
    let body = AlterUserScramCredentialsRequest::default()
        .with_deletions(deletions.iter().map(deletion).collect())
        .with_upsertions(upsertions);
    let answer: AlterUserScramCredentialsResponse =
        client.ask(ApiKey::AlterUserScramCredentials, 0, &body).await;
    answer.results.iter().map(|one| (one.user.to_string(), one.error_code)).collect()
}

/// The error of all, and each user's with mechanisms and rounds.
async fn described(client: &mut Client, names: Option<&[&str]>) -> (i16, Vec<(String, i16, Vec<(i8, i32)>)>) {
    let user = |name: &&str| UserName::default().with_name(StrBytes::from_string((*name).to_owned()));
    let body = DescribeUserScramCredentialsRequest::default()
        .with_users(names.map(|names| names.iter().map(user).collect()));
    let answer: DescribeUserScramCredentialsResponse =
        client.ask(ApiKey::DescribeUserScramCredentials, 0, &body).await;
    let of = |one: &DescribeUserScramCredentialsResult| {
        let told = one.credential_infos.iter().map(|info| (info.mechanism, info.iterations));
        (one.user.to_string(), one.error_code, told.collect())
    };
    (answer.error_code, answer.results.iter().map(of).collect())
}

#[tokio::test]
async fn credentials_are_set_shown_and_deleted_for_each_mechanism() {
    let server = Server::start().await;
    let mut client = server.client().await;
    assert_eq!(described(&mut client, None).await, (0, vec![]));
    let both =
        vec![upsertion("ann", 1, 4096, 32), upsertion("ann", 2, 16384, 64), upsertion("bob", 2, 4096, 64)];
    assert_eq!(alter(&mut client, &[], both).await, [("ann".to_owned(), 0), ("bob".to_owned(), 0)]);
    let ann = ("ann".to_owned(), 0, vec![(1, 4096), (2, 16384)]);
    let bob = ("bob".to_owned(), 0, vec![(2, 4096)]);
    assert_eq!(described(&mut client, None).await, (0, vec![ann.clone(), bob.clone()]));
    assert_eq!(described(&mut client, Some(&[])).await, (0, vec![ann.clone(), bob.clone()]));
    let (_, found) = described(&mut client, Some(&["ann", "nobody", "bob", "bob"])).await;
    assert_eq!(found, [ann, ("bob".into(), 92, vec![]), ("nobody".into(), 91, vec![])]);
    // One that is set anew takes the place of the last; the other stays.
    assert_eq!(alter(&mut client, &[], vec![upsertion("ann", 2, 5000, 64)]).await, [("ann".to_owned(), 0)]);
    assert_eq!(alter(&mut client, &[("bob", 2)], vec![]).await, [("bob".to_owned(), 0)]);
    assert_eq!(described(&mut client, None).await, (0, vec![("ann".into(), 0, vec![(1, 4096), (2, 5000)])]));
    assert_eq!(alter(&mut client, &[("ann", 1)], vec![]).await, [("ann".to_owned(), 0)]);
    assert_eq!(described(&mut client, None).await, (0, vec![("ann".into(), 0, vec![(2, 5000)])]));
    server.stop().await;
}

#[tokio::test]
async fn credentials_that_cannot_be_are_refused_and_change_nothing() {
    let server = Server::start().await;
    let mut client = server.client().await;
    alter(&mut client, &[], vec![upsertion("ann", 1, 4096, 32)]).await;
    let one = |upsertion| (vec![], vec![upsertion]);
    let long = upsertion("ann", 2, 4096, 64).with_salt(Bytes::from(vec![1; 257]));
    let empty = upsertion("ann", 2, 4096, 64).with_salt(Bytes::new());
    for (code, (deletions, upsertions)) in [
        (33, one(upsertion("ann", 0, 4096, 32))),
        (33, (vec![("ann", 3)], vec![])),
        (93, one(upsertion("ann", 2, 4095, 64))),
        (93, one(upsertion("ann", 2, 16385, 64))),
        (93, one(upsertion("ann", 2, i32::MIN, 64))),
        (93, one(upsertion("ann", 2, 4096, 32))),
        (93, one(upsertion("ann", 1, 4096, 64))),
        (93, one(long)),
        (93, one(empty)),
        (93, one(upsertion("", 2, 4096, 64))),
        (93, one(upsertion("default", 2, 4096, 64))),
        (93, one(upsertion("a b", 2, 4096, 64))),
        (91, (vec![("ann", 2)], vec![])),
        (91, (vec![("nobody", 1)], vec![])),
        (92, (vec![("ann", 1)], vec![upsertion("ann", 1, 4096, 32)])),
        (92, (vec![], vec![upsertion("ann", 2, 4096, 64), upsertion("ann", 2, 4096, 64)])),
        // What is right beside what is wrong is not done either.
        (91, (vec![("ann", 2)], vec![upsertion("ann", 1, 9999, 32)])),
    ] {
        let shown = format!("{deletions:?} {upsertions:?}");
        let found = alter(&mut client, &deletions, upsertions).await;
        assert_eq!(found.iter().map(|(_, code)| *code).collect::<Vec<_>>(), [code], "{shown}");
        assert_eq!(described(&mut client, None).await, (0, vec![("ann".into(), 0, vec![(1, 4096)])]));
    }
    server.stop().await;
}

#[tokio::test]
async fn credentials_are_for_those_who_manage_users() {
    let server = Server::start().await;
    let handle = server.data.handle();
    let rule = |what: &str, allow| UserChange::Command { rule: CommandRule { allow, what: what.into() } };
    for (name, changes) in [
        (
            "admin",
            vec![UserChange::Enable { on: true }, UserChange::NoPassword { on: true }, rule("@all", true)],
        ),
        ("default", vec![rule("acl|setuser", false), rule("acl|getuser", false)]),
    ] {
        let body = CommandBody::ChangeUser { name: name.into(), changes, may_lock_out: true };
        handle.command(Command::new("server".into(), body)).await.unwrap();
    }
    let mut client = server.client().await;
    let found = alter(&mut client, &[], vec![upsertion("ann", 1, 4096, 32)]).await;
    assert_eq!(found, [("ann".to_owned(), 31)]);
    assert_eq!(described(&mut client, None).await, (31, vec![]));
    assert!(handle.user(b"ann").unwrap().is_none());
    server.stop().await;
}

#[tokio::test]
async fn after_the_first_handshake_messages_are_frames_of_their_own() {
    let server = Server::start().await;
    let handle = server.data.handle();
    let scram = handle.verifier("secret".into(), vec![]).await.unwrap().unwrap();
    let all = UserChange::Command { rule: CommandRule { allow: true, what: "@all".into() } };
    let ann = vec![UserChange::Enable { on: true }, UserChange::AddScram { scram }, all];
    for (name, changes) in [("ann", ann), ("default", vec![UserChange::Enable { on: false }])] {
        let body = CommandBody::ChangeUser { name: name.into(), changes, may_lock_out: true };
        handle.command(Command::new("server".into(), body)).await.unwrap();
    }
    let begun = async |mechanism: &'static str| {
        let mut client = server.client().await;
        let body = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(mechanism));
        let answer: SaslHandshakeResponse = client.ask(ApiKey::SaslHandshake, 0, &body).await;
        (client, answer.error_code)
    };
    let (mut client, _) = begun("PLAIN").await;
    client.frame(b"\0ann\0secret").await;
    assert_eq!(client.next().await, Some(Bytes::new()));
    let all = MetadataRequest::default().with_topics(None);
    let told: MetadataResponse = client.ask(ApiKey::Metadata, 1, &all).await;
    assert_eq!(told.brokers.len(), 1, "it has entered, and asks as any other");
    for wrong in [&b"\0ann\0wrong"[..], b"", b"ann"] {
        let (mut client, _) = begun("PLAIN").await;
        client.frame(wrong).await;
        assert_eq!(client.next().await, None);
    }
    let (mut client, _) = begun("SCRAM-SHA-512").await;
    client.frame(b"n,,n=ann,r=mine").await;
    assert!(client.next().await.unwrap().starts_with(b"r=mine"));
    client.frame(b"c=biws,r=mine,p=AAAA").await;
    assert_eq!(client.next().await, None);
    // Nobody is let in by a handshake that was refused.
    let (mut client, refused) = begun("GSSAPI").await;
    assert_eq!(refused, 33);
    client.send(ApiKey::Metadata, 1, &all).await;
    assert_eq!(client.next().await, None);
    server.stop().await;
}
