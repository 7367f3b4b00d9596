# SPDX-License-Identifier: Apache-2.0

# The daemon's two sockets.
devmem_unit(service_unix_socket HDRS unix_socket.h SRCS unix_socket.cc DEPS base_error base_unique_fd
  TEST unix_socket_test.cc)
devmem_unit(service_handle_socket HDRS handle_socket.h SRCS handle_socket.cc
  DEPS service_unix_socket client_rpc_error
  TEST handle_socket_test.cc)
devmem_unit(service_grpc_listener HDRS grpc_listener.h SRCS grpc_listener.cc DEPS service_unix_socket gRPC::grpc++
  TEST grpc_listener_test.cc TEST_DEPS devmem_proto)
devmem_unit(service_upgrade_socket HDRS upgrade_socket.h version.h SRCS upgrade_socket.cc
  DEPS service_unix_socket client_rpc_error net_worker_transport
  TEST upgrade_socket_test.cc TEST_DEPS gpu_cpu_device)
target_compile_definitions(service_upgrade_socket PRIVATE DEVMEM_VERSION="${PROJECT_VERSION}")
if(DEVMEM_TESTS)  # what the client is tested against
  devmem_unit(service_fake_daemon HDRS testing/fake_daemon.h SRCS testing/fake_daemon.cc
    DEPS client_rpc_error service_handle_socket service_grpc_listener)
endif()

# Streams, the gRPC service, and the daemon that puts everything together.
devmem_unit(service_batch_layout HDRS batch_layout.h SRCS batch_layout.cc DEPS service_dataset gpu_dtype)
devmem_unit(service_stream_counters HDRS stream_counters.h SRCS stream_counters.cc DEPS base_counters net_transfer_counters
  TEST stream_counters_test.cc)
devmem_unit(service_skip_allowance HDRS skip_allowance.h SRCS skip_allowance.cc DEPS base_error devmem_proto service_plan service_dataset
  TEST skip_allowance_test.cc)
devmem_unit(service_stream
  HDRS stream.h memory_budget.h SRCS stream.cc
  DEPS base_trace devmem_proto client_rpc_error service_batch_layout service_plan service_read_planner service_skip_allowance service_stream_counters net_copy_transport
  gpu_device
  TEST stream_test.cc memory_budget_test.cc TEST_DEPS service_open_stream gpu_late_device)
devmem_unit(service_listing_cache
  HDRS listing_cache.h memory_budget.h SRCS listing_cache.cc
  DEPS base_clock base_error net_object_table service_index
  TEST listing_cache_test.cc)
devmem_unit(service_open_stream
  HDRS open_stream.h SRCS open_stream.cc
  DEPS base_trace service_listing_cache service_stream service_dataset_builder net_object_store)
devmem_unit(service_data_path HDRS data_path.h SRCS data_path.cc DEPS devmem_proto net_worker_transport TEST data_path_test.cc)
devmem_unit(service_worker_pool HDRS worker_pool.h TEST worker_pool_test.cc)
devmem_unit(service_access HDRS access.h SRCS access.cc DEPS base_error net_uri net_object_name TEST access_test.cc)
devmem_unit(service_daemon
  HDRS daemon.h loader_service.h version.h SRCS daemon.cc loader_service.cc
  DEPS service_access service_http_server service_log_event service_metrics service_process_state service_data_path service_open_stream service_worker_pool service_handle_socket service_grpc_listener service_upgrade_socket net_devmem_transport gpu_make_device spdlog::spdlog gRPC::grpc++ gRPC::grpc++_reflection
  TEST daemon_device_test.cc TEST_DEPS client_cpp gpu_late_device net_testing_nginx)
target_compile_definitions(service_daemon PUBLIC DEVMEM_VERSION="${PROJECT_VERSION}")
