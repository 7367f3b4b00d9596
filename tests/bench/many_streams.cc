// SPDX-License-Identifier: Apache-2.0
// The client of ./dev bench streams: N streams at once in one trainer process, a thread each, so that a figure for 64
// streams is not one for 64 process starts. Prints one JSON object.
//
//   many_streams unix:/run/l.sock http://127.0.0.1:8080/ STREAMS SAMPLE_BYTES BATCH PREFETCH_BYTES EPOCHS
#include <sys/resource.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "client/cpp/client.h"

namespace {

namespace v1 = devmem_loader::v1;

absl::Status Drain(devmem::Client& client, const v1::StreamSpec& spec, std::atomic<uint64_t>& bytes) {
  DEVMEM_ASSIGN_OR_RETURN(const auto stream, client.OpenStream(spec, {}));
  while (true) {
    DEVMEM_ASSIGN_OR_RETURN(const devmem::client::Event event, stream->Next(devmem::Clock::now() + std::chrono::minutes(2)));
    if (event.kind == devmem::client::Event::kStreamEnd) return absl::OkStatus();
    if (event.kind == devmem::client::Event::kBatch) bytes += event.batch.tensor(0).size_bytes();
  }
}

double Seconds(const timeval& time) { return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6; }

}  // namespace

int main(int argc, char** argv) {
  if (argc != 8) {
    std::fprintf(stderr, "usage: many_streams SERVICE BUCKET STREAMS SAMPLE_BYTES BATCH PREFETCH_BYTES EPOCHS\n");
    return 2;
  }
  const auto streams = static_cast<uint32_t>(std::atoi(argv[3]));
  auto client = devmem::Client::Connect(argv[1], {});
  if (!client.ok()) {
    std::fprintf(stderr, "%s\n", devmem::Text(client.status()).c_str());
    return 1;
  }
  std::atomic<uint64_t> bytes = 0;
  std::atomic<bool> failed = false;
  std::vector<std::thread> threads;
  const devmem::Time began = devmem::Clock::now();
  for (uint32_t rank = 0; rank < streams; ++rank) {
    threads.emplace_back([&, rank] {
      v1::StreamSpec spec;
      spec.set_bucket(argv[2]);
      spec.set_format(v1::FORMAT_RAW);
      spec.add_tensors()->set_dtype(v1::DTYPE_UINT8);
      spec.mutable_tensors(0)->add_shape(std::atoll(argv[4]));
      spec.set_batch_size(static_cast<uint32_t>(std::atoi(argv[5])));
      spec.set_prefetch_bytes(std::strtoull(argv[6], nullptr, 10));
      spec.set_epochs(static_cast<uint32_t>(std::atoi(argv[7])));
      spec.set_tail(v1::TAIL_UNEVEN);
      spec.mutable_shuffle()->set_mode(v1::Shuffle::NONE);
      spec.set_rank(rank);
      spec.set_world_size(streams);
      if (const absl::Status status = Drain(**client, spec, bytes); !status.ok()) {
        std::fprintf(stderr, "rank %u: %s\n", rank, devmem::Text(status).c_str());
        failed = true;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  std::printf("{\"bytes\": %llu, \"seconds\": %.6f, \"cpu_s\": %.6f}\n", static_cast<unsigned long long>(bytes.load()),
              std::chrono::duration<double>(devmem::Clock::now() - began).count(),
              Seconds(usage.ru_utime) + Seconds(usage.ru_stime));
  return failed ? 1 : 0;
}
