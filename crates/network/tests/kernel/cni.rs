//! CNI with the real plugins, and with some that misbehave.

use std::path::{Path, PathBuf};
use std::time::Duration;

use names::Kind;
use network::{CniConfig, Config, Mode, Network, Protocol, Released, Wiring};

use crate::lab::{Place, Pod, config, eventually, on_node, port, request, sandbox, sh, world};

/// The directory of the real plugins: `FERROPOD_CNI_BIN`, else what `hack/tools/build` makes.
fn real_plugins() -> PathBuf {
    if let Some(dir) = std::env::var_os("FERROPOD_CNI_BIN") {
        return dir.into();
    }
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hack/tools/build");
    let paths = sh(&format!("{} bridge host-local portmap loopback", build.display()));
    let first = paths.lines().next().expect("hack/tools/build prints the path of each plugin");
    Path::new(first).parent().unwrap().to_owned()
}

/// A configuration directory and a directory for scripts that play plugins.
struct Set {
    dir: tempfile::TempDir,
}

impl Set {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["net.d", "bin", "ipam"] {
            std::fs::create_dir(dir.path().join(sub)).unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self, mode: Mode, bin: &Path) -> Config {
        let cni = CniConfig {
            config_dir: self.path("net.d"),
            bin_dirs: vec![self.path("bin"), bin.to_owned()],
            timeout: Duration::from_secs(20),
        };
        Config { mode, cni, ..config() }
    }

    #[expect(clippy::disallowed_methods, reason = "a test plants files")]
    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// A plugin that notes its calls in `calls` and then does what the script says.
    fn plugin(&self, name: &str, script: &str) {
        let calls = self.path("calls");
        let file = format!("bin/{name}");
        self.put(
            &file,
            &format!(
                "#!/bin/sh\nin=$(cat)\necho \"{name} $CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_ARGS $in\" >> {}\n{script}\n",
                calls.display()
            ),
        );
        sh(&format!("chmod +x {}", self.path(&file).display()));
    }

    fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn forget_calls(&self) {
        drop(std::fs::remove_file(self.path("calls")));
    }

    fn bridge(&self, version: &str) -> String {
        format!(
            r#"{{"cniVersion": "{version}", "name": "test", "plugins": [
              {{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                "ipam": {{"type": "host-local", "dataDir": "{}",
                          "ranges": [[{{"subnet": "10.44.0.0/24"}}], [{{"subnet": "fd44::/64"}}]],
                          "routes": [{{"dst": "0.0.0.0/0"}}, {{"dst": "::/0"}}]}}}},
              {{"type": "portmap", "backend": "nftables", "capabilities": {{"portMappings": true}}}}]}}"#,
            self.path("ipam").display()
        )
    }

    fn leases(&self) -> usize {
        let dir = std::fs::read_dir(self.path("ipam/test")).into_iter().flatten().flatten();
        dir.filter(|e| e.file_name().to_string_lossy().starts_with("10.")).count()
    }
}

const RESULT: &str = r#"echo '{"cniVersion":"1.1.0","ips":[{"address":"10.9.9.9/32"}]}'"#;
const SCRIPTED: &str =
    r#"{"cniVersion": "1.1.0", "name": "scripted", "plugins": [{"type": "one"}, {"type": "two"}]}"#;

/// Whether the process runs whose id a plugin wrote there.
fn alive(pid: &Path) -> bool {
    let pid = std::fs::read_to_string(pid).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.is_ok_and(|s| !s.contains(" Z "))
}

fn of_host(what: &str) -> String {
    sh(&format!("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1; {what}"))
}

