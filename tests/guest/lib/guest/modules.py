# SPDX-License-Identifier: Apache-2.0
"""Loading and unloading modules: the kernel's own, and ours in /payload/modules."""
import pathlib

from . import Bad, shell

OURS = pathlib.Path("/payload/modules")


def loaded(name):
    return pathlib.Path(f"/sys/module/{name}/initstate").exists()


def load(name, **parameters):
    """Loads a module with parameters. Ours has its dependencies loaded first."""
    words = [f"{key}={value}" for key, value in parameters.items()]
    ours = OURS / f"{name}.ko"
    if not ours.exists():
        shell.run(["modprobe", name, *words])
        return
    needs = shell.run(["modinfo", "-F", "depends", ours]).stdout.strip()
    for need in filter(None, needs.split(",")):
        load(need)
    done = shell.run(["insmod", ours, *words], ok=False)
    if done.returncode != 0:
        raise Bad(f"insmod {name} {' '.join(words)}: {done.stderr.strip()}; the kernel log says why")


def unload(name):
    """Unloads a module; does nothing if it is not loaded. rmmod waits in the kernel, so a deadline cannot free us: the agent's does."""
    if loaded(name):
        shell.run(["rmmod", name])


def unload_ours():
    """Unloads every module of ours. Returns the names of those that were still loaded."""
    left = [path.stem for path in sorted(OURS.glob("*.ko")) if loaded(path.stem)]
    for name in left:
        unload(name)
    return left
