// SPDX-License-Identifier: Apache-2.0
// The listing is canned XML out of a real nginx, picked by the query as an S3 server would; objects are files.
#include "net/s3_store.h"

#include <stdlib.h>  // NOLINT(modernize-deprecated-headers): POSIX, for mkdtemp, setenv

#include <filesystem>
#include <fstream>
#include <string>

#include "base/error.h"
#include "base/testing/error_text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "net/testing/nginx.h"

namespace devmem {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::string Page(const std::string& inner, const std::string& token) {
  return "<?xml version=\"1.0\"?><ListBucketResult><EncodingType>url</EncodingType>" + inner +
         (token.empty() ? "<IsTruncated>false</IsTruncated>"
                        : "<IsTruncated>true</IsTruncated><NextContinuationToken>" + token + "</NextContinuationToken>") +
         "</ListBucketResult>";
}
std::string Object(const std::string& key, const std::string& size, const std::string& etag = "&quot;e&quot;") {
  return "<Contents><Key>" + key + "</Key><ETag>" + etag + "</ETag><Size>" + size + "</Size></Contents>";
}

class S3StoreTest : public testing::Test {
 protected:
  S3StoreTest() {
    std::string pattern = (fs::temp_directory_path() / "s3_store_XXXXXX").string();
    root_ = ::mkdtemp(pattern.data());
    ::unsetenv("AWS_ENDPOINT_URL");
    ::unsetenv("AWS_ENDPOINT_URL_S3");
  }
  ~S3StoreTest() override { fs::remove_all(root_); }
  void Write(const std::string& name, const std::string& bytes) {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name, std::ios::binary) << bytes;
  }
  // GET /b is answered from pages/b<prefix>.<token>.xml, both as they stand encoded in the query.
  void Serve() {
    auto server = NginxServer::Start(
        {.root = root_,
         .server_config =
             "location = /b { if ($args !~ 'list-type=2') { return 400; } try_files /pages/b$arg_prefix.$page.xml =404; }"
             "location = /none { default_type application/xml; return 404 "
             "'<Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist</Message></Error>'; }"
             "location = /secret { return 403 '<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'; }",
         // A variable's name may not hold '-', so the token is cut out of the query by a map.
         .http_config = "map $args $page { default ''; '~continuation-token=(?<token>[^&]*)' $token; }"});
    ASSERT_TRUE(server.ok()) << server.status();
    nginx_ = *std::move(server);
  }
  std::unique_ptr<ObjectStore> Open(const std::string& uri) {
    auto store = OpenStore(uri, {.endpoint_url = nginx_->url(), .max_retries = 0});
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }
  static Time Soon() { return Clock::now() + std::chrono::seconds(30); }
  fs::path root_;
  std::unique_ptr<NginxServer> nginx_;
};

TEST_F(S3StoreTest, ListsAllPagesAndStripsThePrefix) {
  Write("pages/b..xml", Page(Object("z", "3") + Object("p/", "0"), "t1"));
  Write("pages/b.t1.xml", Page("", "t2"));
  Write("pages/b.t2.xml", Page(Object("a+b", "1", "W/&quot;w&quot;"), ""));
  Write("pages/bp%2F..xml", Page(Object("p/", "0") + Object("p/x", "7"), ""));
  Serve();
  const auto objects = Open("s3://b")->List(Soon(), nullptr);
  ASSERT_TRUE(objects.ok()) << objects.status();
  ASSERT_EQ(objects->size(), 2u);
  EXPECT_EQ((*objects)[0].name, "a b");
  EXPECT_EQ((*objects)[0].validator, "");
  EXPECT_EQ((*objects)[1].name, "z");
  EXPECT_EQ((*objects)[1].size, 3u);
  EXPECT_EQ((*objects)[1].validator, "\"e\"");
  const auto below = Open("s3://b/p")->List(Soon(), nullptr);
  ASSERT_TRUE(below.ok()) << below.status();
  ASSERT_EQ(below->size(), 1u);
  EXPECT_EQ((*below)[0].name, "x");
}

