# SPDX-License-Identifier: Apache-2.0
"""Which tests there are, read from their sources without running them, and which of them words on the command line name.

A suite is a folder of tests/guest with *_test.py files. Its suite.json may say what it needs:
  memory, cpus      of the guest
  programs          names of our programs (build/release/bin) that come along, built first
  long              true: runs only when named, and in ./dev test --long
  icount            the guest's clock counts instructions (host/boot.py)
  cmdline           words for the kernel's command line
  plugin            of QEMU, a file of build/release/bin; what it tells goes to build/logs/guest/KERNEL/SUITE-1.plugin
  kernel            the oldest that it is for: "7.3"
A class with LONG = True in it is long by itself, one with LONG = ("6.12",) on these kernels.
"""
import ast
import json

NO_SUITES = ("host", "lib")


def settings(folder, suite):
    path = folder / suite / "suite.json"
    said = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {"memory": "2G", "cpus": 2, "programs": [], "long": False, "icount": None, "kernel": None,
            "cmdline": [], "plugin": None} | said


def every(folder):
    """All tests: {"id", "suite", "module", "class", "name", "long"}."""
    tests = []
    for path in sorted(folder.glob("*/*_test.py")):
        suite = path.parent.name
        if suite in NO_SUITES:
            continue
        long = settings(folder, suite)["long"]
        classes = {}
        for cls in ast.parse(path.read_text(encoding="utf-8"), str(path)).body:
            if not isinstance(cls, ast.ClassDef):
                continue
            classes[cls.name] = names = inherited(cls, classes)
            for name in names:
                tests.append({"id": f"{suite}/{path.stem}.{cls.name}.{name}", "suite": suite, "module": path.stem,
                              "class": cls.name, "name": name, "long": long or long_on(cls)})
    return tests


def inherited(cls, classes):
    """Names of a class's tests: those of bases in the same file, then its own."""
    names = [name for base in cls.bases if isinstance(base, ast.Name) for name in classes.get(base.id, [])]
    return names + [function.name for function in cls.body
                    if isinstance(function, ast.FunctionDef) and function.name.startswith("test_") and function.name not in names]


def long_on(cls):
    """What a class says of itself: True, kernels, or nothing."""
    said = [ast.literal_eval(each.value) for each in cls.body if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "LONG"]
    return said[0] if said else False


def is_long(test, line):
    """Whether a test is long on a kernel."""
    return test["long"] is True or bool(test["long"]) and line in test["long"]


def chosen(tests, words):
    """The tests that any word names: a suite, a file, a class, a test, or a part of an id. And the words that name none."""
    if not words:
        return tests, []
    picked, lost = [], []
    for word in words:
        word = word.removeprefix("tests/guest/").removesuffix(".py")
        exact = [test for test in tests if word in (test["suite"], test["module"], test["class"], test["name"], test["id"],
                                                    f"{test['suite']}/{test['module']}", f"{test['module']}.{test['class']}",
                                                    test["id"].split("/", 1)[1])]
        found = exact or [test for test in tests if word in test["id"]]
        picked += [test for test in found if test not in picked]
        if not found:
            lost.append(word)
    return [test for test in tests if test in picked], lost
