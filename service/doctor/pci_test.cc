// SPDX-License-Identifier: Apache-2.0
#include "service/doctor/pci.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "service/doctor/testing/fake_host.h"

namespace devmem::doctor {
namespace {

using ::testing::HasSubstr;

// Configuration space with an ACS capability at 0x148, behind another at 0x100; `control` as it is set.
std::string Config(uint16_t control) {
  std::string bytes(4096, '\0');
  const auto put = [&bytes](size_t at, uint32_t value) {
    for (size_t i = 0; i < 4; ++i) bytes[at + i] = static_cast<char>(value >> (8 * i));
  };
  put(0x100, 0x148'2'0001);  // id 1 (AER), version 2, next 0x148
  put(0x148, 0x000'1'000d);  // id 0x000d, version 1, the last
  put(0x14c, uint32_t{control} << 16);
  return bytes;
}
constexpr uint16_t kRedirects = 0x1d;  // what Linux sets where an IOMMU is on: SV, RR, CR, UF

constexpr char kSwitch[] = "pci0000:3a/0000:3a:01.0/0000:3b:00.0/";
const FakeHost::Pci kGpu{.vendor = "0x10de",
                         .kind = "0x030200",
                         .resource =
                             "0x00000000fa000000 0x00000000faffffff 0x0000000000040200\n"
                             "0x0000038000000000 0x0000039fffffffff 0x000000000014220c\n",
                         .driver = "nvidia"};

// NIC and GPU below two ports of one switch.
class OneSwitch : public ::testing::Test {
 protected:
  void Build(uint16_t control, const std::string& config_size = "") {
    for (const char* port : {"0000:3c:00.0", "0000:3c:01.0"}) {
      host_.AddPci(std::string(kSwitch) + port, {.config = config_size.empty() ? Config(control) : config_size});
    }
    host_.AddPci("pci0000:3a/0000:3a:01.0", {});
    host_.AddPci("pci0000:3a/0000:3a:01.0/0000:3b:00.0", {});
    host_.AddPci(std::string(kSwitch) + "0000:3c:00.0/0000:3d:00.0", nic_);
    host_.AddPci(std::string(kSwitch) + "0000:3c:01.0/0000:3e:00.0", gpu_);
    host_.Write("proc/driver/nvidia/version", version_ + "\nGCC version:  12\n");
  }
  [[nodiscard]] Rows Look(const std::string& device = "cuda:0") const {
    return PciRows(host_.files(), {.device = device, .nics = {{"eth0", "0000:3d:00.0"}}, .pool = 1 << 30});
  }
  static Row Of(const Rows& rows, const std::string& check) {
    const auto found = std::find_if(rows.begin(), rows.end(), [&check](const Row& row) { return row.check == check; });
    if (found == rows.end()) ADD_FAILURE() << "no row " << check;
    return found == rows.end() ? Row{} : *found;
  }

