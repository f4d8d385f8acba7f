//! The exit file: one length-delimited [`Exited`] after another, appended by the shim before it tells anyone.
//!
//! A shim that dies while it writes leaves a torn tail, which the reader leaves out.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::stat::fstat;
use nix::unistd::{ftruncate, write};
use prost::Message;
use std::os::fd::AsRawFd;

use crate::v1::Exited;

/// Appends one record to a file opened with `O_APPEND`. A record that does not fit on its disk leaves no trace.
pub fn append<Fd: AsFd>(file: Fd, exited: &Exited) -> Result<(), Errno> {
    let bytes = exited.encode_length_delimited_to_vec();
    let file = file.as_fd();
    let before = fstat(file.as_raw_fd())?.st_size;
    let written = write(file, &bytes)?;
    if written == bytes.len() {
        return Ok(());
    }
    // The next record would be read as the rest of this one.
    ftruncate(file, before)?;
    Err(Errno::ENOSPC)
}

/// The records of an exit file, oldest first. What follows the last whole record is left out.
pub fn read_exits(mut bytes: &[u8]) -> Vec<Exited> {
    let mut exits = Vec::new();
    while !bytes.is_empty() {
        match Exited::decode_length_delimited(&mut bytes) {
            Ok(exited) => exits.push(exited),
            Err(_torn) => break,
        }
    }
    exits
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    fn exited(id: &str, code: i32) -> Exited {
        Exited { container_id: id.to_owned(), code, at: i64::MAX, ..Exited::default() }
    }

    #[test]
    fn a_torn_tail_loses_only_its_own_record() {
        let all = [exited("a", 0), exited("b", 137), exited("c", 1)];
        let bytes: Vec<u8> = all.iter().flat_map(Message::encode_length_delimited_to_vec).collect();
        let last = all[2].encode_length_delimited_to_vec().len();
        assert_eq!(read_exits(&bytes), all);
        for cut in 1..=last {
            assert_eq!(read_exits(&bytes[..bytes.len() - cut]), all[..2], "cut {cut}");
        }
        assert_eq!(read_exits(&[]), []);
    }

    #[test]
    #[cfg_attr(miri, ignore = "touches the file system")]
    fn what_is_appended_is_read() {
        let mut file = tempfile::Builder::new().append(true).tempfile().unwrap();
        append(&file, &exited("a", 3)).unwrap();
        append(&file, &exited("b", 0)).unwrap();
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(read_exits(&bytes), [exited("a", 3), exited("b", 0)]);
    }
}
