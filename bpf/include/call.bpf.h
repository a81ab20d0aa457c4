// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// A finished system call out of the registers that raw_tp/sys_exit hands over. The only file that knows an
// architecture. The registers are described here and not taken from a header, so that an object for one
// architecture can be built on another: libbpf's macros want CO-RE, and so BTF, for arm64's first argument.
#ifndef HB_CALL_BPF_H
#define HB_CALL_BPF_H

#include "dialect.bpf.h"
#define HB_ARGUMENTS 3

struct hb_call {
	__u32 number;
	__u32 compat; // made by a 32-bit task: numbers and layouts are another architecture's
	__u64 argument[HB_ARGUMENTS];
};

#if defined(__TARGET_ARCH_x86)

// struct pt_regs in arch/x86/include/asm/ptrace.h. Arguments stay in their registers during a call; the
// number is kept in orig_ax. With FRED the upper bits of cs hold flags.
struct hb_registers {
	__u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax;
	__u64 ip, cs, flags, sp, ss;
};

#define HB_SYSCALL_SOCKETPAIR 53
#define HB_USER_32_CS 0x23 // __USER32_CS: the code segment of 32-bit tasks
#define HB_CALL_BPF 321    // bpf(2)
#define HB_CALL_OPEN 2
#define HB_CALL_CREAT 85
#define HB_CALL_OPENAT 257
#define HB_CALL_OPENAT2 437

static __always_inline void hb_call_of(const struct hb_registers *registers, struct hb_call *call)
{
	call->number = registers->orig_ax;
	call->argument[0] = registers->di;
	call->argument[1] = registers->si;
	call->argument[2] = registers->dx;
	call->compat = (registers->cs & 0xffff) == HB_USER_32_CS;
}

static __always_inline __u32 hb_number_of(const struct hb_registers *registers)
{
	return registers->orig_ax;
}

static __always_inline int hb_opens(__u32 number)
{
	return number == HB_CALL_OPENAT || number == HB_CALL_OPEN || number == HB_CALL_OPENAT2 ||
	       number == HB_CALL_CREAT;
}

// The part of the registers around the number.
struct hb_entry {
	__u64 orig_ax, ip, cs;
};

#define HB_ENTRY_AT __builtin_offsetof(struct hb_registers, orig_ax)

static __always_inline void hb_entry_of(const struct hb_entry *entry, struct hb_call *call)
{
	call->number = entry->orig_ax;
	call->compat = (entry->cs & 0xffff) == HB_USER_32_CS;
}

#elif defined(__TARGET_ARCH_arm64)

// struct pt_regs in arch/arm64/include/asm/ptrace.h, little endian. x0 holds the result by now, so the first
// argument comes from orig_x0.
struct hb_registers {
	__u64 x[31], sp, pc, pstate, orig_x0;
	__s32 number;
	__u32 unused;
};

#define HB_SYSCALL_SOCKETPAIR 199
#define HB_PSTATE_32 0x10 // PSR_MODE32_BIT
#define HB_CALL_BPF 280   // bpf(2)
#define HB_CALL_OPENAT 56
#define HB_CALL_OPENAT2 437

static __always_inline void hb_call_of(const struct hb_registers *registers, struct hb_call *call)
{
	call->number = registers->number;
	call->argument[0] = registers->orig_x0;
	call->argument[1] = registers->x[1];
	call->argument[2] = registers->x[2];
	call->compat = (registers->pstate & HB_PSTATE_32) != 0;
}

static __always_inline __u32 hb_number_of(const struct hb_registers *registers)
{
	return registers->number;
}

static __always_inline int hb_opens(__u32 number)
{
	return number == HB_CALL_OPENAT || number == HB_CALL_OPENAT2;
}

struct hb_entry {
	__u64 pstate, orig_x0;
	__s32 number;
	__u32 unused;
};

#define HB_ENTRY_AT __builtin_offsetof(struct hb_registers, pstate)

static __always_inline void hb_entry_of(const struct hb_entry *entry, struct hb_call *call)
{
	call->number = entry->number;
	call->compat = (entry->pstate & HB_PSTATE_32) != 0;
}

#else
#error "no register layout for this architecture: add one above"
#endif

// The number and whether the task is a 32-bit one, without the arguments: one small read.
static __always_inline long hb_read_entry(const void *where, struct hb_call *call)
{
	struct hb_entry entry;
	long error = bpf_probe_read_kernel(&entry, sizeof(entry), where + HB_ENTRY_AT);

	if (!error)
		hb_entry_of(&entry, call);
	return error;
}

static __always_inline long hb_read_call(const void *where, struct hb_call *call)
{
	struct hb_registers registers;
	long error = bpf_probe_read_kernel(&registers, sizeof(registers), where);

	if (!error)
		hb_call_of(&registers, call);
	return error;
}

#endif
