//! A program in a process of its own, born where it belongs.
//!
//! clone3 as vfork does it: until exec the child runs in this process's memory, on a stack of its own, and the calling thread waits.
//! Neither page tables are copied nor pages after it, which took 3 ms of CPU time for each pod. The child may not allocate, lock or
//! log, and writes to nothing but its stack and the thread's errno; so everything it needs is laid out before it is born.

use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{SigSet, SigmaskHow};

#[cfg(not(target_arch = "x86_64"))]
use super::checked;

/// Descriptors are first copied to numbers that no target has.
const ABOVE_TARGETS: i32 = 64;

/// What is to be born.
pub(crate) struct Birth<'a> {
    /// The program's file.
    pub(crate) program: BorrowedFd<'a>,
    /// Its arguments, its own name first. Its environment is empty.
    pub(crate) args: &'a [CString],
    /// The descriptors 0, 1, 2, … that it finds open; all others are closed.
    pub(crate) fds: &'a [BorrowedFd<'a>],
    /// The cgroup2 directory that it is born in.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
}

/// What was born.
pub(crate) struct Newborn {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
}

/// Of the child's stack: it calls few functions, and none deep.
#[cfg(target_arch = "x86_64")]
const STACK_LINES: usize = 1024;

/// As a stack is aligned.
#[cfg(target_arch = "x86_64")]
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line {
    _bytes: [u8; 64],
}

/// Everything the child touches.
struct Layout {
    program: i32,
    argv: Vec<*const libc::c_char>,
    envp: [*const libc::c_char; 1],
    /// Numbers at or above [`ABOVE_TARGETS`], in the order of their targets.
    sources: Vec<i32>,
    report: i32,
}

/// Starts the program in a new session, in `/`, with default signals. Returns when it has been executed.
pub(crate) fn spawn(birth: &Birth<'_>) -> io::Result<Newborn> {
    let raised = birth.fds.iter().map(raise).collect::<io::Result<Vec<OwnedFd>>>()?;
    let program = raise(&birth.program)?;
    let (report_in, low) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let report_out = raise(&low)?;
    // Two write ends would keep the report from ending.
    drop(low);
    let end = std::ptr::null();
    let layout = Layout {
        program: program.as_raw_fd(),
        argv: birth.args.iter().map(|arg| arg.as_ptr()).chain([end]).collect(),
        envp: [end],
        sources: raised.iter().map(AsRawFd::as_raw_fd).collect(),
        report: report_out.as_raw_fd(),
    };
    // A signal between birth and exec would run this process's handlers in the child.
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let born = clone3(birth.cgroup, &layout);
    mask.thread_set_mask()?;
    let born = born?;
    drop(report_out);
    match told(report_in) {
        None => Ok(born),
        Some(error) => {
            let id = nix::sys::wait::Id::PIDFd(std::os::fd::AsFd::as_fd(&born.pidfd));
            nix::sys::wait::waitid(id, nix::sys::wait::WaitPidFlag::WEXITED)?;
            Err(error)
        }
    }
}

