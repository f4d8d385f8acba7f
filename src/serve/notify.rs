//! What systemd wants to hear of a service of type notify: one datagram for each piece of news.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tracing::warn;

/// Nobody listens unless `$NOTIFY_SOCKET` says who.
#[derive(Debug)]
pub(crate) struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
}

impl Notify {
    pub(crate) fn from_env() -> Self {
        let Some(name) = env::var_os("NOTIFY_SOCKET") else { return Self { to: None } };
        match connect(name.as_bytes()) {
            Ok(to) => Self { to: Some(to) },
            Err(error) => {
                warn!(%error, ?name, "cannot notify");
                Self { to: None }
            }
        }
    }

    pub(crate) fn ready(&self) {
        self.send("READY=1\nSTATUS=serving");
    }

    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// Tells that the daemon lives, twice as often as asked; never ends. It runs on the runtime that serves, so it
    /// falls silent with it.
    pub(crate) async fn watchdog(&self) {
        let asked = env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse::<u64>().ok());
        let (Some(microseconds), true) = (asked, self.to.is_some()) else {
            return std::future::pending().await;
        };
        let mut tick = tokio::time::interval(Duration::from_micros((microseconds / 2).max(1)));
        loop {
            tick.tick().await;
            self.send("WATCHDOG=1");
        }
    }

    fn send(&self, news: &str) {
        let Some((socket, to)) = &self.to else { return };
        if let Err(error) = socket.send_to_addr(news.as_bytes(), to) {
            warn!(%error, "cannot notify");
        }
    }
}

/// A name that begins with @ is an abstract one.
fn connect(name: &[u8]) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_arrive_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let abstract_name = format!("ferropod-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(abstract_name.as_bytes()).unwrap();
        let cases = [
            (UnixDatagram::bind(&path).unwrap(), path.as_os_str().as_bytes().to_vec()),
            (UnixDatagram::bind_addr(&address).unwrap(), format!("@{abstract_name}").into_bytes()),
        ];
        for (listener, name) in cases {
            Notify { to: Some(connect(&name).unwrap()) }.ready();
            let mut news = [0; 64];
            let length = listener.recv(&mut news).unwrap();
            assert!(news[..length].starts_with(b"READY=1\n"));
        }
    }
}
