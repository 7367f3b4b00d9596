#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""./dev bench guest: what the devmem path costs a receiver, in instructions and system calls per MiB, as a table and as JSON.

In a guest (tests/guest/bench) where the receiver has a CPU of its own, whose instructions are counted; 512 MiB each, a run of no bytes
taken off:

  floor     a silent loop: recvmsg with 1 MiB, every token given back by itself, 128 a call
  least     that loop with all that makes a receiver cheap (SO_RCVLOWAT, 8 MiB, merged tokens): what the kernel asks of anybody
  ncdevmem  upstream's receiver, which prints a line a fragment: for information
  product   devmem-loaderd: HTTP, rope, gather, delivery to a trainer. What the CPU spends on the gather is a device's work
            (the CPU stands in for a GPU), measured by itself and taken off
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[2]
MIB = 1 << 20
CPU = 1  # the receiver's
# (product, floor, at most so many times it): fewer and larger fragments have to show against the loop on 4 KiB pages.
MUST = [("product-4k", "floor-4k", 0.75), ("product-64k", "floor-4k", 0.3)]
# What the bars are to be seen beside.
ASIDE = [("least-4k", "floor-4k"), ("product-4k", "least-4k"), ("least-64k", "floor-64k"), ("product-64k", "floor-64k")]
CALLS = ("product-64k", 4)  # fewer system calls a MiB than this


def run(kernel):
    """The suite's figures: {case: {...}}; None if it failed."""
    done = subprocess.run([ROOT / "dev", "guest", "bench", "--kernel", kernel], check=False)
    if done.returncode != 0:
        return None
    with open(ROOT / f"build/logs/guest/{kernel}/bench-1.plugin", encoding="ascii") as file:
        marks = [json.loads(line) for line in file]
    report = ElementTree.parse(ROOT / f"build/test-results/guest-{kernel}.xml")
    texts = [node.text or "" for node in report.iter("system-out")]
    told = [json.loads(line) for text in texts for line in re.findall(r"^RESULT (\{.*\})$", text, re.M)]
    for each in told:
        (none, nothing), (some, everything) = each.pop("marks")
        spent = [(marks[everything][CPU][who] - marks[some][CPU][who]) - (marks[nothing][CPU][who] - marks[none][CPU][who]) for who in (0, 1)]
        each["user_per_mib"], each["kernel_per_mib"] = (round(part / (each["bytes"] / MIB)) for part in spent)
        each["instructions_per_mib"] = each["user_per_mib"] + each["kernel_per_mib"]
    return {each.pop("case"): each for each in told}


def judged(cases):
    """Adds the product's figures without the gather, and says what is held and what is not."""
    verdicts = []
    for name, case in cases.items():
        size = name.split("-")[1]
        if name.startswith("product-"):
            case["gather_instructions_per_mib"] = cases[f"gather-{size}"]["user_per_mib"]  # all else is making its memory
            case["net_instructions_per_mib"] = case["instructions_per_mib"] - case["gather_instructions_per_mib"]

    def ratio(one, other):
        return cases[one].get("net_instructions_per_mib", cases[one]["instructions_per_mib"]) / cases[other]["instructions_per_mib"]

    for ours, floor, most in MUST:
        verdicts.append({"what": f"{ours} / {floor}", "value": round(ratio(ours, floor), 3), "most": most, "held": ratio(ours, floor) <= most})
    verdicts += [{"what": f"{one} / {other}", "value": round(ratio(one, other), 3)} for one, other in ASIDE]
    calls = cases[CALLS[0]]["calls_per_mib"]
    verdicts.append({"what": f"system calls a MiB, {CALLS[0]}", "value": calls, "most": CALLS[1], "held": calls < CALLS[1]})
    return verdicts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", default="7.3")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build/bench")
    args = parser.parse_args()
    cases = run(args.kernel)
    if cases is None:
        print("bench guest: the guest's suite `bench` did not pass (above)", file=sys.stderr)
        return 1
    verdicts = judged(cases)
    print(f"{'':14}{'instructions/MiB':>18}{'user':>12}{'kernel':>12}{'of it gather':>14}{'calls/MiB':>11}{'receives':>10}{'fragment':>10}")
    for name, case in sorted(cases.items()):
        if not name.startswith("gather"):
            print(f"{name:14}{case['instructions_per_mib']:18,}{case['user_per_mib']:12,}{case['kernel_per_mib']:12,}"
                  f"{case.get('gather_instructions_per_mib', 0):14,}{case.get('calls_per_mib', float('nan')):11.2f}"
                  f"{case.get('receive_calls_per_mib', float('nan')):10.2f}{case.get('fragment_bytes', 0):10,}")
    for verdict in verdicts:
        held = {True: "held", False: "MISSED", None: ""}[verdict.get("held")]
        print(f"{held:8}{verdict['what']}: {verdict['value']}" + (f" (at most {verdict['most']})" if held else ""))
    result = {"kernel": args.kernel, "cases": cases, "verdicts": verdicts}
    args.work.mkdir(parents=True, exist_ok=True)
    (args.work / "guest.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 0 if all(verdict.get("held", True) for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
