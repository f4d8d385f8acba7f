//! Results of plugins, in every shape that the versions gave them.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

/// The pod's addresses, in the plugins' order: those on an interface of a sandbox, or on none in particular.
pub(crate) fn addresses(result: &Value) -> Vec<IpAddr> {
    let result = modern(result);
    let interfaces = result.get("interfaces").and_then(Value::as_array);
    let inside = |ip: &&Value| {
        let index =
            ip.get("interface").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let interface = index.and_then(|n| interfaces?.get(n));
        let sandbox =
            |i: &Value| i.get("sandbox").and_then(Value::as_str).is_some_and(|s| !s.is_empty());
        interface.is_none_or(sandbox)
    };
    let ips = result.get("ips").and_then(Value::as_array).into_iter().flatten();
    let address = |ip: &Value| {
        let text = ip.get("address")?.as_str()?;
        text.split('/').next()?.parse().ok()
    };
    ips.filter(inside).filter_map(address).collect()
}

/// A result as the next plugin of that version reads it.
pub(crate) fn for_version(result: &Value, version: &str) -> Value {
    let mut result = if is_old(version) { result.clone() } else { modern(result) };
    if let Some(fields) = result.as_object_mut() {
        fields.insert("cniVersion".to_owned(), Value::from(version));
        // 0.3 and 0.4 say of each address which IP it is of; 1.0 took that away.
        let told = version.starts_with("0.");
        let ips = fields.get_mut("ips").and_then(Value::as_array_mut).into_iter().flatten();
        for ip in ips.filter_map(Value::as_object_mut) {
            let v6 = ip.get("address").and_then(Value::as_str).is_some_and(|a| a.contains(':'));
            if told && !is_old(version) {
                ip.insert("version".to_owned(), Value::from(if v6 { "6" } else { "4" }));
            } else {
                ip.remove("version");
            }
        }
    }
    result
}

/// Up to 0.2 a result had one address of each family.
fn is_old(version: &str) -> bool {
    version.starts_with("0.1") || version.starts_with("0.2") || version.is_empty()
}

fn modern(result: &Value) -> Value {
    let Some(fields) = result.as_object() else { return result.clone() };
    if fields.contains_key("ips") || !(fields.contains_key("ip4") || fields.contains_key("ip6")) {
        return result.clone();
    }
    let mut ips = Vec::new();
    let mut routes = Vec::new();
    for family in ["ip4", "ip6"].into_iter().filter_map(|f| fields.get(f)) {
        let mut ip = Map::new();
        ip.extend(family.get("ip").map(|a| ("address".to_owned(), a.clone())));
        ip.extend(family.get("gateway").map(|g| ("gateway".to_owned(), g.clone())));
        ips.push(Value::Object(ip));
        routes
            .extend(family.get("routes").and_then(Value::as_array).into_iter().flatten().cloned());
    }
    let dns = fields.get("dns").cloned().unwrap_or_else(|| json!({}));
    json!({"cniVersion": "1.0.0", "ips": ips, "routes": routes, "dns": dns})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(result: &Value) -> Vec<String> {
        addresses(result).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_are_read_from_results_of_every_age() {
        let old = json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.5/24", "gateway": "10.1.0.1"},
            "ip6": {"ip": "fd00::5/64"}});
        assert_eq!(texts(&old), ["10.1.0.5", "fd00::5"]);
        let middle =
            json!({"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.1.0.5/24"}]});
        assert_eq!(texts(&middle), ["10.1.0.5"]);
        let new = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/x"}],
            "ips": [{"address": "10.1.0.1/24", "interface": 0}, {"address": "fd00::7/64", "interface": 1},
                    {"address": "10.1.0.7/24", "interface": 1}]});
        assert_eq!(texts(&new), ["fd00::7", "10.1.0.7"]);
        assert!(texts(&json!(null)).is_empty());
    }

    #[test]
    fn a_result_is_turned_into_the_version_of_the_list() {
        let old = json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.5/24"}});
        assert_eq!(for_version(&old, "0.2.0"), old);
        let turned = for_version(&old, "0.4.0");
        assert_eq!(turned["ips"][0], json!({"address": "10.1.0.5/24", "version": "4"}));
        assert_eq!(for_version(&turned, "1.0.0")["ips"][0], json!({"address": "10.1.0.5/24"}));
    }
}
