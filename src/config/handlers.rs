//! Runtime handlers: what a pod's `runtimeClassName` leads to.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// As kubelets write them.
const NAME_MAX: usize = 63;
const SHIM_PROGRAM: &str = "containerd-shim-";
const SHIM_TYPE: &str = "io.containerd.";

/// One handler, by its name in `runtime.handlers`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Handler {
    /// The runtime's program.
    pub(crate) path: PathBuf,
    /// Empty: "oci", the only one.
    kind: String,
    /// Here to be refused by name: containerd's word, which people bring along.
    runtime_type: String,
}

impl Handler {
    /// What is wrong with it, if anything: the key below the handler's, and why.
    pub(super) fn check(&self, name: &str) -> Result<(), (&'static str, String)> {
        let letter = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(letter) {
            let wrong =
                format!("{name:?} is not a name of 1 to {NAME_MAX} letters, digits, -, . and _");
            return Err(("", wrong));
        }
        if let Some(shim) = self.shim() {
            let wrong = format!(
                "{shim:?} is a shim of containerd's (shim v2), as Kata Containers has; Ferropod has shims of its own and runs OCI runtimes only, such as runc or crun"
            );
            return Err(("", wrong));
        }
        if !matches!(self.kind.as_str(), "" | "oci") {
            return Err((
                ".kind",
                format!("{:?} is not \"oci\", the only kind there is", self.kind),
            ));
        }
        if !self.runtime_type.is_empty() {
            return Err((".runtime_type", "is not a key of Ferropod's: set path".to_owned()));
        }
        if !self.path.is_absolute() {
            return Err((".path", format!("{:?} is not an absolute path", self.path.display())));
        }
        Ok(())
    }

    /// By which word it shows that it is for shims of containerd's.
    fn shim(&self) -> Option<&str> {
        let path = self.path.to_str().unwrap_or_default();
        let program = Path::new(path).file_name().and_then(|name| name.to_str());
        let is_type = |text: &str| text.starts_with(SHIM_TYPE);
        let kinds = ["shim", "shim-v2", "shimv2", "shim_v2", "vm"];
        if kinds.contains(&self.kind.as_str()) || is_type(&self.kind) {
            return Some(&self.kind);
        }
        if is_type(&self.runtime_type) {
            return Some(&self.runtime_type);
        }
        let shows = |name: &str| name.starts_with(SHIM_PROGRAM) || is_type(name);
        program.is_some_and(shows).then_some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        let handler: Handler = toml::from_str(text).unwrap();
        handler
            .check("name")
            .map_or_else(|(key, wrong)| format!("{key}: {wrong}"), |()| String::new())
    }

    #[test]
    fn only_programs_of_the_oci_kind_are_handlers() {
        assert_eq!(wrong("path = \"/usr/sbin/runc\""), "");
        assert_eq!(wrong("path = \"/usr/sbin/runc\"\nkind = \"oci\""), "");
        assert!(wrong("path = \"runc\"").starts_with(".path: "));
        assert!(wrong("").starts_with(".path: "));
        assert!(wrong("path = \"/runc\"\nkind = \"wasm\"").starts_with(".kind: "));
        assert!(wrong("runtime_type = \"oci\"").starts_with(".runtime_type: "));
        for shim in [
            "runtime_type = \"io.containerd.kata.v2\"",
            "kind = \"shim-v2\"\npath = \"/opt/kata/bin/kata-runtime\"",
            "path = \"/usr/local/bin/containerd-shim-kata-v2\"",
            "path = \"io.containerd.runsc.v1\"",
        ] {
            assert!(wrong(shim).contains("shim v2"), "{shim}");
        }
    }

    #[test]
    fn a_name_is_what_kubelets_can_write() {
        let handler = Handler { path: "/runc".into(), ..Handler::default() };
        for name in ["runc", "nvidia-cdi", "a.b_c"] {
            handler.check(name).unwrap();
        }
        for name in ["", "a b", "a/b", &"x".repeat(64)] {
            handler.check(name).unwrap_err();
        }
    }
}
