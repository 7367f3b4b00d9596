#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Quick checks of the tree: check.py format|spdx|docs|faults|layers|config|names|all.

  format  every C++ source is as clang-format-14 would have it
  spdx    every file of ours opens with its licence
  docs    what the documentation names exists: files, ./dev verbs, flags
  faults  every test named in docs/faults.md exists, and every end-to-end test of a fault is named there
  layers  a folder includes only what stands above it (docs/architecture.md)
  config  what is written about the settings is what their schema says
  names   metrics, variables, settings, units, paths, tests and errors that a document names exist
"""
import pathlib
import re
import shutil
import subprocess
import sys

import names

ROOT = pathlib.Path(__file__).resolve().parents[2]
SKIP = 77
UAPI_LICENCE = "SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR BSD-3-Clause)"
LAYERS = ["base", "proto", "kernel", "gpu", "net", "client", "service"]
# service -> client: the CLI reads through the client library like any trainer. client never sees net.
ALLOWED = {
    "base": {"base"},
    "gpu": {"base", "gpu"},
    "net": {"base", "gpu", "net"},
    "client": {"base", "gpu", "client"},
    "service": {"base", "gpu", "net", "client", "service"},
}


def tree():
    """Files of ours: tracked, or new and not ignored. Without git (an exported tree), everything but build/."""
    done = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True,
                          text=True, check=False)
    if done.returncode == 0 and done.stdout:
        names = done.stdout.splitlines()
    else:
        names = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file()]
        names = [name for name in names if not name.startswith(("build/", ".git/")) and "__pycache__" not in name]
    return [name for name in sorted(names) if (ROOT / name).is_file()]


def text(name):
    return (ROOT / name).read_text(encoding="utf-8", errors="replace")


def check_format():
    tool = shutil.which("clang-format-14")
    if tool is None:
        print("SKIP: clang-format-14 is not installed")
        sys.exit(SKIP)
    names = [name for name in tree() if name.endswith((".h", ".cc")) and not name.startswith("kernel/")]
    done = subprocess.run([tool, "--dry-run", "-Werror", *names], cwd=ROOT, capture_output=True, text=True, check=False)
    return sorted({line.split(":")[0] + ": run ./dev format" for line in done.stderr.splitlines() if "-Wclang-format" in line})


def check_spdx():
    bad = []
    for name in tree():
        if name.startswith("tests/fuzz/corpus/") or name == "LICENSE" or name.endswith((".json", ".png", ".svg")):
            continue
        if name.endswith((".in", ".golden")) or "/testdata/" in name or name == ".gitignore":
            continue
        head = "\n".join(text(name).splitlines()[:3])
        licence = "GPL-2.0" if name.startswith("kernel/") else "Apache-2.0"
        if licence == "GPL-2.0" and UAPI_LICENCE in head:  # what user space includes, and what is generated beside it
            continue
        if f"SPDX-License-Identifier: {licence}\n" not in head + "\n" and f"SPDX-License-Identifier: {licence} " not in head:
            bad.append(f"{name}: no 'SPDX-License-Identifier: {licence}' in its first lines")
    return bad


def sources():
    return "\n".join(text(name) for name in tree() if name.endswith((".h", ".cc", ".py", ".proto")) or name == "dev")


def check_docs():
    bad = []
    settings = re.findall(r"^  (?:repeated )?[\w.]+ (\w+) = \d+ \[\(setting\)", text("proto/devmem_loader/v1/config.proto"), re.M)
    code = sources() + "".join(f" --{key.replace('_', '-')} " for key in settings)
    verbs = set(re.findall(r"^  (?:[a-z| ]*)$", text("dev"), re.M))
    verbs = set(re.findall(r"^verb_([a-z]+)\(\)", text("dev"), re.M)) | {"clean", "help"}
    for name in [name for name in tree() if name.endswith(".md")]:
        body = text(name)
        for path in re.findall(r"`([A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)+\.[a-z]+)`", body) + re.findall(r"\]\(([^)#:]+)\)", body):
            if path.startswith(("build/", "../")) or (ROOT / path).exists() or (ROOT / name).parent.joinpath(path).exists():
                continue
            bad.append(f"{name}: names {path}, which does not exist")
        for verb in re.findall(r"`\./dev ([a-z]+)", body):
            if verb not in verbs:
                bad.append(f"{name}: names './dev {verb}', which is no verb")
        for flag in sorted(set(re.findall(r"`(--[a-z][a-z0-9-]+)", body))):
            if flag not in code:
                bad.append(f"{name}: names the flag {flag}, which no source knows")
    return bad


def tests_in(pattern):
    """module.Class.test of every unittest method in the files that match."""
    found = set()
    for path in sorted(path for folder in ("tests/e2e", "tests/guest/e2e") for path in (ROOT / folder).glob(pattern)):
        cls = None
        for line in path.read_text(encoding="utf-8").splitlines():
            if match := re.match(r"class (\w+)", line):
                cls = match.group(1)
            elif match := re.match(r"    def (test_\w+)", line):
                found.add(f"{path.stem}.{cls}.{match.group(1)}")
    return found


def check_faults():
    table = text("docs/faults.md")
    named = set(re.findall(r"`(\w+_test\.\w+\.test_\w+)`", table))
    exist = tests_in("*_test.py")
    bad = [f"docs/faults.md: names {test}, which does not exist" for test in sorted(named - exist)]
    faults = {test for test in exist if test.split(".")[0].endswith(("faults_test", "input_test", "recovery_test"))}
    bad += [f"docs/faults.md: {test} is a test of a fault and has no row" for test in sorted(faults - named)]
    if not named:
        bad.append("docs/faults.md: names no test at all")
    return bad


def check_layers():
    bad = []
    for name in tree():
        folder = name.split("/")[0]
        if not name.endswith((".h", ".cc")) or folder not in ALLOWED or name.endswith(("_test.cc", "_bench.cc")):
            continue
        for include in re.findall(r'^#include "([a-z_]+)/', text(name), re.M):
            if include in LAYERS and include not in ALLOWED[folder]:
                bad.append(f"{name}: includes {include}/, which {folder}/ must not know")
    return bad


def check_config():
    python = "/usr/bin/python3"  # Debian's, which has protobuf; another one may be first in PATH
    done = subprocess.run([python, "-B", ROOT / "tests/lint/config_pages.py", "--check"], capture_output=True, text=True, check=False)
    if done.returncode == SKIP:
        print(done.stdout.strip())
        if sys.argv[1:] == ["config"]:
            sys.exit(SKIP)
        return []
    return [] if done.returncode == 0 else (done.stdout + done.stderr).splitlines()


def check_names():
    return names.check({name: text(name) for name in tree() if not name.endswith((".png", ".svg"))})


def main():
    checks = {"format": check_format, "spdx": check_spdx, "docs": check_docs, "faults": check_faults, "layers": check_layers,
              "config": check_config, "names": check_names}
    which = sys.argv[1] if len(sys.argv) > 1 else "all"
    if which != "all" and which not in checks:
        sys.exit(__doc__)
    bad = []
    for name, check in checks.items():
        if which in (name, "all"):
            bad += check()
    print("\n".join(bad) if bad else f"{which}: clean")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
