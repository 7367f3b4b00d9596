// SPDX-License-Identifier: Apache-2.0
#include "service/listing_cache.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "service/index.h"

namespace devmem {
namespace {

// How soon an opener that waits for another's answer sees that its trainer is gone.
constexpr Duration kGlance = std::chrono::milliseconds(50);

constexpr uint64_t kBytesOfObject = 3 * sizeof(uint64_t);  // in an ObjectTable, besides name and validator

uint64_t BytesOf(const ObjectTable& objects) {
  uint64_t bytes = objects.size() * kBytesOfObject;
  for (size_t i = 0; i < objects.size(); ++i) bytes += objects[i].name.size() + objects[i].validator.size();
  return bytes;
}

// Counted in `account` (null: nowhere), and no more of it than it needs.
absl::StatusOr<ObjectTable> CopyOf(const ObjectTable& objects, std::shared_ptr<MemoryAccount> account) {
  size_t names = 0;
  size_t validators = 0;
  for (size_t i = 0; i < objects.size(); ++i) {
    names += objects[i].name.size();
    validators += objects[i].validator.size();
  }
  ObjectTable copy(std::move(account));
  DEVMEM_RETURN_IF_ERROR(copy.Reserve(objects.size(), names, validators));
  for (size_t i = 0; i < objects.size(); ++i) {
    const ObjectTable::Object object = objects[i];
    copy.Add(object.name, object.size, object.validator);
  }
  return copy;
}

}  // namespace

std::string ListingKey(std::string_view uri, std::string_view endpoint, std::string_view peer) {
  // None of them can hold a newline: a URI with one is refused, and a peer is numbers.
  return absl::StrCat(std::string(peer), "\n", std::string(endpoint), "\n", std::string(uri));
}

// Holds the right to ask for an answer. Gives it back when destroyed, with the answer or without: then another asks.
template <typename Value>
class ListingCache::Asking {
 public:
  Asking(ListingCache& cache, std::shared_ptr<Listing> listing, Answer<Value>& answer)
      : cache_(cache), listing_(std::move(listing)), answer_(answer) {}
  Asking(const Asking&) = delete;
  Asking& operator=(const Asking&) = delete;
  ~Asking() {
    std::lock_guard lock(cache_.mutex_);
    answer_.asking = false;
    if (value_ != nullptr) {
      answer_.value = std::move(value_);
      answer_.memory = std::move(memory_);
      listing_->since = cache_.now_();
    }
    cache_.changed_.notify_all();
  }

  // Of the caller's `progress`, told to those who wait, too.
  [[nodiscard]] ProgressFn Told(const ProgressFn& progress) {
    return [this, &progress](uint64_t done, uint64_t total) {
      answer_.done = done;
      return progress == nullptr || progress(done, total);
    };
  }
  // Keeps what `copy` makes, if there is room for so many bytes.
  template <typename Copy>
  void Keep(uint64_t bytes, const Copy& copy) {
    memory_ = cache_.budget_->Keep(bytes);
    if (memory_ != nullptr) value_ = std::make_shared<const Value>(copy());
  }

