// SPDX-License-Identifier: Apache-2.0
// The configuration file: YAML, and so JSON too, read into a protobuf message by the message's own fields.
//
//   v1::Config config;
//   FileValues values;
//   DEVMEM_RETURN_IF_ERROR(ReadConfig(text, "config.yaml", &config, &values));
//
//   memory_limit: 64GiB            # a field, written as its flag would be
//   interface: [eth1, eth2]        # or eth1,eth2
//
// A message field is a mapping, a list of messages a sequence of mappings. Pure but for LoadConfig(), which reads a file.
#pragma once

#include <google/protobuf/message.h>

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "devmem_loader/v1/config.pb.h"
#include "service/cli/flag_table.h"

namespace devmem::cli {

inline constexpr const char* kDefaultConfig = "/etc/devmem-loader/config.yaml";

// Reads `text`. `path` is for messages. kFailedPrecondition names every fault, one a line, as PATH:LINE:COLUMN: an unknown key
// with the nearest one there is, a key said twice, a value that its field does not take. `values` gets what the outermost
// fields have, by flag; of a structured one, how much of it there is. Of what it holds on error no use may be made.
[[nodiscard]] absl::Status ReadConfig(const std::string& text, const std::string& path, google::protobuf::Message* message,
                                      FileValues* values);

// The daemon's file, its structured settings set into `config`; for Flag::read. A file that was not asked for need not exist.
[[nodiscard]] absl::StatusOr<std::optional<FileValues>> LoadConfig(const std::string& path, bool asked,
                                                                   devmem_loader::v1::Config* config);

}  // namespace devmem::cli
