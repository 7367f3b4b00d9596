// SPDX-License-Identifier: Apache-2.0
#include "net/http_store.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "net/autoindex.h"
#include "net/curl_client.h"
#include "net/http_status.h"
#include "net/object_name.h"
#include "net/ranged_reads.h"

namespace devmem {
namespace {

constexpr uint64_t kMaxListing = uint64_t{1} << 30;  // one folder's JSON: some 100 bytes an entry
constexpr int kParallelFolders = 16;
constexpr int kMaxRedirects = 5;
constexpr char kNoListing[] = "enable autoindex_format json, or write an index with `devmem-loader index`";

class HttpStore final : public ObjectStore {
 public:
  HttpStore(const StoreUri& uri, const StoreOptions& options, RequestSigner signer)
      : uri_(uri.text),
        origin_(uri.http),
        client_({.connect_timeout = options.connect_timeout,
                 .request_timeout = options.request_timeout,
                 .max_retries = options.max_retries},
                std::move(signer)) {}

  const std::string& uri() const override { return uri_; }
  absl::StatusOr<ObjectTable> List(Time deadline, const ProgressFn& progress) const override;
  absl::Status ReadSmall(std::span<SmallRead> reads, int parallel, Time deadline, const ProgressFn& progress) const override {
    const RangedReader reader{
        .client = client_,
        .origin = origin_,
        .max_redirects = kMaxRedirects,
        .uri = uri_,
        .target = [this](std::string_view object) { return origin_.path + EncodePath(object); },
        .make_error = [](const CurlResponse& response,
                         ErrorInfo where) { return HttpStatusError(response.http_status, std::move(where)); }};
    return ReadRanges(reader, reads, parallel, deadline, progress);
  }
  absl::StatusOr<PayloadRequest> PrepareGet(std::string_view object) const override {
    DEVMEM_RETURN_IF_ERROR(CheckObjectName(object, uri_));
    PayloadRequest request{.host = origin_.host,
                           .port = origin_.port,
                           .host_header = origin_.host_header,
                           .target = origin_.path + EncodePath(object)};
    DEVMEM_RETURN_IF_ERROR(client_.signer()(origin_, request.target, request.headers));
    return request;
  }

 private:
  std::string uri_;
  HttpOrigin origin_;
  CurlClient client_;
};

// The folders still to be listed, and what was found.
struct Walk {
  std::vector<std::string> folders;  // by tag: decoded, below the root; "" or ending with '/'
  size_t next = 0;
  ObjectTable objects;
  absl::Status status;

  void Take(const CurlResponse& response, const std::string& uri);
};

int DepthOf(std::string_view folder) { return static_cast<int>(std::count(folder.begin(), folder.end(), '/')); }

void Walk::Take(const CurlResponse& response, const std::string& uri) {
  if (!status.ok()) return;
  // A copy: `folders` grows below.
  const std::string folder = folders[response.tag];
  const std::string where = uri + EncodePath(folder);
  if (!response.status.ok()) {
    status = response.status;
    return;
  }
  if (response.http_status != 200) {
    ErrorInfo info{.object = where};
    if (response.http_status == 403) info.action = std::string("allow reading it: ") + kNoListing;
    if (response.http_status == 404) info.action = std::string("check the URI; if the server has no listings, ") + kNoListing;
    status = HttpStatusError(response.http_status, std::move(info));
    return;
  }
  auto entries = ParseAutoindex(response.body, where);
  if (!entries.ok()) {
    status = std::move(entries).status();
    return;
  }
  for (const AutoindexEntry& entry : *entries) {
    std::string name = folder + entry.name;
    if (entry.folder) {
      if (DepthOf(folder) >= kMaxFolderDepth) status = TooDeep(where);
      if (folders.size() >= kMaxObjects) status = TooManyObjects(uri);
      folders.push_back(std::move(name) + "/");
    } else {
      if (absl::Status checked = CheckObjectName(name, uri); !checked.ok()) status = std::move(checked);
      if (objects.size() >= kMaxObjects) status = TooManyObjects(uri);
      objects.Add(name, entry.size, entry.validator);
    }
    if (!status.ok()) return;
  }
}

absl::StatusOr<ObjectTable> HttpStore::List(Time deadline, const ProgressFn& progress) const {
  Walk walk{.folders = {""}};
  const auto next = [&]() -> std::optional<CurlRequest> {
    if (!walk.status.ok() || walk.next == walk.folders.size()) return std::nullopt;
    const size_t index = walk.next++;
    const std::string path = EncodePath(walk.folders[index]);
    return CurlRequest{.origin = origin_,
                       .target = origin_.path + path,
                       .name = uri_ + path,
                       .max_body = kMaxListing,
                       .max_redirects = kMaxRedirects,
                       .tag = index};
  };
  const absl::Status status = client_.Run(
      next, [&](const CurlResponse& response) { walk.Take(response, uri_); }, kParallelFolders, deadline,
      [&] { return walk.status.ok() && (!progress || progress(walk.objects.size(), 0)); });
  if (!walk.status.ok()) return walk.status;
  if (!status.ok()) return WithObject(status, uri_);
  walk.objects.SortByName();
  DEVMEM_RETURN_IF_ERROR(walk.objects.DropRepeats(uri_));
  return std::move(walk.objects);
}

}  // namespace

std::unique_ptr<ObjectStore> MakeHttpStore(const StoreUri& uri, const StoreOptions& options, RequestSigner signer) {
  return std::make_unique<HttpStore>(uri, options, std::move(signer));
}

}  // namespace devmem
