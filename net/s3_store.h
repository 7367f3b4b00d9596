// SPDX-License-Identifier: Apache-2.0
// S3Store: a bucket of an S3 endpoint, path style, listed with ListObjectsV2. Anonymous; a signer that knows
// credentials goes where AnonymousSigner is now. Thread-safe.
//
//   DEVMEM_ASSIGN_OR_RETURN(auto store, OpenStore("s3://bucket/train", {.endpoint_url = "http://127.0.0.1:5000"}));
#pragma once

#include <memory>

#include "net/object_store.h"
#include "net/request_signer.h"
#include "net/uri.h"

namespace devmem {

// `uri` is of scheme kS3. kInvalidArgument if neither `options` nor AWS_ENDPOINT_URL_S3 nor AWS_ENDPOINT_URL names an
// endpoint, or if it is not one.
[[nodiscard]] absl::StatusOr<std::unique_ptr<ObjectStore>> MakeS3Store(const StoreUri& uri, const StoreOptions& options,
                                                                       RequestSigner signer);

}  // namespace devmem
