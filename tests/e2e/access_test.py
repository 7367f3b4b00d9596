# SPDX-License-Identifier: Apache-2.0
"""Who may open what, and what one user's trainers can do to another's (docs/security.md): real sockets, real users.

Each peer is a process of its own, which gives up root for a user, a group and supplementary groups before it connects, and then does
what it is told by lines of JSON on its stdin.
"""
import hashlib
import json
import os
import queue
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import unittest

import fault_server
import harness
import trainer
from harness import SAMPLE, SLOW, wait_for

pb, grpc = trainer.pb, trainer.grpc
ROOT_ONLY = unittest.skipUnless(os.geteuid() == 0, "needs root: trainers become other users")
ALICE, BOB, CAROL, MALLORY = 61001, 61002, 61003, 61666
TEAM = 62001  # a group
MIB = 1 << 20


class Peer:
    """The test's end of a process of another user."""

    def __init__(self, path, uid, gid=None, groups=()):
        self.process = subprocess.Popen([sys.executable, __file__, path, str(uid), str(gid or uid), *map(str, groups)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=harness.die_with_us(signal.SIGKILL))

    def tell(self, what, **arguments):
        self.process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
        self.process.stdin.flush()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"the peer ended with {self.process.wait(10)}")
        return json.loads(line)

    def ask(self, what, **arguments):
        self.tell(what, **arguments)
        return self.answer()

    def open(self, bucket, **spec):
        """"allowed", or the code and text of the refusal."""
        answer = self.ask("open", spec=raw_spec(bucket, **spec).SerializeToString().hex())
        return answer if isinstance(answer, str) else tuple(answer)

    def close(self):
        self.process.kill()
        self.process.communicate(timeout=10)


def raw_spec(bucket, **more):
    return pb.StreamSpec(**{"bucket": bucket, "format": pb.FORMAT_RAW, "batch_size": 16, "epochs": 1, "world_size": 1, "prefetch_bytes": MIB,
                            "shuffle": pb.Shuffle(mode=pb.Shuffle.NONE),
                            "tensors": [pb.TensorSpec(dtype=pb.DTYPE_UINT8, shape=[SAMPLE])], **more})


def stored(folder):
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.bin")))).hexdigest()


def listening(pid):
    """The TCP sockets of this process that listen, as (port in decimal)."""
    own = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            link = os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            continue
        if match := re.match(r"socket:\[(\d+)\]", link):
            own.add(match.group(1))
    found = []
    for table in ("tcp", "tcp6"):
        with open(f"/proc/{pid}/net/{table}", encoding="ascii") as lines:
            for row in list(lines)[1:]:
                fields = row.split()
                if fields[3] == "0A" and fields[9] in own:
                    found.append(int(fields[1].rsplit(":", 1)[1], 16))
    return found


