# SPDX-License-Identifier: Apache-2.0
# Metrics and health over HTTP.
devmem_unit(service_http_request HDRS http_request.h SRCS http_request.cc DEPS base_error ${HTTP_PARSER_LIBRARY}
  TEST http_request_test.cc FUZZ http_request_fuzz.cc)
devmem_unit(service_http_server HDRS http_server.h SRCS http_server.cc DEPS base_clock base_unique_fd service_http_request
  TEST http_server_test.cc)
devmem_unit(service_log_event HDRS log_event.h SRCS log_event.cc DEPS base_clock spdlog::spdlog TEST log_event_test.cc)
devmem_unit(service_process_state HDRS process_state.h SRCS process_state.cc
  TEST process_state_test.cc TEST_DEPS base_unique_fd)
devmem_unit(service_metrics HDRS metrics.h SRCS metrics.cc
  DEPS client_rpc_error devmem_proto net_worker_transport service_format service_process_state service_stream_counters
       PkgConfig::PROMETHEUS
  TEST metrics_test.cc)
