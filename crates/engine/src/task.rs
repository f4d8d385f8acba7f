//! One task per pod. It owns the pod's state and awaits only its mailbox and the ledger; effects run beside it and come back
//! as events, so that a slow one delays no other container of the pod.

use std::collections::HashMap;
use std::sync::Arc;

use names::ContainerId;
use pod::step::{self, Effect, Event, Fault, Input, Step, Wait};
use pod::{Pod, Refusal};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{Instrument, debug, error};

use crate::effect::{self, Context, Finished};
use crate::error::EngineError;
use crate::message::{Answer, Message};
use crate::parts::Parts;
use crate::record::{self, Pending};
use crate::view::Entry;
use crate::world::{CreateOrder, ShimEvent, ShimEvents, World};

struct Waiting {
    wait: Wait,
    subject: Option<ContainerId>,
    reply: oneshot::Sender<Answer>,
}

/// The state of one pod's task.
pub(crate) struct PodTask<W: World> {
    parts: Arc<Parts<W>>,
    pod: Pod,
    shim: Option<Arc<W::Shim>>,
    mailbox: mpsc::UnboundedReceiver<Box<Message>>,
    own: mpsc::UnboundedSender<Box<Message>>,
    finished: Ends<Finished<W>>,
    shim_events: Ends<ShimEvent>,
    published: watch::Sender<Arc<Pod>>,
    pending: Vec<Pending>,
    orders: HashMap<ContainerId, Box<CreateOrder>>,
    running: Vec<Effect>,
    queued: Vec<Effect>,
    waiting: Vec<Waiting>,
}

/// A pod's mailbox, and the receiving end for its task.
pub(crate) type Mailbox = Ends<Message>;

/// A channel of a pod's own. It carries boxes because it keeps room for 32 of what it carries, for as long as the pod is there.
type Ends<T> = (mpsc::UnboundedSender<Box<T>>, mpsc::UnboundedReceiver<Box<T>>);

impl<W: World> PodTask<W> {
    pub(crate) fn new(parts: Arc<Parts<W>>, pod: Pod, mailbox: Mailbox) -> Self {
        let published = watch::Sender::new(Arc::new(pod.clone()));
        Self {
            parts,
            pod,
            shim: None,
            own: mailbox.0,
            mailbox: mailbox.1,
            finished: mpsc::unbounded_channel(),
            shim_events: mpsc::unbounded_channel(),
            published,
            pending: Vec::new(),
            orders: HashMap::new(),
            running: Vec::new(),
            queued: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// Where a shim that recovery connects tells its events.
    pub(crate) fn shim_events(&self) -> ShimEvents {
        self.shim_events.0.clone()
    }

    /// How the pod stands, from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Pod>> {
        self.published.subscribe()
    }

    pub(crate) fn with_shim(mut self, shim: Arc<W::Shim>) -> Self {
        self.shim = Some(shim);
        self
    }

    /// Effects that recovery wants begun first.
    pub(crate) fn with_effects(mut self, effects: Vec<Effect>) -> Self {
        self.queued.extend(effects);
        self
    }

    /// A new sandbox: write its plan, then begin.
    pub(crate) async fn begin(mut self, reply: oneshot::Sender<Answer>) {
        let outlives =
            self.pod.sandbox.plan.network().is_some_and(|i| self.parts.world.outlives_boot(i));
        let written =
            self.parts.records.begin(&self.pod.sandbox, record::durability(outlives)).await;
        match written {
            Ok(pending) => self.pending.push(pending),
            Err(fault) => {
                self.parts.views.withdraw(&self.pod.sandbox.id);
                self.let_lease_go().await;
                return answer(reply, Err(EngineError::Failed(fault)));
            }
        }
        let first = step::begin(&self.pod);
        self.take(first, Some(reply));
        self.run().await;
    }

    /// The plan leased addresses; a sandbox whose record could not be written has no other claim.
    async fn let_lease_go(&self) {
        let sandbox = &self.pod.sandbox;
        let Some(intent) = sandbox.plan.network() else { return };
        if let Err(fault) = self.parts.world.detach(sandbox, intent).await {
            error!(sandbox = %sandbox.id, "lease kept: {}", fault.message);
        }
    }

    /// Until the sandbox is forgotten.
    pub(crate) async fn run(mut self) {
        self.start_queued();
        loop {
            // Cancel-safe: every arm is a channel's `recv`.
            let forgotten = tokio::select! {
                Some(message) = self.mailbox.recv() => self.message(*message).await,
                Some(finished) = self.finished.1.recv() => self.finished(*finished).await,
                Some(event) = self.shim_events.1.recv() => self.shim_event(*event).await,
                else => return,
            };
            if forgotten {
                return;
            }
        }
    }

    async fn message(&mut self, message: Message) -> bool {
        match message {
            Message::Command { command, order, reply } => {
                if let Some(order) = order {
                    self.orders.insert(order.container.id.clone(), order);
                }
                self.input(Input::Command(command), Some(reply)).await
            }
            Message::Join { reply, .. } if !record::is_creating(&self.pod.sandbox) => {
                answer(reply, Ok(None));
                false
            }
            Message::Join { wait, reply } => {
                self.waiting.push(Waiting { wait, subject: None, reply });
                false
            }
            Message::Event(event) => self.input(Input::Event(event), None).await,
        }
    }

    async fn finished(&mut self, finished: Finished<W>) -> bool {
        self.running.retain(|running| *running != finished.effect);
        if let Some(shim) = finished.shim {
            self.shim = Some(shim);
        }
        let mut forgotten = false;
        for event in finished.events {
            forgotten |= self.input(Input::Event(event), None).await;
        }
        if !forgotten {
            self.start_queued();
        }
        forgotten
    }

    async fn shim_event(&mut self, event: ShimEvent) -> bool {
        let event = match event {
            ShimEvent::Exited(id, how, at) => Event::Exited(id, how, at),
            ShimEvent::Gone => {
                self.shim = None;
                Event::ShimGone
            }
        };
        self.input(Input::Event(event), None).await
    }

    /// Decide, write, publish, tell, begin. Returns whether the sandbox is forgotten.
    async fn input(&mut self, input: Input, reply: Option<oneshot::Sender<Answer>>) -> bool {
        let now = self.parts.world.now();
        let step = match step::step(&self.pod, input, now) {
            Ok(step) => step,
            Err(refusal) => {
                self.refuse(refusal, reply);
                return false;
            }
        };
        match self.parts.records.advance(&self.pod, &step.pod, step.forget).await {
            Ok(pending) => self.pending.extend(pending),
            Err(fault) => {
                error!(sandbox = %self.pod.sandbox.id, "{}", fault.message);
                // A command is refused whole. An event is a fact: it is taken though it could not be written.
                if let Some(reply) = reply {
                    return_fault(reply, fault);
                    return false;
                }
            }
        }
        let forget = step.forget;
        self.take(step, reply);
        forget
    }

    fn refuse(&mut self, refusal: Refusal, reply: Option<oneshot::Sender<Answer>>) {
        debug!(sandbox = %self.pod.sandbox.id, %refusal, "refused");
        if let Some(reply) = reply {
            answer(reply, Err(EngineError::Refused(refusal)));
        }
    }

    fn take(&mut self, step: Step, reply: Option<oneshot::Sender<Answer>>) {
        let Step { pod, forget, effects, told, outcomes, wait, subject } = step;
        self.pod = pod;
        self.publish(forget);
        for told in told {
            debug!(sandbox = %self.pod.sandbox.id.short(), ?told, "event");
            let now = self.parts.world.now();
            self.parts.bell.ring(told, self.published.borrow().clone(), now);
        }
        for outcome in outcomes {
            self.settle(&outcome.of, &outcome.result);
        }
        if let Some(reply) = reply {
            match wait {
                Some(wait) => self.waiting.push(Waiting { wait, subject, reply }),
                None => answer(reply, Ok(subject)),
            }
        }
        for effect in effects {
            self.queue(effect);
        }
        self.start_queued();
    }

    fn publish(&self, forget: bool) {
        let view = Arc::new(self.pod.clone());
        self.published.send_replace(view.clone());
        let id = &self.pod.sandbox.id;
        if forget {
            self.parts.views.withdraw(id);
        } else {
            self.parts.views.publish(id, &Entry { pod: view, mailbox: self.own.clone() });
        }
    }

    fn settle(&mut self, of: &Wait, result: &Result<(), Fault>) {
        let (over, still): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|w| w.wait == *of);
        self.waiting = still;
        for waiting in over {
            let result = result.clone().map(|()| waiting.subject).map_err(EngineError::Failed);
            answer(waiting.reply, result);
        }
    }

