// SPDX-License-Identifier: Apache-2.0
// Short digests: the first 8 bytes, little-endian, of SHA-256. They tell a changed listing or a damaged index from the
// one meant; they authenticate nothing.
//
//   ShortDigest digest;
//   digest.AddField(name);
//   digest.AddNumber(size);
//   uint64_t value = digest.Finish();
//
// One thread at a time.
#pragma once

#include <openssl/evp.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "service/dataset.h"

namespace devmem {

class ShortDigest {
 public:
  ShortDigest();
  void AddBytes(std::string_view bytes);  // as they are
  void AddField(std::string_view bytes);  // with their length, so that ("a", "bc") is not ("ab", "c")
  void AddNumber(uint64_t number);        // 8 bytes, little-endian
  [[nodiscard]] uint64_t Finish();        // once

 private:
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> context_;
  std::string pending_;  // small additions are hashed together
};

// As people are shown it and give it: 16 hexadecimal digits.
[[nodiscard]] std::string FingerprintText(uint64_t fingerprint);

// Dataset::fingerprint. It must not depend on how the data set was opened: from an index or a listing.
[[nodiscard]] uint64_t Fingerprint(const ObjectTable& objects, std::span<const Dataset::Skipped> skipped);

}  // namespace devmem
