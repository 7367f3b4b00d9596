// SPDX-License-Identifier: Apache-2.0
#include "service/cli/options.h"

#include <fcntl.h>
#include <gmock/gmock.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>

#include "base/error.h"
#include "base/unique_fd.h"
#include "service/cli/cursor_text.h"
#include "service/cli/settings.h"

namespace devmem::cli {
namespace {

namespace v1 = devmem_loader::v1;
using ::testing::HasSubstr;

std::vector<std::string> Split(const std::string& line) {
  std::istringstream stream(line);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

const char* NoEnvironment(const char*) { return nullptr; }

TEST(Options, APathIsToldAsAUri) {
  const auto folder = std::filesystem::temp_directory_path() / "a folder";
  std::filesystem::create_directories(folder);
  const std::string uri = "file://" + folder.parent_path().string() + "/a%20folder";
  for (const std::string& text : {folder.string(), "file:" + folder.string(), folder.string() + "/../a folder"}) {
    LoaderOptions options;
    const auto values = LoaderTable(&options).Parse({"--bucket", text}, NoEnvironment);
    ASSERT_FALSE(values.ok()) << text;
    EXPECT_THAT(Text(values.status()), HasSubstr("expected a URI such as")) << text;
    EXPECT_THAT(Text(values.status()), HasSubstr("for this path write " + uri)) << text;
  }
  LoaderOptions options;
  EXPECT_THAT(Text(LoaderTable(&options).Parse({"--bucket", "no such path"}, NoEnvironment).status()),
              ::testing::Not(HasSubstr("for this path")));
}

TEST(UnknownVariables, NearestNameForEach) {
  const struct {
    const char* variable;
    const char* warning;  // part of it; null: none
  } kRows[] = {
      {"DEVMEM_BATCH_SIZE=4", nullptr},
      {"DEVMEM_MEMORY_LIMIT=64GiB", nullptr},   // the daemon's
      {"DEVMEM_LOG_LEVEL=debug", nullptr},      // the daemon's, also where the CLI runs
      {"DEVMEM_JOURNAL_FOLDER=/tmp", nullptr},  // a verb's
      {"DEVMEM_CONFIG=/dev/null", nullptr},
      {"DEVMEM_BIN=/x", nullptr},    // the tests'
      {"DEVMEM_NOTHING=", nullptr},  // empty is not set
      {"PATH=/bin", nullptr},
      {"DEVMEMORY=1", nullptr},
      {"DEVMEM_LOADER_SERVICE_HOST=10.0.0.1", nullptr},  // a Service's, in a pod
      {"DEVMEM_LOADER_SERVICE_PORT_METRICS=9464", nullptr},
      {"DEVMEM_LOADER_PORT=tcp://10.0.0.1:9464", nullptr},
      {"DEVMEM_LOADER_PORT_9464_TCP_ADDR=10.0.0.1", nullptr},
      {"DEVMEM_BATCHSIZE=4", "DEVMEM_BATCHSIZE; did you mean DEVMEM_BATCH_SIZE?"},
      {"DEVMEM_MEMORY_LIMTI=1G", "did you mean DEVMEM_MEMORY_LIMIT?"},
      {"DEVMEM_PREFECH=1G", "did you mean DEVMEM_PREFETCH?"},
      {"DEVMEM_ZZZZZZZZ=1", "DEVMEM_ZZZZZZZZ; see --help"},
      {"DEVMEM_ZZZ=1", "DEVMEM_ZZZ; see --help"},
      {"DEVMEM_batch_size=1", "did you mean DEVMEM_BATCH_SIZE?"},
      {"DEVMEM_PID=1", "--pid can be given as a flag only"},
      {"DEVMEM_SLOW=1s", "--slow can be given as a flag only"},
      {"DEVMEM_\x1b[2J=1", "DEVMEM_\\x1b[2J"},
  };
  for (const auto& row : kRows) {
    const char* const environment[] = {"A=b", row.variable, nullptr};
    const std::vector<std::string> warnings = UnknownVariables(environment);
    ASSERT_EQ(warnings.size(), row.warning == nullptr ? 0u : 1u) << row.variable;
    if (row.warning != nullptr) {
      EXPECT_THAT(warnings[0], HasSubstr(row.warning));
    }
  }
}

absl::StatusOr<v1::StreamSpec> Spec(const std::string& line) {
  LoaderOptions options;
  auto values = LoaderTable(&options).Parse(Split("--bucket http://h/b/ " + line), NoEnvironment);
  DEVMEM_RETURN_IF_ERROR(values.status());
  DEVMEM_RETURN_IF_ERROR(CheckService(options, *values));
  return MakeSpec(options);
}

TEST(LoaderOptions, Defaults) {
  LoaderOptions options;
  ASSERT_TRUE(LoaderTable(&options).Parse({"--bucket", "file:///d"}, NoEnvironment).ok());
  auto spec = MakeSpec(options);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->ShortDebugString(),
            "bucket: \"file:///d\" batch_size: 1 tail: TAIL_DROP shuffle { mode: BLOCK } epochs: 1 world_size: 1 on_error: "
            "ON_ERROR_FAIL");
  const DaemonOptions daemon;
  EXPECT_EQ(options.daemon.connections, daemon.connections);
  EXPECT_EQ(options.daemon.workers, daemon.workers);
  EXPECT_EQ(options.daemon.policy.connect_timeout, daemon.policy.connect_timeout);
  EXPECT_EQ(options.daemon.policy.first_byte_timeout, daemon.policy.first_byte_timeout);
  EXPECT_EQ(options.daemon.policy.stall_timeout, daemon.policy.stall_timeout);
  EXPECT_EQ(options.daemon.policy.total_timeout, daemon.policy.total_timeout);
  EXPECT_EQ(options.daemon.policy.max_retries, daemon.policy.max_retries);
}

TEST(LoaderOptions, DaemonsDefaultsAreTheDaemons) {
  DaemonCommandOptions options;
  ASSERT_TRUE(DaemonTable(&options).Parse({}, NoEnvironment).ok());
  const DaemonOptions daemon;
  EXPECT_EQ(options.daemon.default_prefetch, daemon.default_prefetch);
  EXPECT_EQ(options.daemon.memory_limit, daemon.memory_limit);
  EXPECT_EQ(options.daemon.transport, daemon.transport);
  EXPECT_EQ(options.daemon.interfaces, daemon.interfaces);
  EXPECT_EQ(options.daemon.queues, daemon.queues);
  EXPECT_EQ(options.daemon.steering.mode, daemon.steering.mode);
  EXPECT_EQ(options.daemon.steering.addresses, daemon.steering.addresses);
  EXPECT_EQ(options.daemon.landing_pool, daemon.landing_pool);
  EXPECT_EQ(options.daemon.backend, daemon.backend);
  EXPECT_EQ(options.daemon.workers, daemon.workers);
  EXPECT_EQ(options.daemon.connections, daemon.connections);
  EXPECT_EQ(options.daemon.take_over, daemon.take_over);
  EXPECT_FALSE(options.stay_when_succeeded);
  EXPECT_EQ(options.log_level, "info");
  EXPECT_EQ(options.daemon.socket_mode, daemon.socket_mode);
  EXPECT_EQ(options.daemon.device, daemon.device);
  EXPECT_EQ(options.daemon.socket, kDefaultSocket);
  EXPECT_EQ(options.drain_timeout, std::chrono::seconds(30));
}

// The part of the specification that a flag changes, as protobuf text.
TEST(LoaderOptions, EveryFlagReachesTheSpec) {
  const std::pair<const char*, const char*> cases[] = {
      {"--format npy", "format: FORMAT_NPY"},
      {"--batch-size 256", "batch_size: 256"},
      {"--tail pad", "tail: TAIL_PAD"},
      {"--tail uneven", "tail: TAIL_UNEVEN"},
      {"--shuffle none", "shuffle { mode: NONE }"},
      {"--shuffle window:1000", "shuffle { mode: WINDOW window: 1000 }"},
      {"--shuffle window --window 9", "shuffle { mode: WINDOW window: 9 }"},
      {"--shuffle global", "shuffle { mode: GLOBAL }"},
      {"--block-samples 16 --group-blocks 4", "shuffle { mode: BLOCK block_samples: 16 group_blocks: 4 }"},
      {"--seed 18446744073709551615", "seed: 18446744073709551615"},
      {"--epochs 3", "epochs: 3"},
      {"--rank 1 --world-size 2", "rank: 1 world_size: 2"},
      {"--prefetch 256MiB", "prefetch_bytes: 268435456"},
      {"--device cpu", "device: \"cpu\""},
      {"--on-error skip", "on_error: ON_ERROR_SKIP"},
      {"--on-error skip --max-skipped 100", "max_skipped { samples: 100 }"},
      {"--on-error skip --max-skipped 0", "max_skipped { samples: 0 }"},
      {"--on-error skip --max-skipped 2.5%", "max_skipped { share: 0.025 }"},
      {"--require-zero-copy", "require_zero_copy: true"},
      {"--digest /tmp/x", "with_sources: true"},
      {"--digest /tmp/x", "source_names: true"},
      {"--endpoint-url http://127.0.0.1:5000", "endpoint_url: \"http://127.0.0.1:5000\""},
      {"--tensor *.npy", "tensors { glob: \"*.npy\" }"},
      {"--tensor image=i/* --tensor label=l/*",
       "tensors { name: \"image\" glob: \"i/*\" } tensors { name: \"label\" glob: \"l/*\" }"},
      {"--dtype uint8 --shape 32x32x3", "tensors { dtype: DTYPE_UINT8 shape: 32 shape: 32 shape: 3 }"},
      {"--cast float32 --scale 0.5", "tensors { cast: DTYPE_FLOAT32 scale: 0.5 }"},
      {"--tensor a=x --tensor b=y --dtype u8 --dtype b=i64 --shape b=7",
       "tensors { name: \"a\" glob: \"x\" dtype: DTYPE_UINT8 } tensors { name: \"b\" glob: \"y\" dtype: DTYPE_INT64 shape: 7 "
       "}"},
      {"--tensor a=x --cast a=bfloat16", "tensors { name: \"a\" glob: \"x\" cast: DTYPE_BFLOAT16 }"},
  };
  for (const auto& test : cases) {
    auto spec = Spec(test.first);
    ASSERT_TRUE(spec.ok()) << test.first << ": " << spec.status();
    EXPECT_THAT(spec->ShortDebugString(), HasSubstr(test.second)) << test.first;
  }
}

TEST(LoaderOptions, ReachTheDaemonInThisProcess) {
  LoaderOptions options;
  ASSERT_TRUE(
      LoaderTable(&options)
          .Parse(
              Split(
                  "--bucket file:///d --workers 3 --connections 5 --memory-limit 1G --receive-loop epoll --connect-timeout 1s "
                  "--transport devmem --interface eth1,bond0 --queues 2 --steer address --steer-address 10.0.0.1,10.0.0.2 "
                  "--landing-pool 64M "
                  "--first-byte-timeout 2s --stall-timeout 3s --read-timeout 4s --max-retries 6 --drain-timeout 7s"),
              NoEnvironment)
          .ok());
  EXPECT_EQ(options.daemon.workers, 3u);
  EXPECT_EQ(options.daemon.connections, 5u);
  EXPECT_EQ(options.daemon.memory_limit, uint64_t{1} << 30);
  EXPECT_EQ(options.daemon.backend, Reactor::Backend::kEpoll);
  EXPECT_EQ(options.daemon.transport, TransportChoice::kDevmem);
  EXPECT_EQ(options.daemon.interfaces, (std::vector<std::string>{"eth1", "bond0"}));
  EXPECT_EQ(options.daemon.queues, 2u);
  EXPECT_EQ(options.daemon.steering.mode, SteerMode::kAddress);
  EXPECT_EQ(options.daemon.steering.addresses, (std::vector<std::string>{"10.0.0.1", "10.0.0.2"}));
  EXPECT_EQ(options.daemon.landing_pool, uint64_t{64} << 20);
  EXPECT_EQ(options.daemon.policy.connect_timeout, std::chrono::seconds(1));
  EXPECT_EQ(options.daemon.policy.first_byte_timeout, std::chrono::seconds(2));
  EXPECT_EQ(options.daemon.policy.stall_timeout, std::chrono::seconds(3));
  EXPECT_EQ(options.daemon.policy.total_timeout, std::chrono::seconds(4));
  EXPECT_EQ(options.daemon.policy.max_retries, 6);
  EXPECT_EQ(options.drain_timeout, std::chrono::seconds(7));
}

TEST(LoaderOptions, Resume) {
  v1::Cursor cursor;
  cursor.set_plan_version(1);
  cursor.set_position(42);
  auto spec = Spec("--resume " + CursorText(cursor));
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->resume().position(), 42u);
}

TEST(LoaderOptions, ExpectFingerprint) {
  EXPECT_FALSE(Spec("")->has_expect_fingerprint());
  EXPECT_EQ(Spec("--expect-fingerprint 00fedcba98765432")->expect_fingerprint(), 0x00fedcba98765432u);
  EXPECT_EQ(FingerprintText(0x00fedcba98765432u), "00fedcba98765432");
}

TEST(LoaderOptions, BadValuesNameTheFlag) {
  const std::pair<const char*, const char*> cases[] = {
      {"--bucket data/train", "--bucket: 'data/train': expected a URI"},
      {"--batch-size 0", "--batch-size: '0': expected a whole number from 1"},
      {"--dtype float31", "--dtype: 'float31'"},
      {"--dtype image=uint8", "no --tensor is called 'image'"},
      {"--dtype u8 --dtype u16", "only one may be without a name"},
      {"--tensor a=x --tensor a=y", "that name is taken"},
      {"--tensor x --tensor y", "only one may be without a name"},
      {"--tensor a=", "expected NAME=GLOB"},
      {"--shape 3x", "--shape: '3x': expected a shape"},
      {"--scale 2", "--scale: tensor '' is not cast"},
      {"--scale zero", "--scale: 'zero'"},
      {"--shuffle random", "--shuffle: 'random': expected none, block, window:N or global"},
      {"--shuffle window", "has no size"},
      {"--shuffle window:0", "--shuffle: 'window:0'"},
      {"--shuffle block:3", "--shuffle: 'block:3'"},
      {"--window 3", "--window: only for"},
      {"--shuffle none --group-blocks 3", "only for --shuffle block"},
      {"--max-skipped 5%", "only for --on-error skip"},
      {"--rank 2 --world-size 2", "--rank: '2': expected less than --world-size"},
      {"--expect-fingerprint fedcba9876543210f", "--expect-fingerprint: 'fedcba9876543210f': expected the 16 hexadecimal"},
      {"--expect-fingerprint 0xfedcba98765432", "expected the 16 hexadecimal"},
      {"--resume nonsense", "--resume: 'nonsense' is not a cursor"},
      {"--connect-timeout 0", "--connect-timeout: '0': expected a time above 0"},
      {"--first-byte-timeout 0s", "--first-byte-timeout: '0s': expected a time above 0"},
      {"--stall-timeout 0ms", "--stall-timeout: '0ms': expected a time above 0"},
      {"--read-timeout 0", "--read-timeout: '0': expected a time above 0"},
      {"--prefetch lots", "--prefetch: 'lots': expected a size"},
      {"--transport quic", "expected auto, devmem or copy"},
      {"--receive-loop quic", "expected auto, io_uring or epoll"},
      {"--interface eth0,,eth1", "--interface: 'eth0,,eth1': expected names separated by commas"},
      {"--steer luck", "expected connection or address"},
      {"--service unix:/s --workers 2", "--workers: is about the in-process daemon"},
      {"--no-such-flag", "unknown flag --no-such-flag"},
  };
  for (const auto& test : cases) {
    auto spec = Spec(test.first);
    ASSERT_FALSE(spec.ok()) << test.first;
    EXPECT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument) << test.first;
    EXPECT_THAT(Text(spec.status()), HasSubstr(test.second)) << test.first;
  }
}

