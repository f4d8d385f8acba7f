//! The names that every room knows: ids, the name of a sandbox, the kinds of error, and the kernel's capabilities.
//!
//! It depends on nothing but serde's derive, because everything depends on it. An id is a type of its own, so that a
//! container's id cannot be handed to something that wants a sandbox's.
//!
//! # Decisions
//! * Ids are 64 lower-case hex digits, as every peer's are; a unique prefix is accepted only at the edge (`src/cri`).
//! * [`Kind`] is what crosses into the edge: one exhaustive `match` there turns it into a gRPC code.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

mod capabilities;

pub use capabilities::CAPABILITIES;

/// What kind of failure an error is, whoever reports it; the edge turns it into a gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// The thing asked for does not exist.
    NotFound,
    /// Something of that name exists and differs.
    AlreadyExists,
    /// The request itself is wrong; the message names the field.
    Invalid,
    /// The request is right, but not in this phase.
    Refused,
    /// A deadline passed.
    TimedOut,
    /// The caller went away.
    Cancelled,
    /// Something this needs does not answer now.
    Unavailable,
    /// A bound was reached: addresses, disk, processes, message size.
    Exhausted,
    /// Not built, or not possible on this node.
    Unsupported,
    /// The registry did not answer: the kubelet looks for the message's prefix.
    RegistryUnavailable,
    /// Anything else: a bug, or a kernel that said no.
    Internal,
}

/// A string that is not 64 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseIdError(String);

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not an id of 64 lower-case hex digits", self.0)
    }
}

impl std::error::Error for ParseIdError {}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The id made of these 32 random bytes.
            pub fn from_random(bytes: [u8; 32]) -> Self {
                Self(hex(&bytes))
            }

            /// The 64 hex digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 13 digits, as people see them.
            pub fn short(&self) -> &str {
                self.0.get(..13).unwrap_or(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseIdError;
            fn try_from(text: String) -> Result<Self, ParseIdError> {
                if is_hex64(&text) { Ok(Self(text)) } else { Err(ParseIdError(text)) }
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.short())
            }
        }
    };
}

id! {
    /// A CRI PodSandbox.
    SandboxId
}
id! {
    /// A CRI container.
    ContainerId
}
id! {
    /// A further process in a container.
    ExecId
}

/// An image: the digest of its configuration, `sha256:` and 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageId(String);

impl ImageId {
    /// The whole id, `sha256:…`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 hex digits without the algorithm.
    pub fn hex(&self) -> &str {
        self.0.strip_prefix("sha256:").unwrap_or(&self.0)
    }
}

impl TryFrom<String> for ImageId {
    type Error = ParseIdError;
    fn try_from(text: String) -> Result<Self, ParseIdError> {
        match text.strip_prefix("sha256:") {
            Some(digits) if is_hex64(digits) => Ok(Self(text)),
            _ => Err(ParseIdError(text)),
        }
    }
}

impl FromStr for ImageId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        Self::try_from(text.to_owned())
    }
}

impl From<ImageId> for String {
    fn from(id: ImageId) -> Self {
        id.0
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What makes a sandbox the same sandbox when it is asked for again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SandboxName {
    /// The pod's namespace in Kubernetes.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// How many sandboxes this pod had before.
    pub attempt: u32,
}

impl fmt::Display for SandboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} (uid {}, attempt {})", self.namespace, self.name, self.uid, self.attempt)
    }
}

/// What makes a container the same container within its sandbox.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerName {
    /// The container's name in the pod.
    pub name: String,
    /// How many containers of that name this pod had before.
    pub attempt: u32,
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (attempt {})", self.name, self.attempt)
    }
}

fn is_hex64(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digit = |n: u8| DIGITS.get(usize::from(n)).copied().unwrap_or('0');
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_64_lower_case_hex_digits_and_nothing_else() {
        let id = SandboxId::from_random([0xa5; 32]);
        assert_eq!(id.as_str(), "a5".repeat(32));
        assert_eq!(id.as_str().parse::<SandboxId>().unwrap(), id);
        for bad in ["", "a5", &"A5".repeat(32), &"g5".repeat(32), &format!("{id}0"), "../../etc"] {
            assert!(bad.parse::<SandboxId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_image_id_carries_its_algorithm() {
        let text = format!("sha256:{}", "0".repeat(64));
        assert_eq!(text.parse::<ImageId>().unwrap().hex(), "0".repeat(64));
        "0".repeat(64).parse::<ImageId>().unwrap_err();
        "md5:00".parse::<ImageId>().unwrap_err();
    }

    #[test]
    fn a_record_with_a_bad_id_is_not_read() {
        serde_json::from_str::<ContainerId>("\"../x\"").unwrap_err();
    }
}
