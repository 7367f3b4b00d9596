// SPDX-License-Identifier: Apache-2.0
#include "service/index_check.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "service/data_object.h"
#include "service/glob.h"

namespace devmem {
namespace {

constexpr std::string_view kAgain = "write it again (devmem-loader index), or delete it";

// Objects of one kind: how many, and the first of them.
class Found {
 public:
  explicit Found(std::string_view kind) : kind_(kind) {}
  void Add(std::string_view name) {
    if (count_++ < kNamed) absl::StrAppend(&names_, names_.empty() ? "" : ", ", std::string(name));
  }
  void AppendTo(std::string& text) const {
    if (count_ == 0) return;
    absl::StrAppend(&text, text.empty() ? "" : ", ", count_, " ", std::string(kind_), " (", names_,
                    count_ > kNamed ? ", …)" : ")");
  }

 private:
  static constexpr size_t kNamed = 5;
  std::string_view kind_;
  size_t count_ = 0;
  std::string names_;
};

// Whether an index written now, with the same specification, would have it.
bool Wanted(const IndexedDataset& indexed, const std::vector<Glob>& globs, std::string_view name) {
  if (!IsDataObject(name)) return false;
  if (indexed.format == DatasetFormat::kSafetensors) return name.ends_with(".safetensors");
  return std::any_of(globs.begin(), globs.end(), [&](const Glob& glob) { return glob.Matches(name); });
}

}  // namespace

std::string IndexNote(int64_t written) {
  std::string when = "an unknown date";
  std::tm utc{};
  std::array<char, 64> text{};
  const std::time_t time = written;
  if (written > 0 && ::gmtime_r(&time, &utc) != nullptr &&
      std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S UTC", &utc) > 0) {
    when = text.data();
  }
  return absl::StrCat("the objects are from the bucket's index of ", when, ": what changed since is not in it; ",
                      std::string(kAgain), " if something did");
}

absl::StatusOr<std::string> CompareWithFolder(const ObjectStore& store, const IndexedDataset& indexed, Time deadline,
                                              const ProgressFn& progress) {
  if (!store.uri().starts_with("file:")) return "";
  DEVMEM_ASSIGN_OR_RETURN(const ObjectTable folder, store.List(deadline, progress));
  const ObjectTable& index = indexed.dataset.objects;
  std::vector<Glob> globs;
  for (const std::string& glob : indexed.globs) {
    DEVMEM_ASSIGN_OR_RETURN(globs.emplace_back(), Glob::Compile(glob));
  }
  Found added("new"), missing("missing"), changed("of another size");
  for (size_t i = 0, f = 0; i < index.size() || f < folder.size();) {  // both are in order of name
    if (i == index.size() || (f < folder.size() && folder[f].name < index[i].name)) {
      if (Wanted(indexed, globs, folder[f].name)) added.Add(folder[f].name);
      ++f;
    } else if (f == folder.size() || index[i].name < folder[f].name) {
      missing.Add(index[i].name);
      ++i;
    } else {
      if (folder[f].size != index[i].size) changed.Add(index[i].name);
      ++i;
      ++f;
    }
  }
  std::string found;
  for (const Found* kind : {&added, &missing, &changed}) kind->AppendTo(found);
  if (found.empty()) return "";
  return absl::StrCat("the folder is not as its index says: ", found, "; the stream is of the index: ", std::string(kAgain));
}

}  // namespace devmem
