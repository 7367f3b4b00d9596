# SPDX-License-Identifier: Apache-2.0
"""Names that a document gives to things, and the things: metrics, variables of the environment, keys of the configuration, systemd's units
and their lines, paths on an installed machine, folders of the tree, tests, and the words of errors.

Each function takes the tree as {name: text} and yields (document, what is wrong). check.py prints them; `check.py names` runs all of these.
"""
import json
import posixpath
import re

EVERY_TEST = re.compile(r"`(\w+_(?:test|soak)\.\w+\.test_\w+)`")
PLACE = "…"  # in the words of an error: what differs from one time to the next


def documents(tree):
    return {name: text for name, text in tree.items() if name.endswith(".md")}


def sources(tree):
    """What is no document: code, build files, units, scripts."""
    return "\n".join(text for name, text in tree.items()
                     if not name.endswith((".md", ".golden")) and not name.startswith(("tests/lint/names", "tests/fuzz/corpus/")))


def spans(text):
    """What stands in backticks within a line, and the lines of fenced blocks."""
    fenced = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.M | re.S)
    bare = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return re.findall(r"`([^`\n]+)`", bare) + [line for block in fenced for line in block.splitlines()]


def settings(tree):
    found = re.findall(r"^  (?:repeated )?[\w.]+ (\w+) = \d+ \[\(setting\)", tree["proto/devmem_loader/v1/config.proto"], re.M)
    assert len(found) > 20, "config.proto is read wrongly"
    return set(found)


def metrics(tree):
    """Every devmem_loader_* of a document, the dashboard or the alerts is a row of docs/metrics.md, which a test holds to the daemon's page."""
    rows = dict(re.findall(r"^\| `(\w+)` \| (gauge|counter|histogram) \|", tree["docs/metrics.md"], re.M))
    assert len(rows) > 40, "docs/metrics.md is read wrongly"
    known = set(rows) | {f"{name}_{part}" for name, kind in rows.items() if kind == "histogram" for part in ("bucket", "sum", "count")}
    for name, text in tree.items():
        if not (name.endswith(".md") or name.startswith(("deploy/grafana/", "deploy/prometheus/", "deploy/kubernetes/"))):
            continue
        for metric in sorted(set(re.findall(r"\b(devmem_loader_[a-z_]+[a-z])\b(?![./:])", text)) - known):
            if metric in ("devmem_loader_reader",):  # client/python
                continue
            yield name, f"names the metric {metric}, which docs/metrics.md has no row for"


def environment(tree):
    """DEVMEM_*: a flag of ours in capitals, or a name that code, tests or build files have."""
    code = sources(tree) + "".join(f" --{key.replace('_', '-')} " for key in settings(tree))
    for name, text in documents(tree).items():
        for variable in sorted(set(re.findall(r"\b(DEVMEM_[A-Z_]*[A-Z])\b", text))):
            flag = "--" + variable.removeprefix("DEVMEM_").lower().replace("_", "-")
            if not re.search(rf"\b{variable}\b", code) and not re.search(rf'{flag}\b', code):
                yield name, f"names the variable {variable}, which nothing reads"


def keys(tree):
    """Keys in `key: value`, in blocks of YAML, and in the configurations under deploy/, commented out or not."""
    known = settings(tree)
    for name, text in documents(tree).items():
        said = [match[1] for span in spans(text) if (match := re.match(r"([a-z]+(?:_[a-z]+)+): \S", span.strip()))]
        for block in re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S):
            said += re.findall(r"^([a-z]\w*):", block, re.M)
        for key in sorted(set(said) - known):
            yield name, f"names the setting {key}, which proto/devmem_loader/v1/config.proto does not have"
    for name, text in tree.items():
        if name.startswith("deploy/") and name.endswith("/config.yaml") and name != "deploy/config.yaml":  # that is made by ./dev docs
            for key in sorted(set(re.findall(r"^(?:# ?)?([a-z]+(?:_[a-z]+)*):(?: |$)", text, re.M)) - known):
                yield name, f"has the setting {key}, which proto/devmem_loader/v1/config.proto does not have"


def units(tree):
    """Units that systemctl and journalctl are given, and the lines of units, are those in deploy/systemd/."""
    ours = {name.split("/")[-1].removesuffix(".in"): text for name, text in tree.items() if re.match(r"deploy/systemd/.*\.(service|socket)\.in", name)}
    assert ours, "deploy/systemd has no unit"
    names = set(ours) | {name.split(".")[0] for name in ours}
    lines = "\n".join(ours.values())
    for name, text in documents(tree).items():
        for span in spans(text):
            for words in re.findall(r"\b(?:systemctl [a-z-]+(?: --now)*|journalctl -u)((?: +[A-Za-z][\w.@-]*)+)", span):
                for unit in words.split():
                    if unit not in names:
                        yield name, f"names the unit {unit}; there are {', '.join(sorted(ours))}"
            if "systemctl reload" in span and "ExecReload=" not in lines:
                yield name, "names systemctl reload, and no unit has ExecReload="
            if (match := re.fullmatch(r"([A-Z][A-Za-z]+)=\S*", span)) and f"{match[1]}=" not in lines:
                yield name, f"names {match[1]}=, which no unit of deploy/systemd/ has"


