// SPDX-License-Identifier: Apache-2.0
#include "service/doctor/machine.h"

#include <linux/capability.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <memory>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"
#include "gpu/cpu_device.h"
#include "net/netlink/devmem_binding.h"
#include "net/netlink/netdev.h"
#include "net/netlink/uapi.h"

namespace devmem::doctor {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kReceiveBuffer = 8 * kMiB;  // of a connection into device memory (net/devmem_transport.cc)
constexpr uint64_t kTcpRmem = 6 * kMiB;        // the kernel's own default where there is memory
constexpr uint64_t kMemlock = 8 * kMiB;        // systemd's and the kernel's default
constexpr int64_t kYear = 2025;                // this software is younger

std::string MiB(uint64_t bytes) {
  return bytes % kMiB == 0 || bytes >= 16 * kMiB ? absl::StrCat(bytes / kMiB, " MiB") : absl::StrCat(bytes / 1024, " KiB");
}

// setsockopt() looks the option up before it looks at the tokens: half a token is EINVAL where it is known.
int TryDontneed() {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const uint32_t half = 0;
  if (!fd.valid()) return errno;
  return ::setsockopt(fd.get(), SOL_SOCKET, uapi::kSoDevmemDontneed, &half, sizeof half) == 0 ? 0 : errno;
}

uint64_t TryReceiveBuffer() {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int half = static_cast<int>(kReceiveBuffer / 2);  // the kernel doubles it
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &half, sizeof half) != 0) {
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &half, sizeof half);
  }
  int counted = 0;
  socklen_t length = sizeof counted;
  ::getsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &counted, &length);
  return static_cast<uint64_t>(counted);
}

absl::Status TryUdmabuf() {
  const std::unique_ptr<Device> device = MakeCpuDevice();
  DEVMEM_ASSIGN_OR_RETURN(const std::shared_ptr<DeviceMemory> memory,
                          device->Allocate(4096, {.name = "doctor", .dma_buf = true}));
  return memory->ExportDmaBuf().status();
}

uint64_t EffectiveRights() {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct rights[_LINUX_CAPABILITY_U32S_3]{};
  if (::syscall(SYS_capget, &header, rights) != 0) return 0;
  return rights[0].effective | uint64_t{rights[1].effective} << 32;
}

uint64_t Limit(__rlimit_resource which) {
  rlimit limit{};
  if (::getrlimit(which, &limit) != 0) return 0;
  return limit.rlim_max == RLIM_INFINITY ? UINT64_MAX : limit.rlim_max;
}

std::optional<uint64_t> ThirdNumber(const std::optional<std::string>& text) {
  if (!text) return std::nullopt;
  std::istringstream words(*text);
  uint64_t first = 0, second = 0, third = 0;
  if (!(words >> first >> second >> third)) return std::nullopt;
  return third;
}

// "swiotlb=force" or "swiotlb=65536,force"
bool ForcesSwiotlb(const std::string& command_line) {
  std::istringstream words(command_line);
  for (std::string word; words >> word;) {
    if (word.starts_with("swiotlb=") && (word.ends_with("=force") || word.ends_with(",force"))) return true;
  }
  return false;
}

// ---- what the facts mean, a check each ----

Row Kernel(const MachineFacts& facts) {
  Finding finding{.found = facts.kernel, .wanted = "device-memory TCP (Linux 6.12, 7.0 for large buffers; CONFIG_NET_DEVMEM)"};
  if (facts.dontneed_errno == EINVAL) return Pass("kernel", "", std::move(finding));
  absl::StrAppend(&finding.found, " knows no SO_DEVMEM_DONTNEED: ", std::strerror(facts.dontneed_errno));
  finding.fix = "boot a kernel of 6.12 or newer";
  return Fail("kernel", "", std::move(finding));
}

Row Netlink(const MachineFacts& facts) {
  const std::string wanted = "the netdev netlink family";
  if (facts.netdev.ok()) return Pass("netlink", "", {.found = "netdev family", .wanted = wanted});
  return Unseen("netlink", "", facts.netdev, wanted);
}

Row Permission(const MachineFacts& facts) {
  if (facts.net_admin) return Pass("permission", "", {.found = "CAP_NET_ADMIN", .wanted = "CAP_NET_ADMIN"});
  return Fail("permission", "",
              {.found = "no CAP_NET_ADMIN",
               .wanted = "CAP_NET_ADMIN, without which no queue can be bound and no rule set",
               .fix = "run as root; for the daemon AmbientCapabilities=CAP_NET_ADMIN, or capabilities.add: [NET_ADMIN]"});
}

