// SPDX-License-Identifier: Apache-2.0
// devmem-loaderd: the daemon of a node.
//
//   1. settings; the log; more descriptors; the socket's folder
//   2. Daemon::Start, "ready"
//   3. SIGHUP: the settings once more; what can change while it runs does.
//   4. SIGTERM or SIGINT: drain until the deadline, end. A second one, half a second later or more: end at once.
//      Or a successor takes over (--take-over): end, leaving everything as it is.
//
// SIGUSR2 starts a successor: what lies at this program's path by now, with the same arguments. systemd (deploy/systemd/) is
// told of each step.
#include <malloc.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/error.h"
#include "base/text.h"
#include "net/rx/rx_binding.h"
#include "service/cli/answers.h"
#include "service/cli/capabilities.h"
#include "service/cli/command.h"
#include "service/cli/descriptor_limit.h"
#include "service/cli/log.h"
#include "service/cli/notify.h"
#include "service/cli/print.h"
#include "service/cli/reload.h"
#include "service/cli/signals.h"
#include "service/cli/successor_starter.h"
#include "service/daemon.h"

namespace devmem::cli {
namespace {

constexpr char kProgram[] = "devmem-loaderd";

absl::Status MakeFolder(const std::string& socket) {
  const std::filesystem::path folder = std::filesystem::path(socket).parent_path();
  if (folder.empty()) return absl::OkStatus();
  std::error_code error;
  const bool made = std::filesystem::create_directories(folder, error);
  if (error) {
    return ErrnoError(error.value(), absl::StrCat("making the folder ", folder.string()),
                      {.object = socket, .action = "make it beforehand, or choose another --socket"});
  }
  if (made) ::chmod(folder.c_str(), 0755);  // whatever the umask: trainers of other users go through it
  return absl::OkStatus();
}

// SIGHUP. Whatever is wrong with the settings now, the daemon goes on with those it has.
void ReloadSettings(const std::vector<std::string>& arguments, DaemonCommandOptions* options, std::vector<FlagValue>* values,
                    Daemon* daemon) {
  const auto changes = Reload(arguments, ::getenv, options, values);
  if (!changes.ok()) {
    for (const absl::string_view line : absl::StrSplit(changes.status().message(), '\n')) {
      spdlog::error("not reloaded: {}", std::string_view(line.data(), line.size()));
    }
    return;
  }
  for (const std::string& change : changes->restart) spdlog::warn("reload: {}: needs a restart", change);
  daemon->Reconfigure({.memory_limit = options->daemon.memory_limit,
                       .default_prefetch = options->daemon.default_prefetch,
                       .policy = options->daemon.policy,
                       .access = options->daemon.access});
  // Said at the level that says more, be it the former or the new one.
  const auto level = spdlog::level::from_str(options->log_level);
  spdlog::set_level(std::min(spdlog::get_level(), level));
  for (const std::string& change : changes->applied) spdlog::info("reload: {}", change);
  if (changes->applied.empty() && changes->restart.empty()) spdlog::info("reload: nothing changed");
  spdlog::set_level(level);
}

int Main(const std::string& program, std::vector<std::string> arguments) {
  ::signal(SIGPIPE, SIG_IGN);
  const absl::Status capable = UsePermittedCapabilities();
  std::vector<int> inherited = InheritedSockets();
  if (std::find(arguments.begin(), arguments.end(), "--recover") != arguments.end()) {
    arguments.insert(arguments.end(), {"--config", "/dev/null"});  // what a daemon left is put back whatever its file is like
  }
  DaemonCommandOptions options;
  std::vector<FlagValue> values;
  if (auto code = Begin(kProgram, DaemonTable(&options), options.common, arguments, &values)) return *code;
  if (absl::Status status = SetUpLog(options.log_file, options.log_level, options.log_format); !status.ok()) {
    PrintError(absl::StrCat(kProgram, ": ", status.message(), "\n"));
    return kExitFailed;
  }
  auto fail = [&](const absl::Status& status) {
    spdlog::error("{}", Text(status));
    if (!options.log_file.empty()) PrintError(absl::StrCat(kProgram, ": ", status.message(), "\n"));
    return static_cast<int>(kExitFailed);
  };

  if (!capable.ok()) spdlog::warn("{}", Text(capable));
  for (const std::string& warning : UnknownVariables(::environ)) spdlog::warn("{}", warning);
  if (options.recover) {
    const std::vector<std::string> done = Recover(options.daemon.journal_folder);
    for (const std::string& line : done) spdlog::info("{}", line);
    if (done.empty()) spdlog::info("nothing to put back: no killed daemon's journal is in {}", options.daemon.journal_folder);
    return kExitOk;
  }

  std::mutex mutex;
  std::condition_variable changed;
  int asked = 0;
  bool reload = false;
  bool listening = false;
  std::optional<absl::Status> succeeded;
  bool lent = false;  // while it listens
  std::vector<std::string> command = {program};
  command.insert(command.end(), arguments.begin(), arguments.end());
  SuccessorStarter successors(std::move(command));
  EndRequests requests;
  SignalWatcher signals({SIGTERM, SIGINT, SIGHUP, SIGUSR2, SIGCHLD, SIGALRM}, [&](int signal, Time at) {
    if (signal == SIGUSR2 || signal == SIGCHLD || signal == SIGALRM) return successors.OnSignal(signal);
    std::lock_guard lock(mutex);
    if (signal == SIGHUP) {
      reload = true;
      changed.notify_all();
      return;
    }
    if (requests.Again(at)) {
      spdlog::warn("second {}: ending at once", ::strsignal(signal));
      if (listening && !succeeded.has_value()) {  // else the files may be another daemon's
        for (const char* const suffix : {"", ".fd", ".upgrade"}) {
          if (lent && std::strcmp(suffix, ".upgrade") != 0) continue;
          ::unlink((options.daemon.socket + suffix).c_str());
        }
      }
      ::_exit(kExitInterrupted);
    }
    if (asked == 0) asked = signal;
    changed.notify_all();
  });

  if (absl::Status raised = RaiseDescriptorLimit(); !raised.ok()) spdlog::warn("{}", Text(raised));
  if (absl::Status status = MakeFolder(options.daemon.socket); !status.ok()) return fail(status);
  options.daemon.inherited = std::move(inherited);
  options.daemon.succeeded = [&](const absl::Status& status) {
    if (status.ok()) successors.Succeeded();
    std::lock_guard lock(mutex);
    succeeded = status;
    changed.notify_all();
  };
  // What is freed goes back to the machine: by default glibc raises this threshold with what is freed, and then keeps up to 64
  // MiB of a listing for each thread that read one, which no limit counts.
  (void)::mallopt(M_MMAP_THRESHOLD, 1 << 20);
  auto daemon = Daemon::Start(options.daemon);
  if (!daemon.ok()) return fail(daemon.status());
  spdlog::info("ready: version {}, socket {}, path {} ({})", DEVMEM_VERSION, options.daemon.socket, (*daemon)->path().name,
               (*daemon)->path().reason);
  successors.Serving(absl::StrCat("serving; path ", (*daemon)->path().name, " (", (*daemon)->path().reason, ")"));
  std::optional<Watchdog> watchdog;
  watchdog.emplace([&](Time deadline) { return Answers(options.daemon.socket, deadline); });
  {
    std::unique_lock lock(mutex);
    listening = true;
    lent = (*daemon)->sockets_lent();
    while (asked == 0 && !succeeded.has_value()) {
      changed.wait(lock, [&] { return asked != 0 || succeeded.has_value() || reload; });
      if (!std::exchange(reload, false)) continue;
      lock.unlock();
      ReloadSettings(arguments, &options, &values, daemon->get());
      lock.lock();
    }
    if (succeeded.has_value()) {
      lock.unlock();
      watchdog.reset();
      daemon->reset();
      if (!succeeded->ok()) return fail(*succeeded);
      if (options.stay_when_succeeded) {
        spdlog::info("holding nothing any more; ends when it is told to");
        lock.lock();
        changed.wait(lock, [&] { return asked != 0; });
      }
      return kExitOk;
    }
  }
  const double seconds = std::chrono::duration<double>(options.drain_timeout).count();
  spdlog::info("{}: draining for at most {:.1f} s", ::strsignal(asked), seconds);
  successors.Ending();
  watchdog.reset();
  const size_t cut = (*daemon)->Drain(Clock::now() + options.drain_timeout);
  if (cut > 0) {
    spdlog::warn("ended; {} cut off and {} by cursor", Counted(cut, "stream was", "streams were"),
                 cut == 1 ? "resumes" : "resume");
  } else {
    spdlog::info("ended; every stream came to its end");
  }
  {
    std::lock_guard lock(mutex);
    listening = false;  // the files go now, and may be another's at once
  }
  daemon->reset();
  return kExitOk;
}

}  // namespace
}  // namespace devmem::cli

int main(int argc, char** argv) {
  return devmem::cli::Main(argc > 0 ? argv[0] : devmem::cli::kProgram,
                           std::vector<std::string>(argv + std::min(argc, 1), argv + argc));
}
