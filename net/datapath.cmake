# SPDX-License-Identifier: Apache-2.0
devmem_unit(net_reactor
  HDRS reactor.h reactor_base.h SRCS reactor.cc reactor_uring.cc reactor_epoll.cc
  DEPS base_clock base_error base_unique_fd PkgConfig::LIBURING
  TEST reactor_test.cc)
devmem_unit(net_byte_stream
  HDRS byte_stream.h copy_stream.h stream_socket.h SRCS scatter.cc copy_stream.cc stream_socket.cc
  DEPS gpu_device net_socket_address net_reactor
  TEST scatter_test.cc TEST_DEPS gpu_cpu_device)
devmem_unit(net_staged_stream
  HDRS staging_pool.h staged_move.h staged_stream.h SRCS staging_pool.cc staged_move.cc staged_stream.cc
  DEPS base_trace net_byte_stream)
devmem_unit(net_http_head
  HDRS http_head.h SRCS http_head.cc DEPS base_error net_http_fields ${HTTP_PARSER_LIBRARY}
  TEST http_head_test.cc FUZZ http_head_fuzz.cc)
devmem_unit(net_transfer_counters HDRS transfer_counters.h SRCS transfer_counters.cc DEPS base_counters base_error
  TEST transfer_counters_test.cc TEST_DEPS net_byte_stream)
devmem_unit(net_resolver HDRS resolver.h SRCS resolver.cc DEPS base_clock base_error net_socket_address TEST resolver_test.cc)
devmem_unit(net_http_fetcher
  HDRS http_fetcher.h transport.h SRCS http_fetcher.cc
  DEPS base_text net_byte_stream net_http_head net_http_status net_object_pins net_redirect net_resolver net_transfer_counters net_uri
  TEST http_fetcher_test.cc TEST_DEPS gpu_cpu_device net_object_store net_testing_http_script net_testing_nginx)
devmem_unit(net_file_reader HDRS file_reader.h SRCS file_reader.cc DEPS net_byte_stream net_file_store net_object_pins net_staged_stream)
devmem_unit(net_worker_transport
  HDRS worker_transport.h SRCS worker_transport.cc
  DEPS net_http_fetcher net_file_reader net_staged_stream)
devmem_unit(net_devmem_stream HDRS devmem_stream.h SRCS devmem_stream.cc DEPS base_trace net_byte_stream net_transfer_counters
  TEST devmem_stream_test.cc TEST_DEPS gpu_late_device)
if(DEVMEM_TESTS)
  target_link_options(net_devmem_stream_test PRIVATE -Wl,--wrap=recvmsg -Wl,--wrap=setsockopt)
endif()
devmem_unit(net_devmem_transport
  HDRS devmem_transport.h SRCS devmem_transport.cc
  DEPS net_worker_transport net_devmem_stream net_flow_steering net_ethtool net_landing_pool net_rx_placement net_rx_binding
       net_rx_binding_watch net_rx_say)
devmem_unit(net_copy_transport
  HDRS copy_transport.h SRCS copy_transport.cc
  DEPS net_worker_transport
  TEST copy_transport_test.cc TEST_DEPS gpu_late_device net_http_fields net_object_store net_testing_nginx)
