//! The program itself, with a process of the test's as the container.

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::process::{Child, Command, Stdio};

    use nix::fcntl::OFlag;
    use nix::sys::prctl;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{Pid, pipe2};
    use tempfile::TempDir;
    use wire::v1::answer::Answer;
    use wire::v1::failure::Kind;
    use wire::v1::job::Job;
    use wire::v1::{self, Born, CreateJob, ExecJob, Failure, Filter, Kept, Rlimit};

    /// Allows every call: one instruction, `ret ALLOW`.
    const ALLOW: [u8; 8] = [0x06, 0, 0, 0, 0, 0, 0xff, 0x7f];
    const NOFILE: u32 = 7;

    /// A process to enter, and a bundle.
    struct Container {
        process: Child,
        bundle: TempDir,
    }

    impl Container {
        fn new(kept: Option<&Kept>) -> Self {
            prctl::set_child_subreaper(true).unwrap();
            let bundle = tempfile::tempdir().unwrap();
            if let Some(kept) = kept {
                process::kept::leave(kept, bundle.path().to_str().unwrap()).unwrap();
            }
            #[expect(clippy::disallowed_methods, reason = "a test's own process")]
            let process = Command::new("sleep").arg("100").spawn().unwrap();
            Self { process, bundle }
        }

        fn exec(&self, script: &str) -> ExecJob {
            ExecJob {
                bundle: self.bundle.path().to_str().unwrap().to_owned(),
                pid: i32::try_from(self.process.id()).unwrap(),
                args: ["sh", "-c", script].map(str::to_owned).to_vec(),
                ..ExecJob::default()
            }
        }
    }

    impl Drop for Container {
        fn drop(&mut self) {
            self.process.kill().unwrap();
            self.process.wait().unwrap();
        }
    }

    /// Has the program do a job: its answer, and what the process that it made writes.
    fn enter(job: Job) -> (Result<Born, Failure>, File) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (output, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        // The shell puts the socket where the program looks for it.
        #[expect(clippy::disallowed_methods, reason = "the test is the shim")]
        let mut program = Command::new("sh")
            .args(["-c", "exec \"$0\" 3<&0 </dev/null", env!("CARGO_BIN_EXE_ferropod-enter")])
            .stdin(OwnedFd::from(theirs))
            .stdout(writer)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wire::send(&ours, &v1::Job { job: Some(job) }, &[]).unwrap();
        let (answer, _) = wire::recv::<_, v1::Answer>(&ours).unwrap();
        program.wait().unwrap();
        let result = match answer.answer.unwrap() {
            Answer::Born(born) => Ok(born),
            Answer::Failure(failure) => Err(failure),
        };
        (result, output.into())
    }

    #[test]
    fn a_further_process_is_as_its_containers_creation_has_said() {
        let kept = Kept {
            cwd: "/usr".to_owned(),
            env: ["PATH=/usr/bin:/bin", "A=1", "B=2"].map(str::to_owned).to_vec(),
            uid: 33,
            gid: 34,
            groups: vec![50],
            bounding: 1 << 5,
            no_new_privileges: true,
            rlimits: vec![Rlimit { resource: NOFILE, soft: 77, hard: 78 }],
            oom_score_adj: 321,
            filter: Some(Filter { code: ALLOW.to_vec(), flags: 0 }),
            ..Kept::default()
        };
        let container = Container::new(Some(&kept));
        let script =
            "pwd; id -u; id -g; echo $A $B $C; ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj
            grep -E '^(Groups|CapBnd|CapPrm|NoNewPrivs|Seccomp):' /proc/self/status; exit 9";
        let job =
            ExecJob { env: ["B=3", "C=4"].map(str::to_owned).to_vec(), ..container.exec(script) };
        let (born, mut output) = enter(Job::Exec(job));
        let born = born.unwrap();
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        let want = "/usr\n33\n34\n1 3 4\n77\n78\n321\nGroups:\t50 \nCapPrm:\t0000000000000000\n\
            CapBnd:\t0000000000000020\nNoNewPrivs:\t1\nSeccomp:\t2\n";
        assert_eq!(text, want);
        assert_eq!((born.uid, born.gid, born.groups), (33, 34, vec![50]));
        let pid = Pid::from_raw(born.pid);
        assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Exited(pid, 9));
    }

    #[test]
    fn what_is_not_for_it_is_refused() {
        let container = Container::new(None);
        let refused = |job| enter(job).0.unwrap_err();
        let created = refused(Job::Create(CreateJob::default()));
        assert_eq!((created.stage.as_str(), created.kind()), ("enter", Kind::Unsupported));
        let unkept = refused(Job::Exec(container.exec("true")));
        assert_eq!((unkept.stage.as_str(), unkept.kind()), ("enter", Kind::NotFound));
    }

    #[test]
    fn nothing_runs_without_the_filter_that_it_is_to_have() {
        let filter = Some(Filter { code: vec![0; 12], flags: 0 });
        let container =
            Container::new(Some(&Kept { cwd: "/".to_owned(), filter, ..Kept::default() }));
        let failure = enter(Job::Exec(container.exec("true"))).0.unwrap_err();
        assert!(failure.message.starts_with("seccomp: loading the filter"), "{failure:?}");
    }
}
