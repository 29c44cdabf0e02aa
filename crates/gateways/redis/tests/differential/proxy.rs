//! A Redis with a planted fault: a proxy that changes one command, or its reply, to show that such a fault is found.
//!
//! Called by: `main`.

use super::resp::{Reply, Wire};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// A fault. What it changes is sent on instead.
pub(crate) enum Fault {
    /// The command itself: the state goes wrong, and a later reply shows it.
    Command(fn(&mut Vec<Vec<u8>>)),
    /// The bytes of a reply, by the command's words.
    Reply(fn(&[Vec<u8>], &mut Vec<u8>)),
}

/// A faulty server in front of a good one, until the process ends.
pub(crate) fn faulty(server: SocketAddr, fault: &'static Fault) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("a bound listener has an address");
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            std::thread::spawn(move || {
                // An error ends the connection, as it should: a client has gone.
                let _ = carry(Wire::over(client), Wire::connect(server), fault);
            });
        }
    });
    address
}

fn carry(client: Result<Wire, String>, server: Result<Wire, String>, fault: &Fault) -> Result<(), String> {
    let (mut client, mut server) = (client?, server?);
    loop {
        let call = client.receive()?;
        let words = call.items().unwrap_or_default().iter().filter_map(Reply::text).map(<[u8]>::to_vec);
        let mut words: Vec<Vec<u8>> = words.collect();
        if let Fault::Command(spoil) = fault {
            spoil(&mut words);
        }
        server.send(&words)?;
        let (_, mut raw) = server.receive_raw()?;
        if let Fault::Reply(spoil) = fault {
            spoil(&words, &mut raw);
        }
        client.write(&raw)?;
    }
}
