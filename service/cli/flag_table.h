// SPDX-License-Identifier: Apache-2.0
// One table of a command's flags, from which everything about them comes: parsing, the environment variables, --help
// and --print-config. Precedence: flag > environment (DEVMEM_BATCH_SIZE for --batch-size) > file > default.
//
//   LoaderOptions options;
//   FlagTable table({.usage = {"devmem-loader --bucket URI [options]"}}, LoaderFlags(&options));
//   DEVMEM_ASSIGN_OR_RETURN(std::vector<FlagValue> values, table.Parse(args, ::getenv));
//
// Values are set through the flag's `set`, the default's text too, so that what --help promises is what is used.
// Parse fails with kInvalidArgument for the command line's fault and with kFailedPrecondition for the environment's or the
// file's. One thread; what the setters write to must outlive Parse().
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"

namespace devmem::cli {

// A value of a file, as it would be typed behind the flag.
struct FileValue {
  std::string text;
  std::string path;
  int line = 0;  // from 1
};
using FileValues = std::map<std::string, FileValue>;  // by the flag's name

struct Flag {
  using Set = std::function<absl::Status(const std::string& value)>;

  std::string name;      // "--batch-size"; without dashes it is a positional argument
  std::string value;     // what stands for the value in --help: "N"; empty: a switch
  std::string fallback;  // default, as it would be typed; empty: none, and `set` is not called for it
  std::string group;
  std::string help;
  Set set;
  bool repeatable = false;  // each value is set; in the environment they are separated by blanks
  bool environment = true;  // may be set there
  bool file_only = false;   // no flag, a key that only the file can set: shown by --print-config, and `set` is not called
  // This flag names the file: the values of the others that are there. `asked` is false for the default, which need not exist:
  // nullopt. Called before anything is set.
  std::function<absl::StatusOr<std::optional<FileValues>>(const std::string& path, bool asked)> read;
};

// Setters for the usual kinds.
[[nodiscard]] Flag::Set SetText(std::string* target);
[[nodiscard]] Flag::Set SetTexts(std::vector<std::string>* target);  // for repeatable flags
[[nodiscard]] Flag::Set SetOn(bool* target);
[[nodiscard]] Flag::Set SetSize(uint64_t* target);
[[nodiscard]] Flag::Set SetDuration(Duration* target);
[[nodiscard]] Flag::Set SetTimeout(Duration* target);  // a time above 0: one that nothing keeps is no timeout
// T is an integer; the highest is what fits.
template <typename T>
[[nodiscard]] Flag::Set SetWhole(T* target, uint64_t lowest = 0, uint64_t highest = std::numeric_limits<T>::max());
// One of the words; they are listed where it is none.
template <typename T>
[[nodiscard]] Flag::Set SetChoice(T* target, std::vector<std::pair<std::string, T>> choices);

// What a flag got and from where.
struct FlagValue {
  std::string name;
  std::string value;  // several are joined with blanks
  enum class Origin { kDefault, kFile, kEnvironment, kFlag } origin = Origin::kDefault;
  std::string path;  // of the file
  int line = 0;
  std::string comes_to;  // here and now, where the value leaves it to the machine; for --print-config
};

class FlagTable {
 public:
  struct Texts {
    std::vector<std::string> usage;                             // lines behind "Usage: "
    std::string about;                                          // a paragraph
    std::vector<std::pair<std::string, std::string>> examples;  // what it does, the command
    std::string closing;                                        // last paragraph
  };
  using GetEnvironment = std::function<const char*(const char* name)>;

  // `finish` is called when every flag is set: for what is made of several. Its error is Parse's.
  FlagTable(Texts texts, std::vector<Flag> flags, std::function<absl::Status()> finish = nullptr);

  // Sets every flag. Returns what each got, in the table's order.
  [[nodiscard]] absl::StatusOr<std::vector<FlagValue>> Parse(const std::vector<std::string>& arguments,
                                                             const GetEnvironment& environment) const;
  [[nodiscard]] std::string Help(size_t width = 96) const;

  [[nodiscard]] static std::string EnvironmentName(const std::string& flag);  // "DEVMEM_BATCH_SIZE"
  [[nodiscard]] const std::vector<Flag>& flags() const { return flags_; }

 private:
  Texts texts_;
  std::vector<Flag> flags_;
  std::function<absl::Status()> finish_;
};

// --print-config: one line a flag, its value and its origin; or a JSON object.
[[nodiscard]] std::string PrintConfig(const std::vector<FlagValue>& values, bool json);

// ---- implementation ----

namespace internal {
absl::Status StoreWhole(const std::string& text, uint64_t lowest, uint64_t highest, const std::function<void(uint64_t)>& store);
absl::Status NoSuchChoice(const std::vector<std::string>& names);
}  // namespace internal

template <typename T>
Flag::Set SetWhole(T* target, uint64_t lowest, uint64_t highest) {
  return [=](const std::string& text) {
    return internal::StoreWhole(text, lowest, highest, [target](uint64_t value) { *target = static_cast<T>(value); });
  };
}

template <typename T>
Flag::Set SetChoice(T* target, std::vector<std::pair<std::string, T>> choices) {
  return [target, choices = std::move(choices)](const std::string& text) {
    std::vector<std::string> names;
    for (const auto& choice : choices) {
      if (choice.first == text) {
        *target = choice.second;
        return absl::OkStatus();
      }
      names.push_back(choice.first);
    }
    return internal::NoSuchChoice(names);
  };
}

}  // namespace devmem::cli
