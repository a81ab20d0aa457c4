// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// The part of the contract that is about security hooks: which right each role loses there, and what the
// folders of a device are to the roles. daemon/homebound/kernel/lsm.py is its mirror, compared by
// tests/kernel/test_layout.py. A number, once given, is never reused.
#ifndef HB_RIGHTS_H
#define HB_RIGHTS_H

#include <linux/types.h>

// What a role may lose at the security hooks: bits.
enum hb_right {
	HB_RIGHT_SOCKET = 1,        // a socket of its own that is neither IP nor half of a pair
	HB_RIGHT_CONNECT = 2,       // to connect to what it has no entry for in the allow map
	HB_RIGHT_STREAM = 4,        // to send on a TCP connection
	HB_RIGHT_SEND = 8,          // to send on anything else but a link, or to an address
	HB_RIGHT_OPEN = 16,         // to open what lies outside of its own areas: see hb_area
	HB_RIGHT_RECEIVE = 32,      // to be given a descriptor that is not a socket
	HB_RIGHT_RECEIVE_LINK = 64, // to be given a socket
	HB_RIGHT_TRACE = 128,       // to look into another process
	HB_RIGHT_BPF = 256,         // bpf(2), but for what the next one is about
	HB_RIGHT_BPF_READ = 512,    // to read maps that it was handed
	HB_RIGHT_USERNS = 1024,     // to make a user namespace
	HB_RIGHT_KEY = 2048,        // to use keys of the kernel's
};

// Which of them each role loses. The supervisor builds the walls and loses none.
enum hb_loses {
	HB_LOSES_WATCHER = 3579,
	HB_LOSES_TRAINER = 4095,
	HB_LOSES_GUARD = 4031,
	HB_LOSES_GATEWAY = 4091,
	HB_LOSES_CANARY = 4095,
};

// What a folder is to the roles, with all below it.
enum hb_area {
	HB_AREA_NONE = 0,        // any role reads; memory alone is written
	HB_AREA_DATA = 1,        // the trainer reads
	HB_AREA_GUARD = 2,       // the guard reads and writes
	HB_AREA_GATEWAY = 3,     // the gateway reads and writes
	HB_AREA_CREDENTIALS = 4, // the gateway reads
	HB_AREA_HOST = 5,        // memory of the host's: any role reads
};

// Key of the map area_of: an inode as the kernel numbers it.
struct hb_place {
	__u64 inode;
	__u32 device;
	__u32 unused;
};

// The next folder that a task of this cgroup opens is this area; 0 when there is none to tell.
struct hb_lesson {
	__u64 cgroup;
	__u32 area; // enum hb_area
	__u32 unused;
};

#endif
