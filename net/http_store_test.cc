// SPDX-License-Identifier: Apache-2.0
#include "net/http_store.h"

#include <stdlib.h>  // NOLINT(modernize-deprecated-headers): POSIX, for mkdtemp

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/testing/counted_memory.h"
#include "base/testing/error_text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "net/testing/http_script.h"
#include "net/testing/nginx.h"

namespace devmem {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class HttpStoreTest : public testing::Test {
 protected:
  HttpStoreTest() {
    std::string pattern = (fs::temp_directory_path() / "http_store_XXXXXX").string();
    root_ = ::mkdtemp(pattern.data());
  }
  ~HttpStoreTest() override { fs::remove_all(root_); }
  void Write(const std::string& name, const std::string& bytes) {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name, std::ios::binary) << bytes;
  }
  void Serve(std::string config = "", bool autoindex = true) {
    auto server = NginxServer::Start({.root = root_, .server_config = std::move(config), .autoindex = autoindex});
    ASSERT_TRUE(server.ok()) << server.status();
    nginx_ = *std::move(server);
  }
  std::unique_ptr<ObjectStore> Open(const std::string& below = "", bool v6 = false) {
    auto store = OpenStore((v6 ? nginx_->url6() : nginx_->url()) + below, {.max_retries = 0});
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }
  absl::Status ListError(const std::string& below = "") { return Open(below)->List(Soon(), nullptr).status(); }
  SmallRead Read(SmallRead read, const std::string& below = "") {
    EXPECT_TRUE(Open(below)->ReadSmall({&read, 1}, 1, Soon(), nullptr).ok());
    return read;
  }
  static Time Soon() { return Clock::now() + std::chrono::seconds(30); }
  fs::path root_;
  std::unique_ptr<NginxServer> nginx_;
};

constexpr char kOddName[] = "d/sp ace+%41?#\"\xc3\xa9;&";

TEST_F(HttpStoreTest, ListsFoldersRecursivelyOverBothFamilies) {
  Write("b.npy", "12345");
  Write("a/b/c/z", "");
  Write(kOddName, "odd");
  fs::create_directories(root_ / "empty");
  Serve();
  for (const bool v6 : {false, true}) {
    const auto objects = Open("", v6)->List(Soon(), nullptr);
    ASSERT_TRUE(objects.ok()) << objects.status();
    ASSERT_EQ(objects->size(), 3u);
    EXPECT_EQ((*objects)[0].name, "a/b/c/z");
    EXPECT_EQ((*objects)[0].size, 0u);
    EXPECT_EQ((*objects)[1].name, "b.npy");
    EXPECT_EQ((*objects)[1].size, 5u);
    EXPECT_THAT((*objects)[1].validator, testing::EndsWith(" GMT"));
    EXPECT_EQ((*objects)[2].name, kOddName);
  }
  const auto below = Open("a/b")->List(Soon(), nullptr);
  ASSERT_TRUE(below.ok()) << below.status();
  EXPECT_EQ((*below)[0].name, "c/z");
  EXPECT_TRUE(Open("empty/")->List(Soon(), nullptr)->empty());
}

TEST_F(HttpStoreTest, ListingFaultsSayWhatToDo) {
  Write("d/x", "1");
  Serve(
      "location = /html/ { default_type text/html; return 200 '<html>'; }"
      "location = /up/ { return 200 '[{\"name\":\"../x\",\"type\":\"file\",\"size\":1}]'; }"
      "location /endless { return 200 '[{\"name\":\"d\",\"type\":\"directory\"}]'; }"
      "location = /busy/ { return 503; } location = /loop/ { return 301 /loop/; } location = /closed/ { return 403; }");
  struct Row {
    const char* below;
    absl::StatusCode code;
    const char* says;
  };
  for (const Row& row :
       {Row{"html/", absl::StatusCode::kFailedPrecondition, "autoindex_format json"},
        Row{"up/", absl::StatusCode::kInvalidArgument, "\"../x\""},
        Row{"d/x", absl::StatusCode::kInvalidArgument, "it is an object"},
        Row{"endless/", absl::StatusCode::kResourceExhausted, "deeper than 64"},
        Row{"missing/", absl::StatusCode::kNotFound, "404"}, Row{"busy/", absl::StatusCode::kUnavailable, "503"},
        Row{"loop/", absl::StatusCode::kFailedPrecondition, "endless redirect"},
        Row{"closed/", absl::StatusCode::kPermissionDenied, "devmem-loader index"}}) {
    const absl::Status status = ListError(row.below);
    EXPECT_EQ(status.code(), row.code) << row.below << ": " << status;
    EXPECT_THAT(Text(status), HasSubstr(row.says)) << row.below;
    EXPECT_THAT(Text(status), HasSubstr(row.below)) << row.below;
  }
  EXPECT_EQ(Open()->List(Clock::now(), nullptr).status().code(), absl::StatusCode::kDeadlineExceeded);
  nginx_->Stop();
  EXPECT_EQ(CauseText(ListError()), "connection refused");
}

