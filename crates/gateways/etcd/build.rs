//! Makes Rust of etcd's protocol, without `protoc`: `protox` is a compiler of protobuf in Rust. Its descriptors go beside it: the JSON gateway reads
//! and writes messages by them.
//!
//! Called by: cargo.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["rpc.proto", "lock.proto", "election.proto", "health.proto"];
    println!("cargo::rerun-if-changed=proto");
    let set = protox::compile(files, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("protocol.bin"), prost::Message::encode_to_vec(&set))?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        .include_file("protocol.rs")
        .compile_fds(set)?;
    Ok(())
}
