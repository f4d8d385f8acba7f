//! The name and value pairs of a header block.

/// Headers as the client sent them, a pair for each value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers {
    pairs: Vec<(String, String)>,
}

/// A header block that is not one; an error of its stream only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("more than {0} headers")]
    TooMany(usize),
    #[error("a header block that ends early or late")]
    Length,
    #[error("a header without a name")]
    Unnamed,
    #[error("a header twice")]
    Twice,
    #[error("a header that is no text")]
    Text,
}

impl Headers {
    /// Reads an inflated block of at most `most` values.
    pub(crate) fn parse(mut block: &[u8], most: usize) -> Result<Self, HeaderError> {
        let count = number(&mut block)?;
        if count > most {
            return Err(HeaderError::TooMany(most));
        }
        let mut headers = Self { pairs: Vec::with_capacity(count) };
        for _ in 0..count {
            let (name, value) = (text(&mut block)?, text(&mut block)?);
            headers.add(name, value, most)?;
        }
        if block.is_empty() { Ok(headers) } else { Err(HeaderError::Length) }
    }

    fn add(&mut self, name: &str, value: &str, most: usize) -> Result<(), HeaderError> {
        let name = name.to_ascii_lowercase();
        if name.is_empty() {
            return Err(HeaderError::Unnamed);
        }
        if self.first(&name).is_some() {
            return Err(HeaderError::Twice);
        }
        let values = value.bytes().filter(|byte| *byte == 0).count() + 1;
        if self.pairs.len() + values > most {
            return Err(HeaderError::TooMany(most));
        }
        self.pairs.extend(value.split('\0').map(|value| (name.clone(), value.to_owned())));
        Ok(())
    }

    /// The first value of this header.
    pub(crate) fn first(&self, name: &str) -> Option<&str> {
        self.iter().find(|pair| pair.0 == name).map(|pair| pair.1)
    }

    /// All pairs in the block's order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

fn number(block: &mut &[u8]) -> Result<usize, HeaderError> {
    let (bytes, rest) = block.split_first_chunk().ok_or(HeaderError::Length)?;
    *block = rest;
    usize::try_from(u32::from_be_bytes(*bytes)).map_err(|_| HeaderError::Length)
}

fn text<'a>(block: &mut &'a [u8]) -> Result<&'a str, HeaderError> {
    let length = number(block)?;
    let (bytes, rest) = block.split_at_checked(length).ok_or(HeaderError::Length)?;
    *block = rest;
    std::str::from_utf8(bytes).map_err(|_| HeaderError::Text)
}

#[cfg(test)]
mod tests;
