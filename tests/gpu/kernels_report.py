#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What the kernels were compiled to: kernels_report.py BUILD [--write], BUILD being build/release/gpu/cuda.

Reads ptxas's log and the PTX that nvcc left there. Fails if a kernel for any architecture has a stack or spills, if the gather does not move
16 bytes with each load and store of its body, or if docs/kernels.md is not what comes out (--write writes it). SASS is not looked at:
NVIDIA's disassembler is not among what is installed.
"""
import collections
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "kernels.md"
TYPES = dict(zip(range(1, 14), "bool u8 u16 u32 u64 i8 i16 i32 i64 f16 bf16 f32 f64".split()))


def name_of(mangled):
    """What a person calls a kernel."""
    plain = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout.strip()
    plain = re.sub(r"devmem::|cuda::|\(anonymous namespace\)::|lane::|_GLOBAL__N__\w+::", "", plain)
    plain = re.sub(r"\((?:[A-Z]\w+)(?:, .*)?\)$|\(\)$", "", plain).removeprefix("void ")
    rows = re.fullmatch(r"CastKernel<CastRows<\(Type\)(\d+), \(Type\)(\d+), (true|false)> ?>", plain)
    if rows:
        return f"cast {TYPES[int(rows[1])]} to {TYPES[int(rows[2])]}, in {'float' if rows[3] == 'true' else 'double'}"
    planes = re.fullmatch(r"CastKernel<CastPlanes<(\d), \(Type\)(\d+), (true|false)> ?>", plain)
    if planes:
        return f"cast {planes[1]} planes of u8 to {TYPES[int(planes[2])]}, in {'float' if planes[3] == 'true' else 'double'}"
    return {"GatherKernel": "gather", "InlineGatherKernel": "gather, plan in the launch", "CastKernel<CastAny>": "cast, anything else",
            "ChecksumKernel<Crc32c>": "gather and CRC32C", "ChecksumKernel<Crc64Nvme>": "gather and CRC64NVME",
            "SumsKernel<Crc32c>": "finish CRC32C", "SumsKernel<Crc64Nvme>": "finish CRC64NVME",
            "NothingKernel": "nothing"}[plain]


def resources(log):
    """{kernel: {architecture: (registers, stack, spills, shared)}}"""
    found = collections.defaultdict(dict)
    pattern = (r"Compiling entry function '(\w+)' for '(sm_\d+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
               r"(\d+) bytes spill loads.*?Used (\d+) registers([^\n]*)")
    for mangled, architecture, stack, stores, loads, registers, rest in re.findall(pattern, log, re.S):
        shared = re.search(r"(\d+) bytes smem", rest)
        found[name_of(mangled)][architecture] = (int(registers), int(stack), int(stores) + int(loads),
                                                 int(shared[1]) if shared else 0)
    return found


def wide_accesses(ptx):
    """(16-byte loads, other loads of payload but bytes, 16-byte stores, other stores but bytes) of the gather's two kernels."""
    counts = collections.Counter()
    for entry in re.findall(r"\.entry \w*?GatherKernel\w*\(.*?\n}\n", ptx, re.S):
        for line in entry.splitlines():
            access = re.search(r"\b(ld|st)\.global\.(?:ca|wb)\.(v4\.u32|u\d+)", line)
            if access:
                counts[access[1], access[2]] += 1
    return counts


def page(found, architectures, counts):
    lines = [
        "<!-- SPDX-License-Identifier: Apache-2.0 -->", "# What the kernels are compiled to", "",
        "Written by `tests/gpu/kernels_report.py --write` from what ptxas of CUDA 13.0 says; a test fails when it is not up to date. Registers",
        "are those of a thread; blocks have 128. **No kernel has a stack or spills, on any architecture.**", "",
        "| kernel | " + " | ".join(f"registers, {a}" for a in architectures) + " | shared, bytes |",
        "| --- |" + " ---: |" * (len(architectures) + 1)]
    for kernel in sorted(found):
        of = found[kernel]
        lines.append(f"| {kernel} | " + " | ".join(str(of[a][0]) for a in architectures) + f" | {max(v[3] for v in of.values())} |")
    lines += [
        "", "The checksum kernels have their tables in dynamic shared memory besides: 21,696 bytes (CRC32C), 51,584 bytes (CRC64NVME).", "",
        "The gather's body moves 16 bytes with each load and store. In its PTX:", ""]
    for (kind, width), count in sorted(counts.items()):
        lines.append(f"- {count} × `{kind}.global` of {width}")
    lines += ["", "The narrower ones are a run's first and last bytes, and runs of at most 32 bytes, which one lane copies alone. SASS was not",
              "looked at: NVIDIA's disassembler was not at hand.", ""]
    return "\n".join(lines)


def main():
    build = pathlib.Path(sys.argv[1])
    found = resources((build / "ptxas.log").read_text(encoding="utf-8"))
    architectures = sorted({a for of in found.values() for a in of}, key=lambda a: int(a[3:]))
    bad = []
    if architectures != ["sm_80", "sm_90", "sm_100"]:
        bad.append(f"compiled for {architectures}, not for sm_80, sm_90 and sm_100")
    for kernel, of in sorted(found.items()):
        for architecture, (_, stack, spills, _) in sorted(of.items()):
            if stack or spills:
                bad.append(f"{kernel} for {architecture}: {stack} bytes of stack, {spills} of spills")
        if set(of) != set(architectures):
            bad.append(f"{kernel} is missing for {sorted(set(architectures) - set(of))}")
    ptx = sorted((build / "keep").glob("launch*.compute_100.ptx")) or sorted((build / "keep").glob("launch*.ptx"))
    counts = wide_accesses(ptx[-1].read_text(encoding="utf-8")) if ptx else collections.Counter()
    # 4 aligned in flight, with and without bounds; 4 shifts by words of 2 loads and 1 store, likewise; both kernels.
    for kind, least in (("ld", 2 * (2 * 4 + 4 * 2 * 8)), ("st", 2 * (2 * 4 + 4 * 2 * 4))):
        if counts[kind, "v4.u32"] < least:
            bad.append(f"the gather has {counts[kind, 'v4.u32']} 16-byte accesses '{kind}', expected {least}")
    for (kind, width), count in counts.items():
        if width in ("u16",):
            bad.append(f"the gather has {count} accesses '{kind}' of {width}")
    text = page(found, architectures, counts)
    if "--write" in sys.argv:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        bad.append("docs/kernels.md is stale: run tests/gpu/kernels_report.py build/release/gpu/cuda --write")
    print("\n".join(bad) or f"{len(found)} kernels for {', '.join(architectures)}: no stack, no spills")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
