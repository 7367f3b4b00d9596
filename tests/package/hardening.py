# SPDX-License-Identifier: Apache-2.0
"""What programs were built with, as their files show: what an overflow in them would meet (docs/security.md, Build).

    hardening.problems(path)        # lines; none: it is as it should be

Works on stripped programs. What comes from libraries does not count for ours: all of them but CUDA's runtime are shared.
"""
import re
import struct
import subprocess
import sys

CET = b"\xf3\x0f\x1e\xfa"  # endbr64
# Marks for each function: of what others may call or hold a pointer to, and where exceptions land. Measured of our programs: 0.76 to
# 1.86; without the flag, 0.0003.
CET_SHARE = 0.25


def _readelf(path, *flags):
    return subprocess.run(["readelf", "-W", *flags, path], capture_output=True, text=True, check=True, timeout=60).stdout


def _section(path, name):
    """The bytes of a section."""
    found = re.search(rf"^ +\[ *\d+\] {re.escape(name)} +\S+ +[0-9a-f]+ +([0-9a-f]+) +([0-9a-f]+) ", _readelf(path, "-S"), re.M)
    if found is None:
        return b""
    with open(path, "rb") as file:
        file.seek(int(found[1], 16))
        return file.read(int(found[2], 16))


def problems(path):
    head, segments, dynamic, symbols = (_readelf(path, flag) for flag in ("-h", "-l", "-d", "--dyn-syms"))
    if not re.search(r"Type: +DYN", head) or not re.search(r"FLAGS_1\).*\bPIE\b", dynamic):
        yield "not position-independent: its addresses are the same each time"
    if "GNU_RELRO" not in segments:
        yield "no RELRO: what is relocated at the start stays writable"
    elif not re.search(r"FLAGS\).*\bBIND_NOW\b", dynamic) and not re.search(r"FLAGS_1\).*\bNOW\b", dynamic):
        yield "RELRO in part: the table of functions of libraries stays writable"
    stack = re.search(r"GNU_STACK(?: +0x\S+){5} +(\S+)", segments)
    if stack is None or "E" in stack[1]:
        yield "an executable stack"
    wanted = set(re.findall(r" UND (\w+)", symbols))
    if "__stack_chk_fail" not in wanted:
        yield "no stack protector"
    if not any(re.fullmatch(r"__\w+_chk", name) for name in wanted - {"__stack_chk_fail"}):
        yield "no fortified function"
    if "X86-64" in head:
        frames = _section(path, ".eh_frame_hdr")  # version, three encodings, where frames begin, how many there are: one a function
        functions = struct.unpack_from("<I", frames, 8)[0]
        marked = _section(path, ".text").count(CET)
        if marked < CET_SHARE * functions:
            yield f"no control-flow protection: {marked} of {functions} functions begin with endbr64"


def problems_of(paths):
    return [f"{path}: {problem}" for path in paths for problem in problems(path)]


if __name__ == "__main__":
    print("\n".join(problems_of(sys.argv[1:])))
