//! A network configuration: read from its file, brought to one form, and cut into what each plugin gets.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// A configuration larger than this is not read.
const LARGEST: u64 = 1024 * 1024;
/// The versions of the specification that are spoken, oldest first.
const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A list of plugins. A single plugin's configuration is a list of one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NetworkList {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) plugins: Vec<Map<String, Value>>,
    pub(crate) disable_check: bool,
    pub(crate) disable_gc: bool,
}

/// What is new in which version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Since {
    /// CHECK, and the previous result for DEL.
    Check,
    /// STATUS and GC.
    Status,
}

impl NetworkList {
    /// Reads a file; the error says what is wrong with it.
    pub(crate) fn read(path: &Path) -> Result<Value, String> {
        let about = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let size = std::fs::metadata(path).map_err(|e| about(&e))?.len();
        if size > LARGEST {
            return Err(about(&"larger than 1 MiB"));
        }
        let bytes = std::fs::read(path).map_err(|e| about(&e))?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|e| about(&e))?;
        Self::parse(&value).map_err(|e| about(&e))?;
        Ok(value)
    }

    /// What a configuration means.
    pub(crate) fn parse(value: &Value) -> Result<Self, String> {
        let top = value.as_object().ok_or("is no object")?;
        let text = |key: &str| top.get(key).and_then(Value::as_str);
        let name = text("name").filter(|n| !n.is_empty()).ok_or("has no name")?;
        if name.contains(['/', '\0']) {
            return Err(format!("name {name:?} contains '/'"));
        }
        let plugins: Vec<Map<String, Value>> = match top.get("plugins") {
            Some(Value::Array(list)) => {
                list.iter().filter_map(|p| p.as_object().cloned()).collect()
            }
            Some(_) => return Err("plugins is no list".to_owned()),
            None => vec![top.clone()],
        };
        if plugins.is_empty() {
            return Err("lists no plugins".to_owned());
        }
        for plugin in &plugins {
            plugin_type(plugin).ok_or("has a plugin without a type, or with a path as its type")?;
        }
        let is_true = |key: &str| {
            matches!(top.get(key), Some(Value::Bool(true)))
                || top
                    .get(key)
                    .and_then(Value::as_str)
                    .is_some_and(|s| s.eq_ignore_ascii_case("true"))
        };
        Ok(Self {
            name: name.to_owned(),
            version: version(top)?,
            plugins,
            disable_check: is_true("disableCheck"),
            disable_gc: is_true("disableGC"),
        })
    }

    pub(crate) fn has(&self, what: Since) -> bool {
        let first = match what {
            Since::Check => "0.4.0",
            Since::Status => "1.1.0",
        };
        rank(&self.version) >= rank(first)
    }

    /// Every program that this network needs, those that plugins call for addresses too.
    pub(crate) fn programs(&self) -> impl Iterator<Item = &str> {
        self.plugins.iter().flat_map(|plugin| {
            let ipam = plugin.get("ipam").and_then(|i| i.get("type")).and_then(Value::as_str);
            plugin_type(plugin).into_iter().chain(ipam.filter(|t| !t.is_empty()))
        })
    }

    /// What one plugin reads from its standard input.
    pub(crate) fn for_plugin(
        &self,
        plugin: &Map<String, Value>,
        capabilities: &Map<String, Value>,
        more: Map<String, Value>,
    ) -> Value {
        let mut config = plugin.clone();
        let declared = config.remove("capabilities");
        let wants =
            |name: &str| declared.as_ref().and_then(|d| d.get(name)) == Some(&Value::Bool(true));
        let given: Map<String, Value> = capabilities
            .iter()
            .filter(|(name, _)| wants(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !given.is_empty() {
            config.insert("runtimeConfig".to_owned(), Value::Object(given));
        }
        config.insert("name".to_owned(), Value::from(self.name.as_str()));
        config.insert("cniVersion".to_owned(), Value::from(self.version.as_str()));
        config.extend(more);
        Value::Object(config)
    }
}

/// The program of a plugin: a name, never a path.
pub(crate) fn plugin_type(plugin: &Map<String, Value>) -> Option<&str> {
    let name = plugin.get("type").and_then(Value::as_str)?;
    (!name.is_empty() && !name.contains('/') && name != "." && name != "..").then_some(name)
}

/// The newest version that both sides speak, of `cniVersion` and `cniVersions`.
fn version(top: &Map<String, Value>) -> Result<String, String> {
    let one = top.get("cniVersion").and_then(Value::as_str);
    let more = top.get("cniVersions").and_then(Value::as_array);
    let more = more.into_iter().flatten().filter_map(Value::as_str);
    let mut named = one.into_iter().chain(more).filter(|v| !v.is_empty()).peekable();
    if named.peek().is_none() {
        return Ok("0.1.0".to_owned());
    }
    let best = named.filter(|v| rank(v).is_some()).max_by_key(|v| rank(v));
    best.map(str::to_owned)
        .ok_or_else(|| format!("cniVersion {:?} is not spoken", one.unwrap_or("")))
}

fn rank(version: &str) -> Option<usize> {
    VERSIONS.iter().position(|v| *v == version)
}

/// The files that count, in order of name.
pub(crate) fn files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let kinds = ["conflist", "conf", "json"];
    let is_config = |p: &PathBuf| {
        p.extension().and_then(|e| e.to_str()).is_some_and(|e| kinds.contains(&e)) && p.is_file()
    };
    let entries = std::fs::read_dir(dir)?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(is_config).collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_single_plugin_is_a_list_of_one() {
        let conf = json!({"cniVersion": "0.4.0", "name": "n", "type": "bridge", "ipam": {"type": "host-local"}});
        let list = NetworkList::parse(&conf).unwrap();
        assert_eq!(list.programs().collect::<Vec<_>>(), ["bridge", "host-local"]);
        assert!(list.has(Since::Check));
        assert!(!list.has(Since::Status));
    }

    #[test]
    fn the_newest_common_version_is_chosen() {
        let list = |v: Value| NetworkList::parse(&v).map(|l| l.version);
        let plugins = json!([{"type": "x"}]);
        let both = json!({"name": "n", "cniVersion": "0.4.0", "cniVersions": ["1.0.0", "9.0.0"], "plugins": plugins});
        assert_eq!(list(both).unwrap(), "1.0.0");
        assert_eq!(list(json!({"name": "n", "plugins": plugins})).unwrap(), "0.1.0");
        list(json!({"name": "n", "cniVersion": "9.0.0", "plugins": plugins})).unwrap_err();
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_the_reason() {
        for (conf, reason) in [
            (json!([]), "no object"),
            (json!({"plugins": [{"type": "x"}]}), "no name"),
            (json!({"name": "n", "plugins": []}), "no plugins"),
            (json!({"name": "n", "plugins": [{}]}), "without a type"),
            (json!({"name": "n", "plugins": [{"type": "../../bin/sh"}]}), "path as its type"),
        ] {
            let error = NetworkList::parse(&conf).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_plugin_gets_the_capabilities_that_it_declares_and_no_others() {
        let conf = json!({"name": "n", "cniVersion": "1.0.0", "plugins": [
            {"type": "a", "capabilities": {"portMappings": true, "dns": false}}, {"type": "b"}]});
        let list = NetworkList::parse(&conf).unwrap();
        let given = json!({"portMappings": [1], "dns": {}});
        let given = given.as_object().unwrap();
        let first = list.for_plugin(&list.plugins[0], given, Map::new());
        assert_eq!(
            first,
            json!({"type": "a", "name": "n", "cniVersion": "1.0.0", "runtimeConfig": {"portMappings": [1]}})
        );
        let second = list.for_plugin(&list.plugins[1], given, Map::new());
        assert_eq!(second, json!({"type": "b", "name": "n", "cniVersion": "1.0.0"}));
    }
}
