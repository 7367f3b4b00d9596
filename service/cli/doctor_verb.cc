// SPDX-License-Identifier: Apache-2.0
#include "service/cli/doctor_verb.h"

#include "absl/strings/str_cat.h"
#include "service/cli/print.h"
#include "service/doctor/doctor.h"

namespace devmem::cli {

int ShowDoctor(const DoctorCommandOptions& options) {
  const doctor::Rows rows = doctor::Examine(options.doctor);
  const absl::Status status = PrintOut(options.common.json ? DoctorJson(rows) : DoctorText(rows));
  if (!status.ok()) PrintError(absl::StrCat("devmem-loader: ", status.message(), "\n"));
  return status.ok() && doctor::Healthy(rows) ? kExitOk : kExitFailed;
}

}  // namespace devmem::cli
