#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The demo once more where there is a NIC for it: in a virtual machine with a stock Debian kernel, nginx at the far end of a software
NIC, the payload received by device-memory TCP. What is printed was counted by daemon, NIC and kernel (tests/guest/e2e/demo_test.py).

The last line is a JSON summary with "path": "devmem", or {"skipped": why} where no such machine can be had.
"""
import json
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEST = "e2e/demo_test.Demo"
KERNEL = "7.3"
SECONDS = 3600  # the first run on a machine fetches and builds what a guest is made of


def say(text):
    print(text, flush=True)


def machine():
    """Runs the demo in a guest. Its exit status, and all that was said."""
    command = ["/usr/bin/python3", "-B", ROOT / "tests/guest/guest.py", TEST, "--kernel", KERNEL]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        lines = []
        try:
            for line in process.stdout:
                lines.append(line.rstrip())
                if line.startswith("-- "):  # what takes its time
                    say(f"   {line[3:].rstrip()}")
            status = process.wait(SECONDS)
        finally:
            process.kill()  # if it was we who were interrupted; its virtual machine goes with it
    return status, lines


def show(told):
    (nic, *_) = told["nics"]
    queues = ", ".join(f"{queue} (dma-buf {ident})" for queue, ident in told["bound"].items())
    say(f"   kernel               {told['kernel']}")
    say(f"   NIC                  {nic['interface']} ({nic['driver']}), buffers of {nic['page_size'] >> 10} KiB, {nic['alloc_fail']} not to be had")
    say(f"   bound queues         {queues}; landing pool {told['landing_pool_bytes'] >> 20} MiB")
    say(f"   rules                {told['rules_used']}, to queues {', '.join(map(str, told['rules']))}; left afterwards: {told['rules_left']}")
    say(f"   delivered            {told['samples']} samples, {told['bytes'] / 1e6:.0f} MB to three trainers, {told['rows_verified']} rows compared, "
        f"{told['faults']} faults")
    say(f"   payload received     {told['payload_bytes']} bytes, by NIC and device")
    say(f"   copied by the CPU    {told['copied_bytes']} bytes")
    say(f"   tokens outstanding   {told['tokens_outstanding']}")


def run():
    """Prints the demo; returns its summary: {"path": "devmem", "verified": ...}, {"skipped": why} or {"error": what}."""
    status, lines = machine()
    if status == 77:
        reasons = [line.removeprefix("guest: ") for line in lines if line.startswith("guest: ")]
        say(f"   not here: {reasons[-1] if reasons else 'no guest can be run'}")
        return {"skipped": reasons[-1] if reasons else "no guest can be run"}
    report = ROOT / f"build/test-results/guest-{KERNEL}.xml"
    output = "".join(node.text or "" for node in ElementTree.parse(report).iter("system-out")) if report.exists() else ""
    found = re.search(r"^DEMO (\{.*\})$", output, re.M)
    if status != 0 or not found:
        say("\n".join(f"   | {line}" for line in lines[-40:]))
        return {"verified": False, "error": f"the guest's demo failed with status {status}: ./dev guest {TEST}"}
    told = json.loads(found[1])
    show(told)
    return told


def main():
    summary = run()
    print(json.dumps(summary), flush=True)
    return 0 if summary.get("verified") or "skipped" in summary else 1


if __name__ == "__main__":
    sys.exit(main())
