# SPDX-License-Identifier: Apache-2.0
# devmem-loader doctor: one check, one small function that returns a row.
devmem_unit(service_doctor_host_files HDRS doctor/host_files.h SRCS doctor/host_files.cc TEST doctor/host_files_test.cc)
devmem_unit(service_doctor_row HDRS doctor/row.h DEPS base_error absl::status absl::strings)
devmem_unit(service_doctor_machine HDRS doctor/machine.h SRCS doctor/machine.cc
  DEPS service_doctor_row service_doctor_host_files base_unique_fd gpu_cpu_device net_devmem_binding net_netdev
  TEST doctor/machine_test.cc)
devmem_unit(service_doctor_nic HDRS doctor/nic.h SRCS doctor/nic.cc
  DEPS service_doctor_row net_link_facts net_rx_binding net_rx_kernel net_rx_queue_use
  TEST doctor/nic_test.cc)
devmem_unit(service_doctor_pci HDRS doctor/pci.h SRCS doctor/pci.cc DEPS base_text service_doctor_row service_doctor_host_files
  TEST doctor/pci_test.cc)
devmem_unit(service_doctor_store HDRS doctor/store.h doctor/resolve.h SRCS doctor/store.cc
  DEPS service_access service_doctor_row base_clock base_error base_text net_object_store net_resolver net_route
  TEST doctor/store_test.cc)
devmem_unit(service_doctor_canary_judge HDRS doctor/canary_judge.h SRCS doctor/canary_judge.cc TEST doctor/canary_judge_test.cc)
devmem_unit(service_doctor_canary
  HDRS doctor/canary.h doctor/canary_stream.h SRCS doctor/canary.cc doctor/canary_stream.cc
  DEPS service_doctor_row service_doctor_canary_judge service_doctor_store gpu_device net_http_head net_flow_steering net_landing_pool
       net_rx_binding net_byte_stream)
devmem_unit(service_doctor
  HDRS doctor/doctor.h SRCS doctor/doctor.cc
  DEPS service_doctor_canary service_doctor_machine service_doctor_nic service_doctor_pci service_doctor_store gpu_cpu_device
       net_landing_pool net_route net_rx_placement)
