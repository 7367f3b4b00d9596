#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""No code branches on the words of an error: prose_test.py COMPILER. What would compare a Cause or look into it does not compile."""
import pathlib
import re
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMPILER = "c++"
HEAD = """
#include <string>
#include <string_view>
#include "base/error.h"
using namespace devmem;
"""
# `#line` numbers each case, so that a compiler's errors say whose they are.
CASE = """
bool Case%d(const absl::Status& status) {
  [[maybe_unused]] const ErrorInfo info = GetErrorInfo(status);
#line %d "case"
  %s
}
"""
ALLOWED = {
    "appended to a message": 'std::string text = "failed: "; info.cause.AppendTo(text); return text.empty();',
    "whether there is one": "return info.cause.empty();",
    "the fault": "return info.fault == Fault::kForbidden;",
    "the scope": "return ScopeOf(status) == Scope::kObject;",
}
REFUSED = {
    "compared with a literal": 'return info.cause == "truncated body";',
    "a literal compared with it": 'return "truncated body" == info.cause;',
    "compared with a string": 'return info.cause != std::string("x");',
    "compared with a view": 'return info.cause == std::string_view("x");',
    "compared with another": "return info.cause == GetErrorInfo(status).cause;",
    "ordered": 'return info.cause < std::string("x");',
    "searched": 'return info.cause.find("x") != 0;',
    "read by character": "return info.cause[0] == 'x';",
    "walked": "for (char c : info.cause) return c == 'x'; return false;",
    "made a view": "std::string_view text = info.cause; return text.empty();",
    "made a string": "std::string text = info.cause; return text.empty();",
    "two details compared": "return info == GetErrorInfo(status);",
}


def faulty(cases):
    """Which of these do not compile, by description."""
    program = HEAD + "".join(CASE % (i, i, body) for i, body in enumerate(cases.values(), start=1))
    done = subprocess.run([COMPILER, "-std=c++20", "-fsyntax-only", f"-I{ROOT}", "-x", "c++", "-"], input=program,
                          capture_output=True, text=True, check=False, timeout=100)
    named = {int(line) for line in re.findall(r"^case:(\d+):\d+: error:", done.stderr, re.MULTILINE)}
    elsewhere = [line for line in done.stderr.splitlines() if " error:" in line and not line.startswith("case:")]
    return {what for i, what in enumerate(cases, start=1) if i in named}, elsewhere


class Prose(unittest.TestCase):
    def test_what_people_need_compiles(self):
        self.assertEqual(faulty(ALLOWED), (set(), []))

    def test_what_would_branch_on_words_does_not(self):
        found, elsewhere = faulty(REFUSED)
        self.assertEqual(set(REFUSED) - found, set(), "these compile")
        self.assertEqual(elsewhere, [])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        COMPILER = sys.argv.pop(1)
    unittest.main()
