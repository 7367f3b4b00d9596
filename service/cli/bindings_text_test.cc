// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "service/cli/bindings_verb.h"

namespace devmem::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;
using Memory = ListedBinding::Memory;
using State = ListedBinding::State;

HeldBindings One(ListedBinding binding) { return {.bindings = {std::move(binding)}, .module_loaded = true}; }

const ListedBinding kHandle{.interface = "eth0",
                            .ifindex = 4,
                            .queues = {3, 5, 6, 7},
                            .memory = Memory::kDmabuf,
                            .dmabuf = 11,
                            .page_size = 65536,
                            .inflight = 256,
                            .rules = 2,
                            .handle = 9,
                            .resets_rss = true,
                            .process = ListedBinding::Process{.pid = 77, .lives = true}};

TEST(BindingsText, NothingIsBound) {
  EXPECT_EQ(BindingsText({.module_loaded = true}), "Nothing is bound to NIC queues in this network namespace.\n");
  EXPECT_THAT(BindingsText({}), HasSubstr("\nThe kernel module devmem_binding is not loaded: no binding is held by handle.\n"));
  EXPECT_EQ(BindingsText({.module_loaded = true, .unread = {"eth0: no"}}),
            "Nothing bound to NIC queues is seen in this network namespace.\nCould not be read: eth0: no\n");
}

TEST(BindingsText, IsATable) {
  EXPECT_EQ(BindingsText(One(kHandle)),
            "INTERFACE  QUEUES  MEMORY      PAGE       OUT  RULES  HELD BY                 STATE\n"
            "eth0       3,5-7   dma-buf 11  64.00 KiB  256  2      handle 9 of process 77  live\n");
}

TEST(BindingsText, SaysByWhomAndWhatItsStateMeans) {
  const ListedBinding::Process dead{.pid = 77}, contained{.pid = 1, .lives = true, .of_other_namespace = true};
  const struct {
    ListedBinding binding;
    std::vector<std::string> parts;
  } kRows[] = {
      {{.interface = "eth0", .memory = Memory::kDmabuf, .dmabuf = 11, .process = contained},
       {"process 1 of another pid namespace  live"}},
      {{.interface = "eth0", .memory = Memory::kDmabuf, .dmabuf = 11, .process = dead}, {"process 77, dead  live"}},
      {{.interface = "eth0", .memory = Memory::kDmabuf, .dmabuf = 11}, {"unknown  live"}},
      {{.interface = "eth0", .memory = Memory::kIoUring}, {"io_uring  -     -    -"}},
      {{.interface = "eth0", .memory = Memory::kXsk}, {"AF_XDP"}},
      {{.ifindex = 4, .memory = Memory::kDmabuf, .dmabuf = 11, .state = State::kGone, .handle = 9},
       {"(4, gone)", "handle 9, its maker dead or unseen  gone", "gone: the NIC is no more"}},
      {{.memory = Memory::kDmabuf, .dmabuf = 11, .state = State::kDraining}, {"(gone)", "draining: it is bound no more"}},
      {{.interface = "eth0", .queues = {6}, .state = State::kLeft, .process = dead},
       {"journal of process 77, dead  left", "left: by a daemon that was killed; the next start of one puts the NIC back"}},
      {{.interface = "eth0", .queues = {6}, .state = State::kUnbound, .process = contained}, {"unbound: its process lives"}},
  };
  for (const auto& row : kRows) {
    const std::string text = BindingsText(One(row.binding));
    for (const std::string& part : row.parts) EXPECT_THAT(text, HasSubstr(part));
  }
}

TEST(BindingsText, ForeignTextHasNoControlCharacters) {
  EXPECT_THAT(BindingsText(One({.interface = "e\x1b[2J", .memory = Memory::kXsk})),
              AllOf(HasSubstr("e\\x1b[2J"), Not(HasSubstr("\x1b"))));
}

TEST(BindingsJson, HasEveryKeyAlways) {
  const Json json = Json::parse(BindingsJson(One(kHandle)));
  EXPECT_EQ(json, Json::parse(R"({"bindings": [{"interface": "eth0", "ifindex": 4, "queues": [3, 5, 6, 7], "memory": "dma-buf",
      "dmabuf_id": 11, "page_size": 65536, "inflight": 256, "rules": 2, "state": "live", "handle": {"id": 9, "resets": ["rss"]},
      "process": {"pid": 77, "lives": true, "pid_namespace": "this"}, "journal": null}],
      "module_loaded": true, "notes": [], "unread": []})"));
  EXPECT_EQ(Json::parse(BindingsJson({.notes = {"n"}, .unread = {"u"}})),
            Json::parse(R"({"bindings": [], "module_loaded": false, "notes": ["n"], "unread": ["u"]})"));
}

TEST(BindingsJson, WhatIsNotKnownIsNull) {
  const Json json = Json::parse(BindingsJson(One({.state = State::kLeft, .journal = "/run/rx.json"})));
  EXPECT_EQ(json["bindings"][0], Json::parse(R"({"interface": null, "ifindex": null, "queues": [], "memory": null,
      "dmabuf_id": null, "page_size": null, "inflight": null, "rules": null, "state": "left", "handle": null, "process": null,
      "journal": "/run/rx.json"})"));
}

}  // namespace
}  // namespace devmem::cli