def paths(tree):
    """Paths of an installed machine that are ours, and folders of the tree."""
    code = sources(tree).replace("${CMAKE_INSTALL_DATAROOTDIR}", "/usr/share").replace("${config_folder}", "/etc/devmem-loader")
    code = re.sub(r"@CMAKE_INSTALL_FULL_(\w+?)(?:ROOT)?DIR@",
                  lambda match: {"BIN": "/usr/bin", "SYSCONF": "/etc", "DATA": "/usr/share"}.get(match[1], match[0]), code)
    tops = {name.split("/")[0] for name in tree if "/" in name}
    folders = {name[:at] for name in tree for at, letter in enumerate(name) if letter == "/"}
    for name, text in documents(tree).items():
        here = name.rpartition("/")[0]
        linux = name.startswith("kernel/")  # which speaks of Linux's folders, too
        for span in spans(text):
            for path in re.findall(r"(?<![\w./:-])(/(?:etc|run|usr|var|dev)/[\w./-]*devmem[\w./-]*)", span):
                path = path.rstrip("/.")
                if path not in code and not any(path == f"/usr/share/doc/{package}/{rest}" for package, rest in
                                                re.findall(r"^/usr/share/doc/([a-z+-]+)/(.+)$", path) if f"docs/{rest}" in tree or rest == "examples"):
                    yield name, f"names {path}, which nothing installs, makes or reads"
            for path in re.findall(r"(?<![\w./:-])([a-z]+(?:/[\w.-]+)+)/?(?![\w/*.])", span):
                if path.split("/")[0] not in tops or path in tree or path in folders or path.startswith("build/"):
                    continue
                if f"{here}/{path}" in tree or f"{here}/{path}" in folders or "." in path.split("/")[-1]:  # files: the check `docs`
                    continue
                if re.match(r"(base|client|deploy|docs|gpu|kernel|net|proto|service|tests)/", path) and " " not in span and not linux:
                    yield name, f"names {path}, which is no folder here"


def tests(tree):
    """module.Class.test of Python, wherever it is named, and Suite.Test of C++ in docs/security.md."""
    exist, suites = set(), set()
    for name, text in tree.items():
        if name.startswith("tests/") and re.search(r"_(test|soak)\.py$", name):
            module, cls = name.split("/")[-1].removesuffix(".py"), None
            for line in text.splitlines():
                if match := re.match(r"class (\w+)", line):
                    cls = match[1]
                elif match := re.match(r"    def (test_\w+)", line):
                    exist.add(f"{module}.{cls}.{match[1]}")
        elif name.endswith("_test.cc"):
            suites |= {f"{suite}.{test}" for suite, test in re.findall(r"^TEST(?:_[FP])?\((\w+),\s*(\w+)\)", text, re.M)}
    assert exist and suites, "no test was found"
    for name, text in documents(tree).items():
        for test in sorted(set(EVERY_TEST.findall(text)) - exist):
            yield name, f"names the test {test}, which does not exist"
    for test in re.findall(r"`([A-Z]\w+\.[A-Z]\w+)`", tree.get("docs/security.md", "")):
        if test not in suites:
            yield "docs/security.md", f"names the test {test}, which does not exist"


def words(tree):
    """What a person is told to look for in docs/operations.md is what a program says: the first column of its tables of symptoms, between
    the places marked with … a piece of a text in the code."""
    said = re.sub(r'"\s*\n\s*"', "", "\n".join(text for name, text in tree.items()
                                              if name.endswith((".cc", ".cu", ".h", ".proto")) and not name.endswith("_test.cc")))
    said = "\n".join(re.findall(r'"((?:[^"\\\n]|\\.)*)"', said)).replace('\\"', '"')  # in a text, not anywhere
    table = False
    rows = 0
    for line in tree["docs/operations.md"].splitlines():
        if line.startswith("| you see |"):
            table = True
        elif not line.startswith("|"):
            table = False
        elif table:
            for span in re.findall(r"`([^`]+)`", line.split(" | ")[0]):
                rows += 1
                for piece in [piece.strip() for piece in span.split(PLACE) if piece.strip()]:
                    if piece not in said:
                        yield "docs/operations.md", f"says that a program says '{piece}', which none does"
    assert rows > 60, "docs/operations.md has no table of symptoms"


def alerts(tree):
    """Each alert has its section, each section of an alert its alert."""
    known = set(re.findall(r"^\s*- alert: (\w+)", tree["deploy/prometheus/alerts.yaml"], re.M))
    for name, text in documents(tree).items():
        for alert in sorted(set(re.findall(r"\b(DevmemLoader[A-Z]\w+)", text)) - known):
            yield name, f"names the alert {alert}, which deploy/prometheus/alerts.yaml does not have"


def anchors(tree):
    """A link to a section of a document leads to one."""
    slugs = {name: {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.M)}
             for name, text in documents(tree).items()}
    for name, text in documents(tree).items():
        for target, anchor in re.findall(r"\]\(([^)#:\s]*)#([^)\s]+)\)", text):
            where = posixpath.normpath(posixpath.join(posixpath.dirname(name), target)) if target else name
            if anchor not in slugs.get(where, ()):
                yield name, f"links to #{anchor} of {where}, which has no such section"


def check(tree):
    json.loads(tree["deploy/grafana/devmem-loader.json"])
    bad = []
    for kind in (metrics, environment, keys, units, paths, tests, words, alerts, anchors):
        bad += [f"{name}: {what}" for name, what in kind(tree)]
    return sorted(set(bad))
