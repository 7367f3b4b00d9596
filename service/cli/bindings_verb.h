// SPDX-License-Identifier: Apache-2.0
// `devmem-loader bindings`: what device memory is bound to NIC queues in this network namespace, and who holds it.
//
// As JSON, one object; what is not known is null:
//
//   bindings        one object each, by interface and first queue:
//     interface       its name; null: the NIC is gone
//     ifindex         its number, also of a NIC that is gone; null: not told
//     queues          Rx queues
//     memory          "dma-buf", "io_uring" or "af_xdp"; null: nothing is bound
//     dmabuf_id       as netdev's queue-get has it
//     page_size       bytes of a receive buffer
//     inflight        buffers out: posted, kept by page pools for reuse, or in skbs and tokens
//     rules           flow rules that lead to the queues; with a handle, those that belong to it
//     state           "live", "draining", "gone", "unbound" or "left" (ListedBinding::State)
//     handle          null, or {"id", "resets": of "rss", "split"}
//     process         null, or {"pid", "lives", "pid_namespace": "this" or "other"}: who made the handle, or wrote the journal
//     journal         path
//   module_loaded   whether devmem_binding is
//   notes           what else stands in journals: NICs that are elsewhere, or were before the machine started
//   unread          what could not be read, and why: there may be more than is listed
//
// A failure is {"error": ...}, as of the other verbs.
#pragma once

#include <string>

#include "net/rx/held_bindings.h"
#include "service/cli/options.h"

namespace devmem::cli {

// Returns the exit code.
[[nodiscard]] int ShowBindings(const BindingsOptions& options);

// What it prints.
[[nodiscard]] std::string BindingsText(const HeldBindings& held);
[[nodiscard]] std::string BindingsJson(const HeldBindings& held);

}  // namespace devmem::cli
