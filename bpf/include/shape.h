// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// The part of the contract that is about system calls: how their arguments are read, what they are about.
#ifndef HB_SHAPE_H
#define HB_SHAPE_H

#include <linux/types.h>

// How the arguments of a system call are read before it counts as denied (syscall_rule).
enum hb_shape {
	HB_SHAPE_PLAIN = 0,
	HB_SHAPE_SOCKET = 1,     // family and type in arguments 0 and 1
	HB_SHAPE_OPEN = 2,       // open flags in argument 1
	HB_SHAPE_OPENAT = 3,     // open flags in argument 2
	HB_SHAPE_OPENAT2 = 4,    // struct open_how in argument 2
	HB_SHAPE_CREATE = 5,     // always makes a file
	HB_SHAPE_CLONE = 6,      // clone flags in argument 0
	HB_SHAPE_CLONE3 = 7,     // struct clone_args in argument 0
	HB_SHAPE_DESCRIPTOR = 8, // counts when the descriptor is not one (EBADF)
	HB_SHAPE_CANARY = 9,     // close, of a descriptor that there cannot be
};

// The watcher closes this descriptor to see that events reach it: the refusal makes one of kind CANARY.
enum hb_canary {
	HB_CANARY_DESCRIPTOR = 0x686f6d65, // above any limit on open files
};

// 512 covers x86_64 and arm64 (the newest call is below 480); x32 numbers have bit 30 set and fall outside.
#define HB_SYSCALLS_MAX 512
// A value of syscall_rule: rule in the low half, shape in the high half; 0 means not watched.
#define HB_SYSCALL_RULE(value) ((value) & 0xffff)
#define HB_SYSCALL_SHAPE(value) ((value) >> 16)

// What a system call is about.
enum hb_class {
	HB_CLASS_OTHER = 0,
	HB_CLASS_FILE = 1,
	HB_CLASS_NETWORK = 2,
	HB_CLASS_PROCESS = 3,
	HB_CLASS_MEMORY = 4,
	HB_CLASS_IPC = 5,
	HB_CLASS_PRIVILEGED = 6,
	HB_CLASSES_MAX = 8,
};

// Value of the calls map: system calls of a role since load, each in one place.
struct hb_calls {
	__u64 by_class[HB_CLASSES_MAX]; // native ones, with count_calls
	__u64 compat;                   // of 32-bit tasks
	__u64 x32;
};

#endif