TEST(BindingsOptions, JsonIsOutputJson) {
  const struct {
    const char* line;
    bool json;
    const char* folder;
  } kRows[] = {
      {"", false, "/run/devmem-loader"},
      {"--json", true, "/run/devmem-loader"},
      {"--output json --journal-folder /srv/j", true, "/srv/j"},
      {"--json --output text", true, "/run/devmem-loader"},
  };
  for (const auto& row : kRows) {
    BindingsOptions options;
    ASSERT_TRUE(BindingsTable(&options).Parse(Split(row.line), NoEnvironment).ok()) << row.line;
    EXPECT_EQ(options.common.json, row.json) << row.line;
    EXPECT_EQ(options.journal_folder, row.folder) << row.line;
  }
  EXPECT_EQ(DaemonOptions{}.journal_folder, kDefaultJournalFolder);
}

TEST(BindingsOptions, ErrorsNameTheFlag) {
  BindingsOptions options;
  const std::pair<std::vector<std::string>, const char*> kRows[] = {
      {{"--jsn"}, "unknown flag --jsn; did you mean --json?"},
      {{"--journal-folder", ""}, "--journal-folder: '': expected a folder's path"},
      {{"eth0"}, "unexpected argument 'eth0'"},
  };
  for (const auto& [arguments, text] : kRows) {
    const absl::Status status = BindingsTable(&options).Parse(arguments, NoEnvironment).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(Text(status), HasSubstr(text));
  }
}

