# SPDX-License-Identifier: Apache-2.0
# Metrics and health over HTTP.
devmem_unit(service_http_request HDRS http_request.h SRCS http_request.cc DEPS base_error ${HTTP_PARSER_LIBRARY}
  TEST http_request_test.cc FUZZ http_request_fuzz.cc)
devmem_unit(service_http_server HDRS http_server.h SRCS http_server.cc DEPS base_clock base_unique_fd service_http_request
  TEST http_server_test.cc)
