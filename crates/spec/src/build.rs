//! Being written.
use crate::{BuildError, Built, Request};

/// Settles the specification.
///
/// # Errors
/// A field that cannot be carried out, by its path.
pub fn build(request: &Request<'_>) -> Result<Built, BuildError> {
    Err(BuildError::NoCommand(request.container.image.image.clone()))
}
