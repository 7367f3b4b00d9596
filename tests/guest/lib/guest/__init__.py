# SPDX-License-Identifier: Apache-2.0
"""What tests in the guest stand on.

  nic      devmemsim loaded, one NIC here and one in the network namespace `peer`, with addresses
  netdev   netdev-genl and ethtool netlink through upstream's ynl: bind, queues, page pools, statistics
  ethtool  features, channels, rings, RSS and ntuple rules by ethtool's command line, rules also by ioctl
  knobs    devmemsim's fault knobs, and the counters they show in
  devmem   udmabufs, a receiver of device memory, a sender, and a check of contents
  handle   bindings by handle (kernel/devmem_binding): create, rules, what is told of them
  program  our own programs, with the libraries they were linked against
  product  our daemon and CLI as processes
  serve    nginx at the other end of the wire
  dataset  data sets, and a check of what was delivered of them
  shell    commands, and waiting for a condition under a deadline
"""
import functools
import os
import pathlib
import re


class Bad(Exception):
    """A step a test stands on failed: what, on which object, and what was said."""


def deadline(seconds):
    """Decorates a test that may take longer than DEADLINE."""
    def mark(function):
        function.deadline = seconds
        return function
    return mark


def expect_splat(pattern):
    """Decorates a test in which the kernel must complain like this (a regular expression), and of nothing else."""
    def mark(function):
        function.splat = pattern
        return function
    return mark


DEADLINE = 180.0  # seconds, times patience(); a test that takes longer is ended and has failed. Most take one, on an idle machine


@functools.cache
def kernel():
    """The running kernel as numbers: (7, 3)."""
    return tuple(int(part) for part in os.uname().release.split(".")[:2])


@functools.cache
def patience():
    """By how much this kernel's deadlines are longer than a plain kernel's (guest.patience on its command line)."""
    told = re.search(r"\bguest\.patience=(\d+)", pathlib.Path("/proc/cmdline").read_text(encoding="ascii"))
    return int(told[1]) if told else 1