  FakeHost host_;
  FakeHost::Pci nic_, gpu_ = kGpu;
  std::string version_ = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  595.44.01  Release Build";
};

TEST_F(OneSwitch, AllIsWell) {
  Build(0);
  for (const Row& row : Look()) EXPECT_EQ(row.verdict, Verdict::kPass) << row.check << ": " << row.found;
  EXPECT_EQ(GpuAddress(host_.files(), "cuda:0"), "0000:3e:00.0");
  EXPECT_EQ(GpuAddress(host_.files(), "cuda:1"), "");
  EXPECT_EQ(GpuAddress(host_.files(), "cpu"), "");
  EXPECT_THAT(Of(Look(), "pcie-distance").found, HasSubstr("below 0000:3b:00.0"));
  EXPECT_EQ(Of(Look(), "bar1").found, "131072 MiB");
}

TEST_F(OneSwitch, AcsRedirects) {
  Build(kRedirects);
  const Row row = Of(Look(), "acs");
  EXPECT_EQ(row.verdict, Verdict::kWarn);
  EXPECT_EQ(row.found, "redirects to the root complex: 0000:3c:00.0, 0000:3c:01.0");
  EXPECT_THAT(row.fix, HasSubstr("pci=disable_acs_redir=0000:3c:00.0;0000:3c:01.0"));
}

TEST_F(OneSwitch, AcsIsHiddenWithoutRoot) {
  Build(0, std::string(64, '\1'));  // what the kernel shows of it to others
  const Row row = Of(Look(), "acs");
  EXPECT_EQ(row.verdict, Verdict::kSkip);
  EXPECT_EQ(row.fix, "run as root");
}

TEST_F(OneSwitch, ACapabilityListWithoutAnEndIsNone) {
  std::string bytes(4096, '\0');
  bytes[0x100] = 1;
  bytes[0x103] = 0x10;  // next: itself
  Build(0, bytes);
  EXPECT_EQ(Of(Look(), "acs").verdict, Verdict::kPass);
}

TEST_F(OneSwitch, TheIommu) {
  const struct {
    const char* type;
    Verdict verdict;
  } kRows[] = {{"identity", Verdict::kPass}, {"DMA", Verdict::kWarn}, {"DMA-FQ", Verdict::kWarn}};
  nic_.iommu_group = "17";
  Build(0);
  for (const auto& row : kRows) {
    host_.Write("sys/kernel/iommu_groups/17/type", std::string(row.type) + "\n");
    EXPECT_EQ(Of(Look(), "iommu").verdict, row.verdict) << row.type;
    EXPECT_EQ(Of(Look("cpu"), "iommu").verdict, Verdict::kPass) << row.type;
  }
}

TEST_F(OneSwitch, TheDriversFlavour) {
  version_ = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024";
  Build(0);
  EXPECT_EQ(Of(Look(), "cuda-driver").verdict, Verdict::kFail);
  EXPECT_THAT(Of(Look(), "cuda-driver").fix, HasSubstr("-open"));
}

TEST_F(OneSwitch, ASmallBar) {
  gpu_.resource = "0x00000000fa000000 0x00000000faffffff 0x40200\n0x0000000040000000 0x000000004fffffff 0x14220c\n";
  gpu_.driver = "vfio-pci";
  Build(0);
  EXPECT_EQ(Of(Look(), "bar1").verdict, Verdict::kFail);
  EXPECT_EQ(Of(Look(), "bar1").found, "256 MiB");
  EXPECT_EQ(Of(Look(), "gpu").verdict, Verdict::kFail);
  EXPECT_EQ(Of(Look(), "gpu").found, "0000:3e:00.0, driver vfio-pci");
}

TEST_F(OneSwitch, NoBar) {
  gpu_.resource = "0x0 0x0 0x0\n0x0 0x0 0x0\n";
  Build(0);
  EXPECT_EQ(Of(Look(), "bar1").found, "the GPU has no BAR1");
}

TEST_F(OneSwitch, ForTheCpuAGpuIsOfNoConcern) {
  Build(kRedirects);
  const Rows rows = Look("cpu");
  for (const char* check : {"gpu", "cuda-driver", "bar1", "pcie-distance", "acs"}) {
    EXPECT_EQ(Of(rows, check).verdict, Verdict::kSkip) << check;
    EXPECT_EQ(Of(rows, check).found, "the device is the CPU") << check;
  }
}

TEST_F(OneSwitch, WithoutAGpuItsRowsSayWhy) {
  Build(0);
  const Rows rows = Look("cuda:1");
  EXPECT_EQ(Of(rows, "gpu").verdict, Verdict::kFail);
  EXPECT_EQ(Of(rows, "gpu").found, "1 NVIDIA GPUs on this machine's PCI bus");
  for (const char* check : {"cuda-driver", "bar1", "pcie-distance", "acs"}) {
    EXPECT_EQ(Of(rows, check).verdict, Verdict::kSkip) << check;
    EXPECT_THAT(Of(rows, check).found, HasSubstr("no GPU cuda:1")) << check;
  }
}

TEST_F(OneSwitch, ANicThatIsNoPciDevice) {
  Build(0);
  for (const Row& row : PciRows(host_.files(), {.device = "cuda:0", .nics = {{"dms0", "devmemsim.0"}, {"x", ""}}})) {
    if (row.object == "dms0") {
      EXPECT_EQ(row.found, "devmemsim.0 is no PCI device");
    }
    if (row.object == "x") {
      EXPECT_EQ(row.verdict, Verdict::kSkip) << row.check;
    }
  }
}

TEST(PciRows, WithoutANicItsRowsAreSkipped) {
  FakeHost host;
  const Rows rows = PciRows(host.files(), {});
  EXPECT_EQ(rows.size(), 7U);
  for (const Row& row : rows) EXPECT_EQ(row.verdict, Verdict::kSkip) << row.check;
}

TEST(PciRows, BelowTwoRootComplexes) {
  FakeHost host;
  host.AddPci("pci0000:3a/0000:3a:01.0", {.config = Config(kRedirects)});
  host.AddPci("pci0000:3a/0000:3a:01.0/0000:3d:00.0", {.node = "0"});
  host.AddPci("pci0000:ba/0000:ba:01.0", {.config = Config(kRedirects)});
  FakeHost::Pci gpu = kGpu;
  gpu.node = "1";
  host.AddPci("pci0000:ba/0000:ba:01.0/0000:be:00.0", gpu);
  for (const Row& row : PciRows(host.files(), {.device = "cuda:0", .nics = {{"eth0", "0000:3d:00.0"}}})) {
    if (row.check == "pcie-distance") {
      EXPECT_EQ(row.verdict, Verdict::kWarn);
      EXPECT_EQ(row.found, "by way of two root complexes");
    } else if (row.check == "acs") {
      EXPECT_EQ(row.verdict, Verdict::kSkip);
    } else if (row.check == "numa") {
      EXPECT_EQ(row.verdict, Verdict::kWarn);
      EXPECT_EQ(row.found, "NIC on node 0, GPU on node 1");
    } else if (row.check == "cuda-driver") {
      EXPECT_EQ(row.verdict, Verdict::kFail);
    }
  }
}

}  // namespace
}  // namespace devmem::doctor
