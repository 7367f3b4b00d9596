// SPDX-License-Identifier: Apache-2.0
#include "service/header_reader.h"

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"

namespace devmem {
namespace {

constexpr int kParallel = 32;
// Objects a wave: at most 2048 * 16 KiB = 32 MiB of headers are held at once, and a wave's slow end costs little.
constexpr size_t kWave = 2048;
// Bytes one SmallRead may ask for, and one round of follow-up reads altogether (unless a single header is larger).
constexpr uint64_t kLongestRead = uint64_t{64} << 20;

struct Header {
  size_t position = 0;
  uint64_t size = 0;  // of the object
  uint64_t need = 0;  // bytes from the start
  std::string validator;
  std::string bytes;
  HeldMemory memory;  // what the bytes take
  absl::Status status;
};

struct Suspect {
  size_t position = 0;
  absl::Status status;
};

bool IsStrongETag(std::string_view validator) { return validator.starts_with('"'); }

std::string_view Prefer(std::string_view learnt, std::string_view listed) {
  if (learnt.empty() || (IsStrongETag(listed) && !IsStrongETag(learnt))) return listed;
  return learnt;
}

absl::Status Check(const SmallRead& read, uint64_t listed_size) {
  if (read.status.code() == absl::StatusCode::kNotFound && ScopeOf(read.status) != Scope::kStore) {
    return MakeError(
        absl::StatusCode::kNotFound, "object is gone since it was listed",
        {.object = read.object, .fault = Fault::kObjectGone, .cause = "object vanished", .action = "open the stream again"});
  }
  if (!read.status.ok()) return WithObject(read.status, read.object);
  if (read.object_size != listed_size) {
    return MakeError(absl::StatusCode::kAborted,
                     read.elsewhere ? "object has another size where it was redirected to than it was listed with"
                                    : "object has " + std::to_string(read.object_size) + " bytes, and had " +
                                          std::to_string(listed_size) + " when it was listed",
                     {.object = read.object,
                      .fault = Fault::kObjectChanged,
                      .cause = "object changed",
                      .action = "open the stream when writing has ended"});
  }
  if (read.bytes.size() != read.length) {
    return MakeError(absl::StatusCode::kUnavailable, "the store sent " + std::to_string(read.bytes.size()) + " bytes",
                     {.object = read.object,
                      .offset = read.offset,
                      .length = read.length,
                      .fault = Fault::kTruncated,
                      .cause = "short answer",
                      .action = "check the store"});
  }
  return absl::OkStatus();
}

// Extends headers[begin, end) by one read each, as far as `need` or the longest read, or notes why one could not be read.
absl::Status Extend(const ObjectStore& store, const ObjectTable& listing, std::span<const uint32_t> objects,
                    std::span<Header> headers, Time deadline, const ProgressFn& progress) {
  std::vector<SmallRead> reads(headers.size());
  for (size_t i = 0; i < headers.size(); ++i) {
    const Header& header = headers[i];
    reads[i].object = std::string(listing[objects[header.position]].name);
    reads[i].offset = header.bytes.size();
    reads[i].length = std::min(header.need - header.bytes.size(), kLongestRead);
    reads[i].validator = header.validator;
  }
  DEVMEM_RETURN_IF_ERROR(store.ReadSmall(reads, kParallel, deadline, progress));
  for (size_t i = 0; i < headers.size(); ++i) {
    headers[i].status = Check(reads[i], headers[i].size);
    if (!headers[i].status.ok()) continue;
    if (headers[i].bytes.empty()) {
      headers[i].bytes = std::move(reads[i].bytes);
      headers[i].memory = std::move(reads[i].memory);
      headers[i].validator = std::move(reads[i].object_validator);
    } else {
      const uint64_t whole = headers[i].bytes.size() + reads[i].bytes.size();
      if (headers[i].memory.account() == nullptr) headers[i].memory = HeldMemory(listing.account());
      DEVMEM_RETURN_IF_ERROR(headers[i].memory.Resize(headers[i].bytes.size() + whole));
      headers[i].bytes.reserve(whole);
      headers[i].bytes += reads[i].bytes;
      DEVMEM_RETURN_IF_ERROR(headers[i].memory.Resize(whole));
    }
  }
  return absl::OkStatus();
}

// Whose fault it is that `suspects` could not be read: their own, if an object that could be, `witness`, still can.
absl::Status Judge(const ObjectStore& store, const ObjectTable& listing, std::span<const uint32_t> objects,
                   std::span<const Suspect> suspects, std::optional<size_t> witness, Time deadline,
                   const UnreadableFn& unreadable) {
  if (suspects.empty()) return absl::OkStatus();
  if (!witness.has_value()) return suspects.front().status;
  SmallRead again;
  again.object = std::string(listing[objects[*witness]].name);
  again.length = 1;
  DEVMEM_RETURN_IF_ERROR(store.ReadSmall(std::span(&again, 1), 1, deadline, nullptr));
  if (!again.status.ok()) return suspects.front().status;
  for (const Suspect& suspect : suspects) {
    DEVMEM_RETURN_IF_ERROR(unreadable(suspect.position, WithScope(suspect.status, Scope::kObject)));
  }
  return absl::OkStatus();
}

// How many of `headers`, one at least, one round may read.
size_t Round(std::span<const Header> headers) {
  uint64_t bytes = 0;
  size_t count = 0;
  while (count < headers.size()) {
    bytes += std::min(headers[count].need - headers[count].bytes.size(), kLongestRead);
    if (count > 0 && bytes > kLongestRead) break;
    ++count;
  }
  return count;
}

}  // namespace

absl::StatusOr<ObjectTable> ReadHeaders(const ObjectStore& store, const ObjectTable& listing, std::span<const uint32_t> objects,
                                        uint64_t first_read, Time deadline, const ProgressFn& progress,
                                        const ParseHeaderFn& parse, const UnreadableFn& unreadable) {
  ObjectTable read(listing.account());
  std::optional<size_t> witness;  // an object that could be read
  for (size_t begin = 0; begin < objects.size(); begin += kWave) {
    const size_t end = std::min(begin + kWave, objects.size());
    std::vector<std::string> validators(end - begin);
    std::vector<Header> waiting;
    std::vector<Suspect> suspects;
    uint64_t done = begin;
    for (size_t position = begin; position < end; ++position) {
      const ObjectTable::Object object = listing[objects[position]];
      if (object.size == 0) {  // nothing to read: the parser says what it thinks of that
        DEVMEM_RETURN_IF_ERROR(parse(position, {}, 0).status());
        ++done;
        continue;
      }
      waiting.push_back({.position = position, .size = object.size, .need = std::min(object.size, first_read)});
    }
    while (!waiting.empty()) {
      const size_t round = Round(waiting);
      const ProgressFn report = [&](uint64_t finished, uint64_t) {
        return progress == nullptr || progress(std::min<uint64_t>(done + finished, objects.size()), objects.size());
      };
      DEVMEM_RETURN_IF_ERROR(Extend(store, listing, objects, std::span(waiting).first(round), deadline, report));
      std::vector<Header> again;
      for (size_t i = 0; i < round; ++i) {
        Header& header = waiting[i];
        if (!header.status.ok()) {
          if (unreadable != nullptr && ScopeOf(header.status) == Scope::kObject) {
            DEVMEM_RETURN_IF_ERROR(unreadable(header.position, header.status));
          } else if (unreadable != nullptr && ScopeOf(header.status) == Scope::kStore &&
                     MayBeTheObjects(FaultOf(header.status))) {
            suspects.push_back({header.position, header.status});
          } else {
            return header.status;
          }
          ++done;
          continue;
        }
        witness = header.position;
        if (header.bytes.size() == header.need) {
          DEVMEM_ASSIGN_OR_RETURN(const uint64_t need, parse(header.position, header.bytes, header.size));
          if (need == 0) {
            validators[header.position - begin] = std::move(header.validator);
            ++done;
            continue;
          }
          if (need <= header.bytes.size() || need > header.size) {
            return MakeError(absl::StatusCode::kInternal, "header parser asked for what cannot be had",
                             {.object = std::string(listing[objects[header.position]].name)});
          }
          header.need = need;
        }
        again.push_back(std::move(header));
      }
      for (size_t i = round; i < waiting.size(); ++i) again.push_back(std::move(waiting[i]));
      waiting = std::move(again);
    }
    DEVMEM_RETURN_IF_ERROR(Judge(store, listing, objects, suspects, witness, deadline, unreadable));
    for (size_t position = begin; position < end; ++position) {
      const ObjectTable::Object object = listing[objects[position]];
      const std::string_view validator = Prefer(validators[position - begin], object.validator);
      DEVMEM_RETURN_IF_ERROR(read.MakeRoom(object.name.size(), validator.size()));
      read.Add(object.name, object.size, validator);
    }
    if (progress != nullptr && !progress(end, objects.size())) {
      return MakeError(absl::StatusCode::kCancelled, "cancelled while reading headers", {.object = store.uri()});
    }
  }
  return read;
}

}  // namespace devmem
