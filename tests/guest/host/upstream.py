# SPDX-License-Identifier: Apache-2.0
"""The parts of upstream's kernel tree that tests use: ynl with its specifications, and the selftests of network drivers, built.

They come from Debian's kernel source package, are run in the guest, and are never committed.
"""
import json
import shutil
import subprocess

from . import cache, fetch, toolchain

SOURCE = "linux-source-7.3"
SOURCE_PACKAGE = ("trixie-backports", SOURCE)
LIBC_DEV = ("trixie-backports", "linux-libc-dev")  # trixie's own predates device memory
LIBURING = ("sid", "liburing-dev", "liburing2")  # the first with zero-copy receive is 2.10
BPF = ("trixie", "gcc-bpf", "binutils-bpf", "libbpf-dev")  # upstream uses clang, which is thirty times as large
PARTS = ["MAINTAINERS", "Documentation/netlink", "include/uapi", "scripts", "tools/net/ynl", "tools/lib", "tools/include", "tools/build",
         "tools/scripts", *[f"tools/testing/selftests/{name}" for name in
                            ("kselftest", "kselftest.h", "kselftest_harness.h", "lib.mk", "lib", "net", "drivers/net")]]
# folder under tools/testing/selftests, programs, further arguments of make
PROGRAMS = [("drivers/net/hw", ["ncdevmem", "toeplitz"], []),
            ("drivers/net/hw", ["iou-zcrx"], ["LDLIBS=-luring"]),
            ("drivers/net", ["napi_id_helper"], []),
            ("net/lib", ["csum", "gro", "xdp_helper"], [])]
BPF_OBJECTS = ["net/lib/xdp_dummy", "drivers/net/hw/nk_forward", "drivers/net/hw/nk_primary_rx_redirect"]

BUILD = """set -e
touch MAINTAINERS  # older than what is generated, code generation never ends
selftests=$PWD/tools/testing/selftests
{makes}
for name in {objects}; do
  bpf-gcc -O2 -g -gbtf -isystem /usr/include/x86_64-linux-gnu -isystem /usr/include -c $selftests/$name.bpf.c -o $selftests/$name.bpf.o
done
# The specifications as JSON: parsing YAML takes seconds on an emulated CPU (see the root image's yaml).
/usr/bin/python3 - Documentation/netlink/specs <<'PYTHON'
import json, pathlib, sys, yaml
for spec in pathlib.Path(sys.argv[1]).glob("*.yaml"):
    spec.with_suffix(".json").write_text(json.dumps(yaml.safe_load(spec.read_text())))
PYTHON
/usr/bin/python3 -m compileall -q tools/net/ynl/pyynl tools/testing/selftests/net/lib/py tools/testing/selftests/drivers/net/lib/py \\
  tools/testing/selftests/drivers/net/hw/lib/py
"""


def build_script():
    makes = [f"make -s -C $selftests/{folder} SHELL=/bin/bash CC=gcc-14 OUTPUT=$selftests/{folder} {' '.join(more)} " +
             " ".join(f"$selftests/{folder}/{name}" for name in names) for folder, names, more in PROGRAMS]
    return BUILD.format(makes="\n".join(makes), objects=" ".join(BPF_OBJECTS))


def tree():
    """The built tree, made if need be."""
    (source,) = fetch.package(*SOURCE_PACKAGE)
    libc_dev = fetch.package(*LIBC_DEV)
    liburing = fetch.package(*LIBURING)
    others = libc_dev + liburing + fetch.package(*BPF)
    built = cache.folder() / f"upstream-{cache.digest(source.name, [deb.name for deb in others], PARTS, build_script())}"
    if not built.exists():
        cache.need_root("build upstream's selftests")
        compiler = toolchain.chroot()
        toolchain.unpack(compiler, others)
        cache.say("unpacking and building upstream's selftests (once)")
        with cache.building(built) as made:
            made.mkdir()
            extract(source, made, [f"{SOURCE}/{part}" for part in PARTS])
            script = made / ".build.sh"
            script.write_text("cd /mnt\n" + build_script(), encoding="utf-8")
            log = cache.folder() / "logs" / "upstream.log"
            log.unlink(missing_ok=True)
            cache.run(toolchain.inside(compiler, made, ["bash", "/mnt/.build.sh"]), log, "building upstream's selftests", 900)
            (made / "built-from").write_text(json.dumps([source.name, *[deb.name for deb in liburing]]) + "\n", encoding="utf-8")
            library = next((compiler / "usr/lib/x86_64-linux-gnu").glob("liburing.so.2.*"))
            shutil.copy2(library, made / "liburing.so.2")
    return cache.used(built)


def extract(deb, target, more):
    """The kernel's tree, out of the tar archive inside the package, with nothing else ever on disk; `more` says to tar which parts."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as package, \
         subprocess.Popen(["tar", "-xO", f"./usr/src/{SOURCE}.tar.xz"], stdin=package.stdout, stdout=subprocess.PIPE) as inner:
        subprocess.run(["tar", "-xJ", "-C", target, "--strip-components=1", *more], stdin=inner.stdout, check=True, timeout=900)
