//! Volumes of a container: images, and what a client may ask of a mount.

use cri_proto::cri;
use serde_json::{Value, json};

use crate::channels::call;
use crate::forge::{Forged, Layer};
use crate::node::{BUSYBOX, Node, Pod};
use crate::users::user_namespace;

mod artifacts;
mod host;
mod images;

const SLEEP: &str = "while :; do sleep 0.1; done";
const AT: &str = "/v";

/// What a script says in a running container.
fn says(node: &Node, id: &str, script: &str) -> String {
    node.crictl(&["exec", "-s", id, "sh", "-c", script])
}

/// The options of a mount, as a container sees them.
fn options(node: &Node, id: &str, at: &str) -> Vec<String> {
    let table = says(node, id, "cat /proc/self/mountinfo");
    let mut lines = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let line = lines.find(|fields| fields[4] == at);
    let line = line.unwrap_or_else(|| panic!("no mount at {at} in:\n{table}"));
    line[5].split(',').map(str::to_owned).collect()
}

fn has(options: &[String], wanted: &[&str]) -> bool {
    wanted.iter().all(|wanted| options.iter().any(|option| option == wanted))
}

/// A container made by a client that knows more than crictl.
fn create(node: &Node, pod: &Pod, mount: cri::Mount) -> Result<String, tonic::Status> {
    create_in(node, pod, mount, None)
}

fn create_in(
    node: &Node,
    pod: &Pod,
    mount: cri::Mount,
    userns_options: Option<cri::UserNamespace>,
) -> Result<String, tonic::Status> {
    let options = cri::NamespaceOption { pid: 1, userns_options, ..Default::default() };
    let security = cri::LinuxContainerSecurityContext {
        namespace_options: Some(options),
        ..Default::default()
    };
    let linux = cri::LinuxContainerConfig { security_context: Some(security), resources: None };
    let config = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: "by-hand".to_owned(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: BUSYBOX.to_owned(), ..Default::default() }),
        command: ["sh", "-c", SLEEP].map(str::to_owned).to_vec(),
        mounts: vec![mount],
        linux: Some(linux),
        ..Default::default()
    };
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: pod.id.clone(),
        config: Some(config),
        sandbox_config: None,
    };
    let answer = call(node, async |mut runtime| runtime.create_container(request).await);
    answer.map(|answer| answer.into_inner().container_id)
}

/// The mounts of a container's status, with every field.
fn mounts(node: &Node, container: &str) -> Vec<cri::Mount> {
    let request =
        cri::ContainerStatusRequest { container_id: container.to_owned(), verbose: false };
    let answer = call(node, async |mut runtime| runtime.container_status(request).await);
    answer.expect("a status").into_inner().status.expect("a status").mounts
}

/// A request with an image as a volume.
fn image(name: &str, extra: &Value) -> Value {
    let mut mount = json!({
        "container_path": AT, "host_path": "", "readonly": true, "image": {"image": name}
    });
    for (key, value) in extra.as_object().into_iter().flatten() {
        mount[key] = value.clone();
    }
    json!({"mounts": [mount]})
}
