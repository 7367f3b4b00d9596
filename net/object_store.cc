// SPDX-License-Identifier: Apache-2.0
#include "net/object_store.h"

#include "base/error.h"
#include "net/file_store.h"
#include "net/http_store.h"
#include "net/request_signer.h"
#include "net/s3_store.h"
#include "net/uri.h"

namespace devmem {

absl::StatusOr<std::unique_ptr<ObjectStore>> OpenStore(std::string_view uri, const StoreOptions& options) {
  DEVMEM_ASSIGN_OR_RETURN(const StoreUri parsed, ParseStoreUri(uri));
  switch (parsed.scheme) {
    case StoreScheme::kHttp:
      return MakeHttpStore(parsed, options, AnonymousSigner());
    case StoreScheme::kS3:
      return MakeS3Store(parsed, options, AnonymousSigner());
    case StoreScheme::kFile:
      return MakeFileStore(parsed, options);
  }
  return absl::InternalError("a scheme without a store");
}

}  // namespace devmem
