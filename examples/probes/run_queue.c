// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// How long tasks of this host wait for a processor once they can run. A task that was woken, or that had to give
// the processor up while it could go on, is remembered with the time; when it gets a processor the wait is over.
#include "dialect.bpf.h"

#define SLOTS 24 // microseconds in powers of two: the last one ends at 8.4 s
#define TASK_COMM_BYTES 16

// As events/sched/*/format has them; the first 8 bytes are every tracepoint's.
struct wakeup {
	__u64 not_ours;
	char comm[TASK_COMM_BYTES];
	__s32 pid;
};

struct change {
	__u64 not_ours;
	char prev_comm[TASK_COMM_BYTES];
	__s32 prev_pid;
	__s32 prev_prio;
	__s64 prev_state;
	char next_comm[TASK_COMM_BYTES];
	__s32 next_pid;
};

// Thread -> when it began to wait. The oldest goes first, so one that never ran leaves nothing behind.
HB_MAP(waiting, LRU_HASH, 8192, 0, __u32, __u64);
// One element a slot, and then the sum.
HB_MAP(waits, PERCPU_ARRAY, SLOTS + 1, 0, __u32, __u64);

static __always_inline void add(__u32 index, __u64 amount)
{
	__u64 *cell = bpf_map_lookup_elem(&waits, &index);

	if (cell)
		__sync_fetch_and_add(cell, amount);
}

static __always_inline void begin(__u32 pid)
{
	__u64 now = bpf_ktime_get_ns();

	if (pid)
		bpf_map_update_elem(&waiting, &pid, &now, BPF_ANY);
}

static __always_inline void end(__u32 pid)
{
	__u64 *began = bpf_map_lookup_elem(&waiting, &pid);
	__u64 micros, bound = 1;
	__u32 slot = 0;

	if (!began)
		return;
	micros = (bpf_ktime_get_ns() - *began) / 1000;
	bpf_map_delete_elem(&waiting, &pid);
	while (slot < SLOTS - 1 && micros > bound) {
		bound *= 2;
		slot++;
	}
	add(slot, 1);
	add(SLOTS, micros);
}

SEC("tracepoint/sched/sched_wakeup")
int woken(struct wakeup *event)
{
	begin(event->pid);
	return 1;
}

SEC("tracepoint/sched/sched_wakeup_new")
int made(struct wakeup *event)
{
	begin(event->pid);
	return 1;
}

SEC("tracepoint/sched/sched_switch")
int changed(struct change *event)
{
	if (!event->prev_state)
		begin(event->prev_pid);
	end(event->next_pid);
	return 1;
}

char _license[] SEC("license") = "Dual BSD/GPL";