TEST(DoctorOptions, AreSetAndChecked) {
  DoctorCommandOptions options;
  ASSERT_TRUE(DoctorTable(&options).Parse({}, NoEnvironment).ok());
  EXPECT_EQ(options.doctor.device, "cpu");
  EXPECT_EQ(options.doctor.queues, DaemonOptions{}.queues);
  EXPECT_EQ(options.doctor.connections, DaemonOptions{}.connections);
  EXPECT_EQ(options.doctor.journal_folder, kDefaultJournalFolder);
  EXPECT_EQ(options.doctor.slow, std::chrono::milliseconds(250));
  EXPECT_TRUE(CheckDoctor(options).ok());
  ASSERT_TRUE(
      DoctorTable(&options)
          .Parse(Split("--interface eth0,eth1 --device cuda:1 --canary --slow 5ms --endpoint-url http://h:1"), NoEnvironment)
          .ok());
  EXPECT_EQ(options.doctor.interfaces, (std::vector<std::string>{"eth0", "eth1"}));
  EXPECT_EQ(options.doctor.device, "cuda:1");
  EXPECT_EQ(CheckDoctor(options).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Text(CheckDoctor(options)), HasSubstr("--canary needs --bucket"));
  options.doctor.bucket = "http://h/";
  EXPECT_TRUE(CheckDoctor(options).ok());
}

