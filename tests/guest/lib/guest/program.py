# SPDX-License-Identifier: Apache-2.0
"""Our own programs, as the host built them: they run here with the libraries they were linked against, by the host's loader."""
import os
import pathlib

HOST = pathlib.Path("/payload/host")


def command(name):
    """The words that start a program of ours, to be followed by its arguments. The suite's suite.json names the program."""
    program = HOST / "bin" / name
    if not os.access(program, os.X_OK):
        raise FileNotFoundError(f"no {program} in this guest: name {name} in the suite.json")
    return [str(HOST / "lib/ld-linux-x86-64.so.2"), "--library-path", str(HOST / "lib"), "--argv0", name, str(program)]
