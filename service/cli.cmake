# SPDX-License-Identifier: Apache-2.0
# The command line: devmem-loader and devmem-loaderd. First what stands alone.
devmem_unit(service_cli_values HDRS cli/values.h SRCS cli/values.cc DEPS base_clock absl::statusor absl::strings
  TEST cli/values_test.cc)
devmem_unit(service_cli_suggest HDRS cli/suggest.h SRCS cli/suggest.cc TEST cli/suggest_test.cc)
devmem_unit(service_cli_flag_table HDRS cli/flag_table.h SRCS cli/flag_table.cc
  DEPS service_access service_cli_values service_cli_suggest base_error CLI11::CLI11 nlohmann_json::nlohmann_json
  TEST cli/flag_table_test.cc)
devmem_unit(service_cli_cursor_text HDRS cli/cursor_text.h SRCS cli/cursor_text.cc DEPS base_error devmem_proto absl::strings
  TEST cli/cursor_text_test.cc)
devmem_unit(service_cli_settings HDRS cli/settings.h SRCS cli/settings.cc DEPS service_cli_flag_table base_text devmem_proto
  TEST cli/settings_test.cc)
devmem_unit(service_cli_config_file HDRS cli/config_file.h SRCS cli/config_file.cc
  DEPS service_cli_settings base_text base_unique_fd yaml-cpp TEST cli/config_file_test.cc FUZZ cli/config_file_fuzz.cc)
devmem_unit(service_cli_options HDRS cli/options.h SRCS cli/options.cc
  DEPS service_cli_config_file service_cli_cursor_text service_cli_log service_cli_suggest service_access service_http_server base_text net_uri
       gpu_dtype
  TEST cli/options_test.cc)
devmem_unit(service_cli_reload HDRS cli/reload.h SRCS cli/reload.cc DEPS service_cli_options TEST cli/reload_test.cc)
devmem_unit(service_cli_signals HDRS cli/signals.h SRCS cli/signals.cc DEPS base_clock base_unique_fd TEST cli/signals_test.cc)
devmem_unit(service_cli_capabilities HDRS cli/capabilities.h SRCS cli/capabilities.cc DEPS base_error TEST cli/capabilities_test.cc)
devmem_unit(service_cli_notify HDRS cli/notify.h SRCS cli/notify.cc
  DEPS base_clock base_error base_unique_fd absl::status absl::strings spdlog::spdlog PkgConfig::LIBSYSTEMD
  TEST cli/notify_test.cc)
devmem_unit(service_cli_successor HDRS cli/successor.h SRCS cli/successor.cc DEPS base_error absl::strings
  TEST cli/successor_test.cc)
devmem_unit(service_cli_successor_starter HDRS cli/successor_starter.h SRCS cli/successor_starter.cc
  DEPS service_cli_successor service_cli_notify base_error spdlog::spdlog)
devmem_unit(service_cli_process_usage HDRS cli/process_usage.h SRCS cli/process_usage.cc TEST cli/process_usage_test.cc)
devmem_unit(service_cli_descriptor_limit HDRS cli/descriptor_limit.h SRCS cli/descriptor_limit.cc DEPS base_error
  TEST cli/descriptor_limit_test.cc)
devmem_unit(service_cli_json_text HDRS cli/json_text.h SRCS cli/json_text.cc DEPS nlohmann_json::nlohmann_json)
devmem_unit(service_cli_digest HDRS cli/digest.h SRCS cli/digest.cc
  DEPS service_cli_json_text base_error base_text base_unique_fd devmem_proto OpenSSL::Crypto
  TEST cli/digest_test.cc TEST_DEPS nlohmann_json::nlohmann_json)
devmem_unit(service_cli_data_path_json HDRS cli/data_path_json.h SRCS cli/data_path_json.cc DEPS devmem_proto nlohmann_json::nlohmann_json)
devmem_unit(service_cli_summary HDRS cli/summary.h SRCS cli/summary.cc
  DEPS service_cli_data_path_json service_cli_cursor_text service_cli_values base_error base_text devmem_proto nlohmann_json::nlohmann_json
  TEST cli/summary_test.cc)
