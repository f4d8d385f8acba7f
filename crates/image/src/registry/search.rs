//! Where a repository is to be had: mirrors first, the registry itself last. Read from the files at every pull, so that
//! a change needs no restart.

use super::endpoint::{ConfigError, Endpoint, upstream};
use super::{conf, hosts};
use crate::options::Options;
use crate::reference::{Reference, Target};

/// All servers that may have this, in the order to ask them.
pub(crate) fn endpoints(
    reference: &Reference,
    options: &Options,
) -> Result<Vec<Endpoint>, ConfigError> {
    let mut found = match hosts::find(&options.hosts_dir, reference)? {
        Some(found) => found,
        None => match &options.registries_conf {
            Some(path) => conf::find(path, reference, options)?,
            None => Vec::new(),
        },
    };
    if found.iter().all(|endpoint| endpoint.mirror) {
        found.extend(upstream(reference.host(), reference.repository(), options, false));
    }
    if matches!(reference.target(), Target::Tag(_)) {
        found.retain(|endpoint| endpoint.resolves);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(reference: &str, options: &Options) -> String {
        let options = Options { hosts_dir: Vec::new(), registries_conf: None, ..options.clone() };
        endpoints(&reference.parse().unwrap(), &options).unwrap()[0].base.to_string()
    }

    #[test]
    fn https_unless_loopback_or_configured() {
        let mut options = Options::default();
        assert_eq!(base("busybox", &options), "https://registry-1.docker.io/v2/");
        assert_eq!(base("localhost:5000/x", &options), "http://localhost:5000/v2/");
        assert_eq!(base("[::1]:5000/x", &options), "http://[::1]:5000/v2/");
        assert_eq!(base("127.0.0.1:443/x", &options), "https://127.0.0.1/v2/");
        assert_eq!(base("r.net:5000/x", &options), "https://r.net:5000/v2/");
        options.insecure_registries = vec!["r.net:5000".into()];
        assert_eq!(base("r.net:5000/x", &options), "http://r.net:5000/v2/");
    }
}
