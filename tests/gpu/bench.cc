// SPDX-License-Identifier: Apache-2.0
// Figures of the device's work on cuda:0: gpu_bench [--json FILE | --probe]. Exit status 77 where there is no GPU; --probe asks
// no more.
//
// Throughputs: bytes read and written by what was asked for, over the time between two events around the launch; median of
// kRounds, a round going to another part of memory each time, far beyond the L2 cache. Beside them the GPU's own
// device-to-device copy in the same run, of which they are a share. Methods take turns (A B C A B C ...). The latency is the
// host's, from before the call to the event complete, over that of a kernel that does nothing.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "gpu/cuda/cuda_device.h"
#include "gpu/cuda/error.h"
#include "gpu/cuda/facts.h"
#include "gpu/cuda/launch.h"
#include "gpu/work_plan.h"
#include "tests/gpu/rivals.h"

namespace devmem {
namespace {

constexpr int kRounds = 31;
constexpr uint64_t kBatch = uint64_t{256} << 20;  // bytes of a round: five times the largest L2
constexpr uint64_t kSpace = uint64_t{4} << 30;    // that rounds go through

void Must(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "gpu_bench: %s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct Row {
  std::string what;
  double gigabytes = 0;  // a second, read and written
  double bar = 0;        // share of the copy that is asked for; 0: none
};

class Bench {
 public:
  explicit Bench(const cuda::Facts& facts) : facts_(facts) {
    Must(cudaSetDevice(0), "cudaSetDevice");
    Must(cuda::PrepareKernels(), "preparing the kernels");
    Must(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
    Must(cudaEventCreate(&start_), "an event");
    Must(cudaEventCreate(&stop_), "an event");
    Must(cudaMalloc(&source_, kSpace + 4096), "the source");
    Must(cudaMalloc(&destination_, kSpace + 4096), "the destination");
    Must(cudaMemset(source_, 0x5a, kSpace + 4096), "the source");
    Must(cudaDeviceSynchronize(), "the source");
    Must(cudaMalloc(&lists_, uint64_t{256} << 20), "descriptors");
    for (const cuda::CrcKind kind : {cuda::CrcKind::kCrc32c, cuda::CrcKind::kCrc64Nvme}) {
      const std::vector<uint8_t> bytes = cuda::TablesOf(kind);
      void*& tables = tables_[static_cast<size_t>(kind)];
      Must(cudaMalloc(&tables, bytes.size()), "tables");
      Must(cudaMemcpy(tables, bytes.data(), bytes.size(), cudaMemcpyHostToDevice), "tables");
      Must(cudaDeviceSynchronize(), "tables");
      int blocks = 0;
      Must(cuda::ChecksumBlocks(kind, &blocks), "a kernel's occupancy");
      checksum_blocks_[static_cast<size_t>(kind)] = static_cast<uint32_t>(std::max(1, blocks) * facts.multiprocessors);
    }
  }

  [[nodiscard]] uint64_t source(int round) const { return Address(source_) + (static_cast<uint64_t>(round) * kBatch) % kSpace; }
  [[nodiscard]] uint64_t destination(int round) const {
    return Address(destination_) + (static_cast<uint64_t>(round) * kBatch) % kSpace;
  }

  // Seconds, a median, of each method in turn. `prepare` comes before the clock starts.
  struct Method {
    std::string what;
    std::function<void(int round)> prepare, run;
  };
  std::vector<double> Time(const std::vector<Method>& methods) {
    std::vector<std::vector<double>> times(methods.size());
    for (int round = -2; round < kRounds; ++round) {
      for (size_t i = 0; i < methods.size(); ++i) {
        // Nobody reads what another has just put into the cache.
        const int place = (round + 2) * static_cast<int>(methods.size()) + static_cast<int>(i);
        if (methods[i].prepare != nullptr) methods[i].prepare(place);
        Must(cudaStreamSynchronize(stream_), "preparing");
        Must(cudaEventRecord(start_, stream_), "an event");
        methods[i].run(place);
        Must(cudaEventRecord(stop_, stream_), "an event");
        Must(cudaEventSynchronize(stop_), methods[i].what.c_str());
        float ms = 0;
        Must(cudaEventElapsedTime(&ms, start_, stop_), "an event");
        if (round >= 0) times[i].push_back(ms / 1000);
      }
    }
    std::vector<double> medians;
    for (const auto& of : times) medians.push_back(Median(of));
    return medians;
  }

  Method Copy() {
    return {
        "device-to-device copy", nullptr, [this](int round) {
          Must(cudaMemcpyAsync(Pointer(destination(round)), Pointer(source(round)), kBatch, cudaMemcpyDeviceToDevice, stream_),
               "copying");
        }};
  }

  // The batch in fragments of `bytes`, in random order of the source, `gap` bytes apart there; `shift` moves the source's
  // first.
  std::vector<Fragment> Fragments(uint64_t bytes, uint64_t shift) {
    std::vector<Fragment> fragments;
    const uint64_t count = (kBatch - 64) / (bytes + (shift != 0 ? 16 : 0));
    std::vector<uint64_t> order(count);
    for (uint64_t i = 0; i < count; ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), random_);
    for (uint64_t i = 0; i < count; ++i) {
      fragments.push_back(
          {.source = order[i] * (bytes + (shift != 0 ? 16 : 0)) + shift, .destination = i * bytes, .bytes = bytes});
    }
    return fragments;
  }

