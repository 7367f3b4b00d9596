// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gmock/gmock.h>
#include <stdlib.h>  // NOLINT(modernize-deprecated-headers): POSIX, for mkdtemp
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/error.h"
#include "base/unique_fd.h"
#include "service/cli/index_verb.h"

namespace devmem::cli {
namespace {

class ReplaceFileTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_NE(::mkdtemp(folder_.data()), nullptr); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  size_t Files() const { return std::distance(std::filesystem::directory_iterator(folder_), {}); }
  std::string folder_ = ::testing::TempDir() + "/replace_file_XXXXXX";
};

TEST_F(ReplaceFileTest, ReplacesWholeAndLeavesNothingElse) {
  const std::string path = folder_ + "/.devmem-index";
  for (const std::string& content : {std::string("first, longer"), std::string("second\0", 7)}) {
    ASSERT_TRUE(ReplaceFile(path, content).ok());
    std::ifstream file(path);
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), content);
  }
  struct stat info {};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0644u) << "a web server must be able to read it";
  EXPECT_EQ(Files(), 1u);
}

TEST_F(ReplaceFileTest, APipeIsWrittenToAndStaysOne) {
  const std::string path = folder_ + "/pipe";
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  UniqueFd reader(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  ASSERT_TRUE(reader.valid());
  const absl::Status status = ReplaceFile(path, "index");
  EXPECT_TRUE(status.ok()) << status;
  struct stat info {};
  ASSERT_EQ(::lstat(path.c_str(), &info), 0);
  EXPECT_TRUE(S_ISFIFO(info.st_mode));
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  char bytes[16];
  ASSERT_EQ(::read(reader.get(), bytes, sizeof bytes), 5);
  EXPECT_EQ(std::string(bytes, 5), "index");
  EXPECT_EQ(Files(), 1u);
}

TEST_F(ReplaceFileTest, ADeviceStaysADevice) {
  const std::string path = folder_ + "/device";
  if (::mknod(path.c_str(), S_IFCHR | 0600, makedev(1, 3)) != 0) GTEST_SKIP() << "may not make a device (another /dev/null)";
  UniqueFd usable(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  const absl::Status status = ReplaceFile(path, "index");
  EXPECT_EQ(status.ok(), usable.valid()) << status;  // some file systems are mounted without devices
  struct stat info {};
  ASSERT_EQ(::lstat(path.c_str(), &info), 0);
  EXPECT_TRUE(S_ISCHR(info.st_mode));
}

TEST_F(ReplaceFileTest, ALinkLeadsWhereItLed) {
  std::ofstream(folder_ + "/target") << "something longer";
  struct stat before {
  }, after{};
  ASSERT_EQ(::stat((folder_ + "/target").c_str(), &before), 0);
  std::filesystem::create_symlink("target", folder_ + "/link");
  std::filesystem::create_symlink("new", folder_ + "/dangling");
  ASSERT_TRUE(ReplaceFile(folder_ + "/link", "index").ok());
  ASSERT_TRUE(ReplaceFile(folder_ + "/dangling", "index").ok());
  EXPECT_TRUE(std::filesystem::is_symlink(folder_ + "/link"));
  EXPECT_TRUE(std::filesystem::is_symlink(folder_ + "/dangling"));
  ASSERT_EQ(::stat((folder_ + "/link").c_str(), &after), 0);
  EXPECT_EQ(after.st_ino, before.st_ino);
  for (const char* name : {"/target", "/new"}) {
    std::ifstream file(folder_ + name);
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), "index");
  }
}

TEST_F(ReplaceFileTest, FailureNamesTheFileAndLeavesNothing) {
  std::filesystem::create_directory(folder_ + "/taken");
  const absl::Status status = ReplaceFile(folder_ + "/taken", "x");
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(GetErrorInfo(status).object, folder_ + "/taken");
  EXPECT_EQ(Files(), 1u);
  EXPECT_EQ(ReplaceFile("/no/such/folder/index", "x").code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace devmem::cli
