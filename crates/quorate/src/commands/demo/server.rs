//! This same binary as a child process that serves, can be killed, and is never left behind.

use crate::failure::{Exit, Failure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A server, running. Dropped, it is killed.
pub(super) struct Server {
    child: Child,
    url: String,
    said: PathBuf,
}

impl Server {
    /// Starts it on the data in `folder`, and waits until it takes requests.
    pub(super) fn start(folder: &Path) -> Result<Self, Failure> {
        let binary = std::env::current_exe().map_err(|error| Failure::io("find this program", &error))?;
        let said = folder.join("server.log");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&said)
            .map_err(|error| Failure::io(format!("open {}", said.display()), &error))?;
        let child = Command::new(binary)
            .args([
                "serve",
                "--json",
                "--http",
                "127.0.0.1:0",
                "--redis",
                "off",
                "--etcd",
                "off",
                "--kafka",
                "off",
                "--durability",
                "always",
                "--data",
            ])
            .arg(folder.join("log"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|error| Failure::io("start the server", &error))?;
        let mut server = Self { child, url: String::new(), said };
        server.url = server.address()?;
        Ok(server)
    }

    /// Reads the address it prints once it takes requests. Should it end before, its output ends too.
    fn address(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        if let Some(out) = self.child.stdout.take() {
            BufReader::new(out)
                .read_line(&mut line)
                .map_err(|error| Failure::io("hear from the server", &error))?;
        }
        let said: Value = serde_json::from_str(&line).unwrap_or_default();
        match said["url"].as_str() {
            Some(url) => Ok(url.to_owned()),
            None => {
                let log = std::fs::read_to_string(&self.said).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(5).collect();
                let last: Vec<&str> = last.into_iter().rev().collect();
                Err(Failure::new(
                    Exit::Failed,
                    format!("the server did not start; it said:\n{}", last.join("\n")),
                    "",
                ))
            }
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Kills it as a power cut would end it: no handler runs.
    pub(super) fn kill(&mut self) -> Result<(), Failure> {
        self.child
            .kill()
            .and_then(|()| self.child.wait())
            .map_err(|error| Failure::io("kill the server", &error))?;
        Ok(())
    }

    /// Stops it in good order.
    pub(super) fn stop(mut self) -> Result<(), Failure> {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM).map_err(|error| Failure::io("stop the server", &error.into()))?;
        }
        let status = self.child.wait().map_err(|error| Failure::io("wait for the server", &error))?;
        if status.success() {
            return Ok(());
        }
        Err(Failure::new(
            Exit::Failed,
            format!("the server ended with {status}; it said so in {}", self.said.display()),
            "",
        ))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already ended and reaped: nothing happens.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
