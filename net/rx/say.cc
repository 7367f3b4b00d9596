// SPDX-License-Identifier: Apache-2.0
#include "net/rx/say.h"

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace devmem {

std::string CauseOf(const absl::Status& status) {
  const ErrorInfo info = GetErrorInfo(status);
  return info.cause.empty() ? Text(status) : absl::StrCat(info.object, ": ", info.cause);
}

}  // namespace devmem
