// SPDX-License-Identifier: Apache-2.0
#include "service/cli/flag_table.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "service/access.h"
#include "service/cli/suggest.h"
#include "service/cli/values.h"

namespace devmem::cli {
namespace {

using Origin = FlagValue::Origin;

bool Positional(const Flag& flag) { return flag.name[0] != '-'; }

std::vector<std::string> Words(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

// Breaks `text` at blanks so that no line passes `width`; lines after the first are indented.
std::string Wrap(const std::string& text, size_t indent, size_t width) {
  std::string out;
  size_t column = indent;
  for (const std::string& word : Words(text)) {
    if (column > indent && column + 1 + word.size() > width) {
      out.append("\n").append(indent, ' ');
      column = indent;
    } else if (column > indent) {
      out.append(" ");
      ++column;
    }
    out.append(word);
    column += word.size();
  }
  return out;
}

absl::Status UnknownFlag(const std::string& argument, const std::vector<Flag>& flags) {
  if (argument.empty() || argument[0] != '-') {
    return MakeError(absl::StatusCode::kInvalidArgument, absl::StrCat("unexpected argument '", argument, "'"),
                     {.cause = "unexpected argument", .action = "see --help"});
  }
  const std::string name = argument.substr(0, argument.find('='));
  std::vector<std::string> names = {"--help", "--version"};
  for (const Flag& flag : flags) {
    if (!Positional(flag)) names.push_back(flag.name);
  }
  const std::string near = Suggest(name, names);
  return MakeError(absl::StatusCode::kInvalidArgument, absl::StrCat("unknown flag ", name),
                   {.cause = "unknown flag", .action = near.empty() ? "see --help" : absl::StrCat("did you mean ", near, "?")});
}

// Where a value is from, for an error.
std::string Source(const FlagValue& value) {
  if (value.origin == Origin::kEnvironment) {
    return absl::StrCat("environment variable ", FlagTable::EnvironmentName(value.name));
  }
  if (value.origin == Origin::kFile) return absl::StrCat(value.path, ":", value.line, ": ", value.name);
  return value.name;
}

// Sets one flag from one source; errors name the source, the value and what is accepted.
absl::Status Apply(const Flag& flag, const std::vector<std::string>& texts, const FlagValue& value) {
  for (const std::string& text : texts) {
    absl::Status status = flag.set(text);
    if (status.ok()) continue;
    const bool typed = value.origin == Origin::kFlag || value.origin == Origin::kDefault;
    return MakeError(typed ? absl::StatusCode::kInvalidArgument : absl::StatusCode::kFailedPrecondition,
                     absl::StrCat(Source(value), ": '", text, "': ", status.message()), {.cause = "bad value"});
  }
  return absl::OkStatus();
}

std::string Joined(const std::vector<std::string>& values) {
  std::string joined;
  for (const std::string& value : values) absl::StrAppend(&joined, joined.empty() ? "" : " ", value);
  return joined;
}

absl::Status MissingValue(const Flag& flag) {
  return MakeError(absl::StatusCode::kInvalidArgument, absl::StrCat(flag.name, ": expected a value, ", flag.value),
                   {.cause = "missing value", .action = "see --help"});
}

}  // namespace

Flag::Set SetText(std::string* target) {
  return [target](const std::string& text) {
    *target = text;
    return absl::OkStatus();
  };
}

Flag::Set SetTexts(std::vector<std::string>* target) {
  return [target](const std::string& text) {
    target->push_back(text);
    return absl::OkStatus();
  };
}

Flag::Set SetOn(bool* target) {
  return [target](const std::string& text) {
    auto value = ParseSwitch(text);
    if (value.ok()) *target = *value;
    return value.status();
  };
}

Flag::Set SetSize(uint64_t* target) {
  return [target](const std::string& text) {
    auto value = ParseSize(text);
    if (value.ok()) *target = *value;
    return value.status();
  };
}

Flag::Set SetDuration(Duration* target) {
  return [target](const std::string& text) {
    auto value = ParseDuration(text);
    if (value.ok()) *target = *value;
    return value.status();
  };
}

Flag::Set SetTimeout(Duration* target) {
  return [target](const std::string& text) {
    auto value = ParseDuration(text);
    if (value.ok() && *value <= Duration::zero()) {
      return absl::InvalidArgumentError("expected a time above 0, such as 250ms, 5s, 2m or 1h");
    }
    if (value.ok()) *target = *value;
    return value.status();
  };
}

namespace internal {

absl::Status StoreWhole(const std::string& text, uint64_t lowest, uint64_t highest,
                        const std::function<void(uint64_t)>& store) {
  auto value = ParseWhole(text, lowest, highest);
  if (value.ok()) store(*value);
  return value.status();
}

absl::Status NoSuchChoice(const std::vector<std::string>& names) {
  std::string list;
  for (size_t i = 0; i < names.size(); ++i)
    absl::StrAppend(&list, i == 0 ? "" : i + 1 == names.size() ? " or " : ", ", names[i]);
  return absl::InvalidArgumentError(absl::StrCat("expected ", list));
}

}  // namespace internal

FlagTable::FlagTable(Texts texts, std::vector<Flag> flags, std::function<absl::Status()> finish)
    : texts_(std::move(texts)), flags_(std::move(flags)), finish_(std::move(finish)) {}

std::string FlagTable::EnvironmentName(const std::string& flag) {
  std::string name = "DEVMEM_";
  for (char c : flag.substr(2)) name += c == '-' ? '_' : static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  return name;
}

absl::StatusOr<std::vector<FlagValue>> FlagTable::Parse(const std::vector<std::string>& arguments,
                                                        const GetEnvironment& environment) const {
  CLI::App app;
  app.set_help_flag();  // ours is a flag of the table
  app.allow_extras();   // so that an unknown flag gets a suggestion rather than CLI11's words
  std::vector<std::vector<std::string>> given(flags_.size());
  for (size_t i = 0; i < flags_.size(); ++i) {
    if (flags_[i].file_only) continue;
    if (flags_[i].value.empty()) {
      app.add_flag(flags_[i].name);
    } else {
      app.add_option(flags_[i].name, given[i])->allow_extra_args(false);
    }
  }
  // CLI11 takes what follows for the value, also where that is the next flag.
  const auto named = [this](std::string_view argument) {
    const std::string_view name = argument.substr(0, argument.find('='));
    return std::find_if(flags_.begin(), flags_.end(), [name](const Flag& each) { return each.name == name; });
  };
  for (size_t i = 0; i + 1 < arguments.size(); ++i) {
    const auto flag = named(arguments[i]);
    if (flag == flags_.end() || flag->value.empty() || flag->name != arguments[i] || named(arguments[i + 1]) == flags_.end())
      continue;
    return MissingValue(*flag);
  }
  try {
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));  // CLI11 takes them back to front
  } catch (const CLI::ArgumentMismatch& error) {
    const std::string what = error.what();  // "--batch-size: 1 required TEXT missing"
    const std::string name = what.substr(0, what.find(':'));
    const auto flag = std::find_if(flags_.begin(), flags_.end(), [&](const Flag& each) { return each.name == name; });
    if (flag == flags_.end()) {
      return MakeError(absl::StatusCode::kInvalidArgument, what, {.cause = "bad command line", .action = "see --help"});
    }
    return MissingValue(*flag);
  } catch (const CLI::ParseError& error) {
    return MakeError(absl::StatusCode::kInvalidArgument, error.what(), {.cause = "bad command line", .action = "see --help"});
  }
  for (const std::string& extra : app.remaining()) {
    if (extra != "--") return UnknownFlag(extra, flags_);
  }

