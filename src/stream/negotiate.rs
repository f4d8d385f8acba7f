//! The protocols by name, and which of them is spoken: the first of the client's that is known here.

use super::Ask;

/// The remote command protocol's versions differ in what is said beside the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    V1,
    V2,
    V3,
    V4,
    V5,
}

impl Version {
    /// The error stream carries a `metav1.Status`; before, it carries text, and nothing when all went well.
    pub(super) fn has_status(self) -> bool {
        self >= Self::V4
    }

    /// A terminal's window sizes come on a stream of their own.
    pub(super) fn resizes(self) -> bool {
        self >= Self::V3
    }

    /// A WebSocket client can end one channel.
    pub(super) fn closes_channels(self) -> bool {
        self >= Self::V5
    }
}

/// How a WebSocket message carries bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    /// A binary message: the channel's number, then the bytes.
    Raw,
    /// A text message: the channel's digit, then the bytes in base64.
    Base64,
}

/// What an upgraded connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    Spdy(Version),
    Channels(Version, Codec),
    /// SPDY in binary messages.
    Tunnel,
}

pub(super) type Known = [(&'static str, Wire)];

/// What SPDY clients may ask for.
pub(super) fn spdy(ask: &Ask) -> &'static Known {
    match ask {
        Ask::Exec { .. } | Ask::Attach { .. } => &[
            ("v4.channel.k8s.io", Wire::Spdy(Version::V4)),
            ("v3.channel.k8s.io", Wire::Spdy(Version::V3)),
            ("v2.channel.k8s.io", Wire::Spdy(Version::V2)),
            ("channel.k8s.io", Wire::Spdy(Version::V1)),
        ],
        Ask::Forward { .. } => &[("portforward.k8s.io", Wire::Spdy(Version::V1))],
    }
}

/// What WebSocket clients may ask for; an empty name is what they mean who ask for none.
pub(super) fn websocket(ask: &Ask) -> &'static Known {
    match ask {
        Ask::Exec { .. } | Ask::Attach { .. } => &[
            ("v5.channel.k8s.io", Wire::Channels(Version::V5, Codec::Raw)),
            ("v4.channel.k8s.io", Wire::Channels(Version::V4, Codec::Raw)),
            ("v4.base64.channel.k8s.io", Wire::Channels(Version::V4, Codec::Base64)),
            ("channel.k8s.io", Wire::Channels(Version::V1, Codec::Raw)),
            ("base64.channel.k8s.io", Wire::Channels(Version::V1, Codec::Base64)),
            ("", Wire::Channels(Version::V1, Codec::Raw)),
        ],
        Ask::Forward { .. } => &[
            ("SPDY/3.1+portforward.k8s.io", Wire::Tunnel),
            ("v4.channel.k8s.io", Wire::Channels(Version::V4, Codec::Raw)),
            ("v4.base64.channel.k8s.io", Wire::Channels(Version::V4, Codec::Base64)),
            ("", Wire::Channels(Version::V4, Codec::Raw)),
        ],
    }
}

/// The first that was offered and is known.
pub(super) fn choose(offered: &[String], known: &'static Known) -> Option<(&'static str, Wire)> {
    let named = |name: &String| known.iter().find(|(known, _)| known == name).copied();
    offered.iter().find_map(named)
}

#[cfg(test)]
mod tests {
    use engine::world::Ends;
    use names::{ContainerId, SandboxId};

    use super::*;

    fn exec() -> Ask {
        let ends = Ends { stdin: false, stdout: true, stderr: false, tty: false };
        Ask::Exec { container: ContainerId::from_random([1; 32]), command: Vec::new(), ends }
    }

    fn chosen(offered: &[&str], known: &'static Known) -> Option<&'static str> {
        let offered: Vec<String> = offered.iter().map(|name| (*name).to_owned()).collect();
        choose(&offered, known).map(|(name, _)| name)
    }

    #[test]
    fn the_first_of_the_clients_list_that_is_known_is_spoken() {
        let known = spdy(&exec());
        let all = ["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io"];
        assert_eq!(chosen(&all, known), Some("v4.channel.k8s.io"));
        let odd = ["channel.k8s.io", "v4.channel.k8s.io"];
        assert_eq!(chosen(&odd, known), Some("channel.k8s.io"));
        assert_eq!(chosen(&["v9.channel.k8s.io"], known), None);
        assert_eq!(chosen(&[], known), None);
    }

    #[test]
    fn each_transport_has_its_own_names() {
        let forward = Ask::Forward { sandbox: SandboxId::from_random([1; 32]), ports: Vec::new() };
        assert_eq!(chosen(&["v5.channel.k8s.io"], websocket(&exec())), Some("v5.channel.k8s.io"));
        assert_eq!(chosen(&[""], websocket(&exec())), Some(""));
        assert_eq!(chosen(&["v5.channel.k8s.io"], spdy(&exec())), None);
        assert_eq!(chosen(&["portforward.k8s.io"], spdy(&forward)), Some("portforward.k8s.io"));
        assert_eq!(chosen(&["portforward.k8s.io"], websocket(&forward)), None);
    }

    #[test]
    fn versions_say_more_as_they_grow() {
        assert!(!Version::V3.has_status() && Version::V4.has_status());
        assert!(!Version::V2.resizes() && Version::V3.resizes());
        assert!(!Version::V4.closes_channels() && Version::V5.closes_channels());
    }
}
