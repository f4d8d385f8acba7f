//! SELinux: whether the kernel enforces a policy, and what that policy calls containers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use names::Kind;

/// There when a policy is loaded; its text is 1 when that is enforced.
const ENFORCE: &str = "/sys/fs/selinux/enforce";
const CONFIG: &str = "/etc/selinux/config";
/// The policy's own words for containers, as `selinux_lxc_contexts_path(3)` finds them.
const CONTEXTS: &str = "contexts/lxc_contexts";
const USUAL_POLICY: &str = "targeted";

/// Labels of the node's policy, with levels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contexts {
    /// Of a container's process.
    pub process: String,
    /// Of a file that it may write.
    pub file: String,
}

/// Why the policy's words are not known.
#[derive(Debug, thiserror::Error)]
pub enum SelinuxError {
    /// A file that is there.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file says something else.
    #[error("{} has no label of a process or of a file", .0.display())]
    Incomplete(PathBuf),
}

impl SelinuxError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        Kind::Internal
    }
}

/// Whether the kernel has a policy loaded, enforced or not.
pub fn enabled() -> bool {
    fs::read_to_string(ENFORCE).is_ok()
}

/// The labels of containers; `None`: the policy knows no containers.
pub fn container_contexts() -> Result<Option<Contexts>, SelinuxError> {
    let policy = fs::read_to_string(CONFIG).ok().and_then(|text| value(&text, "SELINUXTYPE"));
    let policy = policy.unwrap_or_else(|| USUAL_POLICY.to_owned());
    contexts_of(&Path::new("/etc/selinux").join(policy).join(CONTEXTS))
}

fn contexts_of(path: &Path) -> Result<Option<Contexts>, SelinuxError> {
    let text = match fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|source| SelinuxError::Read { path: path.to_owned(), source })?,
    };
    match (value(&text, "process"), value(&text, "file")) {
        (Some(process), Some(file)) => Ok(Some(Contexts { process, file })),
        _ => Err(SelinuxError::Incomplete(path.to_owned())),
    }
}

/// `key = "value"`, with or without quotes and spaces.
fn value(text: &str, key: &str) -> Option<String> {
    let of = |line: &str| {
        let (name, value) = line.split_once('=')?;
        let value = value.trim().trim_matches('"');
        (name.trim() == key && !value.is_empty()).then(|| value.to_owned())
    };
    text.lines().find_map(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_s_words_are_read_from_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lxc_contexts");
        assert_eq!(contexts_of(&path).unwrap(), None);
        let text = "process = \"system_u:system_r:container_t:s0\"\ncontent = \"x\"\n\
                    file = \"system_u:object_r:container_file_t:s0\"\n";
        crate::files::replace(&path, text.as_bytes(), 0o600).unwrap();
        let found = contexts_of(&path).unwrap().unwrap();
        assert_eq!(found.process, "system_u:system_r:container_t:s0");
        assert_eq!(found.file, "system_u:object_r:container_file_t:s0");
        crate::files::replace(&path, b"process = \"x\"\n", 0o600).unwrap();
        assert!(matches!(contexts_of(&path), Err(SelinuxError::Incomplete(_))));
    }

    #[test]
    fn a_policy_s_name_is_a_word_of_the_shell() {
        assert_eq!(
            value("#SELINUXTYPE=x\nSELINUXTYPE=default\n", "SELINUXTYPE").unwrap(),
            "default"
        );
    }
}
