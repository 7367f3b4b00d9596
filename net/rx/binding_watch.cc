// SPDX-License-Identifier: Apache-2.0
#include "net/rx/binding_watch.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace devmem {
namespace {

// The same words are the same loss; which queue of ours, and which dma-buf, is no matter.
std::string KindOf(std::string why) {
  std::erase_if(why, [](char each) { return absl::ascii_isdigit(static_cast<unsigned char>(each)); });
  return why;
}

}  // namespace

BindingWatch::Seen BindingWatch::Look(Time now) {
  const absl::StatusOr<RxState> state = binding_.Look();
  if (!state.ok() || !state->intact) return {.ready = Lost(state, now)};
  if (!lost_.empty()) {
    say_(Severity::kInfo, absl::StrCat(binding_.interface(), " is bound as it should be again, without our doing"));
    lost_.clear();
    intact_since_ = now;
  } else if (now - intact_since_ >= kSettled) {
    mended_.clear();
    backoff_ = kRebindFirst;
  }
  return {.ready = absl::OkStatus(), .inflight = state->inflight};
}

absl::Status BindingWatch::NotBound(const std::string& why) const {
  return MakeError(absl::StatusCode::kFailedPrecondition,
                   absl::StrCat("the Rx queues of ", binding_.interface(), " are not bound: ", why),
                   {.object = binding_.interface(), .cause = "binding lost"});
}

absl::Status BindingWatch::Lost(const absl::StatusOr<RxState>& state, Time now) {
  if (!state.ok()) left_.clear();  // gone, or not to be asked: nobody's wish, and what comes back is another NIC
  if (!left_.empty()) return NotBound(left_);
  const std::string why = state.ok() ? state->why : Text(state.status());
  const std::string kind = KindOf(why);
  if (std::exchange(lost_, kind) != kind) {
    told_ = {};
    lost_since_ = now;
    // Rules lead nobody else's traffic anywhere, and a table is emptied one by one: putting them in again is no fight.
    if (state.ok() && !state->only_rules && mended_.contains(kind)) {
      binding_.LetGo();
      left_ = absl::StrCat(why, ", again within a minute: given up until the next start");
      say_(Severity::kWarning, absl::StrCat(NotBound(left_).message(), ". Find out what sets it, and start again"));
      return NotBound(left_);
    }
  }
  if (now < next_try_) return NotBound(why);
  const absl::Status again = rebind_();
  next_try_ = now + backoff_;
  backoff_ = std::min(2 * backoff_, kRebindMost);
  if (again.ok()) {
    say_(Severity::kInfo, absl::StrCat("bound ", binding_.interface(), " again after: ", why));
    mended_.insert(kind);
    lost_.clear();
    intact_since_ = now;
    return again;
  }
  // What is on its way back needs nobody, for a time.
  const Severity severity = absl::IsUnavailable(again) && now - lost_since_ < kSettled ? Severity::kInfo : Severity::kWarning;
  if (const std::pair said(severity, OnceKey(again)); std::exchange(told_, said) != said) {
    say_(severity, absl::StrCat("cannot bind ", binding_.interface(), " again yet (", why, "): ", Text(again)));
  }
  return NotBound(why);
}

}  // namespace devmem