  void Upload(const WorkPlan& plan) {
    const uint64_t tiles = plan.tiles.size() * sizeof(Tile);
    Must(cudaMemcpyAsync(lists_, plan.tiles.data(), tiles, cudaMemcpyHostToDevice, stream_), "descriptors");
    Must(cudaMemcpyAsync(static_cast<char*>(lists_) + tiles, plan.runs.data(), plan.runs.size() * sizeof(Run),
                         cudaMemcpyHostToDevice, stream_),
         "descriptors");
  }
  [[nodiscard]] const Tile* tiles() const { return static_cast<const Tile*>(lists_); }
  [[nodiscard]] const Run* runs(const WorkPlan& plan) const {
    return reinterpret_cast<const Run*>(tiles() + plan.tiles.size());
  }
  [[nodiscard]] uint32_t most_tiles() const { return static_cast<uint32_t>(facts_.multiprocessors) * 64 * 2; }

  Method Gather(const std::vector<Fragment>& fragments) {
    return {"gather",
            [this, &fragments](int round) {
              PlanGather(source(round), destination(round), fragments, {.most_tiles = most_tiles()}, &plan_);
              Upload(plan_);
            },
            [this](int) {
              Must(cuda::LaunchGather({runs(plan_), tiles(), plan_.tile_count()}, stream_), "gathering");
            }};
  }

  Method Checksum(cuda::CrcKind kind, const std::vector<Fragment>& fragments) {
    return {"checksum",
            [this, &fragments](int round) {
              PlanGather(source(round), destination(round), fragments, {.most_tiles = most_tiles(), .merge = false}, &plan_);
              Upload(plan_);
              sums_ = reinterpret_cast<uint64_t*>(const_cast<Run*>(runs(plan_) + plan_.runs.size()));
            },
            [this, kind](int) {
              const size_t index = static_cast<size_t>(kind);
              Must(cudaMemsetAsync(sums_, 0, plan_.runs.size() * sizeof(uint64_t), stream_), "sums");
              Must(cuda::LaunchChecksum(kind, {runs(plan_), tiles(), plan_.tile_count(), tables_[index], sums_},
                                        checksum_blocks_[index], stream_),
                   "checksumming");
              Must(cuda::LaunchSums(kind, {runs(plan_), plan_.runs.size(), tables_[index], sums_}, stream_), "finishing sums");
            }};
  }

  Method Cast(const GatherCastSpec& spec, const std::vector<Fragment>& fragments) {
    return {"cast",
            [this, &fragments, spec](int round) {
              path_ = ChooseCastPath(spec);
              PlanCast(spec, path_, source(round), destination(round), fragments, most_tiles(), &plan_, &cast_);
              Upload(plan_);
              cast_.runs = runs(plan_);
              cast_.tiles = tiles();
            },
            [this](int) { Must(cuda::LaunchCast(path_, cast_, stream_), "casting"); }};
  }

