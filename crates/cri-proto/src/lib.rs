//! The gRPC interfaces as Rust: generated from `proto/` at build time, nothing written by hand.
//!
//! * [`cri`]: the Kubernetes Container Runtime Interface, `proto/cri/api.proto`;
//! * [`cli`]: what `ferropod image …` asks of the daemon, `proto/cli/v1.proto`;
//! * [`DESCRIPTORS`]: both as data, for the check against the Go module.
//!
//! It depends on prost and tonic, and only `src/` may depend on it: past `src/cri` nobody knows the wire's types.
//!
//! # Decisions
//! * Maps are `HashMap`s, as prost makes them: order on the wire means nothing to a client.
//! * The comments stay in the proto files, which are made to be read.

macro_rules! generated {
    ($(#[$doc:meta])* $name:ident from $package:literal) => {
        $(#[$doc])*
        #[expect(
            missing_docs,
            unused_qualifications,
            clippy::allow_attributes,
            clippy::allow_attributes_without_reason,
            clippy::disallowed_methods,
            clippy::pedantic,
            reason = "generated code, which the generator's authors lint"
        )]
        pub mod $name {
            tonic::include_proto!($package);
        }
    };
}

generated! {
    /// The Container Runtime Interface, version 1.
    cri from "runtime.v1"
}
generated! {
    /// The daemon's own calls, for its command line.
    cli from "ferropod.cli.v1"
}

/// The compiled protos: an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
