# SPDX-License-Identifier: Apache-2.0
"""Cases of upstream's selftests that do not pass, each with its reason. Everything else must pass, and these must not.

(script, case (may hold * and ?), verdict: fail, skip or xfail, why)
"""
EXCEPTIONS = [
]
