//! What this node has and lacks for the network of pods, before the first pod.

use std::path::Path;

use crate::error::told;
use crate::netlink::{Message, NetlinkError, Protocol, Socket, attributes, find};
use crate::raw::{self, Policy};
use crate::{Config, Mode, cni};

/// How it is with one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Pods run, but something of their network will not work.
    Warning,
    /// Pods cannot run so.
    Bad,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was seen.
    pub detail: String,
    /// What to do; empty when all is well.
    pub remedy: String,
}

impl Finding {
    fn good(what: &'static str, detail: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Good, detail: detail.into(), remedy: String::new() }
    }

    fn not(what: &'static str, verdict: Verdict, detail: impl Into<String>, remedy: &str) -> Self {
        Self { what, verdict, detail: detail.into(), remedy: remedy.to_owned() }
    }
}

/// Looks at everything and changes nothing. Blocks for some milliseconds.
pub fn check(config: &Config) -> Vec<Finding> {
    let mut findings = vec![nftables(), forward_policy(config), ip_forward(), ipv6()];
    if config.mode != Mode::Native {
        findings.push(cni_configuration(config));
    }
    findings
}

fn nftables() -> Finding {
    let remedy = "load nf_tables, nft_chain_nat and nft_fib_inet; run as root with CAP_NET_ADMIN";
    match chains() {
        Ok(chains) => Finding::good("nftables", format!("answers, {} chains", chains.len())),
        Err(e) => Finding::not("nftables", Verdict::Bad, told(&e), remedy),
    }
}

/// A policy that drops what is forwarded, of Docker or of a firewall: no rule of ours can undo it.
fn forward_policy(config: &Config) -> Finding {
    let what = "forward policy";
    let chains = chains().unwrap_or_default();
    let mut dropping: Vec<String> = chains.iter().filter_map(Chain::drops).collect();
    let legacy = [
        (
            "/proc/thread-self/net/ip_tables_names",
            "iptables-legacy",
            raw::forward_policy as fn() -> _,
        ),
        ("/proc/thread-self/net/ip6_tables_names", "ip6tables-legacy", raw::forward_policy_ipv6),
    ];
    for (names, tool, policy) in legacy {
        // To ask for a table is to make it, so only one that is there is asked for.
        let there =
            std::fs::read_to_string(names).unwrap_or_default().lines().any(|l| l == "filter");
        if there && policy() == Some(Policy::Drop) {
            dropping.push(format!("{tool} filter FORWARD"));
        }
    }
    if dropping.is_empty() {
        return Finding::good(what, "nothing drops forwarded packets by default");
    }
    let prefix = &config.native.interface_prefix;
    let remedy = format!(
        "accept pods before that policy: iptables -I FORWARD -i {prefix}+ -j ACCEPT; iptables -I FORWARD -o {prefix}+ -j ACCEPT \
         (Docker: in chain DOCKER-USER; ufw: DEFAULT_FORWARD_POLICY=\"ACCEPT\" in /etc/default/ufw)"
    );
    let detail = format!("{} drops by default", dropping.join(", "));
    Finding::not(what, Verdict::Warning, detail, &remedy)
}

fn ip_forward() -> Finding {
    match sysctl("net/ipv4/ip_forward").as_deref() {
        Some("1") => Finding::good("ip_forward", "on"),
        Some(_) => Finding::good("ip_forward", "off; the embedded network turns it on"),
        None => {
            Finding::not("ip_forward", Verdict::Bad, "/proc/sys is not readable", "mount /proc")
        }
    }
}

fn ipv6() -> Finding {
    match sysctl("net/ipv6/conf/all/disable_ipv6").as_deref() {
        Some("0") => Finding::good("ipv6", "available"),
        Some(_) => Finding::not(
            "ipv6",
            Verdict::Warning,
            "disabled by net.ipv6.conf.all.disable_ipv6",
            "set it to 0, or configure only IPv4 ranges for pods",
        ),
        None => Finding::good("ipv6", "the kernel has none; pods get IPv4 addresses only"),
    }
}

fn cni_configuration(config: &Config) -> Finding {
    let what = "cni";
    match cni::trouble_of(&config.cni) {
        Ok(network) => Finding::good(what, network),
        Err(None) if config.mode == Mode::Auto => {
            Finding::good(what, "no configuration; the embedded network is used")
        }
        Err(trouble) => {
            let detail = trouble.unwrap_or_else(|| "no configuration".to_owned());
            let remedy = "install the cluster network's configuration and plugins, or choose the native network";
            Finding::not(what, Verdict::Bad, detail, remedy)
        }
    }
}

fn sysctl(name: &str) -> Option<String> {
    let text = std::fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
    Some(text.trim().to_owned())
}

/// A chain of nftables, whoever made it.
#[derive(Debug)]
struct Chain {
    table: String,
    name: String,
    hook: Option<u32>,
    policy: Option<u32>,
}

impl Chain {
    /// Its name, if it hangs on forwarding and drops what none of its rules accepts.
    fn drops(&self) -> Option<String> {
        const FORWARD: u32 = 2;
        const DROP: u32 = 0;
        let drops = self.hook == Some(FORWARD) && self.policy == Some(DROP);
        drops.then(|| format!("nftables {} {}", self.table, self.name))
    }
}

fn chains() -> Result<Vec<Chain>, NetlinkError> {
    const GET_CHAIN: u16 = (10 << 8) | 4;
    let mut socket = Socket::open(Protocol::Netfilter)?;
    let answers = socket.dump(&Message::new("list nftables chains", GET_CHAIN, 0, &[0; 4]))?;
    Ok(answers.iter().filter_map(|a| a.payload.get(4..)).map(chain).collect())
}

fn chain(fields: &[u8]) -> Chain {
    let text = |kind| {
        let value = find(fields, kind).unwrap_or_default();
        String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
    };
    let be32 = |value: &[u8]| value.try_into().ok().map(u32::from_be_bytes);
    let hook = find(fields, 4).and_then(|hook| attributes(hook).find(|a| a.kind == 1));
    Chain {
        table: text(1),
        name: text(3),
        hook: hook.and_then(|a| be32(a.value)),
        policy: find(fields, 5).and_then(be32),
    }
}
