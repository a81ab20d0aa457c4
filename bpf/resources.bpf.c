// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// What the threads of a role used: time in which they could run and had no processor, page faults, bytes of
// block devices and the wait for them. The kernel keeps all of it by thread, whoever watches; so nothing here
// runs while a thread works. A thread is looked at when it ends, when it moves, and when the supervisor asks for
// a look at all threads (every few seconds).
//
// A look adds to the role's sum what the thread used since the look before, which is kept beside the thread, under
// a lock. So no sum ever falls, and a thread that ends while it is looked at counts once, whoever comes first.
// What can be wrong, and for how long:
// - what a living thread used since the last look is missing until the next;
// - what an ended thread uses after its end was seen (taking down its memory, closing files) counts only if it
//   still waits for its parent at the next look;
// - a thread that moves into a role before it was ever looked at leaves what it used before to nobody;
// - of a process that moves with all threads at once the kernel names one: what the others used since their last
//   look goes to the new role.
#include "include/beside.bpf.h"
#include "include/report.bpf.h"
#include "include/task.bpf.h"

// Kept beside a thread, gone with it.
struct hb_looked {
	struct bpf_spin_lock lock;
	__u32 role; // in which it was
	struct hb_resources used;
};

HB_LOCKED_MAP(looked, TASK_STORAGE, 0, BPF_F_NO_PREALLOC, int, struct hb_looked);

// key: enum hb_role
HB_MAP(resources, PERCPU_ARRAY, HB_ROLES_MAX, 0, __u32, struct hb_resources);

// As the kernel hands it over to a program of section iter/task.
struct hb_iter_task {
	void *meta;
	struct task_struct *task;
};

static __always_inline __u64 rise(__u64 *until, __u64 now)
{
	__u64 by = now > *until ? now - *until : 0;

	*until += by;
	return by;
}

// What was used since the last look, which is written down. Returns the role of then.
static __always_inline __u32 look(struct hb_looked *last, const struct hb_resources *now,
				  struct hb_resources *by, __u32 role)
{
	__u32 before;

	bpf_spin_lock(&last->lock);
	by->run_queue_ns = rise(&last->used.run_queue_ns, now->run_queue_ns);
	by->minor_faults = rise(&last->used.minor_faults, now->minor_faults);
	by->major_faults = rise(&last->used.major_faults, now->major_faults);
	by->read_bytes = rise(&last->used.read_bytes, now->read_bytes);
	by->write_bytes = rise(&last->used.write_bytes, now->write_bytes);
	by->block_wait_ns = rise(&last->used.block_wait_ns, now->block_wait_ns);
	before = last->role;
	last->role = role;
	bpf_spin_unlock(&last->lock);
	return before;
}

static __always_inline void add(__u32 program, __u32 role, const struct hb_resources *by)
{
	__u32 index = role & (HB_ROLES_MAX - 1);
	struct hb_resources *sum = bpf_map_lookup_elem(&resources, &index);

	if (!sum) {
		hb_count_failure(program);
		return;
	}
	__sync_fetch_and_add(&sum->run_queue_ns, by->run_queue_ns);
	__sync_fetch_and_add(&sum->minor_faults, by->minor_faults);
	__sync_fetch_and_add(&sum->major_faults, by->major_faults);
	__sync_fetch_and_add(&sum->read_bytes, by->read_bytes);
	__sync_fetch_and_add(&sum->write_bytes, by->write_bytes);
	__sync_fetch_and_add(&sum->block_wait_ns, by->block_wait_ns);
}

static __always_inline void count(__u32 program, struct task_struct *task)
{
	__u32 role = hb_role_of(hb_cgroup_of(task, settings.role_level));
	struct hb_resources now, by;
	struct hb_looked *last;

	if (role == HB_ROLE_NONE)
		return;
	last = HB_MAKE_BESIDE(&looked, task);
	if (!last) {
		hb_count_failure(program);
		return;
	}
	hb_used(task, &now);
	look(last, &now, &by, role);
	add(program, role, &by);
}

// The end of each thread: what it used is settled but for its last steps.
SEC("tp_btf/sched_process_exit")
int hb_thread_exit(const __u64 *ctx)
{
	count(HB_PROGRAM_THREAD_EXIT, (void *)ctx[0]);
	return 0;
}

// Every thread of the host, at each read of what is pinned as a link of this.
SEC("iter/task")
int hb_thread_live(struct hb_iter_task *ctx)
{
	struct task_struct *task = ctx->task;

	if (task)
		count(HB_PROGRAM_THREAD_LIVE, task);
	return 0;
}

// After the move. What was used before it stays with the role before.
SEC("tp_btf/cgroup_attach_task")
int hb_thread_move(const __u64 *ctx)
{
	struct task_struct *task = (void *)ctx[2];
	__u32 from, to = hb_role_of(hb_cgroup_of(task, settings.role_level));
	struct hb_resources now, by;
	struct hb_looked *last;

	last = to ? HB_MAKE_BESIDE(&looked, task) : bpf_task_storage_get(&looked, task, 0, 0);
	if (!last) {
		if (to)
			hb_count_failure(HB_PROGRAM_THREAD_MOVE);
		return 0;
	}
	hb_used(task, &now);
	from = look(last, &now, &by, to);
	if (from)
		add(HB_PROGRAM_THREAD_MOVE, from, &by);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
