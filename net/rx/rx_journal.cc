// SPDX-License-Identifier: Apache-2.0
// The order in which a file is replaced, so that whoever finds one that is not locked may take it for a dead process's:
//
//   1. the new text goes to a file beside it, which is locked before anything is in it, and synced
//   2. rename() puts it in place: at no time is there a file under the journal's name that its living process has not locked
//   3. the folder is synced, and only now the old file's lock goes, with its descriptor
//
// Adopting: open, lock without waiting, then see that the name still leads to the file that was locked; else again.
#include "net/rx/rx_journal.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "nlohmann/json.hpp"

namespace devmem {
namespace {

using Json = nlohmann::json;

constexpr int kVersion = 2;
constexpr uintmax_t kLargest = 16 << 20;                       // 4,096 rules of some 150 bytes are 0.6 MB
constexpr Duration kLookAgain = std::chrono::milliseconds(5);  // for a lock: nothing announces that it is free
constexpr std::string_view kHalf = ".new";

constexpr std::array<std::pair<HeaderSplit, const char*>, 3> kSplits = {
    {{HeaderSplit::kUnknown, "unknown"}, {HeaderSplit::kOff, "off"}, {HeaderSplit::kOn, "on"}}};

// --- JSON -------------------------------------------------------------------------------------------------------------

Json EndpointToJson(const sockaddr_storage& endpoint) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  uint16_t port = 0;
  if (endpoint.ss_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(endpoint);
    inet_ntop(AF_INET6, &v6.sin6_addr, text.data(), text.size());
    port = ntohs(v6.sin6_port);
  } else {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(endpoint);
    inet_ntop(AF_INET, &v4.sin_addr, text.data(), text.size());
    port = ntohs(v4.sin_port);
  }
  return {{"address", text.data()}, {"port", port}};
}

// These throw what nlohmann throws, or std::invalid_argument; Parse() alone catches.
sockaddr_storage EndpointFromJson(const Json& json) {
  sockaddr_storage endpoint{};
  const auto& text = json.at("address").get_ref<const std::string&>();
  const in_port_t port = htons(json.at("port").get<uint16_t>());
  auto& v4 = reinterpret_cast<sockaddr_in&>(endpoint);
  auto& v6 = reinterpret_cast<sockaddr_in6&>(endpoint);
  if (inet_pton(AF_INET, text.c_str(), &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = port;
  } else if (inet_pton(AF_INET6, text.c_str(), &v6.sin6_addr) == 1) {
    v6.sin6_family = AF_INET6;
    v6.sin6_port = port;
  } else {
    throw std::invalid_argument("'" + text + "' is no address");
  }
  return endpoint;
}

HeaderSplit SplitFromJson(const Json& json) {
  for (const auto& [split, name] : kSplits) {
    if (json == name) return split;
  }
  throw std::invalid_argument("header split is neither on, off nor unknown");
}

RxJournal FromJson(const Json& json) {
  if (json.at("version").get<int>() != kVersion) throw std::invalid_argument("written by another version of this program");
  RxJournal journal;
  json.at("pid").get_to(journal.pid);
  json.at("pid_namespace").get_to(journal.pid_namespace);
  json.at("start_time").get_to(journal.start_time);
  json.at("boot_id").get_to(journal.boot_id);
  json.at("netns").get_to(journal.netns);
  json.at("interface").get_to(journal.interface);
  json.at("ifindex").get_to(journal.ifindex);
  const Json& nic = json.at("nic");
  nic.at("driver").get_to(journal.nic.driver);
  nic.at("bus").get_to(journal.nic.bus);
  nic.at("permanent_mac").get_to(journal.nic.permanent_mac);
  json.at("queues").get_to(journal.queues);
  json.at("dmabuf").get_to(journal.dmabuf);
  for (const Json& each : json.at("features")) journal.features.push_back({each.at("name"), each.at("was").get<bool>()});
  if (json.contains("header_split")) {
    const Json& split = json["header_split"];
    journal.header_split = RxJournal::SplitChange{.was = SplitFromJson(split.at("was"))};
    if (split.contains("threshold_was")) journal.header_split->threshold_was = split["threshold_was"].get<uint32_t>();
    split.at("resetting").get_to(journal.header_split->resetting);
  }
  if (json.contains("rss")) {
    const Json& rss = json["rss"];
    journal.rss = {rss.at("was").get<std::vector<uint32_t>>(), rss.at("set").get<std::vector<uint32_t>>(),
                   rss.at("resetting").get<bool>(), rss.value("by_kernel", false)};
  }
  for (const Json& each : json.at("rules")) {
    journal.rules.push_back(
        {{EndpointFromJson(each.at("source")), EndpointFromJson(each.at("destination"))}, each.at("queue").get<uint32_t>()});
  }
  return journal;
}

// --- files ------------------------------------------------------------------------------------------------------------

absl::StatusOr<std::string> FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return ErrnoError(errno == 0 ? EIO : errno, "cannot be read", {.object = path});
  return line;
}

// Field 22 of /proc/PID/stat; the second, the command's name, may hold blanks and ends with the last ')'.
absl::StatusOr<uint64_t> StartTime() {
  DEVMEM_ASSIGN_OR_RETURN(const std::string line, FirstLine("/proc/self/stat"));
  std::istringstream words(line.substr(line.rfind(')') + 1));
  std::string word;
  for (int field = 3; field <= 22; ++field) words >> word;
  uint64_t ticks = 0;
  std::from_chars(word.data(), word.data() + word.size(), ticks);
  return ticks;
}

absl::StatusOr<uint64_t> NamespaceInode(const std::string& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) return ErrnoError(errno, "which namespace this is cannot be told", {.object = path});
  return status.st_ino;
}