  for (size_t i = 0; i < flags_.size(); ++i) {
    if (!flags_[i].value.empty() || flags_[i].file_only) continue;
    given[i] = app.get_option(flags_[i].name)->results();
    // CLI11 takes "--pad=" for "--pad": a script whose variable is not set would switch on what it did not mean to.
    if (std::find(arguments.begin(), arguments.end(), flags_[i].name + "=") != arguments.end()) given[i] = {""};
  }

  FileValues file;
  const auto take = [&](size_t i, FlagValue& value) -> std::vector<std::string> {
    const Flag& flag = flags_[i];
    if (!given[i].empty()) {
      value.origin = Origin::kFlag;
      return given[i];
    }
    if (const char* const set = flag.environment && !flag.file_only && !Positional(flag)
                                    ? environment(EnvironmentName(flag.name).c_str())
                                    : nullptr;
        set != nullptr && *set != '\0') {
      value.origin = Origin::kEnvironment;
      return flag.repeatable ? Words(set) : std::vector<std::string>{set};
    }
    if (const auto found = file.find(flag.name); found != file.end()) {
      value.origin = Origin::kFile;
      value.path = found->second.path;
      value.line = found->second.line;
      return {found->second.text};
    }
    return flag.fallback.empty() ? std::vector<std::string>() : std::vector<std::string>{flag.fallback};
  };

