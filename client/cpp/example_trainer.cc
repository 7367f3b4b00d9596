// SPDX-License-Identifier: Apache-2.0
// A trainer in its smallest form:
//
//   example_trainer unix:/run/devmem-loader/loader.sock http://10.0.0.5/train/ [batch size [device]]
//
// prints, for every batch, the shape of each tensor and the sum of its bytes.
#include <cstdio>
#include <cstdlib>
#include <span>
#include <vector>

#include "base/error.h"
#include "client/cpp/client.h"

namespace {

absl::Status Train(const char* service, const char* bucket, uint32_t batch_size, const char* device) {
  DEVMEM_ASSIGN_OR_RETURN(auto client, devmem::Client::Connect(service, {.device = device}));
  devmem::StreamSpec spec;
  spec.set_bucket(bucket);
  spec.set_batch_size(batch_size);
  DEVMEM_ASSIGN_OR_RETURN(auto stream, client->OpenStream(spec, {}));
  std::printf("%llu samples by %s\n", static_cast<unsigned long long>(stream->opened().samples()),
              stream->opened().path().name().c_str());
  while (true) {
    DEVMEM_ASSIGN_OR_RETURN(devmem::client::Event event, stream->Next(devmem::Clock::now() + std::chrono::minutes(1)));
    if (event.kind == devmem::client::Event::kStreamEnd) return absl::OkStatus();
    if (event.kind == devmem::client::Event::kEpochEnd) continue;
    for (size_t i = 0; i < event.batch.tensors(); ++i) {
      const devmem::TensorView tensor = event.batch.tensor(i);
      std::printf("batch %llu %s [", static_cast<unsigned long long>(event.batch.info().sequence()), tensor.name().c_str());
      for (const int64_t dimension : tensor.shape()) std::printf(" %lld", static_cast<long long>(dimension));
      std::vector<std::byte> copy;  // a kernel would take tensor.address() instead
      std::span<const std::byte> bytes = tensor.bytes();
      if (!tensor.host_visible()) {
        copy.resize(tensor.size_bytes());
        DEVMEM_RETURN_IF_ERROR(tensor.CopyTo(copy));
        bytes = copy;
      }
      uint64_t sum = 0;
      for (const std::byte byte : bytes) sum += std::to_integer<uint64_t>(byte);
      std::printf(" ] sum %llu\n", static_cast<unsigned long long>(sum));
    }
  }  // the batch is released here
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return std::fprintf(stderr, "usage: %s SERVICE BUCKET [BATCH_SIZE [DEVICE]]\n", argv[0]), 2;
  const absl::Status status =
      Train(argv[1], argv[2], argc > 3 ? static_cast<uint32_t>(std::atoi(argv[3])) : 1, argc > 4 ? argv[4] : "cpu");
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
