use super::*;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

struct Bundle(tempfile::TempDir);

impl Bundle {
    /// With one hook, which runs a script.
    fn with(stage: &str, script: &str, more: &str) -> Self {
        let bundle = Self(tempfile::tempdir().unwrap());
        let hook = bundle.script("hook", script);
        bundle.config(&format!(
            r#"{{"{stage}":[{{"path":"{}","args":["own name","b c"]{more}}}]}}"#,
            hook.display()
        ));
        bundle
    }

    fn script(&self, name: &str, script: &str) -> PathBuf {
        let path = self.0.path().join(name);
        put(&path, &format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn config(&self, hooks: &str) {
        let text = format!(
            r#"{{"ociVersion":"1.2.0","root":{{"path":"/r"}},"process":{{"env":["OF=process"]}},
                "annotations":{{"a":"b"}},"hooks":{hooks}}}"#
        );
        put(&self.0.path().join("config.json"), &text);
    }

    fn run(&self, stage: Stage) -> Result<(), HookError> {
        let dir = self.0.path();
        Config::of(dir).unwrap().run(stage, Container { id: "c1", bundle: dir, pid: Some(7) }, dir)
    }

    fn written(&self, name: &str) -> String {
        fs::read_to_string(self.0.path().join(name)).unwrap()
    }
}

fn put(path: &Path, text: &str) {
    File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_hook_is_told_the_state_and_has_its_arguments_and_environment_only() {
    let script = "cat > state; echo $# $1 $A $OF $HOME > args; pwd > cwd";
    let bundle = Bundle::with("createRuntime", script, r#","env":["A=1","PATH=/usr/bin:/bin"]"#);
    bundle.run(Stage::CreateRuntime).unwrap();
    let state: serde_json::Value = serde_json::from_str(&bundle.written("state")).unwrap();
    let expected = serde_json::json!({"ociVersion": "1.2.0", "id": "c1", "status": "creating",
        "pid": 7, "bundle": bundle.0.path(), "annotations": {"a": "b"}});
    assert_eq!(state, expected);
    assert_eq!(bundle.written("args"), "1 b c 1\n");
    assert_eq!(bundle.written("cwd").trim(), bundle.0.path().to_str().unwrap());
    bundle.run(Stage::Poststart).unwrap();
}

#[test]
fn a_hook_in_the_container_has_the_containers_environment_when_it_has_none() {
    let bundle = Bundle::with("startContainer", "echo $OF > of", "");
    bundle.run(Stage::StartContainer).unwrap();
    assert_eq!(bundle.written("of"), "process\n");
}

#[test]
fn a_hook_that_fails_is_named_with_its_last_words_and_is_the_last() {
    let bundle = Bundle(tempfile::tempdir().unwrap());
    let bad =
        bundle.script("bad", "yes | head -c 100000; echo out; echo 'no such gpu' >&2; exit 3");
    let next = bundle.script("next", "echo > ran");
    let hook = |path: &Path| format!(r#"{{"path":"{}"}}"#, path.display());
    bundle.config(&format!(r#"{{"prestart":null,"poststop":[{},{}]}}"#, hook(&bad), hook(&next)));
    let said = bundle.run(Stage::Poststop).unwrap_err().to_string();
    assert!(
        said.starts_with(&format!("poststop hook {} ended with exit status: 3: y", bad.display())),
        "{said}"
    );
    assert!(said.ends_with("y; out; no such gpu"), "{said}");
    assert!(said.len() < 2 * 1024, "{said}");
    let ran = bundle.0.path().join("ran");
    assert!(!ran.exists());
    let container = Container { id: "c1", bundle: bundle.0.path(), pid: None };
    let errors =
        Config::of(bundle.0.path()).unwrap().run_all(Stage::Poststop, container, bundle.0.path());
    assert_eq!(errors.len(), 1);
    assert!(ran.exists());
}

#[test]
fn a_hook_that_does_not_end_is_killed_with_its_children() {
    let script = "echo hanging; sleep 1000 & echo $! > child; wait";
    let bundle = Bundle::with("createContainer", script, r#","timeout":1"#);
    let begun = Instant::now();
    let said = bundle.run(Stage::CreateContainer).unwrap_err().to_string();
    assert!(said.contains("did not end within 1 s and was killed: hanging"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    let stat = format!("/proc/{}/stat", bundle.written("child").trim());
    // Dead, or a zombie of somebody else's: the signal was sent, and takes effect when the child next has a processor.
    let gone = || fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
    while !gone() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the child is alive");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_hook_that_leaves_somebody_behind_or_reads_nothing_is_not_waited_for() {
    let bundle = Bundle::with("poststart", "sleep 30 & exec true", r#","timeout":20"#);
    let begun = Instant::now();
    bundle.run(Stage::Poststart).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn what_hooks_may_take_is_the_sum_of_what_each_may() {
    let text =
        br#"{"hooks":{"poststart":[{"path":"/a","timeout":3},{"path":"/b"}],"poststop":[]}}"#;
    let config = Config::parse(text).unwrap();
    assert_eq!(config.within(Stage::Poststart), PATIENCE + Duration::from_secs(3));
    assert_eq!(config.within(Stage::Poststop), Duration::ZERO);
    assert!(config.has(Stage::Poststart) && !config.has(Stage::Poststop));
}

#[test]
fn a_hook_that_is_not_there_is_named() {
    let bundle = Bundle(tempfile::tempdir().unwrap());
    bundle.config(r#"{"prestart":[{"path":"/no/such/hook"}]}"#);
    let error = bundle.run(Stage::Prestart).unwrap_err();
    assert_eq!(error.to_string(), "prestart hook /no/such/hook cannot be executed");
    assert!(
        matches!(error, HookError::Start { source, .. } if source.kind() == io::ErrorKind::NotFound)
    );
    Config::of(Path::new("/no/such/bundle")).unwrap_err();
}
