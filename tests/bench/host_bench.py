#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""./dev bench: figures of the host path, as a table on stdout and as JSON in build/bench/.

  host     CPU-seconds (user and system) per GB of daemon and client together, against the floor: the best of {1, 8}
           connections x {256 KiB, 1 MiB, 8 MiB} reads of a plain recv() loop (recv_floor) into a prefaulted region as
           large as our slabs. 8 MiB samples in order, and 64 KiB samples shuffled by blocks. The two alternate
           (A B A B ...), and the ratio's 95 % interval comes from a bootstrap over the pairs. `curl -Z` beside them.
           Peak resident memory beyond the slabs.
  batches  batches a second to one trainer: batch size 1, 4 KiB raw samples, in order
  streams  64 streams at once against one: CPU per GB
  against  CPU per GB of this build against another one's (--other: a folder with its devmem-loaderd and devmem-loader), in
           turn (A B, B A ...): the samples of `host`, and those of `batches`

nginx on loopback serves a folder that is in the page cache, and its CPU is not counted. A run begins when the daemon
already listens; the process of the client is counted whole, with its start. The first pair is a warm-up.
"""
import argparse
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE.parent / "e2e"))
import harness  # noqa: E402  pylint: disable=wrong-import-position
import make_dataset  # noqa: E402  pylint: disable=wrong-import-position

MIB, KIB = 1 << 20, 1 << 10
OBJECT = 256 * MIB
PREFETCH = 128 * MIB


def bootstrap(ours, floors, rounds=20000, seed=1):
    """Ratio of the means, and its 95 % interval: pairs drawn with replacement."""
    ours, floors = numpy.array(ours), numpy.array(floors)
    picks = numpy.random.default_rng(seed).integers(0, len(ours), size=(rounds, len(ours)))
    ratios = ours[picks].mean(axis=1) / floors[picks].mean(axis=1)
    low, high = numpy.percentile(ratios, [2.5, 97.5])
    return {"ratio": round(float(ours.mean() / floors.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def cpu_of(pid):
    """User and system seconds of a process now, threads that have ended included; their sum is exact to 10 ms."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    tick = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / tick, int(fields[12]) / tick


def slabs_of(pid):
    """The slabs a daemon holds, looked up without asking it for anything."""
    found = []
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += [entry] if "devmem-loader-slab" in os.readlink(entry) else []
        except FileNotFoundError:
            pass
    return found


def peak_memory_of(pid):
    """Peak resident bytes."""
    status = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(status["VmHWM"].split()[0]) * KIB


