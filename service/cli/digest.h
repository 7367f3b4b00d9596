// SPDX-License-Identifier: Apache-2.0
// DigestWriter: --digest. One JSON line a sample, in order of delivery, with the SHA-256 of its bytes as the trainer
// side sees them through the mapped handle:
//
//   {"epoch":0,"sample":17,"object":"train/0001.npy","offset":128,"bytes":3072,"sha256":"..."}
//
// With several tensors the flat fields are the first's and "tensors" has one entry each, with its name. "padding":true
// marks repeats of --tail pad. object, offset and bytes say where the sample is stored; with --cast the hash is of
// what was delivered.
//
// Lines are gathered and written a megabyte at a time, so an error may show at a later Add() or at Close(). One thread.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "devmem_loader/v1/loader.pb.h"

struct evp_md_ctx_st;
struct evp_md_st;

namespace devmem::cli {

class DigestWriter {
 public:
  // Makes or empties the file.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<DigestWriter>> Open(const std::string& path);
  ~DigestWriter();

  // `tensors` are the mapped bytes of info.tensors(), in that order. kInternal if the batch does not name the source of
  // every row.
  [[nodiscard]] absl::Status Add(const devmem_loader::v1::Batch& info, std::span<const std::span<const std::byte>> tensors);

  // Writes what is left.
  [[nodiscard]] absl::Status Close();

 private:
  DigestWriter(std::string path, UniqueFd file);
  absl::Status Flush();
  void AppendSource(const devmem_loader::v1::SampleSource& source, const std::string& object, std::span<const std::byte> bytes);
  void AppendHash(std::span<const std::byte> bytes);

  std::string path_;
  UniqueFd file_;
  std::string buffer_;
  evp_md_st* algorithm_ = nullptr;
  evp_md_ctx_st* context_ = nullptr;
};

}  // namespace devmem::cli
