// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// The part of the contract that is about how long system calls took. daemon/homebound/kernel/calltimes.py is its
// mirror, compared by tests/kernel/test_layout.py.
#ifndef HB_CALLTIMES_H
#define HB_CALLTIMES_H

#include <linux/types.h>

// Slot i: at most 2^i ns, and more than half of that. The last one, from 275 s on, also holds what took longer.
#define HB_CALL_SLOTS 40

// Value of the call_times map: the trainer's system calls of one class since load.
struct hb_call_times {
	__u64 slots[HB_CALL_SLOTS];
	__u64 total_ns;
};

#endif
