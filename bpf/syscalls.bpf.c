// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// System calls of a role that came back refused: by seccomp, a namespace or Landlock, whose refusals nobody
// else counts. Seen at the exit, because a call that seccomp refuses never gets to sys_enter.
// Not seen: calls by which seccomp kills, and calls of 32-bit tasks, whose numbers mean something else here.
// int 0x80 out of a 64-bit task cannot be told apart and is read with this architecture's numbers: the roles'
// filters refuse it, and its socket calls are in the table by numbers that nothing else has here.
#include "include/call.bpf.h"
#include "include/report.bpf.h"

#define EPERM 1
#define ENOENT 2
#define EBADF 9
#define EACCES 13
#define EROFS 30

#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define AF_NETLINK 16
#define AF_PACKET 17
#define AF_VSOCK 40
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define SOCK_RAW 3
#define SOCK_TYPE_MASK 0xf

// include/uapi/asm-generic/fcntl.h; the same on x86_64 and arm64.
#define O_ACCMODE 03
#define O_CREAT 0100
// CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET in linux/sched.h.
#define CLONE_NEW_ANY 0x7e020080

static __always_inline int is_refusal(long result)
{
	return result == -EPERM || result == -EACCES || result == -ENOENT || result == -EBADF ||
	       result == -EROFS;
}

static __always_inline __u32 socket_rule(__u32 family, __u32 type)
{
	type &= SOCK_TYPE_MASK;
	switch (family) {
	case AF_UNIX:
		return HB_RULE_SOCKET_UNIX;
	case AF_NETLINK:
		return HB_RULE_SOCKET_NETLINK;
	case AF_PACKET:
		return HB_RULE_SOCKET_PACKET;
	case AF_VSOCK:
		return HB_RULE_SOCKET_VSOCK;
	case AF_INET:
	case AF_INET6:
		if (type == SOCK_STREAM)
			return HB_RULE_SOCKET_STREAM;
		if (type == SOCK_DGRAM)
			return HB_RULE_SOCKET_DATAGRAM;
		if (type == SOCK_RAW)
			return HB_RULE_SOCKET_RAW;
	}
	return HB_RULE_SOCKET_OTHER;
}

// A refusal means that writing was wanted. ENOENT counts when a file was to be made: its folder lies outside
// of what the mount namespace shows.
static __always_inline int is_refused_write(__u64 flags, long result)
{
	if (result == -ENOENT)
		return (flags & O_CREAT) != 0;
	return result != -EBADF && (flags & (O_ACCMODE | O_CREAT));
}

// struct open_how and struct clone_args begin with their flags, 64 bits.
static __always_inline __u64 read_user_flags(__u64 address)
{
	__u64 flags = 0;

	if (bpf_probe_read_user(&flags, sizeof(flags), (const void *)address))
		hb_count_failure(HB_PROGRAM_SYSCALL_EXIT);
	return flags;
}

// Whether hb_sock_create refused this very call: then it is counted already. Anything else leaves no trace in
// the map, because every refusal there ends in a failed socket(2) of the same thread.
static __always_inline int is_counted_socket(void)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();

	return bpf_map_delete_elem(&refused_sockets, &pid_tgid) == 0;
}

// The same for programs on security hooks, whatever the call.
static __always_inline int is_counted_call(__u32 number)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 *refused = bpf_map_lookup_elem(&refused_calls, &pid_tgid);

	return refused && *refused == number && bpf_map_delete_elem(&refused_calls, &pid_tgid) == 0;
}

// setpriv(1), which drops root to the role's user, asks the name service cache first, over a unix socket that
// the filter refuses. It is the one call of ours that is refused on each start. A role itself is never root.
static __always_inline int is_launcher_asking_names(__u32 rule)
{
	return rule == HB_RULE_SOCKET_UNIX && (__u32)bpf_get_current_uid_gid() == 0;
}

// The rule of a refused call, 0 when it is none of ours. Leaves the detail of the event.
static __always_inline __u32 decide_call(const struct hb_call *call, __u32 watched, long result,
					 __u64 *detail)
{
	__u32 rule = HB_SYSCALL_RULE(watched);
	int denied = result == -EPERM || result == -EACCES;

	*detail = call->argument[0];
	switch (HB_SYSCALL_SHAPE(watched)) {
	case HB_SHAPE_SOCKET:
		if (!denied || is_counted_socket())
			return 0;
		*detail = (__u32)call->argument[1] | call->argument[2] << 32;
		return socket_rule(call->argument[0], call->argument[1]);
	case HB_SHAPE_OPEN:
		*detail = (__u32)call->argument[1];
		return is_refused_write(*detail, result) ? rule : 0;
	case HB_SHAPE_OPENAT:
		*detail = (__u32)call->argument[2];
		return is_refused_write(*detail, result) ? rule : 0;
	case HB_SHAPE_OPENAT2:
		*detail = read_user_flags(call->argument[2]);
		return is_refused_write(*detail, result) ? rule : 0;
	case HB_SHAPE_CREATE:
		return result != -EBADF ? rule : 0;
	case HB_SHAPE_CLONE:
		return denied && (call->argument[0] & CLONE_NEW_ANY) ? rule : 0;
	case HB_SHAPE_CLONE3:
		*detail = denied ? read_user_flags(call->argument[0]) : 0;
		return *detail & CLONE_NEW_ANY ? rule : 0;
	case HB_SHAPE_DESCRIPTOR:
		return result == -EBADF ? rule : 0;
	}
	return denied || result == -EROFS ? rule : 0;
}

// The watcher asks whether events reach it. Nobody else's close means anything here.
static __always_inline void answer_watcher(const struct hb_call *call, __u32 role, long result)
{
	struct hb_event event;

	if (role != HB_ROLE_WATCHER || result != -EBADF ||
	    call->argument[0] != HB_CANARY_DESCRIPTOR)
		return;
	hb_begin(&event, HB_KIND_CANARY, HB_PROGRAM_SYSCALL_EXIT, role, 0);
	hb_name_current(&event);
	event.syscall = call->number;
	event.result = result;
	hb_send(&event);
}

SEC("raw_tp/sys_exit")
int hb_syscall_exit(struct bpf_raw_tracepoint_args *ctx)
{
	long result = ctx->args[1];
	struct hb_call call = {};
	struct hb_event event;
	__u32 role, rule, *watched;
	__u64 detail = 0;

	if (!is_refusal(result))
		return 0;
	role = hb_current_role();
	if (!hb_role_is_watched(role))
		return 0;
	if (hb_read_call((const void *)ctx->args[0], &call)) {
		hb_count_failure(HB_PROGRAM_SYSCALL_EXIT);
		return 0;
	}
	watched = bpf_map_lookup_elem(&syscall_rule, &call.number);
	if (call.compat || !watched || !*watched || is_counted_call(call.number))
		return 0;
	if (HB_SYSCALL_SHAPE(*watched) == HB_SHAPE_CANARY) {
		answer_watcher(&call, role, result);
		return 0;
	}
	rule = decide_call(&call, *watched, result, &detail) & (HB_RULES_MAX - 1);
	if (!rule || is_launcher_asking_names(rule))
		return 0;
	hb_count_denied(HB_PROGRAM_SYSCALL_EXIT, role, rule);
	hb_begin_denied(&event, HB_PROGRAM_SYSCALL_EXIT, role, rule);
	hb_name_current(&event);
	if (HB_SYSCALL_SHAPE(*watched) == HB_SHAPE_SOCKET) {
		event.family = call.argument[0];
		event.protocol = call.argument[2];
	}
	event.syscall = call.number;
	event.result = result;
	event.detail = detail;
	hb_send(&event);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
