// SPDX-License-Identifier: Apache-2.0
#include "net/object_table.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace devmem {
namespace {

std::string_view Column(const std::string& text, const std::vector<uint64_t>& ends, size_t index) {
  const uint64_t begin = index == 0 ? 0 : ends[index - 1];
  return std::string_view(text).substr(begin, ends[index] - begin);
}

}  // namespace

absl::Status ObjectTable::Reserve(size_t objects, size_t name_bytes, size_t validator_bytes) {
  constexpr size_t kColumns = sizeof(uint64_t) * 3;
  objects = std::max(objects, sizes_.capacity());
  name_bytes = std::max(name_bytes, names_.capacity());
  validator_bytes = std::max(validator_bytes, validators_.capacity());
  // A column that grows is there twice while it moves.
  const uint64_t now = bytes();
  const uint64_t then = uint64_t{objects} * kColumns + name_bytes + validator_bytes;
  DEVMEM_RETURN_IF_ERROR(held_.Resize(now + then));
  names_.reserve(name_bytes);
  name_ends_.reserve(objects);
  sizes_.reserve(objects);
  validators_.reserve(validator_bytes);
  validator_ends_.reserve(objects);
  return held_.Resize(bytes());
}

absl::Status ObjectTable::MakeRoom(size_t name_bytes, size_t validator_bytes) {
  const auto room = [](size_t size, size_t more, size_t capacity) {
    return size + more <= capacity ? capacity : std::max(size + more, 2 * capacity);
  };
  const size_t names = room(names_.size(), name_bytes, names_.capacity());
  const size_t validators = room(validators_.size(), validator_bytes, validators_.capacity());
  const size_t objects = room(sizes_.size(), 1, sizes_.capacity());
  if (names == names_.capacity() && validators == validators_.capacity() && objects == sizes_.capacity()) {
    return absl::OkStatus();
  }
  return Reserve(objects, names, validators);
}

uint64_t ObjectTable::bytes() const {
  return names_.capacity() + validators_.capacity() +
         sizeof(uint64_t) * (name_ends_.capacity() + sizes_.capacity() + validator_ends_.capacity());
}

void ObjectTable::Add(std::string_view name, uint64_t size, std::string_view validator) {
  names_.append(name);
  name_ends_.push_back(names_.size());
  sizes_.push_back(size);
  validators_.append(validator);
  validator_ends_.push_back(validators_.size());
}

void ObjectTable::SetValidator(size_t index, std::string_view validator) {
  const uint64_t begin = index == 0 ? 0 : validator_ends_[index - 1];
  const uint64_t old_length = validator_ends_[index] - begin;
  validators_.replace(begin, old_length, validator);
  for (size_t i = index; i < validator_ends_.size(); ++i) validator_ends_[i] += validator.size() - old_length;
}

ObjectTable::Object ObjectTable::operator[](size_t index) const {
  return {Column(names_, name_ends_, index), sizes_[index], Column(validators_, validator_ends_, index)};
}

absl::Status ObjectTable::SortByName() {
  HeldMemory ordering(held_.account());
  DEVMEM_RETURN_IF_ERROR(ordering.Resize(size() * sizeof(size_t)));
  std::vector<size_t> order(size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto before = [this](size_t a, size_t b) { return Column(names_, name_ends_, a) < Column(names_, name_ends_, b); };
  if (std::is_sorted(order.begin(), order.end(), before)) return absl::OkStatus();
  DEVMEM_RETURN_IF_ERROR(ordering.Resize(2 * size() * sizeof(size_t)));  // a stable sort's buffer
  std::stable_sort(order.begin(), order.end(), before);
  ObjectTable sorted(held_.account());
  DEVMEM_RETURN_IF_ERROR(sorted.Reserve(size(), names_.size(), validators_.size()));
  for (size_t i : order) {
    const Object object = (*this)[i];
    sorted.Add(object.name, object.size, object.validator);
  }
  *this = std::move(sorted);
  return absl::OkStatus();
}

absl::Status ObjectTable::DropRepeats(std::string_view uri) {
  const auto text = [](const Object& object) {
    return absl::StrCat(object.size, " bytes", object.validator.empty() ? "" : " and ", std::string(object.validator));
  };
  size_t repeats = 0;
  for (size_t i = 1; i < size(); ++i) {
    const Object before = (*this)[i - 1];
    const Object object = (*this)[i];
    if (object.name != before.name) continue;
    if (object.size != before.size || object.validator != before.validator) {
      return MakeError(absl::StatusCode::kFailedPrecondition,
                       absl::StrCat("the listing has '", std::string(object.name), "' twice, with ", text(before),
                                    ", and with ", text(object)),
                       {.object = std::string(uri),
                        .fault = Fault::kBadAnswer,
                        .cause = "one name, two objects",
                        .action = "open the bucket again when nobody writes to it; if it stays, check the store's listing"});
    }
    ++repeats;
  }
  if (repeats == 0) return absl::OkStatus();
  ObjectTable once(held_.account());
  DEVMEM_RETURN_IF_ERROR(once.Reserve(size() - repeats, names_.size(), validators_.size()));
  for (size_t i = 0; i < size(); ++i) {
    const Object object = (*this)[i];
    if (i == 0 || object.name != (*this)[i - 1].name) once.Add(object.name, object.size, object.validator);
  }
  *this = std::move(once);
  return absl::OkStatus();
}

}  // namespace devmem
