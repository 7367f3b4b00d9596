// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/error.h"
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
