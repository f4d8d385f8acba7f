//! The descriptors that a shim, a launch and enter find open when they begin. Enter finds the control socket alone.

/// The shim's listening socket, bound by the daemon.
pub const LISTEN_FD: i32 = 3;
/// The shim's end of the birth socket: its closing ends an uncommitted shim.
pub const BIRTH_FD: i32 = 4;
/// The shim's exit file, opened with `O_APPEND`.
pub const EXITS_FD: i32 = 5;

/// Launch's socket to the shim: the job comes in, the reply goes out.
pub const CONTROL_FD: i32 = 3;
/// The pod's network namespace, when it has one of its own.
pub const NET_FD: i32 = 4;
/// The pod's ipc namespace, when it has one of its own.
pub const IPC_FD: i32 = 5;
/// The pod's uts namespace, when it has one of its own.
pub const UTS_FD: i32 = 6;
/// The pod's shared pid namespace, when it has one.
pub const PID_FD: i32 = 7;
/// The pod's user namespace, when it has one of its own.
pub const USER_FD: i32 = 8;
/// The write end of a pipe, for a container. What is written to it says why the program could not be
/// executed; its closing by exec says that it was. Launch sets close-on-exec on it first of all.
pub const START_FD: i32 = 10;
