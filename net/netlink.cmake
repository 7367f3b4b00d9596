# SPDX-License-Identifier: Apache-2.0
# The kernel's side: netdev and ethtool netlink, ntuple rules, routes.
devmem_unit(net_netlink_socket
  HDRS netlink/attributes.h netlink/netlink_socket.h netlink/genl.h
  SRCS netlink/attributes.cc netlink/netlink_socket.cc netlink/genl.cc
  DEPS base_error base_unique_fd PkgConfig::LIBMNL
  TEST netlink/netlink_socket_test.cc FUZZ netlink/netlink_socket_fuzz.cc)
devmem_unit(net_netdev
  HDRS netlink/netdev.h netlink/netdev_abi.h netlink/uapi.h SRCS netlink/netdev.cc
  DEPS net_netlink_socket
  TEST netlink/netdev_test.cc)
devmem_unit(net_devmem_binding
  HDRS netlink/devmem_binding.h SRCS netlink/devmem_binding.cc
  DEPS net_netlink_socket
  TEST netlink/devmem_binding_test.cc)
target_include_directories(net_devmem_binding PRIVATE ${PROJECT_SOURCE_DIR}/kernel/devmem_binding/include/uapi)
devmem_unit(net_ethtool_ioctl HDRS netlink/ethtool_ioctl.h SRCS netlink/ethtool_ioctl.cc DEPS base_error base_unique_fd)
devmem_unit(net_ethtool
  HDRS netlink/ethtool.h netlink/ethtool_abi.h SRCS netlink/ethtool.cc
  DEPS net_netlink_socket net_ethtool_ioctl
  TEST netlink/ethtool_test.cc)
devmem_unit(net_link_facts
  HDRS netlink/link_facts.h SRCS netlink/link_facts.cc
  DEPS net_netlink_socket net_ethtool_ioctl
  TEST netlink/link_facts_test.cc)
devmem_unit(net_flow_rules
  HDRS netlink/flow_rules.h netlink/flow_spec.h SRCS netlink/flow_rules.cc netlink/flow_spec.cc
  DEPS net_netlink_socket net_ethtool_ioctl
  TEST netlink/flow_rules_test.cc)
devmem_unit(net_binding_handle
  HDRS netlink/binding_handle.h SRCS netlink/binding_handle.cc
  DEPS net_ethtool net_flow_rules net_netlink_socket base_error base_unique_fd)
target_include_directories(net_binding_handle PRIVATE ${PROJECT_SOURCE_DIR}/kernel/devmem_binding/include/uapi)
devmem_unit(net_route
  HDRS netlink/route.h SRCS netlink/route.cc netlink/physical_devices.cc
  DEPS net_netlink_socket
  TEST netlink/route_test.cc)

if(DEVMEM_TESTS)
  # Driven by the tests in the guest (tests/guest/netlink), where there are NICs.
  add_executable(net_netlink_probe ${PROJECT_SOURCE_DIR}/tests/guest/netlink/probe.cc)
  target_link_libraries(net_netlink_probe PRIVATE net_netdev net_ethtool net_flow_rules net_route nlohmann_json::nlohmann_json)
endif()
