// SPDX-License-Identifier: Apache-2.0
#include "service/cli/suggest.h"

#include <gtest/gtest.h>

namespace devmem::cli {
namespace {

TEST(Suggest, Table) {
  const std::vector<std::string> flags = {"--batch-size", "--bucket", "--tail", "--tensor", "--seed", "--shuffle"};
  const std::pair<const char*, const char*> cases[] = {
      {"--batchsize", "--batch-size"},
      {"--batch_size", "--batch-size"},
      {"-bucket", "--bucket"},
      {"--bukcet", "--bucket"},
      {"--tial", "--tail"},
      {"--tensors", "--tensor"},
      {"--xyzzy", ""},
      {"--", ""},
      {"--tensor", "--tensor"},
  };
  for (const auto& test : cases) EXPECT_EQ(Suggest(test.first, flags), test.second) << test.first;
  EXPECT_EQ(Suggest(std::string(100000, 'x'), flags), "");
  EXPECT_EQ(Suggest("--seed", {}), "");
}

}  // namespace
}  // namespace devmem::cli
