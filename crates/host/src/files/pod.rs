//! /etc/hostname, /etc/hosts and /etc/resolv.conf of a pod.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use names::Kind;
use pod::config::Dns;

use super::{make_dir, read_bounded, replace};
use crate::{FsError, selinux};

/// More than any resolver reads.
const MOST: u64 = 1 << 20;
/// What a node with systemd-resolved knows of real servers, when its own file names only the stub on loopback.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// Why a pod has not its files.
#[derive(Debug, thiserror::Error)]
#[error("write the pod's files")]
pub struct PodFilesError(#[source] FsError);

impl PodFilesError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        self.0.kind()
    }
}

/// Where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFiles {
    /// /etc/hostname.
    pub hostname: PathBuf,
    /// /etc/hosts.
    pub hosts: PathBuf,
    /// /etc/resolv.conf.
    pub resolv_conf: PathBuf,
}

impl PodFiles {
    /// In a pod's directory.
    pub fn at(dir: &Path) -> Self {
        let file = |name| dir.join(name);
        Self { hostname: file("hostname"), hosts: file("hosts"), resolv_conf: file("resolv.conf") }
    }

    /// Makes them this user's and group's: root's, as the pod sees it. With a label, that is what SELinux knows them by.
    pub fn give(&self, (uid, gid): (u32, u32), label: Option<&str>) -> Result<(), PodFilesError> {
        for path in [&self.hostname, &self.hosts, &self.resolv_conf] {
            std::os::unix::fs::chown(path, Some(uid), Some(gid))
                .map_err(FsError::at("give to the pod's root", path))
                .map_err(PodFilesError)?;
            if let Some(label) = label {
                selinux::set_label(path, label).map_err(PodFilesError)?;
            }
        }
        Ok(())
    }
}

/// Writes all three into the pod's directory. `ips` is empty while the pod has none, or uses the node's network; then
/// hosts is the node's own. Blocks.
pub fn write_pod_files(
    dir: &Path,
    hostname: &str,
    ips: &[IpAddr],
    dns: Option<&Dns>,
) -> Result<PodFiles, PodFilesError> {
    let files = PodFiles::at(dir);
    let write = |path: &Path, bytes: &[u8]| replace(path, bytes, 0o644).map_err(PodFilesError);
    make_dir(dir, 0o711).map_err(PodFilesError)?;
    write(&files.hostname, format!("{hostname}\n").as_bytes())?;
    let hosts = if ips.is_empty() { host_file("/etc/hosts")? } else { hosts(hostname, ips).into() };
    write(&files.hosts, &hosts)?;
    let resolv_conf = match dns {
        Some(dns) => resolv_conf(dns).into(),
        None => host_resolv_conf()?,
    };
    write(&files.resolv_conf, &resolv_conf)?;
    Ok(files)
}

fn host_file(path: &str) -> Result<Vec<u8>, PodFilesError> {
    Ok(read_bounded(Path::new(path), MOST).map_err(PodFilesError)?.unwrap_or_default())
}

/// A stub on the node's loopback answers nobody in a pod.
fn host_resolv_conf() -> Result<Vec<u8>, PodFilesError> {
    let own = host_file("/etc/resolv.conf")?;
    if only_loopback(&own) {
        let resolved = host_file(RESOLVED)?;
        if !resolved.is_empty() {
            return Ok(resolved);
        }
    }
    Ok(own)
}

fn only_loopback(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    let servers: Vec<&str> =
        text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")).collect();
    let stub = |server: &&str| server.trim().parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    !servers.is_empty() && servers.iter().all(stub)
}

/// resolv.conf of these lists; nothing at all of empty ones.
pub fn resolv_conf(dns: &Dns) -> String {
    let mut text = String::new();
    let line = |key: &str, words: &[String]| {
        if words.is_empty() { String::new() } else { format!("{key} {}\n", words.join(" ")) }
    };
    text.push_str(&line("search", &dns.searches));
    for server in &dns.servers {
        text.push_str(&line("nameserver", std::slice::from_ref(server)));
    }
    text.push_str(&line("options", &dns.options));
    text
}

/// hosts of a pod: loopback, and its own name at its addresses.
pub fn hosts(hostname: &str, ips: &[IpAddr]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    text.extend(ips.iter().map(|ip| format!("{ip}\t{hostname}\n")));
    text
}
