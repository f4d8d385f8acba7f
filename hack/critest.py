"""Sums up a JSON report of critest: critest.py REPORT EXCEPTIONS FOCUS."""

import json
import re
import sys


def exceptions(path):
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.strip() and not line.startswith("#"):
                pattern, reason = line.split(" | ", 1)
                yield re.compile(pattern.strip()), reason.strip()


def specs(path):
    """Name, state and message of every spec, and of every set-up step that failed."""
    with open(path, encoding="utf-8") as report:
        suites = json.load(report)
    for spec in (spec for suite in suites for spec in suite["SpecReports"] or []):
        is_spec, state = spec["LeafNodeType"] == "It", spec["State"]
        if is_spec or state not in ("passed", "skipped"):
            words = (spec.get("ContainerHierarchyTexts") or []) + [spec["LeafNodeText"] or spec["LeafNodeType"]]
            yield " ".join(words), state, (spec.get("Failure") or {}).get("Message", ""), is_spec


def selected(report, focus):
    """Without the specs that critest left out because of the focus, or because they are (or are not) benchmarks."""
    every = [(*spec, " benchmark " in spec[0]) for spec in specs(report)]
    benchmarking = any(benchmark and state != "skipped" for _, state, _, _, benchmark in every)
    for name, state, message, is_spec, benchmark in every:
        if not is_spec or focus.search("CRI validation " + name) and benchmark == benchmarking:
            yield name, state, message


def gist(message):
    """The first line of a failure, and what the server said; the log has the rest."""
    first, *rest = message.strip().split("\n")
    said = [line.strip() for line in rest if "Message:" in line or "desc =" in line]
    return "".join(f"\n         {line}" for line in [first, *said[:1]])


def main():
    report, listed, focus = sys.argv[1:]
    listed = list(exceptions(listed))
    passed = failed = unlisted = 0
    excused = {}
    for name, state, message in selected(report, re.compile(focus)):
        reason = next((reason for pattern, reason in listed if pattern.search(name)), None)
        if state == "passed":
            passed += 1
        elif state != "skipped":
            failed += 1
            print(f"FAILED   {name} [{state}]{gist(message)}")
        elif reason:
            excused.setdefault(reason, []).append(name)
        else:
            unlisted += 1
            print(f"SKIPPED, and not in critest.exceptions   {name}{gist(message)}")
    for reason, names in excused.items():
        print(f"not run: {len(names)}, {reason}")
    skipped = unlisted + sum(map(len, excused.values()))
    if passed + failed + skipped == 0:
        print("no spec was selected")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or unlisted or not passed + skipped else 0


sys.exit(main())
