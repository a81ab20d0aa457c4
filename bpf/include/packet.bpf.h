// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Reads the headers of an IP packet as cgroup_skb programs see it: skb->data is the IP header, and an outgoing
// packet is whole (fragmentation comes after this hook, GSO segmentation too). A program for a link sees the
// link's header before it.
// A packet that cannot be followed to TCP, UDP or ICMP is HB_OTHER, which no role may send.
#ifndef HB_PACKET_BPF_H
#define HB_PACKET_BPF_H

#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "dialect.bpf.h"
#include "homebound.h"

#define HB_EINVAL 22
// RFC 8200 names five extension headers before the payload, one of them (destination options) twice.
#define HB_EXTENSIONS_MAX 6
// More fragments (0x2000) or an offset (0x1fff): not a packet that we let a role make by itself.
#define HB_IPV4_FRAGMENT 0x3fff
#define HB_JUMBO_BYTES 8 // struct hop_jumbo_hdr

struct hb_packet {
	__u32 start;       // bytes before the IP header; set by who calls
	__u32 family;      // enum hb_family
	__u32 protocol;    // enum hb_protocol
	__u32 next_header; // IPPROTO_*
	__u32 headers;     // bytes of IP and TCP or UDP headers
	__u32 unsent;      // of these, bytes that no segment carries on the wire
	__u32 sequence;    // TCP
	__u16 source_port;
	__u16 destination_port;
	__u8 source[16];
	__u8 destination[16];
	__u8 opens_stream; // TCP SYN without ACK
};

static __always_inline int hb_parse_ipv4(struct __sk_buff *skb, struct hb_packet *packet)
{
	struct iphdr ip;
	int error = bpf_skb_load_bytes(skb, packet->start, &ip, sizeof(ip));

	if (error)
		return error;
	packet->family = HB_IPV4;
	packet->source[10] = packet->source[11] = 0xff;
	packet->destination[10] = packet->destination[11] = 0xff;
	__builtin_memcpy(&packet->source[12], &ip.saddr, sizeof(ip.saddr));
	__builtin_memcpy(&packet->destination[12], &ip.daddr, sizeof(ip.daddr));
	packet->headers = ip.ihl * 4;
	packet->next_header = ip.protocol;
	if (ip.frag_off & bpf_htons(HB_IPV4_FRAGMENT))
		packet->next_header = IPPROTO_FRAGMENT;
	return 0;
}

static __always_inline int hb_parse_ipv6(struct __sk_buff *skb, struct hb_packet *packet)
{
	struct ipv6hdr ip;
	struct ipv6_opt_hdr option;
	int error = bpf_skb_load_bytes(skb, packet->start, &ip, sizeof(ip));

	if (error)
		return error;
	packet->family = HB_IPV6;
	__builtin_memcpy(packet->source, &ip.saddr, sizeof(ip.saddr));
	__builtin_memcpy(packet->destination, &ip.daddr, sizeof(ip.daddr));
	packet->headers = sizeof(ip);
	packet->next_header = ip.nexthdr;
	// A GSO packet above 64 KiB ("BIG TCP", Linux 5.19) has its length in a hop-by-hop option, which
	// segmentation takes out (ipv6_hopopt_jumbo_remove).
	if (ip.nexthdr == IPPROTO_HOPOPTS && !ip.payload_len && skb->gso_size)
		packet->unsent = HB_JUMBO_BYTES;
	for (int i = 0; i < HB_EXTENSIONS_MAX; i++) {
		__u32 next = packet->next_header;

		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_AH)
			break; // IPPROTO_FRAGMENT too: it stays what it is
		error = bpf_skb_load_bytes(skb, packet->start + packet->headers, &option,
					   sizeof(option));
		if (error)
			return error;
		packet->next_header = option.nexthdr;
		// RFC 8200, 4.2: units of 8 bytes beyond the first. RFC 4302, 2.2: of 4 bytes minus 2.
		packet->headers +=
			next == IPPROTO_AH ? (option.hdrlen + 2) * 4 : (option.hdrlen + 1) * 8;
	}
	return 0;
}

static __always_inline int hb_parse_transport(struct __sk_buff *skb, struct hb_packet *packet)
{
	struct tcphdr tcp;
	struct udphdr udp;
	int error = 0;

	packet->protocol = HB_OTHER;
	if (packet->next_header == IPPROTO_TCP) {
		error = bpf_skb_load_bytes(skb, packet->start + packet->headers, &tcp, sizeof(tcp));
		if (error)
			return error;
		packet->source_port = bpf_ntohs(tcp.source);
		packet->destination_port = bpf_ntohs(tcp.dest);
		packet->sequence = bpf_ntohl(tcp.seq);
		packet->opens_stream = tcp.syn && !tcp.ack;
		packet->headers += tcp.doff * 4;
		packet->protocol = HB_TCP;
	} else if (packet->next_header == IPPROTO_UDP) {
		error = bpf_skb_load_bytes(skb, packet->start + packet->headers, &udp, sizeof(udp));
		if (error)
			return error;
		packet->source_port = bpf_ntohs(udp.source);
		packet->destination_port = bpf_ntohs(udp.dest);
		packet->headers += sizeof(udp);
		packet->protocol = HB_UDP;
	} else if (packet->next_header == IPPROTO_ICMP || packet->next_header == IPPROTO_ICMPV6) {
		packet->protocol = HB_ICMP;
	}
	return 0;
}

// Fills a packet that is all zero but for its start. Returns a negative errno when a header could not be read; the packet is
// then HB_OTHER, and what was read so far stands.
static __always_inline int hb_parse(struct __sk_buff *skb, struct hb_packet *packet)
{
	__u8 version = 0;
	int error = bpf_skb_load_bytes(skb, packet->start, &version, sizeof(version));

	packet->protocol = HB_OTHER;
	if (error)
		return error;
	version >>= 4;
	if (version == 4)
		error = hb_parse_ipv4(skb, packet);
	else if (version == 6)
		error = hb_parse_ipv6(skb, packet);
	else
		return -HB_EINVAL;
	return error ? error : hb_parse_transport(skb, packet);
}

// How many packets this becomes on the wire. A GSO packet from a virtual machine may come without the
// number (SKB_GSO_DODGY); it follows from the size of a segment.
static __always_inline __u32 hb_segments(struct __sk_buff *skb, const struct hb_packet *packet)
{
	__u32 size = skb->gso_size, segments = skb->gso_segs;
	__u32 headers = packet->start + packet->headers;

	if (!segments && size && skb->len > headers)
		segments = (skb->len - headers + size - 1) / size;
	return segments ? segments : 1;
}

// Bytes of IP packets that these segments are on the wire.
static __always_inline __u64 hb_wire_bytes(struct __sk_buff *skb, const struct hb_packet *packet,
					   __u32 segments)
{
	return skb->len - packet->start - packet->unsent +
	       (__u64)(segments - 1) * (packet->headers - packet->unsent);
}

#endif
