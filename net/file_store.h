// SPDX-License-Identifier: Apache-2.0
// FileStore: a folder of this host as a bucket. Regular files below it are its objects; symbolic links are followed
// (what the operator links to is meant), a folder that contains itself is entered once. Thread-safe.
//
//   DEVMEM_ASSIGN_OR_RETURN(auto store, OpenStore("file:///data/train", {}));
#pragma once

#include <sys/stat.h>

#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"
#include "net/object_store.h"
#include "net/uri.h"

namespace devmem {

// What identifies one content of a file, in the form of a strong ETag: "\"inode-mtime in ns-size\"". Whoever reads
// payload compares it before and after, so that a file changed in mid-read is an error.
[[nodiscard]] std::string FileValidator(const struct stat& file);

// What errno means of a file that was listed: gone, or not to be read.
[[nodiscard]] Fault FaultOfFile(int error_number);

// Whether it is the content that `validator` stands for: one of FileValidator's, or an HTTP date, which an index holds
// and which says the mtime to the second.
[[nodiscard]] bool FileMatches(const struct stat& file, std::string_view validator);

// `uri` is of scheme kFile.
[[nodiscard]] std::unique_ptr<ObjectStore> MakeFileStore(const StoreUri& uri, const StoreOptions& options = {});

}  // namespace devmem
