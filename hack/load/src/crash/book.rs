//! What the runtime has promised, and what it was asked and has not answered yet.

use std::collections::{BTreeMap, BTreeSet};

/// Every pod of the run that is not known to be gone.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) pods: BTreeMap<String, Pod>,
    /// Ids whose removal was acknowledged.
    pub(super) gone: BTreeSet<String>,
}

/// A pod by its own account.
#[derive(Debug, Default)]
pub(super) struct Pod {
    pub(super) id: Option<String>,
    pub(super) ip: Option<String>,
    pub(super) step: PodStep,
    pub(super) shim: Shim,
    /// Something was wrong with it and was told: nothing more is expected of it.
    pub(super) condemned: bool,
    pub(super) containers: BTreeMap<String, Container>,
}

/// What became of the pod's shim by our hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Shim {
    #[default]
    Spared,
    Killed,
}

/// How far a pod has come; `…Asked` is a call that nobody answered yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum PodStep {
    #[default]
    RunAsked,
    Ready,
    StopAsked,
    Stopped,
    RemoveAsked,
}

/// A container by its own account.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) id: Option<String>,
    pub(super) step: ContainerStep,
    pub(super) behaviour: Behaviour,
}

/// How far a container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ContainerStep {
    CreateAsked,
    Created,
    StartAsked,
    Started,
    StopAsked,
    Stopped,
    RemoveAsked,
}

/// What a container's process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// Waits, and exits with 0 on TERM.
    Waits,
    /// Waits, and exits with this on TERM.
    Traps(u8),
    /// Exits with this by itself.
    Exits(u8),
}

/// One call about one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    RunPod,
    Address,
    Create(String, Behaviour),
    Start(String),
    Exec(String),
    Stop(String),
    Remove(String),
    StopPod,
    RemovePod,
}

impl Ask {
    pub(super) fn is_teardown(&self) -> bool {
        matches!(self, Self::Stop(_) | Self::Remove(_) | Self::StopPod | Self::RemovePod)
    }
}

// === impl Behaviour ===

impl Behaviour {
    pub(super) fn command(self, waits: &str) -> Vec<String> {
        let shell = |script: String| vec!["sh".to_owned(), "-c".to_owned(), script];
        match self {
            Self::Waits => vec![waits.to_owned()],
            Self::Traps(code) => {
                shell(format!("trap 'exit {code}' TERM; while :; do sleep 1000 & wait $!; done"))
            }
            Self::Exits(code) => shell(format!("exit {code}")),
        }
    }

    /// The code when it ends by itself or by `StopContainer`.
    pub(super) fn code(self) -> i32 {
        match self {
            Self::Waits => 0,
            Self::Traps(code) | Self::Exits(code) => i32::from(code),
        }
    }
}

// === impl Book ===

impl Book {
    /// Notes that the call goes out.
    pub(super) fn asked(&mut self, name: &str, ask: &Ask) {
        let pod = self.pods.entry(name.to_owned()).or_default();
        match ask {
            Ask::RunPod | Ask::Address | Ask::Exec(_) => {}
            Ask::Create(container, behaviour) => {
                pod.containers.entry(container.clone()).or_insert(Container {
                    id: None,
                    step: ContainerStep::CreateAsked,
                    behaviour: *behaviour,
                });
            }
            Ask::Start(container) => pod.advance(container, ContainerStep::StartAsked),
            Ask::Stop(container) => pod.advance(container, ContainerStep::StopAsked),
            Ask::Remove(container) => pod.advance(container, ContainerStep::RemoveAsked),
            Ask::StopPod => pod.step = pod.step.max(PodStep::StopAsked),
            Ask::RemovePod => pod.step = PodStep::RemoveAsked,
        }
    }

