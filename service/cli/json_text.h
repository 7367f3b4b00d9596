// SPDX-License-Identifier: Apache-2.0
// JSON strings without a document: what the writers of many lines use. Pure functions.
#pragma once

#include <string>
#include <string_view>

namespace devmem::cli {

// Appends `text` in quotes, escaped. Object names are bytes: what is not UTF-8 becomes U+FFFD.
void AppendJsonString(std::string* out, std::string_view text);

}  // namespace devmem::cli
