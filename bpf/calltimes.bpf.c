// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// How long the trainer's system calls take, by class: from the entry, past all filters, to the return. Of the
// trainer alone, so that the others pay as little as the rest of the host. On demand (settings): there is a program
// at the entry and one at the return of each call of the whole host, dearer than any other here. A call that a
// filter refuses never enters, one that was entered before this was loaded has no beginning, exit never returns;
// none of them is timed. Calls of 32-bit tasks are not either.
#include "include/beside.bpf.h"
#include "include/call.bpf.h"
#include "include/calltimes.h"
#include "include/report.bpf.h"

// Kept beside a thread of the trainer, gone with it.
struct hb_call_began {
	__u64 time_ns; // 0: in no call
	__u32 number;
	__u32 unused;
};

HB_MAP(call_began, TASK_STORAGE, 0, BPF_F_NO_PREALLOC, int, struct hb_call_began);

// key: system call number; value: enum hb_class
HB_MAP(call_class, ARRAY, HB_SYSCALLS_MAX, 0, __u32, __u32);

// key: enum hb_class
HB_MAP(call_times, PERCPU_ARRAY, HB_CLASSES_MAX, 0, __u32, struct hb_call_times);

// The slot of a time: how many bits hold one less.
static __always_inline __u32 slot_of(__u64 took)
{
	__u64 rest = took ? took - 1 : 0;
	__u32 bits = 0, step;

#pragma unroll
	for (step = 32; step; step /= 2) {
		if (rest >> step) {
			rest >>= step;
			bits += step;
		}
	}
	bits += rest ? 1 : 0;
	return bits < HB_CALL_SLOTS ? bits : HB_CALL_SLOTS - 1;
}

SEC("raw_tp/sys_enter")
int hb_call_enter(struct bpf_raw_tracepoint_args *ctx)
{
	struct hb_call call = {};
	struct hb_call_began *began;

	if (hb_current_role() != HB_ROLE_TRAINER)
		return 0;
	if (hb_read_entry((const void *)ctx->args[0], &call)) {
		hb_count_failure(HB_PROGRAM_CALL_ENTER);
		return 0;
	}
	if (call.compat)
		return 0;
	began = HB_MAKE_BESIDE(&call_began, bpf_get_current_task_btf());
	if (!began) {
		hb_count_failure(HB_PROGRAM_CALL_ENTER);
		return 0;
	}
	began->number = call.number;
	began->time_ns = bpf_ktime_get_ns();
	return 0;
}

// Who was never in a call of the trainer's has nothing kept, which is found out first and costs least.
SEC("raw_tp/sys_exit")
int hb_call_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct hb_call_began *began =
		bpf_task_storage_get(&call_began, bpf_get_current_task_btf(), 0, 0);
	struct hb_call_times *times;
	__u32 *found, class = HB_CLASS_OTHER;
	__u64 took;

	(void)ctx;
	if (!began || !began->time_ns)
		return 0;
	took = bpf_ktime_get_ns() - began->time_ns;
	began->time_ns = 0;
	found = bpf_map_lookup_elem(&call_class, &began->number);
	if (found)
		class = *found & (HB_CLASSES_MAX - 1);
	times = bpf_map_lookup_elem(&call_times, &class);
	if (!times) {
		hb_count_failure(HB_PROGRAM_CALL_EXIT);
		return 0;
	}
	__sync_fetch_and_add(&times->slots[slot_of(took)], 1);
	__sync_fetch_and_add(&times->total_ns, took);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
