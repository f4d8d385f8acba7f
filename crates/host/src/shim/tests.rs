//! Against a shim of a few lines, played by a thread that speaks `wire`.

use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use names::ContainerId;
use nix::fcntl::OFlag;
use v1::{Envelope, envelope::Body};

use super::*;

const NAME: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A directory so deep that no socket's path could name it.
fn deep_dir() -> (tempfile::TempDir, OwnedFd) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("d".repeat(100));
    std::fs::DirBuilder::new().mode(0o700).create(&dir).unwrap();
    let fd = raw::open_at(None, &dir, OFlag::O_PATH | OFlag::O_DIRECTORY).unwrap();
    (root, fd)
}

fn program() -> File {
    File::open("/bin/true").unwrap()
}

fn both(program: &File) -> Programs<'_> {
    Programs { launch: program.as_fd(), enter: program.as_fd() }
}

/// Takes one connection, and answers each request by what the play says, until it says nothing.
fn play(
    listener: OwnedFd,
    mut answer: impl FnMut(&OwnedFd, u64, Body, Vec<OwnedFd>) -> bool + Send + 'static,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut fds = [nix::poll::PollFd::new(listener.as_fd(), nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut fds, 10_000_u16).unwrap();
        let socket = std::os::unix::net::UnixListener::from(listener).accept().unwrap().0;
        let socket = OwnedFd::from(socket);
        while let Ok((Envelope { id, body: Some(body) }, fds)) = wire::recv::<_, Envelope>(&socket)
        {
            if !answer(&socket, id, body, fds) {
                return;
            }
        }
    })
}

