//! A launch for the tests: no namespaces, no root filesystem. The job's `spec` is a shell script, or one of these words:
//! `refuse`, `hang`, `vanish`, `unstartable`. The runtime of a start may be `refusing` or `vanishing`; any other wakes the process,
//! and answers when that has ended if it is `late`.
#![expect(unsafe_code, reason = "forks, and owns what it inherited")]
#![expect(clippy::unwrap_used, reason = "a test program ends when something is wrong")]

use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::openpty;
use nix::unistd::{ForkResult, Pid, dup2, execv, fork, setsid};
use wire::v1::answer::Answer;
use wire::v1::job::Job;
use wire::v1::{self, Born, CreateJob, ExecJob, Failure, StartJob};

fn main() {
    // SAFETY: the shim has left it open for this process.
    let control = unsafe { OwnedFd::from_raw_fd(wire::CONTROL_FD) };
    for fd in [wire::CONTROL_FD, wire::START_FD] {
        // Only a container has the second.
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok();
    }
    assert!(std::env::vars_os().next().is_none());
    let (job, _): (v1::Job, _) = wire::recv(&control).unwrap();
    match job.job.unwrap() {
        Job::Create(job) => create(control, &job),
        Job::Exec(job) => exec(control, &job),
        Job::Start(job) => start(&control, &job),
    }
}

fn create(control: OwnedFd, job: &CreateJob) {
    let script = String::from_utf8(job.spec.clone()).unwrap();
    match script.as_str() {
        "refuse" => {
            let failure =
                Failure { stage: "rootfs".into(), message: "no such layer".into(), kind: 2 };
            return answer(&control, Answer::Failure(failure), &[]);
        }
        "hang" => std::thread::sleep(Duration::from_mins(1)),
        "vanish" => return,
        _ => {}
    }
    let state = Path::new(&job.bundle).join(&job.container_id);
    std::fs::create_dir(&state).unwrap();
    let listener = UnixListener::bind(state.join("notify.sock")).unwrap();
    let tty = job.deny_missing.iter().any(|word| word == "tty");
    let kept = job.container_id != "unkept";
    born(control, (tty, kept), || {
        let mut word = String::new();
        listener.accept().unwrap().0.read_to_string(&mut word).unwrap();
        assert_eq!(word, "start container");
        if script == "unstartable" {
            // SAFETY: the shim has left it open for this process.
            let start = unsafe { BorrowedFd::borrow_raw(wire::START_FD) };
            nix::unistd::write(start, b"exec\0no such program").unwrap();
            return;
        }
        run(&["/bin/sh", "-c", &script]);
    });
}

fn start(control: &OwnedFd, job: &StartJob) {
    match job.runtime.as_str() {
        "refusing" => {
            let failure = Failure { stage: "start".into(), message: "not today".into(), kind: 0 };
            return answer(control, Answer::Failure(failure), &[]);
        }
        "vanishing" => return,
        _ => {}
    }
    let socket = Path::new(&job.bundle).join(&job.container_id).join("notify.sock");
    UnixStream::connect(socket).unwrap().write_all(b"start container").unwrap();
    if job.runtime == "late" {
        let ended = Path::new(&job.bundle).join("ended");
        while !ended.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    answer(control, Answer::Born(Born::default()), &[]);
}

fn exec(control: OwnedFd, job: &ExecJob) {
    let args: Vec<&str> = job.args.iter().map(String::as_str).collect();
    born(control, (job.tty, false), || run(&args));
}

fn run(args: &[&str]) {
    let args: Vec<CString> = args.iter().map(|arg| CString::new(*arg).unwrap()).collect();
    let Err(error) = execv(args.first().unwrap(), &args);
    drop(args);
    assert_eq!(error, nix::errno::Errno::UnknownErrno);
}

/// Forks a process that does this, and tells its birth.
fn born(control: OwnedFd, (tty, kept): (bool, bool), child: impl FnOnce()) {
    let pty = tty.then(|| openpty(None, None).unwrap());
    // SAFETY: this process has one thread.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => {
            let born = Born { pid: child.as_raw(), uid: 1, gid: 2, groups: vec![3], kept };
            let master: Vec<BorrowedFd<'_>> = pty.iter().map(|pty| pty.master.as_fd()).collect();
            answer(&control, Answer::Born(born), &master);
        }
        ForkResult::Child => {
            drop(control);
            setsid().unwrap();
            if let Some(pty) = pty {
                // SAFETY: takes numbers only.
                assert_eq!(unsafe { libc::ioctl(pty.slave.as_raw_fd(), libc::TIOCSCTTY, 0) }, 0);
                for fd in 0..3 {
                    dup2(pty.slave.as_raw_fd(), fd).unwrap();
                }
            }
            child();
            assert_ne!(Pid::this(), Pid::parent());
        }
    }
}

fn answer(control: &OwnedFd, answer: Answer, fds: &[BorrowedFd<'_>]) {
    wire::send(control, &v1::Answer { answer: Some(answer) }, fds).unwrap();
}
