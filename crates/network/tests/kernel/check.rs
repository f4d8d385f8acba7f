//! The report about a node.

use network::{Config, Finding, Network, Verdict, check};

use crate::lab::{config, on_node, sh, world};

fn of(what: &str, config: &Config) -> Finding {
    check(config).into_iter().find(|f| f.what == what).unwrap()
}

#[test]
fn a_forward_policy_that_drops_is_found_whoever_set_it() {
    for (tool, set) in [
        (
            "nftables",
            "nft add table ip filter; nft add chain ip filter FORWARD '{ type filter hook forward priority 0; policy drop; }'",
        ),
        ("iptables-legacy", "iptables-legacy -P FORWARD DROP"),
        (
            "ip6tables-legacy",
            "ip6tables-legacy -A FORWARD -i lo -j ACCEPT; ip6tables-legacy -P FORWARD DROP",
        ),
    ] {
        on_node(move |_| async move {
            assert_eq!(of("forward policy", &config()).verdict, Verdict::Good);
            sh(set);
            let found = of("forward policy", &config());
            assert_eq!(found.verdict, Verdict::Warning);
            assert!(found.detail.starts_with(tool), "{found:?}");
            assert!(found.remedy.contains("fp+"), "{found:?}");
        });
    }
}

#[test]
fn a_node_with_the_embedded_network_is_well() {
    on_node(|node| async move {
        let _world = world(&node);
        let network = Network::start(config()).await.unwrap();
        assert!(network.status().ready);
        let findings = check(&config());
        assert!(findings.iter().all(|f| f.verdict == Verdict::Good), "{findings:?}");
        assert_eq!(of("ip_forward", &config()).detail, "on");
    });
}
