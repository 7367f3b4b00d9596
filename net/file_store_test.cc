// SPDX-License-Identifier: Apache-2.0
#include "net/file_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace devmem {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class FileStoreTest : public testing::Test {
 protected:
  FileStoreTest() {
    std::string pattern = (fs::temp_directory_path() / "file_store_XXXXXX").string();
    root_ = ::mkdtemp(pattern.data());
  }
  ~FileStoreTest() override { fs::remove_all(root_); }

  void Write(const std::string& name, const std::string& bytes) {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name, std::ios::binary) << bytes;
  }
  std::unique_ptr<ObjectStore> Open(const fs::path& below = "") {
    auto uri = ParseStoreUri("file://" + EncodePath((root_ / below).string()));
    EXPECT_TRUE(uri.ok()) << uri.status();
    return MakeFileStore(*uri);
  }
  std::vector<std::string> Names() {
    const auto objects = Open()->List(Soon(), nullptr);
    EXPECT_TRUE(objects.ok()) << objects.status();
    std::vector<std::string> names;
    for (size_t i = 0; objects.ok() && i < objects->size(); ++i) names.emplace_back((*objects)[i].name);
    return names;
  }
  static Time Soon() { return Clock::now() + std::chrono::seconds(30); }

  fs::path root_;
};

TEST_F(FileStoreTest, ListsRegularFilesOfAllFoldersSorted) {
  Write("b.npy", "12345");
  Write("a/z.npy", "");
  Write("a/sp ace/x", "1");
  fs::create_directories(root_ / "empty");
  ASSERT_EQ(::mkfifo((root_ / "fifo").c_str(), 0600), 0);
  const auto objects = Open()->List(Soon(), nullptr);
  ASSERT_TRUE(objects.ok()) << objects.status();
  ASSERT_EQ(objects->size(), 3u);
  EXPECT_EQ((*objects)[0].name, "a/sp ace/x");
  EXPECT_EQ((*objects)[1].name, "a/z.npy");
  EXPECT_EQ((*objects)[2].name, "b.npy");
  EXPECT_EQ((*objects)[2].size, 5u);
  struct stat file;
  ASSERT_EQ(::stat((root_ / "b.npy").c_str(), &file), 0);
  EXPECT_EQ((*objects)[2].validator, FileValidator(file));
}

// What an index of the folder holds must be good for the web server that serves it, and for the folder itself.
TEST_F(FileStoreTest, PortableValidatorsAreHttpDates) {
  Write("x", "12345");
  const auto touch = [&](time_t seconds, long nanoseconds) {
    const timespec times[2] = {{seconds, nanoseconds}, {seconds, nanoseconds}};
    ASSERT_EQ(::utimensat(AT_FDCWD, (root_ / "x").c_str(), times, 0), 0);
  };
  touch(784111777, 999'999'999);
  const auto portable = MakeFileStore(*ParseStoreUri("file://" + root_.string()), {.portable_validators = true});
  const auto objects = portable->List(Soon(), nullptr);
  ASSERT_TRUE(objects.ok()) << objects.status();
  constexpr char kDate[] = "Sun, 06 Nov 1994 08:49:37 GMT";
  EXPECT_EQ((*objects)[0].validator, kDate);
  SmallRead read[] = {{.object = "x", .length = 9}};
  ASSERT_TRUE(portable->ReadSmall(read, 1, Soon(), nullptr).ok());
  EXPECT_EQ(read[0].object_validator, kDate);

  SmallRead by_date[] = {{.object = "x", .length = 9, .validator = kDate}};
  ASSERT_TRUE(Open()->ReadSmall(by_date, 1, Soon(), nullptr).ok());
  EXPECT_TRUE(by_date[0].status.ok()) << by_date[0].status;
  EXPECT_EQ(by_date[0].bytes, "12345");
  touch(784111778, 0);
  ASSERT_TRUE(Open()->ReadSmall(by_date, 1, Soon(), nullptr).ok());
  EXPECT_EQ(by_date[0].status.code(), absl::StatusCode::kAborted);
}

TEST_F(FileStoreTest, FollowsLinksAndSurvivesCycles) {
  Write("data/x", "1");
  fs::create_directory_symlink(root_, root_ / "data/up");
  fs::create_directory_symlink("data", root_ / "also");
  fs::create_symlink("data/x", root_ / "link");
  fs::create_symlink("nowhere", root_ / "dangling");
  fs::create_symlink("self", root_ / "self");
  EXPECT_THAT(Names(), ElementsAre("also/x", "data/x", "link"));
}

TEST_F(FileStoreTest, EmptyFolderIsAnEmptyTable) { EXPECT_THAT(Names(), IsEmpty()); }

TEST_F(FileStoreTest, MissingFolderAndFileAreNotFound) {
  const auto missing = Open("nope")->List(Soon(), nullptr).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound) << missing;
  EXPECT_THAT(Text(missing), HasSubstr("nope"));
  Write("file", "x");
  const absl::Status object = Open("file")->List(Soon(), nullptr).status();
  EXPECT_EQ(object.code(), absl::StatusCode::kInvalidArgument) << object;
  EXPECT_THAT(Text(object),
              HasSubstr("/file: it is an object, not a folder; give its folder, --bucket 'file://" + root_.string() + "/'"));
  EXPECT_THAT(Text(object), HasSubstr("--tensor 'NAME=file'"));
  EXPECT_EQ(Open("file/x")->List(Soon(), nullptr).status().code(), absl::StatusCode::kNotFound);
  ASSERT_EQ(::mkfifo((root_ / "fifo").c_str(), 0600), 0);
  EXPECT_THAT(Text(Open("fifo")->List(Soon(), nullptr).status()), HasSubstr("it is no folder"));
  SmallRead reads[] = {{.object = ".devmem-index", .length = 10}, {.object = "file/x", .length = 1}};
  ASSERT_TRUE(Open()->ReadSmall(reads, 1, Soon(), nullptr).ok());
  EXPECT_EQ(reads[0].status.code(), absl::StatusCode::kNotFound) << reads[0].status;
  EXPECT_EQ(reads[1].status.code(), absl::StatusCode::kNotFound) << reads[1].status;
}

