// SPDX-License-Identifier: Apache-2.0
// The header of numpy's .npy files, versions 1, 2 and 3, read from the first bytes of an object.
//
//   auto parsed = ParseNpyHeader(first_bytes, object_size, {});
//   if (!parsed.ok()) return WithObject(parsed.status(), name);
//   if (auto* need = std::get_if<NeedBytes>(&*parsed)) ...;          // read need->bytes bytes and parse again
//   const NpyHeader& header = std::get<NpyHeader>(*parsed);
//
// The header is a Python dict literal, and the input is untrusted: the parser accepts what numpy writes (and other
// spellings of the same literal), nothing that would have to be evaluated, and checks the array against the object's
// size. Thread-safe: pure functions.
#pragma once

#include <cstdint>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu/dtype.h"
#include "service/formats/format.h"

namespace devmem {

struct NpyHeader {
  DType dtype = DType::kU8;
  std::vector<int64_t> shape;  // of the whole array: one dimension or more, the first counts the samples
  uint64_t data_offset = 0;    // bytes before the first row
};

struct NpyOptions {
  // numpy has no bfloat16: ml_dtypes writes it as a bare 2-byte void ("<V2", "|V2"). Only with this is that, or the
  // descr "bfloat16", taken for one.
  bool bfloat16 = false;
};

// Bytes that hold the header of nearly every file: numpy pads a plain array's to 128.
inline constexpr uint64_t kNpyFirstRead = 4096;
// Longest header we believe: 64 KiB is what version 1 can say at all.
inline constexpr uint64_t kNpyMaxHeader = uint64_t{64} << 10;

[[nodiscard]] absl::StatusOr<std::variant<NeedBytes, NpyHeader>> ParseNpyHeader(std::string_view first_bytes,
                                                                                uint64_t object_size,
                                                                                const NpyOptions& options);

}  // namespace devmem
