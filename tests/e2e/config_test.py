# SPDX-License-Identifier: Apache-2.0
"""Settings by file, environment and flag, and changing them while a daemon runs (docs/configuration.md)."""
import json
import os
import re
import signal
import subprocess
import unittest

import fault_server
import harness
import trainer
from harness import RAW, SLOW, wait_for

MIB = 1 << 20


class ConfigTest(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.config = self.work / "config.yaml"

    def write(self, text):
        self.config.write_text(text)
        return self.config

    def shown(self, *flags, **environment):
        """--print-config as JSON."""
        run = subprocess.run([harness.BIN / "devmem-loaderd", "--print-config", "--output", "json", *flags], capture_output=True, text=True,
                             env={**os.environ, **environment}, timeout=harness.TIMEOUT, check=False)
        self.assertEqual(run.returncode, 0, run.stderr)
        return json.loads(run.stdout)

    def refused(self, status, *flags, program="devmem-loaderd", **environment):
        run = subprocess.run([harness.BIN / program, *flags], capture_output=True, text=True, env={**os.environ, **environment},
                             timeout=harness.TIMEOUT, check=False)
        self.assertEqual(run.returncode, status, run.stderr)
        self.assertEqual(run.stdout, "")
        return run.stderr

    def reload(self, daemon, text, *said):
        """Writes the file, sends SIGHUP, and waits for what the log is to say of it."""
        seen = len(daemon.stderr())
        self.write(text)
        daemon.kill(signal.SIGHUP)
        for line in said:
            wait_for(lambda wanted=line: daemon.process.poll() is not None or wanted in daemon.stderr()[seen:], 20 * SLOW, f"it says: {line}")
        self.assertIsNone(daemon.process.poll(), daemon.stderr())

    def limit(self, daemon):
        with trainer.Trainer(daemon.path) as observer:
            return observer.status().pools[0].bytes_limit

    # --- what counts, and what is shown ---
    def test_flag_over_environment_over_file_over_default(self):
        self.write("queues: 1\nworkers: 1\n\nconnections: 1\n")
        shown = self.shown("--config", str(self.config), "--queues", "3", DEVMEM_QUEUES="2", DEVMEM_WORKERS="2")
        self.assertEqual(shown["queues"], {"value": "3", "origin": "flag"})
        self.assertEqual(shown["workers"], {"value": "2", "origin": "environment"})
        self.assertEqual(shown["connections"], {"value": "1", "origin": "file", "file": str(self.config), "line": 4})
        self.assertEqual(shown["max-retries"], {"value": "12", "origin": "default"})

    def test_the_file_by_environment_and_as_json(self):
        self.write('{"memory_limit": "64MiB",\n "interface": ["eth1", "eth2"], "take_over": true}')
        shown = self.shown(DEVMEM_CONFIG=str(self.config))
        self.assertEqual(shown["config"], {"value": str(self.config), "origin": "environment"})
        self.assertEqual(shown["memory-limit"]["value"], "64MiB")
        self.assertEqual(shown["interface"], {"value": "eth1,eth2", "origin": "file", "file": str(self.config), "line": 2})
        text = subprocess.run([harness.BIN / "devmem-loaderd", "--print-config", "--config", self.config], capture_output=True, text=True,
                              timeout=harness.TIMEOUT, check=True).stdout
        self.assertRegex(text, rf"(?m)^--memory-limit +64MiB +file {re.escape(str(self.config))}:1$")

    def test_the_example_is_complete_and_says_the_defaults(self):
        example = (harness.ROOT / "deploy/config.yaml").read_text()
        self.assertEqual([value for value in self.shown("--config", str(self.write(example))).values() if value["origin"] == "file"], [],
                         "everything is commented out")
        lists = re.findall(r"(?m)^#(\w+): \[\]$", example)
        keys = re.findall(r"(?m)^#(\w+): ", example)
        uncommented = self.shown("--config", str(self.write(re.sub(r"(?m)^#(\w+: )", r"\1", example))))
        defaults = self.shown()
        settings = set(defaults) - {"config", "recover", "output", "print-config", "version", "help"}
        self.assertEqual(sorted(keys), sorted(name.replace("-", "_") for name in settings))
        for key in keys:
            name = key.replace("_", "-")
            self.assertEqual(uncommented[name]["value"], defaults[name]["value"] or ("false" if name == "take-over" else ""), name)
            self.assertEqual(uncommented[name]["origin"], "default" if key in lists else "file", name)

    # --- errors ---
    def test_every_fault_of_a_file_is_named(self):
        self.write("memroy_limit: 1G\nqueues: many\nlog_level: [info]\nqueues: 2\n")
        said = self.refused(253, "--config", str(self.config))
        at = str(self.config)
        self.assertEqual(said, f"devmem-loaderd: {at}:1:1: unknown key 'memroy_limit'; did you mean memory_limit?\n"
                               f"{at}:2:9: 'queues': 'many': expected a whole number from 1 to 1024\n"
                               f"{at}:3:12: 'log_level': expected one value, not a list\n"
                               f"{at}:4:1: 'queues' is said twice, first in line 2\n")
        self.assertEqual(self.refused(253, "--print-config", DEVMEM_CONFIG=at), said, "--print-config checks it, too")
        loader = self.refused(253, "--bucket", "file:///d", "--config", at, program="devmem-loader")
        self.assertEqual(loader, said.replace("devmem-loaderd:", "devmem-loader:", 1))

    def test_exit_statuses(self):
        self.write("queues: 2\n")
        self.assertIn("cannot be opened: No such file", self.refused(253, "--config", str(self.work / "none.yaml")))
        self.assertIn("DEVMEM_QUEUES: 'x'", self.refused(253, "--config", str(self.config), DEVMEM_QUEUES="x"))
        self.assertIn("--queues: '0'", self.refused(2, "--config", str(self.config), "--queues", "0"))
        self.assertIn("did you mean --config?", self.refused(2, "--confg", str(self.config)))
        self.assertIn("--config: is about the in-process daemon",
                      self.refused(2, "--bucket", "file:///d", "--service", "unix:/s", "--config", str(self.config), program="devmem-loader"))

    def test_recovery_goes_past_a_file_with_faults(self):
        self.write("queues: many\n")
        run = subprocess.run([harness.BIN / "devmem-loaderd", "--recover", "--config", self.config], capture_output=True, text=True,
                             timeout=harness.TIMEOUT, check=False)
        self.assertEqual(run.returncode, 0, run.stderr)

    def test_the_command_line_takes_the_file_for_its_own_daemon(self):
        bucket = self.raw_bucket()
        self.write("memory_limit: 4KiB\nsocket: /elsewhere\n")
        run = self.loader("--bucket", f"file://{bucket}", *RAW, "--config", str(self.config))
        self.assert_failed(run, "of this node's 4096 bytes", code="RESOURCE_EXHAUSTED")
        run = self.loader("--bucket", f"file://{bucket}", *RAW, "--config", str(self.config), "--memory-limit", "1G")
        self.assertEqual(run.status, 0, run.text)

    # --- SIGHUP ---
    def test_reload_under_a_running_stream(self):
        bucket = self.raw_bucket()  # 4 MiB, of which the stream can be ahead by 256 KiB
        self.write("memory_limit: 1GiB\nlog_level: info\nqueues: 4\n")
        daemon = self.daemon("--config", str(self.config))
        with trainer.Trainer(daemon.path) as held:
            stream = held.open(bucket=f"file://{bucket}", format=trainer.pb.FORMAT_RAW, batch_size=1, epochs=1, world_size=1,
                               prefetch_bytes=256 << 10, shuffle=trainer.pb.Shuffle(mode=trainer.pb.Shuffle.NONE),
                               tensors=[trainer.pb.TensorSpec(dtype=trainer.pb.DTYPE_UINT8, shape=[harness.SAMPLE])])
            batches = stream.batches()
            taken = [stream.view(next(batches), 0).tobytes()]

            self.reload(daemon, "memory_limit: 64KiB\nlog_level: debug\nqueues: 8\nread_timeout: 4m\n",
                        "reload: memory_limit: 1GiB -> 64KiB", "reload: log_level: info -> debug", "reload: read_timeout: 5m -> 4m",
                        "reload: queues: 4 -> 8: needs a restart")
            self.assertEqual(self.limit(daemon), 64 << 10)
            late = self.loader("--bucket", f"file://{bucket}", *RAW, service=daemon.socket)
            self.assert_failed(late, "of this node's 65536 bytes", code="RESOURCE_EXHAUSTED")
            self.reload(daemon, "memory_limit: 1GiB\nlog_level: debug\nqueues: 4\n", "reload: memory_limit: 64KiB -> 1GiB")
            more = self.loader("--bucket", f"file://{bucket}", *RAW, "--limit-batches", "1", service=daemon.socket)
            self.assertEqual(more.status, 0, more.text)

            taken += [stream.view(batch, 0).tobytes() for batch in batches]
            stored = b"".join(path.read_bytes() for path in sorted(bucket.glob("*.bin")))
            self.assertEqual(len(taken) * harness.SAMPLE, len(stored))
            self.assertTrue(b"".join(taken) == stored, "every byte, in order, by the stream that was there all the time")

    def test_reload_of_a_file_with_faults_changes_nothing(self):
        self.write("memory_limit: 1GiB\n")
        daemon = self.daemon("--config", str(self.config))
        self.reload(daemon, "memory_limit: 2GiB\nlog_levle: debug\nqueues: 0\n",
                    f"error not reloaded: {self.config}:2:1: unknown key 'log_levle'; did you mean log_level?",
                    f"error not reloaded: {self.config}:3:9: 'queues': '0': expected a whole number from 1 to 1024")
        self.assertEqual(self.limit(daemon), 1024 * MIB)
        self.config.unlink()
        daemon.kill(signal.SIGHUP)
        wait_for(lambda: "cannot be opened" in daemon.stderr(), 20 * SLOW, "it says that the file is gone")
        self.assertEqual(self.limit(daemon), 1024 * MIB)
        self.reload(daemon, "memory_limit: 1024MiB\n", "reload: nothing changed")

    def test_reload_of_timeouts_reaches_the_reads(self):
        bucket = self.raw_bucket()
        server = self.server(bucket)
        server.fault("*", fault_server.Silent())
        self.write("first_byte_timeout: 10m\n")
        daemon = self.daemon("--config", str(self.config))
        self.reload(daemon, "first_byte_timeout: 300ms\nmax_retries: 1\n", "reload: first_byte_timeout: 10m -> 300ms", "max_retries: 12 -> 1")
        run = self.loader("--bucket", server.url, *RAW, service=daemon.socket)
        self.assert_failed(run, "waited 0.3 s", code=("DEADLINE_EXCEEDED", "UNAVAILABLE"))
        self.assertEqual(len(server.requests("/" + run.error["object"])), 2, server.log)

    def test_reloads_are_no_signals_to_end(self):
        self.write("drain_timeout: 20s\n")
        daemon = self.daemon("--config", str(self.config))
        for limit in ("1GiB", "2GiB", "3GiB"):
            self.reload(daemon, f"memory_limit: {limit}\n", f"-> {limit}")
        daemon.kill(signal.SIGTERM)
        self.assertEqual(daemon.process.wait(20 * SLOW), 0, daemon.stderr())
        self.assertIn("draining for at most 30.0 s", daemon.stderr(), "the reload put back what the file no longer said")


if __name__ == "__main__":
    unittest.main()