  std::vector<FlagValue> values(flags_.size());
  for (size_t i = 0; i < flags_.size(); ++i) {
    if (!flags_[i].read) continue;
    const std::vector<std::string> paths = take(i, values[i]);
    if (paths.empty()) continue;
    DEVMEM_ASSIGN_OR_RETURN(std::optional<FileValues> read, flags_[i].read(paths.back(), values[i].origin != Origin::kDefault));
    if (read.has_value()) {
      file.merge(*read);
      values[i].value = paths.back();
    }
  }
  for (size_t i = 0; i < flags_.size(); ++i) {
    const Flag& flag = flags_[i];
    FlagValue& value = values[i];
    value.name = flag.name;
    if (flag.read) continue;
    std::vector<std::string> texts = take(i, value);
    if (!flag.repeatable && texts.size() > 1) texts = {texts.back()};  // said twice: the last counts
    if (!flag.file_only) DEVMEM_RETURN_IF_ERROR(Apply(flag, texts, value));
    value.value = Joined(texts);
  }
  if (finish_) DEVMEM_RETURN_IF_ERROR(finish_());
  return values;
}

std::string FlagTable::Help(size_t width) const {
  constexpr size_t kColumn = 30;  // where the explanations stand
  std::string out;
  for (size_t i = 0; i < texts_.usage.size(); ++i) absl::StrAppend(&out, i == 0 ? "Usage: " : "       ", texts_.usage[i], "\n");
  if (!texts_.about.empty()) absl::StrAppend(&out, "\n", Wrap(texts_.about, 0, width), "\n");
  std::vector<std::string> groups;
  for (const Flag& flag : flags_) {
    if (flag.file_only) continue;
    if (std::find(groups.begin(), groups.end(), flag.group) == groups.end()) groups.push_back(flag.group);
  }
  for (const std::string& group : groups) {
    absl::StrAppend(&out, "\n", group, ":\n");
    for (const Flag& flag : flags_) {
      if (flag.group != group || flag.file_only) continue;
      std::string left =
          absl::StrCat("  ", flag.name, flag.value.empty() || Positional(flag) ? "" : " ", Positional(flag) ? "" : flag.value);
      std::string help = flag.help;
      if (flag.repeatable) absl::StrAppend(&help, " (may be repeated)");
      if (!flag.fallback.empty()) absl::StrAppend(&help, " (default: ", flag.fallback, ")");
      if (left.size() + 2 > kColumn) {
        absl::StrAppend(&out, left, "\n");
        left.clear();
      }
      left.resize(kColumn, ' ');
      absl::StrAppend(&out, left, Wrap(help, kColumn, width), "\n");
    }
  }
  if (!texts_.examples.empty()) out.append("\nExamples:\n");
  for (const auto& example : texts_.examples) absl::StrAppend(&out, "  # ", example.first, "\n  ", example.second, "\n");
  if (!texts_.closing.empty()) absl::StrAppend(&out, "\n", Wrap(texts_.closing, 0, width), "\n");
  return out;
}

namespace {

// What people paste into tickets: a URI without user, password and signature.
std::string Shown(const std::string& value) {
  const bool may_hold_secrets = value.find("://") != std::string::npos && value.find_first_of("@?") != std::string::npos;
  return may_hold_secrets ? BucketForLog(value) : value;
}

}  // namespace

std::string PrintConfig(const std::vector<FlagValue>& values, bool json) {
  static constexpr const char* kOrigins[] = {"default", "file", "environment", "flag"};
  nlohmann::ordered_json object;
  std::string text;
  for (const FlagValue& value : values) {
    const char* origin = kOrigins[static_cast<size_t>(value.origin)];
    if (json) {
      nlohmann::ordered_json& entry = object[value.name.substr(value.name.find_first_not_of('-'))];
      entry = {{"value", Shown(value.value)}, {"origin", origin}};
      if (value.origin == Origin::kFile) {
        entry["file"] = value.path;
        entry["line"] = value.line;
      }
      if (!value.comes_to.empty()) entry["comes_to"] = Shown(value.comes_to);
      continue;
    }
    std::string line = value.name;
    line.resize(std::max<size_t>(line.size() + 1, 26), ' ');
    line += value.value.empty() ? "(not set)" : Shown(value.value);
    line.resize(std::max<size_t>(line.size() + 2, 60), ' ');
    absl::StrAppend(&text, line, origin);
    if (value.origin == Origin::kEnvironment) absl::StrAppend(&text, " ", FlagTable::EnvironmentName(value.name));
    if (value.origin == Origin::kFile) absl::StrAppend(&text, " ", value.path, ":", value.line);
    if (!value.comes_to.empty()) absl::StrAppend(&text, ", which is ", Shown(value.comes_to));
    text += '\n';
  }
  return json ? object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n" : text;
}

}  // namespace devmem::cli
