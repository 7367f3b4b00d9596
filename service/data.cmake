# SPDX-License-Identifier: Apache-2.0
# What a bucket holds: header parsers, the index, and the data set they come down to.
devmem_unit(service_dataset HDRS dataset.h SRCS dataset.cc DEPS base_error gpu_dtype net_object_table service_format TEST dataset_test.cc)
devmem_unit(service_digest HDRS digest.h SRCS digest.cc DEPS service_dataset absl::strings OpenSSL::Crypto TEST digest_test.cc)
devmem_unit(service_format
  HDRS formats/format.h SRCS formats/format.cc DEPS gpu_dtype absl::strings
  TEST formats/format_test.cc)
devmem_unit(service_npy
  HDRS formats/npy.h SRCS formats/npy.cc DEPS base_error base_text service_format
  TEST formats/npy_test.cc FUZZ formats/npy_fuzz.cc)
devmem_unit(service_safetensors
  HDRS formats/safetensors.h SRCS formats/safetensors.cc DEPS base_error service_format nlohmann_json::nlohmann_json
  TEST formats/safetensors_test.cc FUZZ formats/safetensors_fuzz.cc)
devmem_unit(service_index
  HDRS index.h SRCS index.cc DEPS devmem_proto service_dataset service_digest service_format service_glob
  TEST index_test.cc FUZZ index_fuzz.cc)
devmem_unit(service_glob HDRS glob.h SRCS glob.cc DEPS base_error absl::statusor TEST glob_test.cc TEST_DEPS base_clock FUZZ glob_fuzz.cc)
devmem_unit(service_dataset_builder
  HDRS dataset_builder.h header_reader.h data_object.h index_check.h index_selection.h
  SRCS dataset_builder.cc header_reader.cc data_object.cc index_check.cc index_selection.cc
  DEPS base_text net_object_name net_object_table net_uri service_glob service_index service_npy service_safetensors
  TEST dataset_builder_test.cc TEST_DEPS net_file_store)
