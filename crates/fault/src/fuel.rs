//! When something goes wrong. Every effect of a daemon's life has a number; at one of them a mishap may wait.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// What goes wrong at an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// The daemon dies, and the effect has not happened.
    DieBefore,
    /// The daemon dies, and the effect has happened.
    DieAfter,
    /// The effect answers an error and has not happened.
    Fail,
    /// The effect answers an error and has happened all the same.
    FailAfter,
    /// All shims are killed just before.
    KillShims,
}

/// One daemon's life.
#[derive(Debug)]
pub struct Fuel {
    at: Option<(usize, Mishap)>,
    spent: Mutex<Spent>,
    dead: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Spent {
    effects: Vec<&'static str>,
    refused: BTreeMap<&'static str, usize>,
}

/// What an effect is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Go,
    Meet(Mishap),
    /// Nothing, for ever: the daemon is dead.
    Never,
}

impl Fuel {
    /// Nothing goes wrong.
    pub fn endless() -> Self {
        Self { at: None, spent: Mutex::default(), dead: watch::Sender::new(false) }
    }

    /// The mishap waits at the effect of that number; the first is 0.
    pub fn until(effect: usize, mishap: Mishap) -> Self {
        Self { at: Some((effect, mishap)), ..Self::endless() }
    }

    /// Effects of this name fail so many times.
    #[must_use]
    pub fn refusing(self, effect: &'static str, times: usize) -> Self {
        self.spent().refused.insert(effect, times);
        self
    }

    /// Returns when the daemon has died.
    pub async fn died(&self) {
        let mut dead = self.dead.subscribe();
        // The sender lives as long as `self`.
        drop(dead.wait_for(|dead| *dead).await);
    }

    /// Whether the daemon has died.
    pub fn is_dead(&self) -> bool {
        *self.dead.borrow()
    }

    /// The effects so far, by name.
    pub fn effects(&self) -> Vec<&'static str> {
        self.spent().effects.clone()
    }

    /// Whether the mishap has happened.
    pub fn is_met(&self) -> bool {
        self.at.is_some_and(|(at, _)| at < self.spent().effects.len())
    }

    pub(crate) fn spend(&self, effect: &'static str) -> Turn {
        if self.is_dead() {
            return Turn::Never;
        }
        let mut spent = self.spent();
        let number = spent.effects.len();
        spent.effects.push(effect);
        if let Some(left) = spent.refused.get_mut(effect).filter(|left| **left > 0) {
            *left -= 1;
            return Turn::Meet(Mishap::Fail);
        }
        match self.at {
            Some((at, mishap)) if at == number => Turn::Meet(mishap),
            _ => Turn::Go,
        }
    }

    pub(crate) fn die(&self) {
        self.dead.send_replace(true);
    }

    fn spent(&self) -> MutexGuard<'_, Spent> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
