//! What things cost.

use std::time::{Duration, Instant};

use network::{Network, Protocol};

use crate::lab::{Place, config, on_node, port, request, world};

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
                let intent = network.plan(&request(n, &ports)).unwrap();
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
