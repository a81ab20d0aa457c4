// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// How many bytes of TCP stream the gateway may still send: what was granted for releases, then an allowance
// that refills with time, for polls and other control traffic. Who holds the gateway holds no descriptor of
// these maps. A byte counts once, when it first passes: retransmissions, acknowledgements and closes are free,
// and carry nothing that the sender chooses, whose filter lets it set no socket option that shows in a header.
// A SYN costs its size.
#ifndef HB_CREDIT_BPF_H
#define HB_CREDIT_BPF_H

#include "report.bpf.h"

#define HB_NS_PER_MS 1000000
#define HB_MILLI \
	1000 // the allowance is kept in thousandths of a byte, so that a slow rate loses nothing

// Only this program writes it. Packets of several sockets are sent on several CPUs at once, so what is read
// and what is written back must be one step.
struct hb_allowance {
	struct bpf_spin_lock lock;
	__u32 unused;
	__u64 left;    // thousandths of a byte
	__u64 time_ns; // CLOCK_MONOTONIC until which it was refilled; 0 at first, which fills it
	__u64 used;    // of what was granted
};

HB_LOCKED_MAP(allowance, ARRAY, 1, 0, __u32, struct hb_allowance);

// Takes ``cost`` bytes, all or none: 1 if they were there. Grants first, because what is left of one when its
// release is delivered is taken back.
static __always_inline int hb_spend(__u32 program, __u64 cost)
{
	__u32 index = HB_CREDIT_GUARD, other = HB_CREDIT_SUPERVISOR, last = HB_CREDIT_USED,
	      only = 0;
	__u64 *guard = bpf_map_lookup_elem(&credit, &index);
	__u64 *supervisor = bpf_map_lookup_elem(&credit, &other);
	__u64 *shown = bpf_map_lookup_elem(&credit, &last);
	struct hb_allowance *state = bpf_map_lookup_elem(&allowance, &only);
	__u64 full = (__u64)settings.allowance_burst * HB_MILLI;
	__u64 granted, elapsed, now = bpf_ktime_get_ns();
	__s64 unspent;
	int enough;

	if (!guard || !supervisor || !shown || !state) {
		hb_count_failure(program);
		return 0;
	}
	granted = *(volatile __u64 *)guard + *(volatile __u64 *)supervisor;
	bpf_spin_lock(&state->lock);
	// Another CPU may have come here later and been first.
	elapsed = now > state->time_ns ? (now - state->time_ns) / HB_NS_PER_MS : 0;
	if (!state->time_ns || elapsed >= full / (settings.allowance_rate + 1)) {
		state->left = full;
		state->time_ns = now;
	} else {
		state->left += elapsed * settings.allowance_rate;
		state->time_ns += elapsed * HB_NS_PER_MS;
		if (state->left > full)
			state->left = full;
	}
	unspent = granted - state->used;
	if (unspent < 0)
		unspent = 0;
	enough = (__u64)unspent + state->left / HB_MILLI >= cost;
	if (enough) {
		if ((__u64)unspent > cost)
			unspent = cost;
		state->used += unspent;
		state->left -= (cost - unspent) * HB_MILLI;
		*shown = state->used;
	}
	bpf_spin_unlock(&state->lock);
	return enough;
}

#endif
