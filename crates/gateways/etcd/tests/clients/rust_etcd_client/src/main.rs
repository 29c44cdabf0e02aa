//! What applications in Rust do with `etcd-client`, over every service it has.
//!
//! usage: rust-etcd-client HOST PORT    prints what it was told, without what tells one server from another

use etcd_client::{
    Client, CompactionOptions, Compare, CompareOp, DeleteOptions, Error, EventType, GetOptions, LockOptions,
    ProclaimOptions, PutOptions, ResignOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
    WatchOptions,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().collect();
    let mut client = Client::connect([format!("{}:{}", arguments[1], arguments[2])], None).await?;
    keys(&mut client).await?;
    watches(&mut client).await?;
    leases(&mut client).await?;
    locks(&mut client).await?;
    elections(&mut client).await?;
    node(&mut client).await?;
    rights(&mut client, &arguments).await
}

async fn keys(client: &mut Client) -> Result<(), Error> {
    client.delete("rust/", Some(DeleteOptions::new().with_prefix())).await?;
    client.put("rust/a", "1", None).await?;
    let put = client.put("rust/a", "2", Some(PutOptions::new().with_prev_key())).await?;
    println!("before {:?}", put.prev_key().map(|kv| (kv.value_str().unwrap().to_owned(), kv.version())));
    client.put("rust/b", "3", None).await?;
    let options =
        GetOptions::new().with_prefix().with_limit(1).with_sort(SortTarget::Key, SortOrder::Descend);
    let got = client.get("rust/", Some(options)).await?;
    println!("last {:?} of {} more {}", got.kvs()[0].key_str()?, got.count(), got.more());
    let txn = |value: &str| {
        Txn::new()
            .when([Compare::value("rust/a", CompareOp::Equal, value)])
            .and_then([TxnOp::put("rust/c", "4", None), TxnOp::get("rust/c", None)])
            .or_else([TxnOp::delete("rust/b", None)])
    };
    for value in ["2", "other"] {
        let answer = client.txn(txn(value)).await?;
        for response in answer.op_responses() {
            match response {
                TxnOpResponse::Put(_) => println!("{} put", answer.succeeded()),
                TxnOpResponse::Get(get) => println!("{} {:?}", answer.succeeded(), get.kvs()[0].value_str()?),
                TxnOpResponse::Delete(delete) => {
                    println!("{} deleted {}", answer.succeeded(), delete.deleted())
                }
                TxnOpResponse::Txn(_) => println!("{} txn", answer.succeeded()),
            }
        }
    }
    let inner = Txn::new()
        .when([Compare::version("rust/c", CompareOp::Greater, 0)])
        .and_then([TxnOp::delete("rust/c", Some(DeleteOptions::new().with_prev_key()))]);
    let outer = client.txn(Txn::new().and_then([TxnOp::txn(inner), TxnOp::get("rust/c", None)])).await?;
    for response in outer.op_responses() {
        match response {
            TxnOpResponse::Txn(inner) => println!("inner {} of {}", inner.succeeded(), inner.op_responses().len()),
            TxnOpResponse::Get(get) => println!("then {} keys", get.count()),
            other => println!("{other:?}"),
        }
    }
    let twice = Txn::new().and_then([TxnOp::put("rust/d", "1", None), TxnOp::put("rust/d", "2", None)]);
    println!("{}", told(client.txn(twice).await.err()));
    println!("{}", told(client.get("rust/a", Some(GetOptions::new().with_revision(1 << 40))).await.err()));
    Ok(())
}

