// SPDX-License-Identifier: Apache-2.0
// HttpStore: a folder of a web server as a bucket. Listing walks nginx's `autoindex_format json`, folders in parallel;
// a server without listings can still hold an index object, which ReadSmall reads. Thread-safe.
//
//   DEVMEM_ASSIGN_OR_RETURN(auto store, OpenStore("http://127.0.0.1:8080/train/", {}));
#pragma once

#include <memory>

#include "net/object_store.h"
#include "net/request_signer.h"
#include "net/uri.h"

namespace devmem {

// `uri` is of scheme kHttp.
[[nodiscard]] std::unique_ptr<ObjectStore> MakeHttpStore(const StoreUri& uri, const StoreOptions& options,
                                                         RequestSigner signer);

}  // namespace devmem