TEST(DoctorOptions, ErrorsNameTheFlag) {
  const std::pair<const char*, const char*> kRows[] = {
      {"--device gpu", "--device: 'gpu': expected cpu or cuda:N"},
      {"--device cuda:", "--device: 'cuda:': expected cpu or cuda:N"},
      {"--device cuda:-1", "expected cpu or cuda:N"},
      {"--interface eth0,,eth1", "expected names separated by commas"},
      {"--queues 0", "--queues"},
      {"--slow 0s", "--slow"},
      {"--canry", "did you mean --canary?"},
  };
  for (const auto& [line, text] : kRows) {
    DoctorCommandOptions options;
    const absl::Status status = DoctorTable(&options).Parse(Split(line), NoEnvironment).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << line;
    EXPECT_THAT(Text(status), HasSubstr(text)) << line;
  }
}

TEST(LoaderOptions, AnEmptyCursorIsNoCursor) {
  LoaderOptions options;
  const absl::Status status = LoaderTable(&options).Parse({"--bucket", "file:///d", "--resume", ""}, NoEnvironment).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Text(status), HasSubstr("--resume: '': expected a cursor or @FILE"));
}

TEST(LoaderOptions, TheDigestIsNotStdout) {
  std::string folder = ::testing::TempDir() + "/options_XXXXXX";
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  const UniqueFd out(::open((folder + "/out").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  std::filesystem::create_symlink("out", folder + "/link");
  struct Row {
    std::string digest;
    bool json, dry_run, fine;
  };
  for (const Row& row : std::vector<Row>{{folder + "/out", true, false, false},
                                         {folder + "/link", true, false, false},
                                         {"/proc/self/fd/" + std::to_string(out.get()), true, false, false},
                                         {folder + "/other", true, false, true},
                                         {"", true, false, true},
                                         {folder + "/out", true, true, true},
                                         {folder + "/out", false, false, true}}) {
    LoaderOptions options;
    options.digest = row.digest;
    options.common.json = row.json;
    options.dry_run = row.dry_run;
    const absl::Status status = CheckDigest(options, out.get());
    EXPECT_EQ(status.ok(), row.fine) << row.digest << ": " << status;
    if (!row.fine) {
      EXPECT_THAT(Text(status), HasSubstr("is stdout"));
    }
  }
  LoaderOptions null;
  null.digest = "/dev/null";
  null.common.json = true;
  const UniqueFd null_out(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  EXPECT_TRUE(CheckDigest(null, null_out.get()).ok());
  std::filesystem::remove_all(folder);
}

TEST(LoaderOptions, BucketIsNeeded) {
  LoaderOptions options;
  ASSERT_TRUE(LoaderTable(&options).Parse({}, NoEnvironment).ok());
  EXPECT_THAT(Text(MakeSpec(options).status()), HasSubstr("--bucket is missing"));
}

TEST(LoaderOptions, EnvironmentMayHoldWhatAServiceIgnores) {
  LoaderOptions options;
  auto values = LoaderTable(&options).Parse({"--bucket", "file:///d", "--service", "unix:/s"}, [](const char* name) {
    return std::string_view(name) == "DEVMEM_WORKERS" ? "2" : nullptr;
  });
  ASSERT_TRUE(values.ok());
  EXPECT_TRUE(CheckService(options, *values).ok());
}

TEST(Help, FitsATerminal) {
  LoaderOptions loader;
  StatusOptions status;
  IndexOptions index;
  DaemonCommandOptions daemon;
  for (const FlagTable& table :
       {LoaderTable(&loader), StatusTable("streams", &status), IndexTable(&index), DaemonTable(&daemon)}) {
    const std::string help = table.Help();
    std::istringstream lines(help);
    for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100u) << line;
    EXPECT_THAT(help, HasSubstr("Examples:"));
  }
}

TEST(IndexOptions, Parsed) {
  IndexOptions options;
  ASSERT_TRUE(IndexTable(&options)
                  .Parse(Split("http://h/b --format raw --dtype uint8 --on-error skip --output-file f"), NoEnvironment)
                  .ok());
  EXPECT_EQ(options.uri, "http://h/b");
  EXPECT_EQ(options.format, v1::FORMAT_RAW);
  EXPECT_EQ(options.on_error, v1::ON_ERROR_SKIP);
  EXPECT_EQ(options.output_file, "f");
}

TEST(DaemonOptions, Parsed) {
  DaemonCommandOptions options;
  ASSERT_TRUE(DaemonTable(&options)
                  .Parse(Split("--socket unix:/tmp/s --socket-mode 600 --log-level debug --log-file f --default-prefetch 1M "
                               "--take-over --when-succeeded wait --device cuda:1"),
                         NoEnvironment)
                  .ok());
  EXPECT_TRUE(options.daemon.take_over);
  EXPECT_TRUE(options.stay_when_succeeded);
  EXPECT_EQ(options.daemon.device, "cuda:1");
  EXPECT_EQ(options.daemon.socket, "/tmp/s");
  EXPECT_EQ(options.daemon.socket_mode, 0600u);
  EXPECT_EQ(options.daemon.default_prefetch, uint64_t{1} << 20);
  EXPECT_EQ(options.log_level, "debug");
  EXPECT_FALSE(DaemonTable(&options).Parse({"--socket="}, NoEnvironment).ok());
  EXPECT_FALSE(DaemonTable(&options).Parse({"--socket=unix:"}, NoEnvironment).ok());
}

// Each setting, said as a flag, must show in what the daemon is started with: one that is handed on to nothing would do
// nothing.
TEST(DaemonOptions, EverySettingIsHandedOn) {
  const std::map<std::string, std::pair<const char*, std::function<bool(const DaemonCommandOptions&)>>> kRows = {
      {"socket", {"unix:/s", [](const auto& o) { return o.daemon.socket == "/s"; }}},
      {"socket_mode", {"0600", [](const auto& o) { return o.daemon.socket_mode == 0600; }}},
      {"default_prefetch", {"1M", [](const auto& o) { return o.daemon.default_prefetch == 1 << 20; }}},
      {"drain_timeout", {"7s", [](const auto& o) { return o.drain_timeout == std::chrono::seconds(7); }}},
      {"take_over", {"1", [](const auto& o) { return o.daemon.take_over; }}},
      {"when_succeeded", {"wait", [](const auto& o) { return o.stay_when_succeeded; }}},
      {"transport", {"copy", [](const auto& o) { return o.daemon.transport == TransportChoice::kCopy; }}},
      {"interface",
       {"a,b",
        [](const auto& o) {
          return o.daemon.interfaces == std::vector<std::string>{"a", "b"};
        }}},
      {"queues", {"9", [](const auto& o) { return o.daemon.queues == 9; }}},
      {"steer", {"address", [](const auto& o) { return o.daemon.steering.mode == SteerMode::kAddress; }}},
      {"steer_address", {"1.1.1.1", [](const auto& o) { return o.daemon.steering.addresses.size() == 1; }}},
      {"landing_pool", {"3M", [](const auto& o) { return o.daemon.landing_pool == 3 << 20; }}},
      {"receive_loop", {"io_uring", [](const auto& o) { return o.daemon.backend == Reactor::Backend::kIoUring; }}},
      {"workers", {"5", [](const auto& o) { return o.daemon.workers == 5; }}},
      {"connections", {"6", [](const auto& o) { return o.daemon.connections == 6; }}},
      {"memory_limit", {"2M", [](const auto& o) { return o.daemon.memory_limit == 2 << 20; }}},
      {"connect_timeout", {"1s", [](const auto& o) { return o.daemon.policy.connect_timeout == std::chrono::seconds(1); }}},
      {"first_byte_timeout",
       {"2s", [](const auto& o) { return o.daemon.policy.first_byte_timeout == std::chrono::seconds(2); }}},
      {"stall_timeout", {"3ms", [](const auto& o) { return o.daemon.policy.stall_timeout == std::chrono::milliseconds(3); }}},
      {"read_timeout", {"4s", [](const auto& o) { return o.daemon.policy.total_timeout == std::chrono::seconds(4); }}},
      {"max_retries", {"1", [](const auto& o) { return o.daemon.policy.max_retries == 1; }}},
      {"device", {"cuda:1", [](const auto& o) { return o.daemon.device == "cuda:1"; }}},
      {"metrics_listen", {"127.0.0.1:1", [](const auto& o) { return o.daemon.metrics_listen == "127.0.0.1:1"; }}},
      {"metrics_streams", {"3", [](const auto& o) { return o.daemon.metrics_streams == 3; }}},
      {"log_format", {"json", [](const auto& o) { return o.log_format == LogFormat::kJson; }}},
      {"log_file", {"f", [](const auto& o) { return o.log_file == "f"; }}},
      {"log_level", {"error", [](const auto& o) { return o.log_level == "error"; }}},
  };
  const google::protobuf::Descriptor& schema = *v1::Config::descriptor();
  for (int i = 0; i < schema.field_count(); ++i) {
    if (IsStructured(*schema.field(i))) continue;  // no flag: OptionsAccess
    const auto row = kRows.find(schema.field(i)->name());
    ASSERT_NE(row, kRows.end()) << schema.field(i)->name() << " is a setting without a row in this test";
    DaemonCommandOptions options;
    const auto parsed = DaemonTable(&options).Parse({FlagOf(row->first) + "=" + row->second.first}, NoEnvironment);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_TRUE(row->second.second(options)) << row->first;
  }
}

TEST(DaemonOptions, AccessRulesAreHandedOn) {
  v1::Config config;
  ASSERT_TRUE(MakeAccess(config).ok());
  EXPECT_TRUE(MakeAccess(config)->empty());
  v1::AccessRule* const rule = config.add_access();
  rule->add_uid(1000);
  rule->add_gid(7);
  rule->add_bucket("s3://train");
  rule->set_memory(1 << 20);
  rule->set_streams(3);
  const auto made = MakeAccess(config);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(*made,
            *AccessRules::Create({{.uids = {1000}, .gids = {7}, .buckets = {"s3://train/"}, .memory = 1 << 20, .streams = 3}}));
  config.add_access()->add_bucket("train");
  EXPECT_EQ(MakeAccess(config).status().code(), absl::StatusCode::kFailedPrecondition) << "the file is at fault";
  EXPECT_THAT(Text(MakeAccess(config).status()), testing::HasSubstr("access: rule 2: "));
}

class ConfigFileOptions : public ::testing::Test {
 protected:
  ConfigFileOptions() {
    EXPECT_NE(::mkdtemp(folder_.data()), nullptr);
    path_ = folder_ + "/config.yaml";
  }
  ~ConfigFileOptions() override { std::filesystem::remove_all(folder_); }
  std::string Write(const std::string& text) {
    std::ofstream(path_) << text;
    return path_;
  }
  std::string folder_ = ::testing::TempDir() + "/options_XXXXXX";
  std::string path_;
};

TEST_F(ConfigFileOptions, FlagBeatsEnvironmentBeatsFileBeatsDefault) {
  const std::string path = Write("queues: 1\nworkers: 1\nconnections: 1\ntake_over: yes\n");
  DaemonCommandOptions options;
  const auto values = DaemonTable(&options).Parse({"--queues", "3", "--take-over=false"}, [&](const char* name) -> const char* {
    if (std::string_view(name) == "DEVMEM_CONFIG") return path.c_str();
    return std::string_view(name) == "DEVMEM_QUEUES" || std::string_view(name) == "DEVMEM_WORKERS" ? "2" : nullptr;
  });
  ASSERT_TRUE(values.ok()) << values.status();
  EXPECT_EQ(options.daemon.queues, 3u);
  EXPECT_EQ(options.daemon.workers, 2u);
  EXPECT_EQ(options.daemon.connections, 1u);
  EXPECT_EQ(options.daemon.policy.max_retries, 12);
  EXPECT_FALSE(options.daemon.take_over) << "a flag turns off what the file turns on";
  const std::string shown = PrintConfig(*values, false);
  EXPECT_THAT(shown, HasSubstr("file " + path + ":3\n"));
  EXPECT_THAT(PrintConfig(*values, true),
              HasSubstr(R"("connections":{"value":"1","origin":"file","file":")" + path + R"(","line":3})"));
}

TEST_F(ConfigFileOptions, TheFlagNamesAnotherFile) {
  const std::string path = Write("queues: 1\n");
  DaemonCommandOptions options;
  const auto from = [](const char* name) { return std::string_view(name) == "DEVMEM_CONFIG" ? "/no/such/file" : nullptr; };
  ASSERT_TRUE(DaemonTable(&options).Parse({"--config", path}, from).ok());
  EXPECT_EQ(options.daemon.queues, 1u);
  const absl::Status status = DaemonTable(&options).Parse({}, from).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(status), HasSubstr("/no/such/file: cannot be opened: No such file"));
}

TEST_F(ConfigFileOptions, AFaultIsOneThoughAFlagHidesIt) {
  DaemonCommandOptions options;
  const absl::Status status =
      DaemonTable(&options).Parse({"--queues", "2", "--config", Write("queues: none\n")}, NoEnvironment).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Text(status), path_ + ":1:9: 'queues': 'none': expected a whole number from 1 to 1024");
}

TEST_F(ConfigFileOptions, TheCommandLineTakesWhatIsForTheDaemonInItsProcess) {
  const std::string path = Write("workers: 3\nsocket: /elsewhere\nlog_level: debug\ndrain_timeout: 9s\n");
  LoaderOptions options;
  const auto values = LoaderTable(&options).Parse({"--bucket", "file:///d", "--config", path}, NoEnvironment);
  ASSERT_TRUE(values.ok()) << values.status();
  EXPECT_EQ(options.daemon.workers, 3u);
  EXPECT_EQ(options.daemon.socket, "");
  EXPECT_EQ(options.drain_timeout, std::chrono::seconds(1)) << "this one is about an interrupted run, and only named alike";
  EXPECT_TRUE(CheckService(options, *values).ok());
  options.service = "unix:/s";
  EXPECT_THAT(Text(CheckService(options, *values)), HasSubstr("--config: is about the in-process daemon"));
}

}  // namespace
}  // namespace devmem::cli
