// SPDX-License-Identifier: Apache-2.0
// A QEMU plugin (API version 1: docs/devel/tcg-plugins.rst of QEMU) that counts the instructions each emulated CPU executes, in
// user space and in the kernel. A CPU that is idle halts, and executes none: so what a CPU that runs one process alone has
// executed is what that process cost, its wake-ups and interrupts included.
//
//   qemu ... -plugin libguest_bench_counter.so,out=FILE
//
// Whenever the guest executes the marker (an eight-byte NOP whose displacement spells "DMRK"), a line goes to FILE:
//   [[user, kernel] of CPU 0, [user, kernel] of CPU 1, ...]
// QEMU's Debian package has no header for it; the declarations below are all that is used of the interface.
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstring>

extern "C" {
using qemu_plugin_id_t = uint64_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_info_t;
enum qemu_plugin_cb_flags { kNoRegisters };
using TranslateCall = void (*)(qemu_plugin_id_t, qemu_plugin_tb*);
using ExecuteCall = void (*)(unsigned int cpu, void* data);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, TranslateCall);
void qemu_plugin_register_vcpu_tb_exec_cb(qemu_plugin_tb*, ExecuteCall, qemu_plugin_cb_flags, void* data);
void qemu_plugin_register_vcpu_insn_exec_cb(qemu_plugin_insn*, ExecuteCall, qemu_plugin_cb_flags, void* data);
size_t qemu_plugin_tb_n_insns(const qemu_plugin_tb*);
uint64_t qemu_plugin_tb_vaddr(const qemu_plugin_tb*);
qemu_plugin_insn* qemu_plugin_tb_get_insn(const qemu_plugin_tb*, size_t);
const void* qemu_plugin_insn_data(const qemu_plugin_insn*);
size_t qemu_plugin_insn_size(const qemu_plugin_insn*);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;
__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t*, int argc, char** argv);
}

namespace {

constexpr unsigned kMostCpus = 8;
constexpr uint8_t kMarker[] = {0x0f, 0x1f, 0x84, 0x00, 'D', 'M', 'R', 'K'};

struct Count {
  uint64_t user = 0, kernel = 0;
};
Count counts[kMostCpus];  // each written by the thread that runs that CPU
unsigned cpus = 0;
std::FILE* out = nullptr;

void Executed(unsigned cpu, void* data) {
  if (cpu >= kMostCpus) return;
  const auto said = reinterpret_cast<uintptr_t>(data);  // instructions, and in the lowest bit whose
  ((said & 1) != 0 ? counts[cpu].kernel : counts[cpu].user) += said >> 1;
  if (cpu >= cpus) cpus = cpu + 1;
}

void Mark(unsigned, void*) {
  for (unsigned i = 0; i < cpus; ++i) {
    std::fprintf(out, "%s[%" PRIu64 ", %" PRIu64 "]", i == 0 ? "[" : ", ", counts[i].user, counts[i].kernel);
  }
  std::fputs("]\n", out);
  std::fflush(out);
}

void Translated(qemu_plugin_id_t, qemu_plugin_tb* block) {
  const size_t instructions = qemu_plugin_tb_n_insns(block);
  const bool kernel = qemu_plugin_tb_vaddr(block) >> 63 != 0;
  qemu_plugin_register_vcpu_tb_exec_cb(block, Executed, kNoRegisters,
                                       reinterpret_cast<void*>(instructions << 1 | (kernel ? 1 : 0)));
  for (size_t i = 0; i < instructions; ++i) {
    qemu_plugin_insn* const instruction = qemu_plugin_tb_get_insn(block, i);
    if (qemu_plugin_insn_size(instruction) == sizeof kMarker &&
        std::memcmp(qemu_plugin_insn_data(instruction), kMarker, sizeof kMarker) == 0) {
      qemu_plugin_register_vcpu_insn_exec_cb(instruction, Mark, kNoRegisters, nullptr);
    }
  }
}

}  // namespace

int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t*, int argc, char** argv) {
  if (argc != 1 || std::strncmp(argv[0], "out=", 4) != 0 || (out = std::fopen(argv[0] + 4, "w")) == nullptr) {
    std::fputs("guest_bench_counter: wants out=FILE, a file that can be written\n", stderr);
    return 1;
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, Translated);
  return 0;
}
