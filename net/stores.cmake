# SPDX-License-Identifier: Apache-2.0
# Object stores: listings and small reads through libcurl, and how payload is to be asked for.
devmem_unit(net_object_table HDRS object_table.h SRCS object_table.cc TEST object_table_test.cc)
devmem_unit(net_http_status HDRS http_status.h SRCS http_status.cc DEPS base_error TEST http_status_test.cc)
