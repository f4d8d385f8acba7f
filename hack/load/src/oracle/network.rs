//! What pods leave in the host's network namespace, and the pins of their own.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::thread;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::shell::run;

const PINS: &str = "/run/netns";

/// Pins of namespaces that are, or may be, our pods': those with a link to this namespace, and those with no link at all.
/// What has links only to elsewhere is another's.
pub(super) fn pins() -> BTreeSet<String> {
    let names = fs::read_dir(PINS).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let listed = run("ip", &["netns", "list"]).unwrap_or_default();
    let linked: BTreeSet<&str> = listed
        .lines()
        .filter(|line| line.contains("(id: "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    let mut found = BTreeSet::new();
    for name in names {
        if linked.contains(name.as_str()) || !has_links(&Path::new(PINS).join(&name)) {
            found.insert(name);
        }
    }
    found
}

/// Whether the namespace has a link beside loopback. One that cannot be entered has none.
fn has_links(pin: &Path) -> bool {
    let Ok(file) = File::open(pin) else { return false };
    let looking = move || {
        setns(file, CloneFlags::CLONE_NEWNET).ok()?;
        link_names().ok()
    };
    // A thread of its own, which ends in that namespace.
    let names = thread::spawn(looking).join().ok().flatten().unwrap_or_default();
    names.iter().any(|name| name != "lo")
}

pub(super) fn links() -> Result<BTreeSet<String>> {
    link_names()
}

fn link_names() -> Result<BTreeSet<String>> {
    let table = fs::read_to_string("/proc/thread-self/net/dev").context("read net/dev")?;
    let names = table.lines().skip(2).filter_map(|line| line.split_once(':'));
    Ok(names.map(|(name, _)| name.trim().to_owned()).collect())
}

pub(super) fn routes() -> Result<BTreeSet<String>> {
    let mut found = lines(&["-4", "-o", "route", "show", "table", "all"])?;
    found.extend(lines(&["-6", "-o", "route", "show", "table", "all"])?);
    Ok(found)
}

pub(super) fn rules() -> Result<BTreeSet<String>> {
    let mut found = lines(&["-4", "-o", "rule", "show"])?;
    found.extend(lines(&["-6", "-o", "rule", "show"])?);
    Ok(found)
}

/// Addresses without the numbers of their links, which change, and without lifetimes.
pub(super) fn addresses() -> Result<BTreeSet<String>> {
    let numbered = lines(&["-o", "address", "show"])?;
    let stripped = numbered.iter().map(|line| {
        let line = line.split_once(": ").map_or(line.as_str(), |(_, rest)| rest);
        line.split_once('\\').map_or(line, |(line, _)| line).trim().to_owned()
    });
    Ok(stripped.collect())
}

/// What `ip` prints, without the passing states of links and addresses.
fn lines(args: &[&str]) -> Result<BTreeSet<String>> {
    let text = run("ip", args)?;
    let lasting = |word: &&str| !["tentative", "dadfailed", "linkdown", "dead"].contains(word);
    let strip = |line: &str| line.split_whitespace().filter(lasting).collect::<Vec<_>>().join(" ");
    Ok(text.lines().map(strip).collect())
}

/// Every table, chain, rule, set and element, without handles and counts.
pub(super) fn nft() -> Result<BTreeSet<String>> {
    let text = run("nft", &["-j", "list", "ruleset"])?;
    let mut ruleset: Value = serde_json::from_str(&text).context("what nft printed")?;
    let objects = ruleset.get_mut("nftables").and_then(Value::as_array_mut).map(std::mem::take);
    let mut found = BTreeSet::new();
    for mut object in objects.unwrap_or_default() {
        if object.get("metainfo").is_none() {
            clean(&mut object);
            for element in take_elements(&mut object) {
                found.insert(format!("{object} has {element}"));
            }
            found.insert(object.to_string());
        }
    }
    Ok(found)
}

/// Each element of a set or map is a thing of its own.
fn take_elements(object: &mut Value) -> Vec<Value> {
    let sets = object.as_object_mut().into_iter().flat_map(|object| object.values_mut());
    let elements = sets.filter_map(|set| set.as_object_mut()?.remove("elem"));
    elements.flat_map(|list| list.as_array().cloned().unwrap_or_default()).collect()
}

fn clean(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for passing in ["handle", "packets", "bytes", "expires"] {
                fields.remove(passing);
            }
            fields.values_mut().for_each(clean);
        }
        Value::Array(values) => values.iter_mut().for_each(clean),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_counted_one_by_one_and_counters_not_at_all() {
        let mut map =
            serde_json::json!({"map": {"name": "m", "handle": 3, "elem": [["a", "b"], "c"]}});
        clean(&mut map);
        assert_eq!(take_elements(&mut map).len(), 2);
        assert_eq!(map.to_string(), r#"{"map":{"name":"m"}}"#);
    }
}
