// SPDX-License-Identifier: GPL-2.0
/*
 * A TCG plugin: counts how often each piece of straight code is executed between
 * two marks in the guest, which are no-ops of a form that no compiler emits:
 *
 *	0f 1f 80 01 50 41 4d	nopl 0x4d415001(%rax)	start to count
 *	0f 1f 80 02 50 41 4d	nopl 0x4d415002(%rax)	stop, and write what was counted
 *
 * A line for each piece goes to the file of the plugin's argument out=: the number
 * of the mark it was counted after, its address, and the instructions executed.
 *
 * QEMU installs its header qemu-plugin.h nowhere where a distribution's users have
 * it, so what is used of it is declared here; QEMU_PLUGIN_API says which version
 * of it the emulator has.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { QEMU_PLUGIN_CB_NO_REGS };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
		void (*cb)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb,
		void (*cb)(unsigned int cpu, void *data), int flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn,
		void (*cb)(unsigned int cpu, void *data), int flags, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t idx);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
#if QEMU_PLUGIN_API < 3
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
#else
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *dest, size_t len);
#endif

EXPORT int qemu_plugin_version = QEMU_PLUGIN_API;

/* A piece of straight code, as often as it was translated. */
struct piece {
	struct piece *next;
	uint64_t address;
	uint64_t instructions;
	uint64_t executed;
};

static struct piece *pieces;
static bool counting;
static unsigned int phase;
static FILE *out;

static void executed(unsigned int cpu, void *data)
{
	struct piece *piece = data;

	if (counting)
		piece->executed++;
}

static void start(unsigned int cpu, void *data)
{
	phase++;
	counting = true;
}

static void stop(unsigned int cpu, void *data)
{
	counting = false;
	for (struct piece *piece = pieces; piece; piece = piece->next) {
		if (piece->executed)
			fprintf(out, "%u %llx %llu\n", phase, (unsigned long long)piece->address,
				(unsigned long long)(piece->executed * piece->instructions));
		piece->executed = 0;
	}
	fflush(out);
}

/* Which mark the instruction is: 1, 2, or 0 for none. */
static int mark(const struct qemu_plugin_insn *insn)
{
	static const unsigned char form[] = { 0x0f, 0x1f, 0x80, 0, 0x50, 0x41, 0x4d };
	unsigned char bytes[sizeof(form)];

	if (qemu_plugin_insn_size(insn) != sizeof(form))
		return 0;
#if QEMU_PLUGIN_API < 3
	memcpy(bytes, qemu_plugin_insn_data(insn), sizeof(form));
#else
	qemu_plugin_insn_data(insn, bytes, sizeof(form));
#endif
	if (memcmp(bytes, form, 3) || memcmp(bytes + 4, form + 4, 3))
		return 0;
	return bytes[3];
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	struct piece *piece = calloc(1, sizeof(*piece));
	size_t n = qemu_plugin_tb_n_insns(tb);

	if (!piece)
		abort();
	piece->address = qemu_plugin_tb_vaddr(tb);
	piece->instructions = n;
	piece->next = pieces;
	pieces = piece;
	qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, QEMU_PLUGIN_CB_NO_REGS, piece);

	for (size_t i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);

		switch (mark(insn)) {
		case 1:
			qemu_plugin_register_vcpu_insn_exec_cb(insn, start, QEMU_PLUGIN_CB_NO_REGS, NULL);
			break;
		case 2:
			qemu_plugin_register_vcpu_insn_exec_cb(insn, stop, QEMU_PLUGIN_CB_NO_REGS, NULL);
			break;
		}
	}
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
	if (argc != 1 || strncmp(argv[0], "out=", 4)) {
		fprintf(stderr, "profile: give the file to write, as out=FILE\n");
		return -1;
	}
	out = fopen(argv[0] + 4, "w");
	if (!out) {
		perror(argv[0] + 4);
		return -1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}
