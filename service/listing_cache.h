// SPDX-License-Identifier: Apache-2.0
// ListingCache: one listing a daemon, bucket and user, shared by the streams that are opened within a minute of it, so that the
// ranks of a node share out the same samples and the store is asked once for all of them.
//
//   auto cache = std::make_shared<ListingCache>(&budget);
//   ListedStore listed(cache, store, ListingKey(uri, endpoint, peer));
//   BuildDataset(listed, …);                       // the store, but for the listing and the index, which may be another open's
//   if (stale && listed.shared()) listed.Renew();  // whoever is refused for a stale listing asks the store first
//
// A listing is the answers to List() and to reads of the bucket's index (that there is none is one, too). Headers and payload
// are read anew by each stream, under the validators of the listing. It is good for `age` from its last answer on. Of those who
// want the same answer one asks the store, under its own deadline, and the others wait under theirs; if it fails or leaves, the
// next of them asks. Errors are not kept.
//
// Memory: every answer kept is counted in the budget, up to a quarter of it, and thrown away when a stream needs the memory. An
// answer for which there is no room is not kept. At most kMostListings are.
//
// Threads: ListingCache is thread-safe; it outlives its ListedStores by their references. A ListedStore may be used as any
// ObjectStore; Renew() only while nothing else is asked of it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/clock.h"
#include "base/memory_account.h"
#include "net/object_store.h"
#include "service/memory_budget.h"

namespace devmem {

inline constexpr Duration kListingAge = std::chrono::seconds(60);

// Of a bucket's canonical URI, the endpoint that the trainer names (or nothing) and who it is: a listing made for one user is
// never another's, whatever either may read.
[[nodiscard]] std::string ListingKey(std::string_view uri, std::string_view endpoint, std::string_view peer);

class ListingCache : public std::enable_shared_from_this<ListingCache> {
 public:
  static constexpr size_t kMostListings = 64;
  static constexpr size_t kMostOfPeer = 16;       // so that nobody's many buckets push out another's
  static constexpr size_t kMostIndexPieces = 64;  // of one listing

  // The budget must outlive it.
  explicit ListingCache(MemoryBudget* budget, Duration age = kListingAge, std::function<Time()> now = Clock::now)
      : budget_(budget), age_(age), now_(std::move(now)) {}

  // Throws away what nobody waits for: memory is short.
  void Clear();

  [[nodiscard]] size_t size();     // listings
  [[nodiscard]] size_t waiting();  // openers that wait for another's answer, now

 private:
  friend class ListedStore;

  // What a store answered, or will.
  template <typename Value>
  struct Answer {
    bool asking = false;
    std::atomic<uint64_t> done = 0;      // of the one who asks, for the progress of those who wait
    std::shared_ptr<const Value> value;  // null: not asked, or not kept
    MemoryBudget::Reservation memory;
  };
  struct IndexPiece {
    absl::Status status;
    std::string bytes;
    uint64_t object_size = 0;
    std::string object_validator;
    int64_t object_modified = 0;
    bool elsewhere = false;
  };
  struct Listing {
    std::optional<Time> since;  // of the last answer kept
    Answer<ObjectTable> objects;
    std::map<std::pair<uint64_t, uint64_t>, Answer<IndexPiece>> index;  // by offset and length
  };
  struct Place {
    std::string key;
    std::shared_ptr<Listing> listing;
  };

  std::shared_ptr<Listing> Get(const std::string& key);
  std::shared_ptr<Listing> Renew(const std::string& key, const std::shared_ptr<Listing>& stale);
  void Forget(const std::string& key, const std::shared_ptr<Listing>& stale);

  // The answer, or null if the caller is the one to ask for it: then Asking says when it is done with that.
  template <typename Value>
  absl::StatusOr<std::shared_ptr<const Value>> Wait(Answer<Value>& answer, std::string_view uri, Time deadline,
                                                    const ProgressFn& progress);
  template <typename Value>
  class Asking;

  // mutex_ held.
  static bool Asked(const Listing& listing);
  void DropOld(const std::string& key);  // to make room for this one
  void Drop(std::list<Place>::iterator at);
  std::shared_ptr<Listing> Find(const std::string& key);

  MemoryBudget* const budget_;
  const Duration age_;
  const std::function<Time()> now_;

  std::mutex mutex_;
  std::condition_variable changed_;
  // All guarded by mutex_, the Listings too, but for Answer::done and what a value points to.
  std::list<Place> places_;  // last used first
  std::map<std::string, std::list<Place>::iterator, std::less<>> by_key_;
  size_t waiting_ = 0;
};

class ListedStore final : public ObjectStore {
 public:
  // A null cache shares nothing. What another's answer takes is counted in `memory`, as `store` counts its own.
  ListedStore(std::shared_ptr<ListingCache> cache, std::shared_ptr<const ObjectStore> store, std::string key,
              std::shared_ptr<MemoryAccount> memory = nullptr);

  [[nodiscard]] const std::string& uri() const override { return store_->uri(); }
  [[nodiscard]] absl::StatusOr<ObjectTable> List(Time deadline, const ProgressFn& progress) const override;
  [[nodiscard]] absl::Status ReadSmall(std::span<SmallRead> reads, int parallel, Time deadline,
                                       const ProgressFn& progress) const override;
  [[nodiscard]] absl::StatusOr<PayloadRequest> PrepareGet(std::string_view object) const override {
    return store_->PrepareGet(object);
  }
  [[nodiscard]] absl::StatusOr<PayloadRequest> Redirect(const PayloadRequest& from,
                                                        const std::string& location) const override {
    return store_->Redirect(from, location);
  }

  // Whether anything that was answered since the start, or since Renew(), was another open's.
  [[nodiscard]] bool shared() const { return shared_; }
  // Answers from a newer listing than so far: another's, if somebody renewed it meanwhile.
  void Renew();
  // Makes later opens ask the store: this listing has turned out to be stale. Keeps no listing alive.
  [[nodiscard]] std::function<void()> Forgetter() const;

 private:
  const std::shared_ptr<ListingCache> cache_;
  const std::shared_ptr<const ObjectStore> store_;
  const std::string key_;
  const std::shared_ptr<MemoryAccount> memory_;
  std::shared_ptr<ListingCache::Listing> listing_;
  mutable std::atomic<bool> shared_ = false;
};

}  // namespace devmem
