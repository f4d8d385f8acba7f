//! What the client said, in our own words. Every field is checked here, and an error names its path.
//!
//! This is the only reader of the wire's optional messages: behind it nothing is absent that must be there.

use std::fmt;

use names::Kind;

mod auth;
mod call;
mod container;
mod ident;
mod mount;
mod resources;
mod sandbox;
mod security;

pub(crate) use auth::credentials;
pub(crate) use call::{command, container_state, ends, forwarded, sandbox_state, seconds};
pub(crate) use container::wire_signal;
pub(crate) use container::{container_config, image};
use ident::{id, ids};
pub(crate) use resources::resources;
pub(crate) use sandbox::{handler, sandbox_config};

/// A field that cannot be obeyed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {wrong}")]
pub(crate) struct Invalid {
    path: String,
    wrong: String,
    kind: Kind,
}

impl Invalid {
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }
}

/// Where a field is: written out only when something is wrong with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At<'a> {
    up: Option<&'a At<'a>>,
    name: &'a str,
    index: Option<usize>,
}

impl<'a> At<'a> {
    pub(crate) fn root(name: &'a str) -> Self {
        Self { up: None, name, index: None }
    }

    pub(crate) fn field(&'a self, name: &'a str) -> Self {
        At { up: Some(self), name, index: None }
    }

    pub(crate) fn item(&self, index: usize) -> Self {
        Self { index: Some(index), ..*self }
    }

    pub(crate) fn invalid(&self, wrong: impl Into<String>) -> Invalid {
        Invalid { path: self.to_string(), wrong: wrong.into(), kind: Kind::Invalid }
    }

    pub(crate) fn unsupported(&self) -> Invalid {
        let wrong = "is not supported".to_owned();
        Invalid { path: self.to_string(), wrong, kind: Kind::Unsupported }
    }

    pub(crate) fn impossible(&self, why: &str) -> Invalid {
        let wrong = format!("not on this node: {why}");
        Invalid { path: self.to_string(), wrong, kind: Kind::Unsupported }
    }

    pub(crate) fn required<T>(&self, value: Option<T>) -> Result<T, Invalid> {
        value.ok_or_else(|| self.invalid("is missing"))
    }

    /// An error unless the field was left alone.
    pub(crate) fn unasked(&self, asked: bool) -> Result<(), Invalid> {
        if asked { Err(self.unsupported()) } else { Ok(()) }
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(up) = self.up {
            write!(f, "{up}.")?;
        }
        f.write_str(self.name)?;
        self.index.map_or(Ok(()), |index| write!(f, "[{index}]"))
    }
}

// === what several messages have ===

fn not_empty(at: &At<'_>, text: &str) -> Result<(), Invalid> {
    if text.is_empty() { Err(at.invalid("is empty")) } else { Ok(()) }
}

/// Text that ends up in a line of a file, in an environment or in a path.
fn plain(at: &At<'_>, text: &str) -> Result<(), Invalid> {
    if text.chars().any(char::is_control) {
        return Err(at.invalid(format!("{text:?} has control characters")));
    }
    Ok(())
}

fn name(at: &At<'_>, text: &str) -> Result<String, Invalid> {
    not_empty(at, text)?;
    plain(at, text)?;
    Ok(text.to_owned())
}

fn absolute(at: &At<'_>, path: &str) -> Result<(), Invalid> {
    without_nul(at, path)?;
    if path.starts_with('/') {
        Ok(())
    } else {
        Err(at.invalid(format!("{path:?} is not an absolute path")))
    }
}

fn absolute_or_empty(at: &At<'_>, path: &str) -> Result<(), Invalid> {
    if path.is_empty() { Ok(()) } else { absolute(at, path) }
}

fn without_nul(at: &At<'_>, text: &str) -> Result<(), Invalid> {
    if text.contains('\0') { Err(at.invalid(format!("{text:?} has a NUL"))) } else { Ok(()) }
}

fn no_way_up(at: &At<'_>, path: &str) -> Result<(), Invalid> {
    plain(at, path)?;
    if path.split('/').any(|part| part == "..") {
        return Err(at.invalid(format!("{path:?} has a \"..\"")));
    }
    Ok(())
}

/// A value that the enum does not have.
fn known<E: TryFrom<i32>>(at: &At<'_>, value: i32) -> Result<E, Invalid> {
    E::try_from(value).map_err(|_| at.invalid(format!("{value} is not a value of this enum")))
}

#[cfg(test)]
mod tests;
