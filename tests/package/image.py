# SPDX-License-Identifier: Apache-2.0
"""Builds the image as ./dev image does: buildah, as root, from a debootstrapped base, without a registry.

    image.py --version 0.1.0 [--packages FOLDER] [--work build/image]

With --packages the Debian packages in FOLDER go in, in place of ones built in the image. The image is NAME in buildah's storage below
the work folder; `buildah $(image.py --storage) images` shows it.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys

import base
from base import cache

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAME = "localhost/devmem-loader"
BASE = f"localhost/debian:{base.SUITE}"
# What a minimal image leaves away: it is a third of the base.
LEFT_OUT = ["./proc/*", "./sys/*", "./dev/*", "./run/*", "./tmp/*", "./var/lib/apt/lists/*", "./var/cache/*", "./var/log/*",
            "./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*", "./usr/share/info/*", "./usr/sbin/policy-rc.d"]


class Buildah:
    """buildah with a storage of its own: nothing of this machine's is touched."""

    def __init__(self, work):
        self.work = pathlib.Path(work)
        self.program = cache.need_program("buildah", "buildah")
        cache.need_root("build an image")
        self.options = [f"--root={self.work}/storage", f"--runroot={self.work}/run", "--storage-driver=vfs"]

    def run(self, *words, quiet=True):
        done = subprocess.run([self.program, *self.options, *map(str, words)], cwd=self.work, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE if quiet else None, stderr=subprocess.PIPE if quiet else None, check=False)
        if done.returncode != 0:
            raise cache.Broken(f"buildah {words[0]} failed" + (f":\n{done.stderr[-3000:]}" if quiet else ""))
        return done.stdout.strip() if quiet else ""

    def exists(self, name):
        return subprocess.run([self.program, *self.options, "inspect", "--type=image", name], capture_output=True, check=False).returncode == 0

    def config(self):
        """The image's configuration: User, Entrypoint, Labels, Healthcheck."""
        return json.loads(self.run("inspect", "--type=image", NAME))["Docker"]["config"]


def import_base(buildah):
    tree = base.make()
    name = f"{BASE}-{tree.name.rsplit('-', 1)[1]}"
    if not buildah.exists(name):
        cache.say(f"importing {tree} as {name}")
        archive = buildah.work / "base.tar"
        subprocess.run(["tar", "-C", tree, *[f"--exclude={pattern}" for pattern in LEFT_OUT], "--xattrs", "-cf", archive, "."], check=True)
        container = buildah.run("from", "scratch")
        buildah.run("add", container, archive, "/")
        buildah.run("commit", "--rm", container, name)
        archive.unlink()
    return name


def context(work, packages):
    """A folder with the tree's files, and nothing that git ignores; packages, if there are any, are in its folder `packages`."""
    folder = work / "context"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(f"tar --null --ignore-failed-read --files-from=- -cf - | tar -xf - -C '{folder}'", cwd=ROOT, input=names, shell=True, check=True)
    if packages:
        (folder / "packages").mkdir()
        for deb in packages.glob("*.deb"):
            shutil.copy(deb, folder / "packages")
    return folder


def build(work, version, packages=None):
    """Builds it; the Buildah that has it."""
    buildah = Buildah(work)
    git = ["git", "-C", ROOT, "log", "-1"]
    revision, created = (subprocess.run([*git, f"--format={what}"], capture_output=True, text=True, check=True).stdout.strip() for what in ("%H", "%cI"))
    arguments = {"BASE": import_base(buildah), "VERSION": version, "REVISION": revision, "CREATED": created}
    if packages:
        arguments["PACKAGES"] = "packages"
    # Docker's format: OCI's has no health check.
    buildah.run("bud", "--isolation=chroot", "--pull-never", "--format=docker", *[f"--build-arg={key}={value}" for key, value in arguments.items()],
                "--tag", NAME, "--tag", f"{NAME}:{version}", "--file", ROOT / "Dockerfile", context(work, packages), quiet=False)
    return buildah


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--version", default="0.0.0")
    parser.add_argument("--packages", type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build/image")
    parser.add_argument("--storage", action="store_true", help="print the options that name its storage to buildah")
    options = parser.parse_args()
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TMPDIR", str(options.work))  # layers on their way are as large as the image
    try:
        if options.storage:
            print(*Buildah(options.work).options)
            return 0
        buildah = build(options.work, options.version, options.packages and options.packages.resolve())
        print(f"built {NAME}:{options.version}; {json.dumps(buildah.config()['Labels'])}")
    except cache.Missing as missing:
        print(f"image: {missing}", file=sys.stderr)
        return 77
    except cache.Broken as broken:
        print(f"image: {broken}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
