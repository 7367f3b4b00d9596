# SPDX-License-Identifier: Apache-2.0
"""A Debian tree as debootstrap leaves it (bookworm, minbase), made once and cached, and a throw-away copy of it to install things in.

    with base.tree(work) as tree:                      # an overlay over the cached one, with /proc and /dev
        tree.run("apt-get", "-y", "install", "/mnt/x.deb")    # as root in the tree; /mnt is `work`
        command = tree.command("/usr/bin/devmem-loaderd", user="devmem-loader")

What apt fetches is kept beside it: a second run needs no network. Needs root. cache.Missing says what this machine lacks.
"""
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "guest"))
from host import cache, fetch, toolchain  # noqa: E402  pylint: disable=wrong-import-position

SUITE = "bookworm"
RECIPE = 1  # counts up when make() changes


def make():
    """The cached tree, with apt's lists in it."""
    with cache.lock(cache.folder() / "base.lock"):
        target = cache.folder() / f"base-{cache.digest(SUITE, RECIPE)}"
        if not target.exists():
            cache.say(f"making a {SUITE} tree (once)")
            log = cache.folder() / "logs" / "base.log"
            with cache.building(target) as made:
                toolchain.bootstrap(made, [], log, SUITE)
                (made / "etc/apt/sources.list").write_text(f"deb {fetch.mirror()} {SUITE} main\n", encoding="ascii")
                (made / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n", encoding="ascii")  # nothing starts here by itself
                os.chmod(made / "usr/sbin/policy-rc.d", 0o755)
                shutil.copy("/etc/resolv.conf", made / "etc/resolv.conf")
                done = subprocess.run(["chroot", made, "apt-get", "-q", "--error-on=any", "update"], capture_output=True, text=True, timeout=600, check=False)
                if done.returncode != 0:
                    raise cache.Missing(f"the package lists of {SUITE} could not be fetched: {fetch.reason(done)}")
        return cache.used(target)


class Tree:
    """A tree to run things in."""

    def __init__(self, root):
        self.root = root

    def command(self, *words, user=None):
        who = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
        return ["chroot", str(self.root), *who, "/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8",
                "DEBIAN_FRONTEND=noninteractive", *map(str, words)]

    def run(self, *words, timeout=300, user=None):
        """Runs to its end; (status, what it said)."""
        done = subprocess.run(self.command(*words, user=user), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=timeout, check=False)
        return done.returncode, done.stdout

    def files(self):
        """{path: (kind and mode, owner)} of everything but what apt, dpkg and mounts keep for themselves."""
        own = ("var/cache", "var/lib/apt", "var/lib/dpkg", "var/log", "proc", "sys", "dev", "mnt", "tmp")
        found = {}
        for folder, folders, names in os.walk(self.root):
            at = os.path.relpath(folder, self.root)
            folders[:] = [name for name in folders if os.path.normpath(os.path.join(at, name)) not in own]
            for name in folders + names:
                path = os.path.join(folder, name)
                said = os.lstat(path)
                found[os.path.normpath(os.path.join("/", at, name))] = (oct(said.st_mode), said.st_uid, said.st_gid)
        return found


@contextlib.contextmanager
def tree(work):
    """A writable copy of the base, gone afterwards; `work` is at its /mnt."""
    lower = make()
    work = pathlib.Path(work)
    archives = cache.folder() / "archives"
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    # On a tmpfs of its own: the upper layer of an overlay cannot lie on every file system.
    scratch = work / "overlay"
    root = work / "root"
    mounted = []

    def mount(*words):
        subprocess.run(["mount", *map(str, words)], check=True)
        mounted.append(words[-1])

    try:
        for folder in (scratch, root):
            folder.mkdir()
        mount("-t", "tmpfs", "tmpfs", scratch)
        for folder in ("upper", "inner"):
            (scratch / folder).mkdir()
        mount("-t", "overlay", "-o", f"lowerdir={lower},upperdir={scratch}/upper,workdir={scratch}/inner", "overlay", root)
        mount("-t", "proc", "proc", root / "proc")
        mount("--bind", "/dev", root / "dev")
        mount("--bind", archives, root / "var/cache/apt/archives")
        (work / "shared").mkdir()
        mount("--bind", work / "shared", root / "mnt")
        yield Tree(root)
    finally:
        end_all_in(root)
        for place in reversed(mounted):
            subprocess.run(["umount", "-l", str(place)], check=False, stderr=subprocess.DEVNULL)  # a test may have been there first


def end_all_in(root):
    """Ends what still runs with this root: a process of the test's that its own end did not take along."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/root") == str(root):
                os.kill(int(pid), signal.SIGKILL)


if __name__ == "__main__":
    print(make())