async fn watches(client: &mut Client) -> Result<(), Error> {
    let since = client.put("rust/w", "1", None).await?.header().unwrap().revision();
    client.put("rust/w", "2", None).await?;
    client.delete("rust/w", None).await?;
    let options = WatchOptions::new().with_start_revision(since).with_prev_key();
    let mut stream = client.watch("rust/w", Some(options)).await?;
    let mut heard = 0;
    while heard < 3 {
        let answer = stream.message().await?.expect("the stream goes on");
        for event in answer.events() {
            heard += 1;
            let now = event.kv().map(|kv| (kv.value_str().unwrap().to_owned(), kv.mod_revision() - since));
            let before = event.prev_kv().map(|kv| kv.value_str().unwrap().to_owned());
            println!(
                "{} {now:?} {before:?}",
                if event.event_type() == EventType::Put { "put" } else { "delete" }
            );
        }
    }
    stream.request_progress().await?;
    let progress = stream.message().await?.expect("the stream goes on");
    println!("progress {} events at {}", progress.events().len(), progress.header().unwrap().revision() - since);
    let made = stream.watch("rust/w2", None).await;
    println!("second {}", made.is_ok());
    let second = loop {
        let answer = stream.message().await?.expect("the stream goes on");
        if answer.created() {
            break answer.watch_id();
        }
    };
    stream.cancel(second).await?;
    let answer = stream.message().await?.expect("the stream goes on");
    println!("cancelled {} {:?}", answer.canceled() && answer.watch_id() == second, answer.cancel_reason());
    client.compact(since + 1, Some(CompactionOptions::new().with_physical())).await?;
    let mut late = client.watch("rust/w", Some(WatchOptions::new().with_start_revision(since))).await?;
    loop {
        let answer = late.message().await?.expect("the stream goes on");
        if answer.canceled() {
            println!("cancelled, compacted {}", answer.compact_revision() - since);
            break;
        }
    }
    println!("{}", told(client.get("rust/w", Some(GetOptions::new().with_revision(since))).await.err()));
    Ok(())
}

async fn leases(client: &mut Client) -> Result<(), Error> {
    let lease = client.lease_grant(60, None).await?.id();
    client.put("rust/l", "x", Some(PutOptions::new().with_lease(lease))).await?;
    let (mut keeper, mut alive) = client.lease_keep_alive(lease).await?;
    keeper.keep_alive().await?;
    println!("alive for {:?}", alive.message().await?.map(|answer| answer.ttl()));
    let options = etcd_client::LeaseTimeToLiveOptions::new().with_keys();
    let left = client.lease_time_to_live(lease, Some(options)).await?;
    println!("granted {} with {} key", left.granted_ttl(), left.keys().len());
    let listed = client.leases().await?.leases().iter().any(|one| one.id() == lease);
    client.lease_revoke(lease).await?;
    println!("listed {listed}, then {} keys", client.get("rust/l", None).await?.count());
    println!("{}", told(client.lease_revoke(lease).await.err()));
    Ok(())
}

async fn locks(client: &mut Client) -> Result<(), Error> {
    let (first, second) =
        (client.lease_grant(60, None).await?.id(), client.lease_grant(60, None).await?.id());
    let held = client.lock("rust-lock", Some(LockOptions::new().with_lease(first))).await?;
    let mut other = client.clone();
    let waiting = tokio::spawn(async move {
        other
            .lock("rust-lock", Some(LockOptions::new().with_lease(second)))
            .await
            .map(|held| held.key().to_vec())
    });
    while client.get("rust-lock/", Some(GetOptions::new().with_prefix())).await?.count() < 2 {
        tokio::task::yield_now().await;
    }
    println!("waits {}", !waiting.is_finished());
    client.unlock(held.key()).await?;
    let next = waiting.await.expect("nobody panics")?;
    println!("handed on {}", next == format!("rust-lock/{second:x}").as_bytes());
    client.unlock(next).await?;
    Ok(())
}

async fn elections(client: &mut Client) -> Result<(), Error> {
    let lease = client.lease_grant(60, None).await?.id();
    let won = client.campaign("rust-election", "one", lease).await?;
    let leader = won.leader().expect("who won leads").clone();
    client.proclaim("two", Some(ProclaimOptions::new().with_leader(leader.clone()))).await?;
    let seen = client.leader("rust-election").await?;
    println!("leads {:?}", seen.kv().map(|kv| kv.value_str().unwrap().to_owned()));
    let mut observed = client.observe("rust-election").await?;
    let first = observed.message().await?.expect("somebody leads");
    println!("observed {:?}", first.kv().map(|kv| kv.value_str().unwrap().to_owned()));
    client.resign(Some(ResignOptions::new().with_leader(leader))).await?;
    println!("{}", told(client.leader("rust-election").await.err()));
    Ok(())
}