absl::Status JournalError(int error, std::string_view what, const std::string& path) {
  return ErrnoError(error, what,
                    {.object = path,
                     .cause = "journal not writable",
                     .action = "nothing on the NIC is changed without a journal: give a folder that can be written"});
}

absl::Status SyncFolder(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  const UniqueFd fd(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid() || fsync(fd.get()) != 0) return JournalError(errno, "the journal's folder cannot be synced", folder);
  return absl::OkStatus();
}

bool SameFile(int fd, const std::string& path) {
  struct stat held {
  }, named{};
  return fstat(fd, &held) == 0 && stat(path.c_str(), &named) == 0 && held.st_ino == named.st_ino && held.st_dev == named.st_dev;
}

// Opens and locks what `path` leads to; `how` is LOCK_EX, or LOCK_SH to see whether it could be.
absl::StatusOr<UniqueFd> Lock(const std::string& path, int how = LOCK_EX) {
  while (true) {
    UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (!fd.valid()) return ErrnoError(errno, "the journal cannot be opened", {.object = path});
    if (flock(fd.get(), how | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return ErrnoError(errno, "the journal cannot be locked", {.object = path});
      return MakeError(absl::StatusCode::kUnavailable, "the process that wrote this journal lives", {.object = path});
    }
    if (SameFile(fd.get(), path)) return fd;  // else it was replaced, or removed, since it was opened
  }
}

// Opens and locks a journals' folder: LOCK_EX, or LOCK_SH for who only looks.
absl::StatusOr<UniqueFd> LockFolder(const std::string& folder, int how, Time deadline,
                                    const std::function<void(Duration)>& pause) {
  const auto failed = [&](const char* what) {
    const int error = errno;
    if (how == LOCK_EX) return JournalError(error, what, folder);
    return ErrnoError(error, what,
                      {.object = folder,
                       .cause = "journals not readable",
                       .action = error == EACCES ? "look as root, or as the daemons' user"
                                                 : "give the folder that the daemons write their journals to"});
  };
  UniqueFd fd(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return failed("the journal's folder cannot be opened");
  while (flock(fd.get(), how | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return failed("the journal's folder cannot be locked");
    if (Clock::now() >= deadline) {
      return MakeError(absl::StatusCode::kUnavailable, "another process is setting up a NIC, or putting one back, all the time",
                       {.object = folder,
                        .cause = "journals in use",
                        .action = "see who has this folder locked (`lslocks`), and try again"});
    }
    pause(std::min<Duration>(kLookAgain, deadline - Clock::now()));
  }
  return fd;
}

absl::Status MakeFolder(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  return error ? JournalError(error.value(), "the journal's folder cannot be made", folder) : absl::OkStatus();
}

// Journals, and what is half written beside them (kHalf).
std::vector<std::string> Paths(const std::string& folder) {
  std::vector<std::string> paths;
  std::error_code error;
  for (std::filesystem::directory_iterator each(folder, error), end; !error && each != end; each.increment(error)) {
    const std::string name = each->path().filename().string();
    if (absl::StartsWith(name, "rx-")) paths.push_back(each->path().string());
  }
  return paths;
}

absl::StatusOr<std::string> ReadJournal(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error) || std::filesystem::file_size(path, error) > kLargest) {
    return MakeError(absl::StatusCode::kDataLoss, "this is no journal of ours: no plain file of at most 16 MiB",
                     {.object = path});
  }
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return std::move(text).str();
}

}  // namespace

absl::StatusOr<std::string> BootId() { return FirstLine("/proc/sys/kernel/random/boot_id"); }

