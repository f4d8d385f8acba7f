"""Holds every crate against what it may not depend on, and warns of files that grew too long.

The rooms are cut by kind of work (see the crate docs): each denies itself what its kind must not see.
"""

import json
import pathlib
import subprocess
import sys

ASYNC = {"tokio", "futures", "hyper", "reqwest", "tower"}
KERNEL = {"nix", "libc", "rtnetlink", "libcontainer", "cgroups-rs", "host", "network"}
WIRE = {"tonic", "tonic-prost"}

# Direct dependencies that a crate must not have.
FORBIDDEN = {
    "pod": ASYNC | KERNEL | WIRE | {"anyhow", "ledger"},
    "spec": ASYNC | KERNEL | WIRE | {"anyhow", "ledger"},
    "names": ASYNC | KERNEL | WIRE | {"anyhow"},
    "ledger": KERNEL | WIRE | {"anyhow", "pod"},
    "host": WIRE | {"anyhow", "ledger", "engine", "libcontainer"},
    "network": WIRE | {"anyhow", "ledger", "engine", "libcontainer"},
    "image": WIRE | {"anyhow", "ledger", "engine", "libcontainer"},
    "wire": ASYNC | WIRE | {"anyhow", "libcontainer"},
    "ferropod-shim": ASYNC | WIRE | {"anyhow", "libcontainer", "ledger"},
    "ferropod-launch": ASYNC | WIRE | {"anyhow", "ledger"},
    "ferropod-enter": ASYNC | KERNEL | WIRE | {"anyhow", "ledger"},
    "process": ASYNC | WIRE | {"anyhow", "libcontainer", "libseccomp", "oci-spec", "serde_json", "ledger"},
    "engine": WIRE | {"anyhow", "nix", "libc", "libcontainer"},
    "ferropod": {"libcontainer"},
}
# And those that must not reach it by any way.
UNREACHABLE = {
    "pod": {"tokio", "tonic", "nix"},
    "spec": {"tokio", "tonic"},
    "ferropod-shim": {"tokio", "tonic", "libcontainer"},
    "ferropod-launch": {"tokio", "tonic"},
    "ferropod-enter": {"tokio", "tonic", "libcontainer", "libseccomp", "serde_json"},
}
LONG = 500


def metadata():
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def direct(package):
    return {dependency["name"] for dependency in package["dependencies"] if dependency["kind"] is None}


def reachable(package, names, nodes):
    """The names of all packages that are linked into this one."""
    seen, todo = set(), [package["id"]]
    while todo:
        for dependency in nodes[todo.pop()]["deps"]:
            linked = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            if linked and dependency["pkg"] not in seen:
                seen.add(dependency["pkg"])
                todo.append(dependency["pkg"])
    return {names[identity] for identity in seen}


def main():
    data = metadata()
    names = {package["id"]: package["name"] for package in data["packages"]}
    nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
    members = [package for package in data["packages"] if package["id"] in data["workspace_members"]]
    wrong = 0
    for package in members:
        name = package["name"]
        for other in sorted(direct(package) & FORBIDDEN.get(name, set())):
            wrong += 1
            print(f"{name} depends on {other}, which its kind of work must not see")
        if name in UNREACHABLE:
            for other in sorted(reachable(package, names, nodes) & UNREACHABLE[name]):
                wrong += 1
                print(f"{name} reaches {other} through its dependencies")
    unknown = sorted(set(FORBIDDEN) - {package["name"] for package in members})
    if unknown:
        wrong += 1
        print(f"no such crates any more: {', '.join(unknown)}")
    for path in sorted(pathlib.Path().glob("**/*.rs")):
        if path.parts[0] != "target" and len(path.read_text().splitlines()) > LONG:
            print(f"warning: {path} has more than {LONG} lines")
    return 1 if wrong else 0


sys.exit(main())
