//! AppArmor: which profiles the kernel holds, and our default one made and loaded.
//!
//! The kernel takes compiled profiles only, so that of ours goes through `apparmor_parser`, which a node with AppArmor has. It
//! is loaded once by every daemon, because a newer one may bring other rules; and again when it has gone: `aa-remove-unknown`
//! drops what is in none of the node's files.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use names::Kind;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Mutex;

mod profile;

/// The default profile's name, while the configuration names no other.
pub const DEFAULT: &str = "ferropod-default";
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";
const PARSERS: [&str; 3] =
    ["/sbin/apparmor_parser", "/usr/sbin/apparmor_parser", "/usr/bin/apparmor_parser"];
/// With it the rules mean the same on kernels that mediate more.
const ABI: &str = "abi/3.0";
const RULES: &str = "/etc/apparmor.d";
/// No node has so many profiles: each is a line.
const LARGEST_LIST: u64 = 4 << 20;
/// Compiling takes 20 ms, in an emulated machine some seconds.
const WITHIN: Duration = Duration::from_secs(10);

/// Why a profile cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ApparmorError {
    /// The kernel's list.
    #[error("read {PROFILES}")]
    List(#[source] io::Error),
    /// Not in that list.
    #[error("the profile {0:?} is not loaded")]
    NotLoaded(String),
    /// The node has AppArmor, but not its tools.
    #[error("load {DEFAULT}: apparmor_parser is not installed")]
    NoParser,
    /// The parser could not be run.
    #[error("run {}", path.display())]
    Run {
        /// The parser.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It did not end in time.
    #[error("{} did not end within {} s", .0.display(), WITHIN.as_secs())]
    Late(PathBuf),
    /// It refused the profile.
    #[error("load {DEFAULT}: {0}")]
    Refused(String),
}

impl ApparmorError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotLoaded(_) | Self::NoParser => Kind::Refused,
            Self::Late(_) => Kind::TimedOut,
            Self::List(_) | Self::Run { .. } | Self::Refused(_) => Kind::Internal,
        }
    }
}

/// The node's profiles, as containers need them.
#[derive(Debug, Default)]
pub struct Profiles {
    /// Our default one has been loaded by this daemon.
    loaded: AtomicBool,
    /// One loads it, and the others wait for that: it is held over the loading on purpose, and by nobody when it is loaded.
    loading: Mutex<()>,
}

/// Whether the kernel has AppArmor and uses it.
pub fn enabled() -> bool {
    std::fs::read_to_string(ENABLED).is_ok_and(|text| text.trim() == "Y")
}

/// Of this process; empty when it cannot be told.
fn own_label() -> String {
    let files = ["/proc/self/attr/apparmor/current", "/proc/self/attr/current"];
    let label = files.iter().find_map(|file| std::fs::read_to_string(file).ok());
    let label = label.unwrap_or_default();
    label.rsplit_once(" (").map_or_else(|| label.trim(), |(name, _)| name).to_owned()
}

/// Where the parser is.
pub fn parser() -> Option<PathBuf> {
    PARSERS.iter().map(PathBuf::from).find(|path| path.is_file())
}

/// Whether the kernel holds a profile of that name. Blocks.
pub fn is_loaded(name: &str) -> Result<bool, ApparmorError> {
    let mut list = String::new();
    let file = File::open(PROFILES).map_err(ApparmorError::List)?;
    file.take(LARGEST_LIST).read_to_string(&mut list).map_err(ApparmorError::List)?;
    Ok(names(&list).any(|loaded| loaded == name))
}

/// A line is a name, which may have spaces, and a mode in parentheses.
fn names(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter_map(|line| Some(line.rsplit_once(" (")?.0))
}

// === impl Profiles ===

impl Profiles {
    /// A profile of the node, which must be loaded.
    pub async fn named(&self, name: &str) -> Result<(), ApparmorError> {
        let asked = name.to_owned();
        let found = tokio::task::spawn_blocking(move || is_loaded(&asked)).await;
        if found.unwrap_or(Ok(false))? {
            return Ok(());
        }
        Err(ApparmorError::NotLoaded(name.to_owned()))
    }

    /// [`DEFAULT`], which is loaded when it is not yet, or not by this daemon.
    pub async fn ours(&self) -> Result<(), ApparmorError> {
        if self.is_ours_loaded().await {
            return Ok(());
        }
        let _alone = self.loading.lock().await;
        if self.is_ours_loaded().await {
            return Ok(());
        }
        let held = self.named(DEFAULT).await.is_ok();
        match load().await {
            // That of an earlier daemon holds as well, or nearly.
            Err(error) if held => tracing::warn!(%error, "{DEFAULT} is kept as it was loaded"),
            done => done?,
        }
        self.loaded.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn is_ours_loaded(&self) -> bool {
        self.loaded.load(Ordering::Relaxed) && self.named(DEFAULT).await.is_ok()
    }
}

/// Compiles the profile and gives it to the kernel in place of an older one.
async fn load() -> Result<(), ApparmorError> {
    let path = parser().ok_or(ApparmorError::NoParser)?;
    let abi = Path::new(RULES).join(ABI).is_file().then_some(ABI);
    let text = profile::text(abi, &own_label());
    let ran = tokio::time::timeout(WITHIN, give(&path, &text)).await;
    let output = ran.map_err(|_| ApparmorError::Late(path.clone()))?;
    let output = output.map_err(|source| ApparmorError::Run { path: path.clone(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(ApparmorError::Refused(said.split_whitespace().collect::<Vec<_>>().join(" ")))
}

/// Without the cache on disk: the text is not one of its files.
async fn give(parser: &Path, text: &str) -> io::Result<std::process::Output> {
    let mut child = Command::new(parser)
        .args(["--replace", "--skip-cache", "--quiet", "--base", RULES])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(text.as_bytes()).await?;
    }
    child.wait_with_output().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_found_by_its_whole_name() {
        let list = "ferropod-default (enforce)\n/usr/bin/a b (complain)\nx (y) (unconfined)\n";
        let found: Vec<_> = names(list).collect();
        assert_eq!(found, ["ferropod-default", "/usr/bin/a b", "x (y)"]);
    }

    #[tokio::test]
    async fn without_apparmor_no_profile_is_loaded() {
        if enabled() {
            return;
        }
        let profiles = Profiles::default();
        assert!(matches!(profiles.named("x").await, Err(ApparmorError::List(_))));
        assert!(profiles.ours().await.is_err());
    }
}
