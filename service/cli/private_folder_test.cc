// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "service/cli/private_daemon.h"

namespace devmem::cli {
namespace {

TEST(PrivateFolder, OnlyOursAndGoneAfterwards) {
  ::setenv("XDG_RUNTIME_DIR", ::testing::TempDir().c_str(), 1);
  auto folder = PrivateFolder::Make();
  ASSERT_TRUE(folder.ok()) << folder.status();
  const std::string path = (*folder)->path();
  EXPECT_EQ(path.rfind(::testing::TempDir(), 0), 0u);
  struct stat info {};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  std::ofstream(path + "/loader.sock") << "x";
  folder->reset();
  EXPECT_NE(::stat(path.c_str(), &info), 0);
}

TEST(PrivateFolder, PassesAFolderByWhoseSocketsPathWouldBeTooLong) {
  const std::filesystem::path temporary = std::filesystem::path(::testing::TempDir()) / "private_folder_test";
  const std::filesystem::path deep = temporary / std::string(80, 'x');
  std::filesystem::create_directories(deep);
  ::setenv("XDG_RUNTIME_DIR", deep.c_str(), 1);
  ::setenv("TMPDIR", temporary.c_str(), 1);
  auto folder = PrivateFolder::Make();
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ(std::filesystem::path((*folder)->path()).parent_path(), temporary);
  ::setenv("TMPDIR", deep.c_str(), 1);
  folder = PrivateFolder::Make();
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ((*folder)->path().rfind("/tmp/", 0), 0u);
  ::unsetenv("TMPDIR");
  folder->reset();
  std::filesystem::remove_all(temporary);
}

TEST(PrivateFolder, FallsBackToTmp) {
  ::unsetenv("TMPDIR");
  ::setenv("XDG_RUNTIME_DIR", "/no/such/folder", 1);
  auto folder = PrivateFolder::Make();
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ((*folder)->path().rfind("/tmp/", 0), 0u);
}

}  // namespace
}  // namespace devmem::cli
