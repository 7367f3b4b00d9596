// SPDX-License-Identifier: Apache-2.0
#include "net/object_name.h"

#include <algorithm>

#include "base/error.h"
#include "base/text.h"

namespace devmem {

absl::Status CheckObjectName(std::string_view name, std::string_view where) {
  const char* fault = nullptr;
  if (name.empty()) {
    fault = "it is empty";
  } else if (name.size() > kMaxObjectName) {
    fault = "it is longer than 4096 bytes";
  } else if (name.front() == '/') {
    fault = "it is absolute";
  } else if (name.back() == '/') {
    fault = "it is a folder";
  } else if (name.find('\0') != std::string_view::npos) {
    fault = "it contains a NUL byte";
  }
  for (size_t begin = 0; fault == nullptr && begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view segment = name.substr(begin, end - begin);
    if (segment == "." || segment == "..") fault = "it has a \".\" or \"..\" segment";
    begin = end + 1;
  }
  if (fault == nullptr) return absl::OkStatus();
  return MakeError(absl::StatusCode::kInvalidArgument, "object name \"" + Printable(name) + "\" is refused: " + fault,
                   {.object = std::string(where),
                    .fault = Fault::kObjectMalformed,
                    .cause = "hostile object name",
                    .action = "rename the object or list another folder"});
}

absl::Status TooManyObjects(std::string_view where) {
  return MakeError(absl::StatusCode::kResourceExhausted, "more than " + std::to_string(kMaxObjects) + " objects are listed",
                   {.object = std::string(where), .cause = "too many objects", .action = "open a folder or prefix below it"});
}

absl::Status TooDeep(std::string_view where) {
  return MakeError(absl::StatusCode::kResourceExhausted, "folders are nested deeper than " + std::to_string(kMaxFolderDepth),
                   {.object = std::string(where), .cause = "folders too deep", .action = "open a folder below it"});
}

}  // namespace devmem
