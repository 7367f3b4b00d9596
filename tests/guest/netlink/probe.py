# SPDX-License-Identifier: Apache-2.0
"""The netlink clients of net/netlink, driven through net_netlink_probe, where a test's NICs are.

    probe = Probe(self)                                     # ends with the test
    probe.insert(interface="dms0", source=("192.0.2.2", 80), destination=("192.0.2.1", 0), queue=3)
    with self.assertRaises(Refused) as caught: ...          # caught.exception.code, str(caught.exception)
"""
import json
import select
import subprocess

from guest import Bad, patience, program

SECONDS = 30.0
UNPRIVILEGED = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]


class Refused(Exception):
    """The Status was not OK: .code as Abseil names it; the message as a person would read it."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Probe:
    """probe.set_rss(interface=..., table=...) sends {"do": "set-rss", ...} and returns the answer's value."""

    def __init__(self, test, netns=None, prefix=()):
        prefix = [*prefix] if netns is None else ["ip", "netns", "exec", netns, *prefix]
        self.process = subprocess.Popen([*prefix, *program.command("net_netlink_probe")], text=True, bufsize=1,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        test.addCleanup(self.end)

    def end(self):
        """Its bindings go with it. May be called twice."""
        if self.process.stdin.closed:
            return
        self.process.stdin.close()
        self.process.wait(SECONDS * patience())
        self.process.stdout.close()

    def kill(self):
        self.process.kill()
        self.end()

    def __getattr__(self, verb):
        def ask(**words):
            self.process.stdin.write(json.dumps({"do": verb.replace("_", "-"),
                                                 **{name.replace("_", "-"): value for name, value in words.items()}}) + "\n")
            if not select.select([self.process.stdout], [], [], SECONDS * patience())[0]:
                raise Bad(f"net_netlink_probe: no answer to {verb} {words}")
            line = self.process.stdout.readline()
            if not line:
                raise Bad(f"net_netlink_probe ended with {self.process.wait(5)} at {verb} {words}")
            answer = json.loads(line)
            if "code" in answer:
                raise Refused(answer["code"], answer["message"])
            return answer["value"]
        return ask