absl::StatusOr<uint64_t> NetnsInode() { return NamespaceInode("/proc/thread-self/ns/net"); }

bool OfOneNic(const RxJournal& a, const RxJournal& b) {
  if (a.boot_id != b.boot_id || !(a.nic == b.nic)) return false;
  return !a.nic.permanent_mac.empty() || (a.netns == b.netns && a.ifindex == b.ifindex);
}

absl::StatusOr<RxJournal> RxJournal::Here(const std::string& interface, uint32_t ifindex) {
  RxJournal journal{.pid = getpid(), .interface = interface, .ifindex = ifindex};
  DEVMEM_ASSIGN_OR_RETURN(journal.pid_namespace, NamespaceInode("/proc/self/ns/pid"));
  DEVMEM_ASSIGN_OR_RETURN(journal.start_time, StartTime());
  DEVMEM_ASSIGN_OR_RETURN(journal.boot_id, BootId());
  DEVMEM_ASSIGN_OR_RETURN(journal.netns, NetnsInode());
  return journal;
}

std::string RxJournal::ToJson() const {
  Json json = {{"version", kVersion},
               {"pid", pid},
               {"pid_namespace", pid_namespace},
               {"start_time", start_time},
               {"boot_id", boot_id},
               {"netns", netns},
               {"interface", interface},
               {"ifindex", ifindex},
               {"nic", {{"driver", nic.driver}, {"bus", nic.bus}, {"permanent_mac", nic.permanent_mac}}},
               {"queues", queues},
               {"dmabuf", dmabuf},
               {"features", Json::array()},
               {"rules", Json::array()}};
  for (const FeatureChange& each : features) json["features"].push_back({{"name", each.name}, {"was", each.was}});
  if (header_split) {
    json["header_split"]["was"] = kSplits.at(static_cast<size_t>(header_split->was)).second;
    json["header_split"]["resetting"] = header_split->resetting;
    if (header_split->threshold_was) json["header_split"]["threshold_was"] = *header_split->threshold_was;
  }
  if (rss) json["rss"] = {{"was", rss->was}, {"set", rss->set}, {"resetting", rss->resetting}, {"by_kernel", rss->by_kernel}};
  for (const Rule& each : rules) {
    json["rules"].push_back({{"source", EndpointToJson(each.match.source)},
                             {"destination", EndpointToJson(each.match.destination)},
                             {"queue", each.queue}});
  }
  return json.dump() + "\n";
}

absl::StatusOr<RxJournal> RxJournal::Parse(std::string_view json) {
  try {
    return FromJson(Json::parse(json));
  } catch (const std::exception& e) {  // nlohmann's, std::invalid_argument
    return MakeError(absl::StatusCode::kDataLoss, absl::StrCat("this is no journal of ours: ", e.what()),
                     {.cause = "journal not readable"});
  }
}

absl::StatusOr<std::unique_ptr<RxJournalFile>> RxJournalFile::Make(const std::string& folder, RxJournal& journal) {
  DEVMEM_RETURN_IF_ERROR(MakeFolder(folder));
  std::unique_ptr<RxJournalFile> file(
      new RxJournalFile(absl::StrCat(folder, "/rx-", journal.ifindex, "-", journal.netns, "-", journal.pid_namespace, "-",
                                     journal.pid, "-", journal.start_time, ".json")));
  absl::StatusOr<UniqueFd> former = Lock(file->path_);
  if (former.status().code() == absl::StatusCode::kUnavailable) {
    return MakeError(absl::StatusCode::kAlreadyExists, "this process has a journal for this NIC already",
                     {.object = file->path_, .cause = "NIC bound twice", .action = "undo the first binding"});
  }
  if (former.ok()) {
    DEVMEM_ASSIGN_OR_RETURN(const std::string text, ReadJournal(file->path_));
    if (const absl::StatusOr<RxJournal> left = RxJournal::Parse(text); left.ok() && OfOneNic(*left, journal)) {
      journal.features = left->features;
      journal.header_split = left->header_split;
      journal.rss = left->rss;
      journal.rules = left->rules;
    }
  }
  DEVMEM_RETURN_IF_ERROR(file->Write(journal));
  return file;
}

absl::StatusOr<std::unique_ptr<RxJournalFile>> RxJournalFile::Adopt(const std::string& path) {
  std::unique_ptr<RxJournalFile> file(new RxJournalFile(path));
  DEVMEM_ASSIGN_OR_RETURN(file->locked_, Lock(path));
  DEVMEM_ASSIGN_OR_RETURN(file->text_, ReadJournal(path));
  return file;
}

