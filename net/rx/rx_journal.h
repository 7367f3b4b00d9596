// SPDX-License-Identifier: Apache-2.0
// What one process changes on one NIC, on disk before it is changed: <folder>/rx-<ifindex>-<network namespace>-<pid
// namespace>-<pid>-<start time>.json: containers share folders, and each has a process 1.
//
//   The file is replaced as a whole (written beside, synced, renamed), so that a reader sees the old text or the new.
//   Its process holds an flock on it for as long as it lives. The kernel lets go of that lock when the process dies, whichever
//   way, and it is seen from other pid namespaces too: who gets the lock may put the NIC back.
//   Several processes may have changed one NIC. Who sets it up or puts it back holds the folder meanwhile (RxFolder), reads the
//   others' journals, and takes over from them what the NIC was before the first of them.
//
// Threads: the owner's business.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/unique_fd.h"
#include "net/netlink/ethtool.h"
#include "net/netlink/flow_rules.h"

namespace devmem {

struct RxJournal {
  struct FeatureChange {
    std::string name;
    bool was = false;  // set to the opposite
  };
  struct SplitChange {  // set to on, threshold 0
    HeaderSplit was = HeaderSplit::kUnknown;
    std::optional<uint32_t> threshold_was;
    bool resetting = false;  // it is being put back: what it reads now is of our own making
  };
  struct RssChange {
    std::vector<uint32_t> was, set;
    bool resetting = false;
    bool by_kernel = false;  // a handle resets it at its end: then a driver's default is of our making too
  };
  struct Rule {
    FlowMatch match;
    uint32_t queue = 0;
  };

  // Whose.
  int64_t pid = 0;
  uint64_t pid_namespace = 0;  // inode
  uint64_t start_time = 0;     // of the process, clock ticks since boot
  std::string boot_id;
  uint64_t netns = 0;  // inode
  std::string interface;
  uint32_t ifindex = 0;
  NicIdentity nic;  // which it is, wherever it goes

  // What was done, or was about to be.
  std::vector<uint32_t> queues;
  uint32_t dmabuf = 0;  // 0: not bound yet
  std::vector<FeatureChange> features;
  std::optional<SplitChange> header_split;
  std::optional<RssChange> rss;
  std::vector<Rule> rules;

  // Of this process, nothing done yet.
  [[nodiscard]] static absl::StatusOr<RxJournal> Here(const std::string& interface, uint32_t ifindex);
  [[nodiscard]] std::string ToJson() const;
  // kDataLoss, with what is wrong, for what no process of ours wrote whole.
  [[nodiscard]] static absl::StatusOr<RxJournal> Parse(std::string_view json);
};

// Whether both are of one NIC, as far as can be told.
[[nodiscard]] bool OfOneNic(const RxJournal& a, const RxJournal& b);

[[nodiscard]] absl::StatusOr<std::string> BootId();
[[nodiscard]] absl::StatusOr<uint64_t> NetnsInode();  // of the calling thread

// One process at a time sets up a NIC, or puts one back. Held as long as this lives.
class RxFolder {
 public:
  // Makes the folder if need be. kUnavailable if another had it until the deadline. `pause` passes time between two looks.
  [[nodiscard]] static absl::StatusOr<RxFolder> Hold(const std::string& folder, Time deadline,
                                                     const std::function<void(Duration)>& pause);

 private:
  explicit RxFolder(UniqueFd fd) : locked_(std::move(fd)) {}
  UniqueFd locked_;
};

struct OtherJournal {
  std::string path;
  bool lives = false;  // its process
  RxJournal journal;
};

// A journal as it is for who only looks.
struct SeenJournal {
  std::string path;
  bool lives = false;  // its process; not known if the journal cannot be read
  absl::StatusOr<RxJournal> journal;
};
// All there are in a folder, by path. Makes, removes and changes nothing, and needs no more than the right to read. The folder
// is held meanwhile: a look at a journal's lock is a lock, and who puts NICs back would take it for a living process's.
// kNotFound if there is no such folder; kUnavailable if another had it until the deadline. `pause` as for RxFolder.
[[nodiscard]] absl::StatusOr<std::vector<SeenJournal>> LookAtJournals(const std::string& folder, Time deadline,
                                                                      const std::function<void(Duration)>& pause);

class RxJournalFile {
 public:
  // A new one. Where an earlier binding of this process could not put all back, its file goes on, and `journal` has what stands
  // in it. kAlreadyExists if there is a living one for this NIC and process.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<RxJournalFile>> Make(const std::string& folder, RxJournal& journal);
  // One that nobody holds any more, with its text. kUnavailable if its process lives; kNotFound if it went meanwhile.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<RxJournalFile>> Adopt(const std::string& path);
  // Paths of all there are, sorted. Removes what dead processes left half written beside them.
  [[nodiscard]] static std::vector<std::string> All(const std::string& folder);

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const std::string& text() const { return text_; }  // as adopted
  // What other files here say was changed on the NIC of `journal`, since this boot.
  [[nodiscard]] std::vector<OtherJournal> Others(const RxJournal& journal) const;
  [[nodiscard]] absl::Status Write(const RxJournal& journal);
  [[nodiscard]] absl::Status Remove();

 private:
  explicit RxJournalFile(std::string path) : path_(std::move(path)) {}
  [[nodiscard]] absl::Status Replace(const std::string& text);

  std::string path_;
  std::string text_;
  UniqueFd locked_;  // the file at path_; held, never read again
};

}  // namespace devmem
