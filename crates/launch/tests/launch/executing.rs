//! Exec: the same confinement, a program that is missing, a terminal, and what it costs.

use std::fs;
use std::time::Instant;

use pod::config::{RunAs, SecurityProfile};

use crate::shim::{Case, Made, reap_failed};

fn running(case: &Case) -> Made {
    let mut made = case.create().unwrap_or_else(|f| panic!("{f:?}"));
    case.start();
    assert_eq!(made.line(), "up");
    made
}

#[test]
fn an_exec_has_user_environment_directory_and_namespaces_of_the_container() {
    let case = Case::new("echo up; sleep 100").with(|c| {
        c.image.user = "web".into();
        c.container.envs = vec![("A".into(), b"1".to_vec())];
        c.container.working_dir = "/work".into();
        c.container.resources.oom_score_adj = 321;
    });
    let made = running(&case);
    let script = "id; pwd; echo $A $B $HOME; cat /proc/self/oom_score_adj; readlink /proc/self/ns/pid; \
                  ls /proc/self/fd; exit 9";
    let ran =
        case.exec(&made, &["sh", "-c", script], |j| j.env = vec!["B=2".into()]).unwrap().finish();
    let pids =
        fs::read_link(format!("/proc/{}/ns/pid", made.born.pid)).unwrap().display().to_string();
    let user = "uid=33(web) gid=34(www) groups=34(www),50(log)";
    // The last descriptor is the one by which ls reads.
    let want = format!("{user}\n/work\n1 2 /srv\n321\n{pids}\n0\n1\n2\n3\n");
    assert_eq!((ran.out.as_str(), ran.code()), (want.as_str(), 9));
    made.end();
}

#[test]
fn an_exec_is_in_the_containers_cgroups() {
    let case = Case::new("echo up; sleep 100");
    let made = running(&case);
    let exec = case.exec(&made, &["sleep", "100"], |_| {}).unwrap();
    let read = |pid: i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let ours = text.lines().filter(|l| !l.contains("name=") && !l.starts_with("0:"));
        ours.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(read(exec.born.pid), read(made.born.pid));
    exec.end();
    made.end();
}

#[test]
fn a_program_that_cannot_be_executed_is_an_answer() {
    let case = Case::new("echo up; sleep 100");
    let made = running(&case);
    for (command, says, kind) in [
        ("nothere", "exec: \"nothere\": executable file not found in $PATH", 2),
        ("/bin/noexec", "exec: \"/bin/noexec\": permission denied", 3),
    ] {
        let Err(failure) = case.exec(&made, &[command], |_| {}) else { panic!("{command} ran") };
        assert_eq!(
            (failure.stage.as_str(), failure.message.as_str(), failure.kind),
            ("start", says, kind)
        );
    }
    let Err(failure) = case.exec(&made, &["true"], |j| j.cwd = "/proc/self/fd/3".into()) else {
        panic!("it ran")
    };
    assert!(failure.message.starts_with("working directory"), "{failure:?}");
    reap_failed();
    made.end();
}

#[test]
fn an_exec_after_the_end_is_not_found() {
    let case = Case::new("echo up; sleep 100");
    let made = running(&case);
    let pid = made.born.pid;
    let null = || fs::File::open("/dev/null").unwrap();
    let born = wire::v1::Born { pid, ..wire::v1::Born::default() };
    let gone = Made { born, terminal: None, stdout: null(), start: null() };
    made.end();
    let Err(failure) = case.exec(&gone, &["true"], |j| j.cgroups.clear()) else { panic!("it ran") };
    assert_eq!(failure.kind, 2, "{failure:?}");
}

#[test]
fn an_exec_gets_a_terminal_of_the_container() {
    let case =
        Case::new("echo up; sleep 100").with(|c| c.container.security.user = Some(RunAs::Uid(33)));
    let made = running(&case);
    let script = "tty; stat -c %u $(tty); echo $TERM; echo again > /dev/tty";
    let exec = case.exec(&made, &["sh", "-c", script], |j| j.tty = true).unwrap();
    assert_eq!(exec.finish().out, "/dev/pts/0\n33\nxterm\nagain\n");
    made.end();
}

#[test]
fn an_exec_is_quick() {
    let default = Some(SecurityProfile::RuntimeDefault);
    let case = Case::new("echo up; sleep 100").with(|c| c.container.security.seccomp = default);
    let made = running(&case);
    let once = |_| {
        let begin = Instant::now();
        assert_eq!(case.exec(&made, &["true"], |_| {}).unwrap().finish().code(), 0);
        begin.elapsed()
    };
    let mut times: Vec<_> = (0..20).map(once).collect();
    times.sort();
    println!("exec of true: best {:?}, median {:?}, worst {:?}", times[0], times[10], times[19]);
    // An unoptimised build on a busy machine: only a gross loss is an error here.
    assert!(times[10].as_millis() < 200);
    made.end();
}
