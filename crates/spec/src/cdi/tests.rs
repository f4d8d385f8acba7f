use super::*;

const YAML: &str = "
cdiVersion: 0.6.0
kind: vendor.com/net
containerEdits:
  env: [COMMON=1]
devices:
- name: one
  containerEdits:
    env: [ONE=1]
    deviceNodes:
    - path: /dev/one
      hostPath: /dev/null
      permissions: rw
      fileMode: 0o640
    mounts:
    - hostPath: /opt/lib
      containerPath: /lib/vendor
      options: [ro, nosuid]
- name: two
  containerEdits:
    additionalGids: [0, 7]
    hooks:
    - {hookName: createContainer, path: /usr/bin/hook, args: [hook, now]}
";

fn registry(files: &[(&str, &str)]) -> Registry {
    Registry::read(files.iter().map(|(p, t)| (PathBuf::from(p), Ok((*t).to_owned()))).collect())
}

fn edits(registry: &Registry, names: &[&str]) -> Result<Edits, CdiError> {
    registry.edits(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
}

fn said(text: &str, name: &str) -> String {
    edits(&registry(&[("/etc/cdi/v.json", text)]), &[name]).unwrap_err().to_string()
}

#[test]
fn devices_of_one_file_get_what_they_have_in_common_once() {
    let registry = registry(&[("/etc/cdi/v.yaml", YAML)]);
    assert_eq!(registry.names().collect::<Vec<_>>(), ["vendor.com/net=one", "vendor.com/net=two"]);
    let edits = edits(&registry, &["vendor.com/net=one", "vendor.com/net=two"]).unwrap();
    assert_eq!(edits.env, ["COMMON=1", "ONE=1"]);
    assert_eq!(edits.gids, [7]);
    let [node] = edits.nodes.as_slice() else { panic!("{edits:?}") };
    assert_eq!((node.path.as_str(), node.host_path.as_str()), ("/dev/one", "/dev/null"));
    assert_eq!((node.permissions.as_str(), node.mode, node.number), ("rw", Some(0o640), None));
    assert_eq!((edits.mounts[0].kind.as_str(), edits.mounts[0].options.len()), ("bind", 2));
    assert_eq!((edits.hooks[0].at.as_str(), edits.hooks[0].args.len()), ("createContainer", 2));
}

#[test]
fn a_later_directory_counts_and_two_files_of_one_conflict() {
    let json = |env: &str| {
        format!(
            r#"{{"cdiVersion":"1.0.0","kind":"vendor.com/net","devices":[{{"name":"one","containerEdits":{{"env":["{env}"]}}}}]}}"#
        )
    };
    let (etc, run) = (json("FROM=etc"), json("FROM=run"));
    let one = "vendor.com/net=one";
    let both = registry(&[("/etc/cdi/v.json", &etc), ("/run/cdi/v.json", &run)]);
    assert_eq!(edits(&both, &[one]).unwrap().env, ["FROM=run"]);
    let twice = registry(&[("/etc/cdi/v.json", &etc), ("/etc/cdi/w.json", &run)]);
    let error = edits(&twice, &[one]).unwrap_err();
    assert!(error.to_string().contains("/etc/cdi/v.json and by /etc/cdi/w.json"), "{error}");
    let settled = registry(&[
        ("/etc/cdi/v.json", &etc),
        ("/etc/cdi/w.json", &etc),
        ("/run/cdi/v.json", &run),
    ]);
    assert_eq!(edits(&settled, &[one]).unwrap().env, ["FROM=run"]);
}

#[test]
fn what_cannot_be_given_is_named() {
    let device = |edits: &str| {
        format!(
            r#"{{"cdiVersion":"1.0.0","kind":"v.com/c","devices":[{{"name":"d","containerEdits":{edits}}}]}}"#
        )
    };
    let said_of = |edits: &str| said(&device(edits), "v.com/c=d");
    assert!(said(&device("{}"), "v.com/c=other").contains("no CDI file describes v.com/c=other"));
    assert!(said(&device("{}"), "v.com/c").contains("is not of the form"));
    assert!(said_of(r#"{"unheardOf": 1}"#).contains("not understood: /etc/cdi/v.json"));
    assert!(said_of(r#"{"intelRdt": {"closID": "a"}}"#).contains("intelRdt of /etc/cdi/v.json"));
    assert!(said_of(r#"{"netDevices": [{}]}"#).contains("netDevices"));
    assert!(said_of(r#"{"env": ["=x"]}"#).contains("is not NAME=value"));
    assert!(said_of(r#"{"deviceNodes": [{"path": "dev"}]}"#).contains("deviceNodes.path"));
    assert!(
        said_of(r#"{"deviceNodes": [{"path": "/d", "type": "x"}]}"#).contains("deviceNodes.type")
    );
    assert!(
        said_of(r#"{"mounts": [{"hostPath": "a", "containerPath": "/a"}]}"#).contains("hostPath")
    );
    let hook = |more: &str| said_of(&format!(r#"{{"hooks": [{{"path": "/a", {more}}}]}}"#));
    assert!(hook(r#""hookName": "never""#).contains("hookName"));
    assert!(hook(r#""hookName": "poststop", "timeout": 0"#).contains("timeout 0 is not above"));
    assert!(hook(r#""hookName": "poststop", "env": ["x"]"#).contains("hooks.env"));
    assert!(said(&device("{}").replace("1.0.0", "9.0.0"), "v.com/c=d").contains("cdiVersion"));
    assert!(said(&device("{}").replace("v.com/c", "v.com"), "v.com/c=d").contains("kind"));
}

#[test]
fn a_file_that_could_not_be_read_is_named_with_the_reason() {
    let registry = Registry::read(vec![("/etc/cdi/v.json".into(), Err("no access".into()))]);
    let error = edits(&registry, &["v.com/c=d"]).unwrap_err().to_string();
    assert!(error.contains("/etc/cdi/v.json: no access"), "{error}");
}

#[test]
fn the_programs_of_the_node_that_hooks_name_are_known_with_their_files() {
    let text = r#"{"cdiVersion":"1.0.0","kind":"v.com/c",
        "containerEdits":{"hooks":[{"hookName":"createContainer","path":"/bin/a"}]},
        "devices":[{"name":"d","containerEdits":{"hooks":[
            {"hookName":"startContainer","path":"/of/the/image"},
            {"hookName":"poststop","path":"/bin/b"},{"hookName":"prestart","path":"/bin/b"}]}}]}"#;
    let registry = Registry::read(vec![("/etc/cdi/v.json".into(), Ok(text.to_owned()))]);
    let file = Path::new("/etc/cdi/v.json");
    let expected = [("/bin/a".to_owned(), file), ("/bin/b".to_owned(), file)];
    assert_eq!(registry.programs().into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_name_has_a_vendor_a_class_and_a_device() {
    for name in ["vendor.com/class=0", "a/b=c", "nvidia.com/gpu=GPU-1:2.x_y"] {
        assert!(is_device_name(name), "{name}");
    }
    for name in ["", "a/b", "a=c", "a/b=", "1/b=c", "a/b=-", "a/b=c d", "/b=c", "a/=c", "a/b=../c"]
    {
        assert!(!is_device_name(name), "{name}");
    }
}
