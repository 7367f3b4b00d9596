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

void ObjectTable::SortByName() {
  std::vector<size_t> order(size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto before = [this](size_t a, size_t b) { return Column(names_, name_ends_, a) < Column(names_, name_ends_, b); };
  if (std::is_sorted(order.begin(), order.end(), before)) return;
  std::stable_sort(order.begin(), order.end(), before);
  ObjectTable sorted;
  sorted.names_.reserve(names_.size());
  sorted.validators_.reserve(validators_.size());
  sorted.name_ends_.reserve(size());
  sorted.sizes_.reserve(size());
  sorted.validator_ends_.reserve(size());
  for (size_t i : order) {
    const Object object = (*this)[i];
    sorted.Add(object.name, object.size, object.validator);
  }
  *this = std::move(sorted);
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
  ObjectTable once;
  once.Reserve(size() - repeats, names_.size(), validators_.size());
  for (size_t i = 0; i < size(); ++i) {
    const Object object = (*this)[i];
    if (i == 0 || object.name != (*this)[i - 1].name) once.Add(object.name, object.size, object.validator);
  }
  *this = std::move(once);
  return absl::OkStatus();
}

}  // namespace devmem
