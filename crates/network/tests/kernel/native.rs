//! The embedded network.

use std::time::Duration;

use network::{Network, PortMapping, Protocol};

use crate::lab::{Pod, config, on_node, port, request, world};

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
        world.sh(
            "ip route add 10.88.0.0/16 via 192.0.2.1; ip route add fd00:fe::/64 via 2001:db8::1",
        );
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
                None => {
                    assert!(!own.contains(&tcp) && !tcp.starts_with("127."), "{who} {to}: {tcp}");
                }
            }
        }
        let released = network.detach(&pod.attachment.intent, None).await.unwrap();
        assert_eq!(released, network::Released::Now);
        world.ask_tcp("192.0.2.1", 8080).unwrap_err();
    });
}

#[test]
fn a_bridge_that_calls_netfilter_or_not_makes_no_difference() {
    for call in [0, 1] {
        on_node(move |node| async move {
            let _world = world(&node);
            node.sh(&format!(
                "ip link add br0 type bridge; ip link set br0 up
                 for f in iptables ip6tables; do
                   test ! -e /proc/sys/net/bridge/bridge-nf-call-$f || echo {call} > /proc/sys/net/bridge/bridge-nf-call-$f
                 done"
            ));
            let network = Network::start(config()).await.unwrap();
            let one = Pod::new(&network, 1, &[port(Protocol::Tcp, 8080, 80)]).await;
            let two = Pod::new(&network, 2, &[]).await;
            one.place.serve_tcp(80);
            // A service as kube-proxy makes it: its address leads to a pod, for neighbours too.
            node.sh(&format!(
                "nft add table ip svc
                 nft add chain ip svc pre '{{ type nat hook prerouting priority dstnat; }}'
                 nft add rule ip svc pre ip daddr 10.96.0.1 tcp dport 80 dnat to {}:80",
                one.address(false)
            ));
            assert_eq!(two.place.ask_tcp("192.0.2.1", 8080).unwrap(), two.address(false));
            assert_eq!(two.place.ask_tcp("10.96.0.1", 80).unwrap(), two.address(false));
            assert_eq!(two.place.ask_tcp(&one.address(false), 80).unwrap(), two.address(false));
        });
    }
}

#[test]
fn pods_of_two_nodes_with_routes_reach_each_other_by_address() {
    on_node(|one| async move {
        let two = world(&one);
        one.sh("ip route add 10.12.0.0/24 via 192.0.2.2; ip route add fd12::/64 via 2001:db8::2");
        two.sh("ip route add 10.11.0.0/24 via 192.0.2.1; ip route add fd11::/64 via 2001:db8::1");
        let node = |n: u8| {
            let mut config = config();
            let ranges = [format!("10.1{n}.0.0/24"), format!("fd1{n}::/64")];
            config.native.pod_cidrs = ranges.iter().map(|r| r.parse().unwrap()).collect();
            config.native.non_masquerade_cidrs =
                vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
            config
        };
        let here = Network::start(node(1)).await.unwrap();
        let mine = Pod::new(&here, 1, &[]).await;
        mine.place.serve_tcp(80);
        let mine = (mine.place.clone(), [mine.address(false), mine.address(true)]);
        let there = two.clone();
        let work = move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let network = Network::start(node(2)).await.unwrap();
                let theirs = Pod::new(&network, 1, &[]).await;
                theirs.place.serve_tcp(80);
                for ipv6 in [false, true] {
                    let (a, b) = (&mine.1[usize::from(ipv6)], theirs.address(ipv6));
                    assert_eq!(theirs.place.ask_tcp(a, 80).unwrap(), b);
                    assert_eq!(&mine.0.ask_tcp(&b, 80).unwrap(), a);
                }
                // An address that no pod has is answered at once and does not go to and fro.
                let unused = theirs.place.ask_tcp("10.11.0.99", 80).unwrap_err();
                assert_eq!(unused.kind(), std::io::ErrorKind::HostUnreachable, "{unused}");
            });
        };
        there.inside(work);
    });
}

#[test]
fn the_loopback_of_the_node_is_not_reached_from_a_wire() {
    on_node(|node| async move {
        let network = Network::start(config()).await.unwrap();
        let pod = Pod::new(&network, 1, &[]).await;
        let ear = node.udp_client("127.0.0.1");
        ear.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let mouth = pod.place.udp_client("0.0.0.0");
        let heard = || {
            mouth.send_to(b"?", ear.local_addr().unwrap()).unwrap();
            ear.recv(&mut [0; 8])
        };
        // A pod that lies: 127.0.0.1 is not its own but behind the node.
        pod.place.sh(
            "ip route del local 127.0.0.1 table local; ip route del local 127.0.0.0/8 table local
             sysctl -qw net.ipv4.conf.all.route_localnet=1
             ip route add 127.0.0.1 via 169.254.1.1 dev eth0 onlink",
        );
        node.sh("nft flush chain inet ferropod guard");
        heard().expect("without the guard the lie works");
        let _renewed = Network::start(config()).await.unwrap();
        heard().unwrap_err();
    });
}

#[test]
fn a_host_port_on_one_address_is_on_that_address_only() {
    on_node(|node| async move {
        let world = world(&node);
        node.sh("ip addr add 192.0.2.9/24 dev up0");
        let network = Network::start(config()).await.unwrap();
        let at = |ip: &str, to| PortMapping {
            host_ip: Some(ip.parse().unwrap()),
            ..port(Protocol::Tcp, 8080, to)
        };
        let pod = Pod::new(&network, 1, &[at("192.0.2.9", 80), at("127.0.0.1", 81)]).await;
        pod.place.serve_tcp(80);
        pod.place.serve_tcp(81);
        world.ask_tcp("192.0.2.9", 8080).unwrap();
        world.ask_tcp("192.0.2.1", 8080).unwrap_err();
        node.ask_tcp("127.0.0.1", 8080).unwrap();
        let refused = network.plan(&request(2, &[port(Protocol::Tcp, 8080, 80)])).unwrap_err();
        assert_eq!(refused.kind(), names::Kind::Refused);
    });
}
