// SPDX-License-Identifier: Apache-2.0
// What `devmem-loader` was asked to do: its flags, and the StreamSpec they come to.
//
//   LoaderOptions options;
//   FlagTable table = LoaderTable(&options);
//   DEVMEM_ASSIGN_OR_RETURN(auto values, table.Parse(args, ::getenv));
//   DEVMEM_ASSIGN_OR_RETURN(devmem_loader::v1::StreamSpec spec, MakeSpec(options));
//
// The tables of the other commands are beside it. Values; one thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "devmem_loader/v1/config.pb.h"
#include "devmem_loader/v1/loader.pb.h"
#include "service/access.h"
#include "service/cli/flag_table.h"
#include "service/cli/log.h"
#include "service/daemon.h"
#include "service/doctor/doctor.h"

namespace devmem::cli {

inline constexpr const char* kDefaultSocket = "/run/devmem-loader/loader.sock";
inline constexpr const char* kDefaultJournalFolder = "/run/devmem-loader";  // DaemonOptions::journal_folder

// What every command has.
struct CommonOptions {
  bool help = false;
  bool version = false;
  bool print_config = false;
  bool json = false;  // --output json
};

struct LoaderOptions {
  CommonOptions common;
  devmem_loader::v1::StreamSpec spec;  // what flags say directly; MakeSpec() adds the rest
  std::vector<std::string> tensors, dtypes, shapes, casts, scales;
  std::string shuffle;
  uint64_t window = 0;
  std::string resume;  // a cursor, or @FILE

  std::string service;               // empty: a daemon of our own, in this process
  devmem_loader::v1::Config config;  // of it, what `daemon` is made of
  DaemonOptions daemon;
  Duration drain_timeout{};  // how long an interrupted run waits for the stream to end
  std::string digest;
  uint64_t limit_batches = 0;  // 0: all
  bool dry_run = false;
  bool verbose = false;
};

struct StatusOptions {
  CommonOptions common;
  std::string service;
  Duration timeout{};
  uint32_t pid = 0;  // of the process that must be the one that answers; 0: whichever
};

struct IndexOptions {
  CommonOptions common;
  std::string uri;
  devmem_loader::v1::Format format = devmem_loader::v1::FORMAT_UNSPECIFIED;
  std::vector<std::string> tensors, dtypes, shapes;
  devmem_loader::v1::OnError on_error = devmem_loader::v1::ON_ERROR_FAIL;
  std::string endpoint_url;
  std::string output_file;
  Duration connect_timeout{};
  Duration timeout{};
};

struct BindingsOptions {
  CommonOptions common;
  std::string journal_folder;
};

struct DoctorCommandOptions {
  CommonOptions common;
  doctor::DoctorOptions doctor;
};

struct DaemonCommandOptions {
  CommonOptions common;
  devmem_loader::v1::Config config;  // what the rest is made of, by ApplyConfig()
  DaemonOptions daemon;
  Duration drain_timeout{};
  bool recover = false;              // --recover
  bool stay_when_succeeded = false;  // --when-succeeded wait
  std::string log_file;              // empty: stderr
  std::string log_level;
  LogFormat log_format = LogFormat::kText;
};

[[nodiscard]] FlagTable LoaderTable(LoaderOptions* options);
[[nodiscard]] FlagTable StatusTable(const std::string& verb, StatusOptions* options);
[[nodiscard]] FlagTable IndexTable(IndexOptions* options);
[[nodiscard]] FlagTable BindingsTable(BindingsOptions* options);
[[nodiscard]] FlagTable DoctorTable(DoctorCommandOptions* options);
[[nodiscard]] FlagTable DaemonTable(DaemonCommandOptions* options);

// A warning for each variable of `environment` (as environ(7) is) that is called like one of ours and that nobody reads: it
// would do nothing, in silence. Those that Kubernetes sets for a Service called devmem-... are nobody's mistake.
[[nodiscard]] std::vector<std::string> UnknownVariables(const char* const* environment);

// The access rules in the form they are decided by; kFailedPrecondition (it is the file's fault) names the rule with a bucket
// that is none.
[[nodiscard]] absl::StatusOr<AccessRules> MakeAccess(const devmem_loader::v1::Config& config);

// Hands every setting on to what it is for. kInvalidArgument where they do not go together, and as MakeAccess().
[[nodiscard]] absl::Status ApplyConfig(const devmem_loader::v1::Config& config, DaemonCommandOptions* options);

// The specification as the flags have it; kInvalidArgument names the flag at fault.
[[nodiscard]] absl::StatusOr<devmem_loader::v1::StreamSpec> MakeSpec(const LoaderOptions& options);

// --tensor, --dtype, --shape, --cast and --scale put together, one message a tensor.
struct TensorFlags {
  const std::vector<std::string>& tensors;
  const std::vector<std::string>& dtypes;
  const std::vector<std::string>& shapes;
  const std::vector<std::string>& casts;
  const std::vector<std::string>& scales;
};
[[nodiscard]] absl::StatusOr<std::vector<devmem_loader::v1::TensorSpec>> MakeTensors(const TensorFlags& flags);

// A canary needs bytes to compare: kInvalidArgument without a bucket.
[[nodiscard]] absl::Status CheckDoctor(const DoctorCommandOptions& options);

// With --service the flags of the in-process daemon would do nothing: kInvalidArgument if one was given on the
// command line.
[[nodiscard]] absl::Status CheckService(const LoaderOptions& options, const std::vector<FlagValue>& values);

// The digest's lines must not end up among the JSON of stdout: kInvalidArgument if both are one file.
[[nodiscard]] absl::Status CheckDigest(const LoaderOptions& options, int stdout_fd);

}  // namespace devmem::cli
