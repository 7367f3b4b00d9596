# SPDX-License-Identifier: Apache-2.0
"""Commands, and waiting for a condition under a deadline."""
import json as json_module
import shlex
import subprocess
import time

from . import Bad, patience

PEER = "peer"  # the network namespace of the other side


def run(command, netns=None, ok=True, timeout=30, **more):
    """Runs a command (a list, or words in a string); returns CompletedProcess with text output. Fails loudly unless ok=False."""
    words = shlex.split(command) if isinstance(command, str) else [str(word) for word in command]
    if netns is not None:
        words = ["ip", "netns", "exec", netns, *words]
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout * patience(), check=False, **more)
    if ok and done.returncode != 0:
        raise Bad(f"`{shlex.join(words)}` ended with {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done


def json(command, netns=None):
    """A command's output, parsed."""
    return json_module.loads(run(command, netns).stdout)


def until(condition, what, seconds=10.0, every=0.02):
    """Waits for condition() to be true, and returns what it returned; `what` is told when the time is up."""
    seconds *= patience()
    limit = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > limit:
            raise Bad(f"not within {seconds:g} s: {what} (last seen: {value!r})")
        time.sleep(every)  # only how often we look
