//! `ferropod check`: what this node has and lacks, before the first pod finds out.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::config::Config;

mod cgroup;
mod handlers;
mod kernel;
mod modules;
mod node;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// As it should be.
    Good,
    /// Pods run, but something is missed; the finding says what.
    Weak,
    /// Pods will not run.
    Bad,
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    subject: &'static str,
    verdict: Verdict,
    fact: String,
    /// What to do about it; empty when it is good.
    remedy: String,
}

/// Prints the table. The exit code is 1 when something that pods need lacks.
pub(crate) fn run(config: &Config) -> io::Result<ExitCode> {
    let findings = all(config);
    io::stdout().write_all(table(&findings).as_bytes())?;
    let bad = findings.iter().any(|finding| finding.verdict == Verdict::Bad);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Tells the log what of the network will not work: it is the usual reason why pods reach nobody. Blocks for some
/// milliseconds.
pub(crate) fn warn_of_network(config: &Config) {
    for finding in node::network(config) {
        if finding.verdict != Verdict::Good {
            let Finding { subject, fact, remedy, .. } = finding;
            tracing::warn!(subject, fact, remedy, "found wanting");
        }
    }
}

fn all(config: &Config) -> Vec<Finding> {
    let mut findings = kernel::findings();
    findings.extend(modules::findings(config));
    findings.extend(cgroup::findings(config));
    findings.extend(node::findings(config));
    findings
}

fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.subject.len()).max().unwrap_or_default();
    let line = |finding: &Finding| {
        let Finding { subject, verdict, fact, remedy } = finding;
        let mark = match verdict {
            Verdict::Good => "ok  ",
            Verdict::Weak => "weak",
            Verdict::Bad => "BAD ",
        };
        let remedy = if remedy.is_empty() {
            String::new()
        } else {
            format!("{:width$}       > {remedy}\n", "")
        };
        format!("{subject:width$}  {mark} {fact}\n{remedy}")
    };
    findings.iter().map(line).collect()
}

// === impl Finding ===

impl Finding {
    fn good(subject: &'static str, fact: impl Into<String>) -> Self {
        Self { subject, verdict: Verdict::Good, fact: fact.into(), remedy: String::new() }
    }

    fn weak(subject: &'static str, fact: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { subject, verdict: Verdict::Weak, fact: fact.into(), remedy: remedy.into() }
    }

    fn bad(subject: &'static str, fact: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { subject, verdict: Verdict::Bad, fact: fact.into(), remedy: remedy.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_stands_under_its_finding() {
        let findings = [
            Finding::good("kernel", "6.18"),
            Finding::bad("overlay", "missing", "modprobe overlay"),
        ];
        let table = table(&findings);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines[0], "kernel   ok   6.18");
        assert_eq!(lines[1], "overlay  BAD  missing");
        assert!(lines[2].ends_with("> modprobe overlay"));
    }

    #[test]
    fn every_finding_that_is_not_good_has_a_remedy() {
        for finding in all(&Config::default()) {
            assert!(finding.verdict == Verdict::Good || !finding.remedy.is_empty(), "{finding:?}");
        }
    }
}
