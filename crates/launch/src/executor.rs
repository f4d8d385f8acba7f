//! The last steps of a container's first process, inside libcontainer's: while it waits to be started (`validate`, with
//! every capability, where a failure still fails the creation), and when it is (`exec`).

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};

use crate::hook::AtStart;
use crate::late::Late;
use crate::peer::Peer;
use crate::raw;
use process::directory;
use process::failure::{At, Failure};
use process::privileges::Privileges;
use process::program::Program;

/// What is left to do inside the container.
#[derive(Debug, Clone)]
pub(crate) struct LastSteps {
    pub(crate) program: Program,
    pub(crate) privileges: Privileges,
    pub(crate) cwd: String,
    pub(crate) uid: u32,
    pub(crate) terminal: bool,
    /// Mounts over /dev.
    pub(crate) late: Rc<RefCell<Vec<Late>>>,
    /// Volumes that join the host's mounts when all is mounted.
    pub(crate) peers: Rc<Vec<Peer>>,
    /// Run when nothing but the program is left to do.
    pub(crate) hooks: Option<AtStart>,
    /// Where it is told why the program could not be executed; closed by execve.
    pub(crate) start: Rc<Option<OwnedFd>>,
}

impl LastSteps {
    fn prepare(&self) -> Result<(), Failure> {
        for late in self.late.borrow_mut().drain(..) {
            late.attach()?;
        }
        self.peers.iter().try_for_each(Peer::join)?;
        if self.terminal {
            let terminal = std::io::stdin();
            std::os::unix::fs::fchown(terminal.as_fd(), Some(self.uid), None)
                .at("terminal", || format!("giving the terminal to user {}", self.uid))?;
        }
        directory::enter(&self.cwd)
    }

    fn start(&self) -> (String, i32) {
        let become_it = raw::reset_signals()
            .at("start", || "resetting signals".into())
            .and_then(|()| self.privileges.assume())
            .and_then(|()| self.hooks.as_ref().map_or(Ok(()), AtStart::run));
        match become_it {
            Ok(()) => {
                let not_run = self.program.run();
                (format!("start\0{}", not_run.message), not_run.code)
            }
            Err(failure) => (format!("{}\0{}", failure.stage, failure.message), 128),
        }
    }
}

impl Executor for LastSteps {
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        self.prepare().map_err(|failure| {
            tracing::error!("{failure}");
            ExecutorValidationError::ArgValidationError(failure.to_string())
        })
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // execve is given the environment, in its order.
        Ok(())
    }

    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        let (told, code) = self.start();
        if let Some(start) = self.start.as_ref().as_ref().and_then(|fd| fd.try_clone().ok()) {
            // Nobody reads: the exit code still tells.
            let _unread = std::fs::File::from(start).write_all(told.as_bytes());
        }
        raw::leave(code)
    }
}
