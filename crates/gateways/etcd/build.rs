//! Makes Rust of etcd's protocol, without `protoc`: `protox` is a compiler of protobuf in Rust.
//!
//! Called by: cargo.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["rpc.proto", "lock.proto", "election.proto", "health.proto"];
    println!("cargo::rerun-if-changed=proto");
    let set = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        .include_file("protocol.rs")
        .compile_fds(set)?;
    Ok(())
}
