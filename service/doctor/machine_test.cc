// SPDX-License-Identifier: Apache-2.0
#include "service/doctor/machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <functional>

#include "service/doctor/testing/fake_host.h"

namespace devmem::doctor {
namespace {

using ::testing::HasSubstr;
constexpr uint64_t kMiB = uint64_t{1} << 20;

const MachineNeeds kNeeds{.pool = 200 * kMiB, .least_pool = 20 * kMiB, .huge_pool = 300 * kMiB + 1, .descriptors = 1088};

// A machine that lacks nothing.
MachineFacts Whole() {
  return {.kernel = "7.3.4",
          .dontneed_errno = EINVAL,
          .net_admin = true,
          .memlock = 8 * kMiB,
          .descriptors = 1 << 20,
          .receive_buffer = 8 * kMiB,
          .tcp_rmem = 6 * kMiB,
          .huge_pages = 151,
          .udmabuf_limit = 200 * kMiB,
          .clock_in_step = true,
          .year = 2026};
}

Row Of(const Rows& rows, const std::string& check) {
  const auto found = std::find_if(rows.begin(), rows.end(), [&check](const Row& row) { return row.check == check; });
  if (found == rows.end()) ADD_FAILURE() << "no row " << check;
  return found == rows.end() ? Row{} : *found;
}

TEST(MachineRows, AllIsWell) {
  for (const Row& row : MachineRows(Whole(), kNeeds)) {
    EXPECT_EQ(row.verdict, Verdict::kPass) << row.check << ": " << row.found;
    EXPECT_EQ(row.fix, "") << row.check;
    EXPECT_NE(row.wanted, "") << row.check;
  }
}

TEST(MachineRows, EachFaultIsItsOwnRowsAlone) {
  const struct {
    const char* check;
    Verdict verdict;
    std::function<void(MachineFacts&)> provoke;
    const char* found;
    const char* fix;
  } kRows[] = {
      {"kernel", Verdict::kFail, [](MachineFacts& f) { f.dontneed_errno = ENOPROTOOPT; }, "7.3.4 knows no SO_DEVMEM_DONTNEED",
       "6.12"},
      {"netlink", Verdict::kFail, [](MachineFacts& f) { f.netdev = absl::UnimplementedError("no family"); }, "no family", ""},
      {"permission", Verdict::kFail, [](MachineFacts& f) { f.net_admin = false; }, "no CAP_NET_ADMIN", "run as root"},
      {"module", Verdict::kWarn, [](MachineFacts& f) { f.module = absl::UnimplementedError("no"); }, "not loaded", "modprobe"},
      {"bounce-buffers", Verdict::kFail, [](MachineFacts& f) { f.swiotlb_forced = true; }, "swiotlb=force", "command line"},
      {"dma-buf", Verdict::kFail, [](MachineFacts& f) { f.udmabuf = absl::NotFoundError("none"); }, "none", "modprobe udmabuf"},
      {"dma-buf", Verdict::kFail, [](MachineFacts& f) { f.udmabuf = absl::PermissionDeniedError("no"); }, "no", "run as root"},
      {"dma-buf", Verdict::kWarn, [](MachineFacts& f) { f.udmabuf_limit = 64 * kMiB; }, "up to 64 MiB", "echo 200 >"},
      {"dma-buf", Verdict::kFail, [](MachineFacts& f) { f.udmabuf_limit = kMiB; }, "smallest landing pool is 20 MiB",
       "echo 200 >"},
      {"huge-pages", Verdict::kWarn, [](MachineFacts& f) { f.huge_pages = 150; }, "150 free", "vm.nr_hugepages=151"},
      {"huge-pages", Verdict::kWarn, [](MachineFacts& f) { f.huge_pages.reset(); }, "0 free", "vm.nr_hugepages=151"},
      {"memlock", Verdict::kWarn, [](MachineFacts& f) { f.memlock = 64 << 10; }, "64 KiB", "LimitMEMLOCK"},
      {"descriptors", Verdict::kFail, [](MachineFacts& f) { f.descriptors = 1024; }, "1024", "LimitNOFILE"},
      {"rmem", Verdict::kWarn, [](MachineFacts& f) { f.receive_buffer = 425984; }, "416 KiB", "rmem_max=4194304"},
      {"tcp-rmem", Verdict::kWarn, [](MachineFacts& f) { f.tcp_rmem = kMiB; }, "1 MiB", "6291456"},
      {"tcp-rmem", Verdict::kSkip, [](MachineFacts& f) { f.tcp_rmem.reset(); }, "cannot be read", ""},
      {"clock", Verdict::kWarn, [](MachineFacts& f) { f.clock_in_step = false; }, "nothing keeps it", "chrony"},
      {"clock", Verdict::kFail, [](MachineFacts& f) { f.year = 1970; }, "the year 1970", "chrony"},
  };
  for (const auto& row : kRows) {
    MachineFacts facts = Whole();
    row.provoke(facts);
    for (const Row& told : MachineRows(facts, kNeeds)) {
      if (told.check != row.check) {
        EXPECT_EQ(told.verdict, Verdict::kPass) << row.check << " provoked, " << told.check << ": " << told.found;
        continue;
      }
      EXPECT_EQ(told.verdict, row.verdict) << row.check;
      EXPECT_THAT(told.found, HasSubstr(row.found)) << row.check;
      EXPECT_THAT(told.fix, HasSubstr(row.fix)) << row.check;
    }
  }
}

TEST(MachineRows, ARightInsteadOfALimit) {
  MachineFacts facts = Whole();
  facts.memlock = 0;
  facts.ipc_lock = true;
  EXPECT_EQ(Of(MachineRows(facts, kNeeds), "memlock").verdict, Verdict::kPass);
  facts.memlock = UINT64_MAX;
  facts.ipc_lock = false;
  EXPECT_EQ(Of(MachineRows(facts, kNeeds), "memlock").found, "unlimited");
}

TEST(MachineRows, AGpuNeedsNoMemoryOfTheCpu) {
  MachineFacts facts = Whole();
  facts.udmabuf = absl::NotFoundError("none");
  facts.huge_pages = 0;
  MachineNeeds needs = kNeeds;
  needs.device = "cuda:0";
  for (const char* check : {"dma-buf", "huge-pages"}) EXPECT_EQ(Of(MachineRows(facts, needs), check).verdict, Verdict::kSkip);
}

TEST(LookAtMachine, ReadsItsFiles) {
  FakeHost host;
  host.Write("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n");
  host.Write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "12\n");
  host.Write("sys/module/udmabuf/parameters/size_limit_mb", "64\n");
  const struct {
    const char* command_line;
    bool forced;
  } kRows[] = {{"quiet swiotlb=force\n", true},
               {"swiotlb=65536,force quiet\n", true},
               {"swiotlb=noforce\n", false},
               {"iommu=force console=ttyS0\n", false}};
  for (const auto& row : kRows) {
    host.Write("proc/cmdline", row.command_line);
    const MachineFacts facts = LookAtMachine(host.files());
    EXPECT_EQ(facts.swiotlb_forced, row.forced) << row.command_line;
    EXPECT_EQ(facts.tcp_rmem, 6291456U);
    EXPECT_EQ(facts.huge_pages, 12U);
    EXPECT_EQ(facts.udmabuf_limit, 64 * kMiB);
    EXPECT_GT(facts.descriptors, 0U);
    EXPECT_GT(facts.receive_buffer, 0U);
    EXPECT_GE(facts.year, 2025);
    EXPECT_NE(facts.kernel, "");
  }
}

TEST(LookAtMachine, OfWhatIsNotThere) {
  FakeHost host;
  const MachineFacts facts = LookAtMachine(host.files());
  EXPECT_EQ(facts.tcp_rmem, std::nullopt);
  EXPECT_EQ(facts.huge_pages, std::nullopt);
  EXPECT_EQ(facts.udmabuf_limit, std::nullopt);
  host.Write("proc/sys/net/ipv4/tcp_rmem", "4096 131072\n");
  EXPECT_EQ(LookAtMachine(host.files()).tcp_rmem, std::nullopt);
}

}  // namespace
}  // namespace devmem::doctor
