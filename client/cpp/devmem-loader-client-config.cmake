# SPDX-License-Identifier: Apache-2.0
# find_package(devmem-loader-client) makes the target devmem-loader::devmem-loader-client.
include(CMakeFindDependencyMacro)
find_dependency(Threads)
find_dependency(absl)
find_dependency(Protobuf)
find_dependency(gRPC CONFIG)
include(${CMAKE_CURRENT_LIST_DIR}/targets.cmake)
