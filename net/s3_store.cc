// SPDX-License-Identifier: Apache-2.0
#include "net/s3_store.h"

#include <cstdlib>
#include <string>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "net/curl_client.h"
#include "net/object_name.h"
#include "net/ranged_reads.h"
#include "net/s3_listing.h"

namespace devmem {
namespace {

// A page holds at most 1000 keys of at most 1024 bytes, three times that when percent-encoded, and as much again of tags.
constexpr uint64_t kMaxPage = uint64_t{16} << 20;
constexpr size_t kMaxToken = 4 << 10;  // of what continues a listing; AWS's have some hundred bytes

class S3Store final : public ObjectStore {
 public:
  S3Store(const StoreUri& uri, HttpOrigin origin, const StoreOptions& options, RequestSigner signer)
      : uri_(uri.text),
        prefix_(uri.prefix),
        origin_(std::move(origin)),
        bucket_path_(origin_.path + EncodeSegment(uri.bucket)),
        redirects_(Below(origin_, bucket_path_ + "/" + EncodePath(prefix_)), options.redirects),
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
        .uri = uri_,
        .target = [this](std::string_view object) { return Target(object); },
        .make_error = [](const CurlResponse& response,
                         ErrorInfo where) { return S3Error(response.http_status, response.body, std::move(where)); }};
    return ReadRanges(reader, reads, parallel, deadline, progress);
  }
  absl::StatusOr<PayloadRequest> PrepareGet(std::string_view object) const override {
    DEVMEM_RETURN_IF_ERROR(CheckObjectName(object, uri_));
    PayloadRequest request{
        .host = origin_.host, .port = origin_.port, .host_header = origin_.host_header, .target = Target(object)};
    DEVMEM_RETURN_IF_ERROR(client_.signer()(origin_, request.target, request.headers));
    return request;
  }
  absl::StatusOr<PayloadRequest> Redirect(const PayloadRequest& from, const std::string& location) const override {
    return FollowRedirect(redirects_, client_.signer(), from, location);
  }

 private:
  static HttpOrigin Below(HttpOrigin origin, std::string path) {
    origin.path = std::move(path);
    return origin;
  }
  std::string Target(std::string_view object) const { return bucket_path_ + "/" + EncodePath(prefix_) + EncodePath(object); }
  // Whether what was taken for a prefix is a key.
  bool IsObject(Time deadline) const;
  absl::Status AddPage(const S3Page& page, ObjectTable& objects) const;

  std::string uri_;
  std::string prefix_;
  HttpOrigin origin_;
  std::string bucket_path_;
  Redirects redirects_;  // of payload; listings and headers follow none
  CurlClient client_;
  std::shared_ptr<MemoryAccount> memory_;
};

absl::Status S3Store::AddPage(const S3Page& page, ObjectTable& objects) const {
  for (const S3Object& object : page.objects) {
    if (object.key.compare(0, prefix_.size(), prefix_) != 0) {
      return MakeError(absl::StatusCode::kFailedPrecondition,
                       "key \"" + Printable(object.key) + "\" is listed, which has not the prefix asked for",
                       {.object = uri_, .cause = "not a listing", .action = "check that the endpoint speaks S3"});
    }
    const std::string_view name = std::string_view(object.key).substr(prefix_.size());
    // Consoles mark a folder by an empty object named like it.
    if (object.size == 0 && (name.empty() || name.back() == '/')) continue;
    if (objects.size() >= kMaxObjects) return TooManyObjects(uri_);
    DEVMEM_RETURN_IF_ERROR(objects.MakeRoom(name.size(), object.etag.size()));
    objects.Add(name, object.size, object.etag);
  }
  return absl::OkStatus();
}

bool S3Store::IsObject(Time deadline) const {
  if (prefix_.empty()) return false;
  CurlRequest request{.origin = origin_,
                      .target = bucket_path_ + "/" + EncodePath(std::string_view(prefix_).substr(0, prefix_.size() - 1)),
                      .headers = {{"Range", "bytes=0-0"}},
                      .name = uri_,
                      .max_body = 1,
                      .cut_at_max = true};
  const CurlResponse response = client_.Get(std::move(request), deadline);
  return response.status.ok() && (response.http_status == 200 || response.http_status == 206 || response.http_status == 416);
}

