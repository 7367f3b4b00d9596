# SPDX-License-Identifier: Apache-2.0
"""What a selftest prints (KTAP): its plan, and a verdict for each case."""
import collections
import re

# verdict: pass, fail, skip or xfail; reason: upstream's words; log: the lines before its result that are of no other
Case = collections.namedtuple("Case", "name verdict reason log", defaults=[""])

PLAN = re.compile(r"1\.\.(\d+)$")
RESULT = re.compile(r"(not )?ok (\d+) (\S+)(?: # (.*))?$")


class Results:
    """Fed with lines as they come."""

    def __init__(self):
        self.planned = None
        self.cases = []
        self.log = []

    def feed(self, line):
        """One line; the Case it reports, if it does."""
        plan = PLAN.match(line)
        if plan and self.planned is None:
            self.planned = int(plan[1])
        found = RESULT.match(line)
        if not found:
            self.log.append(line)
            return None
        self.cases.append(case(*found.groups())._replace(log="\n".join(self.log)))
        self.log = []
        return self.cases[-1]

    def counts(self):
        """"12 pass, 1 skip"."""
        every = collections.Counter(each.verdict for each in self.cases)
        return ", ".join(f"{every[verdict]} {verdict}" for verdict in ("pass", "fail", "skip", "xfail") if every[verdict]) or "no case"


def case(failed, _number, name, comment):
    """The Case of one result line. Upstream names a case SCRIPT.CASE, and puts SKIP or XFAIL before the reason."""
    directive, _, reason = (comment or "").partition(" ")
    verdict = "fail" if failed else directive.lower() if directive in ("SKIP", "XFAIL") else "pass"
    return Case(name.partition(".")[2] or name, verdict, reason if verdict in ("skip", "xfail") else comment or "")
