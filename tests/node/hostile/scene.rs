//! A node, a pod in which a hostile container is run, and the canary beside them.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::canary::Canary;
use crate::forge::{Forged, Layer};
use crate::machine;
use crate::node::{Node, text, tool};

/// Stays until it is stopped.
pub(super) const SLEEP: &str = "while :; do sleep 1000; done";

pub(super) struct Scene {
    pub(super) node: Node,
    pub(super) canary: Canary,
    pod: String,
    request: PathBuf,
}

// === impl Scene ===

impl Scene {
    pub(super) fn new() -> Self {
        Self::with_pod(&Value::Null)
    }

    pub(super) fn with_pod(extra: &Value) -> Self {
        let node = Node::with_busybox();
        let canary = Canary::planted(&node);
        let request = node.pod_request(extra);
        let pod = node.crictl(&["runp", text(&request)]);
        Self { node, canary, pod, request }
    }

    pub(super) fn pod(&self) -> &str {
        &self.pod
    }

    /// What made the pod.
    pub(super) fn request(&self) -> &str {
        text(&self.request)
    }

    /// Creates and starts a container: its id, or why not.
    pub(super) fn attempt(&self, script: &str, extra: &Value) -> Result<String, String> {
        let request = self.node.container_request(script, extra);
        let create = ["create", &self.pod, text(&request), text(&self.request)];
        let id = self.asked(&create)?;
        self.asked(&["start", &id]).map(|_| id)
    }

    pub(super) fn run(&self, script: &str, extra: &Value) -> String {
        self.attempt(script, extra).expect("a container")
    }

    /// What was said when the creation was refused, as it must be.
    pub(super) fn refused(&self, extra: &Value) -> String {
        let request = self.node.container_request("echo it ran; id", extra);
        self.node.refused(&["create", &self.pod, text(&request), text(&self.request)])
    }

    /// All that a container printed until it ended.
    pub(super) fn output(&self, script: &str, extra: &Value) -> String {
        let id = self.run(script, extra);
        self.node.exit(&id);
        self.node.crictl(&["logs", &id])
    }

    pub(super) fn exec(&self, id: &str, script: &str) -> String {
        self.node.crictl(&["exec", "-s", id, "sh", "-c", script])
    }

    /// The one container that runs a command of the image: with what the image says, and nothing of the client.
    pub(super) fn image(&self, name: &str, layer: Layer) -> Value {
        named(&Forged::with_shell().layer(layer).import(&self.node, name))
    }

    fn asked(&self, args: &[&str]) -> Result<String, String> {
        let output = self.node.try_crictl(args);
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Nothing of the host was changed, and nothing is left.
    pub(super) fn end(self) {
        self.canary.sings();
        let pod = self.pod.clone();
        self.node.end_clean();
        assert_eq!(machine::pin(&pod), None);
    }
}

/// The part of a request that names an image.
pub(super) fn named(image: &str) -> Value {
    json!({"image": {"image": image}})
}

/// The second into the first.
pub(super) fn with(mut one: Value, other: &Value) -> Value {
    for (key, value) in other.as_object().expect("an object") {
        one[key] = value.clone();
    }
    one
}

/// The part of a request that says how the container is confined.
pub(super) fn secured(context: Value) -> Value {
    let mut context = context;
    context["namespace_options"] = json!({"pid": 1});
    json!({"linux": {"security_context": context}})
}

/// As a kubelet sends them.
pub(super) fn as_a_kubelet() -> Value {
    secured(json!({
        "masked_paths": ["/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys",
            "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
            "/sys/firmware", "/sys/devices/virtual/powercap"],
        "readonly_paths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        "seccomp": {"profile_type": 0},
    }))
}

/// A program from the C source, static.
pub(super) fn compiled(node: &Node, source: &str, flags: &[&str]) -> Vec<u8> {
    let (code, program) = (node.path("program.c"), node.path("program"));
    crate::node::write(&code, source);
    let mut command = tool("gcc");
    command.args(flags).args(["-Os", "-s", "-Wall", "-Werror", "-o"]).arg(&program).arg(&code);
    let done = command.output().expect("gcc runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    std::fs::read(program).expect("the program")
}
