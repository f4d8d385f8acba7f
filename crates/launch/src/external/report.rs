//! What a runtime says in its log when it fails: lines of JSON, the last error of which is the whole story.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

const LONGEST_LOG: u64 = 64 << 10;
const LONGEST_TEXT: usize = 2 << 10;

/// The last error in a log. A runtime that cannot write JSON is quoted as it is.
pub(super) fn last_error(log: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(log).ok()?.take(LONGEST_LOG).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines().rev().filter(|line| !line.trim().is_empty());
    let last = lines.clone().next()?;
    let told = lines.find_map(error).unwrap_or_else(|| last.to_owned());
    Some(told.chars().take(LONGEST_TEXT).collect())
}

fn error(line: &str) -> Option<String> {
    let event: Value = serde_json::from_str(line).ok()?;
    let level = event.get("level")?.as_str()?;
    let grave = ["error", "fatal", "panic"].iter().any(|known| level.eq_ignore_ascii_case(known));
    let text = ["msg", "message"].iter().find_map(|key| event.get(key)?.as_str())?;
    grave.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_last_error_of_a_log_is_told_and_what_is_no_json_as_it_stands() {
        let told = |text: &str| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            last_error(file.path())
        };
        let lines = r#"{"level":"error","msg":"first"}
{"level":"error","msg":"second","time":"now"}
{"level":"warning","msg":"beside"}
"#;
        assert_eq!(told(lines).as_deref(), Some("second"));
        assert_eq!(told("out of luck\n\n").as_deref(), Some("out of luck"));
        assert_eq!(told(""), None);
        assert_eq!(last_error(Path::new("/nowhere")), None);
    }
}