 private:
  ListingCache& cache_;
  const std::shared_ptr<Listing> listing_;
  Answer<Value>& answer_;
  std::shared_ptr<const Value> value_;
  MemoryBudget::Reservation memory_;
};

template <typename Value>
absl::StatusOr<std::shared_ptr<const Value>> ListingCache::Wait(Answer<Value>& answer, std::string_view uri, Time deadline,
                                                                const ProgressFn& progress) {
  std::unique_lock lock(mutex_);
  while (answer.asking) {
    ++waiting_;
    changed_.wait_until(lock, std::min(deadline, Clock::now() + kGlance));
    --waiting_;
    if (!answer.asking) break;
    if (Clock::now() >= deadline) {
      return MakeError(absl::StatusCode::kDeadlineExceeded,
                       "the deadline passed while another stream of this daemon listed the bucket",
                       {.object = std::string(uri),
                        .fault = Fault::kTimeout,
                        .cause = "deadline",
                        .action = "allow more time, or check the store"});
    }
    lock.unlock();
    if (progress != nullptr && !progress(answer.done, 0)) {
      return MakeError(absl::StatusCode::kCancelled, "cancelled by the caller",
                       {.object = std::string(uri), .cause = "cancelled"});
    }
    lock.lock();
  }
  if (answer.value == nullptr) {
    answer.asking = true;
    answer.done = 0;
  }
  return answer.value;
}

bool ListingCache::Asked(const Listing& listing) {
  return listing.objects.asking ||
         std::any_of(listing.index.begin(), listing.index.end(), [](const auto& piece) { return piece.second.asking; });
}

void ListingCache::Drop(std::list<Place>::iterator at) {
  by_key_.erase(at->key);
  places_.erase(at);
}

void ListingCache::DropOld(const std::string& key) {
  const Time now = now_();
  for (auto at = places_.begin(); at != places_.end();) {
    const auto here = at++;
    const Listing& listing = *here->listing;
    if (listing.since.has_value() && now - *listing.since >= age_ && !Asked(listing)) Drop(here);
  }
  if (by_key_.contains(key)) return;
  const std::string_view peer = std::string_view(key).substr(0, key.find('\n') + 1);
  size_t own = 0;
  auto oldest = places_.end();
  for (auto at = places_.begin(); at != places_.end(); ++at) {
    if (!at->key.starts_with(peer)) continue;
    ++own;
    oldest = at;
  }
  if (own >= kMostOfPeer) Drop(oldest);
  while (places_.size() >= kMostListings) Drop(std::prev(places_.end()));
}

std::shared_ptr<ListingCache::Listing> ListingCache::Find(const std::string& key) {
  if (const auto at = by_key_.find(key); at != by_key_.end()) {
    places_.splice(places_.begin(), places_, at->second);
  } else {
    places_.push_front({.key = key, .listing = std::make_shared<Listing>()});
    by_key_[key] = places_.begin();
  }
  return places_.front().listing;
}

std::shared_ptr<ListingCache::Listing> ListingCache::Get(const std::string& key) {
  std::lock_guard lock(mutex_);
  DropOld(key);
  return Find(key);
}

std::shared_ptr<ListingCache::Listing> ListingCache::Renew(const std::string& key, const std::shared_ptr<Listing>& stale) {
  std::lock_guard lock(mutex_);
  const auto at = by_key_.find(key);
  if (at != by_key_.end() && at->second->listing == stale) Drop(at->second);
  DropOld(key);
  return Find(key);
}

void ListingCache::Forget(const std::string& key, const std::shared_ptr<Listing>& stale) {
  std::lock_guard lock(mutex_);
  const auto at = by_key_.find(key);
  if (at != by_key_.end() && at->second->listing == stale) Drop(at->second);
}

void ListingCache::Clear() {
  std::lock_guard lock(mutex_);
  // Who is being served keeps its listing, and none of the memory that is counted.
  for (const Place& place : places_) {
    place.listing->objects.value = nullptr;
    place.listing->objects.memory = nullptr;
    for (auto& [where, piece] : place.listing->index) {
      piece.value = nullptr;
      piece.memory = nullptr;
    }
  }
  by_key_.clear();
  places_.clear();
}

size_t ListingCache::size() {
  std::lock_guard lock(mutex_);
  return places_.size();
}

size_t ListingCache::waiting() {
  std::lock_guard lock(mutex_);
  return waiting_;
}

ListedStore::ListedStore(std::shared_ptr<ListingCache> cache, std::shared_ptr<const ObjectStore> store, std::string key,
                         std::shared_ptr<MemoryAccount> memory)
    : cache_(std::move(cache)), store_(std::move(store)), key_(std::move(key)), memory_(std::move(memory)) {
  if (cache_ != nullptr) listing_ = cache_->Get(key_);
}

void ListedStore::Renew() {
  if (cache_ == nullptr) return;
  listing_ = cache_->Renew(key_, listing_);
  shared_ = false;
}

std::function<void()> ListedStore::Forgetter() const {
  return [cache = std::weak_ptr(cache_), listing = std::weak_ptr(listing_), key = key_] {
    const auto whose = cache.lock();
    const auto stale = listing.lock();
    if (whose != nullptr && stale != nullptr) whose->Forget(key, stale);
  };
}

absl::StatusOr<ObjectTable> ListedStore::List(Time deadline, const ProgressFn& progress) const {
  if (cache_ == nullptr) return store_->List(deadline, progress);
  auto& answer = listing_->objects;
  DEVMEM_ASSIGN_OR_RETURN(const std::shared_ptr<const ObjectTable> kept, cache_->Wait(answer, uri(), deadline, progress));
  if (kept != nullptr) {
    shared_ = true;
    return CopyOf(*kept, memory_);
  }
  ListingCache::Asking<ObjectTable> asking(*cache_, listing_, answer);
  absl::StatusOr<ObjectTable> objects = store_->List(deadline, asking.Told(progress));
  if (objects.ok())
    asking.Keep(BytesOf(*objects), [&] { return *CopyOf(*objects, nullptr); });  // uncounted, it cannot be refused
  return objects;
}

absl::Status ListedStore::ReadSmall(std::span<SmallRead> reads, int parallel, Time deadline, const ProgressFn& progress) const {
  const bool index = reads.size() == 1 && reads.front().object == kIndexName;
  if (cache_ == nullptr || !index) return store_->ReadSmall(reads, parallel, deadline, progress);
  SmallRead& read = reads.front();
  ListingCache::Answer<ListingCache::IndexPiece>* answer = nullptr;
  {
    std::lock_guard lock(cache_->mutex_);
    auto& pieces = listing_->index;
    const std::pair<uint64_t, uint64_t> where{read.offset, read.length};
    if (pieces.size() < ListingCache::kMostIndexPieces || pieces.contains(where)) answer = &pieces[where];
  }
  if (answer == nullptr) return store_->ReadSmall(reads, parallel, deadline, progress);
  DEVMEM_ASSIGN_OR_RETURN(const auto kept, cache_->Wait(*answer, uri(), deadline, progress));
  if (kept != nullptr) {
    // A piece of another version than the pieces before: those were not kept. The store knows which it has now.
    if (!read.validator.empty() && read.validator != kept->object_validator) {
      return store_->ReadSmall(reads, parallel, deadline, progress);
    }
    shared_ = true;
    read.memory = HeldMemory(memory_);
    read.status = read.memory.Resize(kept->bytes.size());
    if (!read.status.ok()) return absl::OkStatus();
    read.status = kept->status;
    read.bytes = kept->bytes;
    read.object_size = kept->object_size;
    read.object_validator = kept->object_validator;
    read.object_modified = kept->object_modified;
    read.elsewhere = kept->elsewhere;
    return absl::OkStatus();
  }
  ListingCache::Asking<ListingCache::IndexPiece> asking(*cache_, listing_, *answer);
  const absl::Status status = store_->ReadSmall(reads, parallel, deadline, asking.Told(progress));
  // That there is no index is an answer, too: or one stream would read the index that is written now, and the next to it not.
  if (status.ok() && (read.status.ok() || absl::IsNotFound(read.status) || absl::IsPermissionDenied(read.status))) {
    constexpr uint64_t kBesides = 1024;
    asking.Keep(read.bytes.size() + kBesides, [&] {
      return ListingCache::IndexPiece{.status = read.status,
                                      .bytes = read.bytes,
                                      .object_size = read.object_size,
                                      .object_validator = read.object_validator,
                                      .object_modified = read.object_modified,
                                      .elsewhere = read.elsewhere};
    });
  }
  return status;
}

}  // namespace devmem