fn say(socket: &OwnedFd, id: u64, body: Body, fds: &[BorrowedFd<'_>]) {
    wire::send(socket, &Envelope { id, body: Some(body) }, fds).unwrap();
}

fn greet(socket: &OwnedFd, id: u64, fds: usize) {
    assert_eq!(fds, 2, "hello carries launch and enter");
    let state = v1::State { version: wire::VERSION, pid: 7, ..v1::State::default() };
    say(socket, id, Body::State(state), &[]);
}

fn channel() -> (mpsc::UnboundedSender<Box<Event>>, mpsc::UnboundedReceiver<Box<Event>>) {
    mpsc::unbounded_channel()
}

fn container(n: u8) -> ContainerId {
    ContainerId::from_random([n; 32])
}

const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn answers_find_their_requests_in_any_order_and_events_the_channel() {
    let (_root, dir) = deep_dir();
    let listener = bind_socket(dir.as_fd(), NAME).unwrap();
    let mut held = None;
    let shim = play(listener, move |socket, id, body, fds| {
        match body {
            Body::Hello(_) => greet(socket, id, fds.len()),
            // The first start is answered after the second.
            Body::Start(_) if held.is_none() => held = Some(id),
            Body::Start(_) => {
                let started = |at| Body::Started(v1::Started { at });
                say(socket, id, started(2), &[]);
                let exited = v1::Exited { code: 3, ..v1::Exited::default() };
                say(socket, 0, Body::Exited(exited), &[]);
                say(socket, held.unwrap(), started(1), &[]);
            }
            Body::OpenNamespaces(_) => {
                let null = File::open("/dev/null").unwrap();
                let zero = File::open("/dev/zero").unwrap();
                let told = v1::Namespaces { net: true, uts: true, ..v1::Namespaces::default() };
                say(socket, id, Body::Namespaces(told), &[null.as_fd(), zero.as_fd()]);
            }
            Body::Signal(_) => {
                let failure = v1::Failure {
                    stage: "signal".to_owned(),
                    message: "no such container".to_owned(),
                    kind: v1::failure::Kind::NotFound.into(),
                };
                say(socket, id, Body::Failure(failure), &[]);
            }
            _ => say(socket, id, Body::Done(v1::Done {}), &[]),
        }
        true
    });
    let (sender, mut events) = channel();
    let program = program();
    let (client, state) =
        Client::connect(dir.as_fd(), NAME, PATIENCE, both(&program), sender).await.unwrap();
    assert_eq!(state.pid, 7);
    let (one, two) = (container(1), container(2));
    let (first, second) = tokio::join!(client.start(&one), client.start(&two));
    assert_eq!((first.unwrap(), second.unwrap()), (1, 2));
    assert!(
        matches!(events.recv().await.as_deref(), Some(Event::Exited(exited)) if exited.code == 3)
    );
    let found = client.open_namespaces(v1::OpenNamespaces::default()).await.unwrap();
    let target = |fd: OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    assert_eq!(target(found.net.unwrap()).unwrap(), Path::new("/dev/null"));
    assert_eq!(target(found.uts.unwrap()).unwrap(), Path::new("/dev/zero"));
    assert!(found.ipc.is_none() && found.init.is_none());
    let error = client.signal(&one, 15).await.unwrap_err();
    assert_eq!((error.kind(), error.stage()), (Kind::NotFound, Some("signal")));
    assert!(matches!(client.start(&one).await, Ok(2)), "the client goes on after a failure");
    client.commit().await.unwrap();
    drop(client);
    shim.join().unwrap();
    assert!(matches!(events.recv().await.as_deref(), Some(Event::Exited(_))));
    assert!(matches!(events.recv().await.as_deref(), Some(Event::Gone(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_shim_that_goes_fails_the_requests_that_wait() {
    let (_root, dir) = deep_dir();
    let listener = bind_socket(dir.as_fd(), NAME).unwrap();
    let shim = play(listener, |socket, id, body, fds| match body {
        Body::Hello(_) => {
            greet(socket, id, fds.len());
            true
        }
        _ => false,
    });
    let (sender, mut events) = channel();
    let (client, _) =
        Client::connect(dir.as_fd(), NAME, PATIENCE, both(&program()), sender).await.unwrap();
    assert!(matches!(client.commit().await, Err(RequestError::Gone)));
    assert!(matches!(events.recv().await.as_deref(), Some(Event::Gone(_))));
    assert!(matches!(client.shutdown().await, Err(RequestError::Gone)) && client.is_gone());
    shim.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_shim_a_silent_shim_and_a_newer_shim_are_told_apart() {
    let (_root, dir) = deep_dir();
    let (sender, _events) = channel();
    let program = program();
    let connect =
        |patience| Client::connect(dir.as_fd(), NAME, patience, both(&program), sender.clone());
    assert!(matches!(connect(PATIENCE).await, Err(ConnectError::Gone { .. })));
    let listener = bind_socket(dir.as_fd(), NAME).unwrap();
    let brief = Duration::from_millis(30);
    assert!(matches!(connect(brief).await, Err(ConnectError::Silent { .. })));
    // To close it is not enough: until it executes, a child that another test starts has it too.
    nix::sys::socket::shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
    drop(listener);
    assert!(matches!(connect(PATIENCE).await, Err(ConnectError::Gone { .. })));
    let listener = bind_socket(dir.as_fd(), NAME).unwrap();
    let shim = play(listener, |socket, id, _, _| {
        let state = v1::State { version: wire::VERSION + 1, ..v1::State::default() };
        say(socket, id, Body::State(state), &[]);
        true
    });
    assert!(matches!(connect(PATIENCE).await, Err(ConnectError::Version(_))));
    shim.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_terminal_has_a_size_and_ends_with_its_last_process() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let pty = nix::pty::openpty(None, None).unwrap();
    let master = Master::new(pty.master).unwrap();
    let (mut reader, mut writer) = (master.clone(), master.clone());
    master.resize(99, 11).unwrap();
    writer.write_all(b"hello\n").await.unwrap();
    drop((master, writer));
    let slave = pty.slave;
    let heard = tokio::task::spawn_blocking(move || {
        let mut buffer = [0; 64];
        let count = nix::unistd::read(slave.as_raw_fd(), &mut buffer).unwrap();
        nix::unistd::write(&slave, b"bye\n").unwrap();
        buffer[..count].to_vec()
    });
    let mut said = String::new();
    reader.read_to_string(&mut said).await.unwrap();
    assert_eq!(heard.await.unwrap(), b"hello\n");
    assert_eq!(said, "hello\r\nbye\r\n");
}
