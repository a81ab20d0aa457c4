// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Rights that a role loses at the kernel's security hooks, before anything is done: sockets of other families,
// connecting and sending elsewhere, received descriptors, tracing, bpf(2), user namespaces, keys. A wall by
// itself: it asks for the role, and first, since every task of the host comes by. Files: lsm_open.bpf.c.
// Not seen: sendfile(2) and splice(2) to a socket before Linux 6.5, which pass no hook for sending; the
// packet filter holds those.
#include <linux/in.h>
#include <linux/in6.h>

#include "include/lsm.bpf.h"

#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define AF_NETLINK 16
#define NETLINK_ROUTE 0
#define SOCK_DGRAM 2
#define SOCK_TYPE_MASK 0xf
// PTRACE_MODE_ in linux/ptrace.h. NOAUDIT: the kernel asks what to show, nobody asked for access.
#define MODE_ATTACH 0x02
#define MODE_NOAUDIT 0x04
#define S_IFMT 0170000
#define S_IFSOCK 0140000

// bubblewrap, still root, brings up the loopback of the network namespace that it made.
static __always_inline int is_launcher_netlink(__u32 family)
{
	return family == AF_NETLINK && hb_is_root();
}

SEC("lsm/socket_create")
int hb_lsm_socket(const __u64 *ctx)
{
	__u32 family = ctx[0], type = ctx[1], protocol = ctx[2], kern = ctx[3];
	__u32 role = hb_current_role();
	struct hb_event event;
	struct hb_call call = {};

	if (kern || !(hb_lost(role) & HB_RIGHT_SOCKET))
		return 0;
	// hb_sock_create and those after it hold IP.
	if (family == AF_INET || family == AF_INET6)
		return 0;
	if (protocol == NETLINK_ROUTE && is_launcher_netlink(family))
		return 0;
	if (family == AF_UNIX) {
		if (hb_read_call((const void *)bpf_task_pt_regs(bpf_get_current_task_btf()), &call))
			hb_count_failure(HB_PROGRAM_LSM_SOCKET);
		// Both ends of a pair are the caller's own; it leads nowhere.
		if (!call.compat && call.number == HB_SYSCALL_SOCKETPAIR)
			return 0;
		// bubblewrap asks for the number of lo on one.
		if (hb_is_root() && (type & SOCK_TYPE_MASK) == SOCK_DGRAM)
			return 0;
		// setpriv(1) asks the name service cache, as in hb_syscall_exit: refused, but no attempt.
		if (hb_is_root() && (settings.enforce & HB_ENFORCE_HOOKS)) {
			hb_mark_refused(HB_PROGRAM_LSM_SOCKET);
			return -EPERM;
		}
	}
	hb_begin_refusal(&event, HB_PROGRAM_LSM_SOCKET, role, HB_RULE_LSM_SOCKET);
	event.family = family;
	event.protocol = protocol;
	event.detail = type | (__u64)protocol << 32;
	return hb_refuse(&event);
}

// Where to, as the allow map has it; 0 when it is no address of IP.
static __always_inline int take_address(struct hb_endpoint *to, const void *address)
{
	struct sockaddr_in6 name = {};

	if (bpf_probe_read_kernel(&name, sizeof(name), address))
		return 0;
	to->port = bpf_ntohs(name.sin6_port); // at the same place in both
	to->direction = HB_TO_REMOTE;
	if (name.sin6_family == AF_INET6) {
		__builtin_memcpy(to->address, &name.sin6_addr, sizeof(to->address));
		return AF_INET6;
	}
	if (name.sin6_family != AF_INET)
		return 0;
	to->address[10] = 0xff;
	to->address[11] = 0xff;
	__builtin_memcpy(&to->address[12], &name.sin6_flowinfo, sizeof(__u32));
	return AF_INET;
}

struct kind {
	__u32 family;
	__u32 protocol;
};

// Zeros for a socket that has come apart (the verifier of Linux 6.10 asks).
static __always_inline struct kind kind_of(struct socket *sock)
{
	struct sock *sk = sock->sk;
	struct kind kind = {};

	if (sk) {
		kind.family = sk->__sk_common.skc_family;
		kind.protocol = sk->sk_protocol;
	}
	return kind;
}

SEC("lsm/socket_connect")
int hb_lsm_connect(const __u64 *ctx)
{
	struct socket *sock = (void *)ctx[0];
	__u32 role = hb_current_role(), family;
	struct hb_endpoint to = {};
	struct hb_event event;
	struct kind kind;

	if (!(hb_lost(role) & HB_RIGHT_CONNECT) || !sock->file)
		return 0;
	to.role = role;
	family = take_address(&to, (const void *)ctx[1]);
	kind = kind_of(sock);
	to.protocol = kind.protocol;
	// Compared at full width, as in decide_address of sockets.bpf.c.
	if (family && hb_role_has_network(role) && kind.protocol == IPPROTO_TCP &&
	    bpf_map_lookup_elem(&allow, &to))
		return 0;
	hb_begin_refusal(&event, HB_PROGRAM_LSM_CONNECT, role, HB_RULE_LSM_CONNECT);
	event.family = kind.family;
	event.protocol = to.protocol;
	event.port = to.port;
	__builtin_memcpy(event.address, to.address, sizeof(event.address));
	return hb_refuse(&event);
}

