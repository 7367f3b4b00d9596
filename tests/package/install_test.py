# SPDX-License-Identifier: Apache-2.0
"""What `cmake --install` puts where: the units as systemd reads them, their agreement with the daemon, and an outside project that
uses the client library."""
import os
import pathlib
import re
import shutil
import subprocess

import hardening
import harness
from harness import BIN

EXPOSURE = 2.0  # of 10, as systemd-analyze counts; what is open is the network, NICs and GPUs
CONSUMER = """cmake_minimum_required(VERSION 3.25)
project(trainer CXX)
find_package(devmem-loader-client %s REQUIRED)
add_executable(trainer %s)
target_link_libraries(trainer PRIVATE devmem-loader::devmem-loader-client)
"""


def run(*words, **options):
    done = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                          stdin=subprocess.DEVNULL, **options)
    return done.returncode, done.stdout


class Install(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.root = self.work / "root"
        if os.environ.get("DEVMEM_SANITIZE"):
            self.skipTest("what is installed is the release build")
        for component in ("loader", "client", "dkms"):
            status, said = run("cmake", "--install", BIN.parent, "--component", component, "--strip", env={**os.environ, "DESTDIR": str(self.root)})
            self.assertEqual(status, 0, said)
        self.units = self.root / "usr/lib/systemd/system"

    def test_files(self):
        for path in ("usr/bin/devmem-loaderd", "usr/bin/devmem-loader", "etc/devmem-loader/config.yaml", "usr/lib/sysusers.d/devmem-loader.conf",
                     "usr/lib/tmpfiles.d/devmem-loader.conf", "usr/share/man/man4/devmem_binding.4",
                     "usr/share/doc/devmem-loader/operations.md"):
            self.assertTrue((self.root / path).is_file(), path)
        (source,) = (self.root / "usr/src").iterdir()
        conf = (source / "dkms.conf").read_text()
        name, version = (re.search(rf'PACKAGE_{what}="(.*)"', conf).group(1) for what in ("NAME", "VERSION"))
        self.assertEqual(source.name, f"{name}-{version}", "where DKMS looks for it")
        for path in self.root.rglob("*"):
            self.assertFalse("build/" in str(path.relative_to(self.root)) or path.name in (".git", "__pycache__"), path)
        for program in ("devmem-loaderd", "devmem-loader"):
            status, said = run(self.root / "usr/bin" / program, "--version")
            self.assertEqual((status, version in said), (0, True), said)

    def test_manuals(self):
        tool = shutil.which("mandoc")
        if tool is None:
            self.skipTest("mandoc is not installed: apt-get install mandoc")
        shown = {}
        for page in ("man8/devmem-loaderd.8", "man1/devmem-loader.1", "man4/devmem_binding.4"):
            page = self.root / "usr/share/man" / page
            self.assertEqual(run(tool, "-T", "lint", "-W", "warning", page), (0, ""))
            status, text = run(tool, "-T", "utf8", "-O", "width=200", page)
            self.assertEqual(status, 0, text)
            shown[page.stem] = re.sub(".\b", "", text)  # bold is a letter struck twice
        said = {program: run(self.root / "usr/bin" / program, "--help")[1] for program in ("devmem-loaderd", "devmem-loader")}
        for verb in ("streams", "status", "index", "bindings", "doctor"):
            said["devmem-loader"] += run(self.root / "usr/bin/devmem-loader", verb, "--help")[1]
        for program, text in said.items():
            flags = set(re.findall(r"^  (--[a-z-]+)", text, re.M))
            self.assertGreater(len(flags), 20, text)
            for flag in sorted(flags):
                self.assertTrue(re.search(rf"(?m)^ *{flag}\b", shown[program]), f"{program}: its page does not have {flag}")
            for section in ("NAME", "SYNOPSIS", "OPTIONS", "EXAMPLES", "ENVIRONMENT", "EXIT STATUS", "FILES", "SEE ALSO"):
                self.assertIn(f"\n{section}\n", shown[program])
            for line in re.search(r"^Examples:\n((?:  .*\n)+)", text, re.M)[1].splitlines():
                self.assertIn(line.strip(), shown[program], "a line of an example is a line of the page")

    def test_hardening(self):
        programs = [self.root / "usr/bin" / name for name in ("devmem-loaderd", "devmem-loader")]
        self.assertEqual(hardening.problems_of(programs), [])

    def test_hardening_that_is_not_there(self):
        """So that the one above can fail: a program that is built without one of it is told from one with all."""
        source = self.work / "program.cc"
        many = "".join(f"int F{i}(int x) {{ return x * {i}; }}\n" for i in range(40))  # beside the few of the C library's that are marked always
        source.write_text(many + "#include <cstring>\n#include <string>\nint main(int argc, char** argv) {\n  char copy[64];\n"
                          "  std::memcpy(copy, argv[0], static_cast<size_t>(argc));\n  return std::string(copy).size() > 3;\n}\n")
        cet = ["-fcf-protection"] if os.uname().machine == "x86_64" else []
        all_of_it = {"-fstack-protector-strong": "-fno-stack-protector", "-D_FORTIFY_SOURCE=2": "-D_FORTIFY_SOURCE=0",
                     "-Wl,-z,relro,-z,now": "-Wl,-z,relro,-z,lazy", "-pie": "-no-pie"}
        all_of_it.update({flag: "-fcf-protection=none" for flag in cet})

        def build(*flags):
            status, said = run("g++", "-O2", "-U_FORTIFY_SOURCE", *flags, source, "-o", self.work / "program")
            self.assertEqual(status, 0, said)
            return [problem.split(":")[0] for problem in hardening.problems(self.work / "program")]
        self.assertEqual(build(*all_of_it), [])
        for left_out, problem in (("-fstack-protector-strong", "no stack protector"), ("-D_FORTIFY_SOURCE=2", "no fortified function"),
                                  ("-Wl,-z,relro,-z,now", "RELRO in part"), ("-pie", "not position-independent"),
                                  *((flag, "no control-flow protection") for flag in cet)):
            self.assertEqual(build(*(all_of_it[flag] if flag == left_out else flag for flag in all_of_it)), [problem])
        self.assertEqual(build(*all_of_it, "-Wl,-z,norelro"), ["no RELRO"])
        self.assertEqual(build(*all_of_it, "-Wl,-z,execstack"), ["an executable stack"])

    # --- systemd ---
    def analyze(self, *words):
        tool = shutil.which("systemd-analyze")
        if tool is None:
            self.skipTest("systemd-analyze is not installed: apt-get install systemd")
        for unit in pathlib.Path("/usr/lib/systemd/system").glob("*.target"):  # what ours refer to
            if not (self.units / unit.name).exists():
                shutil.copy(unit, self.units)
        (self.root / "bin").mkdir(exist_ok=True)  # whose shell ExecReload= takes
        shutil.copy("/bin/sh", self.root / "bin/sh")
        return run(tool, *words, f"--root={self.root}", env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning", "SYSTEMD_PAGER": "cat"})

    def test_units_are_valid(self):
        status, said = self.analyze("verify", "--man=no", "devmem-loader.service", "devmem-loader.socket")
        self.assertEqual((status, said), (0, ""), "an unknown key is only a warning to systemd")
        # The check can fail at all:
        service = self.units / "devmem-loader.service"
        service.write_text(service.read_text().replace("WatchdogSec=", "WatchdogSecs="))
        self.assertIn("WatchdogSecs", self.analyze("verify", "--man=no", "devmem-loader.service")[1])

    def test_exposure(self):
        status, said = self.analyze("security", "--offline=true", f"--threshold={EXPOSURE * 10:.0f}", "devmem-loader.service")
        print("\n".join(line.rstrip() for line in said.splitlines() if "\u2717" in line or "Overall" in line))
        self.assertEqual(status, 0, said)
        self.assertIn("Overall exposure level", said)

    def unit(self, name):
        """A unit's assignments: [(key, value)]."""
        lines = (self.units / name).read_text().splitlines()
        return [tuple(line.split("=", 1)) for line in lines if "=" in line and not line.startswith("#")]

    def test_what_the_unit_bounds(self):
        """What a daemon that went wrong may cost the machine; systemd_test.py asks a systemd that runs it."""
        service = dict(self.unit("devmem-loader.service"))
        memory = re.fullmatch(r"(\d+)%", service["MemoryMax"])
        self.assertIsNotNone(memory, "of the machine's memory, whatever it has")
        self.assertTrue(50 <= int(memory[1]) <= 80, "half of it is slabs by default; a machine keeps some for its trainers")
        self.assertEqual({key: service.get(key) for key in ("OOMPolicy", "LimitCORE", "IPAddressDeny")},
                         {"OOMPolicy": "continue", "LimitCORE": "0", "IPAddressDeny": "link-local"})
        self.assertEqual(service["Restart"], "on-failure", "it comes back after it was killed")

    def test_units_agree_with_the_daemon(self):
        service, listens = self.unit("devmem-loader.service"), self.unit("devmem-loader.socket")
        for key, value in service:
            if key.startswith("Exec") and not value.startswith("/bin/sh "):
                program, *flags = value.split()
                status, said = run(str(self.root) + program, *flags, "--print-config")
                self.assertEqual(status, 0, f"{value}: {said}")
        config = run(self.root / "usr/bin/devmem-loaderd", "--print-config")[1]
        default = re.search(r"^--socket[ =]+(\S+)", config, re.M)
        self.assertIsNotNone(default, config)
        self.assertEqual(dict(listens)["ListenStream"], default.group(1))
        self.assertEqual(dict(listens)["ListenSequentialPacket"], default.group(1) + ".fd")
        drain = re.search(r"^--drain-timeout[ =]+(\d+)s", config, re.M)
        self.assertGreater(int(dict(service)["TimeoutStopSec"]), int(drain.group(1)), "streams get the time that they were promised")
        tmpfiles = (self.root / "usr/lib/tmpfiles.d/devmem-loader.conf").read_text()
        self.assertIn(f"d {os.path.dirname(default.group(1))} ", tmpfiles)
        environment = dict(line.split("=", 1) for key, line in service if key == "Environment")
        self.assertTrue((self.root / environment["DEVMEM_CONFIG"].lstrip("/")).is_file())

    def test_user_and_folder(self):
        if os.geteuid() != 0 or shutil.which("systemd-sysusers") is None:
            self.skipTest("making users and folders of theirs needs root, and systemd-sysusers")
        status, said = run("systemd-sysusers", f"--root={self.root}", "devmem-loader.conf")
        self.assertEqual(status, 0, said)
        user = next(line.split(":") for line in (self.root / "etc/passwd").read_text().splitlines() if line.startswith("devmem-loader:"))
        groups = {line.split(":")[0]: line.split(":") for line in (self.root / "etc/group").read_text().splitlines()}
        self.assertEqual(groups["devmem-loader"][2], user[3])
        status, said = run("systemd-tmpfiles", f"--root={self.root}", "--create", "devmem-loader.conf")
        self.assertEqual(status, 0, said)
        made = os.stat(self.root / "run/devmem-loader")
        self.assertEqual((made.st_uid, made.st_gid, made.st_mode & 0o7777), (int(user[2]), int(user[3]), 0o755))

    def test_purge_keeps_the_user(self):
        """Its number is in files of others, and the next system user would get it."""
        tools = self.folder("tools")
        called = self.work / "called"
        for name in ("deb-systemd-helper", "systemctl", "rm", "userdel", "groupdel", "deluser", "delgroup", "getent"):
            (tools / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {called}\n')
            (tools / name).chmod(0o755)
        status, said = run("/bin/sh", BIN.parent / "deploy/debian/loader/postrm", "purge", env={"PATH": str(tools)})
        self.assertEqual(status, 0, said)
        self.assertEqual([line for line in called.read_text().splitlines() if not line.startswith("systemctl")],
                         ["deb-systemd-helper purge devmem-loader.socket", "deb-systemd-helper unmask devmem-loader.socket",
                          "rm -rf /run/devmem-loader"])

    # --- the client library, from outside ---
    def check_trainer(self, program):
        """It reads a bucket through a daemon: as many batches as there are samples, and their bytes add up."""
        bucket = self.folder()
        rows = [bytes([i]) * 100 for i in range(8)]
        (bucket / "a.npy").write_bytes(npy(rows))
        web, daemon = self.nginx(bucket), self.daemon()
        status, said = run(program, daemon.socket, web.url, "1", timeout=60)
        self.assertEqual(status, 0, said)
        self.assertIn("8 samples by copy", said)
        self.assertEqual(sorted(int(found) for found in re.findall(r"\[ 1 100 \] sum (\d+)", said)), [sum(row) for row in rows], said)

    def test_trainer_by_cmake(self):
        project = self.folder("project")
        (example,) = self.root.glob("usr/share/doc/libdevmem-loader-client-dev/examples/example_trainer.cc")
        (project / "CMakeLists.txt").write_text(CONSUMER % ("0.1", example))
        status, said = run("cmake", "-S", project, "-B", project / "build", f"-DCMAKE_PREFIX_PATH={self.root}/usr")
        self.assertEqual(status, 0, said)
        status, said = run("cmake", "--build", project / "build", timeout=150)
        self.assertEqual(status, 0, said)
        self.check_trainer(project / "build/trainer")
        (project / "CMakeLists.txt").write_text(CONSUMER % ("99", example))
        status, said = run("cmake", "-S", project, "-B", project / "build2", f"-DCMAKE_PREFIX_PATH={self.root}/usr")
        self.assertNotEqual(status, 0, "another version is not taken for this one")
        self.assertIn("devmem-loader-client", said)

    def test_trainer_by_pkg_config(self):
        (file,) = self.root.glob("usr/lib/*/pkgconfig/devmem-loader-client.pc")
        status, flags = run("pkg-config", f"--define-variable=prefix={self.root}/usr", "--cflags", "--libs", "devmem-loader-client",
                            env={**os.environ, "PKG_CONFIG_PATH": str(file.parent)})
        self.assertEqual(status, 0, flags)
        (example,) = self.root.glob("usr/share/doc/libdevmem-loader-client-dev/examples/example_trainer.cc")
        status, said = run("g++", "-std=c++20", example, "-o", self.work / "trainer", *flags.split(), timeout=150)
        self.assertEqual(status, 0, said)
        self.check_trainer(self.work / "trainer")


def npy(rows):
    """The bytes of a .npy file of uint8 rows."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({len(rows)}, {len(rows[0])}), }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"".join(rows)
