# SPDX-License-Identifier: Apache-2.0
"""Faults of processes and of the machine (docs/faults.md): what dies, what is full, what is forbidden, what is short."""
import fcntl
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
import unittest

import harness
import trainer
from harness import QUICK, RAW, SAMPLE, SLOW
from trainer import pb

NOBODY = 65534
ROOT_ONLY = unittest.skipUnless(os.geteuid() == 0, "needs root, to be somebody else")


def as_nobody():
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


class ProcessFaultsTest(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.bucket = self.raw_bucket()
        self.digest_path = self.work / "digest"

    def spec(self, url, **fields):
        return {"bucket": url, "format": pb.FORMAT_RAW, "tensors": [pb.TensorSpec(dtype=pb.DTYPE_UINT8, shape=[SAMPLE])], "batch_size": 4,
                "tail": pb.TAIL_UNEVEN, "prefetch_bytes": 1 << 20, **fields}

    def test_log_that_nobody_reads(self):
        """Its stderr is a full pipe: lines are lost, and the daemon serves and ends as ever."""
        nginx = self.nginx(self.bucket)
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        self.addCleanup(os.close, reading)
        path = str(self.work / "unread.sock")
        daemon = subprocess.Popen([harness.BIN / "devmem-loaderd", "--socket", path, "--config", "/dev/null", "--transport", "copy"], stderr=writing,
                                  stdin=subprocess.DEVNULL)
        os.close(writing)
        try:
            harness.wait_for(lambda: daemon.poll() is not None or harness.accepts(path), 20 * SLOW, "the daemon serves")
            for _ in range(200):  # a line for each, or few: a pipe of 4 KiB is full
                daemon.send_signal(signal.SIGHUP)
                time.sleep(0.002)
            done = self.loader("--bucket", nginx.url, *RAW, service=f"unix:{path}")
            self.assertEqual(done.status, 0, done)
            daemon.terminate()
            self.assertEqual(daemon.wait(30 * SLOW), 0)
        finally:
            if daemon.poll() is None:
                daemon.kill()
                daemon.wait()

    def trainer(self, daemon):
        return self.keep(trainer.Trainer(daemon.path))

    def other(self, what, daemon, nginx, token=""):
        """A Python trainer in a process of its own."""
        child = subprocess.Popen([sys.executable, trainer.__file__, what, daemon.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(child.communicate)
        self.addCleanup(child.kill)
        spec = pb.StreamSpec(**self.spec(nginx.url)).SerializeToString().hex()
        child.stdin.write(json.dumps({"spec": spec, "token": token}) + "\n")
        child.stdin.flush()
        return child

    def slow_nginx(self, rate="512k"):
        """A range of 1 MiB takes a second: nginx gives half of it at once. (Not shuffled: ranges of half a MiB are free.)"""
        self.bucket = self.raw_bucket("large", samples=2048, shards=32)
        return self.nginx(self.bucket, extra=f"limit_rate {rate};", log=True)

    def gone(self, observer, what):
        """No stream, and no slab memory in use: within a second on an idle machine, and far before any deadline on a busy one."""
        def clean():
            return trainer.at_rest(observer.status())
        harness.wait_for(clean, 10 * SLOW, what)

    # --- trainers ---
    def test_trainer_killed_with_batches_in_hand(self):
        daemon, nginx = self.daemon(), self.nginx(self.bucket)
        observer = self.trainer(daemon)
        child = self.other("hold", daemon, nginx)
        self.assertIn("holding 3", child.stdout.readline(), "it got as far as holding batches")
        child.kill()
        self.gone(observer, "a killed trainer gives everything back")
        run = self.loader("--bucket", nginx.url, *RAW, "--tail", "uneven", service=daemon.socket, digest=self.digest_path)
        self.assertEqual(run.status, 0, run.text)
        self.assert_delivered(self.bucket, self.digest_path)

    def test_cli_killed_in_mid_stream(self):
        daemon, nginx = self.daemon(), self.slow_nginx()
        observer = self.trainer(daemon)
        loader = self.start("--bucket", nginx.url, *RAW, "--shuffle", "none", service=daemon.socket)
        harness.wait_for(lambda: observer.status().streams, 20 * SLOW, "the stream is open")
        loader.kill()
        self.gone(observer, "a killed CLI gives everything back")

    def test_stalled_trainer_stalls_alone(self):
        daemon, nginx = self.daemon(), self.nginx(self.bucket)
        stalled = self.trainer(daemon).open(**self.spec(nginx.url))
        held = stalled.batches(release=False)
        first = next(held)
        run = self.loader("--bucket", nginx.url, *RAW, "--tail", "uneven", service=daemon.socket, digest=self.digest_path)
        self.assertEqual(run.status, 0, run.text)
        self.assert_delivered(self.bucket, self.digest_path)
        # It has kept what it holds, byte for byte, and goes on once it releases.
        got, batch = 0, first
        while batch is not None:
            got += len(batch.sample_ids)
            stalled.release(batch)
            batch = next(held, None)
        self.assertEqual(got, 256)

    def test_cancelled_stream_gives_everything_back(self):
        daemon, nginx = self.daemon(), self.nginx(self.bucket)
        observer = self.trainer(daemon)
        stream = self.trainer(daemon).open(**self.spec(nginx.url))
        next(stream.batches(release=False))
        stream.cancel()
        self.gone(observer, "a cancelled stream gives everything back")

    def failed(self, keeper, nginx):
        """A stream that failed while its trainer held a batch."""
        stream = keeper.open(**self.spec(nginx.url))
        held = next(stream.batches(release=False))
        self.assertIn("not held", stream.break_it().details())
        return stream, held

    def kept(self, observer, count):
        harness.wait_for(lambda: len(observer.status().kept_slabs) == count, 20 * SLOW, f"{count} slabs are kept")
        return observer.status().kept_slabs

    def test_failed_stream_gives_everything_back(self):
        """What its trainer holds stays readable, is to be seen in the status, and goes when the trainer says so, however it reads on."""
        daemon, nginx = self.daemon(), self.nginx(self.bucket)
        observer, keeper = self.trainer(daemon), self.trainer(daemon)
        for _ in range(3):
            stream, held = self.failed(keeper, nginx)
            slab, = self.kept(observer, 1)
            self.assertEqual((slab.stream_id, slab.peer_uid), (stream.opened.stream_id, os.geteuid()))
            self.assertEqual(slab.bytes, observer.status().pools[0].bytes_used)
            self.assertTrue(stream.view(held, 0).any())
            observer.release_stream(slab.stream_id)  # another's: nothing
            self.kept(observer, 1)
            told = self.verb("status", "--service", daemon.socket, "--output", "json")
            self.assertEqual([each["stream_id"] for each in json.loads(told.stdout)["kept_slabs"]], [slab.stream_id])
            keeper.release_stream(slab.stream_id)
            status = observer.status()
            self.assertEqual((len(status.streams), len(status.kept_slabs), status.pools[0].bytes_used), (0, 0, 0))
            keeper.release_stream(slab.stream_id)  # again: nothing is left, and that is no error

    def test_earlier_client_that_opens_again_and_again(self):
        """It does not know how to say that it holds nothing: it may keep one slab, and is then told what to do; nobody else suffers."""
        daemon, nginx = self.daemon("--memory-limit", "8M"), self.nginx(self.bucket)  # for six of its slabs
        observer, keeper = self.trainer(daemon), self.trainer(daemon)
        for count in (1, 2):
            self.failed(keeper, nginx)
            self.kept(observer, count)
        with self.assertRaises(trainer.grpc.RpcError) as refused:
            keeper.open(**self.spec(nginx.url))
        self.assertEqual(refused.exception.code(), trainer.grpc.StatusCode.RESOURCE_EXHAUSTED)
        for words in ("of 2 streams that failed while it held batches", "update it, or connect anew"):
            self.assertIn(words, refused.exception.details())
        run = self.loader("--bucket", nginx.url, *RAW, "--prefetch", "1M", service=daemon.socket)
        self.assertEqual(run.status, 0, run.text)
        keeper.close()
        self.gone(observer, "with its connection all is back")

    def test_interrupted(self):
        nginx = self.slow_nginx()
        loader = self.start("--bucket", nginx.url, *RAW, "--shuffle", "none", "--prefetch", "8M")
        harness.wait_for(lambda: " 206" in nginx.log.read_text(), 30 * SLOW, "it is reading")
        loader.kill(signal.SIGINT)
        self.assertEqual(loader.wait(20 * SLOW).status, 130)

    @staticmethod
    def signal_twice(program):
        """As timeout(1) does, the process and its group within microseconds; stopped meanwhile, so that it sees both at once."""
        os.kill(program.pid, signal.SIGSTOP)
        with open(f"/proc/{program.pid}/stat", encoding="ascii", errors="replace") as state:
            harness.wait_for(lambda: state.seek(0) == 0 and state.read().rsplit(")", 1)[1].split()[0] == "T", 20 * SLOW, "it is stopped")
        for how in (signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
            os.kill(program.pid, how)

    def test_interrupted_by_two_signals_at_once(self):
        nginx = self.slow_nginx()
        loader = self.start("--bucket", nginx.url, *RAW, "--shuffle", "none", "--prefetch", "8M")
        harness.wait_for(lambda: '"opened"' in loader.stderr(), 30 * SLOW, "the stream is open")
        self.signal_twice(loader)
        run = loader.wait(20 * SLOW)
        self.assertEqual(run.status, 130, run.text)
        self.assertTrue(run.summary.get("interrupted"), "the summary was lost: " + run.text)
        self.assertTrue(run.summary["cursor"], run.text)

    # --- the daemon ---
    def test_daemon_killed_client_hears_at_once(self):
        daemon, nginx = self.daemon(), self.nginx(self.bucket)
        stream = self.trainer(daemon).open(**self.spec(nginx.url))
        batches = stream.batches(release=False)
        held = next(batches)
        view = stream.view(held, 0).copy()
        daemon.kill()
        killed = time.monotonic()
        with self.assertRaises(trainer.grpc.RpcError) as raised:
            for _ in batches:
                pass
        self.assertEqual(raised.exception.code(), trainer.grpc.StatusCode.UNAVAILABLE)
        self.assertLess(time.monotonic() - killed, 10 * SLOW, "not by its deadline of a minute")
        self.assertTrue((stream.view(held, 0) == view).all(), "a batch in hand stays what it is")

    def test_daemon_killed_client_resumes(self):
        daemon, nginx = self.daemon(), self.slow_nginx()
        loader = self.start("--bucket", nginx.url, *RAW, "--tail", "uneven", "--prefetch", "8M", "--shuffle", "none", service=daemon.socket, digest=self.digest_path)
        harness.wait_for(lambda: nginx.log.read_text().count(" 206") > 2, 60 * SLOW, "ranges are served")
        daemon.kill()
        daemon.process.wait(10)
        os.kill(loader.pid, 0)
        self.daemon(path=daemon.path)
        run = loader.wait(120 * SLOW)
        self.assertEqual(run.status, 0, run.text)
        self.assert_delivered(self.bucket, self.digest_path)

    def test_daemon_killed_twice_client_resumes(self):
        daemon, nginx = self.daemon(), self.slow_nginx()
        loader = self.start("--bucket", nginx.url, *RAW, "--tail", "uneven", "--prefetch", "8M", "--shuffle", "none", service=daemon.socket, digest=self.digest_path)
        for count in (2, 12):
            harness.wait_for(lambda n=count: nginx.log.read_text().count(" 206") > n, 60 * SLOW, "ranges are served")
            daemon.kill()
            daemon.process.wait(10)
            daemon = self.daemon(path=daemon.path)
        run = loader.wait(120 * SLOW)
        self.assertEqual(run.status, 0, run.text)
        self.assert_delivered(self.bucket, self.digest_path)

    def test_daemon_restarted_under_many_clients(self):
        daemon, nginx = self.daemon("--drain-timeout", "1"), self.slow_nginx("1m")
        digests = [self.work / f"digest-{i}" for i in range(8)]
        loaders = [self.start("--bucket", nginx.url, *RAW, "--tail", "uneven", "--prefetch", "2M", "--shuffle", "none", "--rank", str(i % 2),
                              "--world-size", "2", service=daemon.socket, digest=path) for i, path in enumerate(digests)]
        observer = self.trainer(daemon)
        harness.wait_for(lambda: len(observer.status().streams) == len(loaders), 60 * SLOW, "all streams are open")
        wanted = nginx.log.read_text().count(" 206") + len(loaders)
        harness.wait_for(lambda: nginx.log.read_text().count(" 206") > wanted, 60 * SLOW, "ranges are served")
        daemon.kill(signal.SIGTERM)
        self.assertEqual(daemon.process.wait(20 * SLOW), 0, daemon.stderr())
        self.daemon(path=daemon.path)
        for run in [loader.wait(120 * SLOW) for loader in loaders]:
            self.assertEqual(run.status, 0, run.text)
            self.assertGreaterEqual(run.summary["reconnects"], 1)
        for first in range(0, len(digests), 2):  # each pair of ranks has read all of it
            self.assert_delivered(self.bucket, digests[first], digests[first + 1])

    def test_sigterm_drains(self):
        daemon, nginx = self.daemon("--drain-timeout", "30"), self.nginx(self.bucket)
        stream = self.trainer(daemon).open(**self.spec(nginx.url))
        batches = stream.batches()
        got = len(next(batches).sample_ids)
        daemon.kill(signal.SIGTERM)
        for batch in batches:  # the stream under way is served to its end
            got += len(batch.sample_ids)
        self.assertEqual(got, 256)
        self.assertEqual(daemon.process.wait(20 * SLOW), 0, daemon.stderr())
        self.assertFalse(os.path.exists(daemon.path), "the socket is removed")

    def test_two_signals_at_once_drain(self):
        daemon, nginx = self.daemon("--drain-timeout", "30"), self.nginx(self.bucket)
        stream = self.trainer(daemon).open(**self.spec(nginx.url))
        batches = stream.batches()
        got = len(next(batches).sample_ids)
        self.signal_twice(daemon)
        self.assertEqual(got + sum(len(batch.sample_ids) for batch in batches), 256)
        self.assertEqual(daemon.process.wait(20 * SLOW), 0, daemon.stderr())

    def test_sigterm_drain_has_a_deadline(self):
        daemon, nginx = self.daemon("--drain-timeout", "0.5"), self.nginx(self.bucket)
        stream = self.trainer(daemon).open(**self.spec(nginx.url))
        next(stream.batches(release=False))
        daemon.kill(signal.SIGTERM)
        self.assertEqual(daemon.process.wait(10 * SLOW), 0, daemon.stderr())

    def test_two_daemons_on_one_socket(self):
        daemon, nginx = self.daemon(), self.nginx(self.bucket)
        second = self.daemon(path=daemon.path, ready=False)
        run = second.wait(20 * SLOW)
        self.assertNotEqual(run.status, 0)
        self.assertIn(daemon.path, run.text)
        run = self.loader("--bucket", nginx.url, *RAW, service=daemon.socket)  # the first goes on
        self.assertEqual(run.status, 0, run.text)

    def test_socket_left_by_a_dead_daemon(self):
        daemon = self.daemon()
        daemon.kill()
        daemon.process.wait(10)
        self.assertTrue(os.path.exists(daemon.path))
        self.daemon(path=daemon.path)  # takes it over

    # --- memory ---
    def test_memory_cap_over_streams(self):
        daemon, nginx = self.daemon("--memory-limit", str(3 << 20)), self.nginx(self.bucket)
        first = self.trainer(daemon).open(**self.spec(nginx.url, prefetch_bytes=2 << 20))
        next(first.batches(release=False))
        run = self.loader("--bucket", nginx.url, *RAW, "--prefetch", str(2 << 20), service=daemon.socket)
        self.assert_failed(run, "memory", code="RESOURCE_EXHAUSTED")

    def test_kept_slab_keeps_no_memory(self):
        daemon, nginx = self.daemon(), self.nginx(self.bucket)
        observer = self.trainer(daemon)
        stream = self.trainer(daemon).open(**self.spec(nginx.url))
        next(stream.batches(release=False))
        stream.cancel()
        self.gone(observer, "the stream has ended")
        for slab in stream.maps.values():  # still mapped here; the pages are gone
            self.assertEqual(bytes(slab[:4096]).strip(b"\0"), b"")

    # --- the machine ---
    def test_full_disk_under_the_log(self):
        daemon, nginx = self.daemon("--log-file", "/dev/full"), self.nginx(self.bucket)
        run = self.loader("--bucket", nginx.url, *RAW, "--tail", "uneven", service=daemon.socket, digest=self.digest_path)
        self.assertEqual(run.status, 0, run.text)
        self.assert_delivered(self.bucket, self.digest_path)
        self.assertIsNone(daemon.process.poll(), daemon.stderr())

    def limited(self):
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    def test_64_file_descriptors(self):
        self.bucket = self.raw_bucket("many", shards=200, samples=800)
        daemon, nginx = self.daemon(preexec_fn=self.limited), self.nginx(self.bucket)
        run = self.loader("--bucket", nginx.url, *RAW, "--tail", "uneven", service=daemon.socket, digest=self.digest_path, preexec_fn=self.limited)
        self.assertEqual(run.status, 0, run.text)
        self.assert_delivered(self.bucket, self.digest_path)

    def test_64_file_descriptors_and_many_streams(self):
        # Streams beyond what the descriptors bear are refused or fail with a reason; the daemon lives on and recovers.
        daemon, nginx = self.daemon(preexec_fn=self.limited), self.nginx(self.bucket)
        loaders = [self.start("--bucket", nginx.url, *RAW, "--tail", "uneven", service=daemon.socket) for _ in range(24)]
        for run in [loader.wait() for loader in loaders]:
            if run.status != 0:
                self.assert_failed(run)
        self.assertIsNone(daemon.process.poll(), daemon.stderr())

        def fine():
            return self.loader("--bucket", nginx.url, *RAW, "--tail", "uneven", service=daemon.socket, digest=self.digest_path).status == 0
        harness.wait_for(fine, 10 * SLOW, "it recovers")
        self.assert_delivered(self.bucket, self.digest_path)

    # --- who may ---
    def programs_for_all(self):
        """The build folder may not be open to others: copies that are."""
        folder = self.folder("bin")
        for name in ("devmem-loader", "devmem-loaderd"):
            shutil.copy(harness.BIN / name, folder / name)
            os.chmod(folder / name, 0o755)
        return folder

    @ROOT_ONLY
    def test_wrong_permissions_on_the_socket(self):
        daemon, nginx = self.daemon("--socket-mode", "0600"), self.nginx(self.bucket)
        self.assertEqual(stat.S_IMODE(os.stat(daemon.path).st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(os.stat(daemon.path + ".fd").st_mode), 0o600)
        run = self.loader("--bucket", nginx.url, *RAW, service=daemon.socket, binary=self.programs_for_all() / "devmem-loader",
                          preexec_fn=as_nobody, cwd="/")
        self.assert_failed(run, daemon.path, code="PERMISSION_DENIED")

    @ROOT_ONLY
    def test_token_stolen_by_another_user(self):
        daemon, nginx = self.daemon("--socket-mode", "0666"), self.nginx(self.bucket)
        victim = self.trainer(daemon)
        stream = victim.open(**self.spec(nginx.url))
        next(stream.batches(release=False))

        thief = self.other("steal", daemon, nginx, token=victim.token)
        answers = json.loads(thief.communicate(timeout=60)[0] or "[]")
        self.assertEqual(len(answers), 2)
        self.assertTrue(all(answer in ("PERMISSION_DENIED", "UNAUTHENTICATED") for answer in answers), answers)
        self.assertTrue(victim.status().streams, "the victim's stream goes on")

    def test_no_token(self):
        daemon = self.daemon()
        with self.assertRaises(trainer.grpc.RpcError) as raised:
            trainer.Trainer(daemon.path, token="0" * 32).status()
        self.assertEqual(raised.exception.code(), trainer.grpc.StatusCode.UNAUTHENTICATED)

    def test_token_is_in_no_log(self):
        daemon, nginx = self.daemon(), self.nginx(self.bucket)
        victim = self.trainer(daemon)
        for _ in victim.open(**self.spec(nginx.url)).batches():
            pass
        daemon.kill(signal.SIGTERM)
        daemon.process.wait(20 * SLOW)
        self.assertNotIn(victim.token, daemon.stderr())
        self.assertNotIn(victim.token, (daemon.out / "stdout").read_text())

    def test_io_uring_refused(self):
        # As in a pod whose seccomp profile refuses it: epoll, and the reason is shown.
        run = self.loader("--bucket", self.nginx(self.bucket).url, *RAW, "--tail", "uneven", *QUICK, digest=self.digest_path,
                          preexec_fn=refuse_io_uring)
        self.assertEqual(run.status, 0, run.text)
        self.assertIn("epoll", run.summary["path_reason"])
        self.assert_delivered(self.bucket, self.digest_path)


def refuse_io_uring():
    """A seccomp filter that answers EPERM to io_uring_setup (425 on x86-64 and arm64)."""
    import ctypes
    import struct as packer
    # BPF: load the system call's number; if it is 425 return EPERM, else allow.
    program = b"".join(packer.pack("HBBI", *line) for line in (
        (0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050000 | 1), (0x06, 0, 0, 0x7FFF0000)))
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(program)

    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
    description = Filter(4, ctypes.cast(buffer, ctypes.c_void_p))
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    if libc.prctl(22, 2, ctypes.byref(description), 0, 0) != 0:  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")
