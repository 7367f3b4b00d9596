// SPDX-License-Identifier: Apache-2.0
#include "service/cli/config_file.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <array>
#include <cerrno>
#include <map>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/error.h"
#include "base/text.h"
#include "base/unique_fd.h"
#include "service/cli/settings.h"
#include "service/cli/suggest.h"

namespace devmem::cli {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr size_t kLargestFile = size_t{1} << 20;
constexpr size_t kMostEntries = 100'000;
constexpr size_t kMostFaults = 20;  // then it is not a file of ours, and a screen is full

class Reader {
 public:
  Reader(std::string path, FileValues* values) : path_(std::move(path)), values_(values) {}

  void Read(const YAML::Node& node, Message* message) { ReadMapping(node, node.Mark(), message, true); }

  void Fault(const YAML::Mark& mark, const std::string& what) {
    if (++faults_ > kMostFaults) return;
    lines_.push_back(mark.is_null() ? absl::StrCat(path_, ": ", what)
                                    : absl::StrCat(path_, ":", mark.line + 1, ":", mark.column + 1, ": ", what));
  }

  [[nodiscard]] absl::Status Result() const {
    if (faults_ == 0) return absl::OkStatus();
    std::string text = absl::StrJoin(lines_, "\n");
    if (faults_ > kMostFaults) absl::StrAppend(&text, "\n", path_, ": and ", Counted(faults_ - kMostFaults, "fault"), " more");
    return MakeErrorVerbatim(absl::StatusCode::kFailedPrecondition, text,
                             {.object = path_, .cause = "bad configuration", .action = "see docs/configuration.md"});
  }

 private:
  static std::string Key(const FieldDescriptor& field) { return absl::StrCat("'", field.name(), "'"); }

  // An alias is read at each place where it stands, and may stand in what another one stands for.
  bool TooMany(const YAML::Mark& mark, size_t entries) {
    if (entries_ > kMostEntries) return true;
    entries_ += entries;
    if (entries_ > kMostEntries) Fault(mark, absl::StrCat("too many entries: more than ", kMostEntries));
    return entries_ > kMostEntries;
  }

  void ReadMapping(const YAML::Node& node, const YAML::Mark& mark, Message* message, bool outermost) {
    if (TooMany(mark, 1 + node.size())) return;
    if (outermost && node.IsNull()) return;  // an empty file
    if (!node.IsMap()) return Fault(mark, "expected keys with values, such as 'memory_limit: 64GiB'");
    std::map<std::string, int> lines;  // of the keys so far
    for (const auto& entry : node) {
      const YAML::Mark at = entry.first.Mark();
      if (!entry.first.IsScalar()) {
        Fault(at, "expected a key, not a list or a mapping");
        continue;
      }
      const std::string& key = entry.first.Scalar();
      const auto [said, first] = lines.emplace(key, at.line + 1);
      if (!first) {
        Fault(at, absl::StrCat("'", absl::Utf8SafeCEscape(key), "' is said twice, first in line ", said->second));
        continue;
      }
      const FieldDescriptor* const field = message->GetDescriptor()->FindFieldByName(key);
      if (field == nullptr) {
        Unknown(at, key, *message);
        continue;
      }
      ReadField(entry.second, at, message, *field, outermost);
    }
  }

  void Unknown(const YAML::Mark& mark, const std::string& key, const Message& message) {
    std::vector<std::string> keys;
    keys.reserve(static_cast<size_t>(message.GetDescriptor()->field_count()));
    for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) keys.push_back(message.GetDescriptor()->field(i)->name());
    const std::string near = Suggest(key, keys);
    Fault(mark, absl::StrCat("unknown key '", absl::Utf8SafeCEscape(key), "'",
                             near.empty() ? "" : absl::StrCat("; did you mean ", near, "?")));
  }

  void ReadField(const YAML::Node& node, const YAML::Mark& key, Message* message, const FieldDescriptor& field,
                 bool outermost) {
    const YAML::Mark mark = node.Mark().is_null() ? key : node.Mark();
    const size_t before = faults_;
    FileValue value{.path = path_, .line = key.line + 1};
    if (node.IsNull()) return Fault(key, absl::StrCat(Key(field), " has no value; leave the key away for its default"));
    if (field.is_repeated() && node.IsSequence() && node.size() == 0) {
      if (outermost) return;  // as if it were not there
      // Within a rule that would be "everyone", where whoever made the list meant "no one".
      return Fault(
          mark, absl::StrCat(Key(field), " is an empty list; leave the key away for no limit by it, or the whole entry out"));
    }
    if (IsStructured(field)) {
      value.text = ReadStructured(node, mark, message, field);
    } else if (field.is_repeated() && node.IsSequence()) {
      value.text = ReadTexts(node, message, field, outermost);
    } else if (node.IsScalar()) {
      value.text = node.Scalar();
      if (const absl::Status status = SetSetting(message, field, value.text); !status.ok())
        Bad(mark, field, value.text, status);
    } else {
      const char* const wanted = field.is_repeated() ? "expected a value or a list of values, not a mapping"
                                 : node.IsMap()      ? "expected one value, not a mapping"
                                                     : "expected one value, not a list";
      Fault(mark, absl::StrCat(Key(field), ": ", wanted));
    }
    if (outermost && before == faults_) (*values_)[IsStructured(field) ? field.name() : FlagOf(field.name())] = value;
  }

