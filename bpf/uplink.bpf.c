// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// The second meter: what leaves the host through a link, for the roles of this device, whatever kind of socket
// it came from. hb_egress sees IP sockets; packet sockets (packet(7)) pass it by and are seen here. What a role
// without a network sends is counted and dropped. Attached to the egress of every uplink by kernel/uplinks.py.
// Not seen: frames that skip the queueing layer (PACKET_QDISC_BYPASS, AF_XDP), and packets that came through
// another network namespace, which takes the socket off them.
#include "include/packet.bpf.h"
#include "include/report.bpf.h"

#define AF_INET 2
#define AF_INET6 10
// linux/pkt_cls.h: leave the verdict to the next filter; drop.
#define NEXT (-1)
#define DROP 2

// The same cells as those of the first meter, so that the two can be compared.
// key: hb_traffic_index
HB_MAP(uplink, PERCPU_ARRAY, HB_TRAFFIC_MAX, 0, __u32, struct hb_traffic);

// Bytes of the link's own header, which a program cannot ask for: 14 for Ethernet, 0 for a raw IP link.
// key: index of the link; value: bytes
HB_MAP(link_header, HASH, 1024, 0, __u32, __u32);

// The device's root is in the map of roles, too, as NONE: that tells a stray of ours from the rest of the host.
// Sets ``role``; returns whether the packet is this device's at all.
static __always_inline int is_ours(struct __sk_buff *skb, __u32 *role)
{
	__u64 cgroup = bpf_skb_ancestor_cgroup_id(skb, settings.role_level);
	__u32 *found = bpf_map_lookup_elem(&role_by_cgroup, &cgroup);

	if (!found) {
		cgroup = bpf_skb_ancestor_cgroup_id(skb, settings.role_level - 1);
		found = bpf_map_lookup_elem(&role_by_cgroup, &cgroup);
	}
	if (found)
		*role = *found & (HB_ROLES_MAX - 1);
	return found != 0;
}

static __always_inline void count(struct __sk_buff *skb, const struct hb_packet *packet, __u32 role,
				  __u32 verdict)
{
	__u32 segments = hb_segments(skb, packet);
	__u32 index =
		hb_traffic_index(role, HB_TRANSMIT, packet->family, packet->protocol, verdict);
	struct hb_traffic *cell = bpf_map_lookup_elem(&uplink, &index);

	if (!cell) {
		hb_count_failure(HB_PROGRAM_UPLINK);
		return;
	}
	__sync_fetch_and_add(&cell->packets, segments);
	__sync_fetch_and_add(&cell->bytes, hb_wire_bytes(skb, packet, segments));
}

static __always_inline void report(struct __sk_buff *skb, const struct hb_packet *packet,
				   __u32 role, int error)
{
	struct hb_event event;

	hb_count_denied(HB_PROGRAM_UPLINK, role, HB_RULE_UPLINK);
	hb_begin_denied(&event, HB_PROGRAM_UPLINK, role, HB_RULE_UPLINK);
	event.error = -error;
	event.cgroup = bpf_skb_cgroup_id(skb);
	event.family = packet->family == HB_IPV4 ? AF_INET : AF_INET6;
	event.protocol = packet->next_header;
	event.port = packet->destination_port;
	__builtin_memcpy(event.address, packet->destination, sizeof(event.address));
	event.detail = skb->len - packet->start;
	hb_send(&event);
}

SEC("tc")
int hb_uplink(struct __sk_buff *skb)
{
	struct hb_packet packet = {};
	__u32 role, link = skb->ifindex, *header;
	int error;

	if (!is_ours(skb, &role))
		return NEXT;
	header = bpf_map_lookup_elem(&link_header, &link);
	if (header)
		packet.start = *header & 0xff;
	else
		hb_count_failure(HB_PROGRAM_UPLINK);
	// A frame of a packet socket may be anything; what it is not is no failure of ours.
	error = hb_parse(skb, &packet);
	if (hb_role_has_network(role)) {
		count(skb, &packet, role, HB_ALLOWED);
		return NEXT;
	}
	count(skb, &packet, role, HB_DENIED);
	report(skb, &packet, role, error);
	return settings.enforce ? DROP : NEXT;
}

char _license[] SEC("license") = "Dual BSD/GPL";
