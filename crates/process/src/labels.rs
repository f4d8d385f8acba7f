//! What the kernel's security modules hold against a process: an AppArmor profile or an SELinux label, from its execve on.

use std::ffi::CStr;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::rc::Rc;

use wire::v1::Kept;

use crate::failure::{At, Failure};
use crate::raw;

const APPARMOR: &str = "apparmor";
const SELINUX: &str = "selinux";

/// The names, and a /proc that nobody but the host's root has made.
#[derive(Debug, Clone, Default)]
pub struct Labels {
    proc: Option<Rc<OwnedFd>>,
    profile: Option<String>,
    label: Option<String>,
}

// === impl Labels ===

impl Labels {
    /// What a process asks for. To be called while /proc is the host's.
    pub fn of(wanted: &Kept) -> Result<Self, Failure> {
        let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let profile = given(&wanted.apparmor_profile);
        let label = given(&wanted.selinux_label);
        if profile.is_none() && label.is_none() {
            return Ok(Self::default());
        }
        let proc = fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH).open("/proc");
        let proc = proc.at(APPARMOR, || "opening /proc".into())?;
        Ok(Self { proc: Some(Rc::new(proc.into())), profile, label })
    }

    /// Asks the kernel for them at the next execve of this process.
    pub fn hold_from_execve(&self) -> Result<(), Failure> {
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
    fn ask(&self, files: &[&CStr], text: &str) -> io::Result<()> {
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
