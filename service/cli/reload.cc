// SPDX-License-Identifier: Apache-2.0
#include "service/cli/reload.h"

#include <google/protobuf/util/message_differencer.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "service/cli/settings.h"

namespace devmem::cli {
namespace {

namespace v1 = devmem_loader::v1;
using google::protobuf::FieldDescriptor;

// A config that holds this field and no other.
v1::Config Only(const FieldDescriptor& field, const v1::Config& config) {
  v1::Config only = config;
  for (int i = 0; i < v1::Config::descriptor()->field_count(); ++i) {
    const FieldDescriptor* const other = v1::Config::descriptor()->field(i);
    if (other != &field) only.GetReflection()->ClearField(&only, other);
  }
  return only;
}

FlagValue* ValueOf(const FieldDescriptor& field, std::vector<FlagValue>* values) {
  const std::string name = IsStructured(field) ? field.name() : FlagOf(field.name());
  const auto found = std::find_if(values->begin(), values->end(), [&](const FlagValue& value) { return value.name == name; });
  return &*found;  // the table is made of the fields
}

std::string Describe(const FieldDescriptor& field, const FlagValue& from, const FlagValue& to) {
  const auto text = [](const FlagValue& value) { return value.value.empty() ? "(not set)" : value.value; };
  if (from.value == to.value) return absl::StrCat(field.name(), ": changed");  // lists of as many entries
  return absl::StrCat(field.name(), ": ", text(from), " -> ", text(to));
}

}  // namespace

absl::StatusOr<Changes> Reload(const std::vector<std::string>& arguments, const FlagTable::GetEnvironment& environment,
                               DaemonCommandOptions* running, std::vector<FlagValue>* values) {
  DaemonCommandOptions asked;
  DEVMEM_ASSIGN_OR_RETURN(std::vector<FlagValue> asked_values, DaemonTable(&asked).Parse(arguments, environment));
  Changes changes;
  v1::Config next = running->config;
  for (int i = 0; i < v1::Config::descriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *v1::Config::descriptor()->field(i);
    const v1::Config wanted = Only(field, asked.config);
    if (google::protobuf::util::MessageDifferencer::Equals(wanted, Only(field, running->config))) continue;
    FlagValue* const value = ValueOf(field, values);
    const FlagValue& new_value = *ValueOf(field, &asked_values);
    // A file that was just emptied, to be written again, must not let everybody in meanwhile.
    const bool opens = field.number() == v1::Config::kAccessFieldNumber && asked.config.access().empty();
    const bool live = field.options().GetExtension(v1::setting).reload() && !opens;
    (live ? changes.applied : changes.restart).push_back(Describe(field, *value, new_value));
    if (!live) continue;
    next.GetReflection()->ClearField(&next, &field);
    next.MergeFrom(wanted);
    *value = new_value;
  }
  DEVMEM_RETURN_IF_ERROR(ApplyConfig(next, running));
  running->config = next;
  return changes;
}

}  // namespace devmem::cli
