# SPDX-License-Identifier: Apache-2.0
"""Debian packages of other suites, fetched privately: the system's apt sources and package state are only read.

Each suite has an apt state of its own in the cache, with the mirror the system's own sources name and Debian's keyring. What a
name resolved to the first time is written down (packages.json), so that later runs need neither network nor lists.
"""
import json
import os
import pathlib
import re
import shutil
import subprocess

from . import cache

KEYRING = pathlib.Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# What is used: version line -> where its packages are.
KERNELS = {"7.3": "trixie-backports", "6.12": "bookworm-backports"}
FLAVOUR = "cloud-amd64"


def mirror():
    """The mirror of the system's own sources."""
    release = dict(line.split("=", 1) for line in pathlib.Path("/etc/os-release").read_text(encoding="utf-8").splitlines() if "=" in line)
    codename = release.get("VERSION_CODENAME", "").strip('"')
    done = subprocess.run(["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"],
                          capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        suite, component, uri = line.split(" ", 2)
        if component == "main" and suite in (codename, "stable", "testing", "unstable") and "security" not in uri:
            return uri
    raise cache.Missing(f"the system's apt sources name no mirror of Debian {codename or '(unknown)'} main to fetch kernels from")


class Suite:
    """One suite with a private apt state."""

    def __init__(self, name):
        self.name = name
        self.root = cache.folder() / "apt" / name
        self.fresh = False

    def command(self, *arguments):
        options = {"Dir::Etc::SourceList": self.root / "sources.list", "Dir::Etc::SourceParts": "/dev/null",
                   "Dir::State": self.root, "Dir::State::Lists": self.root / "lists", "Dir::State::status": self.root / "status",
                   "Dir::Cache": self.root / "cache", "APT::Architecture": "amd64", "APT::Sandbox::User": "",
                   "Acquire::Languages": "none", "Acquire::Retries": "2", "Acquire::http::Timeout": "30"}
        return [arguments[0]] + [word for key, value in options.items() for word in ("-o", f"{key}={value}")] + list(arguments[1:])

    def update(self):
        """Reads the suite's lists anew, once a run."""
        if self.fresh:
            return
        if not KEYRING.exists():
            raise cache.Missing(f"{KEYRING} is missing: apt-get install debian-archive-keyring")
        for sub in ("lists/partial", "cache/archives/partial"):
            (self.root / sub).mkdir(parents=True, exist_ok=True)
        (self.root / "status").touch()
        (self.root / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror()} {self.name} main\n", encoding="ascii")
        cache.say(f"reading the package lists of {self.name}")
        done = subprocess.run(self.command("apt-get", "-q", "--error-on=any", "update"), capture_output=True, text=True, timeout=600, check=False)
        if done.returncode != 0:
            raise cache.Missing(f"the package lists of {self.name} could not be fetched: {reason(done)}")
        self.fresh = True

    def names(self, pattern):
        self.update()
        out = subprocess.run(self.command("apt-cache", "pkgnames"), capture_output=True, text=True, check=True).stdout
        return [name for name in out.split() if re.fullmatch(pattern, name)]

    def record(self, name):
        """A package's control fields: the newest version's."""
        self.update()
        done = subprocess.run(self.command("apt-cache", "show", "--no-all-versions", name), capture_output=True, text=True, check=False)
        if done.returncode != 0 or not done.stdout:
            raise cache.Missing(f"{self.name} has no package {name}")
        return dict(line.split(": ", 1) for line in done.stdout.split("\n\n")[0].splitlines() if re.match(r"[A-Z][\w-]*: ", line))

    def download(self, names):
        """Files of these packages, in the cache; apt checks their hashes against the signed lists."""
        store = cache.folder() / "debs"
        store.mkdir(exist_ok=True)
        files, wanted = [], []
        for name in names:
            fields = self.record(name)
            file = pathlib.Path(fields["Filename"]).name
            files.append(file)
            if not (store / file).exists():
                wanted.append((f"{name}={fields['Version']}", file, int(fields["Size"])))
        if wanted:
            cache.say(f"fetching {sum(size for _, _, size in wanted) / 1e6:.0f} MB: {', '.join(spec for spec, _, _ in wanted)}")
            partial = store / f".partial-{os.getpid()}"
            partial.mkdir()
            try:
                done = subprocess.run(self.command("apt-get", "-q", "download", *[spec for spec, _, _ in wanted]), cwd=partial,
                                      capture_output=True, text=True, timeout=1800, check=False)
                if done.returncode != 0:
                    raise cache.Missing(f"could not fetch {wanted[0][0]} and others from {self.name}: {reason(done)}")
                for got in partial.glob("*.deb"):  # apt writes an epoch's colon as %3a; the pool's names have none
                    name = got.name.split("_")[0]
                    file = next(file for spec, file, _ in wanted if spec.split("=")[0] == name)
                    os.rename(got, store / file)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return files


def reason(done):
    """What apt said first: the rest repeats it for each file."""
    return (done.stderr.strip().splitlines() or ["no reason given"])[0]


def version_key(text):
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]


def resolved(key, resolve):
    """What `key` stands for: a dictionary with "debs". Asked of the network only if it was never answered or a file is gone."""
    book = cache.folder() / "packages.json"
    known = json.loads(book.read_text(encoding="utf-8")) if book.exists() else {}
    store = cache.folder() / "debs"
    if key not in known or not all((store / file).exists() for file in known[key]["debs"]):
        known[key] = resolve()
        temporary = book.with_suffix(".new")
        temporary.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        os.rename(temporary, book)
    return dict(known[key], debs=[store / file for file in known[key]["debs"]])


def kernel(line):
    """The newest kernel of a version line with its headers: {"release", "debs"}."""
    suite = Suite(KERNELS[line])

    def resolve():
        found = suite.names(rf"linux-headers-{re.escape(line)}\.\d+\+deb\d+-{FLAVOUR}")
        if not found:
            raise cache.Missing(f"{suite.name} has no headers of a {line} {FLAVOUR} kernel")
        release = max(found, key=version_key).removeprefix("linux-headers-")
        names, todo = [], [f"linux-image-{release}", f"linux-headers-{release}"]
        while todo:  # the image may be split over several packages, and headers always are
            name = todo.pop()
            if name in names:
                continue
            names.append(name)
            fields = suite.record(name)
            depends = ", ".join(fields.get(field, "") for field in ("Depends", "Pre-Depends"))
            found = re.findall(r"\b(linux-(?:image|binary|modules|base|headers|kbuild)-\d[^\s,()|]*)", depends)
            todo += [name for name in found if not name.endswith("-unsigned")]
        return {"release": release, "debs": suite.download(sorted(names))}

    return resolved(f"kernel {line}", resolve)


def package(suite, *names):
    """Files of some packages of one suite, without what they depend on."""
    return resolved(f"{suite}: {' '.join(names)}", lambda: {"debs": Suite(suite).download(names)})["debs"]
