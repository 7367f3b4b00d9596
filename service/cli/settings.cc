// SPDX-License-Identifier: Apache-2.0
#include "service/cli/settings.h"

#include <google/protobuf/descriptor.pb.h>
#include <google/protobuf/duration.pb.h>

#include <algorithm>
#include <limits>
#include <map>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/error.h"
#include "base/text.h"
#include "service/cli/values.h"

namespace devmem {
std::string_view ConfigSchema();  // a FileDescriptorSet with comments, which the build makes of config.proto
}

namespace devmem::cli {
namespace {

namespace v1 = devmem_loader::v1;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

bool IsDuration(const FieldDescriptor& field) {
  return field.message_type() != nullptr &&
         field.message_type()->full_name() == google::protobuf::Duration::descriptor()->full_name();
}

const v1::Setting& SettingOf(const FieldDescriptor& field) { return field.options().GetExtension(v1::setting); }

// RECEIVE_LOOP_IO_URING of the enum ReceiveLoop is "io_uring"; the first one, UNSPECIFIED, is no choice.
std::vector<std::pair<std::string, int>> Choices(const google::protobuf::EnumDescriptor& type) {
  const std::string first = type.value(0)->name();
  const size_t prefix = first.size() - std::string_view("UNSPECIFIED").size();
  std::vector<std::pair<std::string, int>> choices;
  for (int i = 1; i < type.value_count(); ++i) {
    choices.emplace_back(absl::AsciiStrToLower(type.value(i)->name().substr(prefix)), type.value(i)->number());
  }
  return choices;
}

absl::StatusOr<uint64_t> ParseNumberOf(const FieldDescriptor& field, const std::string& text, uint64_t fits) {
  const v1::Setting& setting = SettingOf(field);
  if (setting.form() == v1::Setting::OCTAL) {
    auto mode = ParseMode(text);
    if (!mode.ok()) return mode.status();
    return uint64_t{*mode};
  }
  const uint64_t highest = setting.highest() != 0 ? setting.highest() : fits;
  if (setting.form() != v1::Setting::SIZE) return ParseWhole(text, setting.lowest(), highest);
  auto size = ParseSize(text);
  if (size.ok() && (*size < setting.lowest() || *size > highest)) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected a size from ", FormatSize(setting.lowest()), " to ", FormatSize(highest)));
  }
  return size;
}

absl::Status CheckText(const FieldDescriptor& field, const std::string& text) {
  for (const char c : text) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) {
      return absl::InvalidArgumentError("expected one line without control characters");
    }
  }
  if (text.size() < SettingOf(field).lowest()) return absl::InvalidArgumentError("expected something, not an empty text");
  return absl::OkStatus();
}

absl::Status SetDurationOf(Message* message, const FieldDescriptor& field, const std::string& text) {
  Duration value{};
  const bool above_zero = SettingOf(field).lowest() > 0;
  DEVMEM_RETURN_IF_ERROR((above_zero ? SetTimeout(&value) : SetDuration(&value))(text));
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(value);
  google::protobuf::Duration duration;
  duration.set_seconds(seconds.count());
  duration.set_nanos(static_cast<int32_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(value - seconds).count()));
  message->GetReflection()->MutableMessage(message, &field)->CopyFrom(duration);
  return absl::OkStatus();
}

std::string Placeholder(const FieldDescriptor& field) {
  const v1::Setting& setting = SettingOf(field);
  std::string text = setting.placeholder();
  if (!text.empty()) return field.is_repeated() ? text + ",..." : text;
  if (IsDuration(field)) return "TIME";
  if (setting.form() != v1::Setting::PLAIN) return setting.form() == v1::Setting::SIZE ? "SIZE" : "MODE";
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_BOOL) return "";
  if (field.cpp_type() != FieldDescriptor::CPPTYPE_ENUM) return "N";
  std::vector<std::string> names;
  for (const auto& choice : Choices(*field.enum_type())) names.push_back(choice.first);
  return absl::StrJoin(names, "|");
}

// Comments of the settings, by the number of the field.
std::map<int, std::string> ReadComments() {
  std::map<int, std::string> comments;
  google::protobuf::FileDescriptorSet set;
  const std::string_view schema = ConfigSchema();
  if (!set.ParseFromArray(schema.data(), static_cast<int>(schema.size())) || set.file_size() == 0) return comments;
  const google::protobuf::FileDescriptorProto& file = set.file(set.file_size() - 1);
  for (const auto& location : file.source_code_info().location()) {
    if (location.path_size() != 4 || location.path(0) != google::protobuf::FileDescriptorProto::kMessageTypeFieldNumber ||
        location.path(2) != google::protobuf::DescriptorProto::kFieldFieldNumber) {
      continue;
    }
    const google::protobuf::DescriptorProto& message = file.message_type(location.path(1));
    if (message.name() != v1::Config::descriptor()->name()) continue;
    comments[message.field(location.path(3)).number()] = location.leading_comments();
  }
  return comments;
}

