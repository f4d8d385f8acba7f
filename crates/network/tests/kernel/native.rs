//! The embedded network.

use std::time::{Duration, Instant};

use network::{Network, Protocol};

use crate::lab::{self, Place, Pod, config, on_node, port, world};

#[test]
fn pods_reach_each_other_and_the_node_in_both_families() {
    on_node(|node| async move {
        let _world = world(&node);
        let network = Network::start(config()).await.unwrap();
        let one = Pod::new(&network, 1, &[]).await;
        let two = Pod::new(&network, 2, &[]).await;
        two.place.serve_tcp(80);
        node.serve_tcp(81);
        for ipv6 in [false, true] {
            let seen = one.place.ask_tcp(&two.address(ipv6), 80).unwrap();
            assert_eq!(seen, one.address(ipv6), "pods see each other's own addresses");
            let gate = if ipv6 { "2001:db8::1" } else { "192.0.2.1" };
            assert_eq!(one.place.ask_tcp(gate, 81).unwrap(), one.address(ipv6));
            assert_eq!(node.ask_tcp(&two.address(ipv6), 80).unwrap(), gate);
        }
        assert_eq!(two.place.ask_tcp("127.0.0.1", 80).unwrap(), "127.0.0.1", "lo is up");
    });
}

#[test]
fn the_world_sees_the_node_and_chosen_ranges_see_the_pod() {
    on_node(|node| async move {
        let world = world(&node);
        world.serve_tcp(80);
        let network = Network::start(config()).await.unwrap();
        let pod = Pod::new(&network, 1, &[]).await;
        assert_eq!(pod.place.ask_tcp("192.0.2.2", 80).unwrap(), "192.0.2.1");
        assert_eq!(pod.place.ask_tcp("2001:db8::2", 80).unwrap(), "2001:db8::1");

        let mut direct = config();
        direct.native.non_masquerade_cidrs =
            vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        world.sh("ip route add 10.88.0.0/16 via 192.0.2.1; ip route add fd00:fe::/64 via 2001:db8::1");
        let network = Network::start(direct).await.unwrap();
        network.adopt(&pod.attachment.intent);
        assert_eq!(pod.place.ask_tcp("192.0.2.2", 80).unwrap(), pod.address(false));
        assert_eq!(pod.place.ask_tcp("2001:db8::2", 80).unwrap(), pod.address(true));
    });
}

#[test]
fn a_host_port_is_reached_from_everywhere() {
    on_node(|node| async move {
        let world = world(&node);
        let network = Network::start(config()).await.unwrap();
        let ports = [port(Protocol::Tcp, 8080, 80), port(Protocol::Udp, 5353, 53)];
        let pod = Pod::new(&network, 1, &ports).await;
        let other = Pod::new(&network, 2, &[]).await;
        pod.place.serve_tcp(80);
        pod.place.serve_udp(53, "dns");
        let own = [pod.address(false), pod.address(true)];
        let theirs = [other.address(false), other.address(true)];
        // who asks, whom, and whose address the pod sees; none where that is the node's choice
        let cases = [
            ("world", &world, "192.0.2.1", Some("192.0.2.2")),
            ("world", &world, "2001:db8::1", Some("2001:db8::2")),
            ("node", &node, "127.0.0.1", None),
            ("node", &node, "192.0.2.1", None),
            ("node", &node, "2001:db8::1", None),
            ("the pod itself", &pod.place, "192.0.2.1", None),
            ("the pod itself", &pod.place, "2001:db8::1", None),
            ("another pod", &other.place, "192.0.2.1", Some(theirs[0].as_str())),
            ("another pod", &other.place, "2001:db8::1", Some(theirs[1].as_str())),
        ];
        for (who, from, to, sees) in cases {
            let tcp = from.ask_tcp(to, 8080).unwrap_or_else(|e| panic!("tcp {who} {to}: {e}"));
            let udp = from.ask_udp(to, 5353).unwrap_or_else(|e| panic!("udp {who} {to}: {e}"));
            assert_eq!(udp, format!("dns {tcp}"), "{who} {to}");
            match sees {
                Some(sees) => assert_eq!(tcp, sees, "{who} {to}"),
                None => assert!(!own.contains(&tcp) && !tcp.starts_with("127."), "{who} {to}: {tcp}"),
            }
        }
        let released = network.detach(&pod.attachment.intent, None).await.unwrap();
        assert_eq!(released, network::Released::Now);
        assert!(world.ask_tcp("192.0.2.1", 8080).is_err());
    });
}

/// The goal is 1.5 ms on the quiet machine (`--ignored --nocapture` shows the figures); the bound here only catches a
/// step that waits.
#[test]
#[ignore = "a measurement"]
fn an_attach_waits_for_nothing() {
    on_node(|node| async move {
        let _world = world(&node);
        let network = Network::start(config()).await.unwrap();
        let kinds = [
            ("no ports", vec![]),
            ("a tcp port", vec![port(Protocol::Tcp, 8080, 80)]),
            ("a udp port", vec![port(Protocol::Udp, 5353, 53)]),
        ];
        for (what, ports) in kinds {
            let (mut attach, mut detach) = (Vec::new(), Vec::new());
            for n in 0..100u8 {
                let place = Place::new();
                let intent = network.plan(&lab::request(n, &ports)).unwrap();
                let start = Instant::now();
                let attachment = network.attach(&intent, &place.netns()).await.unwrap();
                attach.push(start.elapsed());
                let start = Instant::now();
                network.detach(&attachment.intent, None).await.unwrap();
                detach.push(start.elapsed());
            }
            for (verb, times) in [("attach", &mut attach), ("detach", &mut detach)] {
                times.sort();
                let (median, high) = (times[times.len() / 2], times[times.len() * 9 / 10]);
                println!("{verb} with {what}: median {median:?}, p90 {high:?}");
                assert!(median < Duration::from_millis(60), "{verb}: {median:?}");
            }
        }
    });
}
