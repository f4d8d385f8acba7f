//! The programs beside the daemon where no container can write them.
//!
//! A container that gets hold of `/proc/<pid>/exe` of a process of the host could write the program on the host's disk
//! (CVE-2019-5736). So the programs are copied to a tmpfs that is mounted nowhere, and executed by descriptor: a write
//! gets EROFS.
//!
//! # Decisions
//! * Not a memfd: Falco alerts on each execution of one, and `vm.memfd_noexec=2` refuses it. A sealed memfd is the
//!   fallback where the tmpfs cannot be made.
//! * The mount goes with its last descriptor; a running program keeps it alive.

use std::ffi::CString;
use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use names::Kind;
use nix::fcntl::OFlag;

use crate::{FsError, raw};

const ATTRIBUTES: u64 = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
/// Far above what the programs weigh.
const SIZE: &std::ffi::CStr = c"128m";

/// A program that could be neither copied to a tmpfs nor to a memfd.
#[derive(Debug, thiserror::Error)]
#[error("seal the program {program}")]
pub struct SealError {
    program: String,
    #[source]
    source: FsError,
}

impl SealError {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        self.source.kind()
    }
}

/// Where the copies lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealedIn {
    /// A detached read-only tmpfs.
    Tmpfs,
    /// Sealed files in memory, as the tmpfs could not be made.
    Memfd,
}

/// The programs, open to be executed.
#[derive(Debug)]
pub struct Sealed {
    /// `ferropod-shim`.
    pub shim: OwnedFd,
    /// `ferropod-launch`.
    pub launch: OwnedFd,
    /// `ferropod-enter`.
    pub enter: OwnedFd,
    /// Where they are.
    pub place: SealedIn,
}

/// The names of the programs, and their modes. The root of a user namespace executes launch once more, for hooks.
const SHIM: (&str, u32) = ("ferropod-shim", 0o500);
const LAUNCH: (&str, u32) = ("ferropod-launch", 0o555);
const ENTER: (&str, u32) = ("ferropod-enter", 0o500);

/// Copies the programs of a directory. Blocks: 5 ms for 10 MiB.
pub fn seal(dir: &Path) -> Result<Sealed, SealError> {
    match in_tmpfs(dir) {
        Ok(sealed) => Ok(sealed),
        Err(error) if error.source.kind() == Kind::NotFound => Err(error),
        Err(error) => {
            tracing::warn!(%error, cause = %error.source, "no sealed tmpfs, using memfds");
            let copy = |(name, _): (&str, u32)| memfd(&dir.join(name), name);
            let place = SealedIn::Memfd;
            Ok(Sealed { shim: copy(SHIM)?, launch: copy(LAUNCH)?, enter: copy(ENTER)?, place })
        }
    }
}

fn refused<E: Into<io::Error>>(program: &Path, doing: &'static str) -> impl FnOnce(E) -> SealError {
    move |source| SealError {
        program: program.display().to_string(),
        source: FsError::new(doing, program, source),
    }
}

fn in_tmpfs(dir: &Path) -> Result<Sealed, SealError> {
    let root = tmpfs().map_err(refused(dir, "make a tmpfs for"))?;
    for program in [SHIM, LAUNCH, ENTER] {
        write_into(&root, &dir.join(program.0), program)?;
    }
    raw::mount_setattr(root.as_fd(), ATTRIBUTES).map_err(refused(dir, "protect the tmpfs of"))?;
    let open = |(name, _): (&str, u32)| {
        let opened = raw::open_at(Some(root.as_fd()), name, OFlag::O_RDONLY);
        opened.map_err(refused(&dir.join(name), "open"))
    };
    let place = SealedIn::Tmpfs;
    Ok(Sealed { shim: open(SHIM)?, launch: open(LAUNCH)?, enter: open(ENTER)?, place })
}

fn tmpfs() -> io::Result<OwnedFd> {
    let fs = raw::fsopen(c"tmpfs")?;
    raw::fsconfig_set(fs.as_fd(), c"source", c"ferropod")?;
    raw::fsconfig_set(fs.as_fd(), c"size", SIZE)?;
    raw::fsconfig_set(fs.as_fd(), c"mode", c"0700")?;
    raw::fsconfig_create(fs.as_fd())?;
    raw::fsmount(fs.as_fd(), libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV)
}

fn write_into(root: &OwnedFd, program: &Path, (name, mode): (&str, u32)) -> Result<(), SealError> {
    let mut source = fs::File::open(program).map_err(refused(program, "open"))?;
    let target = raw::create_at(root.as_fd(), name, 0o500).map_err(refused(program, "copy"))?;
    let mut target = fs::File::from(target);
    io::copy(&mut source, &mut target).map_err(refused(program, "copy"))?;
    target.set_permissions(Permissions::from_mode(mode)).map_err(refused(program, "copy"))
}

fn memfd(program: &Path, name: &str) -> Result<OwnedFd, SealError> {
    let mut bytes = Vec::new();
    let name = CString::new(name).map_err(refused(program, "name a memfd for"))?;
    fs::File::open(program)
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .map_err(refused(program, "read"))?;
    let mut file = fs::File::from(raw::memfd(&name).map_err(refused(program, "make a memfd for"))?);
    file.write_all(&bytes).map_err(refused(program, "copy"))?;
    raw::seal_all(file.as_fd()).map_err(refused(program, "seal"))?;
    // Through /proc: a descriptor that can write may not be executed.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    fs::File::open(path).map(OwnedFd::from).map_err(refused(program, "open again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cannot_be_written(fd: &OwnedFd) -> Option<i32> {
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd));
        let open = fs::OpenOptions::new().write(true).open(path);
        open.and_then(|mut file| file.write_all(b"x")).unwrap_err().raw_os_error()
    }

    fn runs(fd: &OwnedFd) {
        let null = fs::File::open("/dev/null").unwrap();
        let args = [c"true".into()];
        let fds = [null.as_fd(); 3];
        let birth = raw::Birth { program: fd.as_fd(), args: &args, fds: &fds, cgroup: None };
        let born = raw::spawn(&birth).unwrap();
        let id = nix::sys::wait::Id::PIDFd(born.pidfd.as_fd());
        let status = nix::sys::wait::waitid(id, nix::sys::wait::WaitPidFlag::WEXITED).unwrap();
        assert!(matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0)), "{status:?}");
    }

    #[test]
    fn sealed_programs_run_and_cannot_be_written_not_even_through_proc() {
        let dir = tempfile::tempdir().unwrap();
        for (name, _) in [SHIM, LAUNCH, ENTER] {
            fs::copy("/bin/true", dir.path().join(name)).unwrap();
        }
        let sealed = seal(dir.path()).unwrap();
        assert_eq!(sealed.place, SealedIn::Tmpfs);
        for program in [&sealed.shim, &sealed.launch, &sealed.enter] {
            runs(program);
            assert_eq!(cannot_be_written(program), Some(libc::EROFS));
        }
        let memfd = memfd(Path::new("/bin/true"), "ferropod-shim").unwrap();
        runs(&memfd);
        assert_eq!(cannot_be_written(&memfd), Some(libc::EPERM));
    }

    #[test]
    fn a_missing_program_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::copy("/bin/true", dir.path().join(SHIM.0)).unwrap();
        let error = seal(dir.path()).unwrap_err();
        assert!(error.to_string().contains("/ferropod-launch"), "{error}");
    }
}