Flag FlagFor(const FieldDescriptor& field, v1::Config* config, const std::string& heading) {
  Flag flag{.group = heading, .help = SettingHelp(field)};
  if (IsStructured(field)) {
    flag.name = field.name();
    flag.file_only = true;
    return flag;
  }
  flag.name = FlagOf(field.name());
  flag.value = Placeholder(field);
  flag.fallback = SettingOf(field).default_value();
  flag.set = [config, &field](const std::string& text) { return SetSetting(config, field, text); };
  return flag;
}

}  // namespace

bool IsStructured(const FieldDescriptor& field) { return field.message_type() != nullptr && !IsDuration(field); }

std::string FlagOf(const std::string& key) { return absl::StrCat("--", absl::StrReplaceAll(key, {{"_", "-"}})); }

absl::Status AddSetting(Message* message, const FieldDescriptor& field, const std::string& text) {
  if (field.is_repeated() && field.cpp_type() == FieldDescriptor::CPPTYPE_UINT32) {
    DEVMEM_ASSIGN_OR_RETURN(const uint64_t value, ParseNumberOf(field, text, std::numeric_limits<uint32_t>::max()));
    message->GetReflection()->AddUInt32(message, &field, static_cast<uint32_t>(value));
    return absl::OkStatus();
  }
  if (!field.is_repeated() || field.cpp_type() != FieldDescriptor::CPPTYPE_STRING) {
    return absl::UnimplementedError(absl::StrCat(field.full_name(), " is no list of texts or numbers"));
  }
  DEVMEM_RETURN_IF_ERROR(CheckText(field, text));
  if (text.empty()) return absl::InvalidArgumentError("expected names separated by commas");
  message->GetReflection()->AddString(message, &field, text);
  return absl::OkStatus();
}

absl::Status SetSetting(Message* message, const FieldDescriptor& field, const std::string& text) {
  const Reflection* const reflection = message->GetReflection();
  if (field.is_repeated()) {
    reflection->ClearField(message, &field);
    for (const absl::string_view name : absl::StrSplit(text, ',')) {
      DEVMEM_RETURN_IF_ERROR(AddSetting(message, field, std::string(name)));
    }
    return absl::OkStatus();
  }
  if (IsDuration(field)) return SetDurationOf(message, field, text);
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL: {
      DEVMEM_ASSIGN_OR_RETURN(const bool value, ParseSwitch(text));
      reflection->SetBool(message, &field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_UINT32: {
      DEVMEM_ASSIGN_OR_RETURN(const uint64_t value, ParseNumberOf(field, text, std::numeric_limits<uint32_t>::max()));
      reflection->SetUInt32(message, &field, static_cast<uint32_t>(value));
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      DEVMEM_ASSIGN_OR_RETURN(const uint64_t value, ParseNumberOf(field, text, std::numeric_limits<uint64_t>::max()));
      reflection->SetUInt64(message, &field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_STRING:
      DEVMEM_RETURN_IF_ERROR(CheckText(field, text));
      reflection->SetString(message, &field, text);
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_ENUM: {
      int value = 0;
      DEVMEM_RETURN_IF_ERROR(SetChoice(&value, Choices(*field.enum_type()))(text));
      reflection->SetEnumValue(message, &field, value);
      return absl::OkStatus();
    }
    default:
      return absl::UnimplementedError(absl::StrCat(field.full_name(), " is of no type that a setting can have"));
  }
}

std::string SettingHelp(const FieldDescriptor& field) {
  static const auto* const comments = new std::map<int, std::string>(ReadComments());
  const auto found = comments->find(field.number());
  if (found == comments->end()) return "";
  std::vector<std::string> lines;
  for (const absl::string_view line : absl::StrSplit(found->second, '\n')) {
    const absl::string_view words = absl::StripAsciiWhitespace(line);
    if (words.empty()) break;
    lines.emplace_back(words);
  }
  std::string help = absl::StrJoin(lines, " ");
  if (!help.empty() && help.back() == '.') help.pop_back();
  if (help.size() > 1 && !absl::ascii_isupper(static_cast<unsigned char>(help[1]))) {  // but "NIC"
    help[0] = absl::ascii_tolower(static_cast<unsigned char>(help[0]));
  }
  return help;
}

std::vector<Flag> SettingFlags(v1::Config* config) {
  std::vector<Flag> flags;
  const google::protobuf::Descriptor& all = *v1::Config::descriptor();
  flags.reserve(static_cast<size_t>(all.field_count()));
  for (int i = 0; i < all.field_count(); ++i) flags.push_back(FlagFor(*all.field(i), config, SettingOf(*all.field(i)).group()));
  return flags;
}

std::vector<Flag> SettingFlags(v1::Config* config, const std::string& group, const std::string& heading) {
  std::vector<Flag> flags;
  const google::protobuf::Descriptor& all = *v1::Config::descriptor();
  for (int i = 0; i < all.field_count(); ++i) {
    if (SettingOf(*all.field(i)).group() == group) flags.push_back(FlagFor(*all.field(i), config, heading));
  }
  return flags;
}

}  // namespace devmem::cli
