// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// What a task asks of an IP socket: to make it, to connect it, to send a datagram to an address.
// These run in the task that asks, so its role decides, whoever made the socket; hb_egress asks the socket.
// A task below the device's root that is in no role may nothing.
#include <linux/in.h>

#include "include/report.bpf.h"

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define DENY 0
#define ALLOW 1

static __always_inline int sock_create_allowed(__u32 role, struct bpf_sock *sock)
{
	if (!hb_role_has_network(role))
		return 0;
	if (sock->type == SOCK_STREAM && sock->protocol == IPPROTO_TCP)
		return 1;
	// The supervisor alone asks a name server.
	return role == HB_ROLE_SUPERVISOR && sock->type == SOCK_DGRAM &&
	       sock->protocol == IPPROTO_UDP;
}

SEC("cgroup/sock_create")
int hb_sock_create(struct bpf_sock *sock)
{
	__u32 role = hb_current_role();
	__u64 pid_tgid, one = 1;
	struct hb_event event;

	if (sock_create_allowed(role, sock))
		return ALLOW;
	hb_count_denied(HB_PROGRAM_SOCK_CREATE, role, HB_RULE_SOCK_CREATE);
	hb_begin_denied(&event, HB_PROGRAM_SOCK_CREATE, role, HB_RULE_SOCK_CREATE);
	hb_name_current(&event);
	event.family = sock->family;
	event.protocol = sock->protocol;
	event.detail = sock->type | (__u64)sock->protocol << 32;
	hb_send(&event);
	if (!hb_enforces())
		return ALLOW;
	pid_tgid = bpf_get_current_pid_tgid();
	// Only where hb_syscall_exit takes it out again.
	if (hb_role_is_watched(role) &&
	    bpf_map_update_elem(&refused_sockets, &pid_tgid, &one, BPF_ANY))
		hb_count_failure(HB_PROGRAM_SOCK_CREATE);
	return DENY;
}

static __always_inline void take_address4(struct hb_endpoint *to, struct bpf_sock_addr *ctx)
{
	__u32 address = ctx->user_ip4;

	to->address[10] = 0xff;
	to->address[11] = 0xff;
	__builtin_memcpy(&to->address[12], &address, sizeof(address));
}

// An IPv6 socket may name a v4-mapped address here; its key is that of the IPv4 address.
static __always_inline void take_address6(struct hb_endpoint *to, struct bpf_sock_addr *ctx)
{
	__u32 words[4];

	words[0] = ctx->user_ip6[0];
	words[1] = ctx->user_ip6[1];
	words[2] = ctx->user_ip6[2];
	words[3] = ctx->user_ip6[3];
	__builtin_memcpy(to->address, words, sizeof(words));
}

static __always_inline int decide_address(struct bpf_sock_addr *ctx, struct hb_endpoint *to,
					  __u32 program, __u32 rule)
{
	__u32 protocol = ctx->protocol;
	struct hb_event event;

	to->role = hb_current_role();
	to->port = bpf_ntohs((__u16)ctx->user_port);
	to->protocol = protocol;
	to->direction = HB_TO_REMOTE;
	// Compared at full width: IPPROTO_MPTCP is 262, whose low byte is that of TCP.
	if (hb_role_has_network(to->role) && (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP) &&
	    bpf_map_lookup_elem(&allow, to))
		return ALLOW;
	hb_count_denied(program, to->role, rule);
	hb_begin_denied(&event, program, to->role, rule);
	hb_name_current(&event);
	event.family = ctx->family;
	event.protocol = protocol;
	event.port = to->port;
	__builtin_memcpy(event.address, to->address, sizeof(event.address));
	event.detail = ctx->type | (__u64)protocol << 32;
	hb_send(&event);
	return hb_enforces() ? DENY : ALLOW;
}

// getaddrinfo(3) connects UDP sockets to every address it found, to sort them (RFC 6724). That sends nothing;
// what is sent later passes hb_egress. Only the supervisor resolves names.
static __always_inline int only_sorts_addresses(struct bpf_sock_addr *ctx)
{
	return ctx->protocol == IPPROTO_UDP && hb_current_role() == HB_ROLE_SUPERVISOR;
}

SEC("cgroup/connect4")
int hb_connect4(struct bpf_sock_addr *ctx)
{
	struct hb_endpoint to = {};

	if (only_sorts_addresses(ctx))
		return ALLOW;
	take_address4(&to, ctx);
	return decide_address(ctx, &to, HB_PROGRAM_CONNECT4, HB_RULE_CONNECT4);
}

SEC("cgroup/connect6")
int hb_connect6(struct bpf_sock_addr *ctx)
{
	struct hb_endpoint to = {};

	if (only_sorts_addresses(ctx))
		return ALLOW;
	take_address6(&to, ctx);
	return decide_address(ctx, &to, HB_PROGRAM_CONNECT6, HB_RULE_CONNECT6);
}

SEC("cgroup/sendmsg4")
int hb_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct hb_endpoint to = {};

	take_address4(&to, ctx);
	return decide_address(ctx, &to, HB_PROGRAM_SENDMSG4, HB_RULE_SENDMSG4);
}

SEC("cgroup/sendmsg6")
int hb_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct hb_endpoint to = {};

	take_address6(&to, ctx);
	return decide_address(ctx, &to, HB_PROGRAM_SENDMSG6, HB_RULE_SENDMSG6);
}

char _license[] SEC("license") = "Dual BSD/GPL";
