// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// The part of the contract that is about what threads used. daemon/homebound/kernel/resources.py is its mirror,
// compared by tests/kernel/test_layout.py.
#ifndef HB_RESOURCES_H
#define HB_RESOURCES_H

#include <linux/types.h>

// Value of the resources map: what the threads of a role used since load, those that ended and those that live.
struct hb_resources {
	__u64 run_queue_ns; // could run and had no processor
	__u64 minor_faults;
	__u64 major_faults;  // had to be read from a disk
	__u64 read_bytes;    // from block devices
	__u64 write_bytes;   // made dirty, to be written to block devices
	__u64 block_wait_ns; // for block devices to answer, where the host counts delays
};

#endif
