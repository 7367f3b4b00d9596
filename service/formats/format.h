// SPDX-License-Identifier: Apache-2.0
// What the header parsers of service/formats share. Values only; thread-safe.
//
// A parser is given the first bytes of an object and the object's size. It ends in one of three ways: the header, a
// NeedBytes that says how many bytes from the object's start it must be given to finish, or a Status that names the
// cause. It does not know the object's name: the caller adds it with WithObject(). A format's error is final, because
// the same bytes fail the same way again: kDataLoss where the bytes are broken, kFailedPrecondition where they are
// valid and we cannot stream them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "gpu/dtype.h"

namespace devmem {

// The numbers are the wire's (devmem_loader.v1.Format) too.
enum class DatasetFormat : uint8_t { kAuto = 0, kRaw, kNpy, kSafetensors };

// "auto", "raw", "npy", "safetensors".
[[nodiscard]] std::string_view Name(DatasetFormat format);

// More of the object is needed: its first `bytes` bytes, which is more than was given and at most its size.
struct NeedBytes {
  uint64_t bytes = 0;
};

// Bytes of an array of `shape`, 1 element where it is empty; nullopt if that leaves int64 or a dimension is negative.
[[nodiscard]] std::optional<uint64_t> ArrayBytes(DType dtype, std::span<const int64_t> shape);

// `untrusted` in quotes, fit for an error message: escaped to printable ASCII, at most 64 bytes of it.
[[nodiscard]] std::string Quoted(std::string_view untrusted);

// "(3, 224, 224)", as Python prints it.
[[nodiscard]] std::string ShapeText(std::span<const int64_t> shape);

}  // namespace devmem
