# SPDX-License-Identifier: Apache-2.0

# The daemon's two sockets.
devmem_unit(service_unix_socket HDRS unix_socket.h SRCS unix_socket.cc DEPS base_error base_unique_fd
  TEST unix_socket_test.cc)
devmem_unit(service_handle_socket HDRS handle_socket.h SRCS handle_socket.cc DEPS service_unix_socket devmem_proto
  TEST handle_socket_test.cc)
devmem_unit(service_grpc_listener HDRS grpc_listener.h SRCS grpc_listener.cc DEPS service_unix_socket gRPC::grpc++
  TEST grpc_listener_test.cc TEST_DEPS devmem_proto)