  std::vector<Method> Rivals(const std::vector<Fragment>& fragments) {
    std::vector<Method> methods;
    for (const rivals::Rival& rival : rivals::All()) {
      methods.push_back({rival.name,
                         [this, rival, &fragments](int round) {
                           plain_.clear();
                           for (const Fragment& f : fragments) {
                             plain_.push_back({source(round) + f.source, destination(round) + f.destination, f.bytes});
                           }
                           if (failed_[rival.name] == cudaSuccess) failed_[rival.name] = rival.setup(plain_);
                           (void)cudaGetLastError();
                         },
                         [this, rival](int) {
                           if (failed_[rival.name] == cudaSuccess) failed_[rival.name] = rival.copy(plain_, stream_);
                           (void)cudaGetLastError();
                         }});
    }
    return methods;
  }

  // Why a method has no figure; empty if it has one.
  [[nodiscard]] std::string Failed(const std::string& what) const {
    const auto found = failed_.find(what);
    return found == failed_.end() || found->second == cudaSuccess ? "" : cudaGetErrorName(found->second);
  }

  // A batch as a stream has it gathered: plan, descriptors and launch, from before the call until a thread that waits is told.
  // GB/s.
  double ByDevice(const std::vector<Fragment>& fragments, uint64_t bytes) {
    auto made = MakeCudaDevice(0);
    if (!made.ok()) Must(cudaErrorUnknown, Text(made.status()).c_str());
    auto from = (*made)->Allocate(kBatch * 4 + 4096, {.name = "source"});
    auto to = (*made)->Allocate(kBatch * 4, {.name = "destination"});
    if (!from.ok() || !to.ok()) return 0;
    std::vector<Fragment> moved = fragments;
    std::vector<double> times;
    for (int round = -2; round < kRounds; ++round) {
      const uint64_t place = static_cast<uint64_t>(round + 2) % 4 * kBatch;
      for (size_t i = 0; i < moved.size(); ++i) {
        moved[i].source = fragments[i].source + place;
        moved[i].destination = fragments[i].destination + place;
      }
      const devmem::Time begin = Clock::now();
      const auto event = (*made)->Gather(**to, **from, moved);
      if (!event.ok() || !event->Wait(begin + std::chrono::seconds(10)).ok()) return 0;
      if (round >= 0) times.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
    }
    return static_cast<double>(bytes) / Median(times) / 1e9;
  }

