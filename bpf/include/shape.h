// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// The part of the contract that is about the arguments of system calls.
#ifndef HB_SHAPE_H
#define HB_SHAPE_H

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
};

#endif
