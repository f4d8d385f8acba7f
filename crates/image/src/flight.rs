//! Pulls under way: whoever asks for the same image with the same secret waits for the same pull.
//!
//! A pull runs as its own task. A caller who goes away cancels nothing while another waits; with the last one the pull ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use names::ImageId;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::progress::{Counters, Progress};
use crate::pull::{PullError, PullStep, Puller};
use crate::reference::Reference;
use crate::registry::Credentials;

type Outcome = Option<Result<ImageId, PullError>>;
type Key = (Reference, Credentials);

#[derive(Debug, Default)]
pub(crate) struct Flights {
    under_way: Mutex<HashMap<Key, Flight>>,
}

#[derive(Debug)]
struct Flight {
    /// Tells this flight from a later one under the same key.
    counters: Arc<Counters>,
    waiters: usize,
    outcome: watch::Receiver<Outcome>,
    task: Option<AbortHandle>,
}

/// One caller's stake in a flight.
struct Waiter {
    flights: Arc<Flights>,
    key: Key,
    counters: Arc<Counters>,
}

impl Flights {
    pub(crate) async fn join(
        self: &Arc<Self>,
        puller: &Arc<Puller>,
        key: Key,
    ) -> Result<ImageId, PullError> {
        let (_waiter, mut outcome) = self.board(puller, key.clone());
        // Cancel-safe: the flight is a task of its own, and the waiter's end is counted when it is dropped.
        let landed = outcome.wait_for(Option::is_some).await;
        let landed = landed.ok().and_then(|outcome| outcome.clone());
        landed.unwrap_or_else(|| Err(PullError::new(&key.0.to_string(), PullStep::GivenUp)))
    }

    /// Joins the flight under way, or starts it.
    fn board(
        self: &Arc<Self>,
        puller: &Arc<Puller>,
        key: Key,
    ) -> (Waiter, watch::Receiver<Outcome>) {
        let mut under_way = self.lock();
        let flight = under_way.entry(key.clone()).or_insert_with(|| self.start(puller, &key));
        flight.waiters += 1;
        let counters = Arc::clone(&flight.counters);
        let outcome = flight.outcome.clone();
        drop(under_way);
        (Waiter { flights: Arc::clone(self), key, counters }, outcome)
    }

    fn start(self: &Arc<Self>, puller: &Arc<Puller>, key: &Key) -> Flight {
        let counters = Arc::new(Counters::default());
        let (sender, outcome) = watch::channel(None);
        let (flights, puller) = (Arc::clone(self), Arc::clone(puller));
        let (key, counted) = (key.clone(), Arc::clone(&counters));
        let task = tokio::spawn(async move {
            let (reference, credentials) = &key;
            let outcome = puller.pull(reference, credentials, &counted).await;
            let outcome = outcome.map_err(|step| PullError::new(&reference.to_string(), step));
            // Off the map first: who asks from now on gets a new pull, not an old answer.
            flights.land(&key, &counted);
            sender.send_replace(Some(outcome));
        });
        Flight { counters, waiters: 0, outcome, task: Some(task.abort_handle()) }
    }

    fn land(&self, key: &Key, counters: &Arc<Counters>) {
        let mut under_way = self.lock();
        if under_way.get(key).is_some_and(|flight| Arc::ptr_eq(&flight.counters, counters)) {
            under_way.remove(key);
        }
    }

    pub(crate) fn progress(&self) -> Vec<Progress> {
        let under_way = self.lock();
        under_way.iter().map(|((r, _), flight)| flight.counters.read(&r.to_string())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Flight>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut under_way = self.flights.lock();
        let Some(flight) = under_way.get_mut(&self.key) else { return };
        if !Arc::ptr_eq(&flight.counters, &self.counters) {
            return;
        }
        flight.waiters -= 1;
        if flight.waiters == 0 {
            if let Some(task) = flight.task.take() {
                task.abort();
            }
            under_way.remove(&self.key);
        }
    }
}
