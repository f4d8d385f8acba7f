//! What is told of containers as it happens.

use std::fs::File;

use serde_json::{Deserializer, Value};

use crate::node::{Node, eventually};

#[test]
fn each_event_of_a_container_is_told_once_and_in_order() {
    let node = Node::with_busybox();
    let path = node.path("events");
    let mut client = node.client(&["events"]);
    let mut client =
        client.stdout(File::create(&path).expect("a file")).spawn().expect("crictl runs");
    let told = |id: &str| -> Vec<String> {
        let text = std::fs::read_to_string(&path).expect("the events");
        let events = Deserializer::from_str(&text).into_iter::<Value>().filter_map(Result::ok);
        let its = events.filter(|event| event["containerId"] == id);
        its.map(|event| event["containerEventType"].as_str().expect("a type").to_owned()).collect()
    };
    // The stream has begun when it tells of something.
    eventually("events are told", || {
        let early = node.run_pod(&Value::Null);
        node.crictl(&["rmp", "--force", &early.id]);
        !told(&early.id).is_empty()
    });

    let pod = node.run_pod(&Value::Null);
    let id = node.run(&pod, "while :; do sleep 0.1; done", &Value::Null);
    node.crictl(&["stop", "--timeout", "0", &id]);
    node.crictl(&["rm", &id]);
    node.crictl(&["rmp", "--force", &pod.id]);
    let last = "CONTAINER_DELETED_EVENT".to_owned();
    eventually("the last event is told", || told(&pod.id).contains(&last));
    client.kill().expect("a signal");
    client.wait().expect("its end");
    let life =
        ["CREATED", "STARTED", "STOPPED", "DELETED"].map(|step| format!("CONTAINER_{step}_EVENT"));
    assert_eq!(told(&id), life);
    assert_eq!(told(&pod.id), life);
    node.end_clean();
}
