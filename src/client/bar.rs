//! A bar on a terminal, and nothing elsewhere.

use cri_proto::cli::Progress;
use indicatif::{ProgressBar, ProgressStyle};

const WAITING: &str = "{spinner} asking the registry";
const RUNNING: &str = "{prefix} {bar:40} {bytes:>10}/{total_bytes:<10} {bytes_per_sec:>12}";

/// indicatif hides it by itself when standard error is no terminal; it goes with its owner.
pub(super) struct Bar {
    bar: ProgressBar,
}

impl Bar {
    pub(super) fn new() -> Self {
        Self { bar: ProgressBar::no_length().with_style(style(WAITING)) }
    }

    pub(super) fn show(&self, progress: Progress) {
        if progress.layers_total == 0 {
            self.bar.tick();
            return;
        }
        if self.bar.length().is_none() {
            self.bar.set_style(style(RUNNING));
        }
        let Progress { layers_done, layers_total, bytes_done, bytes_total } = progress;
        self.bar.set_length(bytes_total);
        self.bar.set_prefix(format!("{layers_done}/{layers_total} layers"));
        self.bar.set_position(bytes_done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// The templates are constants, and a test reads them all.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_understood() {
        for template in [RUNNING, WAITING] {
            ProgressStyle::with_template(template).unwrap();
        }
    }
}
