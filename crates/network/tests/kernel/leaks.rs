//! Nothing is left behind, and what is planted is found.

use network::{Network, Protocol, Released};

use crate::lab::{
    self, Place, Pod, becomes, config, eventually, exchange, on_node, port, request, sh, world,
};

/// Links, routes, neighbours and rules of the node, without what differs by nature.
fn traces() -> String {
    let strip = "sed -E 's/^[0-9]+: //; s/ (expires|metric) [0-9a-z]+//g'";
    let listings = [
        format!("ip -o link | {strip}"),
        format!("ip -4 route show table all | {strip}"),
        format!("ip -6 route show table all | grep -v ' fe80::\\|ff00::' | {strip}"),
        "ip neigh show nud permanent | grep -v ' dev up0 ' || true".to_owned(),
        "nft list ruleset".to_owned(),
    ];
    listings.iter().map(|l| sh(l)).collect::<Vec<_>>().join("---\n")
}

#[test]
fn a_pod_leaves_links_routes_and_rules_as_they_were() {
    on_node(|node| async move {
        let _world = world(&node);
        let network = Network::start(config()).await.unwrap();
        let before = traces();
        for n in 1..=5 {
            let ports = [
                port(Protocol::Tcp, 8080, 80),
                port(Protocol::Udp, 5353, 53),
                port(Protocol::Sctp, 9, 9),
            ];
            let pod = Pod::new(&network, n, &ports).await;
            assert_ne!(traces(), before);
            let intent = &pod.attachment.intent;
            assert_eq!(network.detach(intent, None).await.unwrap(), Released::Now);
            assert_eq!(network.detach(intent, None).await.unwrap(), Released::AlreadyGone);
            drop(pod);
            becomes(&before, traces);
        }
    });
}

#[test]
fn a_promise_that_was_never_kept_is_let_go_too() {
    on_node(|_| async move {
        let network = Network::start(config()).await.unwrap();
        let intent = network.plan(&request(1, &[port(Protocol::Tcp, 80, 80)])).unwrap();
        network.plan(&request(2, &[port(Protocol::Tcp, 80, 80)])).unwrap_err();
        assert_eq!(network.detach(&intent, None).await.unwrap(), Released::AlreadyGone);
        network.plan(&request(2, &[port(Protocol::Tcp, 80, 80)])).unwrap();
    });
}

#[test]
fn an_attach_that_is_repeated_after_half_of_it_succeeds() {
    on_node(|_| async move {
        let network = Network::start(config()).await.unwrap();
        let intent = network.plan(&request(1, &[port(Protocol::Tcp, 80, 80)])).unwrap();
        let lost = Place::new();
        network.attach(&intent, &lost.netns()).await.unwrap();
        let place = Place::new();
        place.serve_tcp(80);
        network.attach(&intent, &place.netns()).await.unwrap();
        let place_two = Place::new();
        place_two.sh("ip link set lo up");
        assert!(place.sh("ip -o link").contains("eth0"));
        assert!(!lost.sh("ip -o link").contains("eth0"));
    });
}

#[test]
fn a_late_release_does_not_touch_the_port_of_the_next_pod() {
    on_node(|node| async move {
        let world = world(&node);
        let network = Network::start(config()).await.unwrap();
        let ports = [port(Protocol::Tcp, 8080, 80)];
        let first = Pod::new(&network, 1, &ports).await;
        network.detach(&first.attachment.intent, None).await.unwrap();
        let second = Pod::new(&network, 2, &ports).await;
        second.place.serve_tcp(80);
        network.detach(&first.attachment.intent, None).await.unwrap();
        assert_eq!(world.ask_tcp("192.0.2.1", 8080).unwrap(), "192.0.2.2");
    });
}

#[test]
fn a_port_is_refused_to_a_second_pod_and_free_after_the_first() {
    on_node(|_| async move {
        let network = Network::start(config()).await.unwrap();
        let ports = [port(Protocol::Sctp, 9999, 99)];
        let first = Pod::new(&network, 1, &ports).await;
        let refusal = network.plan(&request(2, &ports)).unwrap_err();
        assert_eq!(refusal.kind(), names::Kind::Refused);
        let text = refusal.to_string();
        assert!(
            text.contains("sctp port 9999") && text.contains(lab::sandbox(1).as_str()),
            "{text}"
        );
        network.detach(&first.attachment.intent, None).await.unwrap();
        let second = Pod::new(&network, 2, &ports).await;
        assert!(
            sh("nft list ruleset")
                .contains(&format!("sctp . 9999 : {} . 99", second.address(false)))
        );
    });
}

