// SPDX-License-Identifier: Apache-2.0
#include "service/cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <mutex>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/text.h"
#include "service/cli/cursor_text.h"
#include "service/cli/summary.h"
#include "service/cli/values.h"

namespace devmem::cli {
namespace {

using devmem_loader::v1::Stall;
using devmem_loader::v1::StreamOpened;
using Json = nlohmann::ordered_json;

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

Stall Difference(const Stall& now, const Stall& then) {
  Stall difference;
  difference.set_trainer(now.trainer() - then.trainer());
  difference.set_network(now.network() - then.network());
  difference.set_first_byte(now.first_byte() - then.first_byte());
  difference.set_device(now.device() - then.device());
  difference.set_memory(now.memory() - then.memory());
  return difference;
}

// Rates between two ticks, and the time left at the rate since the start.
class Meter {
 public:
  struct Reading {
    double gb_per_s = 0;
    double samples_per_s = 0;
    std::optional<double> percent;
    std::optional<double> seconds_left;
    std::string top_stall;
  };

  void Start(Time now, uint64_t expected) {
    start_ = last_ = now;
    expected_ = expected;
    last_totals_ = {};
  }
  [[nodiscard]] Reading Read(Time now, const Totals& totals) {
    Reading reading;
    const double seconds = Seconds(now - last_);
    if (seconds > 0) {
      reading.gb_per_s = static_cast<double>(totals.bytes - last_totals_.bytes) / 1e9 / seconds;
      reading.samples_per_s = static_cast<double>(totals.samples - last_totals_.samples) / seconds;
      reading.top_stall = TopStall(Difference(totals.stalls, last_totals_.stalls), seconds);
    }
    if (expected_ > 0) {
      const double done = std::min(1.0, static_cast<double>(totals.batches) / static_cast<double>(expected_));
      reading.percent = done * 100;
      if (done > 0) reading.seconds_left = Seconds(now - start_) * (1 - done) / done;
    }
    last_ = now;
    last_totals_ = totals;
    return reading;
  }

 private:
  Time start_{};
  Time last_{};
  uint64_t expected_ = 0;
  Totals last_totals_;
};

std::string Printed(const char* format, double value) {
  std::array<char, 64> text;
  std::snprintf(text.data(), text.size(), format, value);
  return text.data();
}

class LiveLine final : public Progress {
 public:
  LiveLine(WriteText write, std::function<size_t()> columns) : write_(std::move(write)), columns_(std::move(columns)) {}

  void Opening(std::string_view phase, uint64_t done, uint64_t total) override {
    std::lock_guard lock(mutex_);
    Draw(absl::StrCat("opening: ", std::string(phase), " ", done, total > 0 ? absl::StrCat(" of ", total) : ""));
  }
  void Opened(const StreamOpened& opened, uint64_t expected) override {
    std::lock_guard lock(mutex_);
    path_ = opened.path().name();
    meter_.Start(Clock::now(), expected);
    std::string line = Printable(absl::StrCat("path ", path_, ": ", opened.path().reason()), kShowAll);
    if (const size_t columns = columns_(); columns > 4 && line.size() > columns) {  // whole, it is in the summary
      line.resize(Utf8Head(line, columns - 3).size());
      line += "...";
    }
    Say(line);
    for (const std::string& warning : opened.warnings()) Say(absl::StrCat("warning: ", warning));
  }
  void Tick(Time now, const Totals& totals) override {
    next_tick_ = now + std::chrono::milliseconds(200);
    std::lock_guard lock(mutex_);
    const Meter::Reading reading = meter_.Read(now, totals);
    std::string line = Printed("%.2f GB/s", reading.gb_per_s);
    absl::StrAppend(&line, "  ", Printed("%.0f samples/s", reading.samples_per_s));
    if (reading.percent) absl::StrAppend(&line, "  ", Printed("%.0f%%", *reading.percent));
    if (reading.seconds_left) absl::StrAppend(&line, "  ETA ", FormatSeconds(*reading.seconds_left));
    absl::StrAppend(&line, "  ", path_);
    if (!reading.top_stall.empty()) absl::StrAppend(&line, "  waits: ", reading.top_stall);
    Draw(std::move(line));
  }
  void EpochEnd(const devmem_loader::v1::EpochEnd& end) override {
    std::lock_guard lock(mutex_);
    Say(absl::StrCat("epoch ", end.epoch(), " ended: ", Counted(end.batches(), "batch", "batches"), ", ",
                     Counted(end.samples(), "sample")));
  }
  void Warning(const std::string& text) override {
    std::lock_guard lock(mutex_);
    Say(absl::StrCat("warning: ", text));
  }
  void Reconnect(const absl::Status& why) override {
    std::lock_guard lock(mutex_);
    Say(absl::StrCat("reconnecting: ", why.message()));
  }
  void Skipped(const std::string& object, std::optional<uint64_t> sample, const std::string& cause) override {
    constexpr size_t kShown = 50;  // the rest is in the summary's count
    std::lock_guard lock(mutex_);
    if (++skipped_ > kShown + 1) return;
    if (skipped_ > kShown) return Say("skipped more; the summary counts them");
    Say(absl::StrCat("skipped ", sample ? absl::StrCat("sample ", *sample, " of ") : "", object, ": ", cause));
  }
  void Error(const absl::Status& status) override {
    std::lock_guard lock(mutex_);
    Say(absl::StrCat("devmem-loader: ", status.message()));
  }
  void Finish() override {
    std::lock_guard lock(mutex_);
    if (drawn_) write_("\r\x1b[K");
    drawn_ = false;
  }

