// SPDX-License-Identifier: Apache-2.0
#include "service/digest.h"

#include <array>
#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace devmem {
namespace {

// SHA-256 is always there and fails only without memory; going on with a wrong digest would be worse than stopping.
void Must(int ok) {
  if (ok != 1) std::abort();
}

}  // namespace

ShortDigest::ShortDigest() : context_(EVP_MD_CTX_new()) { Must(EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr)); }

void ShortDigest::AddBytes(std::string_view bytes) {
  constexpr size_t kTogether = size_t{16} << 10;
  if (bytes.size() < kTogether) {
    pending_.append(bytes);
    if (pending_.size() < kTogether) return;
    bytes = {};
  }
  Must(EVP_DigestUpdate(context_.get(), pending_.data(), pending_.size()));
  pending_.clear();
  Must(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()));
}

void ShortDigest::AddField(std::string_view bytes) {
  AddNumber(bytes.size());
  AddBytes(bytes);
}

void ShortDigest::AddNumber(uint64_t number) {
  std::array<char, 8> bytes;
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(number >> (8 * i));
  AddBytes({bytes.data(), bytes.size()});
}

uint64_t ShortDigest::Finish() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> bytes;
  Must(EVP_DigestUpdate(context_.get(), pending_.data(), pending_.size()));
  Must(EVP_DigestFinal_ex(context_.get(), bytes.data(), nullptr));
  uint64_t value = 0;
  for (size_t i = 8; i-- > 0;) value = value << 8 | bytes[i];
  return value;
}

uint64_t Fingerprint(const ObjectTable& objects, std::span<const Dataset::Skipped> skipped) {
  ShortDigest digest;
  digest.AddNumber(objects.size());
  for (size_t i = 0; i < objects.size(); ++i) {
    const ObjectTable::Object object = objects[i];
    digest.AddField(object.name);
    digest.AddNumber(object.size);
    digest.AddField(object.validator);
  }
  for (const Dataset::Skipped& one : skipped) digest.AddField(one.object);
  return digest.Finish();
}

std::string FingerprintText(uint64_t fingerprint) { return absl::StrCat(absl::Hex(fingerprint, absl::kZeroPad16)); }

}  // namespace devmem
