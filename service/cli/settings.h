// SPDX-License-Identifier: Apache-2.0
// Settings: the fields of devmem_loader.v1.Config as people write them, by the schema alone. Flags, environment and file all
// end in SetSetting(), so that what one of them takes, all of them take.
//
//   v1::Config config;
//   FlagTable table({...}, SettingFlags(&config));       // --memory-limit is set into config.memory_limit
//
// Pure functions, but for the setters of the flags, which write to the config they were made for.
#pragma once

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "devmem_loader/v1/config.pb.h"
#include "service/cli/flag_table.h"

namespace devmem::cli {

// Sets one field to what `text` says, a list to what stands between its commas. kInvalidArgument says what is accepted, as in
// values.h. The field is a bool, a whole number, a text or a list of texts, an enum or a Duration: kUnimplemented for others.
[[nodiscard]] absl::Status SetSetting(google::protobuf::Message* message, const google::protobuf::FieldDescriptor& field,
                                      const std::string& text);
// One more entry of a list of texts, whatever it holds.
[[nodiscard]] absl::Status AddSetting(google::protobuf::Message* message, const google::protobuf::FieldDescriptor& field,
                                      const std::string& text);

// Whether the field is made of fields itself, and so cannot be said in one word.
[[nodiscard]] bool IsStructured(const google::protobuf::FieldDescriptor& field);

// "memory_limit" is set by "--memory-limit".
[[nodiscard]] std::string FlagOf(const std::string& key);

// The first paragraph of the field's comment in the schema, on one line and without the stop at its end.
[[nodiscard]] std::string SettingHelp(const google::protobuf::FieldDescriptor& field);

// A flag for each setting; those that only a file can say are there to be shown.
[[nodiscard]] std::vector<Flag> SettingFlags(devmem_loader::v1::Config* config);
// Those of one group, under a heading of the caller's.
[[nodiscard]] std::vector<Flag> SettingFlags(devmem_loader::v1::Config* config, const std::string& group,
                                             const std::string& heading);

}  // namespace devmem::cli
