//! AppArmor profiles and SELinux labels.

use super::*;
use crate::apparmor::Wanted;
use crate::selinux::{Contexts, free_level, shared};

const PROFILES: [Option<SecurityProfile>; 3] =
    [None, Some(SecurityProfile::RuntimeDefault), Some(SecurityProfile::Unconfined)];

fn security(apparmor: Option<SecurityProfile>, privileged: bool) -> ContainerSecurity {
    ContainerSecurity { apparmor, privileged, ..ContainerSecurity::default() }
}

fn local() -> SecurityProfile {
    SecurityProfile::Localhost("mine".to_owned())
}

#[test]
fn a_default_profile_is_wanted_but_by_the_privileged_and_a_named_one_always() {
    let node = NodeFacts { apparmor: true, ..NodeFacts::default() };
    let wanted =
        |profile, privileged| apparmor::wanted(&security(profile, privileged), &node).unwrap();
    let [unset, default, unconfined] = PROFILES;
    assert_eq!(wanted(unset.clone(), false), Some(Wanted::Default { asked: false }));
    assert_eq!(wanted(default.clone(), false), Some(Wanted::Default { asked: true }));
    assert_eq!(wanted(unconfined, false), None);
    assert_eq!((wanted(unset, true), wanted(default, true)), (None, None));
    for privileged in [false, true] {
        assert_eq!(wanted(Some(local()), privileged), Some(Wanted::Named("mine".to_owned())));
    }
}

#[test]
fn without_apparmor_only_a_named_profile_is_refused_by_field_and_name() {
    let node = NodeFacts::default();
    for profile in PROFILES {
        assert_eq!(apparmor::wanted(&security(profile, false), &node).unwrap(), None);
    }
    let refused = apparmor::wanted(&security(Some(local()), false), &node).unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported);
    let said = refused.to_string();
    assert!(said.starts_with("config.linux.security_context.apparmor: "), "{said}");
    assert!(said.contains("\"mine\""), "{said}");
}

#[test]
fn the_loaded_profile_is_the_process_s() {
    let built = Case::with(|c| c.apparmor = Some("mine".to_owned()));
    let profile = built.spec.process().as_ref().unwrap().apparmor_profile().clone();
    assert_eq!(profile.as_deref(), Some("mine"));
    let built = Case::with(|_| {});
    assert_eq!(*built.spec.process().as_ref().unwrap().apparmor_profile(), None);
}

fn contexts() -> Contexts {
    Contexts {
        process: "system_u:system_r:container_t:s0".to_owned(),
        file: "system_u:object_r:container_file_t:s0".to_owned(),
    }
}

fn options(text: &str) -> SelinuxOptions {
    let mut parts = text.splitn(4, ':').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    SelinuxOptions { user: next(), role: next(), kind: next(), level: next() }
}

/// The labels of a container's process and of its files.
fn labels(change: impl FnOnce(&mut Case)) -> (String, String) {
    let built = Case::with(|c| {
        c.node.selinux = Some(contexts());
        c.level = Some("s0:c1,c2".to_owned());
        change(c);
    });
    let process = built.spec.process().as_ref().unwrap().selinux_label().clone().unwrap();
    let mount = linux(&built).mount_label().clone().unwrap();
    assert_eq!(built.mount_label.as_ref(), Some(&mount));
    (process, mount)
}

#[test]
fn what_is_left_open_of_a_label_is_the_sandbox_s_then_the_node_s() {
    type Change = fn(&mut Case);
    let cases: [(Change, &str, &str); 5] = [
        (|_| {}, "system_u:system_r:container_t:s0:c1,c2", "s0:c1,c2"),
        (
            |c| c.container.security.selinux = Some(options("u:r:t:s0:c7,c9")),
            "u:r:t:s0:c7,c9",
            "s0:c7,c9",
        ),
        (
            |c| c.sandbox.security.selinux = Some(options("::t:s0:c3")),
            "system_u:system_r:t:s0:c3",
            "s0:c3",
        ),
        (
            |c| {
                c.sandbox.security.selinux = Some(options("::t:s0:c3"));
                c.container.security.selinux = Some(options("::w:"));
            },
            "system_u:system_r:w:s0:c3",
            "s0:c3",
        ),
        (
            |c| {
                c.sandbox.security.privileged = true;
                c.container.security.privileged = true;
            },
            "system_u:system_r:spc_t:s0",
            "s0:c1,c2",
        ),
    ];
    for (change, process, level) in cases {
        let mount = format!("system_u:object_r:container_file_t:{level}");
        assert_eq!(labels(change), (process.to_owned(), mount));
    }
}

#[test]
fn without_selinux_what_is_asked_for_has_no_effect() {
    let built = Case::with(|c| {
        c.container.security.selinux = Some(options("u:r:t:s0"));
        c.container.mounts = vec![volume("/v", "/host/v")];
        c.container.mounts[0].selinux_relabel = true;
    });
    assert_eq!(*built.spec.process().as_ref().unwrap().selinux_label(), None);
    assert_eq!(*linux(&built).mount_label(), None);
    assert_eq!((built.mount_label, built.relabel), (None, Vec::new()));
}

#[test]
fn volumes_that_ask_for_it_are_relabelled_but_for_the_privileged() {
    let relabelled = |privileged: bool| {
        let built = Case::with(|c| {
            c.node.selinux = Some(contexts());
            c.sandbox.security.privileged = privileged;
            c.container.security.privileged = privileged;
            c.container.mounts = vec![volume("/v", "/host/v"), volume("/w", "/host/w")];
            c.container.mounts[0].selinux_relabel = true;
        });
        built.relabel
    };
    assert_eq!(relabelled(false), ["/host/v"]);
    assert_eq!(relabelled(true), [""; 0]);
}

#[test]
fn a_level_is_two_categories_that_no_other_pod_has() {
    let id = SandboxId::from_random([0xff; 32]);
    let mut taken = BTreeSet::new();
    for _ in 0..500 {
        let level = free_level(&id, |level| taken.contains(level));
        let (low, high) = level.strip_prefix("s0:c").unwrap().split_once(",c").unwrap();
        let (low, high): (u32, u32) = (low.parse().unwrap(), high.parse().unwrap());
        assert!(low < high && high < 1024, "{level}");
        assert!(taken.insert(level));
    }
    let last = SandboxId::from_random([0; 32]);
    assert_eq!(free_level(&last, |_| false), "s0:c0,c1");
}

#[test]
fn what_the_containers_share_has_the_pod_s_level() {
    let node = NodeFacts { selinux: Some(contexts()), ..NodeFacts::default() };
    let mut sandbox = pod::Sandbox {
        id: SandboxId::from_random([1; 32]),
        config: sandbox(),
        created_at: pod::Time(1),
        phase: pod::SandboxPhase::Creating,
        plan: pod::Plan::default(),
        level: Some("s0:c1,c2".to_owned()),
    };
    let label = |sandbox: &pod::Sandbox| shared(sandbox, &node).unwrap().unwrap();
    assert_eq!(label(&sandbox), "system_u:object_r:container_file_t:s0:c1,c2");
    sandbox.config.security.selinux = Some(options(":::s0:c8"));
    assert_eq!(label(&sandbox), "system_u:object_r:container_file_t:s0:c8");
    assert_eq!(shared(&sandbox, &NodeFacts::default()).unwrap(), None);
}
