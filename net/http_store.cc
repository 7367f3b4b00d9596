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
constexpr char kNoListing[] = "enable autoindex_format json, or write an index with `devmem-loader index`";

class HttpStore final : public ObjectStore {
 public:
  HttpStore(const StoreUri& uri, const StoreOptions& options, RequestSigner signer)
      : uri_(uri.text),
        origin_(uri.http),
        redirects_(origin_, options.redirects),
        client_({.connect_timeout = options.connect_timeout,
                 .request_timeout = options.request_timeout,
                 .max_retries = options.max_retries},
                std::move(signer), options.memory),
        memory_(options.memory) {}

  const std::string& uri() const override { return uri_; }
  absl::StatusOr<ObjectTable> List(Time deadline, const ProgressFn& progress) const override;
  absl::Status ReadSmall(std::span<SmallRead> reads, int parallel, Time deadline, const ProgressFn& progress) const override {
    const RangedReader reader{
        .client = client_,
        .origin = origin_,
        .redirects = &redirects_,
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
  absl::StatusOr<PayloadRequest> Redirect(const PayloadRequest& from, const std::string& location) const override {
    return FollowRedirect(redirects_, client_.signer(), from, location);
  }

 private:
  // Whether what was taken for a folder is an object.
  bool IsObject(Time deadline) const;

  std::string uri_;
  HttpOrigin origin_;
  Redirects redirects_;
  CurlClient client_;
  std::shared_ptr<MemoryAccount> memory_;
};

// The folders still to be listed, and what was found.
struct Walk {
  std::vector<std::string> folders;  // by tag: decoded, below the root; "" or ending with '/'
  size_t next = 0;
  ObjectTable objects;
  HeldMemory held;  // for the folders
  absl::Status status;

  void Take(const CurlResponse& response, const std::string& uri);
  [[nodiscard]] absl::Status TakeEntry(const AutoindexEntry& entry, const std::string& folder, const std::string& uri);
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
  status = ParseAutoindex(response.body, where,
                          [&](const AutoindexEntry& entry) { return WithObject(TakeEntry(entry, folder, uri), where); });
}

absl::Status Walk::TakeEntry(const AutoindexEntry& entry, const std::string& folder, const std::string& uri) {
  std::string name = folder + entry.name;
  if (entry.folder) {
    if (DepthOf(folder) >= kMaxFolderDepth) return TooDeep(uri + EncodePath(folder));
    if (folders.size() >= kMaxObjects) return TooManyObjects(uri);
    DEVMEM_RETURN_IF_ERROR(held.Add(2 * sizeof(std::string) + name.size() + 1));
    folders.push_back(std::move(name) + "/");
    return absl::OkStatus();
  }
  if (objects.size() >= kMaxObjects) return TooManyObjects(uri);
  DEVMEM_RETURN_IF_ERROR(objects.MakeRoom(name.size(), entry.validator.size()));
  objects.Add(name, entry.size, entry.validator);
  return absl::OkStatus();
}

bool HttpStore::IsObject(Time deadline) const {
  if (origin_.path == "/") return false;
  CurlRequest request{.origin = origin_,
                      .target = origin_.path.substr(0, origin_.path.size() - 1),
                      .headers = {{"Range", "bytes=0-0"}},
                      .name = uri_,
                      .max_body = 1,
                      .cut_at_max = true};
  const CurlResponse response = client_.Get(std::move(request), deadline);
  return response.status.ok() && (response.http_status == 200 || response.http_status == 206 || response.http_status == 416);
}

absl::StatusOr<ObjectTable> HttpStore::List(Time deadline, const ProgressFn& progress) const {
  Walk walk{.folders = {""}, .objects = ObjectTable(memory_), .held = HeldMemory(memory_)};
  const auto next = [&]() -> std::optional<CurlRequest> {
    if (!walk.status.ok() || walk.next == walk.folders.size()) return std::nullopt;
    const size_t index = walk.next++;
    const std::string path = EncodePath(walk.folders[index]);
    return CurlRequest{.origin = origin_,
                       .target = origin_.path + path,
                       .name = uri_ + path,
                       .max_body = kMaxListing,
                       .redirects = &redirects_,
                       .tag = index};
  };
  const absl::Status status = client_.Run(
      next, [&](const CurlResponse& response) { walk.Take(response, uri_); }, kParallelFolders, deadline,
      [&] { return walk.status.ok() && (!progress || progress(walk.objects.size(), 0)); });
  if (absl::IsNotFound(walk.status) && walk.folders.size() == 1 && IsObject(deadline)) return NotAFolder(uri_);
  if (!walk.status.ok()) return walk.status;
  if (!status.ok()) return WithObject(status, uri_);
  DEVMEM_RETURN_IF_ERROR(walk.objects.SortByName());
  DEVMEM_RETURN_IF_ERROR(walk.objects.DropRepeats(uri_));
  return std::move(walk.objects);
}

}  // namespace

std::unique_ptr<ObjectStore> MakeHttpStore(const StoreUri& uri, const StoreOptions& options, RequestSigner signer) {
  return std::make_unique<HttpStore>(uri, options, std::move(signer));
}

}  // namespace devmem
