//! What a sandbox asks for, in CNI's words.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{Cidr, PlanError, Request};

/// No burst of its own: Kubernetes has an annotation for the rate only.
const BURST: i64 = i32::MAX as i64;

/// `CNI_ARGS`.
pub(super) fn args(request: &Request) -> String {
    let name = &request.name;
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        name.namespace,
        name.name,
        request.sandbox.as_str(),
        name.uid
    )
}

/// Everything that a plugin can ask for by declaring a capability.
pub(super) fn capabilities(
    request: &Request,
    ranges: &[Cidr],
) -> Result<Map<String, Value>, PlanError> {
    let mut all = Map::new();
    let mut give = |name: &str, value: Value| drop(all.insert(name.to_owned(), value));
    let ports = request.ports.iter().filter(|p| p.host_port != 0).map(|p| {
        let host = p.host_ip.map(|ip| ip.to_string()).unwrap_or_default();
        json!({"hostPort": p.host_port, "containerPort": p.container_port, "protocol": p.protocol.name(), "hostIP": host})
    });
    let ports: Vec<Value> = ports.collect();
    if !ports.is_empty() {
        give("portMappings", Value::Array(ports));
    }
    if let Some(dns) = &request.dns {
        give(
            "dns",
            json!({"servers": dns.servers, "searches": dns.searches, "options": dns.options}),
        );
    }
    if let Some(bandwidth) = bandwidth(&request.annotations)? {
        give("bandwidth", bandwidth);
    }
    if !ranges.is_empty() {
        let ranges: Vec<Value> =
            ranges.iter().map(|c| json!([{"subnet": c.to_string()}])).collect();
        give("ipRanges", Value::Array(ranges));
    }
    if !request.cgroup_parent.is_empty() {
        give("cgroupPath", Value::from(request.cgroup_parent.as_str()));
    }
    if !request.annotations.is_empty() {
        give("io.kubernetes.cri.pod-annotations", json!(request.annotations));
    }
    Ok(all)
}

fn bandwidth(annotations: &BTreeMap<String, String>) -> Result<Option<Value>, PlanError> {
    let rate = |name: &'static str| match annotations.get(name) {
        None => Ok(None),
        Some(text) => match quantity(text) {
            Some(rate) => Ok(Some(rate)),
            None => Err(PlanError::Bandwidth { name, value: text.clone() }),
        },
    };
    let ingress = rate("kubernetes.io/ingress-bandwidth")?;
    let egress = rate("kubernetes.io/egress-bandwidth")?;
    let mut limits = Map::new();
    for (way, rate) in [("ingress", ingress), ("egress", egress)] {
        if let Some(rate) = rate {
            limits.insert(format!("{way}Rate"), Value::from(rate));
            limits.insert(format!("{way}Burst"), Value::from(BURST));
        }
    }
    Ok((!limits.is_empty()).then_some(Value::Object(limits)))
}

/// A Kubernetes quantity of bits per second, within the limits that Kubernetes sets: 1k to 1P.
fn quantity(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    let value = number.parse::<u64>().ok()?.checked_mul(factor)?;
    (1_000..=1_000_000_000_000_000).contains(&value).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bandwidth_is_a_quantity_within_limits() {
        assert_eq!(quantity("10M"), Some(10_000_000));
        assert_eq!(quantity("1Mi"), Some(1_048_576));
        assert_eq!(quantity("1P"), Some(1_000_000_000_000_000));
        for bad in ["", "M", "10X", "-1", "999", "2P", "1e3m", "99999999999999999999"] {
            assert_eq!(quantity(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_annotation_that_is_no_bandwidth_is_an_error_that_names_it() {
        let notes =
            BTreeMap::from([("kubernetes.io/egress-bandwidth".to_owned(), "fast".to_owned())]);
        let error = bandwidth(&notes).unwrap_err();
        assert!(error.to_string().contains("kubernetes.io/egress-bandwidth"), "{error}");
    }
}
