// SPDX-License-Identifier: Apache-2.0
// `devmem-loader doctor`: whether this machine can receive into device memory, and what to do where it cannot.
//
// As JSON, one object:
//
//   healthy   whether no row is a FAIL
//   counts    of each verdict: {"PASS": 20, "WARN": 1, "FAIL": 0, "SKIP": 5}
//   rows      in the order of the table: {"check", "object" (empty: the machine), "verdict", "found", "wanted", "fix"}, all
//   strings
#pragma once

#include <string>

#include "service/cli/options.h"
#include "service/doctor/row.h"

namespace devmem::cli {

// Returns the exit code: 0 without a FAIL, else 1.
[[nodiscard]] int ShowDoctor(const DoctorCommandOptions& options);

// What it prints.
[[nodiscard]] std::string DoctorText(const doctor::Rows& rows);
[[nodiscard]] std::string DoctorJson(const doctor::Rows& rows);

}  // namespace devmem::cli