// Root reads everything, so as root the test becomes nobody for its length.
class AsNobody {
 public:
  explicit AsNobody(const fs::path& root) {
    if (::geteuid() != 0) return;
    became_ = ::chown(root.c_str(), kNobody, kNobody) == 0 && ::seteuid(kNobody) == 0;
    EXPECT_TRUE(became_);
  }
  ~AsNobody() {
    if (became_) {
      EXPECT_EQ(::seteuid(0), 0);
    }
  }

 private:
  static constexpr uid_t kNobody = 65534;
  bool became_ = false;
};

TEST_F(FileStoreTest, UnreadableIsPermissionDenied) {
  Write("secret", "x");
  fs::permissions(root_ / "secret", fs::perms::none);
  AsNobody nobody(root_);
  SmallRead read{.object = "secret", .length = 1};
  ASSERT_TRUE(Open()->ReadSmall({&read, 1}, 1, Soon(), nullptr).ok());
  EXPECT_EQ(read.status.code(), absl::StatusCode::kPermissionDenied) << read.status;
  fs::permissions(root_, fs::perms::none);
  EXPECT_EQ(Open()->List(Soon(), nullptr).status().code(), absl::StatusCode::kPermissionDenied);
  fs::permissions(root_, fs::perms::owner_all);
}

TEST_F(FileStoreTest, ReadsAreClippedToTheObject) {
  Write("o", "0123456789");
  Write("empty", "");
  struct Row {
    const char* object;
    uint64_t offset, length;
    const char* bytes;
  };
  const Row rows[] = {{"o", 0, 4, "0123"},        {"o", 8, 100, "89"}, {"o", 10, 1, ""},
                      {"o", ~uint64_t{0}, 1, ""}, {"o", 3, 0, ""},     {"empty", 0, 8, ""}};
  std::vector<SmallRead> reads;
  for (const Row& row : rows) reads.push_back({.object = row.object, .offset = row.offset, .length = row.length});
  ASSERT_TRUE(Open()->ReadSmall(reads, 4, Soon(), nullptr).ok());
  for (size_t i = 0; i < reads.size(); ++i) {
    EXPECT_TRUE(reads[i].status.ok()) << reads[i].status;
    EXPECT_EQ(reads[i].bytes, rows[i].bytes) << i;
    EXPECT_EQ(reads[i].object_size, rows[i].object == std::string("o") ? 10u : 0u);
    EXPECT_FALSE(reads[i].object_validator.empty());
  }
}

TEST_F(FileStoreTest, AChangedFileIsAborted) {
  Write("o", "before");
  SmallRead read{.object = "o", .length = 6};
  const auto store = Open();
  ASSERT_TRUE(store->ReadSmall({&read, 1}, 1, Soon(), nullptr).ok());
  read.validator = read.object_validator;
  ASSERT_TRUE(store->ReadSmall({&read, 1}, 1, Soon(), nullptr).ok());
  EXPECT_TRUE(read.status.ok()) << read.status;
  Write("o", "after it");
  ASSERT_TRUE(store->ReadSmall({&read, 1}, 1, Soon(), nullptr).ok());
  EXPECT_EQ(read.status.code(), absl::StatusCode::kAborted) << read.status;
  EXPECT_TRUE(read.bytes.empty());
}

TEST_F(FileStoreTest, ManyReadsInParallelAllArrive) {
  std::vector<SmallRead> reads;
  for (int i = 0; i < 300; ++i) {
    Write("d/" + std::to_string(i), "value " + std::to_string(i));
    reads.push_back({.object = "d/" + std::to_string(i), .length = 100});
  }
  uint64_t most = 0;
  ASSERT_TRUE(Open()
                  ->ReadSmall(reads, 8, Soon(),
                              [&](uint64_t done, uint64_t total) {
                                most = std::max(most, done);
                                return total == 300;
                              })
                  .ok());
  EXPECT_LE(most, 300u);
  for (int i = 0; i < 300; ++i) EXPECT_EQ(reads[i].bytes, "value " + std::to_string(i));
}

TEST_F(FileStoreTest, HostileNamesDeadlineAndCancel) {
  for (const char* name : {"../x", "/etc/passwd", "", "a/../../b"}) {
    SmallRead read{.object = name, .length = 1};
    ASSERT_TRUE(Open()->ReadSmall({&read, 1}, 1, Soon(), nullptr).ok());
    EXPECT_EQ(read.status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_EQ(Open()->PrepareGet(name).status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
  std::vector<SmallRead> reads(20);
  for (SmallRead& read : reads) {
    read.object = "x";
    read.length = 1;
  }
  EXPECT_EQ(Open()->ReadSmall(reads, 1, Soon(), [](uint64_t, uint64_t) { return false; }).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(reads.back().status.code(), absl::StatusCode::kCancelled);
  ASSERT_TRUE(Open()->ReadSmall(reads, 1, Clock::now() - std::chrono::seconds(1), nullptr).ok());
  EXPECT_EQ(reads[0].status.code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(FileStoreTest, PreparesAPath) {
  const auto request = Open()->PrepareGet("a b/c");
  ASSERT_TRUE(request.ok());
  EXPECT_EQ(request->file_path, (root_ / "a b/c").string());
}

}  // namespace
}  // namespace devmem
