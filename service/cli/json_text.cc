// SPDX-License-Identifier: Apache-2.0
#include "service/cli/json_text.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace devmem::cli {

void AppendJsonString(std::string* out, std::string_view text) {
  const bool plain =
      std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~' && c != '"' && c != '\\'; });
  if (plain) {  // nearly always
    out->append("\"").append(text).append("\"");
    return;
  }
  out->append(nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

}  // namespace devmem::cli
