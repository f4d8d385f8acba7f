//! The interface's signals, which have numbers of their own.

use cri_proto::cri::Signal;

use super::super::{At, Invalid, known};

/// The first real-time signal that glibc leaves to programs, and the last one.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The kernel's number; `None` when it is left to image and runtime.
pub(super) fn kernel_signal(at: &At<'_>, wire: i32) -> Result<Option<i32>, Invalid> {
    let first = Signal::Sigrtmin as i32;
    let last_from_min = Signal::Sigrtminplus15 as i32;
    let last = Signal::Sigrtmax as i32;
    Ok(Some(match known::<Signal>(at, wire)? {
        Signal::RuntimeDefault => return Ok(None),
        Signal::Sighup => 1,
        Signal::Sigint => 2,
        Signal::Sigquit => 3,
        Signal::Sigtrap => 5,
        Signal::Sigabrt | Signal::Sigiot => 6,
        Signal::Sigbus => 7,
        Signal::Sigfpe => 8,
        Signal::Sigkill => 9,
        Signal::Sigusr1 => 10,
        Signal::Sigsegv => 11,
        Signal::Sigusr2 => 12,
        Signal::Sigpipe => 13,
        Signal::Sigalrm => 14,
        Signal::Sigterm => 15,
        Signal::Sigstkflt => 16,
        Signal::Sigchld | Signal::Sigcld => 17,
        Signal::Sigcont => 18,
        Signal::Sigstop => 19,
        Signal::Sigtstp => 20,
        Signal::Sigttin => 21,
        Signal::Sigttou => 22,
        Signal::Sigurg => 23,
        Signal::Sigxcpu => 24,
        Signal::Sigxfsz => 25,
        Signal::Sigvtalrm => 26,
        Signal::Sigprof => 27,
        Signal::Sigwinch => 28,
        Signal::Sigio | Signal::Sigpoll => 29,
        Signal::Sigpwr => 30,
        Signal::Sigsys => 31,
        // What is left are the real-time signals, counted up from the first and then down to the last.
        _ if wire <= last_from_min => RTMIN + (wire - first),
        _ => RTMAX - (last - wire),
    }))
}

/// The interface's number for a kernel's; of two that mean the same, the first.
pub(crate) fn wire_signal(kernel: i32) -> i32 {
    let last = Signal::Sigrtmax as i32;
    let means = |wire: &i32| kernel_signal(&At::root("signal"), *wire) == Ok(Some(kernel));
    (1..=last).find(means).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(signal: Signal) -> Option<i32> {
        kernel_signal(&At::root("stop_signal"), signal.into()).unwrap()
    }

    #[test]
    fn signals_have_the_kernels_numbers() {
        assert_eq!(number(Signal::RuntimeDefault), None);
        assert_eq!(number(Signal::Sigterm), Some(15));
        assert_eq!(number(Signal::Sigrtmin), Some(34));
        assert_eq!(number(Signal::Sigrtminplus15), Some(49));
        assert_eq!(number(Signal::Sigrtmaxminus14), Some(50));
        assert_eq!(number(Signal::Sigrtmax), Some(64));
    }

    #[test]
    fn every_value_of_the_enum_is_one_that_the_kernel_has() {
        for value in 1..=65 {
            let number = kernel_signal(&At::root("stop_signal"), value).unwrap().unwrap();
            assert!((1..=64).contains(&number), "{value}");
        }
        kernel_signal(&At::root("stop_signal"), 66).unwrap_err();
    }

    #[test]
    fn the_way_back_leads_to_the_same_signal() {
        for kernel in [1, 6, 15, 34, 49, 50, 64] {
            let wire = wire_signal(kernel);
            assert_eq!(kernel_signal(&At::root("s"), wire).unwrap(), Some(kernel), "{wire}");
        }
        assert_eq!(wire_signal(0), 0);
    }
}
