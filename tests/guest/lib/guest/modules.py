# SPDX-License-Identifier: Apache-2.0
"""Loading and unloading modules: the kernel's own, and ours in /payload/modules."""
import ctypes
import os
import pathlib
import re

from . import Bad, shell

OURS = pathlib.Path("/payload/modules")
SYS_DELETE_MODULE, SYS_FINIT_MODULE = 176, 313  # of x86-64
_libc = ctypes.CDLL(None, use_errno=True)


def loaded(name):
    return pathlib.Path(f"/sys/module/{name}/initstate").exists()


def load(name, **parameters):
    """Loads a module with parameters. Ours has its dependencies loaded first."""
    words = [f"{key}={value}" for key, value in parameters.items()]
    ours = OURS / f"{name}.ko"
    if not ours.exists():
        shell.run(["modprobe", name, *words])
        return
    depends = re.search(rb"\0depends=([^\0]*)\0", ours.read_bytes())
    for need in filter(None, depends[1].decode().split(",") if depends else ()):
        load(need)
    with open(ours, "rb") as file:
        failed = _libc.syscall(SYS_FINIT_MODULE, file.fileno(), " ".join(words).encode(), 0)
    if failed:
        raise Bad(f"loading {name} {' '.join(words)}: {os.strerror(ctypes.get_errno())}; the kernel log says why")


def unload(name):
    """Unloads a module; does nothing if it is not loaded. Waits in the kernel, so a deadline cannot free us: the agent's does."""
    if loaded(name) and _libc.syscall(SYS_DELETE_MODULE, name.encode(), os.O_NONBLOCK):
        raise Bad(f"unloading {name}: {os.strerror(ctypes.get_errno())}; lsmod tells who uses it")


def unload_ours():
    """Unloads every module of ours. Returns the names of those that were still loaded."""
    left = [path.stem for path in sorted(OURS.glob("*.ko")) if loaded(path.stem)]
    for name in left:
        unload(name)
    return left
