// SPDX-License-Identifier: Apache-2.0
#include "service/cli/log.h"

#include <gmock/gmock.h>
#include <spdlog/logger.h>
#include <spdlog/spdlog.h>

#include <cerrno>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

namespace devmem::cli {
namespace {

// A disk with so many bytes left.
struct Disk {
  std::string content;
  size_t room = 1 << 20;
  ssize_t Write(const char* data, size_t size) {
    if (room == 0) {
      errno = ENOSPC;
      return -1;
    }
    const size_t n = std::min(size, room);
    content.append(data, n);
    room -= n;
    return static_cast<ssize_t>(n);
  }
};

class LogTest : public ::testing::Test {
 protected:
  LogTest()
      : logger_("test", std::make_shared<LineSink>([this](const char* data, size_t size) { return disk_.Write(data, size); })) {
    logger_.set_pattern("%l %v");
  }
  Disk disk_;
  spdlog::logger logger_;
};

TEST_F(LogTest, OneLineAMessage) {
  logger_.info("object {}", "evil\n\x1b[2J\xc2\x9b\xe2\x80\xae-caf\xe9");
  EXPECT_EQ(disk_.content, "info object evil\\x0a\\x1b[2J\\u009b\\u202e-caf\\xe9\n");
}

TEST_F(LogTest, AFullDiskDropsCountsAndSaysSo) {
  logger_.info("one");
  disk_.room = 0;
  logger_.info("two");
  logger_.info("three");
  disk_.room = 1 << 20;
  logger_.info("four");
  logger_.info("five");
  EXPECT_EQ(disk_.content, "info one\nwarning 2 lines of this log were lost: No space left on device\ninfo four\ninfo five\n");
}

TEST_F(LogTest, ATornLineIsEnded) {
  disk_.room = 6;
  logger_.info("one");
  disk_.room = 1 << 20;
  logger_.info("two");
  EXPECT_EQ(disk_.content, "info o\nwarning 1 line of this log was lost: No space left on device\ninfo two\n");
}

nlohmann::json Parse(const std::string& line) { return nlohmann::json::parse(line); }

TEST(JsonLog, OneObjectALine) {
  Disk disk;
  const auto sink =
      std::make_shared<LineSink>([&disk](const char* data, size_t size) { return disk.Write(data, size); }, LogFormat::kJson);
  const auto logger = std::make_shared<spdlog::logger>("json_test", sink);
  const auto before = spdlog::default_logger();
  spdlog::set_default_logger(logger);
  spdlog::warn("object {}", "evil\n\",\"level\":\"info\xff\x1f");
  LogEvent(spdlog::level::info, "stream_opened", {{"stream", "s1-0"}, {"range", uint64_t{17}}, {"wait_seconds", 0.5}},
           "a stream");
  spdlog::info("after it");
  spdlog::set_default_logger(before);
  std::istringstream lines(disk.content);
  std::string line;
  ASSERT_TRUE(std::getline(lines, line));
  nlohmann::json parsed = Parse(line);
  EXPECT_EQ(parsed["level"], "warning");
  EXPECT_EQ(parsed["message"], "object evil\n\",\"level\":\"info\xef\xbf\xbd\x1f");
  EXPECT_FALSE(parsed.contains("event"));
  EXPECT_THAT(parsed["ts"].get<std::string>(), ::testing::MatchesRegex("....-..-..T..:..:..[.]...Z"));
  ASSERT_TRUE(std::getline(lines, line));
  parsed = Parse(line);
  EXPECT_EQ(parsed["event"], "stream_opened");
  EXPECT_EQ(parsed["message"], "a stream");
  EXPECT_EQ(parsed["stream"], "s1-0");
  EXPECT_EQ(parsed["range"], 17);
  EXPECT_EQ(parsed["wait_seconds"], 0.5);
  ASSERT_TRUE(std::getline(lines, line));
  EXPECT_FALSE(Parse(line).contains("stream")) << "fields are of their own event";
  EXPECT_FALSE(std::getline(lines, line));
}

TEST(SetUpLog, NamesTheFile) {
  EXPECT_THAT(std::string(SetUpLog("/no/such/folder/log", "info").message()), ::testing::HasSubstr("/no/such/folder/log"));
  EXPECT_TRUE(SetUpLog(::testing::TempDir() + "/log_test.log", "info").ok());
}

}  // namespace
}  // namespace devmem::cli
