# SPDX-License-Identifier: Apache-2.0
"""What came of the tests: a line for each as it ends, JUnit for tests/summarize.py, and the closing line."""
import collections
import re
import threading
import xml.etree.ElementTree as ElementTree

Result = collections.namedtuple("Result", "test outcome why output seconds")


class Report:
    """Results of one or more kernels."""

    def __init__(self):
        self.results = {}  # kernel line -> [Result]
        self.lock = threading.Lock()

    def add(self, line, result):
        """Notes a result and tells it, from any thread: what belongs together stays together."""
        first = next((text for text in reversed(result.why.strip().splitlines()) if text.strip()), "")
        said = f"{result.outcome.upper() if result.outcome == 'failed' else result.outcome:7} {line:5} {result.test}  {result.seconds:.1f} s"
        if result.outcome == "failed":
            said = "\n        | ".join([said, *(result.output + "\n" + result.why).strip().splitlines()])
        elif first:
            said += f": {first}"
        with self.lock:
            self.results.setdefault(line, []).append(result)
            print(f"{said}\n", end="", flush=True)

    def counts(self):
        every = collections.Counter(result.outcome for results in self.results.values() for result in results)
        return every["passed"], every["failed"], every["skipped"]

    def close(self, folder, label=""):
        """Writes the JUnit files and prints the closing line; returns the exit status."""
        folder.mkdir(parents=True, exist_ok=True)
        for line, results in self.results.items():
            suite = ElementTree.Element("testsuite", name=f"guest-{line}", tests=str(len(results)))
            for result in results:
                case = ElementTree.SubElement(suite, "testcase", classname=f"guest-{line}", name=result.test, time=f"{result.seconds:.2f}")
                lines = [clean(text) for text in result.why.strip().splitlines() if text.strip()] or [""]
                if result.outcome == "failed":
                    ElementTree.SubElement(case, "failure", message=lines[-1][:300]).text = "\n".join(lines)
                elif result.outcome == "skipped":
                    ElementTree.SubElement(case, "skipped", message=lines[0][:300])
                ElementTree.SubElement(case, "system-out").text = clean(result.output)
            ElementTree.ElementTree(suite).write(folder / f"guest-{line}{label}.xml", encoding="utf-8", xml_declaration=True)
        passed, failed, skipped = self.counts()
        print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
        if failed or not passed + skipped:
            return 1
        return 0 if passed else 77


def clean(text):
    """Without what XML cannot hold."""
    return re.sub(r"[^\t\n\r\x20-\uFFFD]", "?", text)
