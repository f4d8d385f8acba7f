//! Clients at a container's ends.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::unistd::pipe;
use wire::v1::envelope::Body;
use wire::v1::failure::Kind;
use wire::v1::{Attach, Attached};

use crate::rig::{Daemon, How, Log, Rig, Stdin, exists, wait_until};

/// What a client of the test's holds.
struct Client {
    session: UnixStream,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    told: Attached,
    /// The container's input, or its terminal.
    end: Option<File>,
}

fn request(id: &str) -> Attach {
    Attach { container_id: id.to_owned(), ..Attach::default() }
}

fn attach(daemon: &mut Daemon, request: Attach) -> Client {
    let (session, theirs) = UnixStream::pair().unwrap();
    session.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let (out, err) = (pipe().unwrap(), pipe().unwrap());
    let mut fds: Vec<BorrowedFd<'_>> = Vec::new();
    fds.extend(request.stdout.then(|| out.1.as_fd()));
    fds.extend(request.stderr.then(|| err.1.as_fd()));
    fds.push(theirs.as_fd());
    let (stdout, stderr) = (request.stdout, request.stderr);
    let (answer, mut given) = daemon.call(Body::Attach(request), &fds);
    let Body::Attached(told) = answer else { panic!("{answer:?}") };
    let stdout = stdout.then_some(out.0);
    let stderr = stderr.then_some(err.0);
    Client { session, stdout, stderr, told, end: given.pop().map(File::from) }
}

fn reader(fd: Option<OwnedFd>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        File::from(fd.unwrap()).read_to_string(&mut text).unwrap();
        text
    })
}

/// Two clients come; one reads half a megabyte, the other nothing; both go.
pub(crate) fn a_moment(daemon: &mut Daemon, id: &str) {
    let out = Attach { stdout: true, ..request(id) };
    let stuck = attach(daemon, out.clone());
    let waiting = stuck.stdout.as_ref().unwrap();
    wait_until("a full pipe", || available(waiting) > 60_000);
    let mut client = attach(daemon, out);
    drop(stuck);
    let mut text = Vec::new();
    let stdout = File::from(client.stdout.take().unwrap());
    stdout.take(512 << 10).read_to_end(&mut text).unwrap();
    assert_eq!(text.len(), 512 << 10);
}

/// The last word of a session.
fn word(session: &mut UnixStream) -> String {
    let mut word = String::new();
    session.read_to_string(&mut word).unwrap();
    word
}

/// A script that waits until the file is there.
fn wait_for(rig: &Rig) -> String {
    format!("while [ ! -e {} ]; do sleep 0.01; done; ", rig.path("go").display())
}

fn go(rig: &Rig) {
    File::create(rig.path("go")).unwrap();
}

#[test]
fn clients_get_every_byte_before_the_end_and_so_does_the_log() {
    let (rig, mut daemon) = Rig::committed();
    let script = wait_for(&rig) + "seq 1 200000; echo oops >&2; printf tail; exit 4";
    rig.run(&mut daemon, "c", &script);
    let both = Attach { stdout: true, stderr: true, ..request("c") };
    let mut clients = [attach(&mut daemon, both.clone()), attach(&mut daemon, both)];
    let threads = clients.each_mut().map(|c| (reader(c.stdout.take()), reader(c.stderr.take())));
    go(&rig);
    assert_eq!(daemon.exited().code, 4);
    let numbers: Vec<String> = (1..=200_000).map(|n| n.to_string()).collect();
    let expected = numbers.join("\n") + "\ntail";
    for (out, err) in threads {
        assert!(out.join().unwrap() == expected);
        assert_eq!(err.join().unwrap(), "oops\n");
    }
    for client in &mut clients {
        assert_eq!(word(&mut client.session), "e");
    }
    let log: String = rig.texts("c", "stdout").iter().map(|line| line.clone() + "\n").collect();
    assert!(log == expected + "\n");
}

