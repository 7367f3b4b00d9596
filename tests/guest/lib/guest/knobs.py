# SPDX-License-Identifier: Apache-2.0
"""devmemsim's fault knobs and what they leave in counters."""
import pathlib

from . import netdev, shell

ROOT = pathlib.Path("/sys/kernel/debug/devmemsim")
HERE = "pair0-a"  # the end that nic.pair() leaves in the test's own namespace


def strike(queue, knob, count, skip=0, **settings):
    """Has the next `count` data frames of a queue (after `skip`) suffer; settings: delay_us, misroute_to."""
    folder = ROOT / HERE / f"queue{queue}"
    for name, value in settings.items():
        (folder / name).write_text(str(value))
    (folder / knob).write_text(f"{count} {skip}")


def left(queue, knob):
    """How many are still to suffer."""
    return int((ROOT / HERE / f"queue{queue}" / knob).read_text().split()[0])


def reset(queue):
    (ROOT / HERE / f"queue{queue}" / "reset").write_text("1")


def rx(nic, queue):
    """A queue's receive counters by netdev-genl's names, without the "rx-"."""
    stats = netdev.queue_stats(nic.ifindex)[("rx", queue)]
    return {name.removeprefix("rx-"): value for name, value in stats.items()}


def ethtool_stats(nic):
    lines = shell.run(f"ethtool -S {nic.name}", nic.netns).stdout.splitlines()[1:]
    return {name.strip(): int(value) for name, value in (line.split(":") for line in lines)}


def tcp(name, netns=None):
    """A counter of /proc/net/netstat or snmp, as nstat names it: TcpRetransSegs, TcpExtTCPOFOQueue."""
    for protocol, counters in _counters(netns):
        if name.startswith(protocol) and name.removeprefix(protocol) in counters:
            return counters[name.removeprefix(protocol)]
    raise KeyError(name)


def _counters(netns):
    """(protocol, {counter: value}) of netstat and snmp: each has a line of names, then one of values."""
    for file in ("netstat", "snmp"):
        with shell.namespace(netns):
            lines = pathlib.Path(f"/proc/thread-self/net/{file}").read_text(encoding="ascii").splitlines()
        for names, values in zip(lines[::2], lines[1::2]):
            protocol, _, names = names.partition(":")
            yield protocol, dict(zip(names.split(), map(int, values.split()[1:])))
