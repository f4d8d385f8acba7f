//! Executing the container's own program, and saying in the field's words why it could not be.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::failure::{At, Failure};
use crate::raw;

const STAGE: &str = "start";
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// Arguments and environment, ready for execve.
#[derive(Debug, Clone)]
pub struct Program {
    args: Vec<CString>,
    env: Vec<CString>,
}

/// Why the program does not run.
#[derive(Debug, PartialEq, Eq)]
pub struct NotRun {
    /// In the field's words.
    pub message: String,
    /// As a shell would exit: 127 not found, 126 not executable.
    pub code: i32,
}

impl Program {
    /// The first argument names the program.
    pub fn new(args: &[String], env: &[String]) -> Result<Self, Failure> {
        let strings = |list: &[String], what: &str| {
            let made: Result<Vec<_>, _> = list.iter().map(|s| CString::new(s.as_str())).collect();
            made.at(STAGE, || format!("reading the {what}"))
        };
        if args.first().is_none_or(String::is_empty) {
            return Err(Failure::invalid(STAGE, "no command specified"));
        }
        Ok(Self { args: strings(args, "arguments")?, env: strings(env, "environment")? })
    }

    /// Looks the program up with the rights of now, and becomes it. Returns only when it cannot.
    pub fn run(&self) -> NotRun {
        let Some(name) = self.args.first() else {
            return not_run("", &io::Error::from_raw_os_error(libc::ENOENT));
        };
        if name.to_bytes().contains(&b'/') {
            let error = raw::execute(name, &self.args, &self.env);
            return not_run(&name.to_string_lossy(), &error);
        }
        let mut refused = None;
        for directory in self.path().split(|b| *b == b':') {
            let path =
                Path::new(OsStr::from_bytes(directory)).join(OsStr::from_bytes(name.to_bytes()));
            let Ok(path) = CString::new(path.into_os_string().as_bytes()) else { continue };
            let error = raw::execute(&path, &self.args, &self.env);
            if !is_absent(&error) {
                refused.get_or_insert_with(|| not_run(&path.to_string_lossy(), &error));
            }
        }
        refused.unwrap_or_else(|| NotRun {
            message: format!(
                "exec: {:?}: executable file not found in $PATH",
                name.to_string_lossy()
            ),
            code: NOT_FOUND,
        })
    }

    fn path(&self) -> &[u8] {
        let value = |e: &'_ CString| e.to_bytes().starts_with(b"PATH=");
        let last = self.env.iter().rfind(|e| value(e));
        last.and_then(|e| e.to_bytes().get(5..))
            .unwrap_or(b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ENAMETOOLONG)
    )
}

fn not_run(path: &str, error: &io::Error) -> NotRun {
    let why = match error.raw_os_error() {
        Some(libc::ENOENT) => "no such file or directory".to_owned(),
        Some(libc::EACCES) => "permission denied".to_owned(),
        Some(libc::ENOEXEC) => "exec format error".to_owned(),
        _ => error.to_string(),
    };
    let code = if is_absent(error) { NOT_FOUND } else { NOT_EXECUTABLE };
    NotRun { message: format!("exec: {path:?}: {why}"), code }
}