// On a role's own links and, for those who have a network, on TCP connections.
static __always_inline int send_allowed(__u32 lost, struct kind kind)
{
	if (kind.family == AF_UNIX)
		return 1;
	if (kind.family != AF_INET && kind.family != AF_INET6)
		return 0;
	return kind.protocol == IPPROTO_TCP && !(lost & HB_RIGHT_STREAM);
}

SEC("lsm/socket_sendmsg")
int hb_lsm_send(const __u64 *ctx)
{
	struct socket *sock = (void *)ctx[0];
	struct msghdr *msg = (void *)ctx[1];
	__u32 role = hb_current_role(), lost = hb_lost(role);
	struct hb_event event;
	struct kind kind;

	if (!(lost & HB_RIGHT_SEND) || !sock->file) // without a file: the kernel's own
		return 0;
	kind = kind_of(sock);
	if (!msg->msg_name && send_allowed(lost, kind))
		return 0;
	if (is_launcher_netlink(kind.family))
		return 0;
	hb_begin_refusal(&event, HB_PROGRAM_LSM_SEND, role, HB_RULE_LSM_SEND);
	event.family = kind.family;
	event.protocol = kind.protocol;
	event.detail = (__u32)ctx[2];
	return hb_refuse(&event);
}

// By SCM_RIGHTS, or taken by pidfd_getfd(2). The call itself may succeed, without the descriptor.
SEC("lsm/file_receive")
int hb_lsm_receive(const __u64 *ctx)
{
	struct file *file = (void *)ctx[0];
	__u32 role = hb_current_role(), lost = hb_lost(role);
	struct hb_event event;
	__u32 kind;

	if (!(lost & HB_RIGHT_RECEIVE))
		return 0;
	kind = file->f_inode->i_mode & S_IFMT;
	if (kind == S_IFSOCK && !(lost & HB_RIGHT_RECEIVE_LINK))
		return 0;
	hb_begin_refusal(&event, HB_PROGRAM_LSM_RECEIVE, role, HB_RULE_LSM_RECEIVE);
	event.detail = kind;
	return hb_refuse(&event);
}

SEC("lsm/ptrace_access_check")
int hb_lsm_trace(const __u64 *ctx)
{
	__u32 role = hb_current_role(), mode = ctx[1];
	struct hb_event event;

	if (!(hb_lost(role) & HB_RIGHT_TRACE))
		return 0;
	// Asked for each line of ps(1), say: what is refused is a column, not an access. And bubblewrap, still root,
	// reads the numbers of its child's namespaces to tell whoever asks, and goes on without.
	if ((mode & MODE_NOAUDIT) || (!(mode & MODE_ATTACH) && hb_is_root()))
		return (settings.enforce & HB_ENFORCE_HOOKS) ? -EPERM : 0;
	hb_begin_refusal(&event, HB_PROGRAM_LSM_TRACE, role, HB_RULE_LSM_TRACE);
	event.detail = mode;
	return hb_refuse(&event);
}

// Looking up, going through, asking for the shape: what the watcher does with the maps it was handed.
static __always_inline int is_map_read(__u32 command)
{
	return command == BPF_MAP_LOOKUP_ELEM || command == BPF_MAP_GET_NEXT_KEY ||
	       command == BPF_OBJ_GET_INFO_BY_FD || command == BPF_MAP_LOOKUP_BATCH;
}

SEC("lsm/bpf")
int hb_lsm_bpf(const __u64 *ctx)
{
	__u32 role = hb_current_role(), lost = hb_lost(role), command = ctx[0];
	struct hb_event event;

	if (!(lost & HB_RIGHT_BPF))
		return 0;
	if (is_map_read(command) && !(lost & HB_RIGHT_BPF_READ))
		return 0;
	hb_begin_refusal(&event, HB_PROGRAM_LSM_BPF, role, HB_RULE_LSM_BPF);
	event.detail = command;
	return hb_refuse(&event);
}

SEC("lsm/userns_create")
int hb_lsm_userns(const __u64 *ctx __attribute__((unused)))
{
	__u32 role = hb_current_role();
	struct hb_event event;

	if (!(hb_lost(role) & HB_RIGHT_USERNS))
		return 0;
	hb_begin_refusal(&event, HB_PROGRAM_LSM_USERNS, role, HB_RULE_LSM_USERNS);
	return hb_refuse(&event);
}

SEC("lsm/key_permission")
int hb_lsm_key(const __u64 *ctx)
{
	__u32 role = hb_current_role();
	struct hb_event event;

	if (!(hb_lost(role) & HB_RIGHT_KEY))
		return 0;
	hb_begin_refusal(&event, HB_PROGRAM_LSM_KEY, role, HB_RULE_LSM_KEY);
	event.detail = (__u32)ctx[2];
	return hb_refuse(&event);
}

char _license[] SEC("license") = "Dual BSD/GPL";
