# SPDX-License-Identifier: Apache-2.0
"""A kernel that finds a driver's mistakes: built once from Debian's source package, allnoconfig and debug.config, with KASAN,
lockdep, PROVE_RCU, kmemleak and others. It becomes a package of our own (a tar archive laid out like Debian's packages), which the
other parts of the harness treat like any kernel's.
"""
import pathlib

from . import cache, fetch, toolchain, upstream

LINE = "debug"
CONFIG = pathlib.Path(__file__).resolve().parents[1] / "debug.config"
BUILDERS = ("trixie", "flex", "bison", "m4", "libsigsegv2")  # beyond the toolchain's
BUILD_SECONDS = 3 * 3600  # 15 minutes of two idle cores; the machine may be busy
# Most of the source tree is never looked at; Kconfig reads all of its own files.
LEFT_OUT = ["Documentation/[!K]*", "drivers/gpu/drm/*.[ch]", "sound/*.[ch]", "tools/testing/*", "arch/arm*/boot/dts/*"]

# At /mnt: the source. $1 is appended to the release, so that every configuration has modules and headers of its own.
BUILD = """set -e
cd /mnt
make="make -s CC=gcc-14 HOSTCC=gcc-14 LOCALVERSION=$1"
$make KCONFIG_ALLCONFIG=/mnt/debug.config allnoconfig
lost=$(grep -E '^CONFIG_|^# CONFIG_.* is not set' debug.config | grep -vxFf .config || true)
if [ -n "$lost" ]; then echo "not so in the resulting configuration: $lost"; exit 1; fi
$make -j$2 bzImage modules
release=$(cat include/config/kernel.release)
mkdir -p made/usr/lib/modules made/usr/src
$make INSTALL_MOD_PATH=/mnt/made/usr modules_install
rm -f made/usr/lib/modules/$release/build
cp arch/x86/boot/bzImage made/usr/lib/modules/$release/vmlinuz
$make run-command KBUILD_RUN_COMMAND="scripts/package/install-extmod-build made/usr/src/linux-headers-$release"
cp .config made/usr/src/linux-headers-$release/
tar -C made -cf $release.tar .
"""


def place():
    """(source package, toolchain's tree, folder of the built kernel, digest of what it is built from)."""
    (source,) = fetch.package(*upstream.SOURCE_PACKAGE)
    compiler = toolchain.chroot()
    digest = cache.digest(source.name, compiler.name, CONFIG, BUILDERS, BUILD)
    return source, compiler, cache.folder() / f"debug-kernel-{digest}", digest


def package():
    """{"release", "debs"} of the debug kernel, which was made."""
    (archive,) = cache.used(place()[2]).glob("*.tar")
    return {"release": archive.name.removesuffix(".tar"), "debs": [archive]}


def make():
    """Builds it if need be."""
    with cache.lock(cache.folder() / "lock"):
        source, compiler, folder, digest = place()
        if folder.exists():
            return
        cache.need_root("build the debug kernel")
        toolchain.unpack(compiler, fetch.package(*BUILDERS))
    with cache.lock(cache.folder() / "debug-kernel.lock", BUILD_SECONDS):
        if not folder.exists():
            build(source, compiler, folder, digest)


def build(source, compiler, folder, digest):
    log = cache.folder() / "logs" / "debug-kernel.log"
    log.unlink(missing_ok=True)
    cache.say(f"building the debug kernel (once; half an hour of two idle cores; log: {log})")
    with cache.building(folder) as made:
        made.mkdir()
        tree = made.parent / "source"
        tree.mkdir()
        upstream.extract(source, tree, ["--wildcards", *[f"--exclude={upstream.SOURCE}/{pattern}" for pattern in LEFT_OUT]])
        (tree / "debug.config").write_bytes(CONFIG.read_bytes())
        cache.run(toolchain.inside(compiler, tree, ["sh", "-c", BUILD, "sh", f"-{digest[:6]}", toolchain.JOBS]), log,
                  "building the debug kernel", BUILD_SECONDS)
        (archive,) = tree.glob("*.tar")
        archive.rename(made / archive.name)