 private:
  void Draw(std::string line) {
    // Names of objects are others' bytes: nothing in them may move the cursor. A line that wraps cannot be redrawn.
    line = Printable(line, kShowAll);
    const size_t columns = columns_();
    if (columns > 1 && line.size() >= columns) line.resize(Utf8Head(line, columns - 1).size());
    write_(absl::StrCat("\r", line, "\x1b[K"));
    drawn_ = true;
  }
  void Say(const std::string& line) {
    write_(absl::StrCat(drawn_ ? "\r\x1b[K" : "", Printable(line, kShowAll), "\n"));
    drawn_ = false;
  }

  const WriteText write_;
  const std::function<size_t()> columns_;
  std::mutex mutex_;
  Meter meter_;
  std::string path_;
  size_t skipped_ = 0;
  bool drawn_ = false;
};

class JsonLines final : public Progress {
 public:
  explicit JsonLines(WriteText write) : write_(std::move(write)) {}

  void Opening(std::string_view phase, uint64_t done, uint64_t total) override {
    std::lock_guard lock(mutex_);
    const Time now = Clock::now();
    if (now < next_opening_ && phase == phase_) return;
    next_opening_ = now + kEvery;
    phase_ = phase;
    Say({{"event", "opening"}, {"phase", phase}, {"done", done}, {"total", total}});
  }
  void Opened(const StreamOpened& opened, uint64_t expected) override {
    std::lock_guard lock(mutex_);
    const Time now = Clock::now();
    next_tick_ = now + kEvery;
    meter_.Start(now, expected);
    path_ = opened.path().name();
    Say({{"event", "opened"},
         {"stream_id", opened.stream_id()},
         {"path", path_},
         {"path_reason", opened.path().reason()},
         {"samples", opened.samples()},
         {"steps_per_epoch", opened.steps_per_epoch()},
         {"slots", opened.slots()},
         {"fingerprint", FingerprintText(opened.cursor().listing_fingerprint())}});
    for (const std::string& warning : opened.warnings()) Say({{"event", "warning"}, {"message", warning}});
  }
  void Tick(Time now, const Totals& totals) override {
    next_tick_ = now + kEvery;
    std::lock_guard lock(mutex_);
    const Meter::Reading reading = meter_.Read(now, totals);
    Json json = {{"event", "progress"},   {"samples", totals.samples},     {"batches", totals.batches},
                 {"bytes", totals.bytes}, {"gb_per_s", reading.gb_per_s},  {"samples_per_s", reading.samples_per_s},
                 {"path", path_},         {"top_stall", reading.top_stall}};
    if (reading.percent) json["percent"] = *reading.percent;
    if (reading.seconds_left) json["eta_s"] = *reading.seconds_left;
    Say(json);
  }
  void EpochEnd(const devmem_loader::v1::EpochEnd& end) override {
    std::lock_guard lock(mutex_);
    Say({{"event", "epoch_end"}, {"epoch", end.epoch()}, {"batches", end.batches()}, {"samples", end.samples()}});
  }
  void Warning(const std::string& text) override {
    std::lock_guard lock(mutex_);
    Say({{"event", "warning"}, {"message", text}});
  }
  void Reconnect(const absl::Status& why) override {
    std::lock_guard lock(mutex_);
    Say({{"event", "reconnect"}, {"code", CodeName(why.code())}, {"message", Text(why)}});
  }
  void Skipped(const std::string& object, std::optional<uint64_t> sample, const std::string& cause) override {
    std::lock_guard lock(mutex_);
    Json json = {{"event", "skipped"}, {"object", object}};
    if (sample) json["sample"] = *sample;
    json["cause"] = cause;
    Say(json);
  }
  void Error(const absl::Status& status) override {
    std::lock_guard lock(mutex_);
    const ErrorInfo info = GetErrorInfo(status);
    std::string cause;
    info.cause.AppendTo(cause);
    Say({{"event", "error"},
         {"code", CodeName(status.code())},
         {"message", Text(status)},
         {"object", info.object},
         {"offset", info.offset},
         {"length", info.length},
         {"fault", Name(info.fault)},
         {"scope", Name(info.scope)},
         {"cause", cause},
         {"action", info.action}});
  }
  void Finish() override {}

 private:
  static constexpr Duration kEvery = std::chrono::seconds(5);

  void Say(const Json& json) { write_(Printable(json.dump(-1, ' ', false, Json::error_handler_t::replace), kShowAll) + "\n"); }

  const WriteText write_;
  std::mutex mutex_;
  Meter meter_;
  std::string path_;
  std::string phase_;
  Time next_opening_{};
};

void WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    text.remove_prefix(static_cast<size_t>(n));
  }
}

}  // namespace

std::unique_ptr<Progress> MakeLiveLine(WriteText write, std::function<size_t()> columns) {
  return std::make_unique<LiveLine>(std::move(write), std::move(columns));
}

std::unique_ptr<Progress> MakeJsonLines(WriteText write) { return std::make_unique<JsonLines>(std::move(write)); }

std::unique_ptr<Progress> MakeProgress(int fd) {
  auto write = [fd](std::string_view text) { WriteAll(fd, text); };
  if (::isatty(fd) == 0) return MakeJsonLines(write);
  return MakeLiveLine(write, [fd]() -> size_t {
    winsize size{};
    return ::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
  });
}

uint64_t ExpectedBatches(const StreamOpened& opened, const devmem_loader::v1::StreamSpec& spec) {
  const uint64_t epochs = std::max<uint64_t>(spec.epochs(), 1);
  const uint64_t step = std::max<uint64_t>(spec.batch_size(), 1) * std::max<uint64_t>(spec.world_size(), 1);
  const uint64_t all = opened.steps_per_epoch() * epochs;
  const uint64_t done = opened.cursor().epoch() * opened.steps_per_epoch() + opened.cursor().position() / step;
  return all > done ? all - done : 0;
}

}  // namespace devmem::cli
