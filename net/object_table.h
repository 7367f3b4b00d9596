// SPDX-License-Identifier: Apache-2.0
// ObjectTable: names, sizes and validators of the objects of a bucket, stored by column so that 10^6 objects
// cost little more than their names. Immutable once built is the intended use; then thread-safe.
//
// Where a stranger says how many there are, the table is made with an account, and room is asked for before each Add:
//
//   ObjectTable objects(account);
//   DEVMEM_RETURN_IF_ERROR(objects.MakeRoom(name.size(), validator.size()));
//   objects.Add(name, size, validator);
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/memory_account.h"

namespace devmem {

class ObjectTable {
 public:
  // Views into the table; they live as long as it.
  struct Object {
    std::string_view name;       // below the bucket's root: "train/0001.npy"
    uint64_t size = 0;           // bytes
    std::string_view validator;  // strong ETag in quotes, else an HTTP date (Last-Modified), else empty
  };

  ObjectTable() = default;
  // What the table holds is counted in `account` (null: nowhere) for as long as it lives.
  explicit ObjectTable(std::shared_ptr<MemoryAccount> account) : held_(std::move(account)) {}

  // Room for what is known to come, so that adding 10^6 objects does not copy and does not overshoot.
  [[nodiscard]] absl::Status Reserve(size_t objects, size_t name_bytes, size_t validator_bytes);
  // Room for one more object, of a name and a validator of these lengths. kResourceExhausted if the account refuses it.
  [[nodiscard]] absl::Status MakeRoom(size_t name_bytes, size_t validator_bytes);
  void Add(std::string_view name, uint64_t size, std::string_view validator);
  void SetValidator(size_t index, std::string_view validator);  // linear in the table's later validators
  [[nodiscard]] absl::Status SortByName();                      // in a second table, where it is not sorted already
  // Of a sorted table: an object that the listing of `uri` names twice is one object. kFailedPrecondition if it is not the same
  // twice: nobody can say which of them it is.
  [[nodiscard]] absl::Status DropRepeats(std::string_view uri);

  [[nodiscard]] size_t size() const { return sizes_.size(); }
  [[nodiscard]] bool empty() const { return sizes_.empty(); }
  [[nodiscard]] Object operator[](size_t index) const;

  [[nodiscard]] const std::shared_ptr<MemoryAccount>& account() const { return held_.account(); }
  [[nodiscard]] uint64_t bytes() const;  // that are allocated

 private:
  HeldMemory held_;
  std::string names_;
  std::vector<uint64_t> name_ends_;
  std::vector<uint64_t> sizes_;
  std::string validators_;
  std::vector<uint64_t> validator_ends_;
};

}  // namespace devmem