// A listing is counted while it is read, and the table as long as it lives; too much of it is an error.
TEST_F(HttpStoreTest, AListingIsCounted) {
  for (int i = 0; i < 3000; ++i) Write("d/" + std::string(100, 'n') + std::to_string(i), "");
  Serve();
  CountedMemory memory(4 << 20);
  {
    const auto store = OpenStore(nginx_->url(), {.max_retries = 0, .memory = memory.Account()});
    const auto objects = (*store)->List(Soon(), nullptr);
    ASSERT_TRUE(objects.ok()) << objects.status();
    EXPECT_EQ(objects->size(), 3000u);
    EXPECT_EQ(memory.used(), objects->bytes());
    EXPECT_GT(memory.most(), objects->bytes() + 3000 * 150) << "the answer was there at the same time";
  }
  EXPECT_EQ(memory.used(), 0u);
  CountedMemory little(512 << 10);
  const auto store = OpenStore(nginx_->url(), {.max_retries = 0, .memory = little.Account()});
  const absl::Status refused = (*store)->List(Soon(), nullptr).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_THAT(GetErrorInfo(refused).object, HasSubstr("/d/"));
  EXPECT_EQ(little.used(), 0u);
}

TEST_F(HttpStoreTest, NamesComeBackFromTheirEncoding) {
  Write(kOddName, "odd");
  Serve();
  const SmallRead read = Read({.object = kOddName, .length = 10});
  EXPECT_TRUE(read.status.ok()) << read.status;
  EXPECT_EQ(read.bytes, "odd");
  const auto request = Open("d")->PrepareGet("sp ace");
  ASSERT_TRUE(request.ok());
  EXPECT_EQ(request->target, "/d/sp%20ace");
  EXPECT_EQ(request->host, "127.0.0.1");
  EXPECT_EQ(request->port, nginx_->port());
  EXPECT_EQ(request->host_header, "127.0.0.1:" + std::to_string(nginx_->port()));
  EXPECT_EQ(Open("", true)->PrepareGet("x")->host, "::1");
  EXPECT_FALSE(Open()->PrepareGet("../x").ok());
}

