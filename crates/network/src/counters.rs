//! Counters of a namespace's interfaces.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sched::{CloneFlags, setns};

/// What an interface counted since it was made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InterfaceCounters {
    /// Its name.
    pub name: String,
    /// Received bytes.
    pub rx_bytes: u64,
    /// Received packets.
    pub rx_packets: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Received packets that were dropped.
    pub rx_dropped: u64,
    /// Sent bytes.
    pub tx_bytes: u64,
    /// Sent packets.
    pub tx_packets: u64,
    /// Send errors.
    pub tx_errors: u64,
    /// Packets to send that were dropped.
    pub tx_dropped: u64,
}

/// Reads the counters of every interface in each of the namespaces; those of one that cannot be entered are none. Blocks: it
/// waits for a thread that enters them in turn and ends afterwards.
pub fn counters<N: AsFd + Sync>(namespaces: &[N]) -> Vec<Vec<InterfaceCounters>> {
    if namespaces.is_empty() {
        return Vec::new();
    }
    let read = || namespaces.iter().map(|n| within(n.as_fd()).unwrap_or_default()).collect();
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("counters".to_owned()).stack_size(128 * 1024);
        let handle = thread.spawn_scoped(scope, read).ok()?;
        handle.join().ok()
    })
    .unwrap_or_default()
}

/// This thread stays in the namespace.
fn within(netns: BorrowedFd<'_>) -> io::Result<Vec<InterfaceCounters>> {
    setns(netns, CloneFlags::CLONE_NEWNET)?;
    let text = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    Ok(text.lines().skip(2).filter_map(parse).collect())
}

fn parse(line: &str) -> Option<InterfaceCounters> {
    let (name, numbers) = line.split_once(':')?;
    let mut numbers = numbers.split_whitespace().map(|n| n.parse().ok());
    let mut next = |skip: usize| numbers.nth(skip).flatten();
    Some(InterfaceCounters {
        name: name.trim().to_owned(),
        rx_bytes: next(0)?,
        rx_packets: next(0)?,
        rx_errors: next(0)?,
        rx_dropped: next(0)?,
        // fifo, frame, compressed and multicast are passed over
        tx_bytes: next(4)?,
        tx_packets: next(0)?,
        tx_errors: next(0)?,
        tx_dropped: next(0)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_is_read_column_by_column() {
        let line = "  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16";
        let read = parse(line).unwrap();
        assert_eq!((read.name.as_str(), read.rx_bytes, read.rx_dropped), ("eth0", 1, 4));
        assert_eq!(
            (read.tx_bytes, read.tx_packets, read.tx_errors, read.tx_dropped),
            (9, 10, 11, 12)
        );
        assert!(parse("no counters here").is_none());
    }

    #[test]
    fn the_callers_own_namespace_has_a_loopback() {
        let open = |path| std::fs::File::open(path).unwrap();
        let found = counters(&[open("/proc/thread-self/ns/net"), open("/dev/null")]);
        assert!(found[0].iter().any(|i| i.name == "lo"));
        assert!(found[1].is_empty(), "no namespace");
        assert!(counters::<std::fs::File>(&[]).is_empty());
    }
}
