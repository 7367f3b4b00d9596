# SPDX-License-Identifier: Apache-2.0
devmem_unit(service_permutation HDRS permutation.h SRCS permutation.cc TEST permutation_test.cc)
devmem_unit(service_plan HDRS plan.h SRCS plan.cc DEPS service_permutation base_error absl::status absl::statusor
            TEST plan_test.cc)
devmem_unit(service_read_planner HDRS read_planner.h SRCS read_planner.cc DEPS service_plan TEST read_planner_test.cc)
