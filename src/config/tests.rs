use super::*;

fn place(config: &Path) -> Place {
    Place { config: Some(config.to_owned()), ..Place::default() }
}

#[expect(clippy::disallowed_methods, reason = "a test's own files")]
fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn load(files: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        write(&dir.path().join(name), text);
    }
    Config::load(&place(&dir.path().join("c.toml")), None)
}

#[test]
fn the_printed_default_is_the_default() {
    assert_eq!(toml::from_str::<Config>(DEFAULT).unwrap(), Config::default());
    validate::check(&Config::default()).unwrap();
}

#[test]
fn every_key_stands_in_the_printed_default() {
    // A key that is commented out there (socket, mtu) is one that has no default.
    let missing = toml::from_str::<Config>("[image]\nnonsense = 1").unwrap_err().to_string();
    for key in missing.split('`').skip(3).step_by(2) {
        assert!(DEFAULT.contains(&format!("\n{key} = ")), "{key}");
    }
}

#[test]
fn a_drop_in_replaces_what_it_names_and_nothing_else() {
    let config = load(&[
        ("c.toml", "root = \"/r\"\n[network]\ntable = \"a\"\npod_cidrs = [\"10.1.0.0/16\"]"),
        ("c.toml.d/20.toml", "[network]\ntable = \"c\""),
        ("c.toml.d/10.toml", "[network]\ntable = \"b\""),
        ("c.toml.d/not-toml", "nonsense"),
    ]);
    let config = config.unwrap();
    assert_eq!(config.root, PathBuf::from("/r"));
    assert_eq!(config.network.table, "c");
    assert_eq!(config.network.pod_cidrs, ["10.1.0.0/16"]);
}

#[test]
fn an_unknown_key_is_named_with_its_file() {
    let error = load(&[("c.toml", ""), ("c.toml.d/x.toml", "[image]\npined = []")]).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("c.toml.d/x.toml") && text.contains("pined"), "{text}");
}

#[test]
fn a_wrong_value_is_named_with_the_file_that_set_it() {
    let error = load(&[
        ("c.toml", "[network]\npod_cidrs = [\"10.0.0.0/8\", \"10.0.0.0/33\"]"),
        ("c.toml.d/x.toml", "state = \"/s\""),
    ]);
    let text = error.unwrap_err().to_string();
    assert!(text.contains("c.toml: network.pod_cidrs[1]"), "{text}");
}

#[test]
fn a_configuration_that_was_asked_for_must_be_there() {
    assert!(matches!(load(&[]), Err(ConfigError::Read { .. })));
}

#[test]
fn flags_come_last_and_the_socket_follows_the_state_directory() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    write(&file, "state = \"/a\"\n[network]\nmode = \"cni\"");
    let mut place = place(&file);
    place.state = Some("/b".into());
    let config = Config::load(&place, Some(Network::Native)).unwrap();
    assert_eq!(config.socket(), PathBuf::from("/b/ferropod.sock"));
    assert_eq!(config.network.mode, NetworkMode::Native);
}

#[test]
fn metrics_are_for_the_node_only() {
    for (address, fine) in
        [("127.0.0.1:9", true), ("[::1]:9", true), ("unix:/m", true), ("0.0.0.0:9", false)]
    {
        let text = format!("[metrics]\naddress = {address:?}");
        assert_eq!(load(&[("c.toml", &text)]).is_ok(), fine, "{address}");
    }
}

#[test]
fn rlimits_are_pairs() {
    assert_eq!(validate::rlimit("1024:unlimited"), Some((1024, u64::MAX)));
    assert_eq!(validate::rlimit("7"), Some((7, 7)));
    assert_eq!(validate::rlimit("8:7"), None);
    assert_eq!(Config::default().rlimits(), [("nofile".to_owned(), 1024, 524_288)]);
}

#[test]
fn streams_are_served_where_clients_can_connect() {
    for (lines, wrong) in [
        ("address = \"10.0.0.1:10010\"", ""),
        ("address = \"[::1]:0\"\nadvertise = \"node.example\"", ""),
        ("tls_cert = \"/c\"\ntls_key = \"/k\"", ""),
        ("address = \"localhost:1\"", "stream.address"),
        ("address = \"0.0.0.0:1\"", "stream.advertise"),
        ("advertise = \"http://node\"", "stream.advertise"),
        ("tls_cert = \"/c\"", "stream.tls_cert"),
        ("max_sessions = 0", "stream.max_sessions"),
        ("max_sessions = 9000000000000000000", "stream.max_sessions"),
        ("idle_timeout = \"0s\"", "stream.idle_timeout"),
    ] {
        match load(&[("c.toml", &format!("[stream]\n{lines}"))]) {
            Ok(_) => assert_eq!(wrong, "", "{lines}"),
            Err(error) => {
                assert!(!wrong.is_empty() && error.to_string().contains(wrong), "{error}");
            }
        }
    }
}

#[test]
fn a_port_is_known_where_there_is_one() {
    for (authority, port) in [
        ("node:1", Some(1)),
        ("[fd00::1]:2", Some(2)),
        ("10.0.0.1", None),
        ("[fd00::1]", None),
        ("node:x", None),
    ] {
        assert_eq!(port_of(authority), port, "{authority}");
    }
}