fn raise(fd: &impl AsRawFd) -> io::Result<OwnedFd> {
    let copy = fcntl(fd.as_raw_fd(), FcntlArg::F_DUPFD_CLOEXEC(ABOVE_TARGETS))?;
    // SAFETY: fcntl has just returned this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// The child's errno; nothing when exec closed the pipe.
fn told(report: OwnedFd) -> Option<io::Error> {
    let mut bytes = [0; 4];
    let read = std::fs::File::from(report).read_exact(&mut bytes);
    read.ok().map(|()| io::Error::from_raw_os_error(i32::from_ne_bytes(bytes)))
}

fn clone3(cgroup: Option<BorrowedFd<'_>>, layout: &Layout) -> io::Result<Newborn> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all zero is a valid clone_args.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::try_from(libc::CLONE_PIDFD).unwrap_or_default();
    args.pidfd = (&raw mut pidfd).expose_provenance() as u64;
    args.exit_signal = u64::try_from(libc::SIGCHLD).unwrap_or_default();
    if let Some(cgroup) = cgroup {
        args.flags |= 0x2_0000_0000; // CLONE_INTO_CGROUP
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).unwrap_or_default();
    }
    let pid = begin(&mut args, layout)?;
    // SAFETY: the kernel has filled it with a descriptor of the child.
    Ok(Newborn { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// The child begins with [`become_program`], and this returns when it has executed or ended.
#[cfg(target_arch = "x86_64")]
fn begin(args: &mut libc::clone_args, layout: &Layout) -> io::Result<libc::c_int> {
    extern "C" fn run(layout: *const Layout) -> ! {
        // SAFETY: it lives in the frame of the thread that waits for us.
        become_program(unsafe { &*layout })
    }
    let mut stack = vec![std::mem::MaybeUninit::<Line>::uninit(); STACK_LINES];
    args.stack = stack.as_mut_ptr().expose_provenance() as u64;
    args.stack_size = u64::try_from(size_of_val(stack.as_slice())).unwrap_or_default();
    args.flags |= u64::try_from(libc::CLONE_VM | libc::CLONE_VFORK).unwrap_or_default();
    let result: libc::c_long;
    // SAFETY: the child has the stack to itself, whose end is aligned as a call wants it, and never comes back from `run`; its
    // parent goes on with its own registers when it has left this memory. All that is used before lives until then.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") std::ptr::from_mut(args),
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") std::ptr::from_ref(layout),
            in("r13") run as extern "C" fn(*const Layout) -> !,
            out("rcx") _,
            out("r11") _,
        );
    }
    drop(stack);
    let error = || io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EINVAL));
    libc::c_int::try_from(result).ok().filter(|pid| *pid > 0).ok_or_else(error)
}

/// Elsewhere the child is a copy of this process.
#[cfg(not(target_arch = "x86_64"))]
fn begin(args: &mut libc::clone_args, layout: &Layout) -> io::Result<libc::c_int> {
    let size = size_of::<libc::clone_args>();
    // SAFETY: the structure outlives the call and has this size. The child gets a copy of this stack, and leaves by
    // `become_program`, which never returns.
    let pid = checked(unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_mut(args), size) })?;
    if pid == 0 {
        become_program(layout);
    }
    Ok(pid)
}

/// The child's life: only system calls, none of which allocates.
fn become_program(layout: &Layout) -> ! {
    let errno = match prepare(layout) {
        Ok(()) => execute(layout),
        Err(errno) => errno,
    };
    let bytes = i32::to_ne_bytes(errno);
    // SAFETY: the pointer and the length are of one live array.
    unsafe { libc::write(layout.report, bytes.as_ptr().cast(), bytes.len()) };
    // SAFETY: ends the process without running anything of its parent's.
    unsafe { libc::_exit(127) }
}

fn prepare(layout: &Layout) -> Result<(), i32> {
    let no = |e: nix::errno::Errno| e as i32;
    nix::unistd::setsid().map_err(no)?;
    nix::unistd::chdir(c"/").map_err(no)?;
    for (target, source) in (0..).zip(&layout.sources) {
        nix::unistd::dup2(*source, target).map_err(no)?;
    }
    close_others(layout.sources.len());
    // What is ignored stays ignored over exec: Rust's runtime ignores SIGPIPE, nohup SIGHUP, and a pod must not inherit it.
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL is a valid disposition; signals that cannot be changed give an error and keep theirs.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    SigSet::empty().thread_set_mask().map_err(no)
}

/// Whatever this process was itself started with may lack close-on-exec. Kernels before 5.11 refuse, and inherit it.
fn close_others(first: usize) {
    let (last, flag) = (libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: takes integers only, and closes nothing before exec.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, flag) };
}

fn execute(layout: &Layout) -> i32 {
    let (argv, envp) = (layout.argv.as_ptr(), layout.envp.as_ptr());
    let (program, name, flags) = (layout.program, c"".as_ptr(), libc::AT_EMPTY_PATH);
    // SAFETY: both arrays end with a null pointer, and their strings live in this process's memory.
    unsafe { libc::syscall(libc::SYS_execveat, program, name, argv, envp, flags) };
    nix::errno::Errno::last_raw()
}
