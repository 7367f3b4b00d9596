// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/mapped_slab.h"

#include <optional>
#include <string>
#include <utility>

#include "base/error.h"

namespace devmem {
namespace {

absl::Status Mismatch(uint32_t slab, const std::string& what,
                      const std::string& action = "use a client and a daemon of the same release") {
  return MakeError(absl::StatusCode::kFailedPrecondition, "cannot map slab " + std::to_string(slab) + ": " + what,
                   {.cause = "handle mismatch", .action = action});
}

std::optional<ExportedHandle::Kind> KindOf(const std::string& name) {
  if (name == "memfd") return ExportedHandle::Kind::kMemfd;
  if (name == "cuda-vmm") return ExportedHandle::Kind::kCudaVmm;
  return std::nullopt;
}

}  // namespace

absl::StatusOr<MappedSlab> MappedSlab::Create(const devmem_loader::v1::Slab& announced,
                                              const devmem_loader::v1::SlabHandle& handle, UniqueFd fd, Device& device) {
  const auto kind = KindOf(handle.kind());
  if (!kind.has_value()) {
    return Mismatch(announced.id(), "kind '" + handle.kind() + "', this client knows 'memfd' and 'cuda-vmm'");
  }
  if (handle.version() != ExportedHandle::kVersion) {
    return Mismatch(announced.id(), "version " + std::to_string(handle.version()) + ", this client knows " +
                                        std::to_string(ExportedHandle::kVersion));
  }
  if (handle.device_uuid() != device.uuid()) {
    return Mismatch(announced.id(),
                    "it lies on device '" + handle.device_uuid() + "', this client is on '" + std::string(device.uuid()) +
                        "' (" + std::string(device.name()) + ")",
                    "connect with that device (ConnectOptions::device), or ask a daemon of this one");
  }
  if (handle.bytes() != announced.bytes() || handle.kind() != announced.kind() || handle.version() != announced.version() ||
      handle.device_uuid() != announced.device_uuid()) {
    return Mismatch(announced.id(), "the handle is not the one announced");
  }
  if (!fd.valid()) return Mismatch(announced.id(), "it came without a file descriptor");
  auto memory = device.Import({.kind = *kind,
                               .version = handle.version(),
                               .bytes = handle.bytes(),
                               .device_uuid = handle.device_uuid(),
                               .fd = std::move(fd)},
                              "slab " + std::to_string(announced.id()));
  if (absl::IsInvalidArgument(memory.status())) return Mismatch(announced.id(), Text(memory.status()));
  if (!memory.ok()) return memory.status();
  return MappedSlab(announced.id(), *std::move(memory));
}

}  // namespace devmem
