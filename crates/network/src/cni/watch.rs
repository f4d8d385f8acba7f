//! The configuration as it is now: read again when its directory or the first file in it is another than before.
//!
//! No watcher: a watch on a directory goes blind when the directory itself is replaced. A look costs one listing and a
//! few stats, and is taken at most every [`PAUSE`].

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::conf::{NetworkList, files};

/// The least time between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// What lies in the directory.
#[derive(Debug, Clone)]
pub(crate) enum Loaded {
    /// No configuration.
    Nothing,
    /// One that cannot be used, and why.
    Broken(String),
    /// One that can.
    Ready { source: PathBuf, value: Arc<Value>, list: Arc<NetworkList> },
}

#[derive(Debug)]
pub(crate) struct Watch {
    dir: PathBuf,
    seen: Mutex<Option<Seen>>,
}

#[derive(Debug)]
struct Seen {
    at: Instant,
    mark: Mark,
    loaded: Loaded,
}

/// What tells one state of the directory from another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    first: Option<PathBuf>,
    file: Option<(u64, u64, i64, i64, i64, i64, u64)>,
}

impl Watch {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, seen: Mutex::new(None) }
    }

    /// What lies there now.
    pub(crate) fn current(&self) -> Loaded {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = seen.as_mut() {
            if seen.at.elapsed() < PAUSE {
                return seen.loaded.clone();
            }
            seen.at = Instant::now();
        }
        let mark = self.mark();
        match seen.as_ref() {
            Some(old) if old.mark == mark => old.loaded.clone(),
            _ => {
                let loaded = load(mark.first.as_deref());
                tracing::info!(dir = %self.dir.display(), found = %loaded, "cni configuration read");
                *seen = Some(Seen { at: Instant::now(), mark, loaded: loaded.clone() });
                loaded
            }
        }
    }

    fn mark(&self) -> Mark {
        let first = files(&self.dir).unwrap_or_default().into_iter().next();
        let file = first.as_ref().and_then(|path| std::fs::metadata(path).ok()).map(|m| {
            (m.dev(), m.ino(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec(), m.size())
        });
        Mark { first, file }
    }
}

fn load(first: Option<&Path>) -> Loaded {
    let Some(source) = first else { return Loaded::Nothing };
    match NetworkList::read(source).and_then(|v| Ok((NetworkList::parse(&v)?, v))) {
        Ok((list, value)) => {
            let source = source.to_owned();
            Loaded::Ready { source, value: Arc::new(value), list: Arc::new(list) }
        }
        Err(reason) => Loaded::Broken(reason),
    }
}

impl std::fmt::Display for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing => f.write_str("none"),
            Self::Broken(reason) => f.write_str(reason),
            Self::Ready { source, list, .. } => write!(f, "{} ({})", source.display(), list.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn name(watch: &Watch) -> String {
        match watch.current() {
            Loaded::Nothing => "none".to_owned(),
            Loaded::Broken(_) => "broken".to_owned(),
            Loaded::Ready { list, .. } => list.name.clone(),
        }
    }

    fn becomes(watch: &Watch, wanted: &str) {
        let start = Instant::now();
        while name(watch) != wanted {
            assert!(start.elapsed() < Duration::from_secs(5), "{} is not {wanted}", name(watch));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a test writes as careless people do")]
    fn put(path: &Path, name: &str) {
        fs::write(path, format!("{{\"name\":\"{name}\",\"cniVersion\":\"1.0.0\",\"type\":\"x\"}}"))
            .unwrap();
    }

    #[test]
    fn the_first_file_counts_as_it_comes_changes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let watch = Watch::new(dir.path().join("net.d"));
        assert_eq!(name(&watch), "none");
        fs::create_dir(dir.path().join("net.d")).unwrap();
        let file = dir.path().join("net.d/20-b.conf");
        put(&file, "b");
        becomes(&watch, "b");
        put(&file, "c");
        becomes(&watch, "c");
        put(&dir.path().join("net.d/10-a.conflist"), "a");
        put(&dir.path().join("net.d/00-ignored.txt"), "ignored");
        becomes(&watch, "a");
        put(&dir.path().join("net.d/10-a.conflist"), "");
        becomes(&watch, "broken");
        fs::remove_file(dir.path().join("net.d/10-a.conflist")).unwrap();
        becomes(&watch, "c");
        fs::remove_file(file).unwrap();
        becomes(&watch, "none");
    }

    #[test]
    fn a_directory_that_is_replaced_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("net.d");
        let watch = Watch::new(conf.clone());
        for n in ["one", "two", "three"] {
            drop(fs::remove_dir_all(dir.path().join("old")));
            if conf.exists() {
                fs::rename(&conf, dir.path().join("old")).unwrap();
            }
            fs::create_dir(&conf).unwrap();
            put(&conf.join("10.conf"), n);
            becomes(&watch, n);
        }
    }
}