#[test]
fn a_client_that_does_not_read_holds_the_container_for_ten_seconds_and_is_cut() {
    let (rig, mut daemon) = Rig::committed();
    let script = wait_for(&rig) + "seq 1 200000; exec sleep 600";
    rig.run(&mut daemon, "c", &script);
    let stdout = Attach { stdout: true, ..request("c") };
    let (mut slow, mut quick) = (attach(&mut daemon, stdout.clone()), attach(&mut daemon, stdout));
    let begun = Instant::now();
    let mut text = String::new();
    go(&rig);
    let mut out = File::from(quick.stdout.take().unwrap());
    while !text.ends_with("\n200000\n") {
        let mut buffer = vec![0; 64 << 10];
        let count = out.read(&mut buffer).unwrap();
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    let took = begun.elapsed();
    assert!((9..15).contains(&took.as_secs()), "{took:?}");
    assert_eq!(word(&mut slow.session), "b");
    wait_until("the log", || rig.texts("c", "stdout").len() == 200_000);
    // What it had not read is still there, whole lines or not.
    let old = reader(slow.stdout.take()).join().unwrap();
    assert!(text.starts_with(&old) && old.len() > 4096, "{}", old.len());
}

#[test]
fn a_client_that_is_slow_at_the_end_delays_nobody_and_still_gets_everything() {
    let (rig, mut daemon) = Rig::committed();
    let script = wait_for(&rig) + "head -c 120000 /dev/zero | tr '\\0' x; exit 5";
    rig.run(&mut daemon, "c", &script);
    let mut client = attach(&mut daemon, Attach { stdout: true, ..request("c") });
    let begun = Instant::now();
    go(&rig);
    assert_eq!(daemon.exited().code, 5);
    daemon.forget("c");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(reader(client.stdout.take()).join().unwrap().len(), 120_000);
    assert_eq!(word(&mut client.session), "e");
}

#[test]
fn a_child_that_keeps_the_pipe_does_not_keep_the_session() {
    let (rig, mut daemon) = Rig::committed();
    let script = wait_for(&rig) + "sleep 600 & echo last; exit 6";
    rig.run(&mut daemon, "c", &script);
    let mut client = attach(&mut daemon, Attach { stdout: true, ..request("c") });
    go(&rig);
    assert_eq!(reader(client.stdout.take()).join().unwrap(), "last\n");
    assert_eq!(word(&mut client.session), "e");
    assert_eq!(daemon.exited().code, 6);
}

#[test]
fn an_input_for_one_client_ends_with_it_though_the_daemon_has_died() {
    let (rig, mut daemon) = Rig::committed();
    let how = How { stdin: Stdin::Once, ..How::default() };
    rig.create(&mut daemon, "c", "cat; exit 7", &how).unwrap();
    daemon.start("c").unwrap();
    let stdin = Attach { stdin: true, stdout: true, ..request("c") };
    let mut first = attach(&mut daemon, stdin.clone());
    assert!(first.told.stdin && !first.told.tty);
    let second = attach(&mut daemon, stdin);
    assert!(!second.told.stdin && second.end.is_none());
    first.end.as_mut().unwrap().write_all(b"word\n").unwrap();
    wait_until("the word", || rig.texts("c", "stdout") == ["word"]);
    drop((daemon, first, second));
    wait_until("the exit", || rig.exits().len() == 1);
    assert_eq!(rig.exits()[0].code, 7);
}

#[test]
fn another_input_stays_open_for_the_next_client() {
    let (rig, mut daemon) = Rig::committed();
    let how = How { stdin: Stdin::Kept, ..How::default() };
    rig.create(&mut daemon, "c", "cat", &how).unwrap();
    daemon.start("c").unwrap();
    for text in ["one", "two"] {
        let mut client = attach(&mut daemon, Attach { stdin: true, ..request("c") });
        writeln!(client.end.as_mut().unwrap(), "{text}").unwrap();
    }
    wait_until("both", || rig.texts("c", "stdout") == ["one", "two"]);
    let none = attach(&mut daemon, Attach { stdout: true, ..request("c") });
    assert!(!none.told.stdin && none.end.is_none());
}

#[test]
fn a_terminal_is_written_to_through_its_master_and_read_through_the_shim() {
    let (rig, mut daemon) = Rig::committed();
    let how = How { tty: true, stdin: Stdin::Kept, ..How::default() };
    rig.create(&mut daemon, "t", "read word; echo got $word; exit 8", &how).unwrap();
    daemon.start("t").unwrap();
    let mut client = attach(&mut daemon, Attach { stdin: true, stdout: true, ..request("t") });
    assert!(client.told.tty && client.told.stdin);
    client.end.as_mut().unwrap().write_all(b"hello\n").unwrap();
    assert_eq!(reader(client.stdout.take()).join().unwrap(), "hello\r\ngot hello\r\n");
    assert_eq!(word(&mut client.session), "e");
    assert_eq!(daemon.exited().code, 8);
    assert_eq!(rig.texts("t", "stdout"), ["hello\r", "got hello\r"]);
}

#[test]
fn clients_that_leave_are_not_missed_and_there_is_a_bound_to_them() {
    let (rig, mut daemon) = Rig::committed();
    let created = rig.run(&mut daemon, "c", "while :; do echo on; sleep 0.01; done");
    let out = Attach { stdout: true, ..request("c") };
    let clients: Vec<Client> = (0..16).map(|_| attach(&mut daemon, out.clone())).collect();
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let (answer, _) = daemon.call(Body::Attach(request("c")), &[theirs.as_fd()]);
    assert!(matches!(answer, Body::Failure(failure) if failure.kind() == Kind::Refused));
    drop(clients);
    let last = wait_for_room(&mut daemon, &out);
    assert!(exists(created.pid));
    drop(last);
    let written = rig.texts("c", "stdout").len();
    wait_until("it goes on", || rig.texts("c", "stdout").len() > written + 10);
    assert_eq!(daemon.refused(Body::Attach(request("absent"))).kind(), Kind::NotFound);
}

fn wait_for_room(daemon: &mut Daemon, out: &Attach) -> Client {
    let (mut room, end) = (false, Instant::now() + Duration::from_secs(20));
    while !room && Instant::now() < end {
        let (_ours, theirs) = UnixStream::pair().unwrap();
        let request = Attach { stdout: false, ..out.clone() };
        room = matches!(daemon.call(Body::Attach(request), &[theirs.as_fd()]).0, Body::Attached(_));
    }
    attach(daemon, out.clone())
}

#[test]
fn a_shutdown_waits_a_second_for_clients_and_no_longer() {
    let (rig, mut daemon) = Rig::committed();
    let how = How { log: Log::Nowhere, ..How::default() };
    rig.create(&mut daemon, "c", &(wait_for(&rig) + "exec yes"), &how).unwrap();
    daemon.start("c").unwrap();
    let mut client = attach(&mut daemon, Attach { stdout: true, ..request("c") });
    go(&rig);
    let waiting = client.stdout.as_ref().unwrap();
    wait_until("a full pipe", || available(waiting) > 60_000);
    let begun = Instant::now();
    daemon.done(Body::Shutdown(wire::v1::Shutdown {}));
    assert!(begun.elapsed() < Duration::from_secs(4));
    assert_eq!(word(&mut client.session), "b");
    wait_until("the shim is gone", || {
        fs::read_to_string(format!("/proc/{}/stat", rig.pid())).is_ok_and(|s| s.contains(") Z "))
    });
}

/// What a pipe holds.
fn available(fd: &OwnedFd) -> i32 {
    use std::os::fd::AsRawFd;
    let mut count = 0;
    // SAFETY: FIONREAD writes one int.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    assert_eq!(result, 0);
    count
}