Row Module(const MachineFacts& facts) {
  Finding finding{.found = "loaded", .wanted = "devmem_binding, which puts a NIC back at once when a daemon is killed"};
  if (facts.module.ok()) return Pass("module", "", std::move(finding));
  if (!absl::IsUnimplemented(facts.module)) return Unseen("module", "", facts.module, finding.wanted);
  finding.found = "not loaded: what a killed daemon leaves on a NIC stays until the next start";
  finding.fix = "modprobe devmem_binding (kernel/README.md)";
  return Warn("module", "", std::move(finding));
}

Row Swiotlb(const MachineFacts& facts) {
  if (!facts.swiotlb_forced) return Pass("bounce-buffers", "", {.found = "not forced", .wanted = "no swiotlb=force"});
  return Fail("bounce-buffers", "",
              {.found = "swiotlb=force",
               .wanted = "no swiotlb=force: a NIC cannot be given a dma-buf then",
               .fix = "take swiotlb=force off the kernel's command line"});
}

Row DmaBuf(const MachineFacts& facts, const MachineNeeds& needs) {
  if (needs.device != "cpu") return Skip("dma-buf", "", "for the CPU device; a GPU's is in row cuda-driver");
  if (!facts.udmabuf.ok()) {
    return Fail("dma-buf", "",
                {.found = Words(facts.udmabuf),
                 .wanted = "/dev/udmabuf, readable and writable",
                 .fix = absl::IsPermissionDenied(facts.udmabuf) ? "run as root, or in the group of /dev/udmabuf"
                                                                : "modprobe udmabuf (CONFIG_UDMABUF)"});
  }
  Finding finding{
      .found = facts.udmabuf_limit ? absl::StrCat("/dev/udmabuf, up to ", MiB(*facts.udmabuf_limit)) : "/dev/udmabuf",
      .wanted = absl::StrCat(MiB(needs.pool), " in one dma-buf: the landing pool"),
      .fix = absl::StrCat("echo ", (needs.pool + kMiB - 1) / kMiB, " > /sys/module/udmabuf/parameters/size_limit_mb")};
  if (!facts.udmabuf_limit || *facts.udmabuf_limit >= needs.pool) return Pass("dma-buf", "", std::move(finding));
  if (*facts.udmabuf_limit >= needs.least_pool) {
    finding.found += ": connections get smaller receive buffers";
    return Warn("dma-buf", "", std::move(finding));
  }
  absl::StrAppend(&finding.found, ", and the smallest landing pool is ", MiB(needs.least_pool));
  return Fail("dma-buf", "", std::move(finding));
}

Row HugePages(const MachineFacts& facts, const MachineNeeds& needs) {
  if (needs.device != "cpu") return Skip("huge-pages", "", "for the CPU device; a GPU's memory is of large pages by itself");
  const uint64_t pages = (needs.huge_pool + 2 * kMiB - 1) / (2 * kMiB);
  Finding finding{.found = absl::StrCat(facts.huge_pages.value_or(0), " free pages of 2 MiB"),
                  .wanted = absl::StrCat(pages, " for a landing pool of 64 KiB buffers"),
                  .fix = absl::StrCat("sysctl -w vm.nr_hugepages=", pages)};
  if (facts.huge_pages.value_or(0) >= pages) return Pass("huge-pages", "", std::move(finding));
  finding.found += ": buffers of 4 KiB cost the CPU more";
  return Warn("huge-pages", "", std::move(finding));
}

Row Memlock(const MachineFacts& facts) {
  Finding finding{.found = facts.memlock == UINT64_MAX ? "unlimited" : MiB(facts.memlock),
                  .wanted = absl::StrCat("8 MiB, or CAP_IPC_LOCK: io_uring may count its rings against it"),
                  .fix = "LimitMEMLOCK=infinity in the unit, or ulimit -l unlimited"};
  if (facts.ipc_lock) finding.found += ", and CAP_IPC_LOCK";
  const bool enough = facts.ipc_lock || facts.memlock >= kMemlock;
  return MakeRow(enough ? Verdict::kPass : Verdict::kWarn, "memlock", "", std::move(finding));
}

