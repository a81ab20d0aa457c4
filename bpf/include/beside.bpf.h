// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// What is kept beside a thread: a map of type TASK_STORAGE, whose values go with their threads.
#ifndef HB_BESIDE_BPF_H
#define HB_BESIDE_BPF_H

#include "dialect.bpf.h"

// What MAP keeps beside TASK, made if it is not there yet. Whoever makes the first thing that is kept beside a
// thread may find that another CPU, or a program with a map of its own, was quicker, and gets nothing; then it is
// there. So the third attempt succeeds, memory permitting.
#define HB_MAKE_BESIDE(MAP, TASK)                                                                  \
	({                                                                                         \
		void *made = bpf_task_storage_get(MAP, TASK, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);   \
                                                                                                   \
		if (!made)                                                                         \
			made = bpf_task_storage_get(MAP, TASK, 0, BPF_LOCAL_STORAGE_GET_F_CREATE); \
		if (!made)                                                                         \
			made = bpf_task_storage_get(MAP, TASK, 0, BPF_LOCAL_STORAGE_GET_F_CREATE); \
		made;                                                                              \
	})

#endif