std::vector<std::string> RxJournalFile::All(const std::string& folder) {
  std::vector<std::string> paths;
  for (std::string& path : Paths(folder)) {
    // Nobody's once its lock is free: a living writer that loses the race for it makes another.
    if (absl::EndsWith(path, absl::StrCat(".json", std::string(kHalf)))) {
      const absl::StatusOr<UniqueFd> lock = Lock(path);  // held over the unlink
      if (lock.ok()) (void)unlink(path.c_str());
    } else if (absl::EndsWith(path, ".json")) {
      paths.push_back(std::move(path));
    }
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

std::vector<OtherJournal> RxJournalFile::Others(const RxJournal& journal) const {
  const std::string folder = std::filesystem::path(path_).parent_path().string();
  std::set<std::string> paths;
  // A folder read while a name in it is replaced may lack that name: its process may write at any time. Twice is unlikely.
  for (int pass = 0; pass < 2; ++pass) {
    for (std::string& path : All(folder)) paths.insert(std::move(path));
  }
  std::vector<OtherJournal> others;
  for (const std::string& path : paths) {
    if (path == path_) continue;
    const absl::StatusOr<UniqueFd> lock = Lock(path, LOCK_SH);
    const absl::StatusOr<std::string> text = ReadJournal(path);
    if (!text.ok()) continue;
    absl::StatusOr<RxJournal> other = RxJournal::Parse(*text);
    if (!other.ok() || !OfOneNic(*other, journal)) continue;
    others.push_back({path, lock.status().code() == absl::StatusCode::kUnavailable, *std::move(other)});
  }
  return others;
}

absl::StatusOr<std::vector<SeenJournal>> LookAtJournals(const std::string& folder, Time deadline,
                                                        const std::function<void(Duration)>& pause) {
  DEVMEM_ASSIGN_OR_RETURN(const UniqueFd held, LockFolder(folder, LOCK_SH, deadline, pause));
  std::set<std::string> paths;
  for (int pass = 0; pass < 2; ++pass) {  // as in Others()
    for (std::string& path : Paths(folder)) paths.insert(std::move(path));
  }
  std::vector<SeenJournal> journals;
  for (const std::string& path : paths) {
    if (!absl::EndsWith(path, ".json")) continue;
    const absl::StatusOr<UniqueFd> lock = Lock(path, LOCK_SH);
    if (absl::IsNotFound(lock.status())) continue;  // it went meanwhile
    const bool lives = absl::IsUnavailable(lock.status());
    if (!lock.ok() && !lives) {
      journals.push_back({path, false, lock.status()});
      continue;
    }
    const absl::StatusOr<std::string> text = ReadJournal(path);
    absl::StatusOr<RxJournal> journal = text.ok() ? RxJournal::Parse(*text) : text.status();
    journals.push_back({path, lives, journal.ok() ? std::move(journal) : WithObject(journal.status(), path)});
  }
  return journals;
}

absl::StatusOr<RxFolder> RxFolder::Hold(const std::string& folder, Time deadline, const std::function<void(Duration)>& pause) {
  DEVMEM_RETURN_IF_ERROR(MakeFolder(folder));
  DEVMEM_ASSIGN_OR_RETURN(UniqueFd fd, LockFolder(folder, LOCK_EX, deadline, pause));
  return RxFolder(std::move(fd));
}

absl::Status RxJournalFile::Replace(const std::string& text) {
  const std::string half = absl::StrCat(path_, std::string(kHalf));
  UniqueFd fd(open(half.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) return JournalError(errno, "the journal cannot be written", half);
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) return JournalError(errno, "the journal cannot be locked", half);
  for (size_t done = 0; done < text.size();) {
    const ssize_t wrote = write(fd.get(), text.data() + done, text.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return JournalError(errno, "the journal cannot be written", half);
    done += static_cast<size_t>(wrote);
  }
  if (fsync(fd.get()) != 0) return JournalError(errno, "the journal cannot be synced", half);
  if (rename(half.c_str(), path_.c_str()) != 0) return JournalError(errno, "the journal cannot be put in place", path_);
  absl::Status synced = SyncFolder(path_);
  locked_ = std::move(fd);
  return synced;
}

absl::Status RxJournalFile::Write(const RxJournal& journal) {
  const std::string text = journal.ToJson();
  const absl::Status first = Replace(text);
  // Another process's All() may have taken the half-written file for a dead one's, between open() and flock(): once more.
  return first.ok() ? first : Replace(text);
}

absl::Status RxJournalFile::Remove() {
  if (unlink(path_.c_str()) != 0 && errno != ENOENT) return JournalError(errno, "the journal cannot be removed", path_);
  absl::Status synced = SyncFolder(path_);
  locked_.Reset();
  return synced;
}

}  // namespace devmem
