// SPDX-License-Identifier: Apache-2.0
// A cursor as text: what summaries print and --resume takes. base64url (RFC 4648, no padding) of the serialized
// devmem_loader.v1.Cursor. Pure functions, but for reading @FILE.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "devmem_loader/v1/loader.pb.h"

namespace devmem::cli {

[[nodiscard]] std::string CursorText(const devmem_loader::v1::Cursor& cursor);

// `text` is CursorText's, or "@FILE" where FILE holds it; blanks around it are dropped.
[[nodiscard]] absl::StatusOr<devmem_loader::v1::Cursor> ReadCursor(const std::string& text);

// A listing's fingerprint, as --expect-fingerprint takes it: 16 hexadecimal digits.
[[nodiscard]] std::string FingerprintText(uint64_t fingerprint);
[[nodiscard]] absl::StatusOr<uint64_t> ReadFingerprint(const std::string& text);

}  // namespace devmem::cli
