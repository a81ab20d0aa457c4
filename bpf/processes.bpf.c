// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Processes of a role: how they begin, what they become, how they end, and who moves them in or out.
// A role's cgroup is its wall: what leaves it is held by nothing here, what enters it gets the role's rights.
// So every move that the supervisor did not make is an attempt, counted and told. Threads are counted, not told.
// The supervisor's children move themselves, so who moves is asked of ``members``, by the time before the move.
#include "include/report.bpf.h"
#include "include/task.bpf.h"

#define CLONE_THREAD 0x00010000

// The role of every process of ours, by process id. Kept here because a task that has moved no longer tells
// where it was.
// value: enum hb_role
HB_MAP(members, HASH, 16384, 0, __u32, __u32);

// key: enum hb_role
HB_MAP(processes, PERCPU_ARRAY, HB_ROLES_MAX, 0, __u32, struct hb_processes);

// Whether moves count: from when the start has made its own.
HB_MAP(armed, ARRAY, 1, 0, __u32, __u32);

static __always_inline struct hb_processes *counts_of(__u32 program, __u32 role)
{
	__u32 index = role & (HB_ROLES_MAX - 1);
	struct hb_processes *counts = bpf_map_lookup_elem(&processes, &index);

	if (!counts)
		hb_count_failure(program);
	return counts;
}

static __always_inline void remember(__u32 program, __u32 process, __u32 role)
{
	if (bpf_map_update_elem(&members, &process, &role, BPF_ANY))
		hb_count_failure(program);
}

static __always_inline __u32 member_role(__u32 process)
{
	__u32 *role = bpf_map_lookup_elem(&members, &process);

	return role ? *role & (HB_ROLES_MAX - 1) : HB_ROLE_NONE;
}

// A move out of a role, or into one, that the supervisor did not make.
static __always_inline void report_move(__u32 program, __u32 process, __u32 from, __u32 to)
{
	struct hb_event event;
	__u32 role = from ? from : to;

	hb_count_attempt(program, role, HB_RULE_CGROUP);
	hb_begin(&event, HB_KIND_ATTEMPT, program, role, HB_RULE_CGROUP);
	hb_name_current(&event); // who moves
	event.detail = process;  // who is moved
	event.flags = to ? HB_FLAG_ENTERED : 0;
	event.flags |= from ? HB_FLAG_LEFT : 0;
	hb_send(&event);
}

static __always_inline int is_armed(__u32 program)
{
	__u32 only = 0, *value = bpf_map_lookup_elem(&armed, &only);

	if (!value)
		hb_count_failure(program);
	return value && *value;
}

SEC("raw_tp/task_newtask")
int hb_process_fork(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *child = (struct task_struct *)ctx->args[0];
	__u32 role = hb_current_role(), to = role, process;
	struct hb_processes *counts;
	struct hb_event event;

	if (role == HB_ROLE_NONE)
		return 0;
	counts = counts_of(HB_PROGRAM_PROCESS_FORK, role);
	if (ctx->args[1] & CLONE_THREAD) {
		if (counts)
			__sync_fetch_and_add(&counts->threads, 1);
		return 0;
	}
	if (counts)
		__sync_fetch_and_add(&counts->forks, 1);
	process = BPF_CORE_READ(child, tgid);
	to = hb_role_of(
		hb_cgroup_of(child, settings.role_level)); // not ours after CLONE_INTO_CGROUP
	if (to)
		remember(HB_PROGRAM_PROCESS_FORK, process, to);
	if (to != role && role != HB_ROLE_SUPERVISOR && is_armed(HB_PROGRAM_PROCESS_FORK))
		report_move(HB_PROGRAM_PROCESS_FORK, process, role, to);
	hb_begin(&event, HB_KIND_PROCESS_FORK, HB_PROGRAM_PROCESS_FORK, role, 0);
	hb_name_current(&event);
	event.detail = process;
	hb_send_trace(&event);
	return 0;
}

SEC("raw_tp/sched_process_exec")
int hb_process_exec(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 role = hb_current_role();
	struct hb_processes *counts;
	struct hb_event event;

	if (role == HB_ROLE_NONE)
		return 0;
	counts = counts_of(HB_PROGRAM_PROCESS_EXEC, role);
	if (counts)
		__sync_fetch_and_add(&counts->execs, 1);
	hb_begin(&event, HB_KIND_PROCESS_EXEC, HB_PROGRAM_PROCESS_EXEC, role, 0);
	hb_name_current(&event);
	event.detail =
		(__u32)ctx->args
			[1]; // the thread's id before: another one's, when it was not the first
	hb_send_trace(&event);
	return 0;
}

SEC("raw_tp/sched_process_exit")
int hb_process_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx->args[0];
	__u32 role = hb_current_role(), process;
	struct hb_processes *counts;
	struct hb_event event;

	if (!hb_is_last_thread(task))
		return 0;
	process = BPF_CORE_READ(task, tgid);
	bpf_map_delete_elem(&members, &process); // also of a cgroup that has no role any more
	if (role == HB_ROLE_NONE)
		return 0;
	hb_begin(&event, HB_KIND_PROCESS_EXIT, HB_PROGRAM_PROCESS_EXIT, role, 0);
	hb_name_current(&event);
	event.result = BPF_CORE_READ(task, exit_code);
	event.detail = hb_peak_memory(task);
	event.flags = hb_is_oom_victim(task) ? HB_FLAG_OOM : 0;
	counts = counts_of(HB_PROGRAM_PROCESS_EXIT, role);
	if (counts) {
		__sync_fetch_and_add(&counts->exits, 1);
		__sync_fetch_and_add(&counts->killed, event.result & 0x7f ? 1 : 0);
		__sync_fetch_and_add(&counts->oom_kills, event.flags ? 1 : 0);
		if (event.detail > counts->peak_bytes)
			counts->peak_bytes = event.detail;
	}
	hb_send_trace(&event);
	return 0;
}

// After the move: the task's cgroup is the new one, and a task that moves itself is there already.
SEC("raw_tp/cgroup_attach_task")
int hb_process_move(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx->args[2];
	__u32 process = BPF_CORE_READ(task, tgid);
	__u32 from = member_role(process);
	__u32 to = hb_role_of(hb_cgroup_of(task, settings.role_level));
	__u32 mover = member_role(bpf_get_current_pid_tgid() >> 32);

	if (from == to)
		return 0;
	if (to)
		remember(HB_PROGRAM_PROCESS_MOVE, process, to);
	else
		bpf_map_delete_elem(&members, &process);
	if (mover != HB_ROLE_SUPERVISOR && is_armed(HB_PROGRAM_PROCESS_MOVE))
		report_move(HB_PROGRAM_PROCESS_MOVE, process, from, to);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
