# SPDX-License-Identifier: Apache-2.0
"""The building of kernel/*/ for one kernel, in the toolchain's chroot."""
import os
import pathlib
import re
import shutil
import subprocess

from . import cache, fetch, generated, kernels, toolchain


def sources(kernel_folder):
    """Folders of kernel/ that hold a module."""
    return sorted(path.parent for path in kernel_folder.glob("*/Kbuild"))


def mirror_sources(source, work):
    """Copies what changed, so that make rebuilds just that; removes what is gone."""
    kept = set()
    for path in sorted(source.rglob("*")):
        inner = path.relative_to(source)
        if path.is_dir() or path.name.endswith((".o", ".ko", ".mod", ".mod.c", ".cmd")):
            continue
        kept.add(inner)
        copy = work / inner
        if not copy.exists() or copy.stat().st_mtime_ns != path.stat().st_mtime_ns or copy.stat().st_size != path.stat().st_size:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
    for copy in work.rglob("*.[chS]"):
        if copy.relative_to(work) not in kept and not copy.name.endswith(".mod.c"):
            copy.unlink()


def build(line, kernel_folder, build_folder, check=False, show=False):
    """Builds every module of kernel/ for one kernel; returns the .ko files. With `check`, sparse over every file of them."""
    tree, release = kernels.prepare(line)
    if check:
        toolchain.unpack(tree, fetch.package("sid", "sparse"))  # trixie's is too old for 7.3's headers
        # newer makefiles ask this script, which Debian's packages lack
        valid = tree / f"usr/lib/linux-kbuild-{release.split('-')[0]}/scripts/checker-valid.sh"
        if not valid.exists():
            valid.write_text("#!/bin/sh\necho 1\n", encoding="ascii")
            valid.chmod(0o755)
    made = []
    for source in sources(kernel_folder):
        generated.check(source, build_folder / f".generated-{source.name}")
        work = build_folder / release / source.name
        work.mkdir(parents=True, exist_ok=True)
        with cache.lock(build_folder / f".{release}-{source.name}.lock"):
            mirror_sources(source, work)
            command = ["make", "-C", f"/usr/src/linux-headers-{release}", "M=/mnt", "CC=gcc-14", f"-j{toolchain.JOBS}"]
            command += ["C=2", "CHECK=sparse", "CF=-D__CHECK_ENDIAN__"] if check else []
            done = subprocess.run(list(map(str, toolchain.inside(tree, work, [*command, "modules"]))), stdin=subprocess.DEVNULL, capture_output=True,
                                  text=True, errors="replace", timeout=900, check=False)
            (work / "make.log").write_text(done.stdout + done.stderr, encoding="utf-8")
            output = (done.stdout + done.stderr).replace("/mnt/", f"{os.path.relpath(source)}/")
            warned = re.search(r"(warning|error):", output)
            if show or done.returncode != 0 or warned:
                print(output.rstrip(), flush=True)
            if done.returncode != 0:
                raise cache.Broken(f"kernel/{source.name} does not build for {release} (above)")
            if check and warned:
                raise cache.Broken(f"sparse complains about kernel/{source.name} on {release} (above)")
            made += [stripped(tree, work, path.name) for path in work.glob("*.ko")]
    return made


def stripped(tree, work, name):
    """The module without debug information, as distributions ship theirs: the guest reads it for every test."""
    (work / "stripped").mkdir(exist_ok=True)
    command = toolchain.inside(tree, work, ["strip", "--strip-debug", "-o", f"/mnt/stripped/{name}", f"/mnt/{name}"])
    subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, timeout=60, check=True)
    return work / "stripped" / name
