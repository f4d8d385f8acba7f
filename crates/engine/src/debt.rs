//! Debts, not hostages: what a pod's end could not release is recorded and tried again with backoff, while the pod is gone for
//! everyone else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pod::step::Fault;
use pod::{Claim, Sandbox};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::parts::Parts;
use crate::record::Debt;
use crate::world::World;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(5);

static OWED: AtomicU64 = AtomicU64::new(0);

/// How many debts there are now, for the metrics.
pub fn owed() -> u64 {
    OWED.load(Ordering::Relaxed)
}

/// Takes debts and pays each, however long it takes.
pub(crate) async fn collect<W: World>(
    parts: Arc<Parts<W>>,
    mut debts: mpsc::UnboundedReceiver<Debt>,
) {
    while let Some(debt) = debts.recv().await {
        OWED.fetch_add(1, Ordering::Relaxed);
        let parts = parts.clone();
        tokio::spawn(async move {
            pay(&parts, debt).await;
            OWED.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn pay<W: World>(parts: &Parts<W>, mut debt: Debt) {
    let mut pause = FIRST;
    loop {
        tokio::time::sleep(pause).await;
        match try_once(parts, &debt).await {
            Ok(()) => break,
            Err(fault) => {
                warn!(sandbox = %debt.sandbox.id, "still owed: {}", fault.message);
                debt.error = fault.message;
            }
        }
        pause = (pause * 2).min(LONGEST);
    }
    if let Err(fault) = parts.records.repaid(&debt.sandbox.id).await {
        warn!(sandbox = %debt.sandbox.id, "debt not struck out: {}", fault.message);
    }
    info!(sandbox = %debt.sandbox.id, "debt paid");
}

async fn try_once<W: World>(parts: &Parts<W>, debt: &Debt) -> Result<(), Fault> {
    for claim in &debt.claims {
        release(parts, &debt.sandbox, claim).await?;
    }
    Ok(())
}

async fn release<W: World>(
    parts: &Parts<W>,
    sandbox: &Sandbox,
    claim: &Claim,
) -> Result<(), Fault> {
    match claim {
        Claim::Network { intent } => parts.world.detach(sandbox, intent).await,
        Claim::Files
        | Claim::Cgroup { .. }
        | Claim::Shim
        | Claim::Namespaces { .. }
        | Claim::Shm => parts.world.release(sandbox, claim).await,
    }
}
