//! SCTP by hand: not every kernel has its sockets, so packets are made and read as bytes.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use network::{Network, Protocol};
use socket2::{Domain, Socket, Type};

use crate::lab::{Pod, config, on_node, port, world};

#[test]
fn sctp_is_sent_on_to_the_pod() {
    on_node(|node| async move {
        let world = world(&node);
        let network = Network::start(config()).await.unwrap();
        let pod = Pod::new(&network, 1, &[port(Protocol::Sctp, 9999, 99)]).await;
        let mut raw = pod.place.inside(raw_socket);
        world.inside(|| send_init(Ipv4Addr::new(192, 0, 2, 1), 9999));
        let mut seen = [0; 256];
        let length = raw.read(&mut seen).expect("a packet within two seconds");
        assert!(length > 32);
        assert_eq!(seen[16..20], pod.address(false).parse::<Ipv4Addr>().unwrap().octets());
        assert_eq!(u16::from_be_bytes([seen[22], seen[23]]), 99, "the pod's port");
        let mut packet = seen[20..length].to_vec();
        let sum = packet[8..12].to_vec();
        packet[8..12].fill(0);
        assert_eq!(sum, crc32c(&packet).to_le_bytes(), "the checksum fits the new port");
    });
}

fn raw_socket() -> Socket {
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(socket2::Protocol::from(132))).unwrap();
    raw.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    raw
}

fn crc32c(bytes: &[u8]) -> u32 {
    let shift = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    let step = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| shift(crc));
    !bytes.iter().fold(u32::MAX, step)
}

fn send_init(to: Ipv4Addr, port: u16) {
    let mut packet = Vec::new();
    packet.extend(40_000u16.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend([0; 8]);
    // INIT: tag, window, streams out and in, first number
    packet.extend([1, 0, 0, 20, 0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    raw_socket().send_to(&packet, &SocketAddrV4::new(to, 0).into()).unwrap();
}
