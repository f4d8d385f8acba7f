//! Ids and user ids.

use std::str::FromStr;

use cri_proto::cri::Int64Value;

use super::{At, Invalid};

/// A whole id of 64 digits.
pub(super) fn id<T: FromStr>(at: &At<'_>, text: &str) -> Result<T, Invalid> {
    text.parse()
        .map_err(|_| at.invalid(format!("{text:?} is not an id of 64 lower-case hex digits")))
}

/// A number that the kernel takes for a user or a group: `u32::MAX` means none there.
fn number(at: &At<'_>, value: i64) -> Result<u32, Invalid> {
    match u32::try_from(value) {
        Ok(number) if number != u32::MAX => Ok(number),
        _ => Err(at.invalid(format!("{value} is not an id of a user or group"))),
    }
}

pub(super) fn optional(at: &At<'_>, value: Option<&Int64Value>) -> Result<Option<u32>, Invalid> {
    value.map(|value| number(at, value.value)).transpose()
}

pub(super) fn ids(at: &At<'_>, values: &[i64]) -> Result<Vec<u32>, Invalid> {
    values.iter().enumerate().map(|(index, value)| number(&at.item(index), *value)).collect()
}
