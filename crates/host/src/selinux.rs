//! SELinux: whether the kernel enforces a policy, and what that policy calls containers.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use names::Kind;

use crate::{FsError, raw};

/// There when a policy is loaded; its text is 1 when that is enforced.
const ENFORCE: &str = "/sys/fs/selinux/enforce";
const CONFIG: &str = "/etc/selinux/config";
/// The policy's own words for containers, as `selinux_lxc_contexts_path(3)` finds them.
const CONTEXTS: &str = "contexts/lxc_contexts";
const ATTRIBUTE: &CStr = c"security.selinux";
const USUAL_POLICY: &str = "targeted";

/// Labels of the node's policy, with levels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contexts {
    /// Of a container's process.
    pub process: String,
    /// Of a file that it may write.
    pub file: String,
    /// Of a file that every container may read and execute.
    pub shared: String,
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
        (Some(process), Some(file)) => {
            let shared = value(&text, "ro_file").unwrap_or_else(|| file.clone());
            Ok(Some(Contexts { process, file, shared }))
        }
        _ => Err(SelinuxError::Incomplete(path.to_owned())),
    }
}

/// Makes a directory of this label, which what is made in it inherits; directories in it that are there already get it too. An
/// overlay has one label for all of its files, but a program is mapped from the layer, by the layer's own.
pub fn make_labelled(dir: &Path, label: &str) -> Result<(), FsError> {
    fs::create_dir_all(dir).map_err(FsError::at("make", dir))?;
    set_label(dir, label)?;
    for entry in fs::read_dir(dir).map_err(FsError::at("read", dir))?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            set_label(&entry.path(), label)?;
        }
    }
    Ok(())
}

pub(crate) fn set_label(path: &Path, label: &str) -> Result<(), FsError> {
    let failed = FsError::at("label", path);
    let set = raw::c_string(path.as_os_str().as_bytes()).and_then(|name| {
        let mut held = [0; 512];
        let length = raw::get_xattr(&name, ATTRIBUTE, &mut held).unwrap_or(0);
        let held = held.get(..length).unwrap_or_default();
        if held.strip_suffix(b"\0").unwrap_or(held) == label.as_bytes() {
            return Ok(());
        }
        raw::set_xattr(&name, ATTRIBUTE, label.as_bytes())
    });
    set.map_err(failed)
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
        assert_eq!(found.shared, found.file);
        crate::files::replace(&path, b"process = \"x\"\n", 0o600).unwrap();
        assert!(matches!(contexts_of(&path), Err(SelinuxError::Incomplete(_))));
    }

    #[test]
    fn a_directory_and_those_in_it_are_labelled_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (layers, outside) = (dir.path().join("layers"), dir.path().join("outside"));
        fs::create_dir_all(layers.join("tmp")).unwrap();
        fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, layers.join("link")).unwrap();
        make_labelled(&layers, "u:r:t:s0").unwrap();
        let held = |path: &Path| {
            let path = raw::c_string(path.as_os_str().as_bytes()).unwrap();
            raw::get_xattr(&path, ATTRIBUTE, &mut [0; 64]).is_ok_and(|length| length > 0)
        };
        assert!(held(&layers) && held(&layers.join("tmp")));
        assert!(!held(&outside) && !held(&layers.join("link")));
    }

    #[test]
    fn a_policy_s_name_is_a_word_of_the_shell() {
        assert_eq!(
            value("#SELINUXTYPE=x\nSELINUXTYPE=default\n", "SELINUXTYPE").unwrap(),
            "default"
        );
    }
}