  void Bad(const YAML::Mark& mark, const FieldDescriptor& field, const std::string& text, const absl::Status& status) {
    Fault(mark, absl::StrCat(Key(field), ": '", absl::Utf8SafeCEscape(text), "': ", status.message()));
  }

  // How much there is.
  std::string ReadStructured(const YAML::Node& node, const YAML::Mark& mark, Message* message, const FieldDescriptor& field) {
    if (!field.is_repeated()) {
      ReadMapping(node, mark, message->GetReflection()->MutableMessage(message, &field), false);
      return Counted(node.size(), "key");
    }
    if (!node.IsSequence()) {
      Fault(mark, absl::StrCat(Key(field), ": expected a list of mappings"));
      return "";
    }
    for (const YAML::Node& entry : node) {
      ReadMapping(entry, entry.Mark().is_null() ? mark : entry.Mark(), message->GetReflection()->AddMessage(message, &field),
                  false);
    }
    return Counted(node.size(), "entry", "entries");
  }

  // Joined by commas, as a flag has them.
  std::string ReadTexts(const YAML::Node& node, Message* message, const FieldDescriptor& field, bool outermost) {
    std::vector<std::string> texts;
    for (const YAML::Node& entry : node) {
      if (!entry.IsScalar()) {
        Fault(entry.Mark(), absl::StrCat(Key(field), ": expected a list of values"));
        continue;
      }
      const std::string& text = entry.Scalar();
      absl::Status status = AddSetting(message, field, text);
      if (outermost && text.find(',') != std::string::npos) status = absl::InvalidArgumentError("expected no commas in a name");
      if (!status.ok()) Bad(entry.Mark(), field, text, status);
      texts.push_back(text);
    }
    return absl::StrJoin(texts, ",");
  }

  const std::string path_;
  FileValues* const values_;
  std::vector<std::string> lines_;
  size_t faults_ = 0;
  size_t entries_ = 0;
};

// Takes note of where documents begin, and of nothing else.
class DocumentStarts final : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark& mark) override { marks.push_back(mark); }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}

  std::vector<YAML::Mark> marks;
};

// YAML::Load() passes over all that comes after the first, and YAML::LoadAll() never ends on a text such as ",".
std::optional<YAML::Mark> SecondDocument(const std::string& text) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  DocumentStarts starts;
  while (starts.marks.size() < 2 && parser.HandleNextDocument(starts)) {
  }
  return starts.marks.size() < 2 ? std::nullopt : std::optional(starts.marks[1]);
}

// `fd` does not block: a pipe (--config <(...)) whose writer writes nothing must not hold up the start, or a reload.
absl::StatusOr<std::string> ReadAll(int fd, const std::string& path) {
  constexpr int kPatience = 5000;  // ms, for each piece
  std::string text;
  std::array<char, 4096> buffer;
  while (true) {
    pollfd ready{.fd = fd, .events = POLLIN, .revents = 0};
    const int polled = ::poll(&ready, 1, kPatience);
    if (polled < 0 && errno == EINTR) continue;
    if (polled == 0) {
      return MakeError(absl::StatusCode::kFailedPrecondition, "nothing came of it for 5 s",
                       {.object = path, .cause = "no configuration file", .action = "name a file: --config FILE"});
    }
    const ssize_t n = ::read(fd, buffer.data(), buffer.size());
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n < 0) {
      return MakeError(absl::StatusCode::kFailedPrecondition, Text(ErrnoError(errno, "cannot be read")),
                       {.object = path, .cause = "unreadable configuration"});
    }
    if (n == 0) return text;
    text.append(buffer.data(), static_cast<size_t>(n));
    if (text.size() > kLargestFile) {
      return MakeError(absl::StatusCode::kFailedPrecondition, absl::StrCat("is larger than ", kLargestFile, " bytes"),
                       {.object = path, .cause = "no configuration file", .action = "see docs/configuration.md"});
    }
  }
}

}  // namespace

absl::Status ReadConfig(const std::string& text, const std::string& path, Message* message, FileValues* values) {
  Reader reader(path, values);
  try {
    reader.Read(YAML::Load(text), message);
    if (const auto second = SecondDocument(text); second.has_value()) {
      reader.Fault(*second, "expected one document, and here a second one begins");
    }
  } catch (const YAML::Exception& error) {
    reader.Fault(error.mark, error.msg);
  }
  return reader.Result();
}

absl::StatusOr<std::optional<FileValues>> LoadConfig(const std::string& path, bool asked, devmem_loader::v1::Config* config) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) {
    const int error = errno;
    if (!asked && (error == ENOENT || error == ENOTDIR)) return std::nullopt;
    return MakeError(
        absl::StatusCode::kFailedPrecondition, Text(ErrnoError(error, "cannot be opened")),
        {.object = path, .cause = "unreadable configuration", .action = "name a file that can be read: --config FILE"});
  }
  DEVMEM_ASSIGN_OR_RETURN(const std::string text, ReadAll(file.get(), path));
  devmem_loader::v1::Config read;
  FileValues values;
  DEVMEM_RETURN_IF_ERROR(ReadConfig(text, path, &read, &values));
  // The rest is set flag by flag, by who has the last word.
  const google::protobuf::Descriptor& all = *devmem_loader::v1::Config::descriptor();
  for (int i = 0; i < all.field_count(); ++i) {
    if (!IsStructured(*all.field(i))) read.GetReflection()->ClearField(&read, all.field(i));
  }
  config->MergeFrom(read);
  return values;
}

}  // namespace devmem::cli
