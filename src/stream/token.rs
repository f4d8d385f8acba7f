//! Tokens: one use, one minute, not to be guessed.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use names::Kind;
use tokio::time::Instant;

use super::Ask;

/// How long a token is good.
const LIFE: Duration = Duration::from_mins(1);
/// How many may be out.
const OUT_MAX: usize = 1000;

/// Where the bytes of a token come from.
pub(crate) type Random = fn() -> io::Result<[u8; 32]>;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error(
        "{OUT_MAX} streaming URLs are out that nobody has come for; they expire within a minute"
    )]
    Full,
    #[error("draw a random token")]
    Random(#[source] io::Error),
}

impl TokenError {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Full => Kind::Exhausted,
            Self::Random(_) => Kind::Internal,
        }
    }
}

/// What was asked, by token.
#[derive(Debug)]
pub(super) struct Tokens {
    random: Random,
    /// A lock, since both sides only look something up.
    asks: Mutex<HashMap<String, (Ask, Instant)>>,
}

impl Tokens {
    pub(super) fn new(random: Random) -> Self {
        Self { random, asks: Mutex::default() }
    }

    /// Keeps what was asked, for whoever brings the token.
    pub(super) fn keep(&self, ask: Ask) -> Result<String, TokenError> {
        let token = URL_SAFE_NO_PAD.encode((self.random)().map_err(TokenError::Random)?);
        let now = Instant::now();
        let mut asks = self.asks();
        asks.retain(|_, (_, end)| now < *end);
        if asks.len() >= OUT_MAX {
            return Err(TokenError::Full);
        }
        asks.insert(token.clone(), (ask, now + LIFE));
        Ok(token)
    }

    /// What the token is for, if it is for this: a token is used up even by one who asks for something else with it.
    pub(super) fn redeem(&self, verb: &str, token: &str) -> Option<Ask> {
        let (ask, end) = self.asks().remove(token)?;
        (Instant::now() < end && ask.verb() == verb).then_some(ask)
    }

    fn asks(&self) -> MutexGuard<'_, HashMap<String, (Ask, Instant)>> {
        self.asks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use names::SandboxId;

    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "as the system's own")]
    fn unique() -> io::Result<[u8; 32]> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        Ok(bytes)
    }

    fn ask() -> Ask {
        Ask::Forward { sandbox: SandboxId::from_random([7; 32]), ports: vec![80] }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_good_once_and_for_a_minute() {
        let tokens = Tokens::new(unique);
        let token = tokens.keep(ask()).unwrap();
        assert_eq!(token.len(), 43);
        assert_eq!(tokens.redeem("portforward", &token), Some(ask()));
        assert_eq!(tokens.redeem("portforward", &token), None);
        let token = tokens.keep(ask()).unwrap();
        tokio::time::advance(LIFE).await;
        assert_eq!(tokens.redeem("portforward", &token), None);
    }

    #[tokio::test]
    async fn a_token_for_something_else_is_used_up() {
        let tokens = Tokens::new(unique);
        let token = tokens.keep(ask()).unwrap();
        assert_eq!(tokens.redeem("exec", &token), None);
        assert_eq!(tokens.redeem("portforward", &token), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_may_be_out_and_expired_ones_make_room() {
        let tokens = Tokens::new(unique);
        for _ in 0..OUT_MAX {
            tokens.keep(ask()).unwrap();
        }
        let error = tokens.keep(ask()).unwrap_err();
        assert_eq!(error.kind(), Kind::Exhausted);
        tokio::time::advance(LIFE).await;
        tokens.keep(ask()).unwrap();
        assert_eq!(tokens.asks().len(), 1);
    }
}
