#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Adds up the JUnit reports of ./dev test. Its last line is `N passed, N failed, N skipped`.

Exit status 1 if anything failed or if nothing ran. A test that ctest could not start counts as failed: ctest itself
calls it "skipped" when the executable is missing.
"""
import argparse
import pathlib
import sys
import xml.etree.ElementTree as ElementTree


def outcome(case):
    """passed, failed or skipped; and a word on why."""
    failure = case.find("failure")
    if failure is None:
        failure = case.find("error")
    if failure is not None:
        return "failed", failure.get("message") or "failed"
    skipped = case.find("skipped")
    if skipped is not None:
        message = skipped.get("message") or ""
        if case.get("status") == "notrun" and not message.startswith("SKIP_"):
            return "failed", message or "could not be run"
        output = (case.findtext("system-out") or "") + (skipped.text or "")
        reasons = [line.strip() for line in output.splitlines() if "skip" in line.lower()]
        return "skipped", (reasons[0] if reasons else message)[:160]
    return "passed", ""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--extra-failures", type=int, default=0, help="failures outside any test: a build, a tier cut off")
    parser.add_argument("folder", type=pathlib.Path)
    args = parser.parse_args()

    count = {"passed": 0, "failed": args.extra_failures, "skipped": 0}
    for report in sorted(args.folder.glob("*.xml")):
        for case in ElementTree.parse(report).getroot().iter("testcase"):
            what, why = outcome(case)
            count[what] += 1
            if what != "passed":
                print(f"{what}: {report.stem}: {case.get('name')}" + (f": {why}" if why else ""))
    ran = count["passed"] + count["failed"] > 0
    if not ran:
        print("nothing ran: that is a failure")
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 0 if ran and count["failed"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
