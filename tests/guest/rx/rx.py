# SPDX-License-Identifier: Apache-2.0
"""net/rx driven through net_rx_guest_test, and the state of a NIC as upstream's tools tell it.

    owner = Owner(self)                                  # ends with the test
    owner.create(interface="dms0", queues=[2, 3])        # the journal's folder is the test's own
    with self.assertRaises(Refused) as caught: ...       # caught.exception.code, str(caught.exception)
"""
import contextlib
import json
import pathlib
import select
import signal
import subprocess
import tempfile

import guest
from guest import Bad, ethtool, handle, modules, netdev, nic, patience, program, shell

SECONDS = 40.0


class Refused(Exception):
    """The Status was not OK: .code as Abseil names it; the message as a person would read it."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Died(Exception):
    """The program ended, as it was told to, or not."""


class WithModule:
    """The same tests with devmem_binding loaded: bindings are handles."""
    BY_HANDLE = True

    def setUp(self):
        handle.load(self)
        super().setUp()


class Owner:
    """owner.add_rule(index=0, ...) sends {"do": "add-rule", ...} and returns the answer's value."""

    def __init__(self, test, journal=None, netns=None, dies_at=None, prefix=()):
        if journal is None:
            folder = tempfile.TemporaryDirectory(prefix="journal-")
            test.addCleanup(folder.cleanup)
            journal = folder.name
        self.journal = journal
        words = [*prefix, *program.command("net_rx_guest_test"), *([] if dies_at is None else [str(dies_at)])]
        # in a namespace without a mount namespace of its own: sysfs stays the other's, as in a thread that moved
        with nic.namespace(netns):
            self.process = subprocess.Popen(words, text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        test.addCleanup(self.end)

    def end(self):
        """Undoes what it has not undone. May be called twice."""
        if self.process.stdin.closed:
            return
        self.process.stdin.close()
        self.process.wait(SECONDS * patience())
        self.process.stdout.close()

    def kill(self):
        self.process.kill()
        self.end()

    def killed(self):
        """Whether its fate was SIGKILL."""
        return self.process.wait(SECONDS * patience()) == -signal.SIGKILL

    def recover(self):
        return self.ask("recover")

    def __getattr__(self, verb):
        return lambda **words: self.ask(verb.replace("_", "-"), **words)

    def ask(self, verb, **words):
        request = {"do": verb, "journal": self.journal, **{name.replace("_", "-"): value for name, value in words.items()}}
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
        except BrokenPipeError as e:
            raise Died(verb) from e
        if not select.select([self.process.stdout], [], [], SECONDS * patience())[0]:
            raise Bad(f"net_rx_guest_test: no answer to {verb} {words}")
        line = self.process.stdout.readline()
        if not line:
            raise Died(verb)
        answer = json.loads(line)
        if "code" in answer:
            raise Refused(answer["code"], answer["message"])
        return answer["value"]


def state(nic_):
    """All that a binding may change, as ethtool and ynl tell it, to be compared byte by byte."""
    told = {option: ethtool.run("", nic_, option).stdout for option in ("-g", "-k", "-l", "-x", "-n")}
    if nic_.netns is None:  # ynl's sockets are of the test's own namespace
        told["rings"] = ethtool.rings(nic_)
        told["dmabufs"] = [queue.get("dmabuf") for queue in netdev.queues(nic_.ifindex)]
        told["pools"] = len(netdev.pools(nic_.ifindex))
    return told


@contextlib.contextmanager
def drivers(*names, queues=4):
    """Personality -> its NIC, link up, no addresses; all on one load of the module."""
    modules.load("devmemsim", pairs=0)
    try:
        nics = {}
        for number, name in enumerate(names):
            (DEBUGFS / "new_pair").write_text(f"{queues} {name}", encoding="ascii")
            nics[name] = nic.Nic(f"dms{2 * number}", "192.0.2.1", "2001:db8::1")
            for end in (nics[name], nic.Nic(f"dms{2 * number + 1}", "", "")):
                end.up()
        for each in nics.values():
            shell.until(each.carrier, f"a carrier on {each.name}")
        yield nics
    finally:
        modules.unload("devmemsim")


DEBUGFS = pathlib.Path("/sys/kernel/debug/devmemsim")
LARGE_PAGES = guest.kernel() >= (6, 20)
