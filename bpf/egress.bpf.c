// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Every IP packet of a socket below the device's root: counted by role, and let through only if the role may
// send it. The socket's cgroup decides, so a connected socket, an accepted one, io_uring, a grandchild and a
// new network namespace are all seen here. A send that failed earlier never comes here and is not counted.
// A datagram above the MTU counts with one IP header: it is fragmented after this. Not seen are packets that
// no socket of the role owns: resets and acknowledgements that the kernel sends for a socket that is gone and,
// over IPv6 before Linux 6.6 (223f5f79f2ce), the SYN-ACK of a listener. None of them carries payload.
#include "include/packet.bpf.h"
#include "include/credit.bpf.h"

#define AF_INET 2
#define AF_INET6 10
#define DROP 0
#define PASS 1

HB_MAP(streams, SK_STORAGE, 0, BPF_F_NO_PREALLOC, int, struct hb_stream);

static __always_inline __u32 role_of_socket(struct __sk_buff *skb)
{
	return hb_role_of(bpf_skb_ancestor_cgroup_id(skb, settings.role_level));
}

static __always_inline int may_send(__u32 role, const struct hb_packet *packet)
{
	struct hb_endpoint endpoint = {};

	if (!hb_role_has_network(role) ||
	    (packet->protocol != HB_TCP && packet->protocol != HB_UDP))
		return 0;
	endpoint.role = role;
	endpoint.port = packet->destination_port;
	endpoint.protocol = packet->next_header;
	endpoint.direction = HB_TO_REMOTE;
	__builtin_memcpy(endpoint.address, packet->destination, sizeof(endpoint.address));
	if (bpf_map_lookup_elem(&allow, &endpoint))
		return 1;
	endpoint.port = packet->source_port;
	endpoint.direction = HB_FROM_LOCAL;
	__builtin_memset(endpoint.address, 0, sizeof(endpoint.address));
	return bpf_map_lookup_elem(&allow, &endpoint) != 0;
}

// TCP payload in this packet that was not sent before. The end of the stream so far is kept beside the socket;
// sequence numbers wrap, so they are compared by the sign of their difference (RFC 9293, 3.4). SYN and FIN
// take a number but carry nothing. A SYN starts the stream anew: a socket may be disconnected and connected
// again with another first number. Without storage everything counts: never too little. What has no credit is
// no part of the stream yet: it will come again. Sets ``credited`` to whether the packet may pass.
static __always_inline __u64 fresh_payload(struct __sk_buff *skb, const struct hb_packet *packet,
					   __u32 role, int *credited)
{
	__u32 start = packet->sequence + packet->opens_stream;
	__u32 payload = skb->len > packet->headers ? skb->len - packet->headers : 0;
	struct hb_stream fresh = {.next_sequence = start};
	struct bpf_sock *sk = skb->sk;
	struct hb_stream *stream;
	__u32 beyond = payload;

	if (!payload && !packet->opens_stream)
		return 0;
	if (sk)
		sk = bpf_sk_fullsock(sk);
	stream = sk ? bpf_sk_storage_get(&streams, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE) : 0;
	if (!stream)
		hb_count_failure(HB_PROGRAM_EGRESS);
	else if (!packet->opens_stream)
		beyond = start + payload - stream->next_sequence;
	if ((__s32)beyond <= 0 && !packet->opens_stream)
		return 0;
	if (beyond > payload)
		beyond = payload;
	if (role == HB_ROLE_GATEWAY && settings.allowance_burst)
		*credited = hb_spend(HB_PROGRAM_EGRESS,
				     packet->opens_stream ? beyond + packet->headers : beyond);
	if (stream && (*credited || !hb_enforces()))
		stream->next_sequence = start + payload;
	return beyond;
}

static __always_inline void count_traffic(struct __sk_buff *skb, const struct hb_packet *packet,
					  __u32 program, __u32 index, __u64 stream_bytes)
{
	__u32 segments = hb_segments(skb, packet);
	struct hb_traffic *cell = bpf_map_lookup_elem(&traffic, &index);

	if (!cell) {
		hb_count_failure(program);
		return;
	}
	__sync_fetch_and_add(&cell->packets, segments);
	__sync_fetch_and_add(&cell->bytes, hb_wire_bytes(skb, packet, segments));
	if (stream_bytes)
		__sync_fetch_and_add(&cell->stream_bytes, stream_bytes);
}

static __always_inline void report_packet(struct __sk_buff *skb, const struct hb_packet *packet,
					  struct hb_event *event, int error)
{
	event->error = -error;
	event->cgroup = bpf_skb_cgroup_id(skb);
	event->family = packet->family == HB_IPV4 ? AF_INET : AF_INET6;
	event->protocol = packet->next_header;
	event->detail = skb->len;
	hb_send(event);
}

SEC("cgroup_skb/egress")
int hb_egress(struct __sk_buff *skb)
{
	struct hb_packet packet = {};
	struct hb_event event;
	__u32 role = role_of_socket(skb), rule = HB_RULE_EGRESS, verdict;
	__u64 stream_bytes = 0;
	int error = hb_parse(skb, &packet), credited = 1;

	if (error)
		hb_count_failure(HB_PROGRAM_EGRESS);
	verdict = may_send(role, &packet) ? HB_ALLOWED : HB_DENIED;
	if (packet.protocol == HB_TCP && (verdict == HB_ALLOWED || !hb_enforces()))
		stream_bytes = fresh_payload(skb, &packet, role, &credited);
	if (verdict == HB_ALLOWED && !credited) {
		verdict = HB_DENIED;
		rule = HB_RULE_CREDIT;
		stream_bytes = hb_enforces() ? 0 : stream_bytes;
	}
	count_traffic(skb, &packet, HB_PROGRAM_EGRESS,
		      hb_traffic_index(role, HB_TRANSMIT, packet.family, packet.protocol, verdict),
		      stream_bytes);
	if (verdict == HB_ALLOWED)
		return PASS;
	hb_count_denied(HB_PROGRAM_EGRESS, role, rule);
	hb_begin_denied(&event, HB_PROGRAM_EGRESS, role, rule);
	event.port = packet.destination_port;
	__builtin_memcpy(event.address, packet.destination, sizeof(event.address));
	report_packet(skb, &packet, &event, error);
	return hb_enforces() ? DROP : PASS;
}

// What comes in is counted. A role without a network receives nothing either: a socket that it came by in
// some other way is no way to steer it.
SEC("cgroup_skb/ingress")
int hb_ingress(struct __sk_buff *skb)
{
	struct hb_packet packet = {};
	struct hb_event event;
	__u32 role = role_of_socket(skb), verdict;
	int error = hb_parse(skb, &packet);

	if (error)
		hb_count_failure(HB_PROGRAM_INGRESS);
	verdict = hb_role_has_network(role) ? HB_ALLOWED : HB_DENIED;
	count_traffic(skb, &packet, HB_PROGRAM_INGRESS,
		      hb_traffic_index(role, HB_RECEIVE, packet.family, packet.protocol, verdict),
		      0);
	if (verdict == HB_ALLOWED)
		return PASS;
	hb_count_denied(HB_PROGRAM_INGRESS, role, HB_RULE_INGRESS);
	hb_begin_denied(&event, HB_PROGRAM_INGRESS, role, HB_RULE_INGRESS);
	event.port = packet.source_port;
	__builtin_memcpy(event.address, packet.source, sizeof(event.address));
	report_packet(skb, &packet, &event, error);
	return hb_enforces() ? DROP : PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
