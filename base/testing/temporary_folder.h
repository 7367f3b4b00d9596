// SPDX-License-Identifier: Apache-2.0
// A folder for a test that nobody tidies up after: it is removed, with all that is in it, when the test's process ends.
//
//   const std::string journals = TemporaryFolder("journal");
//
// For one thread at a time.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>  // NOLINT(modernize-deprecated-headers): POSIX, for mkdtemp

#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace devmem {

inline std::string TemporaryFolder(const std::string& name) {
  struct Folders {
    std::vector<std::string> made;
    ~Folders() {
      std::error_code ignored;
      for (const std::string& folder : made) std::filesystem::remove_all(folder, ignored);
    }
  };
  static Folders folders;
  std::string folder = ::testing::TempDir() + name + "-XXXXXX";
  EXPECT_NE(::mkdtemp(folder.data()), nullptr) << folder;
  return folders.made.emplace_back(std::move(folder));
}

}  // namespace devmem
