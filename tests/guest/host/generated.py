# SPDX-License-Identifier: Apache-2.0
"""What upstream's generator (tools/net/ynl) makes of a module's netlink specification: kernel/MODULE/Documentation/netlink/specs/*.yaml.

The files are committed. They are made anew to compare them whenever specification or files changed, before the module is built.
"""
import pathlib
import shutil
import subprocess
import tempfile

from . import cache, fetch, toolchain, upstream

SPECS = "Documentation/netlink/specs"
GENERATE = "python3 /mnt/tools/net/ynl/pyynl/ynl_gen_c.py --spec {spec} --function-prefix {prefix} --mode {mode} --{part} -o {out}"
PREFIX = {"devmem-binding": "dmb"}  # of the functions that the module's family calls


def files(spec):
    """{file in the module's folder: (mode, part)} that come from one specification."""
    name = spec.stem.replace("-", "_")
    return {f"include/uapi/linux/{name}.h": ("uapi", "header"), f"{name}_nl.h": ("kernel", "header"), f"{name}_nl.c": ("kernel", "source")}


def specs(module):
    return sorted((module / SPECS).glob("*.yaml"))


def made(module, scratch):
    """Generates everything of a module below `scratch`; yields (file's name, path of what was made)."""
    linux, tree = upstream.tree(), toolchain.chroot()
    shutil.copytree(linux / "tools/net/ynl/pyynl", scratch / "tools/net/ynl/pyynl")
    (scratch / SPECS).mkdir(parents=True)
    (scratch / "MAINTAINERS").touch()  # what the generator takes for the root of a kernel tree; without one, it looks for ever
    for schema in (linux / "Documentation/netlink").glob("*.yaml"):
        shutil.copy2(schema, scratch / "Documentation/netlink")
    for spec in specs(module):
        shutil.copy2(spec, scratch / SPECS)
        commands = ["cd /mnt"]
        for name, (mode, part) in files(spec).items():
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            commands.append(GENERATE.format(spec=f"{SPECS}/{spec.name}", prefix=PREFIX[spec.stem], mode=mode, part=part, out=name))
        log = cache.folder() / "logs" / "generated.log"
        log.unlink(missing_ok=True)
        cache.run(toolchain.inside(tree, scratch, ["sh", "-c", " && ".join(commands)]), log, f"generating code from {spec.name}", 120)
        for name in files(spec):
            yield name, scratch / name


def write(module):
    """Brings the committed files up to date."""
    if not specs(module):
        return
    with tempfile.TemporaryDirectory() as scratch:
        for name, path in made(module, pathlib.Path(scratch)):
            (module / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, module / name)
            cache.say(f"{module.name}/{name}")


def check(module, stamp):
    """Raises Broken unless the committed files are what the generator makes. `stamp` remembers what was found in order."""
    texts = [path.read_text(encoding="utf-8") if path.exists() else "" for spec in specs(module)
             for path in (spec, *(module / name for name in files(spec)))]
    if not texts:
        return
    digest = cache.digest(*texts, [deb.name for deb in fetch.package(*upstream.SOURCE_PACKAGE)])
    if stamp.exists() and stamp.read_text(encoding="utf-8") == digest:
        return
    with tempfile.TemporaryDirectory() as scratch:
        for name, path in made(module, pathlib.Path(scratch)):
            ours = module / name
            if not ours.exists() or ours.read_bytes() != path.read_bytes():
                raise cache.Broken(f"kernel/{module.name}/{name} is not what its specification makes: ./dev guest --generate")
    stamp.write_text(digest, encoding="utf-8")
