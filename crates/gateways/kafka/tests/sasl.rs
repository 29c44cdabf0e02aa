//! SCRAM by hand: what a name is told that is not there, and messages that are none.
#![allow(clippy::unwrap_used)] // Test code: a failure here is the test's failure.

use crate::support;

use bytes::Bytes;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use quorate_types::{Command, CommandBody, UserChange};
use support::{Client, Server};

const FAILED: i16 = 58;

async fn shake(server: &Server) -> Client {
    let mut client = server.client().await;
    let body = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str("SCRAM-SHA-256"));
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
async fn tries(server: &Server, name: &str) -> (String, (i16, String, String)) {
    let mut client = shake(server).await;
    let (code, _, told) = say(&mut client, &format!("n,,n={name},r=mine")).await;
    assert_eq!(code, 0, "{name}");
    let (nonce, rest) = told.split_once(",s=").unwrap();
    let (salt, rounds) = rest.split_once(",i=").unwrap();
    assert_eq!((salt.len(), rounds), (24, "10000"), "{told}");
    assert!(nonce.starts_with("r=mine") && nonce.len() > 20, "{told}");
    let proof = "A".repeat(43);
    let answer = say(&mut client, &format!("c=biws,{nonce},p={proof}=")).await;
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
    let (salt, wrong) = tries(&server, "ann").await;
    assert_eq!(wrong.0, FAILED);
    for name in ["disabled", "open", "nobody", "default"] {
        let (other, told) = tries(&server, name).await;
        assert_eq!(told, wrong, "{name}");
        assert_ne!(other, salt);
        assert_eq!(tries(&server, name).await.0, other, "asked twice: {name}");
    }
    server.stop().await;
}

#[tokio::test]
async fn messages_that_are_none_end_the_exchange() {
    let server = Server::start().await;
    for first in ["", "n,,", "n,,n=ann", "p=tls-unique,,n=ann,r=x", "n,a=bob,n=ann,r=x", "\0ann\0secret"] {
        let mut client = shake(&server).await;
        assert_eq!(say(&mut client, first).await.0, FAILED, "{first}");
        assert_eq!(client.next().await, None);
    }
    for last in ["", "c=biws,r=other,p=AAAA", "n,,n=ann,r=mine"] {
        let mut client = shake(&server).await;
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
