//! Names of sysctls as paths.

use std::ffi::CString;

/// The file of a sysctl, by its name with dots (`net.ipv4.ip_forward`) or with slashes (`net/ipv4/conf/eth0.1/mtu`).
pub(crate) fn path(name: &str) -> Option<CString> {
    let slashes = name.find(['.', '/']).is_some_and(|at| name.as_bytes().get(at) == Some(&b'/'));
    let relative = if slashes { name.to_owned() } else { swap(name) };
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    if !relative.split('/').all(plain) {
        return None;
    }
    CString::new(format!("/proc/sys/{relative}")).ok()
}

/// As sysctl(8): a slash stands for a dot within a component.
fn swap(name: &str) -> String {
    let swapped = |letter| match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    name.chars().map(swapped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_paths_and_never_leave_the_tree() {
        let text = |name| path(name).map(|path| path.into_string().unwrap());
        let file = |name: &str| Some(format!("/proc/sys/{name}"));
        assert_eq!(text("net.ipv4.ip_forward"), file("net/ipv4/ip_forward"));
        assert_eq!(text("net/ipv4/conf/eth0.1/mtu"), file("net/ipv4/conf/eth0.1/mtu"));
        assert_eq!(text("net.ipv4.conf.eth0/1.mtu"), file("net/ipv4/conf/eth0.1/mtu"));
        for bad in ["", "..", "net..x", "net/../../x", "/etc/passwd", "a.", "a/", "a.//.b", "a\0b"]
        {
            assert_eq!(text(bad), None, "{bad}");
        }
    }
}
