// SPDX-License-Identifier: Apache-2.0
#include "net/rx/say.h"

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace devmem {

std::string OnceKey(const absl::Status& status) { return absl::StrCat(GetErrorInfo(status).object, ": ", LabelOf(status)); }

}  // namespace devmem
