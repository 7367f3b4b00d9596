#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs cases of the oracle (oracle.py) against the real daemon, over real servers, and compares all that arrives.

    oracle_run.py --seed 7 --count 500         # prints a line a case that fails; exit status 1 if any did
    oracle_run.py --seed 7 --case 12           # that one again, with its specification

One daemon, one nginx, one odd server and (where ./dev test has installed it) one S3 server serve all cases of a run: each case has a
folder of its own. What is read through which server, and by which client, is part of the case.
"""
import argparse
import hashlib
import http.client
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse

import grpc
import numpy

import harness
import odd_server
import oracle
import trainer
from fault_server import FaultServer, Status
from trainer import pb

sys.path.insert(0, str(harness.ROOT / "client/python"))
import devmem_loader_reader  # noqa: E402  pylint: disable=wrong-import-position

MOTO = harness.ROOT / "build/venv/bin/moto_server"
TIMEOUT = 60 * harness.SLOW
DTYPE = {name[len("DTYPE_"):].lower(): number for name, number in pb.DType.items()}
DTYPE_NAME = {number: name for name, number in DTYPE.items()}
SHUFFLE = {None: pb.Shuffle.MODE_UNSPECIFIED, "none": pb.Shuffle.NONE, "block": pb.Shuffle.BLOCK, "window": pb.Shuffle.WINDOW, "global": pb.Shuffle.GLOBAL}
TAIL = {"drop": pb.TAIL_DROP, "pad": pb.TAIL_PAD, "uneven": pb.TAIL_UNEVEN}
FORMAT = {"raw": pb.FORMAT_RAW, "npy": pb.FORMAT_NPY, "safetensors": pb.FORMAT_SAFETENSORS}


class Failed(Exception):
    """What the product did wrong, in words."""


class Refused(Exception):
    """The stream was refused or failed; what is right where a case may be refused."""


def words_of(error):
    return f"{error.code().name}: {error.details()}"


# --- one stream of one rank ---------------------------------------------------------------------------------------
class Reading:
    """A stream of one rank by tests/e2e/trainer.py, read a batch at a time."""

    def __init__(self, rig, case, stream, rank, rng):
        self.stream, self.rng, self.held = stream, rng, []
        self.trainer = rig.trainer(rank)
        self.opened_stream = self.trainer.open(timeout=TIMEOUT, **spec_fields(rig, case, stream, rank))
        opened = self.opened_stream.opened
        self.hold = min(stream.hold, max(0, opened.slots - 1))
        self.received = start_of(opened)
        self.batches = self._batches()
        self.cursors = [opened.cursor]

    def _batches(self):
        for answer in self.opened_stream.call:
            if answer.HasField("batches"):
                yield from answer.batches.batches
            elif answer.HasField("epoch_end"):
                self.received.epoch_ends.append(ending(answer.epoch_end))
                self.cursors.append(answer.epoch_end.cursor)
            elif answer.HasField("stream_end"):
                self.received.end = statistics(answer.stream_end)
                self.opened_stream.release(*self.held)  # the call ends when all is given back

    def step(self):
        """Takes a batch; False when there is none any more."""
        if self.stream.signals_waiting:
            self.opened_stream.waits()
        batch = next(self.batches, None)
        if batch is None:
            return False
        rows = {}
        for tensor in batch.tensors:
            data = numpy.frombuffer(self.opened_stream.maps[tensor.slab], numpy.uint8, tensor.bytes, tensor.offset)
            rows[tensor.name] = data.reshape(max(1, len(batch.sample_ids)), -1).copy() if len(batch.sample_ids) else data.copy()
        self.received.deliveries.append(delivery(batch, rows, self.stream.with_sources))
        self.cursors.append(batch.cursor)
        self.held.append(batch)
        if len(self.held) > self.hold:
            self.opened_stream.release(self.held.pop(self.rng.randrange(len(self.held))))
        return True

    def close(self):
        self.opened_stream.cancel()


def spec_fields(rig, case, stream, rank):
    fields = {"bucket": rig.url(stream.server, case), "batch_size": stream.batch_size, "tail": TAIL[stream.tail], "seed": case.order_seed,
              "epochs": stream.epochs, "rank": rank, "world_size": stream.world, "prefetch_bytes": stream.prefetch,
              "with_sources": stream.with_sources, "signals_waiting": stream.signals_waiting,
              "shuffle": pb.Shuffle(mode=SHUFFLE[case.shuffle], window=case.window, block_samples=case.block_samples, group_blocks=case.group_blocks)}
    if case.shuffle != "window":
        fields["shuffle"].window = 0
    if stream.server == "s3":
        fields["endpoint_url"] = rig.s3_url
    if case.says_format:
        fields["format"] = FORMAT[case.format]
    if case.refusal and stream.world == 0:
        fields.update(rank=3, world_size=3)
    if case.skip:
        fields["on_error"] = pb.ON_ERROR_SKIP
        fields["max_skipped"] = pb.SkipLimit(share=1.0) if stream.limit is None else pb.SkipLimit(samples=stream.limit)
    if stream.cursor is not None:
        fields["resume"] = stream.cursor
    asks = getattr(case, "asks", {})
    tensors = []
    for tensor in case.tensors:
        spec = pb.TensorSpec(cast=DTYPE[tensor.cast] if tensor.cast else 0, scale=tensor.scale if tensor.cast else 0)
        if case.names_all:
            spec.name, spec.glob = tensor.name, case.glob(tensor)
            if case.format == "raw" or tensor.dtype == "bfloat16" or tensor.name in asks:
                spec.dtype = DTYPE[asks.get(tensor.name, tensor.dtype)]
            if case.format == "raw":
                spec.shape.extend(tensor.shape)
        if case.names_all or tensor.cast:
            tensors.append(spec)
    return {**fields, "tensors": tensors}


def start_of(opened):
    return oracle.Received(
        opened_samples=opened.samples, steps_per_epoch=opened.steps_per_epoch, names=[schema.name for schema in opened.schema],
        schema={schema.name: (DTYPE_NAME[schema.dtype], tuple(schema.shape), DTYPE_NAME[schema.stored_dtype]) for schema in opened.schema},
        skipped_objects=[skipped.object for skipped in opened.skipped], start=(opened.cursor.epoch, opened.cursor.position))


def delivery(batch, rows, with_sources):
    count = len(batch.sample_ids)
    sources = [(s.tensor, s.object, s.offset, s.bytes) for s in batch.sources] if with_sources else None
    return oracle.Delivery(
        sequence=batch.sequence, epoch=batch.epoch, samples=list(batch.sample_ids), padding=list(batch.padding) or [False] * count, rows=rows,
        shapes={t.name: tuple(t.shape) for t in batch.tensors}, dtypes={t.name: DTYPE_NAME[t.dtype] for t in batch.tensors},
        offsets=[t.offset for t in batch.tensors], cursor=(batch.cursor.epoch, batch.cursor.position),
        cursor_id=(batch.cursor.plan_version, batch.cursor.spec_hash, batch.cursor.listing_fingerprint), sources=sources,
        skipped={skipped.sample_id: skipped.error.object for skipped in batch.skipped})


def ending(end):
    return end.epoch, end.batches, end.samples, (end.cursor.epoch, end.cursor.position)


def statistics(end):
    return {key: getattr(end.statistics, key) for key in ("batches", "samples", "bytes", "skipped_samples")}


def read_all(readings, rng):
    """Takes batches of all ranks in random turns."""
    waiting = list(readings)
    while waiting:
        reading = rng.choice(waiting)
        for _ in range(rng.randint(1, 5)):
            if not reading.step():
                waiting.remove(reading)
                break


def by_trainer(rig, case, stream, rng):
    readings = []
    try:
        for rank in range(max(1, stream.world)):
            readings.append(Reading(rig, case, stream, rank, rng))
        read_all(readings, rng)
    except grpc.RpcError as error:
        raise Refused(words_of(error)) from None
    finally:
        for reading in readings:
            reading.close()
    return [reading.received for reading in readings], [cursor for reading in readings for cursor in reading.cursors]


def by_reader(rig, case, stream, _):
    """By the reader that the product ships."""
    all_received, cursors = [], []
    for rank in range(stream.world):
        state = {}

        def event(message, state=state):
            kind = message.WhichOneof("event")
            if kind == "opened":
                state["received"] = start_of(message.opened)
                cursors.append(message.opened.cursor)
            elif kind == "epoch_end":
                state["received"].epoch_ends.append(ending(message.epoch_end))
                cursors.append(message.epoch_end.cursor)
            elif kind == "stream_end":
                state["received"].end = statistics(message.stream_end)
        with devmem_loader_reader.Reader(rig.daemon.socket, timeout=TIMEOUT) as reader:
            try:
                for batch in reader.stream(pb.StreamSpec(**spec_fields(rig, case, stream, rank)), event):
                    rows = {name: numpy.frombuffer(array.tobytes(), numpy.uint8).reshape(max(1, len(batch.info.sample_ids)), -1)
                            for name, array in batch.tensors.items() if array.size}
                    state["received"].deliveries.append(delivery(batch.info, rows, stream.with_sources))
                    cursors.append(batch.info.cursor)
            except grpc.RpcError as error:
                raise Refused(words_of(error)) from None
        all_received.append(state["received"])
    return all_received, cursors


def command_line(rig, case, stream, rank):
    flags = ["--bucket", rig.url(stream.server, case), "--batch-size", stream.batch_size, "--tail", stream.tail, "--seed", case.order_seed,
             "--epochs", stream.epochs, "--rank", rank, "--world-size", stream.world]
    if stream.prefetch:
        flags += ["--prefetch", stream.prefetch]
    if stream.server == "s3":
        flags += ["--endpoint-url", rig.s3_url]
    if case.says_format:
        flags += ["--format", case.format]
    if case.skip:
        flags += ["--on-error", "skip", "--max-skipped", "100%" if stream.limit is None else stream.limit]
    if case.shuffle:
        flags += ["--shuffle", f"window:{case.window}" if case.shuffle == "window" else case.shuffle]
    if case.shuffle in (None, "block"):
        flags += ["--block-samples", case.block_samples] if case.block_samples else []
        flags += ["--group-blocks", case.group_blocks] if case.group_blocks else []
    for tensor in case.tensors:
        prefix = f"{tensor.name}=" if case.names_all else ""
        if case.names_all:
            flags += ["--tensor", f"{tensor.name}={case.glob(tensor)}"]
            if case.format == "raw" or tensor.dtype == "bfloat16":
                flags += ["--dtype", prefix + tensor.dtype]
            if case.format == "raw":
                flags += ["--shape", prefix + "x".join(map(str, tensor.shape))]
        if tensor.cast:
            flags += ["--cast", prefix + tensor.cast]
            if tensor.scale:
                flags += ["--scale", prefix + repr(tensor.scale)]
    return flags


def by_cli(rig, case, stream, orders):
    """By devmem-loader and its --digest: every row with its place and SHA-256. Returns what is wrong."""
    faults = []
    lost = case.lost(stream)
    for rank in range(stream.world):
        digest = rig.work / "digest"
        command = [harness.BIN / "devmem-loader", "--output", "json", "--digest", digest, *command_line(rig, case, stream, rank)]
        if case.number % 2:
            command += ["--service", rig.daemon.socket]
        run = subprocess.run([str(part) for part in command], capture_output=True, timeout=TIMEOUT, check=False, stdin=subprocess.DEVNULL)
        if run.returncode != 0:
            raise Refused(f"devmem-loader rank {rank}: exit status {run.returncode}: {run.stdout.decode()[-800:]} {run.stderr.decode()[-800:]}")
        summary = json.loads(run.stdout.decode().splitlines()[-1])
        batches, _ = oracle.wanted_batches(case, stream, rank, orders)
        wanted = [(epoch, sample, padding) for epoch, rows, _ in batches for sample, padding in rows if sample not in lost]
        lines = [json.loads(line) for line in digest.read_text(encoding="utf-8").splitlines()]
        got = [(line["epoch"], line["sample"], line.get("padding", False)) for line in lines]
        if got != wanted:
            faults.append(f"devmem-loader rank {rank}: {len(wanted)} samples expected, {len(got)} delivered; first difference at "
                          f"{next((k for k, (a, b) in enumerate(zip(wanted, got)) if a != b), min(len(wanted), len(got)))}")
            continue
        if summary["samples"] != len(wanted):
            faults.append(f"devmem-loader rank {rank}: says {summary['samples']} samples, delivered {len(wanted)}")
        for line in lines:
            for index, tensor in enumerate(line.get("tensors", [line])):
                model = next((t for t in case.tensors if t.name == tensor["tensor"]), None)
                if model is None:
                    faults.append(f"devmem-loader: a tensor {tensor['tensor']!r}")
                    continue
                _, name, offset, size = case.sources_of(line["sample"], [model.name])[0]
                row = case.rows_of(model, [line["sample"]])
                unsure = model.delivered in oracle.FLOATS and oracle.is_cast(model) and numpy.isnan(oracle.to_double(row, model.delivered)).any()
                if (tensor["object"], tensor["offset"], tensor["bytes"]) != (name, offset, size):
                    faults.append(f"devmem-loader rank {rank}: sample {line['sample']}, tensor {index}: {tensor} is said to be at {name} {offset} {size}")
                elif not unsure and hashlib.sha256(row.tobytes()).hexdigest() != tensor["sha256"]:
                    faults.append(f"devmem-loader rank {rank}: sample {line['sample']} of {model.name}: other bytes than are stored")
    return faults


# --- servers ------------------------------------------------------------------------------------------------------
class Rig:
    """What all cases of a run share."""

    def __init__(self, work):
        self.work = pathlib.Path(work)
        self.root = self.work / "root"
        self.root.mkdir()
        self.things, self.trainers = [], []
        try:
            self.nginx = self.keep(harness.Nginx(self.root, self.work))
            self.odd = self.keep(FaultServer(self.root))
            self.moto = None
            if MOTO.exists():
                self.s3_url = self._start_s3()
            self.daemon = self.keep(harness.Daemon(self.work, "--transport", "copy", "--memory-limit", str(2 << 30),
                                                   "--stall-timeout", "5", "--max-retries", "20")).ready()
        except BaseException:
            self.close()
            raise

    def keep(self, thing):
        self.things.append(thing)
        return thing

    def _start_s3(self):
        for attempt in range(5):
            port = harness.free_port()
            server = self.keep(harness.Program([MOTO, "-H", "127.0.0.1", "-p", port], self.work, "moto"))
            try:
                harness.wait_for(lambda port=port, server=server: server.process.poll() is not None or harness.accepts(("127.0.0.1", port)),
                                 60 * harness.SLOW, "the S3 server listens")
                if server.process.poll() is None:
                    break
            except AssertionError:
                if attempt == 4:
                    raise
        self.moto = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        self._put("/oracle", b"", {"x-amz-acl": "public-read-write"})
        return f"http://127.0.0.1:{port}"

    def _put(self, path, data, headers):
        self.moto.request("PUT", path, body=data, headers={"Content-Type": "application/octet-stream", **headers})
        answer = self.moto.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise AssertionError(f"the S3 server takes no PUT of {path}: {answer.status} {text[:200]}")

    def trainer(self, rank):
        while len(self.trainers) <= rank:
            self.trainers.append(trainer.Trainer(self.daemon.path))
        return self.trainers[rank]

    def folder(self, case):
        return self.root / f"case-{case.number}"

    def url(self, server, case):
        name = f"case-{case.number}/"
        return {"nginx": self.nginx.url + name, "odd": self.odd.url + name, "file": f"file://{self.root}/{name}", "s3": f"s3://oracle/{name}"}[server]

    def serve(self, case):
        """Puts the case's data where its servers find it; returns the odd server's way with it."""
        folder = self.folder(case)
        folder.mkdir()
        case.write(folder)
        used = {stream.server for stream in case.streams}
        if "s3" in used and self.moto is None:
            for stream in case.streams:
                stream.server = "nginx" if stream.server == "s3" else stream.server
        elif "s3" in used:
            for name, content in case.files.items():
                self._put("/oracle/" + urllib.parse.quote(f"case-{case.number}/{name}"), content, {"x-amz-acl": "public-read"})
        way = random.Random(f"odd {case.seed} {case.number}").choice(sorted(odd_server.ACTS))
        for name in case.gone:
            # Its header, where it has one, can still be read: what begins in it is not the payload.
            head = min(place.offset for shard in case.shards for place in shard.values() if place.object == name)
            self.odd.fault(f"/case-{case.number}/" + fnmatch_literal(name), Status(404),
                           when=lambda request, head=head: request.range is not None and request.range[0] >= head)
        self.odd.fault(f"/case-{case.number}/*", odd_server.ACTS[way], when=lambda request: way != "redirects" or not request.path.endswith("/"))
        return way

    def done(self, case):
        shutil.rmtree(self.folder(case))
        self.odd.forget()

    def alive(self):
        return self.daemon.process.poll() is None

    def close(self):
        for one in self.trainers:
            one.close()
        for thing in reversed(self.things):
            thing.close()


def fnmatch_literal(name):
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


# --- a case -------------------------------------------------------------------------------------------------------
def run_case(rig, case, watch=lambda *got: None):
    """Raises Failed with what is wrong. watch(stream, rank, received, orders) sees all that arrives."""
    way = rig.serve(case)
    rng = random.Random(f"reading {case.seed} {case.number}")
    orders, cursors, faults = None, {}, []
    try:
        for index, stream in enumerate(case.streams):
            what = f"stream {index} ({stream.world} rank(s), {stream.server}{', ' + way if stream.server == 'odd' else ''}, {stream.consumer}): "
            may_refuse = stream.server == "odd" and way in odd_server.MAY_REFUSE
            if stream.from_stream is not None:
                choices = cursors.get(stream.from_stream)
                if not choices:
                    continue
                stream.cursor = pb.Cursor.FromString(choices[int(case.stop_after[index] * len(choices))].SerializeToString())
                stream.start = (stream.cursor.epoch, stream.cursor.position)
            if stream.consumer == "cli" and any(case.format == "raw" and not tensor.shape for tensor in case.tensors):
                stream.consumer = "trainer"  # no flag says "a scalar"
            too_many = orders is not None and case.set_limit(stream, orders)
            try:
                if stream.consumer == "cli":
                    faults += [what + fault for fault in by_cli(rig, case, stream, orders)]
                    faults += [what + "more was left out than may be, and it did not fail"] if too_many else []
                    continue
                received, cursors[index] = (by_trainer if stream.consumer == "trainer" else by_reader)(rig, case, stream, rng)
            except Refused as refused:
                if too_many:
                    faults += [] if may_refuse or "FAILED_PRECONDITION" in str(refused) else [what + f"more was left out than may be, and it failed for another reason: {refused}"]
                    continue
                faults += [what + fault for fault in refusal_faults(case, str(refused), may_refuse)]
                if orders is None:
                    break  # without an order nothing else can be told
                continue
            if too_many:
                faults.append(what + "more was left out than may be, and it did not fail")
            if case.refusal:
                faults.append(what + f"{case.refused_for}: must be refused, and was served")
                break
            if orders is None:
                orders, wrong = oracle.learn(case, received[0])
                faults += [what + fault for fault in wrong]
                if any(sorted(order) != list(range(case.samples)) for order in orders):
                    break
            for rank, one in enumerate(received):
                watch(stream, rank, one, orders)
                faults += [what + f"rank {rank}: {fault}" for fault in oracle.check(case, stream, rank, one, orders)]
        if not rig.alive():
            faults.append(f"the daemon ended with {rig.daemon.process.returncode}: {rig.daemon.stderr()[-2000:]}")
    finally:
        rig.done(case)
    if faults:
        raise Failed("\n".join(faults[:12]) + (f"\n… and {len(faults) - 12} more" if len(faults) > 12 else ""))
    return way


def refusal_faults(case, words, may_refuse):
    if case.refusal:
        codes, culprits = case.refusal
        if may_refuse and "case-" not in words and any(name in words for name in case.files):
            return []  # whichever comes first
        missing = [culprit for culprit in culprits if culprit.lower() not in words.lower()]
        if not words.startswith(codes):
            return [f"{case.refused_for}: refused with another code than {codes}: {words}"]
        return [f"{case.refused_for}: the error does not name {missing}: {words}"] if missing else []
    if may_refuse:
        named = [name for name in case.files if name in words]
        return [] if named or "case-" in words else [f"refused, as it may be, but no object is named: {words}"]
    if case.samples == 0 and not case.shards:
        return [] if case.left_out else [f"refused: {words}"]
    return [f"refused or failed: {words}"]


def run(seed, numbers, say=print, until=None):
    """Runs the cases; returns {number: what is wrong} and how many were run."""
    failed, count = {}, 0
    with tempfile.TemporaryDirectory(prefix="devmem-oracle-") as work:
        pathlib.Path(work).chmod(0o755)
        rig = Rig(work)
        try:
            for number in numbers:
                if until is not None and time.monotonic() > until:
                    break
                case = oracle.Case(seed, number)
                count += 1
                try:
                    run_case(rig, case)
                except Failed as error:
                    failed[number] = f"{error}\n  {case.describe()}"
                except Exception as error:  # of the oracle's own, or of the client: the case is what tells
                    failed[number] = f"{type(error).__name__}: {error}\n  {case.describe()}"
                    if not rig.alive():
                        raise
                if number in failed:
                    say(f"--seed {seed} --case {number}: {failed[number]}\n")
        finally:
            rig.close()
    return failed, count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, help="this one only, and its specification")
    parser.add_argument("--count", type=int, default=50)
    args = parser.parse_args()
    if args.case is not None:
        print(oracle.Case(args.seed, args.case).describe())
    started = time.monotonic()
    failed, count = run(args.seed, [args.case] if args.case is not None else range(args.count))
    print(f"seed {args.seed}: {count} cases in {time.monotonic() - started:.1f} s, {len(failed)} failed: {sorted(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
