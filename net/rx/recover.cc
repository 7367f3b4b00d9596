// SPDX-License-Identifier: Apache-2.0
// For each journal: its process lives (it holds the lock): nothing. Not readable: kept, for a person. Of another boot: removed,
// the NIC began anew. Its NIC is not in this network namespace: kept, for a start where it is, or when it is here; the
// namespace it was in may be gone, and the NIC then is in the first. Its binding was handed on to a process that lives:
// removed, for that one's has all. Else the NIC is put back, wherever it was and whatever its name is now, and the journal
// removed if all of it could be.
#include <chrono>
#include <functional>
#include <optional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "net/rx/put_back.h"
#include "net/rx/rx_binding_on.h"
#include "net/rx/rx_journal.h"

namespace devmem {
namespace {

using std::chrono::seconds;

// The kernel undoes a dead process's binding in 13 ms; a driver that resets its NIC for it may take seconds.
constexpr Duration kPatience = seconds(10);

class Recovery {
 public:
  Recovery(const std::function<absl::StatusOr<std::unique_ptr<RxKernel>>()>& open, Duration patience, const RxFolder& folder)
      : open_(open), patience_(patience), folder_(folder) {}

  void Treat(const std::string& path) {
    absl::StatusOr<std::unique_ptr<RxJournalFile>> file = RxJournalFile::Adopt(path);
    if (file.status().code() == absl::StatusCode::kUnavailable || file.status().code() == absl::StatusCode::kNotFound) return;
    if (!file.ok()) return Say(path, absl::StrCat("kept: ", Text(file.status())));
    absl::StatusOr<RxJournal> journal = RxJournal::Parse((*file)->text());
    if (!journal.ok()) return Say(path, absl::StrCat("kept, look at it and remove it: ", Text(journal.status())));
    const absl::StatusOr<std::string> boot = BootId();
    if (!boot.ok()) return Say(path, absl::StrCat("kept: ", Text(boot.status())));
    if (journal->boot_id != *boot) return Remove(**file, "from before this machine's last start, nothing to put back");
    const absl::StatusOr<uint64_t> netns = NetnsInode();
    if (!netns.ok()) return Say(path, absl::StrCat("kept: ", Text(netns.status())));
    PutBackNic(*journal, **file, *netns);
  }

  [[nodiscard]] std::vector<std::string> lines() && { return std::move(lines_); }

 private:
  void Say(const std::string& path, const std::string& what) { lines_.push_back(absl::StrCat("journal ", path, ": ", what)); }

  void Remove(RxJournalFile& file, const std::string& why) {
    const absl::Status status = file.Remove();
    Say(file.path(), status.ok() ? absl::StrCat("removed: ", why) : absl::StrCat(why, ", but: ", Text(status)));
  }

  void PutBackNic(RxJournal& journal, RxJournalFile& file, uint64_t netns) {
    if (kernel_ == nullptr) {
      absl::StatusOr<std::unique_ptr<RxKernel>> opened = open_();
      if (!opened.ok()) return Say(file.path(), absl::StrCat("kept: ", Text(opened.status())));
      kernel_ = *std::move(opened);
    }
    const absl::StatusOr<Link> link = FindNic(*kernel_, journal, netns);
    if (link.status().code() == absl::StatusCode::kNotFound) {
      return Say(file.path(), absl::StrCat("kept: ", DescribeNic(journal), " is not in this network namespace (it was in ",
                                           journal.netns, "): the next start where it is puts it back"));
    }
    if (!link.ok()) return Say(file.path(), absl::StrCat("kept: ", Text(link.status())));
    for (const OtherJournal& other : file.Others(journal)) {
      if (!other.lives || journal.dmabuf == 0 || other.journal.dmabuf != journal.dmabuf) continue;
      Restored restored;  // rules of one that died when it had just adopted it
      TakeRulesOut({*kernel_, link->interface, journal, file}, restored);
      for (const auto* lines : {&restored.done, &restored.foreign, &restored.failed}) {
        lines_.insert(lines_.end(), lines->begin(), lines->end());
      }
      if (!restored.failed.empty()) return Say(file.path(), "kept for the next start: not all could be put back");
      return Remove(file, absl::StrCat("its binding was handed on to process ", other.journal.pid, ", and lives there"));
    }
    const JournalledNic nic{*kernel_, link->interface, journal, file};  // by the name that it has now
    PutBack result = PutNicBack(nic, *link, {.deadline = Clock::now() + patience_, .held = &folder_});
    const std::string left_by = absl::StrCat(" (left by process ", journal.pid, ")");
    for (const auto* lines : {&result.restored.done, &result.restored.foreign, &result.restored.failed}) {
      for (const std::string& line : *lines) lines_.push_back(line + left_by);
    }
    if (!result.restored.failed.empty()) return Say(file.path(), "kept for the next start: not all could be put back");
    Remove(file, absl::StrCat(link->interface, " is put back"));
  }

  const std::function<absl::StatusOr<std::unique_ptr<RxKernel>>()>& open_;
  const Duration patience_;
  const RxFolder& folder_;
  std::unique_ptr<RxKernel> kernel_;
  std::vector<std::string> lines_;
};

}  // namespace

std::vector<std::string> RecoverOn(const std::function<absl::StatusOr<std::unique_ptr<RxKernel>>()>& open,
                                   const std::string& folder, Duration patience) {
  if (RxJournalFile::All(folder).empty()) return {};
  const absl::StatusOr<RxFolder> held = RxFolder::Hold(
      folder, Clock::now() + patience, [](Duration pause) { std::this_thread::sleep_for(pause); });  // only how often we look
  if (!held.ok()) return {absl::StrCat("journals are not looked at: ", Text(held.status()))};
  Recovery recovery(open, patience, *held);
  for (const std::string& path : RxJournalFile::All(folder)) recovery.Treat(path);
  return std::move(recovery).lines();
}

std::vector<std::string> Recover(const std::string& folder) { return RecoverOn(RxKernel::Open, folder, kPatience); }

}  // namespace devmem
