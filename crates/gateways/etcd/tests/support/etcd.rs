//! A real etcd to compare with. The binaries are put into `target/etcd` by `scripts/etcd.sh`: a machine that cannot have them fails the test.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// The folder with etcd and etcdctl, filled at first use.
pub(crate) fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
        let done = Command::new(root.join("scripts/etcd.sh")).arg(root.join("target/etcd")).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let binary = PathBuf::from(String::from_utf8(done.stdout).unwrap().trim());
        binary.parent().unwrap().to_owned()
    })
}

/// A process that ends with its value.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Lines of its output until there are so many.
    pub(crate) fn lines(&mut self, count: usize) -> Vec<String> {
        use std::io::{BufRead, BufReader};
        let out = BufReader::new(self.0.stdout.take().unwrap());
        out.lines().take(count).map(Result::unwrap).collect()
    }
}

/// A real etcd on a folder of its own.
pub(crate) struct Etcd {
    pub(crate) address: SocketAddr,
    _running: Running,
    _folder: tempfile::TempDir,
}

impl Etcd {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// One that was started with further arguments.
    pub(crate) fn with(more: &[&str]) -> Self {
        Self::from(None, more)
    }

    /// One that goes on from a snapshot, as its operator would have it restored.
    pub(crate) fn restored(snapshot: &Path) -> Self {
        Self::from(Some(snapshot), &[])
    }

    fn from(snapshot: Option<&Path>, more: &[&str]) -> Self {
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let (address, peers, data) = (free(), free(), tempfile::tempdir().unwrap());
        let member = [
            format!("--initial-advertise-peer-urls=http://{peers}"),
            format!("--initial-cluster=default=http://{peers}"),
        ];
        let folder_of_data = data.path().join("data");
        if let Some(snapshot) = snapshot {
            let mut restore = Command::new(folder().join("etcdutl"));
            restore.args(["snapshot", "restore"]).arg(snapshot).arg("--data-dir").arg(&folder_of_data);
            let done = restore.args(["--name", "default"]).args(&member).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
        let scheme = if more.contains(&"--cert-file") { "https" } else { "http" };
        let child = Command::new(folder().join("etcd"))
            .args([
                "--data-dir",
                folder_of_data.to_str().unwrap(),
                "--log-level",
                "error",
                "--unsafe-no-fsync",
            ])
            .args([
                format!("--listen-client-urls={scheme}://{address}"),
                format!("--advertise-client-urls={scheme}://{address}"),
            ])
            .arg(format!("--listen-peer-urls=http://{peers}"))
            .args(&member)
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { address, _running: Running(child), _folder: data }
    }
}
