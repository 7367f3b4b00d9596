// SPDX-License-Identifier: Apache-2.0
#include "service/cli/digest.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"

namespace devmem::cli {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;
using Bytes = std::span<const std::byte>;

// FIPS 180-2, appendix B.1, and the hash of nothing.
constexpr char kAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

Bytes View(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }

void AddSource(devmem_loader::v1::Batch* batch, uint32_t tensor, const char* object, uint64_t offset) {
  auto* source = batch->add_sources();
  source->set_tensor(tensor);
  source->set_object(object);
  source->set_offset(offset);
  source->set_bytes(3);
}

class DigestTest : public ::testing::Test {
 protected:
  ~DigestTest() override { ::unlink(path_.c_str()); }
  std::vector<Json> Lines() const {
    std::ifstream file(path_);
    std::vector<Json> lines;
    for (std::string line; std::getline(file, line);) lines.push_back(Json::parse(line));
    return lines;
  }
  // Tests run at the same time, each in a process of its own.
  std::string path_ = ::testing::TempDir() + "/digest_test_" + std::to_string(::getpid()) + ".jsonl";
};

TEST_F(DigestTest, OneTensorIsFlat) {
  auto writer = DigestWriter::Open(path_);
  ASSERT_TRUE(writer.ok()) << writer.status();
  devmem_loader::v1::Batch batch;
  batch.set_epoch(2);
  batch.add_tensors()->set_name("data");
  batch.add_sample_ids(10);
  batch.add_sample_ids(7);
  batch.add_padding(false);
  batch.add_padding(true);
  AddSource(&batch, 0, "a\"b\n\xff.npy", 128);
  AddSource(&batch, 0, "b.npy", 131);
  const Bytes tensors[] = {View("abcxyz")};
  ASSERT_TRUE((*writer)->Add(batch, tensors).ok());
  ASSERT_TRUE((*writer)->Close().ok());
  const std::vector<Json> lines = Lines();
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0], Json({{"epoch", 2},
                            {"sample", 10},
                            {"object", "a\"b\n\xEF\xBF\xBD.npy"},
                            {"offset", 128},
                            {"bytes", 3},
                            {"sha256", kAbc},
                            {"tensor", "data"}}));
  EXPECT_EQ(lines[1]["padding"], true);
  EXPECT_EQ(lines[1]["sample"], 7);
  EXPECT_NE(lines[1]["sha256"], kAbc);
}

TEST_F(DigestTest, SeveralTensorsAreListed) {
  auto writer = DigestWriter::Open(path_);
  ASSERT_TRUE(writer.ok());
  devmem_loader::v1::Batch batch;
  batch.add_tensors()->set_name("image");
  batch.add_tensors()->set_name("label");
  batch.add_sample_ids(0);
  batch.add_sample_ids(1);
  AddSource(&batch, 0, "i", 0);
  AddSource(&batch, 1, "l", 8);
  AddSource(&batch, 0, "i", 3);
  AddSource(&batch, 1, "l", 9);
  const Bytes tensors[] = {View("---abc"), View("abc...")};
  ASSERT_TRUE((*writer)->Add(batch, tensors).ok());
  ASSERT_TRUE((*writer)->Close().ok());
  const std::vector<Json> lines = Lines();
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0]["object"], "i");
  EXPECT_EQ(lines[0]["tensors"][0]["sha256"], lines[0]["sha256"]);
  EXPECT_EQ(lines[0]["tensors"][1],
            Json({{"tensor", "label"}, {"object", "l"}, {"offset", 8}, {"bytes", 3}, {"sha256", kAbc}}));
  EXPECT_EQ(lines[1]["sha256"], kAbc);
}

TEST_F(DigestTest, NamesOfATable) {
  auto writer = DigestWriter::Open(path_);
  ASSERT_TRUE(writer.ok());
  devmem_loader::v1::Batch batch;
  batch.add_tensors()->set_name("data");
  batch.add_source_names("a.npy");
  batch.add_source_names("b.npy");
  for (const uint32_t index : {1, 0, 1}) {
    batch.add_sample_ids(index);
    AddSource(&batch, 0, "", 128);
    batch.mutable_sources()->rbegin()->set_name_index(index);
  }
  const Bytes tensors[] = {View("abcabcabc")};
  ASSERT_TRUE((*writer)->Add(batch, tensors).ok());
  batch.mutable_sources(2)->set_name_index(2);
  EXPECT_EQ((*writer)->Add(batch, tensors).code(), absl::StatusCode::kInternal) << "a name that is not there";
  ASSERT_TRUE((*writer)->Close().ok());
  const std::vector<Json> lines = Lines();
  EXPECT_EQ(lines[0]["object"], "b.npy");
  EXPECT_EQ(lines[1]["object"], "a.npy");
  EXPECT_EQ(lines[2]["object"], "b.npy");
}

TEST_F(DigestTest, MissingSourcesAreAnError) {
  auto writer = DigestWriter::Open(path_);
  ASSERT_TRUE(writer.ok());
  devmem_loader::v1::Batch batch;
  batch.add_tensors();
  batch.add_sample_ids(0);
  const Bytes tensors[] = {View("abc")};
  EXPECT_EQ((*writer)->Add(batch, tensors).code(), absl::StatusCode::kInternal);
}

TEST_F(DigestTest, AFullDiskIsAnErrorThatNamesTheFile) {
  auto writer = DigestWriter::Open("/dev/full");
  ASSERT_TRUE(writer.ok());
  devmem_loader::v1::Batch batch;
  batch.add_tensors();
  batch.add_sample_ids(0);
  AddSource(&batch, 0, "x", 0);
  const Bytes tensors[] = {View("abc")};
  ASSERT_TRUE((*writer)->Add(batch, tensors).ok());
  const absl::Status status = (*writer)->Close();
  EXPECT_THAT(Text(status), HasSubstr("No space left on device"));
  EXPECT_EQ(GetErrorInfo(status).object, "/dev/full");
  EXPECT_FALSE(DigestWriter::Open("/no/such/folder/file").ok());
}

}  // namespace
}  // namespace devmem::cli
