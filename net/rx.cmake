# SPDX-License-Identifier: Apache-2.0
# Rx queues of a NIC bound to a dma-buf, connections steered to them, and the pool behind.
devmem_unit(net_rx_kernel
  HDRS rx/rx_kernel.h rx/deferred_skbs.h SRCS rx/rx_kernel.cc rx/deferred_skbs.cc
  DEPS base_clock base_error base_unique_fd net_binding_handle net_netdev net_ethtool net_flow_rules)
devmem_unit(net_rx_journal
  HDRS rx/rx_journal.h SRCS rx/rx_journal.cc
  DEPS base_clock base_error base_unique_fd net_ethtool net_flow_rules nlohmann_json::nlohmann_json
  TEST rx/rx_journal_test.cc FUZZ rx/rx_journal_fuzz.cc)
devmem_unit(net_rx_say HDRS rx/say.h SRCS rx/say.cc DEPS base_error TEST rx/say_test.cc)
devmem_unit(net_rx_queue_use HDRS rx/queue_use.h SRCS rx/queue_use.cc DEPS net_rx_kernel)
devmem_unit(net_rx_irq_cpus HDRS rx/irq_cpus.h SRCS rx/irq_cpus.cc DEPS absl::strings TEST rx/irq_cpus_test.cc)
devmem_unit(net_rx_binding
  HDRS rx/rx_binding.h rx/rx_binding_on.h rx/nic_settings.h rx/put_back.h
  SRCS rx/rx_binding.cc rx/recover.cc rx/nic_settings.cc rx/put_back.cc
  DEPS base_text net_rx_irq_cpus net_rx_journal net_rx_kernel net_rx_queue_use
  TEST rx/rx_binding_test.cc)
devmem_unit(net_rx_held_bindings
  HDRS rx/held_bindings.h SRCS rx/held_bindings.cc
  DEPS net_devmem_binding net_rx_binding net_rx_journal net_rx_kernel net_rx_queue_use
  TEST rx/held_bindings_test.cc)
devmem_unit(net_rx_binding_watch
  HDRS rx/binding_watch.h SRCS rx/binding_watch.cc
  DEPS net_rx_binding net_rx_say
  TEST rx/binding_watch_test.cc)
devmem_unit(net_rx_placement
  HDRS rx/placement.h rx/placement_on.h SRCS rx/placement.cc
  DEPS net_rx_kernel net_rx_queue_use net_route
  TEST rx/placement_test.cc)
devmem_unit(net_flow_steering
  HDRS rx/flow_steering.h rx/flow_steering_on.h SRCS rx/flow_steering.cc
  DEPS net_rx_binding net_route
  TEST rx/flow_steering_test.cc)
devmem_unit(net_landing_pool
  HDRS rx/landing_pool.h SRCS rx/landing_pool.cc DEPS base_error
  TEST rx/landing_pool_test.cc)
if(TARGET net_landing_pool_test)  # which reckons its examples after
  target_compile_definitions(net_landing_pool_test PRIVATE OPERATIONS_DOCUMENT="${PROJECT_SOURCE_DIR}/docs/operations.md")
endif()

if(DEVMEM_TESTS)
  # Driven by the tests in the guest (tests/guest/rx), where there are NICs.
  add_executable(net_rx_guest_test ${PROJECT_SOURCE_DIR}/tests/guest/rx/net_rx_guest_test.cc)
  target_link_libraries(net_rx_guest_test PRIVATE net_rx_binding net_rx_placement net_flow_steering nlohmann_json::nlohmann_json)
endif()