TEST_F(S3StoreTest, AnObjectListedTwice) {
  Write("pages/b..xml", Page(Object("z", "3"), "t1"));
  Write("pages/b.t1.xml", Page(Object("a", "1") + Object("z", "3"), ""));
  Serve();
  const auto objects = Open("s3://b")->List(Soon(), nullptr);
  ASSERT_TRUE(objects.ok()) << objects.status();
  ASSERT_EQ(objects->size(), 2u);
  EXPECT_EQ((*objects)[1].name, "z");
  Write("pages/b.t1.xml", Page(Object("z", "4"), ""));
  const absl::Status other = Open("s3://b")->List(Soon(), nullptr).status();
  EXPECT_EQ(other.code(), absl::StatusCode::kFailedPrecondition) << other;
  EXPECT_THAT(Text(other), HasSubstr("'z' twice"));
}

TEST_F(S3StoreTest, HostileListings) {
  Serve();
  struct Row {
    const char* description;
    std::string page;
    const char* says;
  };
  for (const Row& row :
       {Row{"the same token for ever", Page("", "loop"), "circles"},
        Row{"negative size", Page(Object("k", "-1"), ""), "\"-1\""},
        Row{"huge size", Page(Object("k", "18446744073709551615"), ""), "has size"}, Row{"no XML", "hello", "ListObjectsV2"},
        Row{"a token of a MiB", Page("", std::string(1 << 20, 't')), "token has 1048576 bytes"}}) {
    Write("pages/b..xml", row.page);
    Write("pages/b.loop.xml", row.page);
    const absl::Status status = Open("s3://b/")->List(Soon(), nullptr).status();
    EXPECT_FALSE(status.ok()) << row.description;
    EXPECT_THAT(Text(status), HasSubstr(row.says)) << row.description;
  }
  Write("pages/bq%2F..xml", Page(Object("other", "1"), ""));
  EXPECT_THAT(Text(Open("s3://b/q/")->List(Soon(), nullptr).status()), HasSubstr("has not the prefix"));
}

// What cannot be asked for is listed, and refused by whoever asks: it spoils nothing but itself.
TEST_F(S3StoreTest, KeysThatCannotBeAskedFor) {
  Serve();
  for (const auto& [key, name] : {std::pair<std::string, std::string>{"../x", "../x"},
                                  {"a/%2E%2E/x", "a/../x"},
                                  {"/x", "/x"},
                                  {"a%00b", std::string("a\0b", 3)},
                                  {std::string(5000, 'k'), std::string(5000, 'k')}}) {
    Write("pages/b..xml", Page(Object(key, "1") + Object("good", "2"), ""));
    const auto store = Open("s3://b/");
    const auto objects = store->List(Soon(), nullptr);
    ASSERT_TRUE(objects.ok()) << objects.status();
    ASSERT_EQ(objects->size(), 2u) << key;
    EXPECT_TRUE((*objects)[0].name == name || (*objects)[1].name == name) << key;
    EXPECT_EQ(store->PrepareGet(name).status().code(), absl::StatusCode::kInvalidArgument) << key;
    SmallRead read{.object = name, .length = 1};
    ASSERT_TRUE(store->ReadSmall(std::span(&read, 1), 1, Soon(), nullptr).ok());
    EXPECT_EQ(read.status.code(), absl::StatusCode::kInvalidArgument) << key;
  }
}

TEST_F(S3StoreTest, ABucketThatIsAnObject) {
  Write("b/p/a b.npy", "0123456789");
  Write("pages/bp%2Fa%20b.npy%2F..xml", Page("", ""));
  Write("pages/bp%2Fgone.npy%2F..xml", Page("", ""));
  Serve();
  const absl::Status status = Open("s3://b/p/a b.npy")->List(Soon(), nullptr).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(Text(status), HasSubstr("s3://b/p/a b.npy: it is an object, not a folder"));
  EXPECT_THAT(Text(status), HasSubstr("--bucket 's3://b/p/' --tensor 'NAME=a b.npy'"));
  const auto empty = Open("s3://b/p/gone.npy")->List(Soon(), nullptr);
  ASSERT_TRUE(empty.ok()) << empty.status();
  EXPECT_TRUE(empty->empty());
}

TEST_F(S3StoreTest, ErrorDocumentsAreCarried) {
  Serve();
  const absl::Status missing = Open("s3://none/")->List(Soon(), nullptr).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound) << missing;
  EXPECT_THAT(Text(missing), HasSubstr("The specified bucket does not exist"));
  const absl::Status secret = Open("s3://secret/")->List(Soon(), nullptr).status();
  EXPECT_EQ(secret.code(), absl::StatusCode::kPermissionDenied) << secret;
  EXPECT_EQ(CauseText(secret), "AccessDenied");
}

