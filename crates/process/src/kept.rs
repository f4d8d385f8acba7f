//! What a container's creation leaves in its bundle for further processes.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use prost::Message;
use wire::v1::Kept;

use crate::failure::{At, Failure};

const STAGE: &str = "kept";
const NAME: &str = "kept";

/// Leaves it. A container without it has its further processes made by launch, from its specification.
pub fn leave(kept: &Kept, bundle: &str) -> Result<(), Failure> {
    let path = Path::new(bundle).join(NAME);
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary).at(STAGE, || format!("making {}", path.display()))?;
    // Its length comes first: what is torn is none, rather than a process without its last fields.
    file.write_all(&kept.encode_length_delimited_to_vec())
        .and_then(|()| fs::rename(&temporary, &path))
        .at(STAGE, || format!("writing {}", path.display()))
}

/// Reads it; None where a creation has left nothing.
pub fn read(bundle: &str) -> Result<Option<Kept>, Failure> {
    let path = Path::new(bundle).join(NAME);
    let doing = || format!("reading {}", path.display());
    match fs::read(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        read => {
            let kept = Kept::decode_length_delimited(read.at(STAGE, doing)?.as_slice());
            kept.map(Some).at(STAGE, doing)
        }
    }
}

#[cfg(test)]
mod tests {
    use wire::v1::Filter;

    use super::*;

    #[test]
    fn what_is_left_is_found_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().to_str().unwrap();
        assert_eq!(read(bundle).unwrap(), None);
        let filter = Some(Filter { code: vec![1; 800], flags: 2 });
        let kept = Kept { uid: 7, oom_score_adj: -3, filter, ..Kept::default() };
        leave(&kept, bundle).unwrap();
        assert_eq!(read(bundle).unwrap(), Some(kept));
        let path = dir.path().join(NAME);
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            File::create(&path).unwrap().write_all(&whole[..length]).unwrap();
            read(bundle).unwrap_err();
        }
    }
}
