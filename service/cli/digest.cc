// SPDX-License-Identifier: Apache-2.0
#include "service/cli/digest.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/text.h"
#include "service/cli/json_text.h"

namespace devmem::cli {
namespace {

constexpr size_t kFlushAt = size_t{64} << 10;  // whoever follows the file sees every few hundred samples

}  // namespace

absl::StatusOr<std::unique_ptr<DigestWriter>> DigestWriter::Open(const std::string& path) {
  UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!file.valid()) {
    return ErrnoError(errno, absl::StrCat("--digest: cannot write ", path),
                      {.object = path, .action = "name a file that can be written"});
  }
  std::unique_ptr<DigestWriter> writer(new DigestWriter(path, std::move(file)));
  if (writer->algorithm_ == nullptr || writer->context_ == nullptr) {
    return MakeError(absl::StatusCode::kInternal, "OpenSSL has no SHA-256",
                     {.cause = "no SHA-256", .action = "check OpenSSL's configuration"});
  }
  return writer;
}

// Fetched once: EVP_sha256() would look the algorithm up again for every sample.
DigestWriter::DigestWriter(std::string path, UniqueFd file)
    : path_(std::move(path)),
      file_(std::move(file)),
      algorithm_(EVP_MD_fetch(nullptr, "SHA256", nullptr)),
      context_(EVP_MD_CTX_new()) {}

DigestWriter::~DigestWriter() {
  EVP_MD_CTX_free(context_);
  EVP_MD_free(algorithm_);
}

void DigestWriter::AppendHash(std::span<const std::byte> bytes) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::array<unsigned char, EVP_MAX_MD_SIZE> hash;
  unsigned int length = 0;
  EVP_DigestInit_ex2(context_, algorithm_, nullptr);
  EVP_DigestUpdate(context_, bytes.data(), bytes.size());
  EVP_DigestFinal_ex(context_, hash.data(), &length);
  for (unsigned int i = 0; i < length; ++i) {
    buffer_ += kHex[hash[i] >> 4];
    buffer_ += kHex[hash[i] & 15];
  }
}

void DigestWriter::AppendSource(const devmem_loader::v1::SampleSource& source, const std::string& object,
                                std::span<const std::byte> bytes) {
  buffer_ += "\"object\":";
  AppendJsonString(&buffer_, object);
  absl::StrAppend(&buffer_, ",\"offset\":", source.offset(), ",\"bytes\":", source.bytes(), ",\"sha256\":\"");
  AppendHash(bytes);
  buffer_ += '"';
}

absl::Status DigestWriter::Add(const devmem_loader::v1::Batch& info, std::span<const std::span<const std::byte>> tensors) {
  const auto rows = static_cast<size_t>(info.sample_ids_size());
  const size_t columns = tensors.size();
  if (static_cast<size_t>(info.sources_size()) != rows * columns || static_cast<size_t>(info.tensors_size()) != columns) {
    return MakeError(
        absl::StatusCode::kInternal,
        absl::StrCat("batch ", info.sequence(), " names ", Counted(static_cast<uint64_t>(info.sources_size()), "source"),
                     " for ", Counted(rows, "sample"), " of ", Counted(columns, "tensor")),
        {.cause = "sources missing", .action = "use a daemon of this client's version"});
  }
  for (size_t row = 0; row < rows; ++row) {
    const size_t line = buffer_.size();
    auto piece = [&](size_t column) {
      const size_t row_bytes = tensors[column].size() / rows;
      return tensors[column].subspan(row * row_bytes, row_bytes);
    };
    auto source = [&](size_t column) -> const devmem_loader::v1::SampleSource& {
      return info.sources(static_cast<int>(row * columns + column));
    };
    // A daemon of an earlier version names the object with every source.
    auto append = [&](size_t column) {
      const devmem_loader::v1::SampleSource& of = source(column);
      const bool in_table = info.source_names_size() > 0;
      if (in_table && of.name_index() >= static_cast<uint32_t>(info.source_names_size())) return false;
      AppendSource(of, in_table ? info.source_names(static_cast<int>(of.name_index())) : of.object(), piece(column));
      return true;
    };
    const auto nameless = [&] {
      buffer_.resize(line);  // no half of a line
      return MakeError(absl::StatusCode::kInternal, absl::StrCat("batch ", info.sequence(), " has a source without a name"),
                       {.cause = "sources missing", .action = "report this"});
    };
    absl::StrAppend(&buffer_, "{\"epoch\":", info.epoch(), ",\"sample\":", info.sample_ids(static_cast<int>(row)), ",");
    if (columns > 0 && !append(0)) return nameless();
    if (columns == 1) {
      buffer_ += ",\"tensor\":";
      AppendJsonString(&buffer_, info.tensors(0).name());
    } else {
      buffer_ += ",\"tensors\":[";
      for (size_t column = 0; column < columns; ++column) {
        buffer_ += column == 0 ? "{\"tensor\":" : ",{\"tensor\":";
        AppendJsonString(&buffer_, info.tensors(static_cast<int>(column)).name());
        buffer_ += ',';
        if (!append(column)) return nameless();
        buffer_ += '}';
      }
      buffer_ += ']';
    }
    if (static_cast<int>(row) < info.padding_size() && info.padding(static_cast<int>(row))) buffer_ += ",\"padding\":true";
    buffer_ += "}\n";
    if (buffer_.size() >= kFlushAt) DEVMEM_RETURN_IF_ERROR(Flush());
  }
  return absl::OkStatus();
}

absl::Status DigestWriter::Flush() {
  size_t written = 0;
  while (written < buffer_.size()) {
    const ssize_t n = ::write(file_.get(), buffer_.data() + written, buffer_.size() - written);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int error = errno;
      buffer_.erase(0, written);
      return ErrnoError(error, absl::StrCat("--digest: writing ", path_),
                        {.object = path_, .action = "make room, or write elsewhere"});
    }
    written += static_cast<size_t>(n);
  }
  buffer_.clear();
  return absl::OkStatus();
}

absl::Status DigestWriter::Close() {
  DEVMEM_RETURN_IF_ERROR(Flush());
  if (::close(file_.Release()) != 0) {  // network file systems tell only here that the disk was full
    return ErrnoError(errno, absl::StrCat("--digest: closing ", path_),
                      {.object = path_, .action = "make room, or write elsewhere"});
  }
  return absl::OkStatus();
}

}  // namespace devmem::cli
