# SPDX-License-Identifier: Apache-2.0
# Object stores: listings and small reads through libcurl, and how payload is to be asked for.
devmem_unit(net_object_table HDRS object_table.h SRCS object_table.cc DEPS base_error base_memory_account TEST object_table_test.cc)
devmem_unit(net_http_status HDRS http_status.h SRCS http_status.cc DEPS base_error TEST http_status_test.cc)
devmem_unit(net_object_name HDRS object_name.h SRCS object_name.cc DEPS base_error base_text TEST object_name_test.cc)
devmem_unit(net_uri HDRS uri.h SRCS uri.cc DEPS base_error base_text CURL::libcurl TEST uri_test.cc)
devmem_unit(net_file_store HDRS file_store.h object_store.h SRCS file_store.cc DEPS base_error net_http_fields net_object_name net_object_table net_uri TEST file_store_test.cc)
devmem_unit(net_testing_nginx HDRS testing/nginx.h SRCS testing/nginx.cc DEPS base_error base_unique_fd TEST testing/nginx_test.cc)
devmem_unit(net_socket_address HDRS socket_address.h SRCS socket_address.cc TEST socket_address_test.cc)
devmem_unit(net_object_pins HDRS object_pins.h SRCS object_pins.cc TEST object_pins_test.cc)
devmem_unit(net_redirect HDRS redirect.h SRCS redirect.cc DEPS base_error net_object_name net_socket_address net_uri CURL::libcurl
  TEST redirect_test.cc FUZZ redirect_fuzz.cc)
devmem_unit(net_testing_http_script HDRS testing/http_script.h SRCS testing/http_script.cc DEPS base_unique_fd)
devmem_unit(net_request_signer HDRS request_signer.h DEPS net_uri)
devmem_unit(net_http_fields HDRS http_fields.h SRCS http_fields.cc TEST http_fields_test.cc FUZZ http_fields_fuzz.cc)
devmem_unit(net_curl_client HDRS curl_client.h SRCS curl_client.cc DEPS base_clock base_error base_memory_account net_http_status net_redirect net_request_signer net_socket_address net_uri CURL::libcurl
  TEST curl_client_test.cc TEST_DEPS net_testing_http_script net_testing_nginx)
devmem_unit(net_autoindex HDRS autoindex.h SRCS autoindex.cc DEPS base_error base_text net_http_fields net_object_name nlohmann_json::nlohmann_json
  TEST autoindex_test.cc FUZZ autoindex_fuzz.cc)
devmem_unit(net_s3_listing HDRS s3_listing.h SRCS s3_listing.cc DEPS base_error base_text net_http_fields net_http_status net_uri pugixml::pugixml
  TEST s3_listing_test.cc FUZZ s3_listing_fuzz.cc)
devmem_unit(net_ranged_reads HDRS ranged_reads.h object_store.h SRCS ranged_reads.cc
  DEPS base_error base_text net_curl_client net_http_fields net_object_name net_object_table net_redirect)
devmem_unit(net_http_store HDRS http_store.h SRCS http_store.cc DEPS net_autoindex net_curl_client net_http_status net_ranged_reads net_uri
  TEST http_store_test.cc TEST_DEPS net_object_store net_testing_http_script net_testing_nginx)
devmem_unit(net_s3_store HDRS s3_store.h SRCS s3_store.cc DEPS base_text net_curl_client net_ranged_reads net_s3_listing net_uri
  TEST s3_store_test.cc TEST_DEPS net_object_store net_testing_nginx)
devmem_unit(net_object_store HDRS object_store.h SRCS object_store.cc DEPS net_file_store net_http_store net_s3_store net_uri)
