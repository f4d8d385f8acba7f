//! The rules of the default profile.
//!
//! It gives what the kernel's other walls leave, and takes the node's switches away once more: should a mask or a read-only
//! mount of /proc and /sys be got around, this still holds.
//!
//! In its patterns `[^x]` is one letter that is not x and `**` any text: "all but sys" is written letter by letter.

use super::DEFAULT;

/// The profile, with rules for the daemon's own label. `abi` is a file that says what the rules are to mean.
pub(super) fn text(abi: Option<&str>, daemon: &str) -> String {
    let abi = abi.map(|abi| format!("abi <{abi}>,\n")).unwrap_or_default();
    let daemon = match daemon {
        "" | "unconfined" => String::new(),
        label => format!("  signal (receive) peer=\"{label}\",\n"),
    };
    format!(
        r"{abi}profile {DEFAULT} flags=(attach_disconnected,mediate_deleted) {{
  capability,
  file,
  network,
  unix,
  umount,

  # Processes of this profile among themselves, and whoever starts and ends containers.
  signal (send, receive) peer={DEFAULT},
  signal (receive) peer=unconfined,
{daemon}  ptrace (read, readby, trace, tracedby) peer={DEFAULT},

  deny mount,
  deny remount,
  deny pivot_root,

  # Of /proc: processes' own directories, and of /proc/sys what belongs to a namespace.
  deny /proc/* w,
  deny /proc/{{[^0-9s]**,s[^y]**,sy[^s]**,sys[^/]**}} w,
  deny /proc/sys/{{[^fkn]**,f[^s]**,k[^e]**,n[^e]**}} w,
  deny /proc/sys/fs/{{[^m]**,m[^q]**}} w,
  deny /proc/sys/kernel/{{[^ms]**,m[^s]**,ms[^g]**,s[^eh]**,se[^m]**,sh[^m]**}} w,
  deny /proc/{{kcore,kmem,mem,sysrq-trigger}} rwklx,

  # Of /sys: cgroups.
  deny /sys/{{[^f]**,f[^s]**,fs/[^c]**,fs/c[^g]**}} wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confined_daemon_may_signal_its_containers() {
        let signals = |daemon: &str| {
            let text = text(None, daemon);
            text.lines().filter(|line| line.contains("signal (receive)")).count()
        };
        assert_eq!(signals("unconfined"), 1);
        assert_eq!(signals("ferropod"), 2);
    }

    #[test]
    fn the_rules_say_by_which_abi_they_are_meant() {
        assert!(text(Some("abi/3.0"), "").starts_with("abi <abi/3.0>,\nprofile ferropod-default "));
        assert!(text(None, "").starts_with("profile "));
    }
}
