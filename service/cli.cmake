# SPDX-License-Identifier: Apache-2.0
# The command line: devmem-loader and devmem-loaderd.
devmem_unit(service_cli_values HDRS cli/values.h SRCS cli/values.cc DEPS base_clock absl::statusor absl::strings
  TEST cli/values_test.cc)
devmem_unit(service_cli_suggest HDRS cli/suggest.h SRCS cli/suggest.cc TEST cli/suggest_test.cc)
devmem_unit(service_cli_flag_table HDRS cli/flag_table.h SRCS cli/flag_table.cc
  DEPS service_cli_values service_cli_suggest base_error CLI11::CLI11 nlohmann_json::nlohmann_json
  TEST cli/flag_table_test.cc)
devmem_unit(service_cli_cursor_text HDRS cli/cursor_text.h SRCS cli/cursor_text.cc DEPS base_error devmem_proto absl::strings
  TEST cli/cursor_text_test.cc)
devmem_unit(service_cli_options HDRS cli/options.h SRCS cli/options.cc
  DEPS service_cli_flag_table service_cli_cursor_text devmem_proto gpu_dtype TEST cli/options_test.cc)
devmem_unit(service_cli_signals HDRS cli/signals.h SRCS cli/signals.cc DEPS base_unique_fd TEST cli/signals_test.cc)
devmem_unit(service_cli_process_usage HDRS cli/process_usage.h SRCS cli/process_usage.cc TEST cli/process_usage_test.cc)
devmem_unit(service_cli_json_text HDRS cli/json_text.h SRCS cli/json_text.cc DEPS nlohmann_json::nlohmann_json)
devmem_unit(service_cli_digest HDRS cli/digest.h SRCS cli/digest.cc
  DEPS service_cli_json_text base_error base_unique_fd devmem_proto OpenSSL::Crypto TEST cli/digest_test.cc
  TEST_DEPS nlohmann_json::nlohmann_json)
devmem_unit(service_cli_summary HDRS cli/summary.h SRCS cli/summary.cc
  DEPS service_cli_cursor_text service_cli_values base_error devmem_proto nlohmann_json::nlohmann_json TEST cli/summary_test.cc)
devmem_unit(service_cli_progress HDRS cli/progress.h SRCS cli/progress.cc DEPS service_cli_summary base_clock
  TEST cli/progress_test.cc)
