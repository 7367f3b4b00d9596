# SPDX-License-Identifier: Apache-2.0
"""Starts a program with the rights that a pod's container has: capabilities, no_new_privs, a seccomp profile.

    python3 confined.py PROFILE.json CAPABILITY[,...] PROGRAM [ARGUMENT...]

A system call that the profile does not name kills the process, where in a pod it would only be refused: what is missing shall be seen.
"""
import ctypes
import json
import os
import sys

PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38  # <linux/prctl.h>
CAPABILITIES = {"NET_ADMIN": 12}  # <linux/capability.h>
LAST_CAPABILITY = "/proc/sys/kernel/cap_last_cap"
ACTIONS = {"SCMP_ACT_ALLOW": 0x7FFF0000, "SCMP_ACT_ERRNO": 0x00050000, "kill": 0x80000000}  # <seccomp.h>
OPERATORS = {"SCMP_CMP_EQ": 4, "SCMP_CMP_MASKED_EQ": 7}
UNKNOWN = -1  # a name that this libseccomp does not know; those below it are of other architectures


class Comparison(ctypes.Structure):
    """struct scmp_arg_cmp"""
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def check(result, what):
    if result is None or result < 0:
        sys.exit(f"confined: {what}: {result} {os.strerror(ctypes.get_errno())}")


def load(profile):
    """Puts the process under a profile in the OCI runtime specification's form."""
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_rule_add_array.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(Comparison)]
    library.seccomp_load.argtypes = [ctypes.c_void_p]
    context = library.seccomp_init(ACTIONS["kill"])
    for entry in profile["syscalls"]:
        comparisons = [Comparison(each["index"], OPERATORS[each["op"]], each["value"], each.get("valueTwo", 0)) for each in entry.get("args", [])]
        array = (Comparison * len(comparisons))(*comparisons)
        for name in entry["names"]:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number > UNKNOWN:
                action = ACTIONS[entry["action"]] | entry.get("errnoRet", 0)
                check(library.seccomp_rule_add_array(context, action, number, len(comparisons), array), name)
    check(library.seccomp_load(context), "the filter")


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        profile = json.load(file)
    kept = {CAPABILITIES[name] for name in sys.argv[2].split(",")}
    libc = ctypes.CDLL(None, use_errno=True)
    with open(LAST_CAPABILITY, encoding="utf-8") as file:
        last = int(file.read())
    for capability in set(range(last + 1)) - kept:  # the rest of them goes with execve()
        check(libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0), f"dropping capability {capability}")
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    load(profile)
    os.execv(sys.argv[3], sys.argv[3:])


if __name__ == "__main__":
    main()
