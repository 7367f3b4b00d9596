# SPDX-License-Identifier: Apache-2.0
"""The cache of the guest harness: what was fetched or built once, and is used offline ever after.

Everything lies under ${XDG_CACHE_HOME:-~/.cache}/devmem-loader/guest. A thing built from a recipe is named after a hash of that
recipe, appears by rename only, and is never changed afterwards. Removing the folder makes the next run fetch newer packages.
"""
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time


class Missing(Exception):
    """Something this machine lacks (root, a program, the network): the guest's tests are skipped, with this reason."""


class Broken(Exception):
    """Something of ours does not build or boot: a failure."""


def folder():
    base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "devmem-loader" / "guest"
    base.mkdir(parents=True, exist_ok=True)
    return base


def say(text):
    print(f"-- {text}\n", end="", flush=True)  # in one piece, whatever other threads print


def digest(*parts):
    """Twelve hex digits over strings, JSON-able values and files (given as Path)."""
    h = hashlib.sha256()
    for part in parts:
        h.update(part.read_bytes() if isinstance(part, pathlib.Path) else json.dumps(part, sort_keys=True).encode())
        h.update(b"\0")
    return h.hexdigest()[:12]


@contextlib.contextmanager
def lock(path, seconds=3600):
    """Exclusive among processes. Waits, says so, and gives up after a while rather than hang a CI run."""
    with open(path, "a", encoding="ascii") as handle:
        deadline, told = time.monotonic() + seconds, False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    say(f"another run holds {path}: waiting for it")
                    told = True
                if time.monotonic() > deadline:
                    raise Broken(f"{path} was still held by another run after {seconds} s: end that one and try again") from None
                time.sleep(0.2)  # only how often we ask
        yield


@contextlib.contextmanager
def building(target):
    """A temporary sibling of `target` to build in; renamed into place if the body succeeds, removed if not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        os.chmod(temporary, 0o755)
        made = temporary / "made"
        yield made
        os.rename(made, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def used(path):
    """Notes that this cached thing is in use, and removes its predecessors that nobody used for two weeks. Returns it."""
    os.utime(path)
    for other in folder().glob(f"{path.name.rsplit('-', 1)[0]}-*"):
        if other.stat().st_mtime < time.time() - 14 * 86400:
            shutil.rmtree(other) if other.is_dir() else other.unlink()
    return path


def run(command, log, what, timeout, **more):
    """Runs a command with its output in `log`; a failure shows the end of it and names the whole."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as out:
        out.write(("$ " + " ".join(map(str, command)) + "\n").encode())
        out.flush()
        try:
            done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                  timeout=timeout, check=False, **more)
            status = done.returncode
        except subprocess.TimeoutExpired:
            status = f"no end after {timeout} s"
    if status != 0:
        tail = log.read_text(errors="replace").splitlines()[-15:]
        print("\n".join(tail), file=sys.stderr)
        raise Broken(f"{what} failed ({status}); whole log: {log}")


def need_root(why):
    if os.geteuid() != 0:
        raise Missing(f"root is needed once, to {why}: run `./dev guest --build-only` as root")


def need_program(name, package):
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        raise Missing(f"{name} is not installed: apt-get install --no-install-recommends {package}")
    return path