class Bench:
    def __init__(self, args):
        self.args = args
        self.temp = pathlib.Path(tempfile.mkdtemp(prefix="devmem-bench-"))
        self.running, self.results = [], {}

    def keep(self, thing):
        self.running.append(thing)
        return thing

    def close(self):
        for thing in reversed(self.running):
            thing.close()
        shutil.rmtree(self.temp, ignore_errors=True)

    def serve(self, total):
        """nginx over `total` bytes of raw data, all of it in the page cache."""
        objects = max(1, total // OBJECT)
        folder = self.args.work / f"raw-{objects}"
        make_dataset.ensure("raw", folder, objects * OBJECT, 1, sample_bytes=8 * MIB, shards=objects, even=True)
        for path in folder.iterdir():
            with open(path, "rb") as file:
                while file.read(16 * MIB):
                    pass
        return self.keep(harness.Nginx(folder, self.temp)), objects

    def daemon(self, *flags, folder=None):
        return self.keep(harness.Daemon(self.temp, *flags, binary=(folder or self.args.bin) / "devmem-loaderd")).ready()

    def command(self, nginx, daemon, sample, *flags, folder=None):
        return [str(part) for part in (
            (folder or self.args.bin) / "devmem-loader", "--service", daemon.socket, "--output", "json", "--bucket", nginx.url, "--format", "raw", "--dtype",
            "uint8", "--shape", sample, "--prefetch", PREFETCH, *flags)]

    def ours(self, daemon, commands):
        """Runs the commands at once. CPU of all of them and what the daemon spent meanwhile."""
        before, daemon_before = resource.getrusage(resource.RUSAGE_CHILDREN), cpu_of(daemon.pid)
        started = time.monotonic()
        running = [subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for command in commands]
        answers = [process.communicate(timeout=600) for process in running]
        seconds = time.monotonic() - started
        after, daemon_after = resource.getrusage(resource.RUSAGE_CHILDREN), cpu_of(daemon.pid)
        for process, (out, err) in zip(running, answers):
            if process.returncode != 0:
                raise RuntimeError(f"{process.args}: status {process.returncode}\n{out.decode()[-1500:]}\n{err.decode()[-1500:]}")
        summaries = [json.loads(out.decode().splitlines()[-1]) for out, _ in answers]
        client = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
        return {"bytes": sum(summary["bytes"] for summary in summaries), "seconds": seconds, "client_cpu_s": client,
                "daemon_cpu_s": sum(daemon_after) - sum(daemon_before), "daemon_user_s": daemon_after[0] - daemon_before[0],
                "daemon_system_s": daemon_after[1] - daemon_before[1], "cpu_s": client + sum(daemon_after) - sum(daemon_before),
                "summaries": summaries}

    def floor(self, nginx, objects, connections, read_bytes):
        done = subprocess.run([self.args.bin / "recv_floor", "--port", str(nginx.port), "--path", "/000%d.bin", "--object-bytes", str(OBJECT),
                               "--objects", str(objects), "--connections", str(connections), "--read-bytes", str(read_bytes), "--range-bytes",
                               str(8 * MIB), "--region-bytes", str(PREFETCH)], check=True, capture_output=True, timeout=600)
        run = json.loads(done.stdout)
        return {"bytes": run["bytes"], "seconds": run["seconds"], "cpu_s": run["user_s"] + run["system_s"]}

    def best_floor(self, nginx, objects):
        """The cheapest of the six floors, by the median of three runs each."""
        table = {}
        for connections in (1, 8):
            for read_bytes in (256 * KIB, MIB, 8 * MIB):
                runs = [per_gb(self.floor(nginx, objects, connections, read_bytes)) for _ in range(3)]
                table[(connections, read_bytes)] = sorted(runs)[1]
                print(f"  floor: {connections} connections, {read_bytes // KIB:5} KiB reads: {table[(connections, read_bytes)]:.4f} CPU-s per GB", flush=True)
        return min(table, key=table.get), {f"{c}x{r // KIB}KiB": round(v, 4) for (c, r), v in table.items()}

    def curl(self, nginx, objects):
        """`curl -Z`: ranges of 8 MiB, eight at once, thrown away."""
        config = self.temp / "curl.conf"
        lines = []
        for k in range(objects):
            for at in range(0, OBJECT, 8 * MIB):
                lines += [f'url = "{nginx.url}{k:04d}.bin"', f"range = {at}-{at + 8 * MIB - 1}", 'output = "/dev/null"', "next"]
        config.write_text("\n".join(lines[:-1]) + "\n")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.monotonic()
        subprocess.run(["curl", "-s", "-S", "-Z", "--parallel-max", "8", "-K", str(config)], check=True, timeout=600, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {"bytes": objects * OBJECT, "seconds": time.monotonic() - started,
                "cpu_s": after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime}

    def host(self):
        nginx, objects = self.serve(self.args.gib << 30)
        print(f"host: {objects * OBJECT / 1e9:.2f} GB a run, nginx on loopback, {self.args.pairs} pairs and one warm-up", flush=True)
        daemon = self.daemon()
        (connections, read_bytes), floors = self.best_floor(nginx, objects)
        print(f"  best: {connections} connections, {read_bytes // KIB} KiB reads", flush=True)
        result = {"floors_cpu_s_per_gb": floors, "floor": {"connections": connections, "read_bytes": read_bytes}, "cases": {}}
        cases = {"8 MiB samples": (8 * MIB, ("--batch-size", "1", "--shuffle", "none")),
                 "64 KiB samples, block shuffle": (64 * KIB, ("--batch-size", "64", "--shuffle", "block"))}
        for name, (sample, flags) in cases.items():
            command, pairs = self.command(nginx, daemon, sample, "--tail", "uneven", *flags), []
            for pair in range(self.args.pairs + 1):
                floor, ours = self.floor(nginx, objects, connections, read_bytes), self.ours(daemon, [command])
                if ours["bytes"] != floor["bytes"]:
                    raise RuntimeError(f"{name}: {ours['bytes']} bytes delivered, {floor['bytes']} by the floor")
                if pair > 0:
                    pairs.append((ours, floor))
                    print(f"  {name}: pair {pair:2}: ours {per_gb(ours):.4f} (daemon {ours['daemon_cpu_s']:.2f} s, client {ours['client_cpu_s']:.2f} s, "
                          f"{rate(ours):.2f} GB/s), floor {per_gb(floor):.4f} ({rate(floor):.2f} GB/s)", flush=True)
            case = bootstrap([per_gb(ours) for ours, _ in pairs], [per_gb(floor) for _, floor in pairs])
            case.update(ours_cpu_s_per_gb=mean(per_gb(ours) for ours, _ in pairs), floor_cpu_s_per_gb=mean(per_gb(floor) for _, floor in pairs),
                        ours_gb_per_s=mean(rate(ours) for ours, _ in pairs), floor_gb_per_s=mean(rate(floor) for _, floor in pairs),
                        daemon_cpu_s=mean(ours["daemon_cpu_s"] for ours, _ in pairs), client_cpu_s=mean(ours["client_cpu_s"] for ours, _ in pairs),
                        daemon_user_s=mean(ours["daemon_user_s"] for ours, _ in pairs), daemon_system_s=mean(ours["daemon_system_s"] for ours, _ in pairs),
                        requests=pairs[-1][0]["summaries"][0]["requests"], amplification=pairs[-1][0]["summaries"][0]["amplification"],
                        stalls=pairs[-1][0]["summaries"][0]["stalls"], bar=1.15, met=case["high"] < 1.15)
            result["cases"][name] = case
        peak = peak_memory_of(daemon.pid)
        beyond = (peak - PREFETCH) / MIB
        result["memory"] = {"peak_rss_mib": round(peak / MIB, 1), "slabs_mib": PREFETCH / MIB, "beyond_mib": round(beyond, 1), "bar_mib": 64,
                            "met": beyond <= 64}
        curls = [self.curl(nginx, objects) for _ in range(3)]
        result["curl"] = {"cpu_s_per_gb": mean(per_gb(run) for run in curls), "gb_per_s": mean(rate(run) for run in curls)}

        print("\n  case                            ours    floor   ratio  95 % interval     ours GB/s  bar 1.15")
        for name, case in result["cases"].items():
            print(f"  {name:30} {case['ours_cpu_s_per_gb']:.4f}  {case['floor_cpu_s_per_gb']:.4f}  {case['ratio']:.3f}  "
                  f"{case['low']:.3f} .. {case['high']:.3f}    {case['ours_gb_per_s']:.2f}       {'met' if case['met'] else 'MISSED'}")
        print(f"  {'curl -Z, 8 MiB ranges, 8 at once':30}  {result['curl']['cpu_s_per_gb']:.4f}")
        print(f"  daemon's peak resident memory: {result['memory']['peak_rss_mib']} MiB, {result['memory']['beyond_mib']} beyond the slabs "
              f"(bar 64: {'met' if result['memory']['met'] else 'MISSED'})", flush=True)
        return result

    def batches(self):
        nginx, objects = self.serve(1 << 30)
        daemon = self.daemon()
        command = self.command(nginx, daemon, 4 * KIB, "--batch-size", "1", "--shuffle", "none")
        runs = [self.ours(daemon, [command]) for _ in range(4)][1:]
        counts = [run["summaries"][0]["samples"] / run["summaries"][0]["seconds"] for run in runs]
        result = {"batches_per_s": round(sorted(counts)[1]), "all": [round(n) for n in counts], "cpu_s_per_gb": mean(per_gb(run) for run in runs),
                  "bar": 50000, "met": sorted(counts)[1] >= 50000}
        print(f"batches: {result['batches_per_s']} a second to one trainer (4 KiB samples, batch size 1, {objects * OBJECT >> 20} MiB; "
              f"runs {result['all']}; bar 50000: {'met' if result['met'] else 'MISSED'})", flush=True)
        return result

    def streams(self):
        nginx, objects = self.serve(2 << 30)
        daemon = self.daemon()

        def run(count):
            """`count` streams of one client process that share a plan of 12 epochs; batches of 8 MiB, two slots and more each."""
            before, daemon_before = resource.getrusage(resource.RUSAGE_CHILDREN), cpu_of(daemon.pid)
            done = subprocess.run([str(part) for part in (self.args.bin / "many_streams", daemon.socket, nginx.url,
                                                          count, MIB, 8, 16 * MIB, 12)], check=True, capture_output=True, timeout=600)
            # The slabs go back after the last client is gone, on the daemon's own time: that is part of the cost.
            harness.wait_for(lambda: not slabs_of(daemon.pid), 20, "the daemon gives its slabs back")
            after, daemon_after = resource.getrusage(resource.RUSAGE_CHILDREN), cpu_of(daemon.pid)
            client = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
            spent = sum(daemon_after) - sum(daemon_before)
            return {"bytes": json.loads(done.stdout)["bytes"], "cpu_s": client + spent, "daemon_cpu_s": spent}

        pairs = []
        for pair in range(self.args.pairs + 1):
            single, all_of_them = run(1), run(64)
            if not single["bytes"] == all_of_them["bytes"] == 12 * objects * OBJECT:
                raise RuntimeError(f"one stream got {single['bytes']} bytes, 64 got {all_of_them['bytes']}")
            if pair > 0:
                pairs.append((all_of_them, single))
        result = bootstrap([per_gb(many) for many, _ in pairs], [per_gb(single) for _, single in pairs])
        daemons = bootstrap([many["daemon_cpu_s"] for many, _ in pairs], [single["daemon_cpu_s"] for _, single in pairs])
        result.update(one_cpu_s_per_gb=mean(per_gb(single) for _, single in pairs), many_cpu_s_per_gb=mean(per_gb(many) for many, _ in pairs),
                      daemon_alone=daemons, bar=1.15, met=result["high"] <= 1.15)
        print(f"streams: 64 at once cost {result['ratio']:.3f} ({result['low']:.3f} .. {result['high']:.3f}) of one, CPU per GB of daemon and client; "
              f"the daemon alone {daemons['ratio']:.3f} (bar 1.15: {'met' if result['met'] else 'MISSED'})", flush=True)
        return result


    def against(self):
        if self.args.other is None:
            raise SystemExit("against: --other FOLDER says against what: devmem-loaderd and devmem-loader of another build")
        nginx, objects = self.serve(1 << 30)
        builds = (self.args.bin, self.args.other.resolve())
        daemons = [self.daemon(folder=folder) for folder in builds]
        result = {"other": str(builds[1]), "cases": {}}
        cases = {"8 MiB samples": (8 * MIB, ("--batch-size", "1", "--shuffle", "none")),
                 "64 KiB samples, block shuffle": (64 * KIB, ("--batch-size", "64", "--shuffle", "block")),
                 "4 KiB samples, batch size 1": (4 * KIB, ("--batch-size", "1", "--shuffle", "none"))}
        print(f"against {builds[1]}: {objects * OBJECT / 1e9:.2f} GB a run, {self.args.pairs} pairs and one warm-up; CPU-s per GB of daemon and client", flush=True)
        for name, (sample, flags) in cases.items():
            commands = [self.command(nginx, daemon, sample, "--tail", "uneven", *flags, folder=folder) for daemon, folder in zip(daemons, builds)]
            runs = ([], [])
            for pair in range(self.args.pairs + 1):
                for which in (0, 1) if pair % 2 else (1, 0):
                    run = self.ours(daemons[which], [commands[which]])
                    if pair > 0:
                        runs[which].append(per_gb(run))
            case = bootstrap(*runs)
            case.update(this_cpu_s_per_gb=mean(runs[0]), other_cpu_s_per_gb=mean(runs[1]), bar=1.02, met=case["ratio"] <= 1.02)
            result["cases"][name] = case
            print(f"  {name:30} this {case['this_cpu_s_per_gb']:.4f}, other {case['other_cpu_s_per_gb']:.4f}: {case['ratio']:.3f} "
                  f"({case['low']:.3f} .. {case['high']:.3f}; bar 1.02: {'met' if case['met'] else 'MISSED'})", flush=True)
        return result


def per_gb(run):
    return run["cpu_s"] / (run["bytes"] / 1e9)


def rate(run):
    return run["bytes"] / 1e9 / run["seconds"]


def mean(values):
    return round(float(numpy.mean(list(values))), 4)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["host", "batches", "streams", "against", "all"])
    parser.add_argument("--bin", type=pathlib.Path, default=harness.BIN)
    parser.add_argument("--work", type=pathlib.Path, default=harness.ROOT / "build/bench")
    parser.add_argument("--other", type=pathlib.Path, help="of `against`: the folder of the other build's programs")
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--gib", type=int, default=2, help="data of one run of `host`")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    machine = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo", encoding="ascii") if line.startswith("model name")), "?")
    results = {"machine": f"{os.cpu_count()} cores, {machine}", "kernel": os.uname().release, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    for what in ("host", "batches", "streams") if args.what == "all" else (args.what,):
        bench = Bench(args)
        try:
            results[what] = getattr(bench, what)()
        finally:
            bench.close()
    (args.work / f"{args.what}.json").write_text(json.dumps(results, indent=1))
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