TEST_F(HttpStoreTest, ReadsAreClippedAlsoWhereRangeIsIgnored) {
  Write("o", "0123456789");
  Write("empty", "");
  Write("long", std::string(1 << 20, 'x') + "end");
  Serve("location /whole/ { alias " + root_.string() + "/; max_ranges 0; }");
  struct Row {
    const char* object;
    uint64_t offset, length;
    std::string bytes;
    uint64_t size;
  };
  for (const Row& row :
       {Row{"o", 0, 4, "0123", 10}, Row{"o", 8, 100, "89", 10}, Row{"o", 10, 1, "", 10}, Row{"o", 1000, 1, "", 10},
        Row{"o", 3, 0, "", 10}, Row{"empty", 0, 8, "", 0}, Row{"empty", 5, 8, "", 0}, Row{"long", 0, 3, "xxx", (1 << 20) + 3},
        Row{"long", 1 << 20, 9, "end", (1 << 20) + 3}, Row{"long", 100000, 2, "xx", (1 << 20) + 3}}) {
    for (const char* below : {"", "whole/"}) {
      const SmallRead read = Read({.object = row.object, .offset = row.offset, .length = row.length}, below);
      EXPECT_TRUE(read.status.ok()) << below << row.object << row.offset << read.status;
      EXPECT_EQ(read.bytes, row.bytes) << below << row.object << row.offset;
      EXPECT_EQ(read.object_size, row.size) << below << row.object << row.offset;
    }
  }
  const SmallRead missing = Read({.object = ".devmem-index", .length = 1});
  EXPECT_EQ(missing.status.code(), absl::StatusCode::kNotFound) << missing.status;
  EXPECT_EQ(Read({.object = "../o", .length = 1}).status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Read({.object = "o", .length = 65 << 20}).status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Read({.object = "o", .length = 1, .validator = "x\r\nY: z"}).status.code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(HttpStoreTest, ValidatorsByETagAndByDate) {
  Write("o", "before");
  Serve("location /weak/ { alias " + root_.string() + "/; etag off; add_header ETag 'W/\"weak\"'; }");
  const std::string etag = Read({.object = "o", .length = 1}).object_validator;
  EXPECT_THAT(etag, testing::StartsWith("\""));
  const std::string date = Read({.object = "o", .length = 1}, "weak").object_validator;
  EXPECT_THAT(date, testing::EndsWith(" GMT"));
  EXPECT_EQ((*Open()->List(Soon(), nullptr))[0].validator, date);  // a listing has dates only
  for (const std::string& validator : {etag, date}) {
    const SmallRead same = Read({.object = "o", .length = 6, .validator = validator});
    EXPECT_TRUE(same.status.ok()) << same.status;
    EXPECT_EQ(same.bytes, "before");
  }
  // Older than before: If-Unmodified-Since alone would let it pass.
  Write("o", "after");
  fs::last_write_time(root_ / "o", fs::file_time_type::clock::now() - std::chrono::hours(1));
  for (const std::string& validator : {etag, date}) {
    const SmallRead changed = Read({.object = "o", .length = 6, .validator = validator});
    EXPECT_EQ(changed.status.code(), absl::StatusCode::kAborted) << validator << changed.status;
    EXPECT_TRUE(changed.bytes.empty());
  }
}

TEST_F(HttpStoreTest, WrongAnswersToRangesAreErrors) {
  Serve(
      "location = /a { add_header Content-Range 'bytes 1-3/9'; return 206 abc; } location = /b { return 206 abc; }"
      "location = /c { add_header Content-Range 'bytes 0-9/10'; return 206 abc; }"
      "location = /d { add_header Content-Range 'bytes 0-1/10'; return 206 ab; }"
      "location = /e { add_header Content-Range 'bytes 0-2/*'; return 206 abc; }");
  for (const char* name : {"a", "b", "c", "d", "e"}) {
    const SmallRead read = Read({.object = name, .length = 3});
    EXPECT_EQ(read.status.code(), absl::StatusCode::kDataLoss) << name << read.status;
    EXPECT_TRUE(read.bytes.empty());
    EXPECT_EQ(GetErrorInfo(read.status).object, name);
  }
}

TEST_F(HttpStoreTest, HowLongATargetIsIsNotSaid) {
  HttpScript other([](const HttpScript::Request&) -> std::string {
    return "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 1-3/4242\r\nContent-Length: 3\r\n\r\nabc";
  });
  Serve("location = /a { return 302 " + other.url() + "a; }");
  const SmallRead read = Read({.object = "a", .length = 3});
  EXPECT_EQ(read.status.code(), absl::StatusCode::kDataLoss) << read.status;
  EXPECT_THAT(Text(read.status), testing::AllOf(HasSubstr("redirected"), testing::Not(HasSubstr("4242"))));
  EXPECT_EQ(other.requests().size(), 1u);
}

TEST_F(HttpStoreTest, ManyReadsEachWithItsOwnStatus) {
  std::vector<SmallRead> reads;
  for (int i = 0; i < 200; ++i) {
    if (i % 10 != 0) Write("d/" + std::to_string(i), "value " + std::to_string(i));
    reads.push_back({.object = "d/" + std::to_string(i), .length = 100});
  }
  Serve();
  uint64_t last = 0;
  const auto store = Open();
  ASSERT_TRUE(store->ReadSmall(reads, 16, Soon(), [&](uint64_t done, uint64_t) { return (last = done, true); }).ok());
  EXPECT_EQ(last, 200u);
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(reads[i].status.code(), i % 10 == 0 ? absl::StatusCode::kNotFound : absl::StatusCode::kOk) << i;
    EXPECT_EQ(reads[i].bytes, i % 10 == 0 ? "" : "value " + std::to_string(i));
  }
  EXPECT_EQ(store->ReadSmall(reads, 16, Soon(), [](uint64_t, uint64_t) { return false; }).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(store->List(Soon(), [](uint64_t, uint64_t) { return true; }).status().code(), absl::StatusCode::kOk);
}

}  // namespace
}  // namespace devmem
