// SPDX-License-Identifier: Apache-2.0
#include "service/memory_limit.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>

namespace devmem {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMachine = uint64_t{64} << 30;
constexpr char kMounts[] =
    "22 1 0:21 / /proc rw,nosuid - proc proc rw\n"
    "30 1 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
constexpr char kMounts1[] =
    "30 1 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n"
    "31 1 0:27 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 1 0:28 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

struct Row {
  const char* description;
  std::map<std::string, std::string> files;  // below the root
  uint64_t expected;
  const char* source;
};

class MemoryLimitTest : public ::testing::Test {
 protected:
  MemoryLimitTest() {
    std::string pattern = (fs::temp_directory_path() / "memory_limit_XXXXXX").string();
    root_ = ::mkdtemp(pattern.data());
  }
  ~MemoryLimitTest() override { fs::remove_all(root_); }
  fs::path root_;
};

TEST_F(MemoryLimitTest, HalfOfTheLeastThereIs) {
  const Row rows[] = {
      {"no control groups at all", {}, kMachine / 2, "half of the machine's memory"},
      {"no limits",
       {{"proc/self/cgroup", "0::/a/b\n"}, {"proc/self/mountinfo", kMounts}, {"sys/fs/cgroup/a/b/memory.max", "max\n"}},
       kMachine / 2,
       "half of the machine's memory"},
      {"its own group's",
       {{"proc/self/cgroup", "0::/a/b\n"}, {"proc/self/mountinfo", kMounts}, {"sys/fs/cgroup/a/b/memory.max", "314572800\n"}},
       157286400,
       "half of memory.max of the control group /a/b"},
      {"one above it",
       {{"proc/self/cgroup", "0::/a/b/c\n"},
        {"proc/self/mountinfo", kMounts},
        {"sys/fs/cgroup/a/b/c/memory.max", "8589934592\n"},
        {"sys/fs/cgroup/a/memory.max", "1073741824\n"}},
       536870912,
       "half of memory.max of the control group /a"},
      {"what it is throttled at",
       {{"proc/self/cgroup", "0::/a\n"},
        {"proc/self/mountinfo", kMounts},
        {"sys/fs/cgroup/a/memory.max", "1073741824\n"},
        {"sys/fs/cgroup/a/memory.high", "805306368\n"}},
       402653184,
       "half of memory.high of the control group /a"},
      {"more than the machine has",
       {{"proc/self/cgroup", "0::/a\n"}, {"proc/self/mountinfo", kMounts}, {"sys/fs/cgroup/a/memory.max", "1099511627776\n"}},
       kMachine / 2,
       "half of the machine's memory"},
      {"a container with a namespace of its own",
       {{"proc/self/cgroup", "0::/\n"}, {"proc/self/mountinfo", kMounts}, {"sys/fs/cgroup/memory.max", "2147483648\n"}},
       1073741824,
       "half of memory.max of the control group /"},
      {"a container without one: the path is the host's",
       {{"proc/self/cgroup", "0::/kubepods/pod1/c2\n"},
        {"proc/self/mountinfo", kMounts},
        {"sys/fs/cgroup/memory.max", "2147483648\n"}},
       1073741824,
       "half of memory.max of the control group /"},
      {"a group outside of the namespace",
       {{"proc/self/cgroup", "0::/../other\n"}, {"proc/self/mountinfo", kMounts}, {"sys/fs/cgroup/memory.max", "2147483648\n"}},
       1073741824,
       "half of memory.max of the control group /"},
      {"version 1",
       {{"proc/self/cgroup", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/docker/abc\n"},
        {"proc/self/mountinfo", kMounts1},
        {"sys/fs/cgroup/memory/memory.limit_in_bytes", "268435456\n"}},
       134217728,
       "half of memory.limit_in_bytes of the control group /"},
      {"version 1, without a limit",
       {{"proc/self/cgroup", "4:memory:/\n"},
        {"proc/self/mountinfo", kMounts1},
        {"sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"}},
       kMachine / 2,
       "half of the machine's memory"},
      {"no mountinfo: where systemd has them",
       {{"proc/self/cgroup", "0::/a\n"}, {"sys/fs/cgroup/a/memory.max", "4294967296\n"}},
       2147483648,
       "half of memory.max of the control group /a"},
      {"what is no number",
       {{"proc/self/cgroup", "0::/a\nnonsense\n"},
        {"sys/fs/cgroup/a/memory.max", "12 GB\n"},
        {"sys/fs/cgroup/a/memory.high", ""}},
       kMachine / 2,
       "half of the machine's memory"},
  };
  for (const Row& row : rows) {
    const fs::path root = root_ / row.description;
    for (const auto& [name, text] : row.files) {
      fs::create_directories((root / name).parent_path());
      std::ofstream(root / name) << text;
    }
    const MemoryLimit limit = DefaultMemoryLimit({.root = root.string(), .machine = kMachine});
    EXPECT_EQ(limit.bytes, row.expected) << row.description;
    EXPECT_EQ(limit.source, row.source) << row.description;
  }
}

TEST_F(MemoryLimitTest, OfThisMachine) {
  const MemoryLimit limit = DefaultMemoryLimit({});
  EXPECT_GT(limit.bytes, 16u << 20);
  EXPECT_THAT(limit.source, ::testing::StartsWith("half of "));
}

}  // namespace
}  // namespace devmem
