# SPDX-License-Identifier: Apache-2.0
"""Runs one of upstream's selftests, as it is, on a fresh pair of NICs, and holds its verdicts against expected.py."""
import fnmatch
import os
import pathlib
import subprocess

import expected
import ktap

from guest import nic, shell

SELFTESTS = pathlib.Path("/opt/linux/tools/testing/selftests")
# Not the addresses that the other suites use: tso.py has those inside of its tunnels.
LOCAL_V4, REMOTE_V4 = "198.51.100.1", "198.51.100.2"
LOCAL_V6, REMOTE_V6 = "2001:db8:1::1", "2001:db8:1::2"
PREFIX_V6 = "2001:db8:2::/64"  # of containers behind netkit


def run(test, script, only=(), but=(), gro_hw=False, channels=None, usecs=0, peer_usecs=0, **parameters):
    """Runs `script` (under drivers/net) on devmemsim loaded with `parameters`; fails `test` for each verdict not expected.

    only      names of cases; without: all
    but       names of cases that do not run
    gro_hw    with rx-gro-hw on
    channels  fewer than the module's queues
    usecs     interrupt moderation: how long frames are gathered before they are received; peer_usecs: at the other end
    """
    here, there = nic.pair(test, **parameters)
    if channels:
        shell.run(f"ethtool -L {here.name} combined {channels}")
    if usecs or peer_usecs:
        shell.run(f"ethtool -C {here.name} rx-usecs {usecs}")
        shell.run(f"ethtool -C {there.name} rx-usecs {peer_usecs}", there.netns)
    if gro_hw:
        shell.run(f"ethtool -K {here.name} rx-gro-hw on")
    # Upstream's scripts take the link down and up, and count on the addresses to be there again.
    pathlib.Path(f"/proc/sys/net/ipv6/conf/{here.name}/keep_addr_on_down").write_text("1", encoding="ascii")
    address(here, LOCAL_V4, LOCAL_V6)
    # A script binds six buffers of 64 MiB one after another; the kernel lets go of each up to a second after its process has ended.
    pathlib.Path("/proc/sys/vm/nr_hugepages").write_text("192", encoding="ascii")
    address(there, REMOTE_V4, REMOTE_V6)
    there.ip(f"-6 route add {PREFIX_V6} via {LOCAL_V6} dev {there.name}")
    path = SELFTESTS / "drivers/net" / script
    words = [word for option, names in (("-t", only), ("-T", but)) for name in names for word in (option, name)]
    results, status = execute([path, *words], environment(here, there))
    unlucky = {case.name for case in results.cases if case.verdict == "fail" and diced(path.name, case)}
    if unlucky:
        print(f"-- once more, for the dice: {', '.join(sorted(unlucky))}", flush=True)
        again, status = execute([path, *(word for name in sorted(unlucky) for word in ("-t", name))], environment(here, there))
        results.cases = [case for case in results.cases if case.name not in unlucky] + again.cases
    test.note = results.counts()
    wrong = surprises(path.name, results, status, bool(words))
    if wrong:
        test.fail(f"{path.name}: {results.counts()}; not as expected.py says:\n" + "\n".join(wrong))


def address(side, v4, v6):
    side.ip(f"addr flush dev {side.name} scope global")
    side.ip(f"addr add {v4}/24 dev {side.name}")
    side.ip(f"-6 addr add {v6}/64 dev {side.name} nodad")


def environment(here, there):
    """What upstream's drivers/net/README.rst asks for."""
    return os.environ | {"NETIF": here.name, "LOCAL_V4": LOCAL_V4, "LOCAL_V6": LOCAL_V6, "REMOTE_V4": REMOTE_V4, "REMOTE_V6": REMOTE_V6,
                         "LOCAL_PREFIX_V6": PREFIX_V6, "REMOTE_TYPE": "netns", "REMOTE_ARGS": there.netns, "KSFT_MACHINE_SLOW": "1",
                         "PYTHONUNBUFFERED": "1"}


def execute(command, env):
    """The results of a script and its exit status; its output becomes the test's, line by line (the agent may end us any time)."""
    results = ktap.Results()
    with subprocess.Popen(command, cwd=command[0].parent, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace") as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            results.feed(line.rstrip("\n"))
    return results, process.returncode


def diced(script, case):
    return any(name == script and fnmatch.fnmatchcase(case.name, pattern) and words in case.log for name, pattern, words, _ in expected.DICE)


def surprises(script, results, status, partial):
    """What is not as expected, a line each. `partial`: not every case was to run."""
    wrong, known = [], {pattern: (verdict, 0) for name, pattern, verdict, _ in expected.EXCEPTIONS if name == script}
    for case in results.cases:
        pattern = next((pattern for pattern in known if fnmatch.fnmatchcase(case.name, pattern)), None)
        verdict, seen = known.get(pattern, ("pass", 0))
        if pattern is not None:
            known[pattern] = verdict, seen + 1
        if case.verdict != verdict:
            wrong.append(f"{case.name}: {case.verdict}, expected {verdict}{': ' + case.reason if case.reason else ''}")
    wrong += [f"{pattern}: expected to {verdict}, but there is no such case" for pattern, (verdict, seen) in known.items() if not seen and not partial]
    if results.planned != len(results.cases):
        wrong.append(f"{results.planned} cases were planned, {len(results.cases)} reported (exit status {status})")
    if status and not any(case.verdict == "fail" for case in results.cases):
        wrong.append(f"exit status {status}")
    return wrong
