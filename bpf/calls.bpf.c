// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// System calls of a role that nothing refused. Those that no role has a use for (io_uring, bpf, ptrace,
// namespaces, mounts, modules and the like) are attempts, whatever they return; hb_syscall_exit has the
// refused ones. They are counted by number, too. On demand (settings.count_calls) every call is counted by class.
// This runs at each call of the whole host, which makes short ones dearer by a fifth and more (tests/bench/
// probes_cost.py); so it is off unless wanted, and asks first what costs least: the number, then whose it is.
// Root is passed over: a role's starter makes namespaces and mounts for it; a role itself is never root.
// int 0x80 out of a 64-bit task looks native here.
#include "include/call.bpf.h"
#include "include/report.bpf.h"

#define EPERM 1
#define EACCES 13
#define EROFS 30
#define ENOSYS 38
#define X32_BIT 0x40000000
// CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET in linux/sched.h.
#define CLONE_NEW_ANY 0x7e020080

// key: system call number; value: enum hb_class
HB_MAP(call_class, ARRAY, HB_SYSCALLS_MAX, 0, __u32, __u32);

// key: enum hb_role
HB_MAP(calls, PERCPU_ARRAY, HB_ROLES_MAX, 0, __u32, struct hb_calls);

// key: system call number; value: calls of watched roles that none has a use for, refused or not
HB_MAP(dangerous, PERCPU_ARRAY, HB_SYSCALLS_MAX, 0, __u32, __u64);

static __always_inline int is_refused(long result)
{
	return result == -EPERM || result == -EACCES || result == -EROFS;
}

static __always_inline int is_dangerous(__u32 watched)
{
	__u32 rule = HB_SYSCALL_RULE(watched), shape = HB_SYSCALL_SHAPE(watched);

	if (shape != HB_SHAPE_PLAIN && shape != HB_SHAPE_CLONE && shape != HB_SHAPE_CLONE3)
		return 0;
	return rule == HB_RULE_IO_URING || rule == HB_RULE_NAMESPACE || rule == HB_RULE_TRACE ||
	       rule == HB_RULE_KERNEL;
}

// The watcher reads its maps by bpf(2); the others have no use for any of it.
static __always_inline int is_its_work(__u32 role, __u32 watched)
{
	return role == HB_ROLE_WATCHER && HB_SYSCALL_RULE(watched) == HB_RULE_KERNEL;
}

// Whether clone and clone3 ask for a namespace, which only then makes them dangerous. clone3 that is not there
// (ENOSYS) is how a filter that cannot see its flags has the C library take clone.
static __always_inline int wants_namespace(const struct hb_call *call, __u32 shape, long result)
{
	__u64 flags = call->argument[0];

	if (shape == HB_SHAPE_PLAIN)
		return 1;
	if (result == -ENOSYS)
		return 0;
	if (shape == HB_SHAPE_CLONE3 &&
	    bpf_probe_read_user(&flags, sizeof(flags), (const void *)call->argument[0])) {
		hb_count_failure(HB_PROGRAM_CALLS);
		return 0;
	}
	return (flags & CLONE_NEW_ANY) != 0;
}

// The watcher reads maps by bpf(2). Its filter lets it do nothing else with it: the same four commands are
// BPF_READS in kernel/seccomp.py.
static __always_inline int reads_maps(const struct hb_call *call, __u32 role)
{
	__u64 command = call->argument[0] & 0xffffffff;

	return role == HB_ROLE_WATCHER && call->number == HB_CALL_BPF &&
	       (command == 1 || command == 4 || command == 15 || command == 24);
}

static __always_inline void report_attempt(const struct hb_call *call, __u32 role, __u32 rule,
					   long result)
{
	struct hb_event event;

	hb_count_attempt(HB_PROGRAM_CALLS, role, rule);
	hb_begin(&event, HB_KIND_ATTEMPT, HB_PROGRAM_CALLS, role, rule);
	hb_name_current(&event);
	event.syscall = call->number;
	event.result = result;
	event.detail = call->argument[0];
	hb_send(&event);
}

static __always_inline void count_call(const struct hb_call *call, __u32 role)
{
	struct hb_calls *counts = bpf_map_lookup_elem(&calls, &role);
	__u32 *found, class = HB_CLASS_OTHER;

	if (!counts) {
		hb_count_failure(HB_PROGRAM_CALLS);
		return;
	}
	if (call->compat) {
		__sync_fetch_and_add(&counts->compat, 1);
		return;
	}
	if (call->number & X32_BIT) {
		__sync_fetch_and_add(&counts->x32, 1);
		return;
	}
	if (!settings.count_calls)
		return;
	found = bpf_map_lookup_elem(&call_class, &call->number);
	if (found)
		class = *found & (HB_CLASSES_MAX - 1);
	__sync_fetch_and_add(&counts->by_class[class], 1);
}

SEC("raw_tp/sys_exit")
int hb_calls(struct bpf_raw_tracepoint_args *ctx)
{
	struct hb_call call = {};
	__u32 role, *watched, value;
	__u64 *count;

	if (hb_read_entry((const void *)ctx->args[0], &call))
		return 0; // the host's, as far as anybody knows
	watched = bpf_map_lookup_elem(&syscall_rule, &call.number);
	value = watched && !call.compat ? *watched : 0;
	if (!settings.count_calls && !is_dangerous(value) && !call.compat &&
	    !(call.number & X32_BIT))
		return 0;
	role = hb_current_role();
	if (!hb_role_is_watched(role))
		return 0;
	count_call(&call, role);
	if (!is_dangerous(value) || is_its_work(role, value) || !(__u32)bpf_get_current_uid_gid())
		return 0;
	if (hb_read_call((const void *)ctx->args[0], &call)) {
		hb_count_failure(HB_PROGRAM_CALLS);
		return 0;
	}
	if (!wants_namespace(&call, HB_SYSCALL_SHAPE(value), ctx->args[1]) ||
	    reads_maps(&call, role))
		return 0;
	count = bpf_map_lookup_elem(&dangerous, &call.number);
	if (count)
		__sync_fetch_and_add(count, 1);
	if (!is_refused(ctx->args[1]))
		report_attempt(&call, role, HB_SYSCALL_RULE(value) & (HB_RULES_MAX - 1),
			       ctx->args[1]);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
