// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/text.h"
#include "service/cli/bindings_verb.h"
#include "service/cli/text_table.h"

namespace devmem::cli {
namespace {

using Json = nlohmann::ordered_json;
using Memory = ListedBinding::Memory;

struct StateWords {
  const char* name;
  const char* meaning;  // for who sees it; null: goes without saying
};
constexpr std::array<StateWords, 5> kStates = {{
    {"live", nullptr},
    {"draining", "it is bound no more; buffers that are out keep the memory"},
    {"gone", "the NIC is no more, or left this network namespace; the handle remains to be closed"},
    {"unbound",
     "its process lives, and nothing of it is seen on the queues: it is setting up or putting back, the link is down, or a "
     "reset took it off"},
    {"left", "by a daemon that was killed; the next start of one puts the NIC back"},
}};
const StateWords& WordsOf(const ListedBinding& binding) { return kStates.at(static_cast<size_t>(binding.state)); }

// "3,5-7"
std::string QueueList(const std::vector<uint32_t>& queues) {
  std::string text;
  for (size_t first = 0, next = 0; first < queues.size(); first = next) {
    for (next = first + 1; next < queues.size() && queues[next] == queues[next - 1] + 1;) ++next;
    absl::StrAppend(&text, text.empty() ? "" : ",", queues[first]);
    if (next > first + 1) absl::StrAppend(&text, "-", queues[next - 1]);
  }
  return text.empty() ? "-" : text;
}

std::string ProcessText(const ListedBinding::Process& process) {
  return absl::StrCat("process ", process.pid, process.of_other_namespace ? " of another pid namespace" : "",
                      process.lives ? "" : ", dead");
}

std::string HolderText(const ListedBinding& binding) {
  if (binding.handle) {
    return absl::StrCat("handle ", *binding.handle,
                        binding.process ? absl::StrCat(" of ", ProcessText(*binding.process)) : ", its maker dead or unseen");
  }
  if (binding.process) return absl::StrCat(binding.memory == Memory::kNone ? "journal of " : "", ProcessText(*binding.process));
  return "unknown";
}

std::string MemoryText(const ListedBinding& binding) {
  switch (binding.memory) {
    case Memory::kNone:
      return "-";
    case Memory::kDmabuf:
      return absl::StrCat("dma-buf ", binding.dmabuf);
    case Memory::kIoUring:
      return "io_uring";
    case Memory::kXsk:
      return "AF_XDP";
  }
  return "";
}

std::string InterfaceText(const ListedBinding& binding) {
  if (!binding.interface.empty()) return binding.interface;
  return binding.ifindex == 0 ? "(gone)" : absl::StrCat("(", binding.ifindex, ", gone)");
}

Json MemoryJson(const ListedBinding& binding) {
  static constexpr std::array<const char*, 4> kNames = {nullptr, "dma-buf", "io_uring", "af_xdp"};
  const char* name = kNames.at(static_cast<size_t>(binding.memory));
  return name == nullptr ? Json() : Json(name);
}

template <typename T>
Json OrNull(bool known, const T& value) {
  return known ? Json(value) : Json();
}

Json HandleJson(const ListedBinding& binding) {
  if (!binding.handle) return nullptr;
  Json resets = Json::array();
  if (binding.resets_rss) resets.push_back("rss");
  if (binding.resets_split) resets.push_back("split");
  return {{"id", *binding.handle}, {"resets", std::move(resets)}};
}

Json ProcessJson(const std::optional<ListedBinding::Process>& process) {
  if (!process) return nullptr;
  return {{"pid", process->pid}, {"lives", process->lives}, {"pid_namespace", process->of_other_namespace ? "other" : "this"}};
}

Json BindingJson(const ListedBinding& binding) {
  return {{"interface", OrNull(!binding.interface.empty(), binding.interface)},
          {"ifindex", OrNull(binding.ifindex != 0, binding.ifindex)},
          {"queues", binding.queues},
          {"memory", MemoryJson(binding)},
          {"dmabuf_id", OrNull(binding.dmabuf != 0, binding.dmabuf)},
          {"page_size", OrNull(binding.page_size != 0, binding.page_size)},
          {"inflight", OrNull(binding.inflight.has_value(), binding.inflight.value_or(0))},
          {"rules", OrNull(binding.rules.has_value(), binding.rules.value_or(0))},
          {"state", WordsOf(binding).name},
          {"handle", HandleJson(binding)},
          {"process", ProcessJson(binding.process)},
          {"journal", OrNull(!binding.journal.empty(), binding.journal)}};
}

}  // namespace

std::string BindingsText(const HeldBindings& held) {
  std::string text;
  if (held.bindings.empty()) {
    text = held.unread.empty() ? "Nothing is bound to NIC queues in this network namespace.\n"
                               : "Nothing bound to NIC queues is seen in this network namespace.\n";
  } else {
    std::vector<std::vector<std::string>> rows = {
        {"INTERFACE", "QUEUES", "MEMORY", "PAGE", "OUT", "RULES", "HELD BY", "STATE"}};
    for (const ListedBinding& each : held.bindings) {
      rows.push_back({InterfaceText(each), QueueList(each.queues), MemoryText(each),
                      each.page_size == 0 ? "-" : FormatSize(each.page_size),
                      each.inflight ? absl::StrCat(*each.inflight) : "-", each.rules ? absl::StrCat(*each.rules) : "-",
                      HolderText(each), WordsOf(each).name});
    }
    text = TextTable(std::move(rows));
    for (const StateWords& state : kStates) {
      for (const ListedBinding& each : held.bindings) {
        if (&WordsOf(each) != &state || state.meaning == nullptr) continue;
        absl::StrAppend(&text, state.name, ": ", state.meaning, "\n");
        break;
      }
    }
  }
  if (!held.module_loaded) text += "The kernel module devmem_binding is not loaded: no binding is held by handle.\n";
  for (const std::string& note : held.notes) absl::StrAppend(&text, "Note: ", note, "\n");
  for (const std::string& what : held.unread) absl::StrAppend(&text, "Could not be read: ", what, "\n");
  return text;
}

std::string BindingsJson(const HeldBindings& held) {
  Json json = {
      {"bindings", Json::array()}, {"module_loaded", held.module_loaded}, {"notes", held.notes}, {"unread", held.unread}};
  for (const ListedBinding& each : held.bindings) json["bindings"].push_back(BindingJson(each));
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace devmem::cli
