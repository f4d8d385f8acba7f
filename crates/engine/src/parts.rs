//! What every task of the engine shares.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::bell::Bell;
use crate::record::{Debt, Records};
use crate::view::Views;
use crate::world::World;

/// What every task of the engine shares.
pub(crate) struct Parts<W: World> {
    pub(crate) world: Arc<W>,
    pub(crate) records: Records,
    pub(crate) views: Arc<Views>,
    pub(crate) bell: Bell,
    pub(crate) debts: mpsc::UnboundedSender<Debt>,
}
