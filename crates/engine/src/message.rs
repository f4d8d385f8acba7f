//! What comes to a pod's mailbox, and what goes back.

use names::ContainerId;
use pod::Command;
use pod::step::{Event, Wait};
use tokio::sync::oneshot;

use crate::error::EngineError;
use crate::world::CreateOrder;

/// What a command's caller gets: the end of what it asked for, and the container it turned out to be about.
pub(crate) type Answer = Result<Option<ContainerId>, EngineError>;

/// What comes to a pod's mailbox. It knows nothing of the world's types, so that the index can hold it.
#[derive(Debug)]
pub(crate) enum Message {
    /// From a client.
    Command { command: Command, order: Option<Box<CreateOrder>>, reply: oneshot::Sender<Answer> },
    /// A caller joins a wait that is under way.
    Join { wait: Wait, reply: oneshot::Sender<Answer> },
    /// From recovery, or an effect that tells before it ends.
    Event(Event),
}
