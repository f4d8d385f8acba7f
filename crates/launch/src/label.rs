//! What the kernel's security modules hold against a process: an AppArmor profile or an SELinux label, from its execve on. And
//! the labels of the files that it is given.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use libcontainer::oci_spec::runtime::{Process, Spec};

use crate::failure::{At, Failure};
use crate::{path, raw};

mod files;

const APPARMOR: &str = "apparmor";
const SELINUX: &str = "selinux";
/// What is written here is held against the policy.
const CONTEXT: &str = "/sys/fs/selinux/context";

/// The names, and a /proc that nobody but the host's root has made.
#[derive(Debug, Clone, Default)]
pub(crate) struct Labels {
    proc: Option<Rc<OwnedFd>>,
    profile: Option<String>,
    label: Option<String>,
}

// === impl Labels ===

impl Labels {
    /// What a process asks for. To be called while /proc is the host's.
    pub(crate) fn of(process: &Process) -> Result<Self, Failure> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let profile = given(process.apparmor_profile());
        let label = given(process.selinux_label());
        if profile.is_none() && label.is_none() {
            return Ok(Self::default());
        }
        let proc = OwnedFd::from(path::place("/proc")?);
        Ok(Self { proc: Some(Rc::new(proc)), profile, label })
    }

    /// Asks the kernel for them at the next execve of this process.
    pub(crate) fn hold_from_execve(&self) -> Result<(), Failure> {
        if let Some(profile) = &self.profile {
            let doing = || format!("taking the profile {profile}");
            // Kernels before 5.8 have one file for whichever module is there.
            let files = [c"self/attr/apparmor/exec", c"self/attr/exec"];
            self.ask(&files, &format!("exec {profile}")).at(APPARMOR, doing)?;
        }
        if let Some(label) = &self.label {
            let doing = || format!("taking the label {label}");
            self.ask(&[c"self/attr/exec"], label).at(SELINUX, doing)?;
        }
        Ok(())
    }

    /// Tells the first of the files that is there.
    fn ask(&self, files: &[&std::ffi::CStr], text: &str) -> io::Result<()> {
        let proc = self.proc.as_ref().ok_or(ErrorKind::NotFound)?;
        let mut found = Err(ErrorKind::NotFound.into());
        for file in files {
            found = raw::open_below(proc.as_fd(), file, libc::O_WRONLY, 0);
            if !matches!(&found, Err(e) if e.kind() == ErrorKind::NotFound) {
                break;
            }
        }
        // In one write: each is an order of its own.
        fs::File::from(found?).write_all(text.as_bytes())
    }
}

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
