//! Log rotation as the kubelet does it: rename, `ReopenContainerLog`. The call is made here, for the code of its answer.

use std::fs;
use std::path::Path;

use cri_proto::cri::ReopenContainerLogRequest;
use cri_proto::cri::runtime_service_client::RuntimeServiceClient;
use serde_json::Value;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use crate::node::{Node, eventually};

const LINES: usize = 60_000;
/// Some at a time, so that it lasts for a few seconds.
const WRITE: &str = "i=0; while [ $i -lt 60000 ]; do
        seq $((i + 1)) $((i + 200)); i=$((i + 200)); sleep 0.01
    done; sleep 1000";

#[test]
fn a_log_that_is_rotated_while_it_is_written_loses_and_tears_no_line() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, WRITE, &Value::Null);
    let path = node.status(&id)["logPath"].as_str().expect("a path").to_owned();
    let (path, mut rotated) = (Path::new(&path), Vec::new());
    for number in 0..5 {
        eventually("the log grows", || fs::metadata(path).is_ok_and(|log| log.len() > 0));
        let old = path.with_extension(number.to_string());
        fs::rename(path, &old).expect("a new name");
        reopen(&node, &id).expect("the log is opened again");
        assert!(path.exists(), "there is no new log");
        rotated.push(old);
    }
    rotated.push(path.to_owned());
    let all =
        || -> String { rotated.iter().filter_map(|log| fs::read_to_string(log).ok()).collect() };
    eventually("all is written", || all().lines().count() >= LINES);
    let text = all();
    let lines = text.lines().map(|line| line.split_once(" stdout F ").expect("a whole line").1);
    let numbers: Vec<usize> = lines.map(|line| line.parse().expect("a number")).collect();
    assert_eq!(numbers, (1..=LINES).collect::<Vec<_>>());
    node.end_clean();
}

#[test]
fn the_log_of_a_container_that_does_not_run_is_not_opened_again() {
    let node = Node::with_busybox();
    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, "true", &Value::Null);
    node.exit(&id);
    let path = node.status(&id)["logPath"].as_str().expect("a path").to_owned();
    fs::remove_file(&path).expect("a log");
    let refused = reopen(&node, &id).expect_err("it was opened again");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains(&id), "{refused}");
    assert!(!Path::new(&path).exists(), "a file was made");
    assert_eq!(reopen(&node, "none").expect_err("no container").code(), Code::NotFound);
    node.end_clean();
}

fn reopen(node: &Node, id: &str) -> Result<(), Status> {
    let endpoint =
        Endpoint::from_shared(format!("unix://{}", node.path("ferropod.sock").display()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let channel = endpoint.expect("an endpoint").connect().await.expect("a connection");
        let request = ReopenContainerLogRequest { container_id: id.to_owned() };
        RuntimeServiceClient::new(channel).reopen_container_log(request).await.map(drop)
    })
}