    fn queue(&mut self, effect: Effect) {
        if !self.running.contains(&effect) && !self.queued.contains(&effect) {
            self.queued.push(effect);
        }
    }

    /// Two effects on one container do not overlap, except that a signal may come at any time.
    fn start_queued(&mut self) {
        for effect in std::mem::take(&mut self.queued) {
            if self.running.iter().any(|running| effect::excludes(running, &effect)) {
                self.queued.push(effect);
            } else {
                self.start(effect);
            }
        }
    }

    fn start(&mut self, effect: Effect) {
        let context = Context {
            parts: self.parts.clone(),
            pod: self.pod.clone(),
            shim: self.shim.clone(),
            pending: self.pending_for(&effect),
            order: effect::subject(&effect).and_then(|id| self.orders.remove(id)),
            watch: self.published.subscribe(),
            shim_events: self.shim_events.0.clone(),
        };
        self.running.push(effect.clone());
        let out = self.finished.0.clone();
        let span = tracing::debug_span!("effect", sandbox = %self.pod.sandbox.id.short(), ?effect);
        let run = async move {
            let finished = effect::run(effect, context).await;
            // The task is gone only when the sandbox is forgotten.
            drop(out.send(Box::new(finished)));
        };
        tokio::spawn(run.instrument(span));
    }

    fn pending_for(&mut self, effect: &Effect) -> Option<Pending> {
        let id = &self.pod.sandbox.id;
        let wanted = |pending: &Pending| match effect {
            Effect::Establish => pending.is_sandbox(id),
            Effect::CreateContainer(container) => pending.is_container(container),
            _ => false,
        };
        let at = self.pending.iter().position(wanted)?;
        Some(self.pending.swap_remove(at))
    }
}

fn answer(reply: oneshot::Sender<Answer>, result: Answer) {
    // The caller may have gone; the work is recorded all the same.
    drop(reply.send(result));
}

fn return_fault(reply: oneshot::Sender<Answer>, fault: Fault) {
    answer(reply, Err(EngineError::Failed(fault)));
}