devmem_unit(service_cli_progress HDRS cli/progress.h SRCS cli/progress.cc DEPS service_cli_summary base_clock base_text
  TEST cli/progress_test.cc)
devmem_unit(service_cli_log HDRS cli/log.h SRCS cli/log.cc DEPS base_error base_text service_log_event nlohmann_json::nlohmann_json spdlog::spdlog
  TEST cli/log_test.cc)
devmem_unit(service_cli_print HDRS cli/print.h SRCS cli/print.cc DEPS base_error base_text
  TEST cli/print_test.cc TEST_DEPS nlohmann_json::nlohmann_json)
devmem_unit(service_cli_private_folder HDRS cli/private_daemon.h SRCS cli/private_folder.cc DEPS base_error
  TEST cli/private_folder_test.cc)
devmem_unit(service_cli_replace_file HDRS cli/index_verb.h SRCS cli/replace_file.cc
  DEPS base_error base_unique_fd service_cli_options TEST cli/replace_file_test.cc)
devmem_unit(service_cli_text_table HDRS cli/text_table.h SRCS cli/text_table.cc DEPS base_text)
devmem_unit(service_cli_status_text HDRS cli/status_verb.h SRCS cli/status_text.cc
  DEPS service_cli_data_path_json service_cli_options service_cli_text_table base_text
  TEST cli/status_text_test.cc)
devmem_unit(service_cli_bindings_verb HDRS cli/bindings_verb.h SRCS cli/bindings_verb.cc cli/bindings_text.cc
  DEPS net_rx_held_bindings service_cli_options service_cli_print service_cli_summary service_cli_text_table base_text
       nlohmann_json::nlohmann_json
  TEST cli/bindings_text_test.cc)
devmem_unit(service_cli_doctor_verb HDRS cli/doctor_verb.h SRCS cli/doctor_verb.cc cli/doctor_text.cc
  DEPS service_doctor service_cli_options service_cli_print service_cli_text_table nlohmann_json::nlohmann_json
  TEST cli/doctor_text_test.cc)
devmem_unit(service_cli_command HDRS cli/command.h SRCS cli/command.cc DEPS service_cli_options service_cli_print service_memory_limit)
target_compile_definitions(service_cli_command PUBLIC DEVMEM_VERSION="${PROJECT_VERSION}")

# What reads through the client, and the programs.
devmem_unit(service_cli_status_verb HDRS cli/status_verb.h SRCS cli/status_verb.cc
  DEPS service_cli_status_text service_cli_summary service_cli_print service_unix_socket base_unique_fd client_cpp)
devmem_unit(service_cli_answers HDRS cli/answers.h SRCS cli/answers.cc DEPS client_cpp)
devmem_unit(service_cli_index_verb HDRS cli/index_verb.h SRCS cli/index_verb.cc
  DEPS service_cli_replace_file service_cli_progress service_cli_print service_cli_signals service_dataset_builder net_object_store base_text)
devmem_unit(service_cli_stream_run HDRS cli/stream_run.h SRCS cli/stream_run.cc
  DEPS service_cli_digest service_cli_process_usage service_cli_progress client_cpp client_rpc_error
  TEST cli/stream_run_test.cc TEST_DEPS service_fake_daemon nlohmann_json::nlohmann_json)
devmem_unit(service_cli_load HDRS cli/load.h cli/private_daemon.h SRCS cli/load.cc cli/private_daemon.cc
  DEPS service_cli_stream_run service_cli_options service_cli_private_folder service_cli_signals service_cli_log service_cli_print
       service_cli_descriptor_limit base_text service_daemon)

add_executable(devmem-loader cli/loader_main.cc)
target_link_libraries(devmem-loader PRIVATE service_cli_command service_cli_load service_cli_index_verb service_cli_status_verb
  service_cli_bindings_verb service_cli_doctor_verb)
add_executable(devmem-loaderd cli/daemon_main.cc)
target_link_libraries(devmem-loaderd PRIVATE service_cli_command service_cli_descriptor_limit service_cli_log service_cli_reload
  service_cli_signals service_cli_capabilities service_cli_notify service_cli_successor_starter service_cli_answers
  service_daemon)
