//! Threads that end with their work, because they entered a namespace or because the kernel may keep them waiting.

use std::io;

use tokio::sync::oneshot;

/// Runs `work` on a thread of its own. If the caller goes away, the work is still done to its end.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (send, receive) = oneshot::channel();
    spawn(move || drop(send.send(work())))?;
    receive.await.map_err(|_| io::Error::other("the thread ended without an answer"))
}

/// Runs `work` on a thread of its own and waits for nothing.
pub(crate) fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("network".to_owned());
    thread.stack_size(256 * 1024).spawn(work).map(drop)
}