absl::StatusOr<ObjectTable> S3Store::List(Time deadline, const ProgressFn& progress) const {
  ObjectTable objects(memory_);
  std::unordered_set<std::string> seen;
  HeldMemory held(memory_);  // for them
  std::string token;
  do {
    // Sorted by name, as a signature wants it.
    std::string target = bucket_path_ + "?";
    if (!token.empty()) target.append("continuation-token=").append(EncodeSegment(token)).append("&");
    target.append("encoding-type=url&list-type=2");
    if (!prefix_.empty()) target.append("&prefix=").append(EncodeSegment(prefix_));
    std::optional<CurlRequest> pending =
        CurlRequest{.origin = origin_, .target = std::move(target), .name = uri_, .max_body = kMaxPage};
    CurlResponse response;
    const absl::Status status =
        client_.Run([&] { return std::exchange(pending, std::nullopt); }, [&](CurlResponse got) { response = std::move(got); },
                    1, deadline, [&] { return !progress || progress(objects.size(), 0); });
    if (!status.ok()) return WithObject(status, uri_);
    if (!response.status.ok()) return response.status;
    if (response.http_status != 200) return S3Error(response.http_status, response.body, {.object = uri_});
    HeldMemory parsing(memory_);
    if (absl::Status room = parsing.Resize(S3PageMemory(response.body)); !room.ok()) return WithObject(room, uri_);
    DEVMEM_ASSIGN_OR_RETURN(S3Page page, ParseS3Page(response.body, uri_));
    if (absl::Status added = AddPage(page, objects); !added.ok()) return WithObject(added, uri_);
    token = std::move(page.next_token);
    if (token.size() > kMaxToken) {
      return MakeError(absl::StatusCode::kFailedPrecondition,
                       "the continuation token has " + std::to_string(token.size()) + " bytes",
                       {.object = uri_,
                        .fault = Fault::kBadAnswer,
                        .cause = "not a listing",
                        .action = "check that the endpoint speaks S3"});
    }
    DEVMEM_RETURN_IF_ERROR(held.Add(4 * sizeof(std::string) + token.size()));
    if (!token.empty() && !seen.insert(token).second) {
      return MakeError(absl::StatusCode::kFailedPrecondition,
                       "the listing goes in circles: the same continuation token came twice",
                       {.object = uri_, .cause = "endless listing", .action = "check that the endpoint speaks S3"});
    }
    if (progress && !progress(objects.size(), 0)) {
      return MakeError(absl::StatusCode::kCancelled, "cancelled by the caller", {.object = uri_, .cause = "cancelled"});
    }
  } while (!token.empty());
  if (objects.empty() && IsObject(deadline)) return NotAFolder(uri_);
  DEVMEM_RETURN_IF_ERROR(objects.SortByName());
  DEVMEM_RETURN_IF_ERROR(objects.DropRepeats(uri_));
  return objects;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ObjectStore>> MakeS3Store(const StoreUri& uri, const StoreOptions& options,
                                                         RequestSigner signer) {
  std::string endpoint = options.endpoint_url;
  std::string_view source = "--endpoint-url";
  for (const char* variable : {"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"}) {
    const char* const value = std::getenv(variable);
    if (!endpoint.empty() || value == nullptr) continue;
    endpoint = value;
    source = variable;
  }
  if (endpoint.empty()) {
    return MakeError(absl::StatusCode::kInvalidArgument, "no S3 endpoint is named",
                     {.object = uri.text,
                      .cause = "no endpoint",
                      .action = "give --endpoint-url http://host:port, or set AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL"});
  }
  DEVMEM_ASSIGN_OR_RETURN(HttpOrigin origin, ParseHttpOrigin(endpoint, source));
  return std::make_unique<S3Store>(uri, std::move(origin), options, std::move(signer));
}

}  // namespace devmem
