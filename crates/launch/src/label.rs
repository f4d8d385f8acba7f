//! The SELinux labels of the files that a container is given. What holds for its processes: `crates/process`.

use std::fs;
use std::io::{ErrorKind, Write};

use libcontainer::oci_spec::runtime::Spec;

use process::failure::{At, Failure};

mod files;

const SELINUX: &str = "selinux";
/// What is written here is held against the policy.
const CONTEXT: &str = "/sys/fs/selinux/context";

/// Gives files of the host the container's label, with all below them; those that have it already are left alone. To be called
/// while /sys is the host's.
pub(crate) fn prepare(spec: &Spec, paths: &[String]) -> Result<(), Failure> {
    if let Some(label) =
        spec.process().as_ref().and_then(|process| process.selinux_label().as_ref())
    {
        known(label)?;
    }
    let Some(label) = spec.linux().as_ref().and_then(|linux| linux.mount_label().as_ref()) else {
        return Ok(());
    };
    known(label)?;
    paths.iter().try_for_each(|path| files::relabel(path, label))
}

/// The policy says whether a label can be: a file would take one that is nothing to it.
fn known(label: &str) -> Result<(), Failure> {
    let asked = fs::OpenOptions::new().write(true).open(CONTEXT);
    match asked.and_then(|mut file| file.write_all(label.as_bytes())) {
        Err(e) if e.kind() == ErrorKind::InvalidInput => {
            Err(Failure::invalid(SELINUX, format!("the policy knows no label {label}")))
        }
        asked => asked.at(SELINUX, || format!("asking for the label {label}")),
    }
}
