// A plugin of QEMU that prints how many instructions an emulated program ran. QEMU's own header need not be there: what
// is taken of it is declared here, as version 1 of its interface has it.

#include <cinttypes>
#include <cstdio>

extern "C" {

struct qemu_plugin_tb;

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*)(uint64_t id, qemu_plugin_tb*));
void qemu_plugin_register_vcpu_tb_exec_inline(qemu_plugin_tb*, int operation, void* number, uint64_t added);
void qemu_plugin_register_atexit_cb(uint64_t id, void (*)(uint64_t id, void*), void*);
size_t qemu_plugin_tb_n_insns(const qemu_plugin_tb*);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

static uint64_t instructions = 0;

static void translated(uint64_t, qemu_plugin_tb* block) {
  qemu_plugin_register_vcpu_tb_exec_inline(block, 0, &instructions, qemu_plugin_tb_n_insns(block));
}

static void finished(uint64_t, void*) { std::fprintf(stderr, "Collected : %" PRIu64 "\n", instructions); }

__attribute__((visibility("default"))) int qemu_plugin_install(uint64_t id, const void*, int, char**) {
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, finished, nullptr);
  return 0;
}
}
