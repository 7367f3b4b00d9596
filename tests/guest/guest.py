#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs tests in a virtual machine with a kernel and NICs of its own: ./dev guest [SUITE or TEST...]."""
import argparse
import pathlib
import sys

from host import cache, fetch, toolchain

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "guest"


def kernels(choice):
    return list(fetch.KERNELS) if choice == "all" else [choice]


def main():
    parser = argparse.ArgumentParser(prog="./dev guest", description=__doc__)
    parser.add_argument("--kernel", default="7.3", choices=[*fetch.KERNELS, "all"])
    parser.add_argument("--build-only", action="store_true", help="build kernel/*/ and show what the compiler says")
    parser.add_argument("--check", action="store_true", help="build kernel/*/ with sparse looking at every file")
    args = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    try:
        for line in kernels(args.kernel):
            with cache.lock(cache.folder() / "lock"):
                toolchain.prepare(line)
            made = toolchain.build_modules(line, ROOT / "kernel", BUILD, check=args.check, show=True)
            for path in made:
                cache.say(f"{line}: {path.relative_to(ROOT)}")
    except cache.Missing as e:
        print(f"guest: {e}", file=sys.stderr)
        return 77
    except cache.Broken as e:
        print(f"guest: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