    /// Notes that it was answered; what is wrong with the answer.
    pub(super) fn answered(&mut self, name: &str, ask: &Ask, answer: &str) -> Option<String> {
        let pod = self.pods.get_mut(name)?;
        match ask {
            Ask::RunPod => {
                pod.step = pod.step.max(PodStep::Ready);
                return note(&mut pod.id, answer, &format!("{name}: the id"));
            }
            Ask::Address => return note(&mut pod.ip, answer, &format!("{name}: the address")),
            Ask::Create(container, _) => {
                pod.advance(container, ContainerStep::Created);
                let entry = pod.containers.get_mut(container)?;
                return note(&mut entry.id, answer, &format!("{name}/{container}: the id"));
            }
            Ask::Start(container) => pod.advance(container, ContainerStep::Started),
            Ask::Stop(container) => pod.advance(container, ContainerStep::Stopped),
            Ask::Exec(_) => {}
            Ask::Remove(container) => {
                self.gone.extend(pod.containers.remove(container).and_then(|c| c.id));
            }
            Ask::StopPod => pod.step = pod.step.max(PodStep::Stopped),
            Ask::RemovePod => self.forget(name),
        }
        None
    }

    /// The pod is no more.
    pub(super) fn forget(&mut self, name: &str) {
        let Some(pod) = self.pods.remove(name) else { return };
        let containers = pod.containers.into_values().filter_map(|container| container.id);
        self.gone.extend(pod.id.into_iter().chain(containers));
    }
}

/// Sets what is not known yet, and says when it differs from what is.
fn note(known: &mut Option<String>, answer: &str, what: &str) -> Option<String> {
    let before = known.get_or_insert_with(|| answer.to_owned());
    (before != answer).then(|| format!("{what} was {before} and is {answer}"))
}

// === impl Pod ===

impl Pod {
    /// Nothing goes back: a late answer does not undo a later call.
    pub(super) fn advance(&mut self, container: &str, step: ContainerStep) {
        if let Some(container) = self.containers.get_mut(container) {
            container.step = container.step.max(step);
        }
    }

    /// Whether the call has nothing to do, for it was seen to have happened or cannot happen.
    pub(super) fn is_needless(&self, ask: &Ask) -> bool {
        let step =
            |name: &String| self.containers.get(name).filter(|c| c.id.is_some()).map(|c| c.step);
        match ask {
            Ask::RunPod => false,
            Ask::Create(name, _) => self.id.is_none() || step(name).is_some(),
            Ask::Start(name) => step(name).is_none_or(|step| step >= ContainerStep::Started),
            Ask::Exec(name) | Ask::Stop(name) | Ask::Remove(name) => step(name).is_none(),
            Ask::Address | Ask::StopPod | Ask::RemovePod => self.id.is_none(),
        }
    }

    /// Whether an error is what we deserve.
    pub(super) fn excuses(&self) -> bool {
        self.condemned || self.shim == Shim::Killed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create() -> Ask {
        Ask::Create("c".into(), Behaviour::Waits)
    }

    #[test]
    fn an_answer_is_remembered_and_another_answer_to_the_same_call_is_wrong() {
        let mut book = Book::default();
        book.asked("p", &Ask::RunPod);
        assert_eq!(book.answered("p", &Ask::RunPod, "1"), None);
        assert!(book.answered("p", &Ask::RunPod, "2").is_some());
        book.asked("p", &create());
        assert!(!book.pods["p"].is_needless(&create()));
        assert_eq!(book.answered("p", &create(), "3"), None);
        assert!(book.pods["p"].is_needless(&create()));
    }

    #[test]
    fn what_was_removed_is_gone_with_all_that_it_held() {
        let mut book = Book::default();
        for (ask, answer) in [(Ask::RunPod, "1"), (create(), "2"), (Ask::RemovePod, "")] {
            book.asked("p", &ask);
            assert_eq!(book.answered("p", &ask, answer), None);
        }
        assert!(book.pods.is_empty());
        assert_eq!(book.gone, BTreeSet::from(["1".into(), "2".into()]));
    }
}