Row Descriptors(const MachineFacts& facts, const MachineNeeds& needs) {
  Finding finding{.found = facts.descriptors == UINT64_MAX ? "unlimited" : absl::StrCat(facts.descriptors),
                  .wanted = absl::StrCat(needs.descriptors, " or more, the hard limit"),
                  .fix = "LimitNOFILE=1048576 in the unit, or ulimit -Hn 1048576"};
  if (facts.descriptors >= needs.descriptors) return Pass("descriptors", "", std::move(finding));
  finding.found += ": connections and slabs will be refused";
  return Fail("descriptors", "", std::move(finding));
}

Row ReceiveBuffer(const MachineFacts& facts) {
  Finding finding{.found = absl::StrCat(MiB(facts.receive_buffer), " for a socket that asks for 8 MiB"),
                  .wanted = "8 MiB",
                  .fix = absl::StrCat("sysctl -w net.core.rmem_max=", kReceiveBuffer / 2)};
  return MakeRow(facts.receive_buffer >= kReceiveBuffer ? Verdict::kPass : Verdict::kWarn, "rmem", "", std::move(finding));
}

Row TcpReceiveBuffer(const MachineFacts& facts) {
  if (!facts.tcp_rmem) return Skip("tcp-rmem", "", "/proc/sys/net/ipv4/tcp_rmem cannot be read here");
  Finding finding{.found = MiB(*facts.tcp_rmem),
                  .wanted = "6 MiB or more: the window of connections through host memory",
                  .fix = absl::StrCat("sysctl -w net.ipv4.tcp_rmem='4096 131072 ", kTcpRmem, "'")};
  return MakeRow(*facts.tcp_rmem >= kTcpRmem ? Verdict::kPass : Verdict::kWarn, "tcp-rmem", "", std::move(finding));
}

Row WallClock(const MachineFacts& facts) {
  Finding finding{.found = facts.clock_in_step ? "kept in step" : "nothing keeps it in step",
                  .wanted = "a clock that NTP or PTP keeps: signed requests are refused after 15 minutes",
                  .fix = "apt-get install chrony, or timedatectl set-ntp true"};
  if (facts.year >= kYear) {
    return MakeRow(facts.clock_in_step ? Verdict::kPass : Verdict::kWarn, "clock", "", std::move(finding));
  }
  finding.found = absl::StrCat("the year ", facts.year);
  return Fail("clock", "", std::move(finding));
}

}  // namespace

MachineFacts LookAtMachine(const HostFiles& host) {
  MachineFacts facts;
  utsname kernel{};
  ::uname(&kernel);
  facts.kernel = kernel.release;
  facts.dontneed_errno = TryDontneed();
  facts.netdev = Netdev::Open().status();
  const uint64_t rights = EffectiveRights();
  facts.net_admin = (rights >> CAP_NET_ADMIN & 1) != 0;
  facts.ipc_lock = (rights >> CAP_IPC_LOCK & 1) != 0;
  facts.module = ListHeldHandles().status();
  facts.udmabuf = TryUdmabuf();
  facts.memlock = Limit(RLIMIT_MEMLOCK);
  facts.descriptors = Limit(RLIMIT_NOFILE);
  facts.receive_buffer = TryReceiveBuffer();
  facts.tcp_rmem = ThirdNumber(host.Read("proc/sys/net/ipv4/tcp_rmem"));
  facts.huge_pages = host.Number("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
  if (const auto limit = host.Number("sys/module/udmabuf/parameters/size_limit_mb")) facts.udmabuf_limit = *limit * kMiB;
  facts.swiotlb_forced = ForcesSwiotlb(host.Read("proc/cmdline").value_or(""));
  timex clock{};
  facts.clock_in_step = ::adjtimex(&clock) != TIME_ERROR && (clock.status & STA_UNSYNC) == 0;
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  facts.year = parts.tm_year + 1900;
  return facts;
}

Rows MachineRows(const MachineFacts& facts, const MachineNeeds& needs) {
  return {Kernel(facts),           Netlink(facts),          Permission(facts),
          Module(facts),           Swiotlb(facts),          DmaBuf(facts, needs),
          HugePages(facts, needs), Memlock(facts),          Descriptors(facts, needs),
          ReceiveBuffer(facts),    TcpReceiveBuffer(facts), WallClock(facts)};
}

}  // namespace devmem::doctor
