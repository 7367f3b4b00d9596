# SPDX-License-Identifier: Apache-2.0
"""The kernels a guest can run: Debian's, and the debug kernel that is built here once."""
from . import debug_kernel, fetch, toolchain

LINES = [*fetch.KERNELS, debug_kernel.LINE]
# How much longer everything may take, and the least memory, where the kernel checks itself all the time.
PATIENCE = {debug_kernel.LINE: 5}
MEMORY = {debug_kernel.LINE: "4G"}


def make(line):
    """Builds the kernel if it is one that is built here; others are fetched when asked for. May take an hour, so it takes locks of its
    own: call it without any."""
    if line == debug_kernel.LINE:
        debug_kernel.make()


def packages(line):
    """{"release", "debs"}: a kernel's packages with its headers and modules."""
    return debug_kernel.package() if line == debug_kernel.LINE else fetch.kernel(line)


def prepare(line):
    """The toolchain's tree with one kernel's headers and modules unpacked, and that kernel's release."""
    found = packages(line)
    tree = toolchain.chroot()
    toolchain.unpack(tree, found["debs"])
    return tree, found["release"]
