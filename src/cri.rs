//! The CRI's two services, and the command line's. Each call is parse, one call on the engine or on the images, reply.
//!
//! | module | holds |
//! |---|---|
//! | [`parse`] | the wire's words as our own; every field checked, errors with its path |
//! | [`status`] | kinds of error as gRPC codes |

pub(crate) mod parse;
pub(crate) mod status;
