//! Runtime handlers: whether each configured program can be used here.

use host::cgroup::{Cgroups, Driver};

use super::Finding;
use crate::assemble::handlers::{Abilities, learn};
use crate::config::Config;

const SUBJECT: &str = "handler";

pub(super) fn findings(config: &Config) -> Vec<Finding> {
    if config.runtime.handlers.is_empty() {
        return Vec::new();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (Ok(runtime), Ok(cgroups)) = (runtime, Cgroups::detect(Driver::Cgroupfs)) else {
        let remedy = "see to the cgroups first";
        return vec![Finding::bad(SUBJECT, "runtimes cannot be asked", remedy)];
    };
    let layout = cgroups.layout();
    let one = |(name, handler): (&String, &crate::config::Handler)| match runtime
        .block_on(learn(&handler.path, layout))
    {
        Ok(found) => {
            let fact = format!("{name}: {}, {}", handler.path.display(), told(found.can));
            Finding::good(SUBJECT, fact)
        }
        Err(error) => Finding::bad(
            SUBJECT,
            format!("{name}: {}", engine::record::chain(&error)),
            format!("install it, or take runtime.handlers.{name} out of the configuration"),
        ),
    };
    config.runtime.handlers.iter().map(one).collect()
}

fn told(can: Abilities) -> String {
    let all = [
        (can.user_namespaces, "user namespaces"),
        (can.recursive_read_only, "recursive read-only mounts"),
        (can.seccomp, "seccomp"),
    ];
    let list = |wanted: bool| {
        let names = all.iter().filter(|(has, _)| *has == wanted).map(|(_, name)| *name);
        names.collect::<Vec<_>>().join(", ")
    };
    match (list(true), list(false)) {
        (has, lacks) if lacks.is_empty() => format!("with {has}"),
        (has, lacks) if has.is_empty() => format!("without {lacks}"),
        (has, lacks) => format!("with {has}, without {lacks}"),
    }
}
