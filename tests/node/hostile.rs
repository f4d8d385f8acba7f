//! Hostile images, containers, volumes and requests: what the field's advisories were about, tried on this runtime.
//!
//! Each test holds what must be harmless against a canary: files of the host that nothing may change. Its comment names
//! the guard; with that taken out it fails.
//!
//! `scene` is the node with its pod, `canary` what must stay, `crate::forge` makes the images. `probe.c` asks the kernel,
//! `loader.c` stands in for the host's loader.
//!
//! | advisory | tested in |
//! |---|---|
//! | containerd 2020-15157 (credentials to a foreign URL) | not applicable: foreign URLs of layers are not followed |
//! | 2020-15257 (abstract sockets) | inside: `nothing_of_the_runtime_listens…` |
//! | 2021-21334 (environments mixed) | requests: `containers_of_one_image_made_at_once…` |
//! | 2021-32760, 2025-47290, rp3h-jf77-q9p4 (unpacking) | crates/image/src/tests/hostile.rs |
//! | 2021-41103, 2024-25621 (directories open to all) | inside: `no_other_user_of_the_host…` |
//! | 2021-41190 (manifest or index) | crates/image: `manifest::parse` |
//! | 2021-43816 (relabelling) | crates/launch: `label::files`; images name no volumes of the host |
//! | 2022-23648 (VOLUME of an image) | images: `volumes_that_an_image_names…` |
//! | 2022-24769, 2022-27652, 2022-29162, crun 2022-27650, youki 2025-27612 (inheritable sets) | inside: `no_capability_is_inheritable…` |
//! | 2022-24778 (encrypted images) | not applicable: encrypted layers are not supported |
//! | 2022-23471, 2025-64329 (leaks of exec and attach) | streams |
//! | 2022-31030, 2022-1708 (output without end) | floods: `a_command_that_prints_without_end…` |
//! | 2023-25153 (import without bound) | images: `an_archive_with_a_document…` |
//! | 2023-25173, 2022-2995 (groups) | images: `a_process_has_the_groups…` |
//! | 7ww5-4wqc-m92c (power meters) | inside: `the_kernels_switches…`; crates/spec for machines that have one |
//! | 2024-40635, 2026-46680 (users that wrap) | images: `a_user_that_is_no_number…` |
//! | 2025-47291 (user namespaces leave the cgroup) | users: `root_in_a_pod…` |
//! | 2026-47262, 2025-4437 (huge accounts) | images: `accounts_are_read…` |
//! | 2026-50195, 2026-53489, 2026-53492, 2024-8676 (restoring) | nothing is restored: images: `a_file_of_the_host_is_no_image…` |
//! | 2026-53488 (labels of an image) | images: `labels_of_an_image…` |
//! | 2026-53495 (draining for ever) | floods: `a_command_whose_child…` |
//! | `AF_ALG` and the like in the default profile | inside: `the_default_profile…` |
//! | CRI-O 2019-14891 (monitor killed with the pod) | floods: `a_pod_out_of_memory…` |
//! | 2022-0532, 2022-0811 (sysctls) | requests: `sysctls_reach…` |
//! | 2022-4318, 2026-15809 (lines in HOME) | images: `a_home_of_more_than_one_line…` |
//! | 2023-6476, 2024-3154 (annotations as orders) | requests: `annotations_are_kept…` |
//! | 2024-5154 (links made through the image's /etc) | images: `files_of_the_pod…` |
//! | 2024-3727 (digests as paths) | images: `digests_that_are_paths…` |
//! | 2025-0750 (paths of logs) | requests: `names_and_log_paths…` |
//! | runc 2019-5736 (program of the host written) | inside: `the_programs_of_the_host…`, `the_init_that_a_pod_shares…` |
//! | 2019-16884, 2019-19921, 2023-27561, 2023-28642, 2025-52881, youki 2025-54867, 2025-62596 (false /proc) | mounts: `a_volume_over_proc…`; images: `an_image_whose_dev_proc_or_sys…` |
//! | 2021-30465, 2024-45310 (targets exchanged) | mounts: `a_target_that_becomes_a_link…`, `a_volume_goes…` |
//! | 2021-43784 (netlink lengths) | not applicable: no such message |
//! | 2023-25809 (cgroups writable) | inside: `the_kernels_switches…` |
//! | 2024-21626 (descriptors, WORKDIR) | images: `a_working_directory…`; inside: `a_process_has_its_three_descriptors…` |
//! | 2025-31133, youki 2025-62161 (masks) | mounts: `masked_paths…`, `a_hostile_volume_over_dev…` |
//! | 2025-52565 (console) | mounts: `a_hostile_volume_over_dev…`; left: a race within the few microseconds of one mount |
//! | runc 2026-41579, crun 2026-47766 (/dev a link) | images: `an_image_whose_dev_proc_or_sys…` |
//! | crun 2026-30892 (user of exec) | not applicable: the interface's exec names no user |
//! | no advisory: the node's null device as a standard stream | inside: `the_null_device…`; handlers: `a_runtime_that_gives…` |
//! | crun 2025-24965 (krun) | not applicable: no virtual machines |

mod canary;
mod floods;
mod images;
mod inside;
mod mounts;
mod requests;
mod scene;

use crate::node::{Node, text};

/// The process that serves the node.
fn daemon(node: &Node) -> u32 {
    let config = node.path("config.toml");
    let entries = std::fs::read_dir("/proc").expect("the processes").filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let serves = |pid: &u32| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains("\0serve\0") && line.contains(text(&config))
    };
    pids.into_iter().find(serves).expect("the daemon")
}

/// The most memory that the daemon has used, in bytes.
fn peak(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon(node)));
    let status = status.expect("the daemon's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.expect("a number") << 10
}
