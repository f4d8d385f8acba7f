//! Calls about the runtime itself.

use std::collections::HashMap;

use cri_proto::cri;
use engine::world::World;

use super::{Answer, Services, status};

impl<W: World> Services<W> {
    pub(super) async fn version(&self, _: cri::VersionRequest) -> Answer<cri::VersionResponse> {
        Ok(cri::VersionResponse {
            // The kubelet compares it with its own constant.
            version: "0.1.0".to_owned(),
            runtime_name: "ferropod".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        })
    }

    pub(super) async fn runtime_status(
        &self,
        request: cri::StatusRequest,
    ) -> Answer<cri::StatusResponse> {
        let conditions = vec![condition("RuntimeReady", true, "", ""), self.network_ready()];
        Ok(cri::StatusResponse {
            status: Some(cri::RuntimeStatus { conditions }),
            info: if request.verbose { self.info() } else { HashMap::new() },
            runtime_handlers: self.handlers(),
            features: Some(cri::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: self.node.no_user_namespaces.is_none(),
                mount_options: true,
            }),
        })
    }

    pub(super) async fn cgroup_driver(
        &self,
        _: cri::RuntimeConfigRequest,
    ) -> Answer<cri::RuntimeConfigResponse> {
        let driver = if self.node.systemd_cgroups {
            cri::CgroupDriver::Systemd
        } else {
            cri::CgroupDriver::Cgroupfs
        };
        let linux = cri::LinuxRuntimeConfiguration { cgroup_driver: driver.into() };
        Ok(cri::RuntimeConfigResponse { linux: Some(linux) })
    }

    pub(super) async fn set_pod_cidr(
        &self,
        request: cri::UpdateRuntimeConfigRequest,
    ) -> Answer<cri::UpdateRuntimeConfigResponse> {
        let config = request.runtime_config.and_then(|config| config.network_config);
        let cidr = config.map(|config| config.pod_cidr).unwrap_or_default();
        let set = self.network.set_pod_cidr(&cidr);
        set.map_err(|error| status::of(names::Kind::Invalid, &error))?;
        Ok(cri::UpdateRuntimeConfigResponse {})
    }

    /// The default one, then the configured ones. A runtime can do no more than the kernel.
    fn handlers(&self) -> Vec<cri::RuntimeHandler> {
        let kernel = (self.node.recursive_read_only, self.node.no_user_namespaces.is_none());
        let handler = |name: &str, (recursive_read_only_mounts, user_namespaces)| {
            let features =
                cri::RuntimeHandlerFeatures { recursive_read_only_mounts, user_namespaces };
            cri::RuntimeHandler { name: name.to_owned(), features: Some(features) }
        };
        let outside = self.node.handlers.iter().map(|(name, can)| {
            let both = (kernel.0 && can.recursive_read_only, kernel.1 && can.user_namespaces);
            handler(name, both)
        });
        std::iter::once(handler("", kernel)).chain(outside).collect()
    }

    fn network_ready(&self) -> cri::RuntimeCondition {
        let network = self.network.status();
        condition("NetworkReady", network.ready, &network.reason, &network.message)
    }

    fn info(&self) -> HashMap<String, String> {
        let pulls: Vec<_> = self.images.progress().iter().map(super::image::pull_info).collect();
        HashMap::from([
            ("config".to_owned(), self.node.config.to_string()),
            ("network".to_owned(), self.network.verbose().to_string()),
            ("pulls".to_owned(), serde_json::Value::from(pulls).to_string()),
        ])
    }
}

fn condition(kind: &str, status: bool, reason: &str, message: &str) -> cri::RuntimeCondition {
    let (reason, message) = (reason.to_owned(), message.to_owned());
    cri::RuntimeCondition { r#type: kind.to_owned(), status, reason, message }
}
