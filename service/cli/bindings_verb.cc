// SPDX-License-Identifier: Apache-2.0
#include "service/cli/bindings_verb.h"

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "service/cli/print.h"
#include "service/cli/summary.h"

namespace devmem::cli {

int ShowBindings(const BindingsOptions& options) {
  // Where no daemon has been yet there is no folder; but one that was named was meant.
  const absl::StatusOr<HeldBindings> held =
      ListHeldBindings(options.journal_folder, options.journal_folder != kDefaultJournalFolder);
  absl::Status status = held.status();
  if (held.ok()) {
    status = PrintOut(options.common.json ? BindingsJson(*held) : BindingsText(*held));
  } else if (options.common.json) {
    static_cast<void>(PrintOut(ErrorJson(status) + "\n"));  // the message below goes out in any case
  }
  if (status.ok()) return kExitOk;
  PrintError(absl::StrCat("devmem-loader: ", status.message(), "\n"));
  return kExitFailed;
}

}  // namespace devmem::cli