async fn real_life(world: &Place, bridge_nf_call: u8) {
    let set = Set::new();
    set.put("net.d/10-test.conflist", &set.bridge("1.0.0"));
    let network = Network::start(set.config(Mode::Auto, &real_plugins())).await.unwrap();
    assert!(network.status().ready, "{}", network.status().message);
    of_host(&format!(
        "for f in iptables ip6tables; do
           test ! -e /proc/sys/net/bridge/bridge-nf-call-$f || echo {bridge_nf_call} > /proc/sys/net/bridge/bridge-nf-call-$f
         done"
    ));
    let one = Pod::new(&network, 1, &[port(Protocol::Tcp, 8080, 80)]).await;
    let two = Pod::new(&network, 2, &[]).await;
    one.place.serve_tcp(80);
    for ipv6 in [false, true] {
        let seen = two.place.ask_tcp(&one.address(ipv6), 80).unwrap();
        assert_eq!(seen, two.address(ipv6));
    }
    assert!(one.place.ask_tcp("127.0.0.1", 80).is_ok(), "lo is up");
    assert_eq!(world.ask_tcp("192.0.2.1", 8080).unwrap(), "192.0.2.2");
    // Neighbours on a bridge answer each other past the DNAT when the bridge does not call netfilter.
    assert_eq!(two.place.ask_tcp("192.0.2.1", 8080).is_ok(), bridge_nf_call == 1);
    assert_eq!(set.leases(), 2);
    network.verify(&one.attachment.intent, &one.place.netns()).await.unwrap();

    // the configuration goes, one of the namespaces too: DEL needs neither
    std::fs::remove_file(set.path("net.d/10-test.conflist")).unwrap();
    let gone = Path::new("/run/netns/ferropod-never-was");
    let intents = [two.attachment.intent.clone(), one.attachment.intent.clone()];
    let (path, address) = (one.place.path(), one.address(false));
    drop(two);
    assert_eq!(network.detach(&intents[0], Some(gone)).await.unwrap(), Released::Now);
    assert_eq!(network.detach(&intents[1], Some(&path)).await.unwrap(), Released::Now);
    assert_eq!(network.detach(&intents[1], Some(&path)).await.unwrap(), Released::Now);
    assert_eq!(set.leases(), 0, "no address is leaked");
    eventually("no link is left", || !sh("ip -o link").contains("veth"));
    // Of a pod without a namespace, ipMasq's rules stay: the bridge plugin learns the addresses there.
    let rules = sh("nft list ruleset");
    assert!(!rules.contains(&format!("saddr {address} ")) && !rules.contains("8080"), "{rules}");
}

#[test]
fn the_real_plugins_give_a_network_and_take_it_back() {
    on_node(|node| async move {
        real_life(&world(&node), 1).await;
    });
}

#[test]
fn the_same_with_bridge_nf_call_off() {
    on_node(|node| async move {
        real_life(&world(&node), 0).await;
    });
}

#[test]
fn an_old_configuration_of_one_plugin_works() {
    on_node(|node| async move {
        let _world = world(&node);
        let set = Set::new();
        let conf = format!(
            r#"{{"cniVersion": "0.2.0", "name": "test", "type": "bridge", "bridge": "cni0",
                "ipam": {{"type": "host-local", "dataDir": "{}", "subnet": "10.44.0.0/24"}}}}"#,
            set.path("ipam").display()
        );
        set.put("net.d/10-old.conf", &conf);
        let network = Network::start(set.config(Mode::Cni, &real_plugins())).await.unwrap();
        let pod = Pod::new(&network, 1, &[]).await;
        assert_eq!(pod.address(false), "10.44.0.2");
        network.detach(&pod.attachment.intent, Some(&pod.place.path())).await.unwrap();
        assert_eq!(set.leases(), 0);
    });
}

