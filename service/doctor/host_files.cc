// SPDX-License-Identifier: Apache-2.0
#include "service/doctor/host_files.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <string_view>
#include <system_error>

namespace devmem::doctor {
namespace {

namespace fs = std::filesystem;
constexpr size_t kMost = 64 << 10;

}  // namespace

std::optional<std::string> HostFiles::Read(const std::string& path) const {
  std::ifstream file(root_ / path, std::ios::binary);
  if (!file) return std::nullopt;
  std::string text(kMost, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) return std::nullopt;
  text.resize(static_cast<size_t>(file.gcount()));
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  return text;
}

std::optional<uint64_t> HostFiles::Number(const std::string& path) const {
  const std::optional<std::string> text = Read(path);
  if (!text) return std::nullopt;
  std::string_view digits = *text;
  const int base = digits.starts_with("0x") ? 16 : 10;
  if (base == 16) digits.remove_prefix(2);
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return value;
}

bool HostFiles::Exists(const std::string& path) const {
  std::error_code error;
  return fs::exists(root_ / path, error);
}

std::vector<std::string> HostFiles::List(const std::string& path) const {
  std::error_code error;
  std::vector<std::string> names;
  for (fs::directory_iterator at(root_ / path, error), end; !error && at != end; at.increment(error)) {
    names.push_back(at->path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string HostFiles::Resolve(const std::string& path) const {
  std::error_code error;
  const fs::path root = fs::canonical(root_, error);
  const fs::path found = error ? fs::path() : fs::canonical(root_ / path, error);
  return error ? "" : found.lexically_relative(root).string();
}

}  // namespace devmem::doctor
