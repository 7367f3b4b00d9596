// SPDX-License-Identifier: Apache-2.0
// What one process changes on one NIC, on disk before it is changed: <folder>/rx-<ifindex>-<pid>.json.
//
//   The file is replaced as a whole (written beside, synced, renamed), so that a reader sees the old text or the new.
//   Its process holds an flock on it for as long as it lives. The kernel lets go of that lock when the process dies, whichever
//   way, and it is seen from other pid namespaces too: who gets the lock may put the NIC back. (pid and start time are for
//   people.)
//
// Threads: the owner's business.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
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
  };
  struct Rule {
    FlowMatch match;
    uint32_t queue = 0;
  };

  // Whose.
  int64_t pid = 0;
  uint64_t start_time = 0;  // of the process, clock ticks since boot
  std::string boot_id;
  uint64_t netns = 0;  // inode
  std::string interface;
  uint32_t ifindex = 0;

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

[[nodiscard]] absl::StatusOr<std::string> BootId();
[[nodiscard]] absl::StatusOr<uint64_t> NetnsInode();  // of the calling thread

class RxJournalFile {
 public:
  // A new one; makes the folder if need be. kAlreadyExists if there is one for this NIC and process.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<RxJournalFile>> Make(const std::string& folder, const RxJournal& journal);
  // One that nobody holds any more, with its text. kUnavailable if its process lives; kNotFound if it went meanwhile.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<RxJournalFile>> Adopt(const std::string& path);
  // Paths of all there are, sorted. Removes what dead processes left half written beside them.
  [[nodiscard]] static std::vector<std::string> All(const std::string& folder);

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const std::string& text() const { return text_; }  // as adopted
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
