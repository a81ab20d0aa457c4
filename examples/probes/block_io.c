// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// How long this host's disks take, from the moment a request goes to the device until it is done. A request is
// known by its device and its first sector. Flushes have no sectors and are not timed.
#include "dialect.bpf.h"

#define SLOTS 24 // microseconds in powers of two: the last one ends at 8.4 s

// The beginning of events/block/block_rq_issue/format and of block_rq_complete's, the same since Linux 4.
struct event {
	__u64 not_ours;
	__u32 dev;
	__u64 sector;
	__u32 nr_sector;
};

struct request {
	__u64 sector;
	__u64 dev;
};

// Request -> when it was issued.
HB_MAP(running, LRU_HASH, 4096, 0, struct request, __u64);
// One element a slot, and then the sum.
HB_MAP(times, PERCPU_ARRAY, SLOTS + 1, 0, __u32, __u64);

static __always_inline void add(__u32 index, __u64 amount)
{
	__u64 *cell = bpf_map_lookup_elem(&times, &index);

	if (cell)
		__sync_fetch_and_add(cell, amount);
}

SEC("tracepoint/block/block_rq_issue")
int issued(struct event *event)
{
	struct request key = {.sector = event->sector, .dev = event->dev};
	__u64 now = bpf_ktime_get_ns();

	if (event->nr_sector)
		bpf_map_update_elem(&running, &key, &now, BPF_ANY);
	return 1;
}

SEC("tracepoint/block/block_rq_complete")
int completed(struct event *event)
{
	struct request key = {.sector = event->sector, .dev = event->dev};
	__u64 *began = bpf_map_lookup_elem(&running, &key);
	__u64 micros, bound = 1;
	__u32 slot = 0;

	if (!began)
		return 1;
	micros = (bpf_ktime_get_ns() - *began) / 1000;
	bpf_map_delete_elem(&running, &key);
	while (slot < SLOTS - 1 && micros > bound) {
		bound *= 2;
		slot++;
	}
	add(slot, 1);
	add(SLOTS, micros);
	return 1;
}

char _license[] SEC("license") = "Dual BSD/GPL";
