// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Segments that the gateway's connections had to send again, and how often a connection waited in vain for an
// acknowledgement: a bad line to the federation. Hangs on the gateway's cgroup, so no other process counts.
#include "dialect.bpf.h"

#define SEGMENTS 0
#define TIMEOUTS 1
#define KINDS 2

HB_MAP(again, PERCPU_ARRAY, KINDS, 0, __u32, __u64);

static __always_inline void add(__u32 index, __u64 amount)
{
	__u64 *cell = bpf_map_lookup_elem(&again, &index);

	if (cell)
		__sync_fetch_and_add(cell, amount);
}

SEC("sockops")
int told(struct bpf_sock_ops *connection)
{
	switch (connection->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		// Before the first segment, so that one that is lost counts, too.
		bpf_sock_ops_cb_flags_set(connection,
					  BPF_SOCK_OPS_RETRANS_CB_FLAG | BPF_SOCK_OPS_RTO_CB_FLAG);
		break;
	case BPF_SOCK_OPS_RETRANS_CB:
		add(SEGMENTS, connection->args[1]);
		break;
	case BPF_SOCK_OPS_RTO_CB:
		add(TIMEOUTS, 1);
		break;
	}
	return 1;
}

char _license[] SEC("license") = "Dual BSD/GPL";
