// SPDX-License-Identifier: Apache-2.0
// The floor of ./dev bench host: what it costs at the least to bring bytes of an HTTP server into memory. A plain
// blocking recv() loop a connection, keep-alive range GETs, straight into a prefaulted region as large as the slabs it
// is compared with, nothing looked at. One thread a connection. Prints one JSON object.
//
//   recv_floor --port 8080 --path /raw/0.bin --object-bytes 268435456 --objects 4 --connections 8 --read-bytes 1048576
//              --range-bytes 8388608 --region-bytes 268435456 --total-bytes 4294967296
//
// `--path` holds one %d: the object's number.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

namespace {

struct Options {
  uint16_t port = 0;
  std::string path_before, path_after;
  uint64_t object_bytes = 0, objects = 1, connections = 1, read_bytes = 1 << 20, range_bytes = 8 << 20;
  uint64_t region_bytes = 256 << 20, total_bytes = 0;
};

[[noreturn]] void Fail(const char* what) {
  std::fprintf(stderr, "recv_floor: %s: %s\n", what, std::strerror(errno));
  std::exit(1);
}

double CpuSeconds(const timeval& t) { return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6; }

class Connection {
 public:
  explicit Connection(const Options& options) : options_(options), fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(options.port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd_ < 0 || ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) Fail("connect");
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection() { ::close(fd_); }

  // GETs [offset, offset+bytes) of an object into `to`. The head is read into a small buffer; what came with it is copied.
  void Get(uint64_t object, uint64_t offset, uint64_t bytes, char* to) {
    const std::string request = "GET " + options_.path_before + std::to_string(object) + options_.path_after +
                                " HTTP/1.1\r\nHost: 127.0.0.1\r\nRange: bytes=" + std::to_string(offset) + "-" +
                                std::to_string(offset + bytes - 1) + "\r\n\r\n";
    if (::send(fd_, request.data(), request.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request.size())) Fail("send");
    char head[4096];
    size_t have = 0;
    const char* end = nullptr;
    while (end == nullptr) {
      const ssize_t n = ::recv(fd_, head + have, sizeof head - have, 0);
      if (n <= 0) Fail("recv of a head");
      have += static_cast<size_t>(n);
      end = static_cast<const char*>(::memmem(head, have, "\r\n\r\n", 4));
      if (end == nullptr && have == sizeof head) Fail("a head without end");
    }
    if (std::memcmp(head, "HTTP/1.1 206", 12) != 0) Fail("the answer is not 206");
    const size_t body = static_cast<size_t>(end + 4 - head);
    uint64_t done = have - body;
    std::memcpy(to, head + body, done);
    while (done < bytes) {
      const ssize_t n = ::recv(fd_, to + done, std::min(options_.read_bytes, bytes - done), 0);
      if (n <= 0) Fail("recv of a body");
      done += static_cast<uint64_t>(n);
    }
  }

 private:
  const Options& options_;
  int fd_;
};

Options Parse(int argc, char** argv) {
  std::map<std::string, std::string> given;
  for (int i = 1; i + 1 < argc; i += 2) given[argv[i]] = argv[i + 1];
  const auto number = [&](const char* flag, uint64_t otherwise) {
    return given.count(flag) != 0 ? std::strtoull(given[flag].c_str(), nullptr, 10) : otherwise;
  };
  Options o;
  o.port = static_cast<uint16_t>(number("--port", 0));
  const std::string path = given["--path"];
  const size_t mark = path.find("%d");
  o.path_before = path.substr(0, mark);
  o.path_after = mark == std::string::npos ? "" : path.substr(mark + 2);
  o.object_bytes = number("--object-bytes", 0);
  o.objects = number("--objects", o.objects);
  o.connections = number("--connections", o.connections);
  o.read_bytes = number("--read-bytes", o.read_bytes);
  o.range_bytes = number("--range-bytes", o.range_bytes);
  o.region_bytes = number("--region-bytes", o.region_bytes);
  o.total_bytes = number("--total-bytes", o.object_bytes * o.objects);
  if (o.port == 0 || mark == std::string::npos || o.object_bytes == 0 || o.range_bytes == 0 || o.connections == 0 ||
      o.region_bytes < o.range_bytes) {
    std::fprintf(stderr, "recv_floor: --port, --path with %%d, --object-bytes are needed; a region holds at least one range\n");
    std::exit(2);
  }
  return o;
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = Parse(argc, argv);
  void* region =
      ::mmap(nullptr, options.region_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (region == MAP_FAILED) Fail("mmap");
  char* const base = static_cast<char*>(region);
  const uint64_t slots = options.region_bytes / options.range_bytes;
  const uint64_t ranges_per_object = (options.object_bytes + options.range_bytes - 1) / options.range_bytes;
  const uint64_t ranges = std::max<uint64_t>(1, options.total_bytes / options.range_bytes);

  rusage before{}, after{};
  ::getrusage(RUSAGE_SELF, &before);
  timespec start{}, stop{};
  ::clock_gettime(CLOCK_MONOTONIC, &start);
  std::atomic<uint64_t> next{0}, bytes{0};
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < options.connections; ++i) {
    threads.emplace_back([&] {
      Connection connection(options);
      for (uint64_t range; (range = next.fetch_add(1)) < ranges;) {
        const uint64_t in_set = range % (ranges_per_object * options.objects);
        const uint64_t offset = in_set % ranges_per_object * options.range_bytes;
        const uint64_t length = std::min(options.range_bytes, options.object_bytes - offset);
        connection.Get(in_set / ranges_per_object, offset, length, base + range % slots * options.range_bytes);
        bytes += length;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ::clock_gettime(CLOCK_MONOTONIC, &stop);
  ::getrusage(RUSAGE_SELF, &after);
  const double user = CpuSeconds(after.ru_utime) - CpuSeconds(before.ru_utime);
  const double system = CpuSeconds(after.ru_stime) - CpuSeconds(before.ru_stime);
  const double seconds =
      static_cast<double>(stop.tv_sec - start.tv_sec) + static_cast<double>(stop.tv_nsec - start.tv_nsec) * 1e-9;
  std::printf("{\"bytes\": %llu, \"seconds\": %.6f, \"user_s\": %.6f, \"system_s\": %.6f}\n",
              static_cast<unsigned long long>(bytes.load()), seconds, user, system);
  return 0;
}