  // Microseconds from before the call to the event complete.
  double Latency(const std::function<void()>& launch) {
    std::vector<double> times;
    for (int i = -50; i < 2001; ++i) {
      const devmem::Time begin = Clock::now();
      launch();
      Must(cudaEventRecord(stop_, stream_), "an event");
      while (cudaEventQuery(stop_) == cudaErrorNotReady) {
      }
      (void)cudaGetLastError();
      if (i >= 0) times.push_back(std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
    }
    return Median(times);
  }
  // Of the launch alone, watched by a thread that spins.
  double SmallGather() {
    std::vector<Fragment> fragments;
    for (uint64_t i = 0; i < 16; ++i) fragments.push_back({.source = i * 9000 + 7, .destination = i * 4096, .bytes = 4096});
    return Latency([&] {
      PlanGather(source(0), destination(0), fragments, {.most_tiles = most_tiles()}, &plan_);
      InlineGatherTask task;
      FillInline(plan_, &task);
      Must(cuda::LaunchGather(task, stream_), "gathering");
    });
  }
  // As a stream has it: until the thread that waits is told.
  double SmallGatherByDevice() {
    auto device = MakeCudaDevice(0);
    if (!device.ok()) return 0;
    auto from = (*device)->Allocate(kBatch, {.name = "source"}), to = (*device)->Allocate(kBatch, {.name = "destination"});
    if (!from.ok() || !to.ok()) return 0;
    std::vector<double> times;
    for (uint64_t i = 0; i < 1000; ++i) {
      std::vector<Fragment> fragments;
      const uint64_t place = i * 147456 % (kBatch - 147456);
      for (uint64_t k = 0; k < 16; ++k) {
        fragments.push_back({.source = place + k * 9000 + 7, .destination = place + k * 4096, .bytes = 4096});
      }
      const devmem::Time begin = Clock::now();
      const auto event = (*device)->Gather(**to, **from, fragments);
      if (!event.ok() || !event->Wait(begin + std::chrono::seconds(10)).ok()) return 0;
      times.push_back(std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
    }
    return Median(times);
  }
  double Nothing() {
    return Latency([&] { Must(cuda::LaunchNothing(stream_), "launching"); });
  }

 private:
  static uint64_t Address(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }
  static void* Pointer(uint64_t address) { return reinterpret_cast<void*>(address); }

  const cuda::Facts facts_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t start_ = nullptr, stop_ = nullptr;
  void *source_ = nullptr, *destination_ = nullptr, *lists_ = nullptr;
  void* tables_[2] = {nullptr, nullptr};
  uint32_t checksum_blocks_[2] = {0, 0};
  std::mt19937_64 random_{1};
  WorkPlan plan_;
  CastPath path_;
  CastTask cast_{};
  uint64_t* sums_ = nullptr;
  std::vector<Run> plain_;
  std::map<std::string, cudaError_t> failed_;  // rivals that cannot do it here
};

int Main(int argc, char** argv) {
  const auto facts = cuda::AskGpu(0);
  if (!facts.ok()) {
    std::fprintf(stderr, "gpu_bench: %s\n", Text(facts.status()).c_str());
    return 77;
  }
  if (argc == 2 && std::strcmp(argv[1], "--probe") == 0) return 0;
  Bench bench(*facts);
  std::vector<Row> rows;
  std::printf("%s, CUDA %d.%d, %d multiprocessors, %s\n\n", facts->name.c_str(), facts->driver / 1000,
              facts->driver % 1000 / 10, facts->multiprocessors, facts->uuid.c_str());

  double copy = 0;
  for (const auto& [name, bytes, shift, bar] : {std::tuple{"4 KiB, aligned", uint64_t{4096}, uint64_t{0}, 0.90},
                                                std::tuple{"4 KiB, source off by 1 byte", uint64_t{4096}, uint64_t{1}, 0.80},
                                                std::tuple{"1448 bytes", uint64_t{1448}, uint64_t{7}, 0.70},
                                                std::tuple{"64 KiB, aligned", uint64_t{65536}, uint64_t{0}, 0.0}}) {
    const std::vector<Fragment> fragments = bench.Fragments(bytes, shift);
    const double total = 2.0 * static_cast<double>(bytes) * static_cast<double>(fragments.size());
    std::vector<Bench::Method> methods = {bench.Copy(), bench.Gather(fragments)};
    for (Bench::Method& rival : bench.Rivals(fragments)) methods.push_back(std::move(rival));
    const std::vector<double> seconds = bench.Time(methods);
    if (copy == 0) {
      copy = 2.0 * kBatch / seconds[0] / 1e9;
      rows.push_back({"device-to-device copy", copy});
    }
    rows.push_back({std::string("gather of ") + name, total / seconds[1] / 1e9, bar});
    rows.push_back({std::string("  the same as called, plan and descriptors included, ") + name,
                    bench.ByDevice(fragments, static_cast<uint64_t>(total))});
    for (size_t i = 2; i < methods.size(); ++i) {
      const std::string failed = bench.Failed(methods[i].what);
      rows.push_back({std::string("  ") + methods[i].what + ", " + name + (failed.empty() ? "" : ": " + failed),
                      failed.empty() ? total / seconds[i] / 1e9 : 0});
    }
  }
  {
    const std::vector<Fragment> fragments = bench.Fragments(4096, 7);
    const double total = 2.0 * 4096 * static_cast<double>(fragments.size());
    const std::vector<double> seconds =
        bench.Time({bench.Checksum(cuda::CrcKind::kCrc32c, fragments), bench.Checksum(cuda::CrcKind::kCrc64Nvme, fragments)});
    rows.push_back({"gather and CRC32C, 4 KiB: bytes checked (asked: 1000)", total / seconds[0] / 1e9});
    rows.push_back({"gather and CRC64NVME, 4 KiB: bytes checked", total / seconds[1] / 1e9});
  }
  const uint64_t image = 224 * 224 * 3;
  const uint64_t count = kBatch / 4 / image * image;
  struct CastCase {
    const char* name;
    GatherCastSpec spec;
    double bar;
  };
  const CastCase casts[] = {
      {"cast u8 to bf16", {.cast = {.from = DType::kU8, .to = DType::kBF16, .scale = 1.0 / 255, .count = count}}, 0.85},
      {"cast u8 to f32", {.cast = {.from = DType::kU8, .to = DType::kF32, .scale = 1.0 / 255, .count = count}}, 0},
      {"cast u8 to bf16, normalised, HWC to CHW",
       {.cast = {.from = DType::kU8, .to = DType::kBF16, .scale = 1.0 / 255, .count = count},
        .channels = 3,
        .mean = {0.485, 0.456, 0.406},
        .deviation = {0.229, 0.224, 0.225},
        .pixels = 224 * 224},
       0},
      {"cast f32 to bf16", {.cast = {.from = DType::kF32, .to = DType::kBF16, .count = count / 4}}, 0}};
  for (const CastCase& c : casts) {
    const uint64_t stored = c.spec.cast.count * ItemSize(c.spec.cast.from);
    std::vector<Fragment> fragments;  // as a NIC leaves them: pages of 4 KiB, each somewhere
    for (uint64_t at = 0; at < stored; at += 4096) {
      fragments.push_back({.source = (at / 4096 * 7919 % (stored / 4096 + 1)) * 4096,
                           .destination = at,
                           .bytes = std::min<uint64_t>(4096, stored - at)});
    }
    const double total = static_cast<double>(stored) + static_cast<double>(c.spec.cast.count * ItemSize(c.spec.cast.to));
    rows.push_back({c.name, total / bench.Time({bench.Cast(c.spec, fragments)})[0] / 1e9, c.bar});
  }

  std::printf("%-52s %10s %9s %7s\n", "", "GB/s", "of copy", "asked");
  for (const Row& row : rows) {
    std::printf("%-52s %10.0f %8.1f%%", row.what.c_str(), row.gigabytes, 100 * row.gigabytes / copy);
    if (row.bar > 0) std::printf("  %5.0f%%%s", 100 * row.bar, row.gigabytes / copy >= row.bar ? "" : "  MISSED");
    std::printf("\n");
  }
  const double nothing = bench.Nothing(), small = bench.SmallGather();
  std::printf(
      "\n64 KiB in 16 fragments, from the call to the event: %.1f us; an empty kernel: %.1f us; over it: %.1f us (asked: 6)\n",
      small, nothing, small - nothing);
  std::printf("the same by the device, until a thread that sleeps is told: %.1f us\n", bench.SmallGatherByDevice());
  std::vector<cuda::KernelFacts> kernels;
  Must(cuda::DescribeKernels(&kernels), "describing the kernels");
  std::printf("\n%-34s %9s %11s %12s %8s\n", "", "registers", "local bytes", "shared bytes", "blocks");
  for (const cuda::KernelFacts& k : kernels) {
    std::printf("%-34s %9d %11llu %12llu %8d\n", k.name.c_str(), k.registers, static_cast<unsigned long long>(k.local_bytes),
                static_cast<unsigned long long>(k.shared_bytes), k.blocks_per_sm);
  }
  if (argc == 3 && std::strcmp(argv[1], "--json") == 0) {
    nlohmann::json table = nlohmann::json::array();
    for (const Row& row : rows) {
      table.push_back({{"what", row.what}, {"gb_per_s", row.gigabytes}, {"of_copy", row.gigabytes / copy}, {"asked", row.bar}});
    }
    std::ofstream file(argv[2]);
    file << nlohmann::json{{"gpu", facts->name}, {"driver", facts->driver},  {"copy_gb_per_s", copy},
                           {"rows", table},      {"small_gather_us", small}, {"empty_kernel_us", nothing}}
         << '\n';
    if (!file.flush()) return 1;
  }
  return 0;
}

}  // namespace
}  // namespace devmem

int main(int argc, char** argv) { return devmem::Main(argc, argv); }
