//! What an exec reads of a container's `config.json`. Not the profile of system calls, which is most of the text: the program that was
//! made of it lies beside.

use std::fs;
use std::path::Path;

use libcontainer::oci_spec::runtime::{
    LinuxIdMapping, LinuxNamespace, LinuxSeccompFilterFlag, Process, Spec,
};
use serde::Deserialize;
use wire::v1;

use super::STAGE;
use crate::failure::{At, Failure};
use crate::idmap::Ids;
use crate::seccomp::{self, Program};

/// The parts of a specification.
pub(super) struct Kept {
    pub(super) process: Process,
    linux: Linux,
    text: Vec<u8>,
}

#[derive(Deserialize)]
struct Parts {
    process: Option<Process>,
    linux: Option<Linux>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    namespaces: Option<Vec<LinuxNamespace>>,
    uid_mappings: Option<Vec<LinuxIdMapping>>,
    gid_mappings: Option<Vec<LinuxIdMapping>>,
    seccomp: Option<Profile>,
}

#[derive(Deserialize)]
struct Profile {
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
}

impl Kept {
    /// Those of a job's container.
    pub(super) fn of(job: &v1::ExecJob) -> Result<Self, Failure> {
        let path = Path::new(&job.bundle).join("config.json");
        let doing = || format!("reading {}", path.display());
        let text = fs::read(&path).at(STAGE, doing)?;
        let parts: Parts = serde_json::from_slice(&text).at(STAGE, doing)?;
        let process = parts.process.ok_or_else(|| Failure::invalid(STAGE, "no process"))?;
        Ok(Self { process, linux: parts.linux.unwrap_or_default(), text })
    }

    /// The filter of the container: as it was made, or made from the profile.
    pub(super) fn filter(&self, job: &v1::ExecJob) -> Result<Option<Program>, Failure> {
        let Some(profile) = &self.linux.seccomp else { return Ok(None) };
        if let Some(made) = seccomp::of_bundle(profile.flags.as_ref(), &job.bundle) {
            return Ok(Some(made));
        }
        let spec: Spec = serde_json::from_slice(&self.text)
            .at(STAGE, || "reading the profile of system calls".into())?;
        let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        profile.map(|profile| seccomp::program(profile, &job.seccomp_cache)).transpose()
    }

    /// The ids of the user namespace, when there is one.
    pub(super) fn ids(&self) -> Result<Option<Ids>, Failure> {
        let mappings = (self.linux.uid_mappings.as_ref(), self.linux.gid_mappings.as_ref());
        Ids::among(self.linux.namespaces.as_ref(), mappings)
    }
}