#[test]
fn a_udp_client_that_never_pauses_reaches_the_pod_that_has_the_port_now() {
    on_node(|node| async move {
        let world = world(&node);
        let network = Network::start(config()).await.unwrap();
        let ports = [port(Protocol::Udp, 5353, 53)];
        let client = world.udp_client("0.0.0.0");
        // Before any pod has it, the node itself answers and the kernel remembers that.
        node.serve_udp(5353, "node");
        assert_eq!(exchange(&client, "192.0.2.1", 5353).unwrap(), "node 192.0.2.2");
        for (n, name) in [(1, "one"), (2, "two")] {
            let pod = Pod::new(&network, n, &ports).await;
            pod.place.serve_udp(53, name);
            let wanted = format!("{name} 192.0.2.2");
            eventually("the pod answers", || {
                exchange(&client, "192.0.2.1", 5353).is_ok_and(|answer| answer == wanted)
            });
            network.detach(&pod.attachment.intent, None).await.unwrap();
            let flows = sh("conntrack -L -p udp --orig-port-dst 5353 2>/dev/null");
            assert_eq!(flows, "", "no flow is left");
        }
        assert_eq!(exchange(&client, "192.0.2.1", 5353).unwrap(), "node 192.0.2.2");
    });
}

#[test]
fn a_sweep_finds_one_planted_leak_of_each_kind_and_nothing_else() {
    on_node(|node| async move {
        let world = world(&node);
        let before_crash = Network::start(config()).await.unwrap();
        let kept = Pod::new(&before_crash, 1, &[port(Protocol::Tcp, 8080, 80)]).await;
        kept.place.serve_tcp(80);
        let _lost = Pod::new(&before_crash, 2, &[port(Protocol::Udp, 53, 53)]).await;
        sh("ip route add unreachable 10.77.0.0/16 proto 102
            ip link add fpforeign type veth peer name fppeer
            nft add element inet ferropod hostport4 '{ tcp . 7 : 10.88.9.9 . 7 }'
            nft delete element inet ferropod hostport6 '{ tcp . 8080 }'");

        let network = Network::start(config()).await.unwrap();
        network.adopt(&kept.attachment.intent);
        let swept = network.sweep(std::slice::from_ref(&kept.attachment.intent)).await;
        assert_eq!(swept.links, [format!("fp{}", lab::sandbox(2).short())]);
        assert_eq!(swept.routes, ["10.77.0.0/16"]);
        // of the lost pod: its port and its way to itself, in two families each
        assert_eq!((swept.elements, swept.restored), (5, 1));
        assert_eq!(world.ask_tcp("2001:db8::1", 8080).unwrap(), "2001:db8::2");
        assert!(sh("ip -o link").contains("fpforeign"), "a stranger's link stays");
        let again = network.sweep(&[]).await;
        assert_eq!(again, network::Swept::default(), "what this process leased is kept");
    });
}

#[test]
fn rules_that_someone_flushed_are_made_again() {
    on_node(|node| async move {
        let world = world(&node);
        let network = Network::start(config()).await.unwrap();
        let first = Pod::new(&network, 1, &[port(Protocol::Tcp, 8080, 80)]).await;
        first.place.serve_tcp(80);
        sh("nft flush ruleset");
        world.ask_tcp("192.0.2.1", 8080).unwrap_err();
        let second = Pod::new(&network, 2, &[port(Protocol::Tcp, 8081, 80)]).await;
        second.place.serve_tcp(80);
        for port in [8080, 8081] {
            assert_eq!(world.ask_tcp("192.0.2.1", port).unwrap(), "192.0.2.2");
        }
        sh("nft flush ruleset");
        eventually("a look at the status brings them back", || {
            assert!(network.status().ready);
            sh("nft list ruleset").contains("8081")
        });
    });
}
