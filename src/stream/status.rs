//! How a session ended, as its client is told: a `metav1.Status`, or text where the version has none.

use engine::world::Ended;
use serde_json::{Value, json};

use super::negotiate::Version;

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it should.
    Success,
    /// The command ended with this code, which is not 0.
    Code(i32),
    /// Not as it should.
    Failure(String),
}

impl Verdict {
    /// What the client reads; nothing, where it is to read nothing.
    pub(super) fn words(&self, version: Version) -> String {
        if version.has_status() {
            return self.status().to_string();
        }
        match self {
            Self::Success => String::new(),
            Self::Code(code) => terminated(*code),
            Self::Failure(why) => format!("Internal error occurred: {why}"),
        }
    }

    fn status(&self) -> Value {
        match self {
            Self::Success => json!({"metadata": {}, "status": "Success"}),
            Self::Code(code) => json!({
                "metadata": {},
                "status": "Failure",
                "reason": "NonZeroExitCode",
                "message": terminated(*code),
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failure(why) => json!({
                "metadata": {},
                "status": "Failure",
                "reason": "InternalError",
                "message": format!("Internal error occurred: {why}"),
                "details": {"causes": [{"message": why}]},
                "code": 500,
            }),
        }
    }
}

impl From<Ended> for Verdict {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Exited(0) | Ended::Detached => Self::Success,
            Ended::Exited(code) => Self::Code(code),
            Ended::NotStarted(why) => {
                Self::Failure(format!("error executing command in container: {why}"))
            }
            Ended::Behind => Self::Failure(
                "the client read too slowly for too long: its session was cut, the container goes on"
                    .to_owned(),
            ),
            Ended::Lost(why) => Self::Failure(format!("the session was lost: {why}")),
        }
    }
}

fn terminated(code: i32) -> String {
    format!("command terminated with non-zero exit code: exit status {code}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(verdict: &Verdict) -> Value {
        serde_json::from_str(&verdict.words(Version::V4)).unwrap()
    }

    #[test]
    fn an_exit_code_is_a_cause_that_clients_look_for() {
        let status = status(&Verdict::from(Ended::Exited(137)));
        assert_eq!(status["status"], "Failure");
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "137"}));
    }

    #[test]
    fn what_went_well_is_a_success_and_older_clients_are_told_nothing() {
        for ended in [Ended::Exited(0), Ended::Detached] {
            let verdict = Verdict::from(ended);
            assert_eq!(status(&verdict)["status"], "Success");
            assert_eq!(verdict.words(Version::V3), "");
        }
    }

    #[test]
    fn a_failure_says_why_in_every_version() {
        let verdict = Verdict::from(Ended::NotStarted("no such file".to_owned()));
        assert_eq!(status(&verdict)["code"], 500);
        for version in [Version::V1, Version::V3, Version::V5] {
            assert!(verdict.words(version).contains("no such file"));
        }
        assert!(Verdict::from(Ended::Behind).words(Version::V4).contains("too slowly"));
        assert!(Verdict::from(Ended::Exited(3)).words(Version::V1).contains("exit status 3"));
    }
}
