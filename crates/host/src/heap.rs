//! What this program's allocator keeps of memory that is free: glibc's, for its arenas are never given back by themselves.

use std::io;

use crate::raw;

/// glibc's own bound is eight for each core, and each thread takes one that nobody has.
const ARENAS: i32 = 2;

/// Lets all threads share a few arenas. To be called before there are threads.
pub fn share_arenas() -> io::Result<()> {
    raw::limit_arenas(ARENAS)
}

/// Gives pages that hold nothing any more back to the kernel. Takes a millisecond or less; who allocates meanwhile may wait.
pub fn give_back() {
    raw::trim_heap();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }

    #[test]
    fn what_is_free_between_what_is_used_is_given_back() {
        const SIZE: usize = 16 << 10;
        let blocks: Vec<Vec<u8>> = (0..2048).map(|_| vec![1; SIZE]).collect();
        // One in 64 stays, so that nothing is free at an end.
        let kept: Vec<_> = blocks.into_iter().step_by(64).collect();
        let before = resident();
        give_back();
        let gone = before.saturating_sub(resident());
        assert!(gone > 2048 * SIZE / 2, "{gone} bytes");
        assert!(kept.iter().all(|block| block.iter().all(|byte| *byte == 1)));
    }
}