#[test]
fn a_plugin_that_fails_is_named_with_its_words_and_del_still_calls_the_others() {
    on_node(|_| async move {
        let set = Set::new();
        set.put("net.d/10.conflist", SCRIPTED);
        set.plugin("one", RESULT);
        let fail = r#"echo '{"cniVersion":"1.1.0","code":11,"msg":"no more ports","details":"ask later"}'; exit 1"#;
        set.plugin("two", fail);
        let network =
            Network::start(set.config(Mode::Cni, Path::new("/nonexistent"))).await.unwrap();
        let place = Place::new();
        let intent = network.plan(&request(1, &[])).unwrap();
        let error = network.attach(&intent, &place.netns()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(source, "plugin two ADD: no more ports (ask later)");

        set.forget_calls();
        let error = network.detach(&intent, Some(&place.path())).await.unwrap_err();
        assert!(error.to_string().contains("plugin two DEL: no more ports"), "{error}");
        let calls: Vec<String> = set.calls().into_iter().filter(|c| c.contains(" DEL ")).collect();
        assert!(calls[0].starts_with("two DEL") && calls[1].starts_with("one DEL"), "{calls:?}");
        set.plugin("two", "exit 0");
        network.detach(&intent, Some(&place.path())).await.unwrap();
    });
}

#[test]
fn a_plugin_that_hangs_is_killed_with_all_it_started() {
    on_node(|_| async move {
        let set = Set::new();
        set.put("net.d/10.conflist", SCRIPTED);
        let pid = set.path("pid");
        set.plugin(
            "one",
            &format!(
                "[ $CNI_COMMAND = ADD ] || exit 0\nsleep 1000 & echo $! > {}; wait",
                pid.display()
            ),
        );
        set.plugin("two", RESULT);
        let mut config = set.config(Mode::Cni, Path::new("/nonexistent"));
        config.cni.timeout = Duration::from_secs(1);
        let network = Network::start(config).await.unwrap();
        let place = Place::new();
        let intent = network.plan(&request(1, &[])).unwrap();
        let error = network.attach(&intent, &place.netns()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::TimedOut);
        eventually("its child is gone", || !alive(&pid));
    });
}

#[test]
fn a_plugin_whose_caller_goes_away_is_killed_too() {
    on_node(|_| async move {
        let set = Set::new();
        set.put("net.d/10.conf", r#"{"cniVersion": "1.0.0", "name": "n", "type": "one"}"#);
        let pid = set.path("pid");
        set.plugin(
            "one",
            &format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", pid.display()),
        );
        let network = Network::start(set.config(Mode::Cni, Path::new("/x"))).await.unwrap();
        let (place, intent) = (Place::new(), network.plan(&request(1, &[])).unwrap());
        let netns = place.netns();
        tokio::select! {
            _ = network.attach(&intent, &netns) => panic!("it hangs"),
            () = async { while !pid.exists() { tokio::time::sleep(Duration::from_millis(5)).await } } => {}
        }
        eventually("its child is gone", || !alive(&pid));
    });
}

#[test]
fn what_a_plugin_prints_that_is_no_result_is_an_error() {
    on_node(|_| async move {
        for (script, says) in [
            ("echo nonsense", "expected"),
            ("exit 3", "it said nothing"),
            ("echo cannot >&2; exit 1", "cannot"),
            (r#"echo '{"cniVersion":"1.1.0"}'"#, "no address"),
            ("head -c 3000000 /dev/zero", "no valid result"),
        ] {
            let set = Set::new();
            set.put("net.d/10.conf", r#"{"cniVersion": "1.1.0", "name": "n", "type": "one"}"#);
            set.plugin("one", script);
            let network = Network::start(set.config(Mode::Cni, Path::new("/x"))).await.unwrap();
            let intent = network.plan(&request(1, &[])).unwrap();
            let error = network.attach(&intent, &Place::new().netns()).await.unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(
                source.contains("plugin one ADD") && source.contains(says),
                "{script}: {source}"
            );
        }
    });
}

#[test]
fn plugins_get_what_the_specification_promises_them() {
    on_node(|_| async move {
        let set = Set::new();
        set.put(
            "net.d/10.conflist",
            r#"{"cniVersion": "1.1.0", "name": "n", "plugins": [{"type": "one", "capabilities": {"dns": true, "bandwidth": true}}, {"type": "two"}]}"#,
        );
        set.plugin("one", RESULT);
        set.plugin("two", RESULT);
        let network = Network::start(set.config(Mode::Cni, Path::new("/x"))).await.unwrap();
        let mut request = request(1, &[port(Protocol::Tcp, 80, 80)]);
        request.dns =
            Some(network::Dns { servers: vec!["10.0.0.10".into()], ..Default::default() });
        request.annotations.insert("kubernetes.io/ingress-bandwidth".into(), "10M".into());
        let place = Place::new();
        let intent = network.plan(&request).unwrap();
        let attachment = network.attach(&intent, &place.netns()).await.unwrap();
        assert_eq!(attachment.addresses, ["10.9.9.9".parse::<std::net::IpAddr>().unwrap()]);
        let calls: Vec<String> = set.calls().into_iter().filter(|c| c.contains(" ADD ")).collect();
        let args = format!(
            "K8S_POD_NAMESPACE=test;K8S_POD_NAME=pod1;K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID=uid-1",
            sandbox(1).as_str()
        );
        assert!(
            calls[0].contains(&format!("ADD {} {}", sandbox(1).as_str(), place.path().display())),
            "{calls:?}"
        );
        assert!(calls[0].contains(&args), "{calls:?}");
        assert!(
            calls[0].contains("10.0.0.10") && calls[0].contains("\"ingressRate\":10000000"),
            "{calls:?}"
        );
        assert!(
            !calls[0].contains("portMappings") && !calls[0].contains("prevResult"),
            "{calls:?}"
        );
        assert!(
            calls[1].contains("prevResult") && !calls[1].contains("runtimeConfig"),
            "{calls:?}"
        );

        // what a record keeps is enough for a later process, and GC is told of it
        let kept: network::Intent =
            serde_json::from_str(&serde_json::to_string(&attachment.intent).unwrap()).unwrap();
        assert_eq!(kept, attachment.intent);
        set.forget_calls();
        let later = Network::start(set.config(Mode::Cni, Path::new("/x"))).await.unwrap();
        later.sweep(std::slice::from_ref(&kept)).await;
        let calls = set.calls();
        let gc: Vec<&String> = calls.iter().filter(|c| c.contains(" GC ")).collect();
        assert_eq!(gc.len(), 2);
        assert!(
            gc[0].contains("valid-attachments") && gc[0].contains(sandbox(1).as_str()),
            "{gc:?}"
        );
        set.forget_calls();
        later.detach(&kept, Some(Path::new("/run/netns/never-was"))).await.unwrap();
        let calls = set.calls();
        let dels: Vec<&String> = calls.iter().filter(|c| c.contains(" DEL ")).collect();
        assert!(
            dels.iter().all(|c| c.contains("prevResult") && !c.contains("never-was")),
            "{calls:?}"
        );
    });
}

#[test]
fn auto_follows_the_configuration_as_it_comes_and_goes() {
    on_node(|_| async move {
        let set = Set::new();
        let network = Network::start(set.config(Mode::Auto, Path::new("/x"))).await.unwrap();
        let wiring = |n| network.plan(&request(n, &[])).map(|i| matches!(i.wiring, Wiring::Cni(_)));
        assert!(!wiring(1).unwrap());
        assert!(network.status().ready);
        set.plugin("one", RESULT);
        set.put("net.d/10.conf", r#"{"cniVersion": "1.0.0", "name": "n", "type": "one"}"#);
        eventually("cni is used", || wiring(2).unwrap());
        assert!(network.status().ready, "{}", network.status().message);
        sh(&format!("mv {0} {0}.old; mkdir {0}", set.path("net.d").display()));
        eventually("the embedded network is used", || !wiring(3).unwrap());
        set.put("net.d/10.conf", "{");
        eventually("a broken configuration is said to be one", || !network.status().ready);
        assert!(network.status().message.contains("10.conf"), "{}", network.status().message);
        assert_eq!(wiring(4).unwrap_err().kind(), Kind::Unavailable);
    });
}

#[test]
fn the_status_tells_what_is_missing() {
    on_node(|_| async move {
        let set = Set::new();
        let network = Network::start(set.config(Mode::Cni, Path::new("/x"))).await.unwrap();
        assert!(
            network.status().message.contains("no cni configuration in"),
            "{:?}",
            network.status()
        );
        set.put("net.d/10.conflist", SCRIPTED);
        eventually("the plugin is missed", || {
            network.status().message.contains("\"one\" is in none")
        });
        set.plugin("one", "exit 0");
        set.plugin(
            "two",
            r#"[ $CNI_COMMAND = STATUS ] && { echo '{"code":50,"msg":"agent is down"}'; exit 1; }"#,
        );
        let answered = std::time::Instant::now();
        while !network.status().message.contains("agent is down") {
            assert!(answered.elapsed() < Duration::from_secs(5), "{:?}", network.status());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}