TEST_F(S3StoreTest, ReadsAndPreparesPathStyle) {
  Write("b/p/a b", "0123456789");
  Serve();
  SmallRead reads[] = {{.object = "a b", .offset = 2, .length = 3}, {.object = "gone", .length = 1}};
  const auto store = Open("s3://b/p");
  ASSERT_TRUE(store->ReadSmall(reads, 2, Soon(), nullptr).ok());
  EXPECT_EQ(reads[0].bytes, "234") << reads[0].status;
  EXPECT_EQ(reads[0].object_size, 10u);
  EXPECT_EQ(reads[1].status.code(), absl::StatusCode::kNotFound) << reads[1].status;
  const auto request = store->PrepareGet("a b");
  ASSERT_TRUE(request.ok());
  EXPECT_EQ(request->target, "/b/p/a%20b");
  EXPECT_TRUE(request->headers.empty());
}

// S3 answers 416 for any range of an empty object, and says no Content-Range.
TEST_F(S3StoreTest, EmptyObjectsReadAsNothing) {
  auto server = NginxServer::Start(
      {.root = root_, .server_config = "location = /b/empty { if ($http_range) { return 416; } return 200 ''; }"});
  ASSERT_TRUE(server.ok()) << server.status();
  nginx_ = *std::move(server);
  SmallRead reads[] = {{.object = "empty", .length = 8}, {.object = "empty", .offset = 9, .length = 1}};
  ASSERT_TRUE(Open("s3://b")->ReadSmall(reads, 2, Soon(), nullptr).ok());
  for (const SmallRead& read : reads) {
    EXPECT_TRUE(read.status.ok()) << read.status;
    EXPECT_EQ(read.bytes, "");
    EXPECT_EQ(read.object_size, 0u);
  }
}

TEST_F(S3StoreTest, EveryRequestPassesTheSigner) {
  Write("b/o", "x");
  Write("pages/b..xml", Page(Object("o", "1"), ""));
  Serve();
  const auto uri = ParseStoreUri("s3://b");
  ASSERT_TRUE(uri.ok());
  std::vector<std::string> targets;
  auto store =
      MakeS3Store(*uri, {.endpoint_url = nginx_->url()}, [&](const HttpOrigin&, std::string_view target, HeaderList& headers) {
        targets.emplace_back(target);
        headers.emplace_back("Authorization", "test");
        return absl::OkStatus();
      });
  ASSERT_TRUE(store.ok());
  SmallRead read{.object = "o", .length = 1};
  ASSERT_TRUE((*store)->ReadSmall({&read, 1}, 1, Soon(), nullptr).ok());
  ASSERT_TRUE((*store)->List(Soon(), nullptr).ok());
  EXPECT_THAT((*store)->PrepareGet("o")->headers, testing::ElementsAre(testing::Pair("Authorization", "test")));
  EXPECT_THAT(targets, testing::ElementsAre("/b/o", "/b?encoding-type=url&list-type=2", "/b/o"));
}

TEST_F(S3StoreTest, EndpointFromOptionsThenEnvironmentElseAnError) {
  const absl::Status none = OpenStore("s3://b", {}).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Text(none), HasSubstr("AWS_ENDPOINT_URL_S3"));
  ::setenv("AWS_ENDPOINT_URL", "http://generic:1", 1);
  EXPECT_EQ((*OpenStore("s3://b", {}))->PrepareGet("o")->host, "generic");
  ::setenv("AWS_ENDPOINT_URL_S3", "http://special:2/sub", 1);
  EXPECT_EQ((*OpenStore("s3://b", {}))->PrepareGet("o")->host, "special");
  EXPECT_EQ((*OpenStore("s3://b", {}))->PrepareGet("o")->target, "/sub/b/o");
  EXPECT_EQ((*OpenStore("s3://b", {.endpoint_url = "http://flag"}))->PrepareGet("o")->host, "flag");
  ::setenv("AWS_ENDPOINT_URL_S3", "https://h", 1);
  EXPECT_EQ(OpenStore("s3://b", {}).status().code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace devmem
