// SPDX-License-Identifier: Apache-2.0
#include "net/object_store.h"

#include "base/error.h"
#include "net/file_store.h"
#include "net/uri.h"

namespace devmem {

absl::StatusOr<std::unique_ptr<ObjectStore>> OpenStore(std::string_view uri, const StoreOptions& options) {
  (void)options;
  DEVMEM_ASSIGN_OR_RETURN(const StoreUri parsed, ParseStoreUri(uri));
  if (parsed.scheme == StoreScheme::kFile) return MakeFileStore(parsed);
  return absl::UnimplementedError("http and s3 stores follow in the next commits");
}

}  // namespace devmem
