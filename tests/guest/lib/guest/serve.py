# SPDX-License-Identifier: Apache-2.0
"""nginx at the other end of the wire: serve.nginx(self, folder, there).url"""
import pathlib
import signal
import socket
import subprocess
import tempfile

from . import nic, shell

CONFIG = """
daemon off; worker_processes 1; pid {work}/pid; error_log {work}/error.log; user root;
events {{ worker_connections 1024; }}
http {{
  log_format short '$remote_port $request_method $uri $http_range $status $bytes_sent $body_bytes_sent'; access_log {work}/access.log short;
  client_body_temp_path {work}/t1; proxy_temp_path {work}/t2; fastcgi_temp_path {work}/t3; uwsgi_temp_path {work}/t4; scgi_temp_path {work}/t5;
  sendfile on; tcp_nopush on; keepalive_requests 1000000; keepalive_timeout 75; types {{ }} default_type application/octet-stream;
  server {{
    listen {v4}:{port}; listen [{v6}]:{port}; {extra}
    location / {{ root {folder}; autoindex on; autoindex_format json; }}
  }}
}}
"""


class Nginx:
    """One nginx in the namespace of a NIC, on both its addresses. `extra` goes into its server block."""

    def __init__(self, folder, there, port=8080, extra=""):
        self.there, self.port = there, port
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="nginx-"))
        self.url, self.url6 = f"http://{there.v4}:{port}/", f"http://[{there.v6}]:{port}/"
        (self.work / "conf").write_text(CONFIG.format(work=self.work, folder=folder, v4=there.v4, v6=there.v6, port=port, extra=extra))
        self.process = None
        self.start()

    def start(self):
        command = ["ip", "netns", "exec", self.there.netns, "/usr/sbin/nginx", "-p", self.work, "-c", self.work / "conf", "-e", self.work / "error.log"]
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        shell.until(self._up, "nginx listens")

    def _up(self):
        if self.process.poll() is not None:
            raise AssertionError("nginx ended: " + (self.work / "error.log").read_text()[-500:])
        with nic.namespace(self.there.netns), socket.socket() as probe:
            return probe.connect_ex((self.there.v4, self.port)) == 0

    def requests(self):
        """What was answered so far: {"port", "method", "path", "range", "status", "sent", "body"}; sent is the body with its head, in bytes."""
        names = ("port", "method", "path", "range", "status", "sent", "body")
        lines = (line.split() for line in (self.work / "access.log").read_text().splitlines())
        return [dict(zip(names, [int(word) if word.isdigit() else word for word in words])) for words in lines]

    def stop(self):
        """At once, connections in mid-answer broken off."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)


def nginx(test, folder, there, **more):
    """An Nginx that ends with the test."""
    made = Nginx(folder, there, **more)
    test.addCleanup(made.stop)
    return made