@ROOT_ONLY
class AccessTest(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.buckets = self.folder("buckets")
        for name in ("a", "ab", "b"):
            self.raw_bucket(f"buckets/{name}", seed=len(name) + ord(name[0]))
        self.config = self.work / "config.yaml"

    def serve(self, rules, *flags):
        """nginx over the buckets, and a daemon that anybody may connect to, with `rules` (given the URL of nginx)."""
        store = self.nginx(self.buckets, log=True)
        self.config.write_text(rules(store.url))
        daemon = self.daemon("--config", str(self.config), "--socket-mode", "0666", "--log-format", "json", "--transport", "copy", *harness.QUICK,
                             *flags)
        return store, daemon

    def peer(self, daemon, uid, gid=None, groups=()):
        return self.keep(Peer(daemon.path, uid, gid, groups))

    def events(self, daemon, *names):
        lines = [json.loads(line) for line in daemon.stderr().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") in names]

    @staticmethod
    def requests(store):
        return store.log.read_text() if store.log.exists() else ""

    # --- who may open what ---
    def test_table_of_peers_buckets_and_quotas(self):
        store, daemon = self.serve(lambda url: f"""
access:
  - {{uid: [{ALICE}], bucket: ['{url}a'], streams: 2, memory: 3MiB}}
  - {{gid: [{TEAM}], bucket: ['{url}b/']}}
  - {{uid: {BOB}, gid: {TEAM}, bucket: ['{url}a']}}
  - {{uid: 0, bucket: ['file://{self.buckets}/a']}}
""")
        url = store.url
        alice, bob = self.peer(daemon, ALICE), self.peer(daemon, BOB, TEAM)
        carol, mallory = self.peer(daemon, CAROL, groups=[62000, TEAM]), self.peer(daemon, MALLORY)
        lone_bob, root = self.peer(daemon, BOB), self.peer(daemon, 0)
        denied, invalid, exhausted = "PERMISSION_DENIED", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"
        before = self.requests(store)
        rows = [  # refusals first: no store may have been asked by then
            ("alice", alice, url + "ab", {}, denied),
            ("alice", alice, url + "b", {}, denied),
            ("alice", alice, url, {}, denied),
            ("alice", alice, url + "A", {}, denied),
            ("alice", alice, url + "a/../b", {}, denied),
            ("alice", alice, url + "a/%2e%2e/b", {}, (denied, invalid)),
            ("alice", alice, url + "a/..%2fb", {}, invalid),
            ("alice", alice, url + "a/%252e%252e/b", {}, invalid),
            ("alice", alice, "s3://a", {"endpoint_url": url + "b"}, denied),
            ("alice", alice, f"file://{self.buckets}/a", {}, denied),
            ("bob, alone", lone_bob, url + "a", {}, denied),
            ("carol, by her group", carol, url + "a", {}, denied),
            ("mallory", mallory, url + "a", {}, denied),
            ("mallory", mallory, url + "b", {}, denied),
            ("root", root, url + "a", {}, denied),
            ("root", root, f"file://{self.buckets}/b", {}, denied),
        ]
        for name, peer, bucket, spec, wanted in rows:
            answer = peer.open(bucket, **spec)
            self.assertIn(answer[0], wanted if isinstance(wanted, tuple) else (wanted,), (name, bucket, answer))
            print(f"{name:20} {bucket.replace(url, 'http://store/'):45} {answer[0]}")
        self.assertEqual(self.requests(store), before, "no store was asked for what is refused")
        refused = mallory.open(url + "a")
        self.assertIn(f"no access rule lets uid {MALLORY} open it", refused[1])
        self.assertIn(url + "a/", refused[1])
        self.assertIn("`access` in the daemon's configuration", refused[1])

        rows = [
            ("alice", alice, url + "a", {"prefetch_bytes": MIB}, "allowed"),
            ("alice, 2nd, too much", alice, url + "a", {"prefetch_bytes": 4 * MIB}, exhausted),
            ("alice, 2nd", alice, url + "a/", {"prefetch_bytes": MIB}, "allowed"),
            ("alice, 3rd", alice, url + "a", {}, exhausted),
            ("bob, of the team", bob, url + "a", {}, "allowed"),
            ("bob, of the team", bob, url + "b", {}, "allowed"),
            ("carol, by her group", carol, url + "b", {}, "allowed"),
            ("root", root, f"file://{self.buckets}/a", {}, "allowed"),
        ]
        for name, peer, bucket, spec, wanted in rows:
            answer = peer.open(bucket, **spec)
            self.assertEqual(answer if isinstance(answer, str) else answer[0], wanted, (name, bucket, answer))
            print(f"{name:20} {bucket.replace(url, 'http://store/'):45} {wanted}")
        third = alice.open(url + "a")
        self.assertIn(f"uid {ALICE} has 2 streams, and access rule 1 allows 2", third[1])

        # A stream that ends gives its user's quota back.
        self.assertEqual(alice.ask("drain"), stored(self.buckets / "a"))
        self.assertEqual(alice.open(url + "a"), "allowed", "at once")

    def test_redirects_stay_within_the_rules(self):
        mirror, first = self.server(self.buckets / "a"), self.server(self.buckets / "a")
        secret = "Sec-ret123"
        first.fault("/0001.bin", fault_server.Redirect(f"{mirror.url}0001.bin?X-Amz-Signature={secret}"))
        store, daemon = self.serve(lambda url: f"""
access:
  - {{uid: {ALICE}, bucket: ['{first.url}', '{mirror.url}']}}
  - {{uid: {BOB}, bucket: ['{first.url}']}}
""")
        alice, bob = self.peer(daemon, ALICE), self.peer(daemon, BOB)
        self.assertEqual(alice.open(first.url), "allowed")
        self.assertEqual(bob.open(first.url), "allowed")
        self.assertEqual(alice.ask("drain"), stored(self.buckets / "a"), "to where a rule of hers allows")
        asked = len(mirror.requests())
        self.assertGreater(asked, 0)
        code, text = bob.ask("drain")
        self.assertEqual(code, "PERMISSION_DENIED")
        self.assertIn(f"redirected to {mirror.url}0001.bin, which no access rule lets this user open", text)
        self.assertEqual(len(mirror.requests()), asked, "the mirror was not asked for him")
        self.assertNotIn(secret, text + daemon.stderr())

    def test_status_by_user(self):
        store, daemon = self.serve(lambda url: f"access: [{{uid: [{ALICE}, {BOB}], bucket: ['{url}']}}]")
        alice, bob, mallory, root = (self.peer(daemon, uid) for uid in (ALICE, BOB, MALLORY, 0))
        self.assertEqual(alice.open(store.url + "a"), "allowed")
        self.assertEqual(bob.open(store.url + "b"), "allowed")
        self.assertEqual(alice.ask("status"), [ALICE])
        self.assertEqual(bob.ask("status"), [BOB])
        self.assertEqual(sorted(root.ask("status")), [ALICE, BOB], "root, for whom there is no rule")
        self.assertEqual(mallory.ask("status")[0], "PERMISSION_DENIED")

    def test_without_rules_the_sockets_decide(self):
        store, daemon = self.serve(lambda url: "access: []\n")
        self.assertEqual(self.peer(daemon, MALLORY).open(store.url + "a"), "allowed")
        self.assertEqual(self.peer(daemon, MALLORY).open(f"file://{self.buckets}/a")[0], "PERMISSION_DENIED",
                         "files of the host are for the daemon's own user and root all the same")
        closed = self.daemon("--socket-mode", "0660", "--transport", "copy")
        self.assertEqual(self.peer(closed, MALLORY).open(store.url + "a")[0], "PermissionError", "the socket's mode keeps others out")
        os.chown(closed.path, -1, TEAM)
        os.chown(closed.path + ".fd", -1, TEAM)
        self.assertEqual(self.peer(closed, CAROL, groups=[TEAM]).open(store.url + "a"), "allowed", "its group is in")

    def test_reload_of_rules(self):
        store, daemon = self.serve(lambda url: f"access: [{{uid: {ALICE}, bucket: ['{url}a']}}]")
        alice, bob = self.peer(daemon, ALICE), self.peer(daemon, BOB)
        self.assertEqual(alice.open(store.url + "a"), "allowed")
        self.assertEqual(bob.open(store.url + "a")[0], "PERMISSION_DENIED")
        self.config.write_text(f"access: [{{uid: {BOB}, bucket: ['{store.url}a']}}]")
        daemon.kill(signal.SIGHUP)
        wait_for(lambda: "reload: access: changed" in daemon.stderr(), 20 * SLOW, "the reload is said")
        self.assertEqual(bob.open(store.url + "a"), "allowed")
        self.assertEqual(alice.open(store.url + "a")[0], "PERMISSION_DENIED")
        self.assertEqual(alice.ask("drain"), stored(self.buckets / "a"), "the stream that was open goes on to its end")
        self.config.write_text("access: [{bucket: a}]")
        daemon.kill(signal.SIGHUP)
        wait_for(lambda: "not reloaded: access: rule 1: " in daemon.stderr(), 20 * SLOW, "the fault is named")
        self.assertEqual(alice.open(store.url + "a")[0], "PERMISSION_DENIED", "and the rules are as they were")

    # --- what is kept of it ---
    def test_audit_line_of_every_stream(self):
        store, daemon = self.serve(lambda url: f"access: [{{uid: {ALICE}, bucket: ['{url}a'], streams: 1}}]")
        alice, mallory = self.peer(daemon, ALICE, TEAM), self.peer(daemon, MALLORY)
        self.assertEqual(alice.open(store.url + "a"), "allowed")
        secret = "Sec-ret123"
        for peer, bucket, more in [(alice, store.url + "a", {}), (mallory, store.url + "a", {}),
                                   (alice, store.url.replace("http://", f"http://user:{secret}@") + "a", {}),
                                   (alice, f"{store.url}a?X-Amz-Signature={secret}", {}),
                                   (alice, f"s3://b?X-Amz-Signature={secret}", {}),
                                   (alice, "s3://b", {"endpoint_url": f"http://k:{secret}@127.0.0.1:1/"}),
                                   (alice, "line\nbreak", {})]:
            self.assertNotEqual(peer.open(bucket, **more), "allowed", bucket)
        self.assertEqual(mallory.ask("stranger")[0], "UNAUTHENTICATED")
        rows = [(line["event"], line["outcome"], line["uid"], line["gid"], line["rule"], line.get("reason"), line["bucket"])
                for line in self.events(daemon, "stream_opened", "stream_refused")]
        url, opened = store.url, rows.pop(0)
        self.assertEqual(opened, ("stream_opened", "opened", ALICE, TEAM, 1, None, url + "a/"))
        self.assertEqual(rows, [
            ("stream_refused", "refused", ALICE, TEAM, 1, "resource_exhausted", url + "a/"),
            ("stream_refused", "refused", MALLORY, MALLORY, 0, "permission_denied", url + "a/"),
            ("stream_refused", "refused", ALICE, TEAM, 0, "invalid_argument", url.replace("http://", "http://...@") + "a"),
            ("stream_refused", "refused", ALICE, TEAM, 0, "invalid_argument", url + "a"),
            ("stream_refused", "refused", ALICE, TEAM, 0, "invalid_argument", "s3://b"),
            ("stream_refused", "refused", ALICE, TEAM, 0, "invalid_argument", "s3://b/"),
            ("stream_refused", "refused", ALICE, TEAM, 0, "invalid_argument", "line\\x0abreak"),
            ("stream_refused", "refused", MALLORY, MALLORY, 0, "unauthenticated", ""),
        ])
        lines = self.events(daemon, "stream_opened", "stream_refused")
        self.assertEqual([line["pid"] for line in lines[:3]], [alice.process.pid, alice.process.pid, mallory.process.pid])
        self.assertTrue(lines[0]["stream"])
        self.assertNotIn(secret, daemon.stderr())

    # --- what one user can do to another ---
    def test_another_users_token_and_slab(self):
        store, daemon = self.serve(lambda url: f"access: [{{uid: [{ALICE}, {BOB}], bucket: ['{url}']}}]")
        alice, bob = self.peer(daemon, ALICE), self.peer(daemon, BOB)
        self.assertEqual(bob.open(store.url + "b"), "allowed")
        token = bob.ask("token")
        for answer in alice.ask("steal", token=token, spec=raw_spec(store.url + "b").SerializeToString().hex()):
            self.assertIn(answer, ("PERMISSION_DENIED", "UNAUTHENTICATED"))

        # Bob's slab is in the daemon and in his trainer; root sees it there, and Alice can open it in neither.
        for owner in (daemon.pid, bob.process.pid):
            with open(f"/proc/{owner}/maps", encoding="utf-8") as maps:
                self.assertIn("devmem-loader-slab", maps.read())
            self.assertEqual(alice.ask("spy", pid=owner), [], f"Alice got at something of process {owner}")
        self.assertTrue(bob.ask("spy", pid=bob.process.pid), "what is tried works where one may")
        # Her own stream brings her one descriptor, of her own slab, that can be made neither larger nor smaller.
        self.assertEqual(alice.open(store.url + "a"), "allowed")
        self.assertEqual(alice.ask("handles"), {"received": 1, "resized": 0})
        self.assertEqual(bob.ask("drain"), stored(self.buckets / "b"))

    def test_one_user_cannot_exhaust_what_others_need(self):
        store, daemon = self.serve(lambda url: f"access: [{{uid: [{ALICE}], bucket: ['{url}'], streams: 3, memory: 4MiB}}, "
                                               f"{{uid: {BOB}, bucket: ['{url}']}}]", "--memory-limit", "16MiB")
        alice, bob = self.peer(daemon, ALICE), self.peer(daemon, BOB)
        self.assertEqual(bob.open(store.url + "b"), "allowed")
        self.assertEqual(alice.open(store.url + "a", prefetch_bytes=MIB), "allowed")
        # Connections to both sockets, as many as it takes to be refused, and kept.
        taken = alice.ask("connect", count=1100)
        self.assertEqual(taken["admitted"], 1023, "1024 trainers of a user, one of which is there already")
        self.assertEqual(taken["refused"], 77)
        self.assertIn(f"1024 trainers of uid {ALICE} already", taken["text"])
        self.assertEqual((taken["grpc"], taken["grpc_closed"]), (1023, 77))
        # Streams and memory.
        opened = [alice.open(store.url + "a", prefetch_bytes=8 * MIB) for _ in range(2)]
        self.assertEqual([answer[0] for answer in opened], ["RESOURCE_EXHAUSTED"] * 2, opened)
        answers = [alice.open(store.url + "a", prefetch_bytes=MIB) for _ in range(5)]
        self.assertEqual([answer if isinstance(answer, str) else answer[0] for answer in answers],
                         ["allowed"] * 2 + ["RESOURCE_EXHAUSTED"] * 3, answers)
        # All of that is held while Bob's stream goes on, and while he opens another, as a new trainer.
        late = self.peer(daemon, BOB)
        self.assertEqual(late.open(store.url + "b", prefetch_bytes=8 * MIB), "allowed")
        self.assertEqual(bob.ask("drain"), stored(self.buckets / "b"))
        self.assertEqual(late.ask("drain"), stored(self.buckets / "b"))
        # And when she is gone, so is what she had.
        alice.close()
        with trainer.Trainer(daemon.path) as root:
            wait_for(lambda: ALICE not in [stream.peer_uid for stream in root.status().streams], 10 * SLOW, "her streams end")
        self.assertEqual(self.peer(daemon, ALICE).open(store.url + "a"), "allowed")

    def test_a_listing_counts_to_its_users_memory(self):
        server = self.server(self.buckets / "a")
        server.listing = lambda _: [{"name": f"{'n' * 200}{i:05}", "type": "file", "size": SAMPLE} for i in range(20000)]
        _, daemon = self.serve(lambda _: f"access: [{{uid: {ALICE}, bucket: ['{server.url}'], memory: 3MiB}}, {{uid: {BOB}, bucket: ['{server.url}']}}]")
        code, text = self.peer(daemon, ALICE).open(server.url)
        self.assertEqual(code, "RESOURCE_EXHAUSTED")
        self.assertRegex(text, f"for its listing, headers and messages, and of the 3145728 bytes that access rule 1 allows uid {ALICE}")
        self.assertEqual(self.peer(daemon, BOB).open(server.url), "allowed")

    def test_opens_that_hang_keep_nobody_else_out(self):
        silent = self.server(self.buckets / "a")
        silent.fault("/", fault_server.Silent(), when=lambda request: True)
        store, daemon = self.serve(lambda url: f"access: [{{uid: {ALICE}, bucket: ['{silent.url}'], streams: 100}}, "
                                               f"{{uid: {BOB}, bucket: ['{url}']}}]", "--first-byte-timeout", "10m", "--read-timeout", "10m")
        alice, bob = self.peer(daemon, ALICE), self.peer(daemon, BOB)
        self.assertEqual(alice.ask("begin", count=150, spec=raw_spec(silent.url).SerializeToString().hex()), ["RESOURCE_EXHAUSTED"] * 50)
        self.assertEqual(bob.open(store.url + "b"), "allowed", "100 of the daemon's 128 threads for opening wait for her store")
        self.assertEqual(bob.ask("drain"), stored(self.buckets / "b"))

    def test_nothing_listens_on_tcp_but_the_metrics(self):
        store, daemon = self.serve(lambda url: "")
        peer = self.peer(daemon, ALICE)
        self.assertEqual(peer.open(store.url + "a"), "allowed")
        self.assertEqual(listening(daemon.pid), [])
        self.assertEqual(peer.ask("drain"), stored(self.buckets / "a"))
        port = harness.free_port()
        measured = self.daemon("--metrics-listen", f"127.0.0.1:{port}", "--transport", "copy")
        self.assertEqual(listening(measured.pid), [port])


# --- the peer ---

class Actor:
    """What a peer does; run as its user."""

    def __init__(self, path):
        self.path, self.streams, self.kept = path, [], []
        self.trainer = None

    def client(self):
        if self.trainer is None:
            self.trainer = trainer.Trainer(self.path)
        return self.trainer

    def open(self, spec):
        spec = pb.StreamSpec.FromString(bytes.fromhex(spec))
        self.streams.append(trainer.Stream(self.client(), spec, 300))
        return "allowed"

    def begin(self, count, spec):
        """Calls that wait for no answer but a refusal; the codes of those."""
        request = pb.OpenStreamRequest(spec=pb.StreamSpec.FromString(bytes.fromhex(spec)))
        client, refused = self.client(), queue.SimpleQueue()

        def read(call):
            try:
                for _ in call:  # progress
                    pass
            except grpc.RpcError as error:
                refused.put(error.code().name)
        for _ in range(count):
            hold = queue.SimpleQueue()
            hold.put(request)
            call = client.stub.OpenStream(iter(hold.get, None), metadata=client.metadata)
            threading.Thread(target=read, args=(call,), daemon=True).start()
        return [refused.get(timeout=60 * SLOW) for _ in range(count - 100)]

    def drain(self):
        """The oldest stream to its end: the hash of all it brought."""
        stream, digest = self.streams.pop(0), hashlib.sha256()
        for batch in stream.batches():
            digest.update(stream.view(batch, 0).tobytes())
        return digest.hexdigest()

    def status(self):
        return [stream.peer_uid for stream in self.client().status().streams]

    def token(self):
        return self.client().token

    def stranger(self):
        return trainer.Stream(trainer.Trainer(self.path, token="0" * 32), raw_spec("s3://x"), 20)

    def steal(self, token, spec):
        thief, answers = trainer.Trainer(self.path, token=token), []
        for call in (thief.status, lambda: trainer.Stream(thief, pb.StreamSpec.FromString(bytes.fromhex(spec)), 20)):
            try:
                call()
                answers.append("served")
            except grpc.RpcError as error:
                answers.append(error.code().name)
        return answers

    @staticmethod
    def spy(pid):
        """What of another's process could be opened."""
        found = []
        for name in (f"/proc/{pid}/mem", f"/proc/{pid}/maps", *(f"/proc/{pid}/fd/{number}" for number in range(256))):
            try:
                os.close(os.open(name, os.O_RDONLY))
                found.append(name)
            except OSError:
                pass
        for folder in ("fd", "map_files"):
            try:
                os.listdir(f"/proc/{pid}/{folder}")
                found.append(folder)
            except OSError:
                pass
        libc = harness.ctypes.CDLL(None, use_errno=True)
        process = os.pidfd_open(pid)
        found += [f"pidfd_getfd {number}" for number in range(256) if libc.syscall(438, process, number, 0) >= 0]
        os.close(process)
        return found

    def handles(self):
        """What came with the newest stream. Stream() takes a descriptor for each slab it was told of; here is what else there was."""
        stream = self.streams[-1]
        self.client().handles.setblocking(False)
        received = len(stream.maps)
        try:
            _, more, _, _ = socket.recv_fds(self.client().handles, 4096, 16)
            received += len(more)
        except BlockingIOError:
            pass
        finally:
            self.client().handles.settimeout(10)
        resized = 0
        for view in stream.maps.values():
            try:
                view.resize(2 * len(view))
                resized += 1
            except (OSError, ValueError):
                pass
        return {"received": received, "resized": resized}

    def connect(self, count):
        """Handle sockets, then gRPC connections, all kept open."""
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
        self.client()
        told = {"admitted": 0, "refused": 0, "text": "", "grpc": 0, "grpc_closed": 0}
        for _ in range(count):
            handle = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            handle.settimeout(20 * SLOW)
            handle.connect(self.path + ".fd")
            packet = trainer.handle_socket_pb2.HandlePacket.FromString(handle.recv(4096))
            told["admitted"] += packet.HasField("hello")
            if packet.HasField("refused"):
                told["refused"] += 1
                told["text"] = packet.refused.message
            self.kept.append(handle)
        for _ in range(count):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(20 * SLOW)
            connection.connect(self.path)
            try:
                alive = bool(connection.recv(1))  # gRPC speaks first
            except ConnectionError:
                alive = False
            told["grpc" if alive else "grpc_closed"] += 1
            self.kept.append(connection)
        return told


def main():
    path, uid, gid, *groups = sys.argv[1:]
    os.setgroups([int(group) for group in groups])
    os.setgid(int(gid))
    os.setuid(int(uid))
    actor = Actor(path)
    for line in sys.stdin:
        wanted = json.loads(line)
        try:
            answer = getattr(actor, wanted.pop("do"))(**wanted)
        except grpc.RpcError as error:
            answer = [error.code().name, error.details()]
        except PermissionError as error:
            answer = ["PermissionError", str(error)]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