async fn node(client: &mut Client) -> Result<(), Error> {
    let status = client.status().await?;
    println!("a leader {}", status.leader() != 0);
    println!(
        "{} member, {} alarms",
        client.member_list().await?.members().len(),
        client.alarm(etcd_client::AlarmAction::Get, etcd_client::AlarmType::None, None).await?.alarms().len()
    );
    client.defragment().await?;
    let member = client.member_list().await?.members()[0].id();
    let alarm = etcd_client::AlarmType::Nospace;
    let mut raise = etcd_client::AlarmOptions::new();
    raise.with_member(member);
    client.alarm(etcd_client::AlarmAction::Activate, alarm, Some(raise.clone())).await?;
    println!("{}", told(client.put("rust/full", "x", None).await.err()));
    client.alarm(etcd_client::AlarmAction::Deactivate, alarm, Some(raise)).await?;
    client.put("rust/full", "x", None).await?;
    println!("hashes {} {}", client.hash().await?.hash() != 0, client.hash_kv(0).await?.hash() != 0);
    let (mut saved, mut bytes, mut left) = (client.snapshot().await?, 0, 0);
    while let Some(part) = saved.message().await? {
        bytes += part.blob().len();
        left = part.remaining_bytes();
    }
    println!("saved {} left {left}", bytes > 4096);
    println!("moved {}", client.move_leader(member).await.is_ok());
    Ok(())
}

/// Users and roles; in the end everybody may do everything again.
async fn rights(client: &mut Client, arguments: &[String]) -> Result<(), Error> {
    client.role_add("rust-readers").await?;
    client.role_grant_permission("rust-readers", etcd_client::Permission::read("rust/").with_prefix()).await?;
    client.user_add("rust-user", "secret", None).await?;
    client.user_grant_role("rust-user", "rust-readers").await?;
    println!("{:?}", client.user_get("rust-user").await?.roles());
    println!("{} permission", client.role_get("rust-readers").await?.permissions().len());
    println!("{}", told(client.auth_enable().await.err()));
    client.user_add("root", "root", None).await?;
    client.role_add("root").await?;
    client.user_grant_role("root", "root").await?;
    client.put("rust/secret", "told", None).await?;
    client.auth_enable().await?;
    println!("{}", told(client.get("rust/secret", None).await.err()));
    let enter = |name: &str, password: &str| {
        let options = etcd_client::ConnectOptions::new().with_user(name, password);
        Client::connect([format!("{}:{}", arguments[1], arguments[2])], Some(options))
    };
    println!("{}", told(enter("rust-user", "wrong").await.err()));
    let mut reader = enter("rust-user", "secret").await?;
    println!("reads {:?}", reader.get("rust/secret", None).await?.kvs()[0].value_str()?);
    println!("{}", told(reader.put("rust/secret", "other", None).await.err()));
    println!("{}", told(reader.get("other", None).await.err()));
    println!("{}", told(reader.user_list().await.err()));
    let mut root = enter("root", "root").await?;
    println!("{:?} {:?}", root.user_list().await?.users(), root.role_list().await?.roles());
    root.user_change_password("rust-user", "new").await?;
    let mut again = enter("rust-user", "new").await?;
    println!("again {}", again.get("rust/secret", None).await?.count());
    root.role_revoke_permission("rust-readers", "rust/", Some(etcd_client::RoleRevokePermissionOptions::new().with_prefix()))
        .await?;
    println!("{}", told(again.get("rust/secret", None).await.err()));
    root.user_revoke_role("rust-user", "rust-readers").await?;
    root.role_delete("rust-readers").await?;
    root.user_delete("rust-user").await?;
    println!("{}", told(again.get("rust/secret", None).await.err()));
    root.auth_disable().await?;
    println!("open {}", client.get("rust/secret", None).await?.count());
    Ok(())
}

/// A refusal by its code and text.
fn told(error: Option<Error>) -> String {
    match error {
        Some(Error::GRpcStatus(status)) => format!("{:?}: {}", status.code(), status.message()),
        other => format!("{other:?}"),
    }
}
