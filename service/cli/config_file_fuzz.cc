// SPDX-License-Identifier: Apache-2.0
// Input: a configuration file. What is read can be set again as a flag would; what is not says where the fault is.
#include <cstdint>
#include <cstdlib>

#include "service/cli/config_file.h"
#include "service/cli/settings.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  devmem_loader::v1::Config config;
  devmem::cli::FileValues values;
  const absl::Status status =
      devmem::cli::ReadConfig(std::string(reinterpret_cast<const char*>(data), size), "f", &config, &values);
  if (!status.ok()) {
    if (status.code() != absl::StatusCode::kFailedPrecondition || status.message().substr(0, 2) != "f:") std::abort();
    return 0;
  }
  devmem_loader::v1::Config again;
  const google::protobuf::Descriptor& all = *devmem_loader::v1::Config::descriptor();
  for (int i = 0; i < all.field_count(); ++i) {
    const auto found = values.find(devmem::cli::FlagOf(all.field(i)->name()));
    if (found == values.end()) continue;
    if (!devmem::cli::SetSetting(&again, *all.field(i), found->second.text).ok() || found->second.line < 1) std::abort();
  }
  if (again.SerializeAsString() != config.SerializeAsString()) std::abort();
  return 0;
}
